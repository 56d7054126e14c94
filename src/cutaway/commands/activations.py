"""`cutaway activations`: the maps of any list of layers for pictures, in one pass."""

from __future__ import annotations

from typing import Annotated

import typer

from .explain import explain
from .network import Network, networked
from .options import QUESTION, ArraysOption, FigureOption, JsonOption, SettingsOption


@networked()
def activations(
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Pictures, anything Pillow reads.")],
    *,
    named: Network,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Layers joined by commas; one is chosen without.", rich_help_panel=QUESTION
        ),
    ] = None,
    first: Annotated[
        bool,
        typer.Option(
            "--first", help="Picture, first-layer filters and their maps.", rich_help_panel=QUESTION
        ),
    ] = False,
    settings: SettingsOption = None,
    output: FigureOption = None,
    arrays: ArraysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw what layers answer to pictures: every map of each layer as a grid."""
    method = "first_layer" if first else "activation_grid"
    given = list(settings or [])
    if layers is not None:
        given.append(f"{method}.{'layer' if first else 'layers'}={layers}")
    explain(
        images,
        named=named,
        method=[method],
        settings=given,
        output=output,
        arrays=arrays,
        as_json=as_json,
    )
