"""What the person asked for, read from words: methods with their options, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.core.errors import UsageError, unknown
from cutaway.core.method import IMAGE, LAYER, TARGET, Method
from cutaway.core.model import VisionModel
from cutaway.core.readers import Predicted
from cutaway.core.target import Target, as_target, parse_unit
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
    wanted = [part.strip() for name in names for part in name.split(",") if part.strip()] or list(BENCH)
    if wanted == ["all"]:
        wanted = [name for name, method in METHODS.items() if _from_picture(method)]
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
