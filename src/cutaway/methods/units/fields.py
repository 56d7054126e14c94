"""The receptive fields of units in their pictures: where they lie, cut out, and put back changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.geometry import Box, receptive_field
from cutaway.core.model import VisionModel

GREY = 0.5
"""What stands for pixels beyond the picture."""


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
    places = list(zip(rows.tolist(), cols.tolist(), strict=True))
    trace = model.layers.trace
    found = {(r, c): receptive_field(trace, layer, r, c, channel=channel).unclipped for r, c in set(places)}
    return [found[place] for place in places]


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
        inside = clipped(box, picture)
        if inside is not None:
            down = (height - box.height) // 2 - box.top
            across = (width - box.width) // 2 - box.left
            _view(patch, inside, down, across)[:] = _view(picture, inside)
    return cut


def put(pictures: Tensor, boxes: Sequence[Box], patches: Sequence[Tensor]) -> Tensor:
    """Copies of the pictures with each box replaced by its patch (3, h, w); what lies beyond is left out.

    >>> import torch
    >>> put(torch.zeros(1, 1, 2, 2), [Box(-1, 0, 0, 0)], [torch.tensor([[[5.0], [7.0]]])]).tolist()
    [[[[7.0, 0.0], [0.0, 0.0]]]]
    """
    done = pictures.clone()
    for picture, box, patch in zip(done, boxes, patches, strict=True):
        inside = clipped(box, picture)
        if inside is not None:
            _view(picture, inside)[:] = _view(patch, inside, -box.top, -box.left)
    return done


def clipped(box: Box, picture: Tensor) -> Box | None:
    """The part of a box that lies in a picture (..., H, W), None if there is none."""
    height, width = picture.shape[-2:]
    part = Box(max(box.top, 0), max(box.left, 0), min(box.bottom, height - 1), min(box.right, width - 1))
    return part if part.height > 0 and part.width > 0 else None


def grown(box: Box, margin: int) -> Box:
    """A box with `margin` more pixels on each side."""
    return Box(box.top - margin, box.left - margin, box.bottom + margin, box.right + margin)


def _view(picture: Tensor, box: Box, down: int = 0, across: int = 0) -> Tensor:
    return picture[..., box.top + down : box.bottom + 1 + down, box.left + across : box.right + 1 + across]
