"""The options that name a network, declared once for commands that take all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from .console import say
from .options import (
    NETWORK,
    QUESTION,
    ClassesOption,
    DeviceOption,
    ModelOption,
    PreprocessOption,
    WeightsOption,
)

if TYPE_CHECKING:
    from cutaway.core.model import VisionModel
    from cutaway.sweep.atlas import Atlas

AtlasModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="SPEC",
        help="Else the model the atlas names.",
        rich_help_panel=NETWORK,
    ),
]
PhotosOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The pictures, when moved.", rich_help_panel=QUESTION)
]


@dataclass(frozen=True)
class Network:
    """What was said of a network on the command line."""

    model: str | None
    weights: str | None
    classes: Path | None
    preprocess: Path | None
    device: str

    def load(self, atlas: Atlas | None = None, *, quiet: bool = False) -> VisionModel:
        """The network, the one that the atlas names where nothing else was said; what it says of itself is said
        unless `quiet`."""
        from cutaway.zoo import load

        spec = self.model or (str(atlas.about["model"]["name"]) if atlas is not None else "")
        said = {"weights": self.weights, "classes": self.classes, "preprocess": self.preprocess}
        network = load(spec, **said, device=self.device)
        for note in () if quiet else network.card.get("notes", ()):
            say(f"{network.name}: {note}")
        return network


def networked(
    model: Any = ModelOption, default: Any = inspect.Parameter.empty
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameter `named: Network` is given on the command line as --model, --weights and the rest.

    Parameters
    ----------
    model, default : the type of --model as Typer reads it, and its default; required without one.
    """
    options: dict[str, tuple[Any, Any]] = {
        "model": (model, default),
        "weights": (WeightsOption, None),
        "classes": (ClassesOption, None),
        "preprocess": (PreprocessOption, None),
        "device": (DeviceOption, "auto"),
    }

    def change(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **given: Any) -> None:
            named = given.pop("named", None) or Network(**{name: given.pop(name) for name in options})
            command(*args, named=named, **given)

        hints = get_type_hints(command, include_extras=True)
        parameters = []
        for own in inspect.signature(command).parameters.values():
            if own.name == "named":
                parameters += [
                    own.replace(name=name, annotation=kind, default=value)
                    for name, (kind, value) in options.items()
                ]
            else:
                parameters.append(own.replace(annotation=hints[own.name]))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return run

    return change
