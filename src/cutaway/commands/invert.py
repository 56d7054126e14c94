"""`cutaway invert`: what a layer kept of a picture, drawn from its activations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .network import Network, networked
from .options import (
    ArraysOption,
    JsonOption,
    MadeByOption,
    MadeOption,
    PreviewOption,
    SeedOption,
    SettingsOption,
)

TITLE = "What the layers kept of the picture"
LEAD = (
    "Each picture was drawn until the network's activations equalled those of the photograph. Where several drawings "
    "of one layer differ, the layer does not tell those differences apart."
)


@networked()
def invert(
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Pictures, anything Pillow reads.")],
    *,
    named: Network,
    method: MadeByOption = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    output: MadeOption = Path("invert.png"),
    preview: PreviewOption = None,
    arrays: ArraysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw pictures that a layer cannot tell from yours: what it kept, and what it forgot."""
    from .made import Files, Job, opened

    files = Files(output, arrays, preview)
    files.check(images)

    from .asked import made_by

    asked = made_by("invert", method or [], settings or [], pictures=True)
    network = opened(named, images, asked)
    Job("invert", network, asked, images, [None], {}, seed).run(
        files, title=TITLE, lead=LEAD, as_json=as_json
    )
