"""`cutaway activations`: the maps of any list of layers for pictures, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .explain import (
    OUTPUT,
    QUESTION,
    ClassesOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PreprocessOption,
    WeightsOption,
    explain,
)


def activations(
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Pictures, anything Pillow reads.")],
    model: ModelOption,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    preprocess: PreprocessOption = None,
    device: DeviceOption = "auto",
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
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="METHOD.OPTION=VALUE", help="An option of the method.", rich_help_panel=QUESTION
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="A report (.html), a figure (.png), or a folder of figures.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    arrays: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.npz",
            help="Raw float32 arrays, named <image number>/<image stem>/<method>.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw what layers answer to pictures: every map of each layer as a grid."""
    method = "first_layer" if first else "activation_grid"
    given = list(settings or [])
    if layers is not None:
        given.append(f"{method}.{'layer' if first else 'layers'}={layers}")
    explain(
        images,
        model,
        weights,
        classes,
        preprocess,
        device,
        method=[method],
        settings=given,
        output=output,
        arrays=arrays,
        as_json=as_json,
    )
