"""Results as PNG figures, drawn with Pillow, with their provenance inside the file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from cutaway.core.result import Picture, Result

from .charts import parts
from .colors import Theme, number, table
from .drawing import Drawing
from .lettering import HAIRLINE, INK, MUTED, PAPER, method_title, wrap, write
from .raster import encode, to_image
from .sheet import contact_sheet, gallery, stands_alone
from .walk import stages

__all__ = ["contact_sheet", "draw", "stacked"]

MARGIN, GAP, LINE = 16, 16, 18
TEXT_CHUNK = "cutaway"


def draw(result: Result, *, title: str = "", theme: Theme = "default") -> bytes:
    """Any result as the bytes of a PNG file.

    An attribution shows the photograph, the overlay, the plain map and its panels, each with a colour bar, its
    numbers and its unit. The text chunk "cutaway" holds `result.to_dict()` as JSON. `title` replaces the method's
    name. Raises `InputError` where the values hold NaN or infinity.
    """
    image = _compose(result, title or method_title(result.method), parts(result, theme))
    info = PngInfo()
    info.add_itxt(TEXT_CHUNK, json.dumps(result.to_dict()), zip=True)
    return encode(image, pnginfo=info, optimize=True)


def stacked(results: Sequence[Result], *, theme: Theme = "default") -> bytes:
    """Several results as the bytes of one PNG file, side by side where they fit; the text chunk holds a list of them.

    Pictures that have nothing beside them become a gallery.
    """
    if len(results) > 1 and all(map(stands_alone, results)):
        return _told(gallery([r for r in results if isinstance(r, Picture)]), results)
    images = [_compose(r, method_title(r.method), parts(r, theme)) for r in results]
    wide, rows = max(image.width for image in images), [[images[0]]]
    for image in images[1:]:
        if sum(i.width for i in rows[-1]) + image.width <= wide:
            rows[-1].append(image)
        else:
            rows.append([image])
    sheet = Image.new("RGB", (wide, sum(max(i.height for i in row) for row in rows)), PAPER)
    y = 0
    for row in rows:
        x = 0
        for image in row:
            sheet.paste(image, (x, y))
            x += image.width
        y += max(i.height for i in row)
    return _told(sheet, results)


def moving(result: Result) -> bytes:
    """The frames of a result, the pictures of its first panel that holds several, as the bytes of a GIF file.

    A result without frames gives its one picture. Twelve frames a second, over and over.
    """
    several = [p.values for p in result.panels.values() if p.values.ndim == 4 and p.scale == "picture"]
    frames = several[0] if several else result.values[None]
    shown = [to_image(np.clip(np.moveaxis(f, 0, -1), 0, 1)) for f in frames]
    return encode(shown[0], "GIF", save_all=True, append_images=shown[1:], duration=83, loop=0)


def _told(sheet: Image.Image, results: Sequence[Result]) -> bytes:
    info = PngInfo()
    info.add_itxt(TEXT_CHUNK, json.dumps([r.to_dict() for r in results]), zip=True)
    return encode(sheet, pnginfo=info, optimize=True)


def _compose(result: Result, title: str, drawn: Sequence[Drawing]) -> Image.Image:
    columns = len(drawn) if len(drawn) <= 4 else 3 if len(drawn) in (5, 6) else 4
    rows = [_row(drawn[i : i + columns]) for i in range(0, len(drawn), columns)]
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
    facts = [
        f"{result.target}",
        f"at {result.layer}" if result.layer and not stages(result) else "",
        made.model,
        made.image,
    ]
    known = [f"{k.replace('_', ' ')} {_short(v)}" for k, v in result.evidence.items() if _is_number(v)]
    lines = wrap("  ·  ".join(f for f in facts if f), 13, width)
    return lines + wrap("  ·  ".join([f"{number(made.seconds)} s", *known]), 13, width)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else str(value)


def _line(text: str, size: int, width: float) -> str:
    return wrap(text, size, width, 1)[0]


def _row(drawn: Sequence[Drawing]) -> list[Image.Image]:
    """Tiles side by side, their pictures at one height whatever the length of their titles."""
    titles = [wrap(p.title, 13, max(p.picture.width, 160), 2) for p in drawn]
    most = max(map(len, titles))
    return [_tile(p, [""] * (most - len(t)) + t) for p, t in zip(drawn, titles, strict=True)]


def _tile(part: Drawing, title: Sequence[str]) -> Image.Image:
    """A drawing with its title above and its colour bar or legend, with numbers, below."""
    width = max(part.picture.width, 160)
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
