"""Pictures or maps in rows, each under its name, some of them framed."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from cutaway.core.result import Panel

from .colors import OKABE_ITO, finite
from .drawing import Drawing
from .grids import tile_colors
from .lettering import INK, MUTED, PAPER, wrap, write
from .raster import fit, to_image

TILE, GAP, LINE, FRAME, ACROSS = 96, 8, 18, 3, 8
BROAD = 800
"""Pixels across that few pictures may fill, each at most at its own size."""
_FRAME = f"#{bytes(OKABE_ITO[5]).hex()}"


def is_strip(panel: Panel) -> bool:
    """Whether the panel holds several pictures, or maps that have names."""
    return (panel.values.ndim == 4 and panel.scale == "picture") or (
        panel.scale == "maps" and bool(panel.labels)
    )


def strip_drawing(panel: Panel) -> Drawing:
    """The pictures of a panel in their order, at most eight in a row unless it says otherwise."""
    values = finite(panel.values, f"panel {panel.title!r}")
    if panel.scale == "picture":
        colors, ends = np.clip(np.moveaxis(values, 1, -1), 0, 1), None
        colors = np.repeat(colors, 3 // colors.shape[-1], axis=3)
    else:
        colors, ends = tile_colors(values, each=panel.each)
    count, (height, width) = len(colors), colors.shape[1:3]
    columns = min(count, panel.columns or ACROSS)
    times = max(TILE, min(height, width, BROAD // columns - GAP)) / max(height, width)
    high, wide = max(1, round(height * times)), max(1, round(width * times))
    step, down = wide + GAP, high + LINE + GAP
    sheet = Image.new("RGB", (columns * step + 2 * FRAME - GAP, -(-count // columns) * down + FRAME), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, tile in enumerate(colors):
        x, y = FRAME + (i % columns) * step, FRAME + (i // columns) * down
        framed = i in panel.framed
        if framed:
            pen.rectangle((x - FRAME, y - FRAME, x + wide + FRAME - 1, y + high + FRAME - 1), fill=_FRAME)
        sheet.paste(to_image(fit(tile, high, wide, smooth=max(height, width) >= 48)), (x, y))
        name = wrap(panel.labels.get(i, str(i)), 12, wide, 1)[0]
        write(pen, x, y + high + FRAME, name, 12, INK if framed else MUTED)
    how = "each map on its own scale" if ends is not None and panel.each else ""
    return Drawing(panel.title, sheet, None if panel.each else ends, panel.unit, remark=how)
