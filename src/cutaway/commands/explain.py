"""`cutaway explain`: several methods on several pictures, every result kept, every refusal said."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.core.errors import InputError
from cutaway.core.progress import finish

from .console import INTERRUPTED, bar, say, show_error
from .network import Network, networked
from .options import (
    OUTPUT,
    QUESTION,
    ArraysOption,
    FigureOption,
    JsonOption,
    MethodsOption,
    SeedOption,
    SettingsOption,
)
from .outputs import Outputs
from .summary import print_json, print_picture, to_dict

if TYPE_CHECKING:
    from cutaway.core.image import Photo
    from cutaway.core.model import VisionModel

    from .asked import Ask, Question
    from .bench import Explained


@networked()
def explain(
    images: Annotated[list[str], typer.Argument(metavar="IMG...", help="Pictures, anything Pillow reads.")],
    *,
    named: Network,
    method: MethodsOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="A class number or name, or 'predicted' (default).",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    minus: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Ask why the target rather than this.", rich_help_panel=QUESTION),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER:K[:R,C]",
            help="Explain a hidden unit instead of a class.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    output: FigureOption = None,
    arrays: ArraysOption = None,
    as_json: JsonOption = False,
    top: Annotated[
        int,
        typer.Option(min=1, help="How many of the most probable classes to list.", rich_help_panel=OUTPUT),
    ] = 5,
) -> None:
    """Explain what a network says about pictures, by one method or a whole bench of them."""
    outputs = Outputs(output, arrays, inputs=images)

    from .asked import Question, asks, check_layers

    asked, question = asks(method or [], settings or []), Question(target, minus, unit)
    first = _first_readable(images)
    network = named.load()
    with suppress(InputError):  # said later with the picture itself, so that the others are explained
        network.pixels(first)  # layers and units are looked up at the size of the pictures
    question.check(network)
    check_layers(asked, network)
    explained, stopped = _run(network, images, asked, question, outputs, top=top, seed=seed, quiet=as_json)
    if as_json:
        print_json("explain", {"model": network.name, "images": [to_dict(e) for e in explained]})
    else:
        for one in explained:
            if not one.error:
                print_picture(one)
    outputs.finish()
    for path in outputs.written:
        say(f"wrote {path}")
    _end(explained, stopped)


def _first_readable(images: Sequence[str]) -> Photo:
    """The first picture that can be read; raises the first picture's error, before any network, when none can."""
    from cutaway.core.image import read

    errors = []
    for path in images:
        try:
            return read(path)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _run(
    network: VisionModel,
    images: list[str],
    asked: list[Ask],
    question: Question,
    outputs: Outputs,
    *,
    top: int,
    seed: int,
    quiet: bool,
) -> tuple[list[Explained], BaseException | None]:
    """Every picture in turn; what was finished is written also when something stops the run (handed back)."""
    from .bench import Explained, explain_picture

    explained: list[Explained] = []
    stopped: BaseException | None = None
    with outputs, bar(len(images)) as show:
        for number, path in enumerate(images):
            one = Explained(number, path)
            explained.append(one)
            try:
                steps = explain_picture(one, network, asked, question, top=top, seed=seed)
                finish(steps, show(number, Path(path).name))
            except (Exception, KeyboardInterrupt) as error:
                stopped = error
            outputs.add(one)
            if stopped:
                break
    return explained, stopped


def _end(explained: list[Explained], stopped: BaseException | None) -> None:
    """Say on stderr what went wrong and leave with the code for it."""
    from .bench import exit_code

    for one in explained:
        if one.error:
            show_error(one.error)
        for name, error in one.refused.items():
            show_error(error, f"{name} on {Path(one.path).name}")
    if isinstance(stopped, KeyboardInterrupt):
        say("interrupted; what was finished is kept")
        raise typer.Exit(INTERRUPTED)
    if stopped:
        raise stopped
    code = exit_code(explained)
    if code:
        raise typer.Exit(code)
