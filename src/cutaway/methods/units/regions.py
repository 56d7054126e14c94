"""The regions of pictures that excite one unit most, each with the unit's own field drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.geometry import Box, receptive_field
from cutaway.core.image import read
from cutaway.core.layers import LayerTable
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.tap import Tap
from cutaway.core.window_order import suggested_batch

from .outline import outlined
from .projected import layer_table, unit_of
from .proposals import overlap, proposals


@dataclass(frozen=True)
class RankedRegion:
    """A region that excites the unit: `box` in pixels of its picture, `value` the activation, `share` of the largest.

    `row` and `column` say where in the layer's map the activation stands, `field` what that position sees of the
    region warped to the network's input, in its pixels; None where that is not known.
    """

    picture: int
    box: Box
    value: float
    share: float
    row: int
    column: int
    field: Box | None


def rank_regions(
    model: VisionModel,
    layer: str,
    channel: int,
    pictures: Sequence[Any],
    *,
    position: tuple[int, int] | None = None,
    most: int = 16,
    shared: float = 0.3,
    scale: float = 100.0,
    largest: float | None = None,
) -> Steps[list[RankedRegion]]:
    """The region proposals that excite a unit most, over several pictures (Girshick, Donahue, Darrell & Malik 2014).

    Every picture, at its own size, is cut into proposals (see `proposals`), each is warped to the network's input
    whatever its shape, and the unit answers to it alone: one position of the channel's map, or its maximum where
    `position` is None. Of proposals of one picture that share more than `shared` (intersection over union) only the
    strongest stays; the `most` strongest of all pictures come back, strongest first, ties by picture and box.

    Parameters
    ----------
    pictures : anything `cutaway.core.image.read` takes, one picture each.
    shared : 0 to 1; the paper names no number, so it is a parameter.
    scale : of the first segments, larger gives fewer and larger ones.
    largest : what `share` divides by, such as an atlas knows it; the largest of these regions when None.

    Yields `Progress`. Raises `UnknownNameError` for layer, channel or position, `InputError` for what is no picture,
    `UsageError` for options out of range, `MissingDependencyError` without scikit-image, `MethodRefusedError` for a
    unit that answers to none of the regions.
    """
    if not pictures:
        raise UsageError("no pictures", "at least one", "")
    for name, number, good in (("most", most, most >= 1), ("shared", shared, 0 <= shared <= 1)):
        if not good:
            raise UsageError(f"{name}={number}", "most at least 1, shared 0 to 1", "most=16, shared=0.3")
    if not scale > 0 or (largest is not None and not largest > 0):
        raise UsageError(f"scale={scale}, largest={largest}", "numbers above 0", "scale=100")
    size = _input_size(model)
    table = _table(model, size)
    name = unit_of(table, layer, channel, [position] if position else [])
    found: list[RankedRegion] = []
    for number, source in enumerate(pictures):
        yield Progress(number, len(pictures), note=f"regions of picture {number}")
        picture = _one(model, source, number)
        boxes = proposals(picture, scale=scale) or [
            Box(0, 0, int(picture.shape[1]) - 1, int(picture.shape[2]) - 1)
        ]
        values, at = _answers(model, name, channel, picture, boxes, size, position)
        for i in apart(boxes, values.tolist(), shared):
            row, column = at[i].tolist()
            found.append(RankedRegion(number, boxes[i], float(values[i]), 0.0, row, column, None))
    top = max(region.value for region in found)
    if top <= 0:
        raise MethodRefusedError(
            f"{name}:{channel} answers to none of {len(found)} regions of {len(pictures)} pictures",
            "a unit with an activation above zero",
            "another unit, or other pictures",
        )
    found.sort(key=lambda r: (-r.value, r.picture, r.box))
    bound = top if largest is None else largest
    return [
        RankedRegion(r.picture, r.box, r.value, r.value / bound, r.row, r.column, _seen(table, name, r))
        for r in found[:most]
    ]


def apart(boxes: Sequence[Box], values: Sequence[float], shared: float) -> list[int]:
    """Non-maximum suppression: the numbers of boxes that share at most `shared` with every stronger one kept.

    >>> apart([Box(0, 0, 9, 9), Box(0, 0, 9, 8), Box(20, 0, 29, 9)], [1.0, 2.0, 0.5], 0.3)
    [1, 2]
    """
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-values[i], boxes[i])):
        if all(overlap(boxes[i], boxes[j]) <= shared for j in kept):
            kept.append(i)
    return kept


def warped(picture: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """A region of a picture (3, H, W) stretched to `size` (height, width), bilinear with antialiasing: (3, h, w)."""
    part = picture[None, :, box.top : box.bottom + 1, box.left : box.right + 1]
    found: Tensor = F.interpolate(part, size, mode="bilinear", align_corners=False, antialias=True)
    return found[0].clamp(0, 1)


def drawn(model: VisionModel, pictures: Sequence[Any], regions: Sequence[RankedRegion]) -> Tensor:
    """Every region as the network saw it, (n, 3, h, w) in [0, 1], with the field of its activation outlined."""
    tiles = []
    for region in regions:
        picture = _one(model, pictures[region.picture], region.picture)
        tile = warped(picture, region.box, _input_size(model)).expand(3, -1, -1)
        tiles.append(tile.clone() if region.field is None else outlined(tile, region.field))
    return torch.stack(tiles)


def labels(regions: Sequence[RankedRegion]) -> dict[int, str]:
    """What stands under each region: its activation divided by the unit's largest.

    >>> labels([RankedRegion(0, Box(0, 0, 1, 1), 3.0, 0.75, 0, 0, None)])
    {0: '0.75'}
    """
    return {i: f"{region.share:.2f}" for i, region in enumerate(regions)}


def _one(model: VisionModel, source: Any, number: int) -> Tensor:
    photo = read(source, model.preprocess.pixel_channels)
    if len(photo) != 1:
        raise UsageError(f"picture {number} is a batch of {len(photo)}", "one picture", "a list of pictures")
    return photo.pixels()[0].to(model.device, model.dtype)


def _input_size(model: VisionModel) -> tuple[int, int]:
    size = model.preprocess.size
    if size is None:
        height, width = model.layers.trace.shape[-2:]
        size = (int(height), int(width))
    return size


def _table(model: VisionModel, size: tuple[int, int]) -> LayerTable:
    return layer_table(
        model, torch.zeros(1, model.preprocess.pixel_channels, *size).to(model.device, model.dtype)
    )


def _answers(
    model: VisionModel,
    layer: str,
    channel: int,
    picture: Tensor,
    boxes: Sequence[Box],
    size: tuple[int, int],
    position: tuple[int, int] | None,
) -> tuple[Tensor, Tensor]:
    """The unit's activation to each region (n,), and where in the map (n, 2): the first largest, or the position."""
    values, places = [], []
    step = suggested_batch(picture.new_empty(1, 1, *size))
    for first in range(0, len(boxes), step):
        x = torch.stack([warped(picture, box, size) for box in boxes[first : first + step]])
        with torch.inference_mode(False), torch.no_grad(), model.guard(), Tap(model, layer, stop=True) as tap:
            model(x.clone())
        maps = tap.maps(layer)[:, channel]
        model.check_finite(maps, x)
        if position is not None:
            values.append(maps[:, position[0], position[1]])
            places.append(torch.tensor(position).expand(len(x), 2))
            continue
        peaks, at = maps.flatten(1).max(1)
        values.append(peaks)
        places.append(torch.stack([at // maps.shape[2], at % maps.shape[2]], 1).cpu())
    return torch.cat(values).cpu(), torch.cat(places)


def _seen(table: LayerTable, layer: str, region: RankedRegion) -> Box | None:
    try:
        return receptive_field(table.trace, layer, region.row, region.column).clipped
    except MethodRefusedError:
        return None
