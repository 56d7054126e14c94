"""`cutaway methods` and `cutaway layers`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.core.errors import UnknownNameError, UsageError, unknown

from . import catalogue
from .catalogue import By
from .console import console, say
from .network import Network, networked
from .summary import print_json

if TYPE_CHECKING:
    from cutaway.core.layers import LayerTable
    from cutaway.core.method import Method

BROWSE = "Browsing"
WIDE = 100
"""Columns of a terminal from which the list says what kind of result each method gives."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method, with its options, limits and paper.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY", help="sensitivity, decomposition, perturbation ...", rich_help_panel=BROWSE
        ),
    ] = None,
    focus: Annotated[
        str | None, typer.Option(metavar="FOCUS", help="model or data.", rich_help_panel=BROWSE)
    ] = None,
    when: Annotated[
        str | None, typer.Option(metavar="WHEN", help="post-hoc or ad-hoc.", rich_help_panel=BROWSE)
    ] = None,
    level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="low, mid or high.", rich_help_panel=BROWSE)
    ] = None,
    chapter: Annotated[
        str | None,
        typer.Option(metavar="CHAPTER", help="gradient, projection, weights ...", rich_help_panel=BROWSE),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="BY",
            help="Group by family, focus, when, level or chapter.",
            rich_help_panel=BROWSE,
        ),
    ] = None,
    as_json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the documentation.")
    ] = False,
) -> None:
    """List the methods, browse them by what they are, or show one with every option it takes.

    Filters combine; what holds for both model and data, or for any level, is found by each.
    """
    from cutaway.methods import METHODS, get

    filters: dict[By, str | None] = {
        "family": family, "focus": focus, "when": when, "level": level, "chapter": chapter,
    }  # fmt: skip
    browsing = by is not None or any(filters.values())
    if name is not None and browsing:
        raise UsageError(
            f"method {name} together with filters or --by", "one of them", f"cutaway methods {name}"
        )
    grouping = _by(by)
    every = sorted(METHODS.values(), key=lambda m: (m.chapter, m.name))
    chosen = [get(name)] if name is not None else catalogue.chosen(every, filters)
    if as_json:
        found: dict[str, object] = {"methods": [m.to_dict() for m in chosen]}
        if by is not None:
            groups = [
                {grouping: g.value, "meaning": g.meaning, "methods": [m.name for m in g.methods]}
                for g in catalogue.grouped(chosen, grouping)
            ]
            found |= {"by": grouping, "groups": groups}
        print_json("methods", found)
    elif markdown:
        typer.echo(catalogue.markdown(chosen))
    elif name is not None:
        _one(chosen[0])
    elif not chosen:
        say(catalogue.nothing(every, filters))
    else:
        _all(chosen, grouping)


def _by(text: str | None) -> By:
    """What to group by, chapters unless said; raises `UnknownNameError` with the choices."""
    for known in catalogue.BY:
        if text == known:
            return known
    if text is not None:
        near = unknown("grouping", text, catalogue.BY)
        raise UnknownNameError(near.found, ", ".join(catalogue.BY), near.hint)
    return "chapter"


@networked()
def layers(
    *,
    named: Network,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the picture in pixels, where the preprocessing has none."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List a network's layers: names, shapes, parameters, and which one a class activation map reads."""
    network = named.load()
    if size is not None:
        import torch

        network.pixels(torch.zeros(1, 3, size, size))
    table = network.layers
    if as_json:
        rows = [asdict(row) for row in table]
        print_json("layers", {"model": network.name, "suggested": _suggested(table)[0], "layers": rows})
    else:
        _layer_table(network.name, table)


def _suggested(table: LayerTable) -> tuple[str | None, str]:
    """The layer a class activation map reads and why, or None and why not."""
    from cutaway.core.errors import MethodRefusedError

    try:
        return table.suggest()
    except MethodRefusedError as error:
        return None, str(error)


def _layer_table(name: str, table: LayerTable) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    drawn = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for label in ("layer", "type", "output", "params", "MACs", "sees", "step", "then"):
        number = label in ("output", "params", "MACs", "sees", "step")
        drawn.add_column(label, justify="right" if number else "left", no_wrap=number, overflow="fold")
    chosen, reason = _suggested(table)
    for row in table:
        sees = "all" if row.whole else _square(row.field) if row.field else "?"
        cells = (
            row.name,
            row.type,
            _times(row.shape[1:]),
            _count(row.parameters),
            _count(row.macs),
            sees,
            _square(row.jump) if row.jump else "",
            _then(row.activation),
        )
        drawn.add_row(*map(Text, cells), style="bold" if row.name == chosen else "")
    out.print(drawn)
    whole = f"{name}: {_count(table.parameters)} parameters, {_count(table.macs)} MACs per picture"
    out.print(Text(f"\n{whole}", style="bold"))
    out.print(
        Text("sees, step: picture pixels one unit depends on, and from one unit to the next", style="dim")
    )
    out.print(Text(f"for class activation maps: {chosen or 'none'}; {reason}", style="dim"))


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


def _square(numbers: Sequence[float]) -> str:
    """One number where height and width agree."""
    return f"{numbers[0]:g}" if len(set(numbers)) == 1 else _times(numbers)


def _count(number: int) -> str:
    """A count in three digits: 1.24 M.

    >>> _count(0), _count(896), _count(1235496)
    ('', '896', '1.24 M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number) if number else ""


def _then(activation: str | None) -> str:
    """What follows a layer, in order and short enough for a column.

    >>> _then("relu after batch_norm"), _then("relu"), _then(None)
    ('norm, relu', 'relu', '')
    """
    last, _, first = (activation or "").partition(" after ")
    return f"{'norm' if first.endswith('norm') else first}, {last}" if first else last


def _all(chosen: list[Method], by: By) -> None:
    """The methods in groups; on a narrow terminal each one's sentence has the room of the column `gives`."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    wide = out.width >= WIDE
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    if wide:
        table.add_column("gives", no_wrap=True)
    table.add_column("what it is")
    for group in catalogue.grouped(chosen, by):
        middle = [Text()] if wide else []
        table.add_row(Text(group.value, style="bold cyan"), *middle, Text(group.meaning, style="dim"))
        for m in group.methods:
            kind = [Text(m.gives.kind)] if wide else []
            table.add_row(Text(f"  {m.name}"), *kind, Text(m.summary))
    out.print(table)
    counted = "1 method" if len(chosen) == 1 else f"{len(chosen)} methods"
    out.print(Text(f"\n{counted}. Options of one: cutaway methods {chosen[0].name}", style="dim"))


def _one(m: Method) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text(m.title, style="bold").append(f"  ({m.name})", style="dim"))
    out.print(m.summary)
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    needs = ", ".join({"x": "picture"}.get(n.value, n.value) for n in m.needs)
    alone = m.command == "explain" and "x" not in [n.value for n in m.needs]
    rows = {
        "run": f"cutaway {'filters' if alone else m.command} --method {m.name}",
        "needs": needs,
        "gives": m.gives.kind,
        "paper": m.paper,
        "beware": m.caveat,
        "laws": ", ".join(sorted(m.laws)),
    }
    for label, value in rows.items():
        if value:
            facts.add_row(label, Text(value))
    out.print(facts)
    if m.parameters:
        options = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
        for label in ("option", "default", "accepted", "meaning"):
            options.add_column(label, no_wrap=label in ("option", "default"), overflow="fold")
        for p in m.parameters.values():
            options.add_row(
                *map(
                    Text,
                    (
                        f"{m.name}.{p.name}",
                        _default(p.default),
                        p.accepted,
                        p.help,
                    ),
                )
            )
        out.print()
        out.print(options)


def _default(value: object) -> str:
    """A default as it would be typed.

    >>> _default(None), _default(True), _default("RGB")
    ('none', 'true', 'RGB')
    """
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
