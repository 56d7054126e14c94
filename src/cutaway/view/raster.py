"""Pixels: enlarging, overlays, colour pictures and mosaics, as arrays of RGB in [0, 1]."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cutaway.core.errors import InputError

from .colors import OKABE_ITO, Array, Floats, Scale, far_end, finite

OPACITY = 0.9
"""How opaque an overlay is where the evidence reaches the end of its scale."""


def upsample(values: Array, height: int, width: int) -> Floats:
    """`values` (h, w) or (h, w, c) on a finer grid, bilinear with `align_corners=False`, borders repeated.

    >>> upsample(np.array([[0.0, 4.0]]), 1, 4).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    values = np.asarray(values, np.float64)
    for axis, size in ((0, height), (1, width)):
        low, high, share = _between(values.shape[axis], size)
        share = share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def _between(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = at.astype(np.int64)
    return low, np.minimum(low + 1, old - 1), at - low


def enlarge(values: Array, height: int, width: int) -> Array:
    """`values` (h, w) or (h, w, c) at another size with hard edges: every cell stays one flat square."""
    rows = (np.arange(height) * values.shape[0]) // height
    columns = (np.arange(width) * values.shape[1]) // width
    out: Array = values[rows][:, columns]
    return out


def shrink(values: Array, height: int, width: int) -> Floats:
    """`values` (h, w) or (h, w, c) at a smaller size, every new pixel the mean of the area it covers."""
    values = np.asarray(values, np.float64)
    for axis, size in ((0, height), (1, width)):
        values = np.moveaxis(np.tensordot(_areas(values.shape[axis], size), values, (1, axis)), 0, axis)
    return values


def _areas(old: int, new: int) -> Floats:
    edges = np.arange(new + 1) * old / new
    cells = np.arange(old)
    cover = np.minimum(cells + 1, edges[1:, None]) - np.maximum(cells, edges[:-1, None])
    return np.asarray(np.clip(cover, 0, None) * new / old, np.float64)


def fit(values: Array, height: int, width: int, *, smooth: bool) -> Floats:
    """`values` at the size of a tile: enlarged smoothly or with hard edges, or averaged where it shrinks."""
    if values.shape[0] > height or values.shape[1] > width:
        return shrink(values, height, width)
    return upsample(values, height, width) if smooth else enlarge(values, height, width).astype(np.float64)


def desaturate(photo: Array, keep: float = 0.4) -> Floats:
    """The photograph (h, w, 3) with `keep` of its colour, brightness unchanged (Rec. 601 luma).

    >>> desaturate(np.array([[[1.0, 0.0, 0.0]]]), 0.0).round(3).tolist()
    [[[0.299, 0.299, 0.299]]]
    """
    photo = np.asarray(photo, np.float64)
    grey = photo @ np.array([0.299, 0.587, 0.114])
    return np.asarray(grey[..., None] * (1 - keep) + photo * keep, np.float64)


def overlay(
    photo: Array,
    heat: Array,
    scale: Scale,
    *,
    keep: float = 0.4,
    opacity: float = OPACITY,
    power: float = 1.0,
) -> Floats:
    """Evidence laid over a desaturated photograph: opacity follows |value| ** power, zero is transparent.

    `photo` (h, w, 3) in [0, 1] and `heat` (h, w) have one size. Where a value is 0 the photograph shows exactly.
    A power below one lifts weak values: single pixels at their own opacity vanish on a photograph.
    """
    alpha = (opacity * scale.strength(heat) ** power)[..., None]
    return desaturate(photo, keep) * (1 - alpha) + scale.rgb(heat) * alpha


def color_picture(values: Array, *, signed: bool) -> Floats:
    """Values (3, h, w) as a colour picture (h, w, 3): one scale for the three colours.

    Signed values put zero at mid-grey and the 99.9th percentile of |v| at black and white; unsigned ones put zero
    at black. An all-zero map is mid-grey or black throughout.
    """
    values = np.moveaxis(finite(np.asarray(values, np.float64), "a colour map of evidence"), 0, -1)
    far = far_end(values) or 1.0
    return np.clip(values / far / 2 + 0.5 if signed else values / far, 0.0, 1.0)


def categories(values: Array) -> tuple[Floats, dict[int, tuple[float, float, float]]]:
    """Whole numbers (h, w) as colours, and the colour of each number, the most frequent first.

    The eight Okabe-Ito colours go to the most frequent numbers; of more than eight, all after the seventh are grey.
    """
    numbers, place, count = np.unique(finite(values), return_inverse=True, return_counts=True)
    order = np.lexsort((numbers, -count))
    colors = np.full((len(numbers), 3), 0.6)
    named = len(numbers) if len(numbers) <= 8 else 7
    colors[order[:named]] = OKABE_ITO[:named] / 255
    rgb = colors[place.reshape(np.shape(values))]
    named_colors = [(float(r), float(g), float(b)) for r, g, b in colors]
    return rgb, {int(numbers[i]): named_colors[i] for i in order}


def mosaic(tiles: Array, *, gap: int = 1, fill: float = 1.0, columns: int | None = None) -> Array:
    """n tiles (n, h, w) or (n, h, w, c) as one picture: ceil(sqrt(n)) columns, ceil(n / columns) rows.

    Tile i stands at row i div columns, column i mod columns, with `gap` pixels of `fill` between tiles.

    >>> mosaic(np.zeros((3, 1, 1))).tolist()
    [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    if not len(tiles):
        raise InputError("a mosaic of no tiles", "at least one tile")
    columns = columns or math.isqrt(len(tiles) - 1) + 1
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1] + gap, tiles.shape[2] + gap
    shape = (rows * height - gap, columns * width - gap, *tiles.shape[3:])
    sheet: Array = np.full(shape, fill, dtype=tiles.dtype)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * height, (i % columns) * width
        sheet[top : top + height - gap, left : left + width - gap] = tile
    return sheet


def to_image(picture: Array) -> Image.Image:
    """RGB (h, w, 3) or grey, (h, w) or (h, w, 1), in [0, 1] as an 8-bit Pillow picture."""
    bytes_ = np.rint(np.clip(finite(picture, "a picture"), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(bytes_[..., 0] if bytes_.ndim == 3 and bytes_.shape[2] == 1 else bytes_)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
