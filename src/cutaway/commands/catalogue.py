"""Browsing the methods: filters that combine, groupings in which each stands once, and the page of the documentation."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cutaway.core.errors import UnknownNameError, unknown

if TYPE_CHECKING:
    from cutaway.core.method import Method

By = Literal["family", "focus", "when", "level", "chapter"]
BY: tuple[By, ...] = typing.get_args(By)
"""What methods are grouped by: the four tags, and the chapter their file stands in."""

HEADINGS: Mapping[By, str] = {
    "family": "what kind of answer it is",
    "focus": "what it is about",
    "when": "which networks it takes",
    "level": "what it speaks of",
    "chapter": "where its file stands",
}
MEANING: Mapping[str, str] = {
    "parameters": "what the weights say by themselves",
    "features": "what layers answer to pictures",
    "sensitivity": "what would move the answer",
    "decomposition": "the answer shared out among its causes",
    "perturbation": "the picture changed, the network asked again",
    "synthesis": "pictures drawn for a unit or a class",
    "data": "pictures found in a data set",
    "proxy": "a simple model in place of the network",
    "by-case": "other pictures as reasons",
    "by-text": "words as reasons",
    "by-design": "networks built to be read",
    "theory": "what can be proved",
    "model": "the network",
    "both": "the network on its data",
    "post-hoc": "any trained network, afterwards",
    "ad-hoc": "a network built or trained for it",
    "low": "pixels, edges and weights",
    "mid": "units and layers",
    "high": "classes and answers",
    "any": "whatever it is asked about",
}
WIDER = {("focus", "both"), ("level", "any")}
"""Tags that hold for every value, so that a filter for one value finds them too."""


@dataclass(frozen=True)
class Group:
    """Methods that share one value of what they are grouped by; `meaning` says it in words, where there are any."""

    value: str
    meaning: str
    methods: Sequence[Method]


def filed(method: Method, by: By) -> str:
    """Where the catalogue files a method."""
    return method.chapter if by == "chapter" else str(getattr(method.tags, by))


def choices(by: By) -> tuple[str, ...]:
    """Every value there is, in the catalogue's order; of chapters those that hold a method."""
    from cutaway.core.method import METHODS, Tags

    if by == "chapter":
        return tuple(sorted({m.chapter for m in METHODS.values()}))
    return typing.get_args(typing.get_type_hints(Tags)[by])


def chosen(methods: Iterable[Method], filters: Mapping[By, str | None]) -> list[Method]:
    """The methods that pass every filter; None lets all pass.

    A method about both model and data passes a filter for either, one for any level passes each level's.
    Raises `UnknownNameError`, with the choices, for a value that does not exist.
    """
    asked = {by: value for by, value in filters.items() if value is not None}
    for by, value in asked.items():
        if value not in choices(by):
            near = unknown(by, value, choices(by))
            raise UnknownNameError(near.found, ", ".join(choices(by)), near.hint)
    return [m for m in methods if all(passes(filed(m, by), by, value) for by, value in asked.items())]


def passes(own: str, by: By, value: str) -> bool:
    """Whether a method filed under `own` is found by a filter for `value`.

    >>> passes("both", "focus", "data"), passes("high", "level", "mid")
    (True, False)
    """
    return own == value or (by, own) in WIDER


def grouped(methods: Iterable[Method], by: By) -> list[Group]:
    """Each method once, under its own value, in the catalogue's order; values without methods are left out."""
    found: dict[str, list[Method]] = {value: [] for value in choices(by)}
    for method in sorted(methods, key=lambda m: m.name):
        found[filed(method, by)].append(method)
    return [Group(v, MEANING.get(v, "") if by != "chapter" else "", m) for v, m in found.items() if m]


def nothing(methods: Sequence[Method], filters: Mapping[By, str | None]) -> str:
    """What to say when no method passes: what each filter alone keeps out, and what there is instead."""
    asked = {by: value for by, value in filters.items() if value is not None}
    lines = ["no method is filed under " + ", ".join(f"{by} {value}" for by, value in asked.items())]
    for by in asked:
        others = {other: value for other, value in filters.items() if other != by}
        counts = Counter(filed(m, by) for m in chosen(methods, others))
        there = ", ".join(f"{value} {counts[value]}" for value in choices(by) if counts[value])
        lines.append(
            f"without --{by} there are: {there}" if there else f"without --{by} there are none either"
        )
    return "\n".join(lines)


def markdown(methods: Sequence[Method]) -> str:
    """The page `docs/methods.md`: the table of all methods, then the catalogue."""
    rows = ["# Methods", "", "Written by `make docs` from the declarations; do not edit.", ""]
    rows += ["| Method | Name | Chapter | Gives | Paper | Beware |", "|---|---|---|---|---|---|"]
    for m in methods:
        cells = (m.title, f"`{m.name}`", m.chapter, m.gives.kind, m.paper, m.caveat)
        rows.append("| " + " | ".join(map(_cell, cells)) + " |")
    rows += ["", "## Catalogue", ""]
    rows += [
        "`cutaway methods --by family` prints it; filters such as `--family sensitivity --level mid` combine.",
        "",
    ]
    rows += ["### By family", ""]
    for group in grouped(methods, "family"):
        rows += [f"**{group.value}**: {group.meaning}", ""]
        rows += [f"- `{m.name}`: {m.summary}" for m in group.methods] + [""]
    for by in BY[1:]:
        rows += [f"### By {by}", "", f"| {by} | {HEADINGS[by]} | methods |", "|---|---|---|"]
        for group in grouped(methods, by):
            names = ", ".join(f"`{m.name}`" for m in group.methods)
            rows.append(f"| {group.value} | {_cell(group.meaning)} | {names} |")
        rows.append("")
    return "\n".join(rows).rstrip("\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
