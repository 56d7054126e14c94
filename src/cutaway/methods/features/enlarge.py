"""A layer's maps at the picture's size, each number at the centre of what it sees."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.core.model import VisionModel
from cutaway.core.places import Axis


def enlarge(
    model: VisionModel, layer: str, maps: Tensor, height: int, width: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Maps (n, h, w) of a layer as (n, height, width), and a note where their centres are not known.

    Bilinear between the centres of the positions' receptive fields, constant beyond the first and the last.
    """
    place = model.layers.geometry.places[model.layers.trace.value(model.layers.find(layer).name)]
    rows, row_note = _centres(place.rows, maps.shape[1], height)
    columns, column_note = _centres(place.columns, maps.shape[2], width)
    heat = _interpolate(_interpolate(maps, rows, height, 1), columns, width, 2)
    return heat, tuple(dict.fromkeys(n for n in (row_note, column_note) if n))


def _centres(axis: Axis, count: int, pixels: int) -> tuple[list[float], str]:
    """The pixel at the centre of each position's receptive field; evenly spread where that is not known."""
    if axis.steady and not axis.whole and not axis.unknown:
        middle = float(axis.low + axis.high) / 2
        return [float(axis.jump) * i + middle for i in range(count)], ""
    spread = [(i + 0.5) * pixels / count - 0.5 for i in range(count)]
    return spread, "receptive fields have no one centre here: positions are spread evenly over the picture"


def _interpolate(values: Tensor, centres: list[float], pixels: int, axis: int) -> Tensor:
    """Linear between the centres along one axis, constant beyond the first and the last."""
    if len(centres) == 1:
        return values.repeat_interleave(pixels, axis)
    step = centres[1] - centres[0]
    at = torch.arange(pixels, device=values.device, dtype=torch.float64)
    at = ((at - centres[0]) / step).clamp(0, len(centres) - 1)
    low = at.floor().long().clamp(max=len(centres) - 2)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    part = (at - low).to(values.dtype).view(shape)
    return values.index_select(axis, low) * (1 - part) + values.index_select(axis, low + 1) * part
