"""What a command prints on stdout: one JSON object, or a few lines and a small table a person can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from .console import console
from .outputs import array_name, made_name, panels_of

if TYPE_CHECKING:
    from rich.text import Text

    from cutaway.core.result import Result

    from .bench import Explained

BAR = 20


def print_json(command: str, content: Mapping[str, Any]) -> None:
    """One JSON object on stdout; numbers JSON cannot hold (NaN, infinity) become null."""
    from cutaway.core.result import SCHEMA, finite

    whole = {"schema": SCHEMA, "command": command, **content}
    typer.echo(json.dumps(finite(whole), indent=1, allow_nan=False))


def to_dict(one: Explained) -> dict[str, Any]:
    """One picture's entry of the JSON object; "error" is there only when the picture could not be used."""
    found: dict[str, Any] = {
        "path": one.path,
        "prediction": [
            {"index": p.index, "name": p.name, "probability": p.probability} for p in one.prediction
        ],
        "results": [_result(one, r) for r in one.results],
        "refused": [{"method": name, "reason": str(e)} for name, e in one.refused.items()],
    }
    return found | ({"error": str(one.error)} if one.error else {})


def print_picture(one: Explained) -> None:
    """What the network says of one picture, what each method gave, and the notes a reader must see."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text(one.path, style="bold"), soft_wrap=True)
    classes = Table(box=None, show_header=False, padding=(0, 2, 0, 2), pad_edge=True)
    for p in one.prediction:
        classes.add_row(Text(p.name), Text(f"{100 * p.probability:5.1f} %"), _meter(p.probability))
    if one.prediction:
        out.print(classes)
        out.print()
    if one.results:
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim", pad_edge=True)
        for name, side in (
            ("method", "left"),
            ("layer", "left"),
            ("values", "right"),
            ("from", "right"),
            ("to", "right"),
        ):
            table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        for r in one.results:
            row = _row(r)
            table.add_row(*map(Text, row))
        out.print(table)
    for note, methods in _notes(one.results).items():
        who = "" if len(methods) == len(one.results) else f"{', '.join(methods)}: "
        out.print(Padding(Text(f"{who}{note}", style="dim"), (0, 0, 0, 2)))
    out.print()


def print_inspected(result: Result, *, as_json: bool, more: Mapping[str, Any]) -> None:
    """One result about the network alone: a JSON object with `more` in it, or a line, its notes and two banks."""
    if as_json:
        found = {"model": result.provenance.model, "results": [_entry(result.method, result)]}
        print_json("filters", found | {**more})
        return
    from rich.table import Table
    from rich.text import Text

    out = console()
    method, layer, shape, low, high, seconds = _row(result)
    line = f"{method} of {result.provenance.model} at {layer}: {shape}, {low} to {high}, {seconds} s"
    out.print(Text(line), soft_wrap=True)
    for note in result.notes:
        out.print(Text(f"  {note}", style="dim"), soft_wrap=True)
    if "beside" in more:
        both = more["beside"]
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        for head in ("", *both["names"]):
            table.add_column(head, justify="right" if head else "left")
        for name in (n for n in both["first"] if n != "bands"):  # ten numbers each, for --json
            table.add_row(name, *(_plain(both[side][name]) for side in ("first", "second")))
        out.print(table)


def print_made(
    command: str, results: Sequence[Result], refused: Sequence[tuple[str, str]], *, as_json: bool
) -> None:
    """Results that were made rather than explained: a JSON object, or a line each with the numbers behind it."""
    if as_json:
        found = {
            "model": results[0].provenance.model,
            "results": [
                _entry(made_name(i, r), r) | {"image": r.provenance.image} for i, r in enumerate(results)
            ],
            "refused": [{"method": name, "reason": reason} for name, reason in refused],
        }
        print_json(command, found)
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    out = console()
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for r in results:
        numbers = {k: v for k, v in r.evidence.items() if isinstance(v, str | int | float)}
        told = ", ".join(f"{k} {_plain(v)}" for k, v in numbers.items())
        table.add_row(Text(r.method), Text(r.provenance.image), Text(r.target or r.layer or ""), Text(told))
    out.print(table)
    for note, methods in _notes(results).items():
        who = "" if len(methods) == len(results) else f"{', '.join(dict.fromkeys(methods))}: "
        out.print(Padding(Text(f"{who}{note}", style="dim"), (0, 0, 0, 2)))


def _plain(value: Any) -> str:
    """A number, or two sides, as a person reads them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " x ".join(_plain(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _result(one: Explained, result: Result) -> dict[str, Any]:
    return _entry(array_name(one.number, one.path, result.method), result)


def _entry(name: str, result: Result) -> dict[str, Any]:
    values = result.arrays()["values"]
    plain = result.to_dict()
    panels = {
        key: {**plain["panels"][key], "array": f"{name}/{key}", "shape": list(panel.values.shape)}
        for key, panel in panels_of(result).items()
    }
    return {
        "method": result.method,
        "target": result.target,
        "layer": result.layer,
        "options": plain["options"],
        "array": name,
        "shape": list(values.shape),
        "min": float(values.min()) if values.size else None,
        "max": float(values.max()) if values.size else None,
        "seconds": result.provenance.seconds,
        "evidence": plain["evidence"],
        "notes": plain["notes"],
    } | ({"panels": panels} if panels else {})


def _row(result: Result) -> tuple[str, ...]:
    values = result.arrays()["values"]
    low, high = (f"{values.min():.3g}", f"{values.max():.3g}") if values.size else ("", "")
    shape = " x ".join(map(str, values.shape))
    return result.method, result.layer or "", shape, low, high, f"{result.provenance.seconds:.2f}"


def _meter(share: float) -> Text:
    from rich.text import Text

    full = round(BAR * share)
    return Text("█" * full, style="cyan").append("░" * (BAR - full), style="dim")


def _notes(results: Sequence[Result]) -> dict[str, list[str]]:
    """Every note once, with the methods it belongs to."""
    found: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            found.setdefault(note, []).append(result.method)
    return found
