"""What an atlas holds and lacks, in lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from .console import say

if TYPE_CHECKING:
    from cutaway.sweep.atlas import Atlas


def told(found: Atlas, as_json: bool) -> None:
    """What an atlas holds on stdout; the pictures that could not be read, and what it lacks, on stderr."""
    unread = found.done["unread"]
    for _, name, reason in unread[:10]:
        say(f"left out: {name}: {reason}")
    if len(unread) > 10:
        say(f"and {len(unread) - 10} more: see pictures.parquet")
    for line in lacking(found):
        say(line)
    units = {layer: found.units(layer) for layer in found.layers}
    tops = {layer: found.reducer(layer, "top") for layer in units if "top" in found.plan.statistics}
    dead = {layer: int((top.values[:, 0] <= 0).sum()) for layer, top in tops.items()}
    about: dict[str, Any] = {
        "schema": "cutaway/1",
        "command": "atlas",
        "folder": str(found.folder),
        "model": found.about["model"],
        "pictures": len(found.names),
        "unread": len(unread),
        "units": units,
        "dead": dead,
        "scores": found.plan.scores,
        "left_out": found.plan.left_out,
    }
    if as_json:
        typer.echo(json.dumps(about, indent=1))
        return
    typer.echo(
        f"{found.folder}: {sum(units.values())} units of {len(units)} layers of {about['model']['name']}, "
        f"{len(found.names) - len(unread)} pictures ({len(unread)} could not be read)"
    )
    never = ", ".join(f"{count} of {units[layer]} in {layer}" for layer, count in dead.items() if count)
    if never:
        typer.echo(f"never above 0 on these pictures: {never}")


def lacking(found: Atlas) -> list[str]:
    """The layers that could not be watched, a line for each reason, and what the network gives in place of scores."""
    from cutaway.sweep.plan import LOGITS, PROBABILITIES

    lines, scores = [], found.plan.scores
    if scores == PROBABILITIES:
        lines.append("probabilities of classes are those that the network itself gives")
    elif scores != LOGITS:
        lines.append(f"no probabilities of classes: the network gives {scores}")
    left = found.plan.left_out
    for reason in dict.fromkeys(left.values()):
        names = [name for name, why in left.items() if why == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"not in the atlas: {', '.join(names[:3])}{more}: {reason}")
    return lines
