"""The receptive fields of units in their pictures: where they lie, cut out, and put back changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.geometry import Box, ReceptiveField, geometry, receptive_field
from cutaway.core.graph import Trace
from cutaway.core.links import POSITIONS
from cutaway.core.model import VisionModel

GREY = 0.5
"""What stands for pixels beyond the picture."""
Place = tuple[int, int]
Span = tuple[int, int]


def fields(
    model: VisionModel, layer: str, channel: int, pictures: Tensor, rows: Tensor, cols: Tensor
) -> list[Box]:
    """The unclipped receptive field of a channel at each position (k,); it may reach beyond the picture.

    All have one size except after resizing or adaptive pooling; a unit that mixes all positions has the whole
    picture. Positions of a layer without a map are (0, 0).

    Raises `UnknownNameError` for the layer, `UsageError` for a channel or position it does not have or pictures that
    the layer table was not made for, `MethodRefusedError` where the field is not known.
    """
    size, known = tuple(pictures.shape[-2:]), model.layers.trace.shape[-2:]
    if size != tuple(known):
        raise UsageError(
            f"pictures of {size[0]} x {size[1]} pixels",
            f"{known[0]} x {known[1]}, as the layer table was made for",
            "pictures from model.pixels",
        )
    at = list(zip(rows.tolist(), cols.tolist(), strict=True))
    found = _found(model.layers.trace, layer, channel, at)
    return [found[place].unclipped for place in at]


def inside(trace: Trace, layer: str, channel: int, at: Sequence[Place]) -> tuple[list[Box], tuple[str, ...]]:
    """The fields as `fields` gives them, all of one size; the whole picture, and why, where they are not known.

    Along an axis where the field is as long as the picture, or wraps around it, the box is the picture's.
    """
    height, width = trace.shape[-2:]
    try:
        found = _found(trace, layer, channel, at)
    except MethodRefusedError as error:
        return [Box(0, 0, height - 1, width - 1)] * len(at), (f"shown whole: {error.found}",)
    rows, columns = (
        _ends([(_along(f.unclipped, i), f.clipped and _along(f.clipped, i)) for f in found.values()], length)
        for i, length in enumerate((height, width))
    )
    boxes = {
        p: Box(top, left, bottom, right)
        for p, (top, bottom), (left, right) in zip(found, rows, columns, strict=True)
    }
    return [boxes[p] for p in at], ()


def _found(trace: Trace, layer: str, channel: int, at: Sequence[Place]) -> dict[Place, ReceptiveField]:
    value = trace.value(layer)
    where, shape = geometry(trace).places[value], trace.nodes[value.node].shapes[value.output]
    high, wide = (where.length(kind) for kind in POSITIONS)
    lost = high * wide == 1 < math.prod(shape[-2:]) and any(row or col for row, col in at)
    if lost or (len(shape) == 2 and high * wide > 1):
        receptive_field(trace, layer)  # raises, naming the operator where one is to blame
        raise MethodRefusedError(
            f"the receptive field is not known: the places of layer {layer!r} are not told apart",
            "layers of maps",
            "a layer before it",
        )
    return {place: receptive_field(trace, layer, *place, channel=channel) for place in dict.fromkeys(at)}


def _along(box: Box, axis: int) -> Span:
    return box[axis], box[axis + 2]


def _ends(spans: Sequence[tuple[Span, Span | None]], length: int) -> list[Span]:
    """Along one axis the first and last pixel of every box, from the fields with and without what lies beyond."""
    longest = max(last - first + 1 for (first, last), _ in spans)
    wraps = any(real and (real[0] < whole[0] or real[1] > whole[1]) for whole, real in spans)
    if longest >= length or wraps:
        return [(0, length - 1)] * len(spans)
    return [(first, first + longest - 1) for (first, _), _ in spans]


def window(picture: Tensor, box: Box, beyond: float = 0.0) -> Tensor:
    """The pixels of a box, (C, h, w), of a picture (C, H, W), with `beyond` where the box leaves it.

    >>> import torch
    >>> window(torch.ones(1, 2, 2), Box(1, -1, 2, 0)).tolist()
    [[[0.0, 1.0], [0.0, 0.0]]]
    """
    out = picture.new_full((picture.shape[0], box.height, box.width), beyond)
    part = clipped(box, picture)
    if part is not None:
        _view(out, part, -box.top, -box.left)[:] = _view(picture, part)
    return out


def crops(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The pixels (k, 3, h, w) in a box of each picture (k, 3, H, W), mid-grey beyond the picture.

    Boxes of several sizes are laid over each other by their centres, mid-grey around the smaller ones; h and w are
    the largest.

    >>> import torch
    >>> picture = torch.ones(1, 3, 4, 4)
    >>> crops(picture, [Box(-1, 2, 0, 4)])[0, 0].tolist()
    [[0.5, 0.5, 0.5], [1.0, 1.0, 0.5]]
    """
    if len(boxes) != len(pictures) or not boxes:
        raise UsageError(f"{len(boxes)} boxes for {len(pictures)} pictures", "one box a picture, one or more")
    height, width = max(box.height for box in boxes), max(box.width for box in boxes)
    cut = pictures.new_full((len(boxes), pictures.shape[1], height, width), GREY)
    for patch, picture, box in zip(cut, pictures, boxes, strict=True):
        down, across = (height - box.height) // 2, (width - box.width) // 2
        patch[:, down : down + box.height, across : across + box.width] = window(picture, box, GREY)
    return cut


def put(pictures: Tensor, boxes: Sequence[Box], patches: Sequence[Tensor]) -> Tensor:
    """Copies of the pictures with each box replaced by its patch (3, h, w); what lies beyond is left out.

    >>> import torch
    >>> put(torch.zeros(1, 1, 2, 2), [Box(-1, 0, 0, 0)], [torch.tensor([[[5.0], [7.0]]])]).tolist()
    [[[[7.0, 0.0], [0.0, 0.0]]]]
    """
    done = pictures.clone()
    for picture, box, patch in zip(done, boxes, patches, strict=True):
        part = clipped(box, picture)
        if part is not None:
            _view(picture, part)[:] = _view(patch, part, -box.top, -box.left)
    return done


def clipped(box: Box, picture: Tensor) -> Box | None:
    """The part of a box that lies in a picture (..., H, W), None if there is none."""
    height, width = picture.shape[-2:]
    part = Box(max(box.top, 0), max(box.left, 0), min(box.bottom, height - 1), min(box.right, width - 1))
    return part if part.height > 0 and part.width > 0 else None


def grown(box: Box, margin: int) -> Box:
    """A box with `margin` more pixels on each side."""
    return Box(box.top - margin, box.left - margin, box.bottom + margin, box.right + margin)


def moved(box: Box, down: int, across: int) -> Box:
    """A box so many pixels further down and to the right."""
    return Box(box.top + down, box.left + across, box.bottom + down, box.right + across)


def _view(picture: Tensor, box: Box, down: int = 0, across: int = 0) -> Tensor:
    return picture[..., box.top + down : box.bottom + 1 + down, box.left + across : box.right + 1 + across]
