"""The second look at the pictures of top lists: mean patches, and what is left of each activation without colour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cutaway.core.errors import InputError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.tap import Tap
from cutaway.data.batches import Batch, Unread, batches
from cutaway.data.folder import PictureSource

from .fields import Fields
from .plan import Plan
from .shards import threads
from .store import Folder

SIDE = 64
"""Mean patches of larger fields are shrunk by a whole number to about so many pixels a side, at most."""
MEMORY = 256 << 20
"""Bytes of the mean patches that are made together."""
LUMINANCE = (0.299, 0.587, 0.114)
"""What a pixel's grey is made of (ITU-R BT.601)."""
GREY = 128
"""What stands for pixels beyond the picture, of 255."""


@dataclass(frozen=True)
class Second:
    """The second pass, in groups of layers: the work of an engine.

    Parameters
    ----------
    tops : each layer's `TopK`.
    fields : of each layer's channels; a layer without any gets no mean patches.
    """

    model: VisionModel
    pictures: PictureSource
    plan: Plan
    folder: Folder
    tops: Mapping[str, Any]
    fields: Mapping[str, Fields]
    workers: int = 2

    @cached_property
    def _cells(self) -> dict[str, Cells]:
        return {layer: Cells.of(field) for layer, field in self.fields.items() if layer in self.tops}

    @cached_property
    def _around(self) -> int:
        """Pixels that the cells of any field reach beyond the picture."""
        reach = [0]
        for own in self._cells.values():
            for first, count, side in zip((own.tops, own.lefts), own.size, self.plan.size, strict=True):
                reach += [-int(first.min()), int(first.max()) + (count + 1) * own.step - side]
        return max(reach)

    @cached_property
    def parts(self) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        """Layers whose mean patches fit into `MEMORY` together, and the pictures of one part of theirs."""
        groups: list[list[str]] = [[]]
        held = 0
        for layer, top in self.tops.items():
            cells = self._cells.get(layer)
            size = len(top.values) * 12 * math.prod(cells.size) if cells else 0
            if groups[-1] and held + size > MEMORY:
                groups.append([])
                held = 0
            groups[-1].append(layer)
            held += size
        most, found = 4 * self.plan.shard, []
        for group in groups:
            listed = sorted(
                {n for layer in group for n in self.tops[layer].pictures.flatten().tolist()} - {-1}
            )
            found += [(tuple(group), tuple(listed[i : i + most])) for i in range(0, len(listed), most)]
        return found

    def name(self, part: int) -> str:
        """Where a part's numbers stand."""
        return f"second/{part:06d}.safetensors"

    def size(self, part: int) -> int:
        """How many pictures a part looks at."""
        return len(self.parts[part][1])

    def run(self, part: int) -> Steps[None]:
        """Look at the pictures of a part again; yields `Progress` in pictures."""
        layers, numbers = self.parts[part]
        listed = {layer: _Listed(self.tops[layer]) for layer in layers}
        grey = {layer: torch.full_like(self.tops[layer].values, torch.nan) for layer in layers}
        cells = {layer: self._cells[layer] for layer in layers if layer in self._cells}
        sums = {
            layer: torch.zeros(len(self.tops[layer].values), 3, *own.size, dtype=torch.int32)
            for layer, own in cells.items()
        }
        unread: list[Unread] = []
        for batch in batches(
            self.model, self.pictures, numbers, self.plan.batch, workers=self.workers, unread=unread
        ):
            if batch.pixels.shape[1] == 3:
                self._without_colour(batch, grey, listed)
            for number, pixels in zip(batch.ids.tolist(), batch.pixels, strict=True):
                shrunk = _Shrunk(pixels, self._around)
                for layer, total in sums.items():
                    listed[layer].add(total, cells[layer], shrunk, number)
            yield Progress(numbers.index(int(batch.ids[-1])) + 1, len(numbers))
        if unread:
            raise InputError(
                f"{unread[0].name} could be read before and now cannot: {unread[0].reason}",
                "the same pictures",
                "put it back as it was, and run the same command again",
            )
        out = {f"grey/{layer}": values for layer, values in grey.items()}
        self.folder.write(self.name(part), out | {f"sum/{layer}": total for layer, total in sums.items()})

    def _without_colour(
        self, batch: Batch, grey: Mapping[str, Tensor], listed: Mapping[str, _Listed]
    ) -> None:
        """What the entries of a batch's pictures answer when the pictures are grey, put into their slots."""
        numbers = batch.ids.tolist()

        def look(layer: str, maps: Tensor) -> None:
            maps = maps if maps.ndim == 4 else maps[:, :, None, None]
            top = self.tops[layer]
            for n, number in enumerate(numbers):
                units, ranks = listed[layer].entries(number)
                row, col = top.rows[units, ranks].long(), top.cols[units, ranks].long()
                grey[layer][units, ranks] = maps[n, units, row, col].float().cpu()

        light = (batch.pixels * batch.pixels.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
        with (
            self.model.guard(),
            threads(self.plan.threads),
            torch.inference_mode(),
            Tap(self.model, *grey, look=look),
        ):
            self.model(light.expand(-1, 3, -1, -1))

    def joined(self) -> dict[str, Tensor]:
        """All parts together: "grey/layer" (u, k), and where fields are known "feature/layer" (u, 3, h, w) uint8."""
        out: dict[str, Tensor] = {}
        for part in range(len(self.parts)):
            for name, values in self.folder.tensors(self.name(part)).items():
                if name not in out:
                    out[name] = values
                elif name.startswith("sum/"):
                    out[name] += values
                else:
                    out[name] = torch.where(values.isnan(), out[name], values)
        for name in [name for name in out if name.startswith("sum/")]:
            layer = name.removeprefix("sum/")
            inside = self._cells[layer].inside()[:, None]
            out[f"feature/{layer}"] = torch.where(inside, _mean(out.pop(name), self.tops[layer]), GREY)
        return out


@dataclass(frozen=True)
class Cells:
    """How the fields of a layer are shrunk: to cells of `step` pixels a side.

    A field takes `sizes` (g, 2) cells, from pixels `tops` (g, h) and `lefts` (g, w) on, for each number of `group`
    (u,); -1 there: not known. The cells cover the field and are centred on it; a step of one is the field itself.
    Smaller fields lie in the middle of the `size` of the largest.
    """

    step: int
    size: tuple[int, int]
    sizes: Tensor
    tops: Tensor
    lefts: Tensor
    group: Tensor

    @classmethod
    def of(cls, fields: Fields) -> Cells:
        """The cells of these fields, at most about `SIDE` a side."""
        sides = [own[..., 1] - own[..., 0] + 1 for own in (fields.rows, fields.cols)]
        step = max(1, math.ceil(max(int(side.max()) for side in sides) / SIDE))
        counts = [-(-side.amax(1) // step) for side in sides]
        first = [
            own[..., 0] - (cells[:, None] * step - side) // 2
            for own, side, cells in zip((fields.rows, fields.cols), sides, counts, strict=True)
        ]
        size = int(counts[0].max()), int(counts[1].max())
        return cls(step, size, torch.stack(counts, 1), first[0], first[1], fields.group)

    def place(self, group: int) -> tuple[slice, slice]:
        """The rows and columns that the fields of a number take in `size`."""
        (high, wide), (whole, broad) = self.sizes[group].tolist(), self.size
        top, left = (whole - high) // 2, (broad - wide) // 2
        return slice(top, top + high), slice(left, left + wide)

    def inside(self) -> Tensor:
        """Which cells each unit's own field takes, (u, h, w) bool."""
        taken = torch.zeros(len(self.sizes) + 1, *self.size, dtype=torch.bool)  # the last: not known
        for group in range(len(self.sizes)):
            taken[(group, *self.place(group))] = True
        return taken[self.group]


class _Shrunk:
    """One picture in whole numbers, grey around it, and its means over blocks, made when asked for."""

    def __init__(self, pixels: Tensor, around: int) -> None:
        own = (pixels.float().cpu() * 255).round().int().expand(3, -1, -1)
        self._whole = functional.pad(own, (around,) * 4, value=GREY)
        self._around = around
        self._made: dict[tuple[int, int, int], Tensor] = {}

    def cut(self, step: int, size: tuple[int, int], tops: Tensor, lefts: Tensor) -> Tensor:
        """The blocks (m, 3, h, w) that begin at pixels (m,), each mean rounded."""
        top, left = tops + self._around, lefts + self._around
        out = torch.empty(len(top), 3, *size, dtype=torch.int32)
        phases = top % step * step + left % step
        for phase in sorted(set(phases.tolist())):
            here = (phases == phase).nonzero()[:, 0]
            means = self._means(step, phase // step, phase % step)
            windows = means.unfold(1, size[0], 1).unfold(2, size[1], 1)
            out[here] = windows[:, top[here] // step, left[here] // step].movedim(0, 1)
        return out

    def _means(self, step: int, down: int, across: int) -> Tensor:
        key = (step, down, across)
        if key not in self._made:
            part = self._whole[:, down:, across:]
            high, wide = part.shape[1] // step, part.shape[2] // step
            blocks = part[:, : high * step, : wide * step].reshape(3, high, step, wide, step)
            total = blocks.sum((2, 4), dtype=torch.int32)
            self._made[key] = torch.div(total * 2 + step**2, 2 * step**2, rounding_mode="floor")
        return self._made[key]


def _weights(top: Any) -> Tensor:
    """What each entry counts, (u, k): its share of the strongest, in whole numbers that sum within int32."""
    most = ((1 << 31) - 1) // (255 * top.values.shape[1])
    strongest = top.values[:, :1].clamp(min=1e-30)
    shares = torch.where(top.pictures >= 0, top.values, 0.0).clamp(min=0) / strongest
    weights: Tensor = (shares.double().clamp(max=1) * most).round().int()
    return weights


class _Listed:
    """A layer's entries by picture, and what each counts."""

    def __init__(self, top: Any) -> None:
        self._top, self._weights = top, _weights(top)
        flat = top.pictures.flatten()
        self._order = flat.argsort(stable=True)
        self._sorted = flat[self._order]

    def entries(self, picture: int) -> tuple[Tensor, Tensor]:
        """Units and ranks whose entry is of this picture."""
        first, last = torch.searchsorted(self._sorted, torch.tensor([picture, picture + 1])).tolist()
        place = self._order[first:last]
        return place // self._top.pictures.shape[1], place % self._top.pictures.shape[1]

    def add(self, total: Tensor, cells: Cells, shrunk: _Shrunk, picture: int) -> None:
        """Add the patches of a picture to (u, 3, h, w): whole numbers, so that no order changes a bit."""
        units, ranks = self.entries(picture)
        rows, cols = (t[units, ranks].long() for t in (self._top.rows, self._top.cols))
        groups, weights = cells.group[units], self._weights[units, ranks, None, None, None]
        for group in sorted({*groups.tolist()} - {-1}):
            here, (high, wide) = groups == group, cells.sizes[group].tolist()
            tops, lefts = cells.tops[group, rows[here]], cells.lefts[group, cols[here]]
            patches = shrunk.cut(cells.step, (high, wide), tops, lefts)
            down, across = cells.place(group)
            total[:, :, down, across].index_add_(0, units[here], patches.mul_(weights[here]))


def _mean(total: Tensor, top: Any) -> Tensor:
    """The weighted means (u, 3, h, w), uint8; mid-grey for a unit that never answered above 0."""
    held = _weights(top).long().sum(1)[:, None, None, None]
    mean = torch.div(total.long() * 2 + held, (2 * held).clamp(min=1), rounding_mode="floor")
    return torch.where(held > 0, mean, GREY).to(torch.uint8)
