"""One picture's part of the report: prediction, bench of methods, panels, what was refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cutaway.core.result import Attribution, Panel, Result

from . import html
from .blocks import gallery_block, other_block
from .colors import Array, Theme, number
from .drawing import LIFTED, drawings, frame, is_fine, map_drawing, overlaid, panel_drawing, photograph
from .html import esc
from .lettering import method_title
from .raster import desaturate, enlarge, to_image
from .sheet import stands_alone
from .walk import stage_image, stages
from .words import duration, panel_sentence, sentence, share, share_inside, where

WALK_TILE = 136
"""Pixels of a tile of a walk on the page, where eight stand side by side."""


class Described(Protocol):
    """What the report says about a method: its name for people, one sentence of caution, its source.

    Every declaration in `cutaway.methods.METHODS` is one.
    """

    @property
    def title(self) -> str:
        """Its name for people."""
        ...

    @property
    def caveat(self) -> str:
        """One sentence of caution."""
        ...

    @property
    def paper(self) -> str:
        """Where it was published."""
        ...


class Predicted(Protocol):
    """One class with its probability; `cutaway.core.model.Prediction` is one."""

    @property
    def name(self) -> str:
        """The class."""
        ...

    @property
    def probability(self) -> float:
        """In [0, 1]."""
        ...


@dataclass(frozen=True)
class Prediction:
    """One class the network holds likely; `probability` in [0, 1]."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Refusal:
    """A method that would have been wrong here, and why. `image` is empty where it concerns every picture."""

    method: str
    reason: str
    image: str = ""


@dataclass(frozen=True)
class Subject:
    """One picture with everything the report shows of it."""

    name: str
    results: Sequence[Result]
    predictions: Sequence[Predicted] = ()
    truth: Array | None = None
    refused: Sequence[Refusal] = ()
    catalogue: Mapping[str, Described] = field(default_factory=dict)
    theme: Theme = "default"

    @property
    def attributions(self) -> list[Attribution]:
        """The results that lie on the picture."""
        return [r for r in self.results if isinstance(r, Attribution)]

    @property
    def maps(self) -> list[Attribution]:
        """The attributions that are one map of evidence, and no walk through layers."""
        return [r for r in self.attributions if not stages(r)]

    def title(self, method: str) -> str:
        """A method's name for people."""
        return self.catalogue[method].title if method in self.catalogue else method_title(method)


def picture_section(subject: Subject, anchor: str) -> str:
    """The whole section of one picture."""
    bench = subject.attributions
    cards = "".join(card(subject, r) for r in subject.maps)
    grid = f'<div class="bench">{cards}</div>' if cards else ""
    blocks = "".join(panel_block(subject, r) for r in subject.maps if r.panels)
    blocks += "".join(walk_block(subject, r) for r in bench if stages(r))
    others = [r for r in subject.results if not isinstance(r, Attribution)]
    drawn = {
        m: [r for r in others if r.method == m and stands_alone(r)] for m in {r.method: r for r in others}
    }
    several = {m for m, own in drawn.items() if len(own) > 1}
    blocks += "".join(gallery_block(subject, drawn[m]) for m in drawn if m in several)
    rest = [r for r in others if r.method not in several or not stands_alone(r)]
    blocks += "".join(other_block(subject, r) for r in rest)
    return (
        f'<section class="picture" id="{anchor}"><h2>{esc(subject.name or "without a picture")}</h2>'
        f"{summary(subject) if bench else ''}"
        f"{grid}{blocks}{refused_list(subject.refused, subject)}</section>"
    )


def summary(subject: Subject) -> str:
    """The photograph, what the network answers, and one line on every map."""
    first = subject.attributions[0]
    height, width = first.image.shape[:2]
    shown = to_image(photograph(first))
    alt = f"the picture {subject.name} as the network saw it, {width} × {height} pixels"
    photo = html.picture(shown, alt, photo=True, cells=max(height, width) <= 96)
    caption = f"<figcaption>what {esc(first.provenance.model)} saw, {width} × {height}</figcaption>"
    truth = ""
    if subject.truth is not None:
        area = share(float(subject.truth.mean()))
        truth = f"<p class='small'>The true evidence is known here and covers {esc(area)} of the picture.</p>"
    seen = f"<div><h4>at a glance</h4>{glance(subject)}</div>" if subject.maps else ""
    return (
        f'<div class="summary keep"><figure>{photo}{caption}</figure>'
        f"<div><h4>prediction</h4>{top_five(subject.predictions)}{truth}</div>{seen}</div>"
    )


def top_five(predictions: Sequence[Predicted]) -> str:
    """The five most probable classes with bars."""
    if not predictions:
        return '<p class="muted">not given</p>'
    best = sorted(predictions, key=lambda p: -p.probability)[:5]
    items = "".join(
        f'<li><span>{esc(p.name)}</span><span class="num">{100 * p.probability:.1f} %</span>'
        f"{html.meter(p.probability)}</li>"
        for p in best
    )
    return f'<ol class="top">{items}</ol>'


def glance(subject: Subject) -> str:
    """One row per map: where its evidence lies, how much of it is true, how long it took."""
    heads = [
        "method",
        "positive evidence",
        *(["inside truth"] if subject.truth is not None else []),
        "time",
    ]
    body = []
    for r in subject.maps:
        name = subject.title(r.method) + (f", {r.layer}" if r.layer else "")
        row = [
            name,
            where(r.heat, brief=True),
        ]
        if subject.truth is not None:
            inside = share_inside(r.heat, subject.truth).evidence
            row.append("none" if inside is None else f"{100 * inside:.0f} %")
        body.append([*row, duration(r.provenance.seconds)])
    return html.rows(heads, body, numeric=range(2, len(heads)))


def card(subject: Subject, result: Attribution) -> str:
    """One method: overlay and map, bar, its caution, facts, notes, its numbers.

    The picture that shows most stands first: the overlay of a coarse map, the plain map of a fine one.
    """
    title = subject.title(result.method)
    said = sentence(result, title)
    at = f" <span>{esc(result.layer)}</span>" if result.layer else ""
    plain_map = map_drawing(result, subject.theme, enlarged=False)
    fine = is_fine(result)
    over = html.picture(
        to_image(overlaid(result, subject.theme)), f"Overlay on the photograph. {said}", photo=True,
        cells=max(result.image.shape[:2]) <= 96,
    )  # fmt: skip
    mapped = html.picture(
        plain_map.picture, f"The plain map. {said}", cells=True, photo=result.values.ndim == 3
    )
    over = f"<figure>{over}<figcaption>{LIFTED if fine else 'overlay'}</figcaption></figure>"
    mapped = f"<figure>{mapped}<figcaption>{esc(plain_map.title)}</figcaption></figure>"
    third, inside = _truth(subject, result)
    shape = ' class="pair led"' if third else ' class="pair"'
    pair = f"<div{shape}>{mapped + over if fine else over + mapped}{third}</div>"
    bars = html.bar(plain_map.scale, plain_map.unit) if plain_map.scale else ""
    if result.values.ndim == 3:
        heat = drawings(result, subject.theme)[1].scale
        bars += html.bar(heat, f"overlay: sum over colours, {result.unit}") if heat else ""
    remark = f'<p class="flag">{esc(plain_map.remark)}</p>' if plain_map.remark else ""
    known = subject.catalogue.get(result.method)
    caveat = f'<p class="caveat">{esc(known.caveat)}</p>' if known and known.caveat else ""
    notes = "".join(f'<p class="small">{esc(n)}</p>' for n in result.notes)
    return (
        f'<article class="card"><header><h3>{esc(title)}{at}</h3>'
        f'<span class="small num">{duration(result.provenance.seconds)}</span></header>'
        f"{pair}{bars}{remark}{inside}{caveat}{html.facts(_facts(result, known))}{notes}"
        f"{html.values_table(result.heat)}</article>"
    )


def _facts(result: Attribution, known: Described | None) -> dict[str, str]:
    pairs = {"target": result.target, "layer": result.layer or ""}
    out = {k: v for k, v in pairs.items() if v}
    out["range"] = f"{number(float(result.values.min()))} to {number(float(result.values.max()))}"
    out |= {k.replace("_", " "): html.short(v) for k, v in result.evidence.items()}
    # An option left to the method is none; what the method chose for it stands among the evidence and the notes.
    options = {k: v for k, v in result.options.items() if k != "layer" and v is not None}
    if options:
        out["options"] = ", ".join(f"{k.replace('_', ' ')} {html.short(v)}" for k, v in options.items())
    if known and known.paper:
        out["source"] = known.paper
    return out


def _truth(subject: Subject, result: Attribution) -> tuple[str, str]:
    """The true evidence as a third picture, and the share of positive evidence inside it."""
    if subject.truth is None:
        return "", ""
    height, width = frame(result.image)
    mask = enlarge(subject.truth, height, width)
    photo = photograph(result)
    lit = np.where(mask[..., None], photo, 0.25 * desaturate(photo, 0.0) + 0.6)
    found = share_inside(result.heat, subject.truth)
    alt = f"The true evidence: {share(found.area)} of the picture, shown in colour; the rest is faded."
    shown = html.picture(to_image(lit), alt, photo=True, cells=max(result.image.shape[:2]) <= 96)
    figure = f"<figure>{shown}<figcaption>true evidence</figcaption></figure>"
    chance = f"spread evenly it would be {100 * found.area:.1f} %"
    if found.evidence is None:
        return figure, '<p class="flag">No positive evidence to compare with the truth.</p>'
    text = f"{100 * found.evidence:.1f} % of the positive evidence lies inside the true evidence; {chance}."
    return figure, f'<div class="inside">{html.meter(found.evidence, found.area)}<p>{esc(text)}</p></div>'


def panel_block(subject: Subject, result: Attribution) -> str:
    """The panels of one result at full width, each with its bar or legend."""
    figures = "".join(_panel(subject, result, p) for p in result.panels.values())
    title = esc(subject.title(result.method))
    return (
        f'<div class="block"><h3>{title}: panels</h3>'
        f'<p class="small">{esc(result.target)}</p><div class="panels">{figures}</div></div>'
    )


def _panel(subject: Subject, result: Attribution, panel: Panel) -> str:
    """One panel; a map of categories that holds one only is said in words, a square of one colour says nothing."""
    if (
        panel.scale == "categorical"
        and panel.values.size
        and bool((panel.values == panel.values.flat[0]).all())
    ):
        only = int(panel.values.flat[0])
        name = esc(panel.labels.get(only, only))
        return f"<figure><h4>{esc(panel.title)}</h4><p>{name}<br><span class='small'>at every position</span></p></figure>"
    drawn = panel_drawing(panel, result.image, subject.theme)
    return html.drawing(drawn, panel_sentence(panel), photo=panel.values.ndim == 3)


def walk_block(subject: Subject, result: Attribution) -> str:
    """A walk through layers, shallow first: of each its projections and, below them, what they saw."""
    figures = "".join(
        f"<h4>{esc(stage.projections.title)}</h4>"
        + html.picture(
            stage_image(stage, result.image.shape[:2], tile=WALK_TILE, beside=False),
            stage.sentence,
            photo=True,
        )
        for stage in stages(result)
    )
    known = subject.catalogue.get(result.method)
    notes = "".join(f'<p class="small">{esc(n)}</p>' for n in result.notes)
    caveat = f'<p class="caveat">{esc(known.caveat)}</p>' if known and known.caveat else ""
    options = {k.replace("_", " "): html.short(v) for k, v in result.options.items() if v is not None}
    source = {"source": known.paper} if known and known.paper else {}
    return (
        f'<div class="block walk"><h3>{esc(subject.title(result.method))}: down from the strongest maps</h3>'
        f'<p class="small">Above each pair its channel and activation; the projection, on its own scale, which its '
        f"largest 0.5 % leave, with zero in "
        f"grey; below it the part of the photograph that this position sees, white beyond the edge. "
        f"{duration(result.provenance.seconds)}</p>{figures}{html.facts(options | source)}{notes}{caveat}</div>"
    )


def refused_list(refused: Sequence[Refusal], subject: Subject) -> str:
    """Methods that were refused, each with its reason."""
    if not refused:
        return ""
    items = "".join(f"<li><b>{esc(subject.title(r.method))}</b>: {esc(r.reason)}</li>" for r in refused)
    return f'<div class="block"><h3>Refused</h3><ul class="plain">{items}</ul></div>'
