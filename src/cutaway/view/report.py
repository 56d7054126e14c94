"""The report: one HTML file that opens anywhere, asks for nothing, and prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cutaway.core.errors import InputError, UsageError, unknown
from cutaway.core.result import Attribution, Result

from . import html
from .cards import Described, Predicted, Prediction, Refusal, Subject, picture_section, refused_list
from .colors import Array, Theme, number
from .drawing import picture_names
from .html import esc
from .page import CSP, CSS
from .words import duration

__all__ = ["Described", "Predicted", "Prediction", "Refusal", "picture_names", "report"]

_READING = (
    'A map says how the network\'s score depends on the picture, by one definition of "depends". '
    "Two methods that differ are both right about their own question; read the sentence under each.",
    "Red is evidence for the target, blue against it, and the middle of the bar is zero. "
    "Maps without sign run from black (zero) upwards.",
    "Each bar has its own numbers: the far end is the 99.9th percentile of the absolute value. "
    "Equal colours on two cards do not mean equal values.",
    "In an overlay the photograph is paler than it was, and opacity follows the absolute value: where nothing covers "
    "the photograph, the value is zero or small. Maps that differ from pixel to pixel are hard to see there: "
    "read the plain map, and find its place in the overlay, whose opacity follows the square root.",
    "A map is shown on its own grid. Seven by seven cells say nothing about single pixels, "
    "however smooth the overlay looks.",
    "Where the true evidence is known, compare the share of positive evidence inside it with its share of the area: "
    "evidence strewn at random reaches the second.",
    "A convincing map is no proof. Guided backprop and its kin look sharp and hardly depend on the class.",
)


def report(
    results: Sequence[Result],
    *,
    title: str = "What the network looked at",
    lead: str = "",
    predictions: Mapping[str, Sequence[Predicted]] | None = None,
    truths: Mapping[str, Array] | None = None,
    catalogue: Mapping[str, Described] | None = None,
    refused: Sequence[Refusal] = (),
    code: str = "",
    theme: Theme = "default",
) -> str:
    """The complete text of a one-file HTML report.

    Parameters
    ----------
    results : what to show, grouped by the picture they explain.
    lead : a paragraph of plain text under the title.
    predictions : the most probable classes by picture; names as `picture_names` gives them.
    truths : by picture, the true evidence as a boolean (H, W) in the frame the network saw.
    catalogue : by method name, its title, caveat and paper; `cutaway.methods.METHODS` fits.
    refused : methods that refused, with their reason.
    code : what makes the results again; written from the results when not given.
    theme : "default", "colour-blind" or "paper" (jet).

    The page holds no script, loads nothing, follows the reader's light or dark setting and prints without cutting
    a card. Raises `UsageError` for no results, `UnknownNameError` for a prediction or truth of a picture that is not
    there, `InputError` for NaN in a map and for a truth of another shape than its picture.
    """
    if not results:
        raise UsageError("a report of no results", "at least one result")
    subjects = _subjects(results, predictions or {}, truths or {}, catalogue or {}, refused, theme)
    sections = "".join(picture_section(s, f"picture-{i}") for i, s in enumerate(subjects, 1))
    general = [r for r in refused if not r.image]
    missing = f"<section>{refused_list(general, subjects[0])}</section>" if general else ""
    lines = "".join(f"<li>{esc(line)}</li>" for line in _READING)
    reading = f'<section id="reading"><h2>How to read this</h2><ul class="plain">{lines}</ul></section>'
    code = code or reproduce(results)
    again = f'<section id="again"><h2>Make it again</h2><pre>{esc(code)}</pre></section>' if code else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CSP}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body>"
        f'<header class="top"><h1>{esc(title)}</h1>{_opening(results, subjects, lead)}</header><main>'
        f"{sections}{missing}"
        f"{reading if _maps(results) else ''}"
        f'<section id="provenance"><h2>Where it comes from</h2>{_provenance(results, subjects)}</section>'
        f"{again}"
        "</main></body></html>\n"
    )


def reproduce(results: Sequence[Result]) -> str:
    """The command lines and the Python that make the results again, as far as their provenance tells."""
    commands = dict.fromkeys(r.provenance.again for r in results if r.provenance.again)
    results = _methods(results)
    lines = ["import cutaway", ""] if results else []
    models: dict[str, str] = {}
    for r in results:
        made = r.provenance
        if made.model not in models:
            models[made.model] = "model" if not models else f"model_{len(models) + 1}"
            lines.append(f"{models[made.model]} = cutaway.load({made.model!r})")
    for r in results:
        made = r.provenance
        parts = [repr(made.image), repr(r.method)] if made.image else [repr(r.method)]
        found = re.match(r"(logit|probability) (\d+)( '|$| \")", r.target)
        plain = found is not None and " - " not in r.target and " + " not in r.target
        if found is not None and plain:
            parts.append(f"target=cutaway.{found[1]}({found[2]})")
        parts += [f"{k}={v!r}" for k, v in r.options.items() if v is not None]
        parts += [f"seed={made.seed}"] if made.seed else []
        said = "" if plain or not r.target else f"  # target: {' '.join(r.target.split())}"
        call = "explain" if made.image else "inspect"
        lines.append(f"{models[made.model]}.{call}({', '.join(parts)}){said}")
    return "\n".join([*(c for c in commands if c), *lines])


def _subjects(
    results: Sequence[Result],
    predictions: Mapping[str, Sequence[Predicted]],
    truths: Mapping[str, Array],
    catalogue: Mapping[str, Described],
    refused: Sequence[Refusal],
    theme: Theme,
) -> list[Subject]:
    groups: dict[str, list[Result]] = {}
    for name, r in zip(picture_names(results), results, strict=True):
        groups.setdefault(name, []).append(r)
    for name in dict.fromkeys([*predictions, *truths, *(r.image for r in refused if r.image)]):
        if name not in groups and not any(r.image == name for r in refused):
            raise unknown("picture", name, groups)
        groups.setdefault(name, [])
    made = []
    for name, group in groups.items():
        truth = truths.get(name)
        for r in group:
            if truth is not None and isinstance(r, Attribution) and truth.shape != r.image.shape[:2]:
                raise InputError(
                    f"a truth of shape {truth.shape} for the picture {name!r} of {r.image.shape[:2]}",
                    "a boolean array in the frame the network saw",
                )
        own = [r for r in refused if r.image == name and name]
        made.append(Subject(name, group, predictions.get(name, ()), truth, own, catalogue, theme))
    return made


def _opening(results: Sequence[Result], subjects: Sequence[Subject], lead: str) -> str:
    models = ", ".join(dict.fromkeys(r.provenance.model for r in results))
    own = _methods(results)
    methods = len({r.method for r in results})
    seconds = duration(sum(r.provenance.seconds for r in results))
    pictures = sum(bool(s.name) for s in subjects)
    looked = f"{_count(pictures, 'picture')}, " if pictures else ""
    counts = f"{looked}{_count(methods, 'method')}, {_count(len(results), 'result')}"
    text = f"{models} · {f'{counts} · ' if own else ''}{seconds} of computing"
    links = "".join(
        f'<li><a href="#picture-{i}">{esc(s.name)}</a></li>' for i, s in enumerate(subjects, 1) if s.name
    )
    links += '<li><a href="#reading">How to read this</a></li>' if _maps(results) else ""
    links += '<li><a href="#provenance">Where it comes from</a></li>'
    said = f'<p class="lead">{esc(lead)}</p>' if lead else ""
    return f'<p class="muted">{esc(text)}</p>{said}<nav aria-label="contents"><ul>{links}</ul></nav>'


def _methods(results: Sequence[Result]) -> list[Result]:
    """What methods gave, without the tables that a command made of many results."""
    return [r for r in results if r.provenance.again is None]


def _maps(results: Sequence[Result]) -> bool:
    """Whether there are maps of evidence to be read."""
    return any(isinstance(r, Attribution) for r in _methods(results))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _provenance(results: Sequence[Result], subjects: Sequence[Subject]) -> str:
    models = []
    for key in dict.fromkeys((r.provenance.model, r.provenance.fingerprint) for r in results):
        made = next(r.provenance for r in results if (r.provenance.model, r.provenance.fingerprint) == key)
        kept = ", ".join(f"{k} {html.short(v)}" for k, v in made.preprocess.items())
        models.append(
            [made.model, made.fingerprint, kept, ", ".join(f"{k} {v}" for k, v in made.versions.items())]
        )
    title = subjects[0].title
    body = [
        [
            r.provenance.image,
            title(r.method),
            r.target,
            r.layer or "",
            ", ".join(f"{k} {html.short(v)}" for k, v in r.options.items() if k != "layer"),
            str(r.provenance.seed),
            r.provenance.device,
            r.provenance.precision,
            number(r.provenance.seconds),
        ]
        for r in results
    ]
    heads = ["picture", "method", "target", "layer", "options", "seed", "device", "precision", "seconds"]
    return html.rows(["model", "fingerprint", "preprocessing", "versions"], models) + html.rows(
        heads, body, numeric=(5, 8)
    )
