"""Pictures a network drew, and grids of its maps and filters: many tiles on one sheet, zero at one grey."""

from __future__ import annotations

import math

import numpy as np

from cutaway.core.result import Panel

from .colors import Array, Floats, Scale, far_end, finite, scale
from .drawing import Drawing
from .raster import enlarge, mosaic, shrink, to_image

LONGEST = 1200
"""Pixels of the longer side of a sheet, as far as single numbers stay visible."""


def grid_drawing(panel: Panel, method: str = "") -> Drawing:
    """One picture as it is, or a grid of grey maps or of colour tiles with the scale that reads it."""
    values = finite(panel.values, f"values of {method}" if method else f"panel {panel.title!r}")
    if panel.scale == "picture":
        height, width = values.shape[1:]
        times = max(1, round(256 / max(height, width)))
        shown = enlarge(np.moveaxis(values, 0, -1), height * times, width * times)
        return Drawing(panel.title or "picture", to_image(shown))
    count, (height, width) = len(values), values.shape[-2:]
    noun = "map" if panel.scale == "maps" else "tile"
    how = "each on its own scale" if panel.each else "one scale"
    parts = [panel.title, f"{count} {noun}{'' if count == 1 else 's'} of {height} × {width}, {how}"]
    title = ", ".join(part for part in parts if part)
    colors, ends = tile_colors(values, each=panel.each)
    sheet = to_image(_sheet(colors, panel.columns))
    said = "zero is mid-grey; the largest |v| of each is black or white" if panel.each else ""
    if panel.each and not (values < 0).any():
        said = "zero is black; the largest number of each is white"
    return Drawing(title, sheet, None if panel.each else ends, panel.unit, remark=said)


def tile_colors(values: Array, *, each: bool) -> tuple[Floats, Scale]:
    """Maps (n, h, w) or tiles (n, 3, h, w) as colours (n, h, w, 3), and the scale when it is one for all.

    With numbers of both signs, and for tiles always, zero is mid-grey; otherwise zero is black. The three colours
    of a tile share one scale, so that hues are kept. All-zero tiles are flat.

    >>> tile_colors(np.array([[[-1.0, 0.0, 1.0]], [[0.0, 0.0, 0.1]]]), each=True)[0][..., 0].round(2).tolist()
    [[[0.0, 0.5, 1.0]], [[0.5, 0.5, 1.0]]]
    """
    signed = values.ndim == 4 or bool((values < 0).any())
    ends = scale(values, signed=signed, colors="grey")
    axes = tuple(range(1, values.ndim))
    far = np.abs(values).max(axis=axes, keepdims=True) if each else np.float64(far_end(values))
    share = np.asarray(values, np.float64) / np.where(far > 0, far, 1.0)
    grey = np.clip(share / 2 + 0.5 if signed else share, 0.0, 1.0)
    if values.ndim == 3:
        return np.repeat(grey[..., None], 3, axis=3), ends
    return np.repeat(np.moveaxis(grey, 1, -1), 3 // values.shape[1], axis=3), ends


def _sheet(colors: Floats, columns: int | None) -> Array:
    """The mosaic at a size for the eye: tiles enlarged to about 48 pixels, few tiles more, as far as the sheet allows."""
    count, height, width = colors.shape[:3]
    across = columns or math.isqrt(count - 1) + 1
    tall = -(-count // across) * height
    times = max(round(48 / max(height, width)), LONGEST // 2 // max(across * width, tall))
    times = max(1, min(times, LONGEST // max(across * width, tall)))
    tiles = np.stack([enlarge(c, height * times, width * times) for c in colors])
    sheet = mosaic(tiles, columns=columns)
    longest = max(sheet.shape[:2])
    if longest <= 2 * LONGEST:
        return sheet
    share = 2 * LONGEST / longest
    return shrink(sheet, max(1, round(sheet.shape[0] * share)), max(1, round(sheet.shape[1] * share)))
