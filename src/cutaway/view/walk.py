"""A walk down a network on one sheet: of every layer the projections of its strongest maps beside what they saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from cutaway.core.result import Attribution, Panel, Result

from .colors import OKABE_ITO, Array, finite
from .drawing import Drawing, photograph
from .lettering import HAIRLINE, INK, MUTED, PAPER, wrap, write
from .raster import fit, shrink, to_image

TILE, PHOTO = 88, 224
"""Pixels of the longer side of a tile, and of the photograph, on the sheet."""
ACROSS, GAP, LINE, BETWEEN = 8, 4, 16, 24
LEAST = 340
"""Pixels that the headings over projections need, however few they are."""
SILENT = "silent"
BRIGHT = 0.995
"""Share of a projection's numbers below the end of its scale: a few strong pixels would leave the rest grey."""
_COLORS = [f"#{bytes(c).hex()}" for c in OKABE_ITO[[4, 6, 2, 0, 1, 5, 7, 3]]]


@dataclass(frozen=True)
class Stage:
    """One layer of a walk: a panel of projections and a panel of patches, tile by tile."""

    name: str
    projections: Panel
    patches: Panel

    @property
    def labels(self) -> list[str]:
        """The name of each tile."""
        return [self.projections.labels.get(i, str(i)) for i in range(len(self.projections.values))]

    @property
    def sentence(self) -> str:
        """The stage in one sentence, for those who cannot see it."""
        said = [label.replace(": ", " with activation ") for label in self.labels]
        return f"{self.projections.title}. Projections and patches of channel {', '.join(said)}."


def stages(result: Result) -> list[Stage]:
    """The layers of a walk, shallow first; none where the result is not a walk."""
    if not isinstance(result, Attribution):
        return []
    panels = list(result.panels.items())
    pairs = pairwise(panels)
    return [
        Stage(name, first, second)
        for (name, first), (_, second) in pairs
        if first.scale == "tiles" and second.scale == "picture" and second.values.ndim == 4
    ]


def walk_drawing(result: Attribution) -> Drawing:
    """The whole walk, shallow layers on top: the photograph with one field per layer, projections left, patches right."""
    found = stages(result)
    widest = max(
        LEAST, *(_block(stage, TILE)[0] for stage in found)
    )  # so that the patches stand in one column
    sheets = [stage_image(stage, result.image.shape[:2], wide=widest) for stage in found]
    heads = [
        wrap(stage.projections.title, 13, sheet.width, 1)[0]
        for stage, sheet in zip(found, sheets, strict=True)
    ]
    left = PHOTO + BETWEEN
    height = sum(LINE + 6 + sheet.height + 10 for sheet in sheets) + LINE
    photo = _photograph(result, found)
    page = Image.new("RGB", (left + max(s.width for s in sheets), max(height, photo.height)), PAPER)
    page.paste(photo, (0, 0))
    pen = ImageDraw.Draw(page)
    half = widest + BETWEEN
    write(pen, left, 0, f"projected down to pixels ({found[0].projections.unit})", 12, MUTED)
    write(pen, left + half, 0, "what those positions see of the photograph", 12, MUTED)
    y = LINE + 4
    for i, (head, sheet) in enumerate(zip(heads, sheets, strict=True)):
        pen.rectangle((left, y + 2, left + 10, y + 12), fill=_COLORS[i % len(_COLORS)])
        write(pen, left + 18, y, head, 13, INK)
        page.paste(sheet, (left, y + LINE + 6))
        y += LINE + 6 + sheet.height + 10
    return Drawing(
        "",
        page,
        remark="channel: activation. Each projection on its own scale, which its largest 0.5 % leave; grey is zero.",
    )


def stage_image(
    stage: Stage, size: Sequence[int], *, tile: int = TILE, beside: bool = True, wide: int = 0
) -> Image.Image:
    """One layer: its projections, and its patches beside or below them, each tile under its name.

    `size` is the height and width of the photograph; what a tile covers beyond it is left white. The projections
    take at least `wide` pixels.
    """
    own, high = _block(stage, tile)
    wide = max(own, wide)
    shape = (2 * wide + BETWEEN, high) if beside else (wide, 2 * high)
    image = Image.new("RGB", shape, PAPER)
    for panel, (x, y) in (
        (stage.projections, (0, 0)),
        (stage.patches, (wide + BETWEEN, 0) if beside else (0, high)),
    ):
        finite(panel.values, f"panel {panel.title!r}")
        for i, label in enumerate(stage.labels):
            name = label if panel is stage.projections else label.partition(":")[0]
            drawn = _tile(panel, i, size, tile, silent=label.endswith(SILENT))
            at = x + (i % ACROSS) * (tile + GAP), y + (i // ACROSS) * (LINE + drawn.height + GAP)
            write(ImageDraw.Draw(image), *at, wrap(name, 12, tile, 1)[0], 12, MUTED)
            image.paste(drawn, (at[0], at[1] + LINE))
    return image


def _block(stage: Stage, tile: int) -> tuple[int, int]:
    """Width and height of one block of tiles."""
    count = len(stage.projections.values)
    high = max(_fit(panel.values.shape[-2:], tile)[0] for panel in (stage.projections, stage.patches))
    return min(count, ACROSS) * (tile + GAP), -(-count // ACROSS) * (LINE + high + GAP)


def _fit(shape: Sequence[int], tile: int) -> tuple[int, int]:
    """Height and width of a tile that keeps its proportions."""
    longest = max(shape)
    return max(1, round(shape[0] * tile / longest)), max(1, round(shape[1] * tile / longest))


def _tile(panel: Panel, i: int, size: Sequence[int], tile: int, *, silent: bool) -> Image.Image:
    """One projection or patch; white where it covers nothing of the photograph."""
    values: Array = panel.values[i]
    high, wide = _fit(values.shape[1:], tile)
    if silent:
        image = Image.new("RGB", (wide, high), PAPER)
        write(ImageDraw.Draw(image), wide / 2, high / 2, SILENT, 12, MUTED, "mm")
    else:
        image = to_image(_colors(panel, values, high, wide))
    pen = ImageDraw.Draw(image)
    box = panel.boxes[i] if i < len(panel.boxes) else None
    if box is not None:
        top, left, bottom, right = box
        down, across = high / (bottom - top + 1), wide / (right - left + 1)
        inside = (-top * down, (size[0] - top) * down, -left * across, (size[1] - left) * across)
        first, last, start, end = (round(edge) for edge in inside)
        for x0, y0, x1, y1 in (
            (0, 0, wide, first),
            (0, last, wide, high),
            (0, 0, start, high),
            (end, 0, wide, high),
        ):
            if x1 > x0 and y1 > y0:
                pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=PAPER)
    pen.rectangle((0, 0, wide - 1, high - 1), outline=HAIRLINE)
    return image


def _colors(panel: Panel, values: Array, high: int, wide: int) -> Array:
    """The tile in colours, at its size: projections are shrunk before they are scaled, so that none looks faint."""
    values = np.broadcast_to(values, (3, *values.shape[1:]))
    if panel.scale == "picture":
        return fit(
            np.clip(np.moveaxis(values, 0, -1), 0, 1),
            high,
            wide,
            smooth=min(high, wide) < 4 * min(values.shape[1:]),
        )
    if values.shape[1] > high or values.shape[2] > wide:
        values = np.moveaxis(shrink(np.moveaxis(values, 0, -1), high, wide), -1, 0)
    sizes = np.abs(np.asarray(values, np.float64)).ravel()
    far = float(np.quantile(sizes, BRIGHT, method="higher")) or float(sizes.max()) or 1.0
    return fit(np.clip(np.moveaxis(values, 0, -1) / far / 2 + 0.5, 0.0, 1.0), high, wide, smooth=False)


def _photograph(result: Attribution, found: Sequence[Stage]) -> Image.Image:
    """The photograph with the first field of every layer drawn in, and the names of the colours under it."""
    size = result.image.shape[:2]
    high, wide = _fit(size, PHOTO)
    names = [wrap(stage.name, 12, PHOTO - 18, 1)[0] for stage in found]
    said = wrap("boxes: what the strongest position of each layer sees", 12, PHOTO)
    image = Image.new("RGB", (PHOTO, LINE + 4 + high + 8 + LINE * (len(names) + len(said))), PAPER)
    pen = ImageDraw.Draw(image)
    write(pen, 0, 0, "what the network saw", 12, MUTED)
    photo = to_image(fit(photograph(result), high, wide, smooth=False))
    marks = ImageDraw.Draw(photo)
    for i, stage in reversed(list(enumerate(found))):
        box = next(iter(stage.patches.boxes), None)
        if box is not None:
            top, left, bottom, right = box
            down, across = high / size[0], wide / size[1]
            ends = (left * across, top * down, (right + 1) * across - 1, (bottom + 1) * down - 1)
            kept = [max(0.0, ends[0]), max(0.0, ends[1]), min(wide - 1.0, ends[2]), min(high - 1.0, ends[3])]
            grown = [kept[0] - 1, kept[1] - 1, kept[2] + 1, kept[3] + 1]
            marks.rectangle(grown, outline="#ffffff", width=1)
            marks.rectangle(kept, outline=_COLORS[i % len(_COLORS)], width=2)
    image.paste(photo, (0, LINE + 4))
    y = LINE + 4 + high + 8
    for line in said:
        write(pen, 0, y, line, 12, MUTED)
        y += LINE
    for i, name in enumerate(names):
        pen.rectangle((0, y + 2, 10, y + 12), fill=_COLORS[i % len(_COLORS)])
        write(pen, 18, y, name, 12)
        y += LINE
    return image
