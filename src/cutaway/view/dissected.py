"""A dissected network as one page: how many units of each layer detect what, and pictures of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import html
from .colors import Array
from .html import esc
from .page import CSP, CSS
from .raster import to_image

MORE = """
.bars td { vertical-align: middle; } .bars .meter { width: 220px; height: 10px; } .bars .meter i { border-top-width: 10px; }
.bars .meter.turned i { border-color: var(--muted); }
.units { display: grid; gap: 20px; margin-top: 24px; } .units h3 span { font-weight: 400; color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(5, minmax(0, 232px)); gap: 8px; margin-top: 8px; }
.tiles figcaption { overflow-wrap: anywhere; }
p.verdict { font-size: 16px; line-height: 24px; border-left: 3px solid var(--accent); padding-left: 12px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, max-content)); gap: 16px 48px;
   margin-top: 16px; align-items: start; }
@media screen and (max-width: 560px) { .two { grid-template-columns: minmax(0, 1fr); } .bars .meter { width: 96px; } }
"""


@dataclass(frozen=True)
class Bar:
    """A row of bars: its words, how long the bar is, and beside it that of the rotated layer, None without one."""

    name: str
    count: int
    rotated: int | None = None
    said: str = ""


@dataclass(frozen=True)
class Tiles:
    """One unit: a heading, what is said of it, and pictures (k, h, w, 3) in [0, 1] with their names."""

    title: str
    said: str
    pictures: Array
    names: Sequence[str]


@dataclass(frozen=True)
class DissectedSection:
    """One layer: its verdict, unique detectors by category, detectors by concept, pictures, and further lines."""

    layer: str
    verdict: str
    categories: Sequence[Bar]
    concepts: Sequence[Bar]
    units: Sequence[Tiles]
    notes: Sequence[str] = ()


def dissected(
    title: str,
    lead: str,
    sections: Sequence[DissectedSection],
    *,
    closing: Sequence[str] = (),
    command: str = "",
) -> str:
    """The complete text of a one-file HTML page; it holds no script and loads nothing.

    >>> page = dissected("Units", "", [DissectedSection("conv1", "1 of 8", [Bar("colour", 1)], [], [])])
    >>> "<script" in page, "conv1" in page
    (False, True)
    """
    links = "".join(f'<li><a href="#layer-{i}">{esc(s.layer)}</a></li>' for i, s in enumerate(sections, 1))
    shown = "".join(_section(s, f"layer-{i}") for i, s in enumerate(sections, 1))
    small = "".join(f"<li>{esc(line)}</li>" for line in closing)
    reading = (
        f'<section id="reading"><h2>How to read this</h2><ul class="plain">{small}</ul></section>'
        if small
        else ""
    )
    again = (
        f'<section id="again"><h2>Make it again</h2><pre>{esc(command)}</pre></section>' if command else ""
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CSP}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}{MORE}</style></head><body>"
        f'<header class="top"><h1>{esc(title)}</h1><p class="lead">{esc(lead)}</p>'
        f'<nav aria-label="contents"><ul>{links}</ul></nav></header><main>'
        f"{shown}{reading}{again}</main></body></html>\n"
    )


def _section(one: DissectedSection, anchor: str) -> str:
    bars = _bars("Unique detectors by category", one.categories) + _bars("Detectors by concept", one.concepts)
    units = "".join(map(_tiles, one.units))
    notes = "".join(f'<p class="small">{esc(n)}</p>' for n in one.notes)
    return (
        f'<section id="{anchor}"><h2>{esc(one.layer)}</h2><p class="verdict">{esc(one.verdict)}</p>'
        f'<div class="two">{bars}</div><div class="units">{units}</div>{notes}</section>'
    )


def _bars(title: str, bars: Sequence[Bar]) -> str:
    """A table of bars on one scale, with the rotated layer's in grey below each."""
    if not bars:
        return ""
    far = max(1, *(max(b.count, b.rotated or 0) for b in bars))
    lines = ""
    for bar in bars:
        drawn, numbers = html.meter(bar.count / far), str(bar.count)
        if bar.rotated is not None:
            drawn += html.meter(bar.rotated / far).replace('"meter"', '"meter turned"', 1)
            numbers = f"{bar.count}, rotated {bar.rotated}"
        said = f"<td>{esc(bar.said)}</td>" if any(b.said for b in bars) else ""
        lines += f'<tr><th scope="row">{esc(bar.name)}</th><td>{drawn}</td><td class="n">{esc(numbers)}</td>{said}</tr>'
    return (
        f'<div class="scroll"><h4>{esc(title)}</h4><table class="bars"><tbody>{lines}</tbody></table></div>'
    )


def _tiles(one: Tiles) -> str:
    figures = "".join(
        f"<figure>{html.picture(to_image(np.asarray(p)), f'{one.title} in {name}', photo=True)}"
        f"<figcaption>{esc(name)}</figcaption></figure>"
        for p, name in zip(one.pictures, one.names, strict=True)
    )
    return f'<div class="keep"><h3>{esc(one.title)} <span>{esc(one.said)}</span></h3><div class="tiles">{figures}</div></div>'
