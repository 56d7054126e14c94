"""An atlas on disk: what every unit of a network has answered to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError, UnknownNameError, UsageError, unknown
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.data.folder import PictureSource

from .build import (
    MANIFEST,
    Engine,
    Job,
    begin,
    differences,
    local,
    manifest,
    opened,
    plain,
    unpacked,
)
from .fields import Fields
from .finish import DONE, FEATURES, PRINTS, STATE, finished
from .plan import STATISTICS, Plan, plan
from .second import Cells
from .shards import Swept
from .store import Folder


@dataclass(frozen=True)
class Top:
    """The strongest activations of one unit, best first; one of a picture.

    `values` (k,), `pictures` (k,) their numbers, `rows` and `cols` (k,) on the layer's map, `names` of the pictures,
    `labels` (k,) class numbers, -1 where unknown.
    """

    values: Tensor
    pictures: Tensor
    rows: Tensor
    cols: Tensor
    names: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.values)


class Atlas:
    """A finished atlas, by its folder or URL.

    Raises `InputError` for a folder that holds none, one of another layout, or one that is not finished.
    """

    def __init__(self, folder: str | Path | Folder) -> None:
        self.folder = folder if isinstance(folder, Folder) else Folder(folder)
        if not self.folder.has(MANIFEST):
            raise InputError(
                f"there is no atlas in {self.folder}",
                "a folder made by `cutaway atlas build`",
                f"cutaway atlas build photos/ --model squeezenet1_1 -o {self.folder}",
            )
        self.about = opened(self.folder)
        self.plan = Plan.from_dict(self.about["plan"])
        if not self.folder.has(DONE):
            raise InputError(
                f"the atlas in {self.folder} is not finished",
                "a finished atlas",
                "the command that began it, again",
            )

    def __repr__(self) -> str:
        return f"<Atlas {self.folder}: {len(self.layers)} layers of {self.about['model']['name']}>"

    @cached_property
    def done(self) -> dict[str, Any]:
        """Pictures, their names and labels, and those that could not be read."""
        found: dict[str, Any] = self.folder.json(DONE)
        return found

    @cached_property
    def swept(self) -> Swept:
        """All reducers, and the rows of the pictures."""
        return unpacked(self.folder.tensors(STATE), self.plan.layers)

    @property
    def names(self) -> Sequence[str]:
        """Names of all pictures; the number of a picture is its place."""
        names: Sequence[str] = self.done["names"]
        return names

    @cached_property
    def labels(self) -> Tensor:
        """Class numbers of all pictures, -1 where unknown."""
        return torch.tensor(self.done["labels"], dtype=torch.int64)

    @cached_property
    def prints(self) -> Tensor:
        """What tells each picture from others wherever it lies, (n, 16) uint8: from its file's name and content."""
        return self.folder.tensors(PRINTS)["prints"]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes that labels count in; may be empty."""
        names: Sequence[str] = self.about["data"]["classes"]
        return names

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that were watched, each under the first of its names."""
        return self.plan.layers

    def layer(self, name: str) -> str:
        """The name under which a layer's statistics stand; raises `UnknownNameError` with the nearest."""
        for first, others in ((n, self.plan.same.get(n, ())) for n in self.layers):
            if name == first or name in others:
                return first
        if name in self.plan.left_out:
            raise UnknownNameError(
                f"layer {name!r} is not in the atlas: it {self.plan.left_out[name]}",
                "a layer that runs once and gives maps or a vector",
                f"{self.layers[-1]!r}",
            )
        raise unknown(
            "layer of the atlas", name, [*self.layers, *sum(map(tuple, self.plan.same.values()), ())]
        )

    def units(self, layer: str) -> int:
        """How many units a layer has."""
        return self.plan.units[self.layer(layer)]

    def reducer(self, layer: str, statistic: str) -> Any:
        """A statistic of all units of a layer. Raises `MethodRefusedError` where it was not kept."""
        found = self.swept.kept[self.layer(layer)].get(statistic)
        if found is None:
            raise MethodRefusedError(
                f"the atlas keeps no {statistic}",
                f"an atlas with it (this one: {', '.join(self.plan.statistics)})",
            )
        return found

    def top(self, layer: str, channel: int, k: int | None = None) -> Top:
        """The k strongest activations of a unit, all that are kept by default.

        Raises `UsageError` for a channel the layer does not have, and for more than were kept.
        """
        table = self.reducer(layer, "top")
        count = len(table.values)
        if not 0 <= channel < count:
            raise UsageError(f"channel {channel} of layer {layer!r}", f"0 to {count - 1}")
        if k is not None and not 1 <= k <= table.k:
            raise UsageError(f"k={k} of an atlas that keeps {table.k}", f"1 to {table.k}")
        held = int((table.pictures[channel] >= 0).sum())
        part = slice(0, min(held, k or held))
        pictures = table.pictures[channel, part]
        return Top(
            table.values[channel, part],
            pictures,
            table.rows[channel, part].long(),
            table.cols[channel, part].long(),
            tuple(self.names[p] for p in pictures.tolist()),
            self.labels[pictures],
        )

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """What the second look found: "grey/layer" (u, k), and where it was made "feature/layer" (u, 3, h, w)."""
        return self.folder.tensors(FEATURES) if self.folder.has(FEATURES) else {}

    def grey(self, layer: str) -> Tensor:
        """The activations of a layer's top lists without colour, (u, k); nan where there is none."""
        found = self.features.get(f"grey/{self.layer(layer)}")
        if found is None:
            raise InputError(
                f"{self.folder}/{FEATURES} is missing or damaged",
                "a finished atlas",
                "the command that made it, again",
            )
        return found

    def neuron_features(self, layer: str) -> Tensor | None:
        """The weighted mean patch of every unit, (u, 3, h, w) uint8; None where it was not made.

        Smaller fields lie in the middle, with grey around. A joined atlas has none: the pictures have to be looked at
        again.
        """
        return self.features.get(f"feature/{self.layer(layer)}")

    def neuron_feature(self, layer: str, channel: int) -> Tensor | None:
        """The weighted mean patch of one unit, (3, h, w) uint8, its own field alone; None where it was not made."""
        found = self.neuron_features(layer)
        if found is None:
            return None
        cells = self._cells[self.layer(layer)]
        group = int(cells.group[channel])
        return None if group < 0 else found[(channel, slice(None), *cells.place(group))]

    @cached_property
    def _cells(self) -> dict[str, Cells]:
        return {layer: Cells.of(Fields.of(own)) for layer, own in self.done["fields"].items()}

    def path(self, number: int, photos: str | Path | None = None) -> Path:
        """The file of a picture, in the folder it was found in or in `photos`."""
        first = 0
        for source in self.about["data"]["sources"]:
            if number < first + source["count"]:
                return Path(photos or source["root"]) / self.names[number]
            first += source["count"]
        raise UsageError(f"picture {number}", f"0 to {first - 1}")

    def check(self, model: VisionModel) -> None:
        """Raise `InputError` where the atlas is of another network or preprocessing."""
        now = {
            **self.about,
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "preprocess": plain(model.preprocess.to_dict()),
        }
        differ = differences(self.about, now)
        if differ:
            raise InputError(
                f"the atlas in {self.folder} is of another network: {'; '.join(differ)}",
                "the network it was made with",
            )


def build(
    model: VisionModel,
    pictures: PictureSource,
    folder: str | Path,
    *,
    layers: Sequence[str] = (),
    k: int = 100,
    statistics: Sequence[str] = STATISTICS,
    embeddings: Sequence[str] = (),
    batch: int | None = None,
    shard: int | None = None,
    threads: int | None = None,
    workers: int = 2,
    memory: float = 8.0,
    engine: Engine = local,
) -> Steps[Atlas]:
    """Build the atlas of a network over pictures, or go on with it; yields `Progress` in pictures.

    Parameters
    ----------
    folder : a path, or a URL that fsspec knows; new, empty, or with this atlas begun.
    layers, k, statistics, embeddings, batch, shard, threads : see `Plan`.
    workers : threads that decode pictures ahead.
    memory : gigabytes that the statistics may take; `plan` refuses more before anything runs.
    engine : who runs the shards: `local`, or `ray_engine.on_ray(...)`.

    Raises `InputError` for a folder that holds another atlas, saying what differs, one that another process is
    building in, and where it cannot be written; what `plan` raises. Stopped at any moment, the next call goes on; the
    result is the same to the bit.
    """
    known: Sequence[str] = getattr(pictures, "classes", ())
    labels = pictures.labels
    count = 0 if labels is None or not len(labels) else max(int(labels.max()) + 1, len(known))
    if model.preprocess.size is None:
        raise UsageError(
            "a preprocessing that leaves pictures at their own sizes",
            "one size for all: a crop, or resize_mode warp",
            '--preprocess FILE.json with {"resize": 256, "crop": 224}',
        )
    planned = plan(
        model,
        len(pictures),
        layers=layers,
        k=k,
        statistics=statistics,
        embeddings=embeddings,
        batch=batch,
        shard=shard,
        threads=threads,
        classes=count,
        memory=memory,
    )
    job = Job(model, pictures, planned, Folder(folder), count, workers)
    about = manifest(job, labels_from=getattr(pictures, "labels_from", ""), classes=known)
    needed = [MANIFEST, DONE, STATE, PRINTS]
    needed += [f"{name}.parquet" for name in ("units", "statistics", "pictures")]
    needed += [FEATURES] if "top" in planned.statistics else []
    passing = ("shards", "second")
    if all(map(job.folder.has, needed)) and not any(map(job.folder.names, passing)):
        begin(job, about)
        return Atlas(job.folder)
    with job.folder.held():
        left = begin(job, about)
        if not job.folder.has(STATE):
            yield from engine(job, left)
        yield from finished(job, known, engine, about["data"]["fingerprint"])
        for under in passing:
            job.folder.remove(under)
    return Atlas(job.folder)
