"""`cutaway methods` and `cutaway layers`: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .console import console
from .explain import ClassesOption, DeviceOption, ModelOption, PreprocessOption, WeightsOption
from .summary import print_json

if TYPE_CHECKING:
    from cutaway.core.method import Method

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def methods(
    name: Annotated[
        str | None, typer.Argument(help="One method, with its options, limits and paper.")
    ] = None,
    as_json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of the documentation.")
    ] = False,
) -> None:
    """List the methods, or show one with every option it takes."""
    from cutaway.methods import METHODS, get

    chosen = [get(name)] if name is not None else sorted(METHODS.values(), key=lambda m: (m.chapter, m.name))
    if as_json:
        print_json("methods", {"methods": [m.to_dict() for m in chosen]})
    elif markdown:
        typer.echo(_markdown(chosen))
    elif name is not None:
        _one(chosen[0])
    else:
        _all(chosen)


def layers(
    model: ModelOption,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    preprocess: PreprocessOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """List a network's layers: names, shapes, parameters, and which one a class activation map reads."""
    from cutaway.zoo import load

    load(model, weights=weights, classes=classes, preprocess=preprocess, device=device)


def _all(chosen: list[Method]) -> None:
    from rich.table import Table
    from rich.text import Text

    out, chapter = console(), ""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("gives", no_wrap=True)
    table.add_column("what it is")
    for m in chosen:
        if m.chapter != chapter:
            chapter = m.chapter
            table.add_row(Text(chapter, style="bold cyan"))
        table.add_row(Text(f"  {m.name}"), Text(m.gives.kind), Text(m.summary))
    out.print(table)
    out.print(Text(f"\n{len(chosen)} methods. Options of one: cutaway methods {chosen[0].name}", style="dim"))


def _one(m: Method) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text(m.title, style="bold").append(f"  ({m.name})", style="dim"))
    out.print(m.summary)
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    needs = ", ".join({"x": "picture"}.get(n.value, n.value) for n in m.needs)
    rows = {
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
            options.add_column(label, no_wrap=label in ("option", "default"))
        for p in m.parameters.values():
            options.add_row(*map(Text, (f"{m.name}.{p.name}", str(p.default), p.accepted, p.help)))
        out.print()
        out.print(options)


def _markdown(chosen: list[Method]) -> str:
    """The table of `docs/methods.md`."""
    rows = ["# Methods", "", "Written by `make docs` from the declarations; do not edit.", ""]
    rows += ["| Method | Name | Chapter | Gives | Paper | Beware |", "|---|---|---|---|---|---|"]
    for m in chosen:
        cells = (m.title, f"`{m.name}`", m.chapter, m.gives.kind, m.paper, m.caveat)
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(rows)
