"""What the person asked for, read from words: methods with their options, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.core.errors import UsageError, unknown
from cutaway.core.method import IMAGE, LAYER, TARGET, Command, Method
from cutaway.core.model import VisionModel
from cutaway.core.readers import Predicted
from cutaway.core.target import Target, as_target, channel, logit, parse_unit
from cutaway.methods import METHODS, get
from cutaway.methods.projection.walk import STAGES

BENCH = ("saliency", "guided_backprop", "grad_cam", "occlusion")
"""The methods run when none is named: two fine ones, one that tells classes apart, one that only asks."""


@dataclass(frozen=True)
class Ask:
    """One method with its options, checked."""

    method: Method
    options: dict[str, Any]


def asks(names: Sequence[str], settings: Sequence[str]) -> list[Ask]:
    """The methods to run, each once, in the order given; `names` may hold several joined by commas.

    `settings` are `method.option=value`. Raises `UnknownNameError` for methods and options that do not exist,
    `UsageError` for a bad value, an option of a method that is not run, or a method that needs more than a
    picture.

    >>> [(a.method.name, a.options["reduce"]) for a in asks(["saliency"], ["saliency.reduce=sum"])]
    [('saliency', 'sum')]
    """
    wanted = _split_names(names) or list(BENCH)
    if wanted == ["all"]:
        wanted = [n for n, method in METHODS.items() if method.command == "explain" and _from_picture(method)]
    chosen = [get(name) for name in dict.fromkeys(wanted)]
    for method in chosen:
        if set(method.needs) <= {LAYER}:
            raise UsageError(
                f"{method.name} looks at the network alone, not at a picture",
                "methods that need a picture",
                f"cutaway filters --method {method.name}",
            )
        if not _from_picture(method):
            more = ", ".join(need.value for need in method.needs if need not in (IMAGE, TARGET, LAYER))
            raise UsageError(
                f"{method.name} cannot run from a picture alone",
                f"methods that need no {more}",
                "cutaway methods",
            )
    return _with_options(chosen, settings)


def made_by(command: Command, names: Sequence[str], settings: Sequence[str], *, pictures: bool) -> list[Ask]:
    """The methods that `cutaway dream`, `invert` or `attack` runs, each once; those that lead when none is named.

    `pictures` says whether photographs were given. Raises as `asks` does, and `UsageError` for a method of another
    command.
    """
    offered = [name for name, method in METHODS.items() if method.command == command]
    wanted = _split_names(names)
    if not wanted:
        leading = [name for name in offered if METHODS[name].leads]
        wanted = [n for n in leading if (IMAGE in METHODS[n].needs) == pictures] or leading
    for name in wanted:
        if get(name).command != command:
            raise UsageError(
                f"{name} is no method of cutaway {command}",
                ", ".join(offered),
                f"cutaway {METHODS[name].command}",
            )
    return _with_options([get(name) for name in dict.fromkeys(wanted)], settings)


def goals(model: VisionModel, classes: Sequence[str], units: Sequence[str]) -> list[Target | None]:
    """The targets asked for, those of one layer together, so that their pictures are drawn in batches.

    Units are `layer:channel`, `layer:channel:row,col`, `layer:first-last` (both included) or `layer:all`. Without
    any, one None. Raises `UnknownNameError` and `UsageError` for what the model does not have.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> from cutaway import Preprocess
    >>> goals(VisionModel(net, Preprocess(crop=16), name="tiny"), [], ["1:2", "1:5-7", "2:0:3,4"])
    [1:2, 2:0:3,4]
    """
    found: list[Target | None] = []
    numbers = []
    for name in classes:
        number = as_target(name).resolve(model).class_number
        if number is None:
            raise UsageError(f"--target {name}", "a class number or name", "--target 243")
        numbers.append(number)
    if numbers:
        found.append(logit(torch.tensor(numbers) if len(numbers) > 1 else numbers[0]))
    channels: dict[str, list[int]] = {}
    places: list[Target | None] = []
    for text in units:
        layer, _, which = text.partition(":")
        if ":" in which:
            places.append(parse_unit(text))
            continue
        count = model.layers.find(layer).units
        first, dash, last = which.partition("-")
        if which == "all":
            channels.setdefault(layer, []).extend(range(count))
        elif first.isdigit() and (last.isdigit() or not dash):
            channels.setdefault(layer, []).extend(range(int(first), int(last or first) + 1))
        else:
            raise UsageError(
                f"--unit {text}", "LAYER:K, LAYER:K:R,C, LAYER:K-L or LAYER:all", f"--unit {layer}:0-15"
            )
    for layer, own in channels.items():
        found.append(channel(layer, torch.tensor(own) if len(own) > 1 else own[0]))
    found += places
    return [goal if goal is None else goal.resolve(model) for goal in found] or [None]


def check_layers(asked: Sequence[Ask], model: VisionModel) -> None:
    """Raise `UnknownNameError` now for an option `layer` or `layers` that names no layer of the model."""
    for ask in asked:
        layer, layers = ask.options.get("layer"), ask.options.get("layers")
        if isinstance(layer, str):
            model.layers.find(layer)
        if isinstance(layers, str) and layers != STAGES:
            for name in filter(None, map(str.strip, layers.split(","))):
                model.layers.find(name)


@dataclass(frozen=True)
class Question:
    """The target in the person's words.

    >>> Question(target="243", minus="281").ask(None, "cpu")
    logit 243 - logit 281
    """

    target: str | None = None
    minus: str | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and (self.target is not None or self.minus is not None):
            raise UsageError(
                "--unit together with --target or --minus", "either a unit or classes", "--unit alone"
            )

    @property
    def predicted(self) -> bool:
        """Whether the first class is whatever the network says."""
        return self.unit is None and self.target in (None, "predicted")

    def ask(self, top: int | None, device: torch.device | str) -> Target:
        """The target for a picture whose most probable class is `top`, or not yet known."""
        if self.unit is not None:
            return parse_unit(self.unit)
        if self.predicted:
            found = [] if top is None else [torch.tensor([top], device=device)]
            first = Target(((1.0, Predicted(found=found)),))
        else:
            first = as_target(self.target)
        return first if self.minus is None else first - as_target(self.minus)

    def check(self, model: VisionModel) -> None:
        """Look every name up in the model now; raises `UnknownNameError` or `UsageError`."""
        self.ask(None, model.device).resolve(model)


def _split_names(names: Sequence[str]) -> list[str]:
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def _with_options(chosen: Sequence[Method], settings: Sequence[str]) -> list[Ask]:
    """The methods with the options that `settings` give them, checked."""
    given: dict[str, dict[str, str]] = {method.name: {} for method in chosen}
    for setting in settings:
        name, option, value = _split(setting)
        if name not in given:
            get(name)
            raise UsageError(
                f"--set {setting}, but {name} is not run",
                ", ".join(given),
                f"--method {','.join([*given, name])}",
            )
        given[name][option] = value
    return [Ask(method, method.options(given[method.name])) for method in chosen]


def _from_picture(method: Method) -> bool:
    return IMAGE in method.needs and set(method.needs) <= {IMAGE, TARGET, LAYER}


def _split(setting: str) -> tuple[str, str, str]:
    left, equals, value = setting.partition("=")
    name, dot, option = left.strip().partition(".")
    if not (equals and dot and name and option):
        raise UsageError(f"--set {setting}", "method.option=value", "--set saliency.reduce=sum")
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return name, option.strip(), value.strip()
