"""A method is one function with one declaration; everything else is derived from it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeVar

from torch import Tensor

from .errors import unknown
from .operators import Family
from .options import LayerName as LayerName
from .options import OrPicture as OrPicture
from .options import Parameter, finite, parameter
from .options import Range as Range
from .result import Result, Scale


class Need(Enum):
    """What a method is given, in the order of its positional parameters after `model`."""

    IMAGE = "x"
    TARGET = "target"
    LAYER = "layer"
    UNIT = "unit"
    DATA = "data"
    CHECKPOINTS = "checkpoints"
    MASK = "mask"
    GENERATOR = "generator"


IMAGE, TARGET, LAYER, UNIT, DATA = Need.IMAGE, Need.TARGET, Need.LAYER, Need.UNIT, Need.DATA
CHECKPOINTS, MASK, GENERATOR = Need.CHECKPOINTS, Need.MASK, Need.GENERATOR

FamilyTag = Literal[
    "parameters",
    "features",
    "sensitivity",
    "decomposition",
    "perturbation",
    "synthesis",
    "data",
    "proxy",
    "by-case",
    "by-text",
    "by-design",
    "theory",
]
Command = Literal["explain", "dream", "invert", "attack"]
Law = Literal["completeness", "conservation", "linearity", "symmetry", "class sensitive", "weights sensitive"]


@dataclass(frozen=True)
class Tags:
    """How the catalogue files a method."""

    family: FamilyTag
    focus: Literal["model", "data", "both"] = "model"
    when: Literal["post-hoc", "ad-hoc"] = "post-hoc"
    level: Literal["low", "mid", "high", "any"] = "any"


@dataclass(frozen=True)
class RawPanel:
    """A panel for a whole batch: `values` as `result.Panel` has them, with the batch first.

    `title` and `labels` are shared or, as a list, one per picture; `boxes` always has one list per picture;
    `mark`, `framed` and `before` are shared.
    """

    title: str | Sequence[str]
    values: Tensor
    scale: Scale
    unit: str = ""
    labels: Mapping[int, str] | Sequence[Mapping[int, str]] = field(default_factory=dict)
    columns: int | None = None
    each: bool = False
    boxes: Sequence[Sequence[tuple[int, int, int, int] | None]] = ()
    mark: tuple[float, float, float, float] | None = None
    framed: tuple[int, ...] = ()
    before: bool = False


@dataclass(frozen=True)
class Raw:
    """What a method hands back for a batch of N pictures; the runner makes one result per picture of it.

    `values` has the batch first; a method that needs no picture gives a batch of one. Tensors of N numbers in
    `evidence` are split per picture, and so are lists of N entries; anything else is shared. `extra` fills further
    fields of the result type the method gives. `targeted` is False when what was explained is not the target, such
    as units the method chose itself; the result then names no target.
    """

    values: Tensor
    signed: bool = True
    unit: str = ""
    layer: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    panels: Mapping[str, RawPanel] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    targeted: bool = True


@dataclass(frozen=True)
class Method:
    """A registered method: its function and everything its declaration says."""

    name: str
    title: str
    chapter: str
    function: Callable[..., Any]
    needs: tuple[Need, ...]
    gives: type[Result]
    paper: str
    tags: Tags
    caveat: str
    passes: frozenset[Family]
    laws: frozenset[Law]
    random: bool
    single_pass: bool
    command: Command
    leads: bool
    parameters: Mapping[str, Parameter]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value: given ones checked, the rest at their defaults.

        Raises `UnknownNameError` for an option the method does not have, `UsageError` for a bad value.
        """
        for name in given:
            if name not in self.parameters:
                raise unknown(f"option of {self.name}", name, self.parameters)
        out = {n: p.default for n, p in self.parameters.items()}
        return out | {n: self.parameters[n].check(v) for n, v in given.items()}

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "chapter": self.chapter,
            "summary": self.summary,
            "needs": [n.value for n in self.needs],
            "gives": self.gives.kind,
            "paper": self.paper,
            "family": self.tags.family,
            "focus": self.tags.focus,
            "when": self.tags.when,
            "level": self.tags.level,
            "caveat": self.caveat,
            "laws": sorted(self.laws),
            "random": self.random,
            "command": self.command,
            "parameters": {
                p.name: {
                    "type": p.type,
                    "default": p.default,
                    "accepted": p.accepted,
                    "choices": list(p.choices),
                    "low": finite(p.range.low if p.range else None),
                    "high": finite(p.range.high if p.range else None),
                    "help": p.help,
                }
                for p in self.parameters.values()
            },
        }


METHODS: dict[str, Method] = {}
"""Every registered method by name. `cutaway.methods` fills it when imported."""

F = TypeVar("F", bound=Callable[..., Any])


def method(
    *,
    title: str,
    chapter: str,
    needs: set[Need],
    gives: type[Result],
    paper: str,
    tags: Tags,
    caveat: str,
    passes: frozenset[Family] = frozenset(),
    laws: set[Law] | None = None,
    random: bool = False,
    single_pass: bool = False,
    command: Command = "explain",
    leads: bool = False,
) -> Callable[[F], F]:
    """Register a function as a method.

    The function's positional parameters are `model` and then the values of `needs`, in the order of `Need`;
    its keyword-only parameters are its options, each annotated with a type and, in `Annotated`, a `Range` and a
    line of help. It returns `Raw`, or is a generator that yields `Progress` and returns `Raw`. `passes` names the
    operator families through which its backward rules let the plain gradient pass, stated in the notes;
    `laws` the properties it promises on every network; `random` that it draws random numbers; `single_pass` that its
    first evaluation is of the clean picture, so that the predicted class needs no pass of its own; `command` the
    word of the command line that offers it, and `leads` that this word alone means it.
    """

    def register(function: F) -> F:
        name = function.__name__
        if name in METHODS and METHODS[name].function.__module__ != function.__module__:
            raise ValueError(
                f"method {name!r} declared in {METHODS[name].function.__module__} and {function.__module__}"
            )
        ordered = tuple(n for n in Need if n in needs)
        signature = inspect.signature(function)
        positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        expected = ["model", *(n.value for n in ordered if n.value not in _keyword_names(signature))]
        if positional != expected:
            raise ValueError(f"method {name!r} takes {positional}, its needs say {expected}")
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = {
            p.name: parameter(p.name, hints[p.name], p.default)
            for p in signature.parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        METHODS[name] = Method(
            name,
            title,
            chapter,
            function,
            ordered,
            gives,
            paper,
            tags,
            caveat,
            frozenset(passes),
            frozenset(laws or ()),
            random,
            single_pass,
            command,
            leads,
            parameters,
        )
        return function

    return register


def get(name: str) -> Method:
    """The method of that name; raises `UnknownNameError` with the nearest names."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def _keyword_names(signature: inspect.Signature) -> set[str]:
    return {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
