"""The report's small parts: escaped text, pictures inside the page, colour bars, tables."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from .colors import Array, Scale, number, table
from .drawing import Drawing
from .raster import encode, to_image
from .words import coarse


def esc(value: object) -> str:
    """Any value as text that cannot be read as HTML, quotes included; a number keeps its "%" on its line."""
    return escape(str(value), quote=True).replace(" %", "&nbsp;%")


def picture(image: Image.Image, alt: str, *, cells: bool = False, name: str = "", photo: bool = False) -> str:
    """An `<img>` that holds its picture: JPEG for photographs, else PNG with a palette where 256 colours do.

    `cells` keeps the edges of enlarged cells hard; `alt` is the sentence a reader hears instead.
    """
    data, kind = _bytes(image, photo)
    classes = " ".join(c for c in (name, "cells" if cells else "") if c)
    style = f' class="{classes}"' if classes else ""
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img{style} {size} alt="{esc(alt)}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def _bytes(image: Image.Image, photo: bool) -> tuple[bytes, str]:
    if photo and max(image.size) > 96:
        return encode(image, "JPEG", quality=88, subsampling=0), "image/jpeg"
    if image.mode == "RGB" and image.getcolors(256) is not None:
        image = _palette(image)
    return encode(image, "PNG", optimize=True), "image/png"


def _palette(image: Image.Image) -> Image.Image:
    """The same picture, at most 256 colours, with one byte per pixel; exact."""
    pixels = np.asarray(image)
    colors, place = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    packed = Image.fromarray(place.reshape(pixels.shape[:2]).astype(np.uint8), mode="L")
    packed.putpalette(colors.astype(np.uint8).tobytes(), "RGB")
    return packed


def bar(ends: Scale, unit: str) -> str:
    """A colour bar with its numbers and its unit."""
    marks = [number(m) for m in ends.marks]
    if ends.flat:
        ramp = to_image(ends.rgb(np.array([[ends.low]])))
    else:
        ramp = to_image(table(ends.colors, ends.levels)[None])
    alt = f"colour bar {'at' if ends.flat else 'from'} {' to '.join(dict.fromkeys((marks[0], marks[-1])))} {unit}"
    numbers = "".join(f"<span>{m}</span>" for m in marks)
    said = f'<div class="unit">{esc(unit)}</div>' if unit else ""
    return f'<div>{picture(ramp, alt.strip(), name="bar")}<div class="marks num">{numbers}</div>{said}</div>'


def legend(entries: Iterable[tuple[tuple[float, float, float], str]]) -> str:
    """Coloured squares with their names."""
    items = ""
    for color, name in entries:
        code = bytes(round(255 * c) for c in color).hex()
        items += f'<li><b style="border-color:#{code}"></b>{esc(name)}</li>'
    return f'<ul class="legend">{items}</ul>'


def drawing(part: Drawing, alt: str, *, photo: bool = False) -> str:
    """A picture as a figure with its title above, and its bar or legend below."""
    below = bar(part.scale, part.unit) if part.scale is not None else ""
    below += legend(part.legend) if part.legend else ""
    below += f'<p class="flag">{esc(part.remark)}</p>' if part.remark else ""
    title = f"<h4>{esc(part.title)}</h4>" if part.title else ""
    return f"<figure>{title}{picture(part.picture, alt, photo=photo)}{below}</figure>"


def meter(part: float, mark: float | None = None) -> str:
    """A horizontal bar filled to `part`, with an optional tick at `mark`; both in [0, 1]. Its number stands in text."""
    tick = f'<u style="left:{100 * mark:.1f}%"></u>' if mark is not None else ""
    return (
        f'<div class="meter" aria-hidden="true"><i style="width:{100 * min(1.0, part):.1f}%"></i>{tick}</div>'
    )


def facts(pairs: Mapping[str, str]) -> str:
    """Names with their values; `pairs` holds plain text."""
    items = "".join(f"<div><dt>{esc(k)}</dt> <dd>{esc(v)}</dd></div>" for k, v in pairs.items())
    return f'<dl class="facts">{items}</dl>'


def rows(heads: Sequence[str], body: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> str:
    """A table of plain text; `numeric` names the columns set to the right."""
    mark = [' class="n"' if i in numeric else "" for i in range(len(heads))]
    top = "".join(f'<th scope="col"{m}>{esc(h)}</th>' for h, m in zip(heads, mark, strict=True))
    lines = ""
    for row in body:
        cells = "".join(f"<td{m}>{esc(c)}</td>" for c, m in zip(row, mark, strict=True))
        lines += f"<tr>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def values_table(heat: Array) -> str:
    """The map as a coarse table of numbers, folded away."""
    grid = coarse(heat)
    height, width = grid.shape
    how = "its own numbers" if grid.shape == heat.shape else f"means over {height} × {width} equal areas"
    heads = "".join(f'<th scope="col" class="n">{c + 1}</th>' for c in range(width))
    lines = ""
    for r, row in enumerate(grid):
        cells = "".join(f'<td class="n">{number(float(v))}</td>' for v in row)
        lines += f'<tr><th scope="row">{r + 1}</th>{cells}</tr>'
    return (
        f"<details><summary>values as table ({how})</summary>"
        f'<div class="scroll"><table class="grid"><thead><tr><td></td>{heads}</tr></thead><tbody>{lines}</tbody>'
        "</table></div></details>"
    )


def short(value: Any) -> str:
    """A value of an option or of evidence in a few characters."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float):
        return number(float(value)) if isinstance(value, float) else str(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"
