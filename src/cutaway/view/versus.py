"""Two networks side by side: the same pictures, the same methods, one row of maps for each network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutaway.core.result import Attribution

from . import html
from .colors import Array, number
from .drawing import evidence_scale, frame, overlaid
from .html import esc
from .page import CSP, CSS
from .raster import enlarge, to_image

OUTLINE = (1.0, 0.83, 0.0)
MORE = """
.versus td { border: 0; padding: 0 12px 12px 0; vertical-align: top; } .versus th { border: 0; padding: 0 12px 4px 0; }
.versus td figure { width: 176px; } .versus td.who { width: 168px; } .versus td.who b { display: block; }
p.verdict { font-size: 16px; line-height: 24px; border-left: 3px solid var(--accent); padding-left: 12px; }
p.verdict.failed { border-color: var(--warn); color: var(--warn); }
"""


@dataclass(frozen=True)
class Row:
    """One network's side: its name, its answer, and its maps with a line of text under each."""

    name: str
    answer: str
    maps: Sequence[Attribution]
    said: Sequence[str]


@dataclass(frozen=True)
class Pair:
    """One picture (H, W, 3) in [0, 1] explained on several networks; `outline` (H, W) is drawn round on every map."""

    title: str
    image: Array
    rows: Sequence[Row]
    outline: Array | None = None


@dataclass(frozen=True)
class Listing:
    """A table with a heading, and a line of text under it; `numeric` names the columns set to the right."""

    title: str
    heads: Sequence[str]
    body: Sequence[Sequence[str]]
    said: str = ""
    numeric: Sequence[int] = ()


def versus(
    title: str,
    lead: str,
    verdict: str,
    listings: Sequence[Listing],
    pairs: Sequence[Pair],
    *,
    failed: bool = False,
    closing: Sequence[str] = (),
) -> str:
    """The complete text of a one-file HTML page: the verdict, the tables, the pictures, the small print.

    The page holds no script and loads nothing. Raises `InputError` for NaN in a map.
    """
    style = "verdict failed" if failed else "verdict"
    tables = "".join(
        f"<section><h2>{esc(one.title)}</h2>{html.rows(one.heads, one.body, numeric=one.numeric)}"
        f"{_paragraph(one.said)}</section>"
        for one in listings
    )
    shown = "".join(_pair(pair) for pair in pairs)
    print_ = "".join(f"<li>{esc(line)}</li>" for line in closing)
    small = f'<section><h2>How this was done</h2><ul class="plain">{print_}</ul></section>' if closing else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CSP}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}{MORE}</style></head><body>"
        f'<header class="top"><h1>{esc(title)}</h1><p class="lead">{esc(lead)}</p></header><main>'
        f'<p class="{style}">{esc(verdict)}</p>{tables}{shown}{small}</main></body></html>\n'
    )


def outlined(picture: Array, mask: Array) -> Array:
    """The picture (h, w, 3) with a line round the mask (H, W), drawn just outside it.

    >>> dot = np.array([[False, False, False], [False, True, False], [False, False, False]])
    >>> (outlined(np.zeros((3, 3, 3)), dot).sum(2) > 0).astype(int).tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    height, width = picture.shape[:2]
    inside = enlarge(mask, height, width).astype(bool)
    near = np.pad(inside, 1)
    line = ~inside & (near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:])
    return np.where(line[..., None], np.array(OUTLINE), picture)


def _pair(pair: Pair) -> str:
    methods = "".join(f'<th scope="col">{esc(result.method)}</th>' for result in pair.rows[0].maps)
    height, width = frame(pair.image)
    photo = html.picture(to_image(enlarge(pair.image, height, width)), f"the picture: {pair.title}")
    picture = (
        f'<td rowspan="{len(pair.rows)}"><figure>{photo}<figcaption>the picture</figcaption></figure></td>'
    )
    lines = ""
    for line, row in enumerate(pair.rows):
        cells = "".join(
            _map(result, said, row.name, pair.outline)
            for result, said in zip(row.maps, row.said, strict=True)
        )
        who = f'<td class="who"><b>{esc(row.name)}</b><span class="small">{esc(row.answer)}</span></td>'
        lines += f"<tr>{picture if not line else ''}{who}{cells}</tr>"
    return (
        f'<section class="picture keep"><h2>{esc(pair.title)}</h2><div class="scroll"><table class="versus">'
        f"<thead><tr><td></td><td></td>{methods}</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _map(result: Attribution, said: str, network: str, outline: Array | None) -> str:
    shown = overlaid(result)
    shown = shown if outline is None else outlined(shown, outline)
    alt = f"{result.method} on {network}: {said}"
    ends = evidence_scale(result)
    marks = f"{number(ends.marks[0])} to {number(ends.marks[-1])}"
    return (
        f"<td><figure>{html.picture(to_image(shown), alt)}<figcaption>{esc(said)}<br>"
        f"scale {esc(marks)}</figcaption></figure></td>"
    )


def _paragraph(text: str) -> str:
    return f'<p class="small">{esc(text)}</p>' if text else ""
