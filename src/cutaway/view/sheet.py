"""Many results on one sheet: rows of pictures, columns of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cutaway.core.errors import UsageError, unknown
from cutaway.core.result import Attribution, Picture, Result

from .charts import parts
from .colors import Theme, number
from .drawing import evidence_scale, is_fine, map_drawing, overlaid, photograph, picture_names, remark
from .lettering import HAIRLINE, INK, MUTED, PAPER, method_title, wrap, write
from .raster import fit, to_image

MARGIN, GAP, LINE = 16, 16, 16
BROAD = 9
"""Methods from which on a sheet of one picture has several rows."""


@dataclass(frozen=True)
class _Cell:
    picture: Image.Image
    lines: Sequence[str]


def contact_sheet(
    results: Sequence[Result],
    *,
    columns: Sequence[str] | int | None = None,
    cell: int = 192,
    theme: Theme = "default",
) -> Image.Image:
    """Many results as one labelled grid: a row for each picture, which stands first, and a column for each method.

    `columns` names the methods and their order, or is a whole number for a plain grid of that many columns.
    One picture with many methods becomes a block of several rows, each cell with its method's name.
    A method that stands several times for one picture (other options, layers or targets) takes several columns.
    Raises `UsageError` for no results or less than one column, `UnknownNameError` for a method without results.
    """
    if not results:
        raise UsageError("a contact sheet of no results", "at least one result")
    if isinstance(columns, int):
        if columns < 1:
            raise UsageError(f"columns={columns}", "a whole number from 1", "columns=4")
        cells: list[_Cell | None] = [_cell(r, theme, named=True) for r in results]
        return _sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], [], cell)
    present = list(dict.fromkeys(r.method for r in results))
    order = present if columns is None else list(columns)
    for name in order:
        if name not in present:
            raise unknown("method among the results", name, present)
    places: dict[tuple[str, int], dict[str, Result]] = {}
    photos: dict[str, _Cell] = {}
    names = list(picture_names(results))
    for r, name in zip(results, names, strict=True):
        turn = 0
        while name in places.setdefault((r.method, turn), {}):
            turn += 1
        places[r.method, turn][name] = r
        if isinstance(r, Attribution) and name not in photos:
            photos[name] = _Cell(to_image(photograph(r)), [name, r.provenance.model])
    keys = sorted((k for k in places if k[0] in order), key=lambda k: (order.index(k[0]), k[1]))
    if len(set(names)) == 1 and len(keys) >= BROAD:  # one long row becomes a block
        block = [*photos.values(), *(_cell(places[k][names[0]], theme, named=True) for k in keys)]
        wide = math.ceil(math.sqrt(1.6 * len(block)))
        return _sheet([block[i : i + wide] for i in range(0, len(block), wide)], [], cell)
    grid: list[list[_Cell | None]] = []
    for name in dict.fromkeys(names):
        row = [places[k].get(name) for k in keys]
        grid.append([photos.get(name), *(_cell(r, theme) if r is not None else None for r in row)])
    return _sheet(grid, ["picture", *(method_title(m) for m, _ in keys)], cell)


def stands_alone(result: Result) -> bool:
    """Whether a result is one drawn picture with nothing beside it."""
    return isinstance(result, Picture) and result.scale == "picture" and not result.panels


def told(result: Result) -> list[str]:
    """What stands under a drawn picture: its target and the first numbers of its evidence."""
    numbers = [f"{k} {number(v)}" for k, v in result.evidence.items() if isinstance(v, int | float)]
    return [result.target or method_title(result.method), "  ·  ".join(numbers[:2])]


def gallery(results: Sequence[Picture], *, cell: int = 224) -> Image.Image:
    """Drawn pictures side by side, each over its target and the first numbers of its evidence."""
    cells: list[_Cell | None] = []
    for r in results:
        height, width = r.values.shape[1:]
        times = cell / max(height, width)
        size = max(1, round(height * times)), max(1, round(width * times))
        drawn = fit(np.moveaxis(r.values, 0, -1), *size, smooth=max(height, width) >= 48)
        cells.append(_Cell(to_image(drawn), told(r)))
    columns = min(len(cells), max(1, math.ceil(math.sqrt(1.6 * len(cells)))))
    return _sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], [], cell)


def thumbnail(result: Result, theme: Theme = "default") -> Image.Image:
    """The one picture that stands for a result.

    Of an attribution that is the overlay; where single pixels differ, the plain map, because they vanish on a
    photograph. Of any other result it is its drawing.
    """
    if not isinstance(result, Attribution):
        return parts(result, theme)[0].picture
    if is_fine(result):
        return map_drawing(result, theme).picture
    return to_image(overlaid(result, theme))


def _cell(result: Result, theme: Theme, *, named: bool = False) -> _Cell:
    """A thumbnail with its target and the ends of its scale, and with method and picture where no grid says them."""
    lines = [result.target, result.layer or ""]
    if isinstance(result, Attribution):
        bar = (map_drawing(result, theme).scale if is_fine(result) else None) or evidence_scale(result, theme)
        lines.append(remark(result) or f"{number(bar.low)} to {number(bar.high)} {result.unit}")
    if named:
        lines = [method_title(result.method), *lines, result.provenance.image]
    return _Cell(thumbnail(result, theme), [line for line in lines if line])


def _sheet(grid: Sequence[Sequence[_Cell | None]], heads: Sequence[str], cell: int) -> Image.Image:
    pictures = [[_in_cell(c.picture, cell) if c is not None else None for c in row] for row in grid]
    heights = [
        max(
            (
                (p.height if p else cell) + LINE * len(c.lines if c else ())
                for p, c in zip(ps, cs, strict=True)
            )
        )
        for ps, cs in zip(pictures, grid, strict=True)
    ]
    top = MARGIN + (LINE + 6 if heads else 0)
    width = 2 * MARGIN + max(map(len, grid)) * (cell + GAP) - GAP
    sheet = Image.new("RGB", (width, top + sum(h + GAP for h in heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for c, head in enumerate(heads):
        write(pen, MARGIN + c * (cell + GAP), MARGIN, wrap(head, 13, cell, 1)[0], 13)
    y = top
    for row, drawn, height in zip(grid, pictures, heights, strict=True):
        for c, (content, picture) in enumerate(zip(row, drawn, strict=True)):
            x = MARGIN + c * (cell + GAP)
            if content is None or picture is None:
                pen.rectangle((x, y, x + cell - 1, y + cell - 1), outline=HAIRLINE)
                continue
            sheet.paste(picture, (x, y))
            for i, line in enumerate(content.lines):
                color = MUTED if heads or i else INK
                write(pen, x, y + picture.height + 3 + LINE * i, wrap(line, 12, cell, 1)[0], 12, color)
        y += height + GAP
    return sheet


def _in_cell(picture: Image.Image, cell: int) -> Image.Image:
    times = cell / max(picture.size)
    size = (max(1, round(picture.width * times)), max(1, round(picture.height * times)))
    return picture.resize(size, Image.Resampling.LANCZOS if times < 1 else Image.Resampling.NEAREST)
