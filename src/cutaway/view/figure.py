"""Results as PNG figures, drawn with Pillow, with their provenance inside the file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from cutaway.core.errors import UsageError, unknown
from cutaway.core.result import Attribution, Curves, Patches, Picture, Result, Scatter, Table

from .charts import curves_drawing, patches_drawing, picture_drawing, scatter_drawing, table_drawing
from .colors import Theme, number, table
from .drawing import Drawing, drawings, evidence_scale, map_drawing, overlaid, picture_names, remark
from .lettering import HAIRLINE, INK, MUTED, PAPER, method_title, wrap, write
from .raster import encode, to_image

MARGIN, GAP, LINE = 16, 16, 18
TEXT_CHUNK = "cutaway"


def draw(result: Result, *, title: str = "", theme: Theme = "default") -> bytes:
    """Any result as the bytes of a PNG file.

    An attribution shows the photograph, the overlay, the plain map and its panels, each with a colour bar, its
    numbers and its unit. The text chunk "cutaway" holds `result.to_dict()` as JSON. `title` replaces the method's
    name. Raises `InputError` where the values hold NaN or infinity.
    """
    tiles = [_tile(p) for p in parts(result, theme)]
    image = _compose(result, title or method_title(result.method), tiles)
    info = PngInfo()
    info.add_itxt(TEXT_CHUNK, json.dumps(result.to_dict()), zip=True)
    return encode(image, pnginfo=info, optimize=True)


def contact_sheet(
    results: Sequence[Result],
    *,
    columns: Sequence[str] | int | None = None,
    cell: int = 192,
    theme: Theme = "default",
) -> Image.Image:
    """Many results as one labelled grid: a row for each picture, a column for each method.

    `columns` names the methods and their order, or is a whole number for a plain grid of that many columns.
    A method that stands several times for one picture (other options, layers or targets) takes several columns.
    """
    if not results:
        raise UsageError("a contact sheet of no results", "at least one result")
    if isinstance(columns, int):
        if columns < 1:
            raise UsageError(f"columns={columns}", "a whole number from 1", "columns=4")
        rows = [list(results[i : i + columns]) for i in range(0, len(results), columns)]
        return _sheet(rows, [], cell, theme)
    present = list(dict.fromkeys(r.method for r in results))
    order = present if columns is None else list(columns)
    for name in order:
        if name not in present:
            raise unknown("method among the results", name, present)
    places: dict[tuple[str, int], dict[str, Result]] = {}
    names = picture_names(results)
    for r, picture in zip(results, names, strict=True):
        turn = 0
        while picture in places.setdefault((r.method, turn), {}):
            turn += 1
        places[r.method, turn][picture] = r
    keys = sorted((k for k in places if k[0] in order), key=lambda k: (order.index(k[0]), k[1]))
    grid = [[places[k].get(p) for k in keys] for p in dict.fromkeys(names)]
    return _sheet(grid, [method_title(m) for m, _ in keys], cell, theme)


def _sheet(
    grid: Sequence[Sequence[Result | None]], heads: Sequence[str], cell: int, theme: Theme
) -> Image.Image:
    top = MARGIN + (LINE if heads else 0)
    step = cell + 3 * LINE + GAP
    size = (2 * MARGIN + max(map(len, grid)) * (cell + GAP) - GAP, top + len(grid) * step)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for c, head in enumerate(heads):
        write(pen, MARGIN + c * (cell + GAP), MARGIN - 2, _line(head, 13, cell), 13)
    for r, row in enumerate(grid):
        for c, result in enumerate(row):
            x, y = MARGIN + c * (cell + GAP), top + 4 + r * step
            if result is None:
                pen.rectangle((x, y, x + cell - 1, y + cell - 1), outline=HAIRLINE)
                continue
            picture = _in_cell(thumbnail(result, theme), cell)
            sheet.paste(picture, (x, y))
            lines = _captions(result, theme, named=not heads, first=c == 0)
            for i, line in enumerate(lines):
                write(pen, x, y + picture.height + 3 + 16 * i, _line(line, 12, cell), 12, MUTED)
    return sheet


def _in_cell(picture: Image.Image, cell: int) -> Image.Image:
    times = cell / max(picture.size)
    size = (max(1, round(picture.width * times)), max(1, round(picture.height * times)))
    return picture.resize(size, Image.Resampling.LANCZOS if times < 1 else Image.Resampling.NEAREST)


def _captions(result: Result, theme: Theme, *, named: bool, first: bool) -> list[str]:
    """What stands under a cell: method or picture where the grid does not say it, target, and the scale's ends."""
    where = f"{result.target} at {result.layer}" if result.layer else result.target
    ends = ""
    if isinstance(result, Attribution):
        bar = evidence_scale(result, theme)
        ends = remark(result) or f"{number(bar.low)} to {number(bar.high)} {result.unit}"
    lines = [f"{method_title(result.method)}  {where}" if named else where, ends]
    return [*lines, result.provenance.image] if named or first else lines


def thumbnail(result: Result, theme: Theme = "default") -> Image.Image:
    """The one picture that stands for a result.

    Of an attribution that is the overlay; where it has a number for every pixel, the plain map, because single
    pixels vanish on a photograph. Of any other result it is its drawing.
    """
    if not isinstance(result, Attribution):
        return parts(result, theme)[0].picture
    if result.values.shape[-2:] == result.image.shape[:2]:
        return map_drawing(result, theme).picture
    return to_image(overlaid(result, theme))


def parts(result: Result, theme: Theme = "default") -> list[Drawing]:
    """The drawings of any result."""
    match result:
        case Attribution():
            return drawings(result, theme)
        case Picture():
            return [picture_drawing(result)]
        case Patches():
            return [patches_drawing(result)]
        case Curves():
            return [curves_drawing(result)]
        case Table():
            return [table_drawing(result)]
        case Scatter():
            return [scatter_drawing(result)]
    raise UsageError(f"no drawing for a {type(result).__name__}", "one of the result kinds of cutaway")


def _compose(result: Result, title: str, tiles: Sequence[Image.Image]) -> Image.Image:
    columns = len(tiles) if len(tiles) <= 4 else 3 if len(tiles) in (5, 6) else 4
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    inner = max(480, max(sum(t.width + GAP for t in row) - GAP for row in rows))
    head = _heading(result, title, inner)
    foot = [line for note in result.notes for line in wrap(note, 12, inner)]
    height = 2 * MARGIN + 28 + len(head) * LINE + sum(max(t.height for t in row) + GAP for row in rows)
    image = Image.new("RGB", (inner + 2 * MARGIN, height + len(foot) * LINE), PAPER)
    pen = ImageDraw.Draw(image)
    write(pen, MARGIN, MARGIN - 2, _line(title, 20, inner), 20)
    y = MARGIN + 26
    for line in head:
        write(pen, MARGIN, y, line, 13, MUTED)
        y += LINE
    y += 8
    for row in rows:
        x = MARGIN
        for tile in row:
            image.paste(tile, (x, y))
            x += tile.width + GAP
        y += max(t.height for t in row) + GAP
    for line in foot:
        write(pen, MARGIN, y, line, 12, MUTED)
        y += LINE
    return image


def _heading(result: Result, title: str, width: int) -> list[str]:
    made = result.provenance
    facts = [f"{result.target}", f"at {result.layer}" if result.layer else "", made.model, made.image]
    known = [f"{k.replace('_', ' ')} {_short(v)}" for k, v in result.evidence.items() if _is_number(v)]
    lines = wrap("  ·  ".join(f for f in facts if f), 13, width)
    return lines + wrap("  ·  ".join([f"{number(made.seconds)} s", *known]), 13, width)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else str(value)


def _line(text: str, size: int, width: float) -> str:
    return wrap(text, size, width, 1)[0]


def _tile(part: Drawing) -> Image.Image:
    """A drawing with its title above and its colour bar or legend, with numbers, below."""
    width = max(part.picture.width, 160)
    title = wrap(part.title, 13, width, 2)
    said = wrap(part.remark, 12, width) if part.remark else []
    legend = [wrap(name, 12, width - 18, 1)[0] for _, name in part.legend]
    height = len(title) * LINE + part.picture.height + 6
    height += (10 + 2 * LINE if part.scale is not None else 0) + (len(said) + len(legend)) * LINE
    tile = Image.new("RGB", (width, height + 4), PAPER)
    pen = ImageDraw.Draw(tile)
    y = 0
    for line in title:
        write(pen, 0, y, line, 13)
        y += LINE
    tile.paste(part.picture, (0, y))
    y += part.picture.height + 6
    if part.scale is not None:
        y = _bar(tile, pen, part, y)
    for line in said:
        write(pen, 0, y, line, 12, INK)
        y += LINE
    for (color, _), name in zip(part.legend, legend, strict=True):
        pen.rectangle((0, y + 2, 11, y + 13), fill=tuple(round(255 * c) for c in color))
        write(pen, 18, y, name, 12)
        y += LINE
    return tile


def _bar(tile: Image.Image, pen: ImageDraw.ImageDraw, part: Drawing, y: int) -> int:
    ends, width = part.scale, part.picture.width
    assert ends is not None
    ramp = table(ends.colors, ends.levels)[None] if not ends.flat else ends.rgb(np.array([[ends.low]]))
    tile.paste(to_image(ramp).resize((width, 10), Image.Resampling.NEAREST), (0, y))
    pen.rectangle((0, y, width - 1, y + 9), outline=HAIRLINE)
    y += 13
    for x, anchor, value in zip(*_places(len(ends.marks), width), ends.marks, strict=True):
        write(pen, x, y, number(value), 12, INK, anchor)
    if part.unit:
        write(pen, 0, y + LINE - 2, _line(part.unit, 12, width), 12, MUTED)
    return y + (2 * LINE if part.unit else LINE)


def _places(marks: int, width: int) -> tuple[list[float], list[str]]:
    if marks == 1:
        return [width / 2], ["ma"]
    return ([0, width], ["la", "ra"]) if marks == 2 else ([0, width / 2, width], ["la", "ma", "ra"])
