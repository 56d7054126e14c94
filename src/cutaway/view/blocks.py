"""Parts of the report for results that lie on no picture: drawn ones in a gallery, others as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.core.result import Result

from . import html
from .charts import parts
from .html import esc
from .raster import fit, to_image
from .sheet import told

if TYPE_CHECKING:
    from .cards import Subject

SIDE = 224
"""Pixels of the longer side of a picture in a gallery."""


def other_block(subject: Subject, result: Result) -> str:
    """A result that does not lie on a picture, drawn as a figure."""
    title = subject.title(result.method)
    known = subject.catalogue.get(result.method)
    figures = "".join(
        html.drawing(p, f"{title}: {p.title or result.kind}.") for p in parts(result, subject.theme)
    )
    notes = "".join(f'<p class="small">{esc(n)}</p>' for n in result.notes)
    caveat = f'<p class="caveat">{esc(known.caveat)}</p>' if known and known.caveat else ""
    pairs = {"target": result.target, "layer": result.layer or ""}
    pairs |= evident(result.evidence)
    listed = html.facts({k: v for k, v in pairs.items() if v})
    drawn = f'<div class="row">{figures}</div>'
    return f'<div class="block figure"><h3>{esc(title)}</h3>{drawn}{listed}{notes}{caveat}</div>'


def gallery_block(subject: Subject, results: Sequence[Result]) -> str:
    """Pictures that one method drew, side by side, each over its target and what it reached."""
    first = results[0]
    known = subject.catalogue.get(first.method)
    figures = ""
    for r in results:
        height, width = r.values.shape[1:]
        times = SIDE / max(height, width)
        size = max(1, round(height * times)), max(1, round(width * times))
        drawn = to_image(fit(np.moveaxis(r.values, 0, -1), *size, smooth=max(height, width) >= 48))
        alt = f"{subject.title(r.method)}: {r.target}."
        lines = "<br>".join(esc(line) for line in told(r))
        figures += (
            f"<figure>{html.picture(drawn, alt, cells=times > 4)}<figcaption>{lines}</figcaption></figure>"
        )
    notes = "".join(
        f'<p class="small">{esc(n)}</p>' for n in dict.fromkeys(n for r in results for n in r.notes)
    )
    caveat = f'<p class="caveat">{esc(known.caveat)}</p>' if known and known.caveat else ""
    options = {k.replace("_", " "): html.short(v) for k, v in first.options.items() if v is not None}
    return (
        f'<div class="block figure"><h3>{esc(subject.title(first.method))}</h3><div class="row">{figures}</div>'
        f"{html.facts(options)}{notes}{caveat}</div>"
    )


def evident(evidence: Mapping[str, object]) -> dict[str, str]:
    """Evidence in words; what holds names of its own is left to the raw result."""
    return {k.replace("_", " "): html.short(v) for k, v in evidence.items() if not isinstance(v, Mapping)}
