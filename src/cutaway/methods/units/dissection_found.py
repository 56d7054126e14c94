"""What network dissection found: IoU of every unit with every concept, detectors, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import UsageError, unknown
from cutaway.core.result import Panel, Provenance, Table
from cutaway.sweep.sketch import Threshold
from cutaway.sweep.tallies import Tallies
from cutaway.sweep.topk import TopK

NONE = -1
"""The label of a unit that meets no concept anywhere."""


@dataclass(frozen=True, eq=False)
class DissectedLayer:
    """The units of one layer against all concepts.

    Parameters
    ----------
    layer : its name.
    names, categories : of each concept.
    thresholds : of each unit, with the exact share of its values that lies above.
    ties : (u,) share of the values that tie where a threshold was looked for, NaN for units that have one.
    tallies : the counts that IoU is made of, whole numbers.
    top : the pictures with the highest peaks of each unit.
    least : the IoU that a detector exceeds.
    seed : of the rotation of its channels; None for the units themselves.
    """

    layer: str
    names: tuple[str, ...]
    categories: tuple[str, ...]
    thresholds: Threshold
    ties: Tensor
    tallies: Tallies
    top: TopK
    least: float
    seed: int | None = None

    @cached_property
    def iou(self) -> Tensor:
        """IoU (u, l) float64 in 0 .. 1."""
        return self.tallies.iou()

    @cached_property
    def best(self) -> Tensor:
        """The highest IoU of each unit, (u,) float64."""
        return self.iou.amax(1)

    @cached_property
    def labels(self) -> Tensor:
        """The concept of each unit, argmax of IoU, (u,) int64; ties go to the first, -1 where all IoU are 0."""
        return self.iou.argmax(1).masked_fill(self.best <= 0, NONE)

    @cached_property
    def detectors(self) -> Tensor:
        """Which units detect their concept: IoU strictly above `least`, (u,) bool."""
        return self.best > self.least

    @cached_property
    def unique(self) -> tuple[int, ...]:
        """The concepts that have a detector, each once: the unique detectors."""
        return tuple(sorted(set(self.labels[self.detectors].tolist())))

    @property
    def tied(self) -> Tensor:
        """Units without a threshold, (m,) int64."""
        return self.ties.isfinite().nonzero()[:, 0]

    def concept(self, unit: int) -> str:
        """A unit's concept in words, such as "red (colour)"; empty where it meets none."""
        k = int(self.labels[unit])
        return "" if k == NONE else f"{self.names[k]} ({self.categories[k]})"

    def ranked(self) -> list[int]:
        """Units by falling IoU, ties by number."""
        return [int(u) for u in self.best.argsort(descending=True, stable=True)]

    def by_category(self) -> dict[str, tuple[int, int]]:
        """Detectors and unique detectors of every category, in the order of the concepts."""
        own = [self.categories[k] for k in self.labels[self.detectors].tolist()]
        once = [self.categories[k] for k in self.unique]
        return {c: (own.count(c), once.count(c)) for c in dict.fromkeys(self.categories)}

    def by_concept(self) -> list[tuple[int, list[int]]]:
        """(concept, its detectors by falling IoU) of every unique detector, the most detectors first."""
        found: dict[int, list[int]] = {k: [] for k in self.unique}
        for unit in self.ranked():
            if bool(self.detectors[unit]):
                found[int(self.labels[unit])].append(unit)
        return sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))

    def sentence(self) -> str:
        """The counts in words."""
        own, once = int(self.detectors.sum()), len(self.unique)
        who = "units" if self.seed is None else f"rotated units (seed {self.seed})"
        return (
            f"{self.layer}: {own} of {len(self.best)} {who} are detectors (IoU > {self.least:g}), "
            f"{once} unique"
        )


@dataclass(frozen=True, eq=False)
class UnitPictures:
    """The pictures that excite a unit most: pixels (k, 3, H, W) in [0, 1], and where it exceeds T, (k, H, W) bool."""

    layer: str
    unit: int
    concept: str
    iou: float
    names: tuple[str, ...]
    pixels: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Dissection:
    """A network dissected: its layers, and where it was asked for the same layers with their channels rotated.

    `rotated` is empty, or holds one entry for each of `layers`. `pictures` and `annotated` count what was looked at
    and what had labels of any kind.
    """

    layers: tuple[DissectedLayer, ...]
    rotated: tuple[DissectedLayer, ...]
    q: float
    threshold: float
    pictures: int
    annotated: int
    provenance: Provenance
    notes: tuple[str, ...] = ()
    shown: Mapping[str, Sequence[UnitPictures]] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> DissectedLayer:
        found = next((one for one in self.layers if one.layer == layer), None)
        if found is None:
            raise unknown("dissected layer", layer, [one.layer for one in self.layers])
        return found

    def control(self, layer: str) -> DissectedLayer | None:
        """The rotated layer, None where no rotation was asked for."""
        return next((one for one in self.rotated if one.layer == layer), None)

    def sentences(self) -> tuple[str, ...]:
        """What was found in words, a line for each layer."""
        return tuple(self._sentence(one) for one in self.layers)

    def _sentence(self, found: DissectedLayer) -> str:
        other = self.control(found.layer)
        if other is None:
            return found.sentence()
        mine, theirs = len(found.unique), len(other.unique)
        verdict = (
            f"neither has a detector, so that above IoU {found.least:g} the rotation says nothing"
            if mine == theirs == 0
            else "the rotation lowers the unique detectors: units fit more of these concepts than arbitrary directions do"
            if theirs < mine
            else "the rotation does NOT lower the unique detectors: by this count units are no better than arbitrary directions"
        )
        own = int(other.detectors.sum())
        return f"{found.sentence()}; rotated (seed {other.seed}): {own} detectors, {theirs} unique; {verdict}"

    def summary(self) -> Table:
        """Detectors and unique detectors of every category: rows are categories and "all", columns layers."""
        heads = [
            (one, f"{one.layer}{' rotated' if one.seed is not None else ''}")
            for pair in zip(self.layers, self.rotated or self.layers, strict=True)
            for one in dict.fromkeys(pair)
        ]
        rows = list(dict.fromkeys(self.layers[0].categories))
        columns = []
        for one, _ in heads:
            counts = one.by_category()
            columns += [[counts[c][i] for c in rows] for i in (0, 1)]
        values = np.array(columns, float).T
        return Table(
            method="dissection",
            target="",
            values=np.concatenate([values, values.sum(0, keepdims=True)]),
            rows=[*rows, "all"],
            columns=[f"{head} {what}" for _, head in heads for what in ("detectors", "unique")],
            unit="units; concepts that have a detector",
            signed=False,
            evidence={"q": self.q, "IoU above": self.threshold, **self._counts()},
            notes=(*self.sentences(), *self.notes),
            provenance=self.provenance,
        )

    def table(self, layer: str, *, rotated: bool = False) -> Table:
        """Every unit of a layer, the highest IoU first; panels show the pictures of `shown`.

        Columns: IoU, the number of the concept in the evidence (-1: none), the threshold T, the share of values above
        it, and 1 for a detector. Raises `UnknownNameError` for a layer that was not dissected, `UsageError` for a
        rotated one where none was asked for.
        """
        found: DissectedLayer | None = self[layer]
        found = self.control(layer) if rotated else found
        if found is None:
            raise UsageError("a rotation that was not asked for", "dissect(..., rotate=0)")
        order = found.ranked()
        values = [
            [
                float(found.best[u]),
                float(found.labels[u]),
                float(found.thresholds.value[u]),
                float(found.thresholds.share[u]),
                float(found.detectors[u]),
            ]
            for u in order
        ]
        table = np.array(values).reshape(-1, 5)
        table[np.isin(order, found.tied.tolist()), 2:4] = np.nan
        return Table(
            method="dissection",
            target="",
            layer=layer,
            values=table,
            rows=[f"{layer}:{u} {found.concept(u)}".rstrip() for u in order],
            columns=["IoU", "concept", "T", "share above T", "detector"],
            unit="intersection over union, summed over the pictures; T in activation",
            signed=False,
            evidence={
                "units": order,
                "detectors": int(found.detectors.sum()),
                "unique detectors": len(found.unique),
                "concepts": list(found.names),
                "categories": list(found.categories),
                "rotation seed": found.seed,
                **self._counts(),
            },
            notes=(
                self._sentence(found) if not rotated else found.sentence(),
                *said_ties(found),
                *self.notes,
            ),
            panels={} if rotated else {f"{one.unit}": _panel(one) for one in self.shown.get(layer, ())},
            provenance=self.provenance,
        )

    def _counts(self) -> dict[str, int]:
        return {"pictures": self.pictures, "annotated pictures": self.annotated}


def said_ties(found: DissectedLayer) -> tuple[str, ...]:
    """A line on the units that have no threshold, with the share of their values that tie; nothing for none."""
    tied = found.tied.tolist()
    if not tied:
        return ()
    some = ", ".join(f"{u}: {100 * float(found.ties[u]):.3g} % ties" for u in tied[:8])
    more = f" and {len(tied) - 8} more" if len(tied) > 8 else ""
    who = "1 unit has" if len(tied) == 1 else f"{len(tied)} units have"
    return (f"{who} no threshold at {found.layer}, and so no mask: {some}{more}",)


LINE, DIM = (1.0, 0.83, 0.0), 0.45


def masked(pixels: Tensor, masks: Tensor) -> Tensor:
    """Pictures (k, 3, H, W) dimmed outside their masks (k, H, W), with a line round the mask, drawn just outside it.

    >>> masked(torch.ones(1, 3, 1, 4), torch.tensor([[[True, False, False, False]]]))[0, 2, 0].tolist()
    [1.0, 0.0, 0.44999998807907104, 0.44999998807907104]
    """
    wide = max(1, round(min(masks.shape[1:]) / 100))
    near = torch.nn.functional.max_pool2d(masks[:, None].float(), 2 * wide + 1, 1, wide) > 0
    inside = masks[:, None]
    line = pixels.new_tensor(LINE).view(1, 3, 1, 1)
    return torch.where(inside, pixels, torch.where(near, line, DIM * pixels))


def _panel(one: UnitPictures) -> Panel:
    return Panel(
        f"{one.layer}:{one.unit}, {one.concept}, IoU {one.iou:.3f}: where it exceeds T in its top pictures",
        masked(one.pixels, one.masks).numpy(),
        "picture",
        labels={i: name.rsplit("/", 1)[-1] for i, name in enumerate(one.names)},
    )
