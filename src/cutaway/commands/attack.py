"""`cutaway attack`: the smallest changes that turn a network's answer, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cutaway.core.errors import UsageError

from .network import Network, networked
from .options import (
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

TITLE = "Where the network breaks"
LEAD = (
    "Each picture was changed a little so that the network answers something else. Success is judged on the picture as "
    "a file holds it, in whole 8-bit levels; the difference is shown as it is and ten times as large."
)


@networked()
def attack(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMG...", help="Pictures, anything Pillow reads.")
    ] = None,
    *,
    named: Network,
    method: MadeByOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The class to leave: the true one; the predicted one when not given.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    toward: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="The class to reach; any other when not given.", rich_help_panel=QUESTION
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER:K[:R,C]", help="Lower a hidden unit instead of a class.", rich_help_panel=QUESTION
        ),
    ] = None,
    settings: SettingsOption = None,
    data: DataOption = None,
    seed: SeedOption = 0,
    output: MadeOption = Path("attack.png"),
    preview: PreviewOption = None,
    arrays: ArraysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn the network's answer by changes too small to see, by a patch, or by one change for all pictures."""
    from .made import Files, Job, further, opened

    files = Files(output, arrays, preview)
    files.check(images or [])

    from .asked import Question, made_by

    asked = made_by("attack", method or [], settings or [], pictures=bool(images))
    if toward is not None:
        for ask in asked:
            if "toward" not in ask.options:
                raise UsageError(
                    f"--toward with {ask.method.name}", "methods that aim at a class", "cutaway methods"
                )
            ask.options["toward"] = ask.method.options({"toward": toward})["toward"]
    question = Question(target, None, unit)
    network = opened(named, images or [], asked)
    question.check(network)
    wanted = None if question.predicted else question.ask(None, network.device)
    job = Job("attack", network, asked, images or [], [wanted], further(network, data), seed)
    job.run(files, title=TITLE, lead=LEAD, as_json=as_json)
