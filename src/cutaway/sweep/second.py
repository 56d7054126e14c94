"""The second look at the pictures of top lists: mean patches, and what is left of each activation without colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import InputError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.tap import Tap
from cutaway.data.batches import Batch, Unread, batches
from cutaway.data.folder import PictureSource

from .plan import Plan
from .shards import threads
from .store import Folder

SIDE = 64
"""Mean patches of larger fields are shrunk to at most so many pixels a side."""
MEMORY = 256 << 20
"""Bytes of the mean patches that are made together."""
LUMINANCE = (0.299, 0.587, 0.114)
"""What a pixel's grey is made of (ITU-R BT.601)."""
GREY = 128
"""What stands for pixels beyond the picture, of 255."""

Field = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Second:
    """The second pass, in groups of layers: the work of an engine.

    Parameters
    ----------
    tops : each layer's `TopK`.
    fields : the receptive field of each row and column, by layer; a layer without one gets no mean patches.
    """

    model: VisionModel
    pictures: PictureSource
    plan: Plan
    folder: Folder
    tops: Mapping[str, Any]
    fields: Mapping[str, Field]
    workers: int = 2

    @cached_property
    def parts(self) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        """Layers whose mean patches fit into `MEMORY` together, and the pictures of one part of theirs."""
        groups: list[list[str]] = [[]]
        held = 0
        for layer, top in self.tops.items():
            height, width = _shape(self.fields.get(layer))
            size = len(top.values) * 3 * height * width * 4
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
        grey = {layer: torch.full_like(self.tops[layer].values, torch.nan) for layer in layers}
        sums = {
            layer: _sums(self.tops[layer], self.fields[layer]) for layer in layers if layer in self.fields
        }
        unread: list[Unread] = []
        for batch in batches(
            self.model, self.pictures, numbers, self.plan.batch, workers=self.workers, unread=unread
        ):
            if batch.pixels.shape[1] == 3:
                self._without_colour(batch, grey)
            for number, pixels in zip(batch.ids.tolist(), batch.pixels, strict=True):
                corner = _summed(pixels)
                for layer, total in sums.items():
                    _add(total, corner, self.tops[layer], self.fields[layer], number)
            yield Progress(numbers.index(int(batch.ids[-1])) + 1, len(numbers))
        if unread:
            raise InputError(
                f"{unread[0].name} could be read before and now cannot: {unread[0].reason}",
                "the same pictures",
            )
        out = {f"grey/{layer}": values for layer, values in grey.items()}
        self.folder.write(self.name(part), out | {f"sum/{layer}": total for layer, total in sums.items()})

    def _without_colour(self, batch: Batch, grey: Mapping[str, Tensor]) -> None:
        """What the entries of a batch's pictures answer when the pictures are grey, put into their slots."""
        entries = {layer: [_entries(self.tops[layer], n) for n in batch.ids.tolist()] for layer in grey}

        def look(layer: str, maps: Tensor) -> None:
            maps = maps if maps.ndim == 4 else maps[:, :, None, None]
            top = self.tops[layer]
            for n, (units, ranks) in enumerate(entries[layer]):
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
            out[f"feature/{layer}"] = _mean(out.pop(name), self.tops[layer])
        return out


def _entries(top: Any, picture: int) -> tuple[Tensor, Tensor]:
    """Units and ranks whose entry is of this picture."""
    units, ranks = (top.pictures == picture).nonzero(as_tuple=True)
    return units, ranks


def _shape(field: Field | None) -> tuple[int, int]:
    if field is None:
        return 0, 0
    height, width = (int((side[:, 1] - side[:, 0]).max()) + 1 for side in field)
    return min(height, SIDE), min(width, SIDE)


def _weights(top: Any) -> Tensor:
    """What each entry counts, (u, k): its share of the strongest, in whole numbers that sum within int32."""
    most = ((1 << 31) - 1) // (255 * top.values.shape[1])
    strongest = top.values[:, :1].clamp(min=1e-30)
    shares = torch.where(top.pictures >= 0, top.values, 0.0).clamp(min=0) / strongest
    weights: Tensor = (shares.double().clamp(max=1) * most).round().int()
    return weights


def _sums(top: Any, field: Field) -> Tensor:
    """Where weighted sums of patches are gathered, (u, 3, h, w): whole numbers, so that no order changes a bit."""
    return torch.zeros(len(top.values), 3, *_shape(field), dtype=torch.int32)


def _add(total: Tensor, corner: Tensor, top: Any, field: Field, picture: int) -> None:
    """Add the patches of a picture, given as sums from its corner (3, H + 1, W + 1)."""
    units, ranks = _entries(top, picture)
    if not len(units):
        return
    rows = _cells(field[0][top.rows[units, ranks].long()], total.shape[2])
    cols = _cells(field[1][top.cols[units, ranks].long()], total.shape[3])
    down, across = (cells.clamp(0, n - 1) for cells, n in zip((rows, cols), corner.shape[1:], strict=True))
    inside = corner[:, down[:, :, None], across[:, None, :]].diff(dim=2).diff(dim=3).movedim(0, 1)
    area = (rows.diff()[:, :, None] * cols.diff()[:, None, :]).clamp(min=1)
    beyond = area - down.diff()[:, :, None] * across.diff()[:, None, :]
    whole = inside + GREY * beyond[:, None]
    patch = torch.div(whole * 2 + area[:, None], 2 * area[:, None], rounding_mode="floor")
    total[units] += (_weights(top)[units, ranks, None, None, None] * patch).int()


def _mean(total: Tensor, top: Any) -> Tensor:
    """The weighted means (u, 3, h, w), uint8; mid-grey for a unit that never answered above 0."""
    held = _weights(top).long().sum(1)[:, None, None, None]
    mean = torch.div(total.long() * 2 + held, (2 * held).clamp(min=1), rounding_mode="floor")
    return torch.where(held > 0, mean, GREY).to(torch.uint8)


def _cells(span: Tensor, count: int) -> Tensor:
    """Where the cells of each field begin and end, (m, count + 1), of first and last pixels (m, 2)."""
    first, length = span[:, 0], span[:, 1] - span[:, 0] + 1
    steps = torch.arange(count + 1)
    return first[:, None] + torch.div(steps * length[:, None], count, rounding_mode="floor")


def _summed(pixels: Tensor) -> Tensor:
    """Sums from the corner (3, H + 1, W + 1) of a picture's bytes."""
    whole = (pixels.float().cpu() * 255).round().long().expand(3, -1, -1)
    out = torch.zeros(3, whole.shape[1] + 1, whole.shape[2] + 1, dtype=torch.int64)
    out[:, 1:, 1:] = whole.cumsum(1).cumsum(2)
    return out
