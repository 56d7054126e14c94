"""The second look at the pictures of top lists: mean patches, and what is left of each activation without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import InputError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.tap import Tap
from cutaway.data.batches import Unread, batches
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
    def groups(self) -> list[tuple[str, ...]]:
        """Layers whose mean patches fit into `MEMORY` together."""
        groups: list[list[str]] = [[]]
        held = 0
        for layer, top in self.tops.items():
            height, width = _shape(self.fields.get(layer))
            size = len(top.values) * 3 * height * width * 8
            if groups[-1] and held + size > MEMORY:
                groups.append([])
                held = 0
            groups[-1].append(layer)
            held += size
        return [tuple(group) for group in groups]

    def name(self, group: int) -> str:
        """Where a group's numbers stand."""
        return f"second/{group:04d}.safetensors"

    def size(self, group: int) -> int:
        """How many pictures a group looks at."""
        return len(self._listed(group))

    def _listed(self, group: int) -> list[int]:
        numbers = {n for layer in self.groups[group] for n in self.tops[layer].pictures.flatten().tolist()}
        return sorted(numbers - {-1})

    def run(self, group: int) -> Steps[None]:
        """Look at every picture in a top list of the group; yields `Progress` in pictures."""
        layers = self.groups[group]
        grey = {layer: torch.full_like(self.tops[layer].values, torch.nan) for layer in layers}
        patches = {
            layer: _Patches(self.tops[layer], self.fields[layer]) for layer in layers if layer in self.fields
        }
        unread: list[Unread] = []
        listed = self._listed(group)
        for batch in batches(
            self.model, self.pictures, listed, self.plan.batch, workers=self.workers, unread=unread
        ):
            entries = {layer: [_entries(self.tops[layer], int(i)) for i in batch.ids] for layer in layers}

            def look(layer: str, maps: Tensor) -> None:
                maps = maps if maps.ndim == 4 else maps[:, :, None, None]
                top = self.tops[layer]
                for n, (units, ranks) in enumerate(entries[layer]):  # noqa: B023
                    row, col = top.rows[units, ranks].long(), top.cols[units, ranks].long()
                    grey[layer][units, ranks] = maps[n, units, row, col].float().cpu()

            if batch.pixels.shape[1] == 3:
                light = (batch.pixels * batch.pixels.new_tensor(LUMINANCE)[:, None, None]).sum(
                    1, keepdim=True
                )
                with (
                    self.model.guard(),
                    threads(self.plan.threads),
                    torch.inference_mode(),
                    Tap(self.model, *layers, look=look, stop=True),
                ):
                    self.model(light.expand(-1, 3, -1, -1))
            for n, pixels in enumerate(batch.pixels):
                summed = _summed(pixels)
                for layer, kept in patches.items():
                    kept.add(summed, *entries[layer][n])
            yield Progress(listed.index(int(batch.ids[-1])) + 1, len(listed), note="second look")
        if unread:
            raise InputError(
                f"{unread[0].name} could be read before and now cannot: {unread[0].reason}",
                "the same pictures",
            )
        out = {f"grey/{layer}": values for layer, values in grey.items()}
        out |= {f"feature/{layer}": kept.mean() for layer, kept in patches.items()}
        self.folder.write(self.name(group), out)


def _entries(top: Any, picture: int) -> tuple[Tensor, Tensor]:
    """Units and ranks whose entry is of this picture."""
    units, ranks = (top.pictures == picture).nonzero(as_tuple=True)
    return units, ranks


def _shape(field: Field | None) -> tuple[int, int]:
    if field is None:
        return 0, 0
    height, width = (int((side[:, 1] - side[:, 0]).max()) + 1 for side in field)
    return min(height, SIDE), min(width, SIDE)


class _Patches:
    """Weighted sums of patches in whole numbers: the order of the pictures changes no bit."""

    def __init__(self, top: Any, field: Field) -> None:
        self._top, (self._down, self._across) = top, field
        height, width = _shape(field)
        most = (1 << 62) // (255 * top.values.shape[1])
        strongest = top.values[:, :1].clamp(min=1e-30)
        weights = (top.values.clamp(min=0) / strongest).double() * min(most, 1 << 24)
        self._weights = weights.nan_to_num(0.0).round().long()
        self._sum = torch.zeros(len(top.values), 3, height, width, dtype=torch.int64)

    def add(self, summed: Tensor, units: Tensor, ranks: Tensor) -> None:
        """Take in the entries of a picture, given as sums from its corner (C, H + 1, W + 1)."""
        if not len(units):
            return
        rows = _cells(self._down[self._top.rows[units, ranks].long()], self._sum.shape[2])
        cols = _cells(self._across[self._top.cols[units, ranks].long()], self._sum.shape[3])
        within = [cells.clamp(0, n - 1) for cells, n in zip((rows, cols), summed.shape[1:], strict=True)]
        corner = summed[:, within[0][:, :, None], within[1][:, None, :]]
        inside = corner.diff(dim=2).diff(dim=3).movedim(0, 1)
        area = (rows.diff()[:, :, None] * cols.diff()[:, None, :]).clamp(min=1)
        known = within[0].diff()[:, :, None] * within[1].diff()[:, None, :]
        total = inside + GREY * (area - known)[:, None]
        patch = torch.div(total * 2 + area[:, None], 2 * area[:, None], rounding_mode="floor")
        self._sum[units] += self._weights[units, ranks, None, None, None] * patch

    def mean(self) -> Tensor:
        """The weighted means (u, 3, h, w), uint8; mid-grey for a unit that never answered above 0."""
        held = self._weights * (self._top.pictures >= 0)
        total = held.sum(1)[:, None, None, None]
        mean = torch.div(self._sum * 2 + total, (2 * total).clamp(min=1), rounding_mode="floor")
        return torch.where(total > 0, mean, GREY).to(torch.uint8)


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


def joined(folder: Folder, names: Sequence[str]) -> dict[str, Tensor]:
    """All groups together."""
    out: dict[str, Tensor] = {}
    for name in names:
        out |= folder.tensors(name)
    return out
