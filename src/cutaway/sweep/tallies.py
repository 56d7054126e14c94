"""Counts of pairs: units with labels, and true classes with predicted ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import UsageError

_PLACES = 1 << 22  # float32 counts whole numbers exactly to 2^24
_NUMBERS = 1 << 24  # of both masks as float32 at a time


class Tallies:
    """How often each unit's mask meets each label's, over a data set: network dissection's IoU.

    IoU of unit k and label c is Σ|M_k ∩ L_c| / Σ|M_k ∪ L_c|, summed over the pictures whose annotation covers c's
    category, never a mean over pictures (Bau et al., "Network Dissection", CVPR 2017, arXiv:1704.05796). All counts
    are whole numbers: 8 bytes for each pair.

    Parameters
    ----------
    units : how many.
    categories : (l,) int64, the category 0, 1 .. of each label.

    >>> tallies = Tallies(1, torch.tensor([0]))
    >>> mask = torch.tensor([1, 1, 0, 0], dtype=torch.bool)
    >>> tallies.update(mask.view(1, 1, 1, 4), mask.roll(1).view(1, 1, 1, 4))
    >>> round(tallies.iou().item(), 4)
    0.3333
    """

    def __init__(self, units: int, categories: Tensor) -> None:
        if categories.ndim != 1 or categories.is_floating_point() or bool((categories < 0).any()):
            raise UsageError(f"categories {categories}", "one whole number from 0 for each label", "")
        self.categories = categories.long()
        groups = int(categories.max()) + 1 if len(categories) else 0
        self.intersections = torch.zeros(units, len(categories), dtype=torch.int64)
        self.unit_areas = torch.zeros(units, groups, dtype=torch.int64)
        self.label_areas = torch.zeros(len(categories), dtype=torch.int64)

    def update(self, units: Tensor, labels: Tensor, annotated: Tensor | None = None) -> None:
        """Count one batch.

        Parameters
        ----------
        units : (n, u, H, W) bool, where each unit is above its threshold.
        labels : (n, l, H, W) bool, where each label is; a place may have several.
        annotated : (n, categories) bool, the categories each picture was annotated for; None means all.
        """
        u, groups = self.unit_areas.shape
        l = len(self.categories)  # noqa: E741
        if units.dtype != torch.bool or labels.dtype != torch.bool:
            raise UsageError(
                f"masks of {units.dtype} and {labels.dtype}", "bool", "a comparison with the threshold"
            )
        n, *size = units.shape[0], *units.shape[2:]
        if units.shape[:2] != (n, u) or tuple(labels.shape) != (n, l, *size):
            raise UsageError(
                f"masks {tuple(units.shape)} and {tuple(labels.shape)}",
                f"(n, {u}, H, W) and (n, {l}, H, W) in one frame",
                "enlarging the unit's map to the labels' size",
            )
        known = torch.ones(n, groups, dtype=torch.bool) if annotated is None else annotated.bool()
        if known.shape != (n, groups):
            raise UsageError(f"annotated {tuple(known.shape)}", f"({n}, {groups})", "")

        areas = units.flatten(2).sum(2)
        self.unit_areas += (areas[:, :, None] * known[:, None, :]).sum(0)
        counted = labels.flatten(2) & known[:, self.categories, None]
        self.label_areas += counted.sum((0, 2))
        width = max(1, min(_PLACES, _NUMBERS // max(1, u + l)))
        for unit, label in zip(units.flatten(2), counted, strict=True):
            for a, b in zip(unit.split(width, 1), label.split(width, 1), strict=True):
                here = a.any(0) & b.any(0)
                self.intersections += (a[:, here].float() @ b[:, here].float().T).long()

    def iou(self) -> Tensor:
        """Intersection over union (u, l) float64 in 0 .. 1; 0 where neither was ever there."""
        union = self.unit_areas[:, self.categories] + self.label_areas - self.intersections
        return self.intersections.double() / union.clamp(min=1)

    def merge(self, other: Tallies) -> None:
        """Add the counts of other pictures."""
        if self.intersections.shape != other.intersections.shape or not torch.equal(
            self.categories, other.categories
        ):
            raise UsageError("tallies of other units or labels", "the same units, labels and categories", "")
        self.intersections += other.intersections
        self.unit_areas += other.unit_areas
        self.label_areas += other.label_areas

    def state(self) -> dict[str, Tensor]:
        """`categories` and the three counts."""
        return {
            "categories": self.categories,
            "intersections": self.intersections,
            "unit_areas": self.unit_areas,
            "label_areas": self.label_areas,
        }

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Tallies:
        """The reducer that `state` described."""
        made = cls(len(state["unit_areas"]), state["categories"])
        made.intersections = state["intersections"].clone()
        made.unit_areas = state["unit_areas"].clone()
        made.label_areas = state["label_areas"].clone()
        return made


class Confusion:
    """How many pictures of each class were taken for each class.

    Attributes
    ----------
    counts : (classes, classes) int64, true class by predicted class.

    >>> confusion = Confusion(3)
    >>> confusion.update(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 2, 2, 2]))
    >>> confusion.accuracy(), confusion.pairs(1)
    (0.3333333333333333, [(0, 2, 1)])
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def update(self, truth: Tensor, predicted: Tensor) -> None:
        """Count pictures by true class (n,), -1 where it is not known, and predicted class (n,)."""
        if truth.shape != predicted.shape or truth.ndim != 1:
            raise UsageError(
                f"true classes {tuple(truth.shape)}, predicted {tuple(predicted.shape)}", "(n,) both", ""
            )
        known = truth >= 0
        truth, predicted = truth[known].long(), predicted[known].long()
        classes = len(self.counts)
        both = torch.cat([truth, predicted])
        if len(both) and not (int(both.min()) >= 0 and int(both.max()) < classes):
            raise UsageError(f"classes {int(both.min())} to {int(both.max())}", f"0 to {classes - 1}", "")
        self.counts += torch.bincount(truth * classes + predicted, minlength=classes**2).view(
            classes, classes
        )

    def accuracy(self) -> float:
        """Share of pictures whose class was predicted, NaN for none."""
        total = int(self.counts.sum())
        return int(self.counts.trace()) / total if total else float("nan")

    def recalls(self) -> Tensor:
        """Share of each class's pictures that were predicted as it, (classes,) float64, NaN for none."""
        return self.counts.diagonal().double() / self.counts.sum(1)

    def pairs(self, k: int = 10) -> list[tuple[int, int, int]]:
        """The most confused pairs (true class, predicted class, pictures), at most k; ties by class numbers."""
        wrong = self.counts.clone().fill_diagonal_(0)
        found = [(t, p, int(wrong[t, p])) for t, p in wrong.nonzero().tolist()]
        return sorted(found, key=lambda pair: -pair[2])[:k]

    def merge(self, other: Confusion) -> None:
        """Add the counts of other pictures."""
        if self.counts.shape != other.counts.shape:
            raise UsageError(f"{len(other.counts)} classes", f"{len(self.counts)} classes", "")
        self.counts += other.counts

    def state(self) -> dict[str, Tensor]:
        """`counts`."""
        return {"counts": self.counts}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Confusion:
        """The reducer that `state` described."""
        made = cls(0)
        made.counts = state["counts"].clone()
        return made
