"""`cutaway dream`: pictures drawn by the network itself, of classes, of units, or over a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .network import Network, networked
from .options import (
    NETWORK,
    QUESTION,
    ArraysOption,
    DataOption,
    JsonOption,
    MadeByOption,
    MadeOption,
    PreviewOption,
    SeedOption,
    SettingsOption,
)

TITLE = "What the network draws"
LEAD = (
    "Each picture was drawn by following the gradient of what stands under it, from noise or from a photograph. "
    "It shows what raises that number most, which is more than what the network met in photographs."
)

TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS", help="A class number or name; several times for several.", rich_help_panel=QUESTION
    ),
]


@networked()
def dream(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMG...]", help="Photographs, for methods that dream over one."),
    ] = None,
    *,
    named: Network,
    method: MadeByOption = None,
    target: TargetOption = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER:K",
            help="A hidden unit, LAYER:K or LAYER:K:R,C, or several, LAYER:K-L or LAYER:all; several times for more.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    settings: SettingsOption = None,
    data: DataOption = None,
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Draws with the code of a generator of pictures; see the documentation of synthesis.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    seed: SeedOption = 0,
    output: MadeOption = Path("dream.png"),
    preview: PreviewOption = None,
    arrays: ArraysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw what a class or a hidden unit asks for, or dream over a photograph."""
    from .made import Files, Job, further, opened

    files = Files(output, arrays, preview)
    files.check(images or [])

    from .asked import goals, made_by

    asked = made_by("dream", method or [], settings or [], pictures=bool(images))
    network = opened(named, images or [], asked)
    wanted = goals(network, target or [], unit or [])
    job = Job("dream", network, asked, images or [], wanted, further(network, data, generator), seed)
    job.run(files, title=TITLE, lead=LEAD, as_json=as_json)
