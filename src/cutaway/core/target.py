"""What to explain is a value: the scalar per picture that every method asks about.

>>> logit(243) - logit(281)
logit 243 - logit 281
>>> 2 * channel("layer3", 41) + unit("layer4", 7, 0, 3)
2 * layer3:41 + layer4:7:0,3
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import MethodRefusedError, UnknownNameError, UsageError, unknown
from .tap import Tap

if TYPE_CHECKING:
    from .model import VisionModel


class Reader(ABC):
    """Reads one number per picture from the network's output (`layer` None) or from a layer's activation."""

    layer: str | None

    def resolve(self, model: VisionModel) -> Reader:
        """The same reader with names looked up and ranges checked against the model."""
        return self

    @abstractmethod
    def read(self, values: Tensor) -> Tensor:
        """(N, ...) to (N,)."""

    @abstractmethod
    def label(self, sample: int = 0) -> str:
        """What a person reads."""


@dataclass(frozen=True, eq=False)
class _Class(Reader):
    layer = None
    index: int | str | Tensor
    name: str = ""

    def resolve(self, model: VisionModel) -> Reader:
        if isinstance(self.index, str):
            k = class_index(self.index, model.classes)
        elif isinstance(self.index, Tensor):
            return self
        else:
            k = self.index
        if model.classes and not 0 <= k < len(model.classes):
            raise UnknownNameError(
                f"class {k} is out of range", f"0 to {len(model.classes) - 1}", f"{len(model.classes) - 1}"
            )
        return replace(self, index=k, name=model.classes[k] if model.classes else "")

    def pick(self, values: Tensor) -> Tensor:
        index = self.index
        if isinstance(index, str):
            raise UsageError(f"class {index!r} was not looked up", "a target resolved against a model", "")
        scores = values.flatten(2).sum(2) if values.ndim > 2 else values
        if isinstance(index, Tensor):
            if index.shape != (len(values),):
                raise UsageError(
                    f"{tuple(index.shape)} class numbers for {len(values)} pictures",
                    "one class per picture",
                    "",
                )
            return scores.gather(1, index.to(values.device)[:, None])[:, 0]
        if not -1 < index < scores.shape[1]:
            raise UnknownNameError(f"class {index} is out of range", f"0 to {scores.shape[1] - 1}", "")
        return scores[:, index]

    def text(self, sample: int = 0) -> str:
        if isinstance(self.index, Tensor):
            return str(int(self.index[min(sample, len(self.index) - 1)]))
        return f"{self.index} {self.name!r}" if self.name else str(self.index)


@dataclass(frozen=True, eq=False)
class Logit(_Class):
    """The score before softmax; on a map of scores (N, K, H, W) its sum over positions."""

    def read(self, values: Tensor) -> Tensor:
        return self.pick(values)

    def label(self, sample: int = 0) -> str:
        return f"logit {self.text(sample)}"


@dataclass(frozen=True, eq=False)
class Probability(_Class):
    """The softmax probability; its gradient vanishes where the network is certain."""

    def read(self, values: Tensor) -> Tensor:
        return self.pick(values.softmax(1))

    def label(self, sample: int = 0) -> str:
        return f"probability {self.text(sample)}"


@dataclass(frozen=True, eq=False)
class Predicted(Reader):
    """The logit of the class that is most probable on the first picture it reads, fixed from then on."""

    layer = None
    names: tuple[str, ...] = ()
    found: list[Tensor] = field(default_factory=list)

    def resolve(self, model: VisionModel) -> Reader:
        return replace(self, names=model.classes)

    def read(self, values: Tensor) -> Tensor:
        scores = values.flatten(2).sum(2) if values.ndim > 2 else values
        if not self.found:
            self.found.append(scores.detach().argmax(1))
        return scores.gather(1, self.found[0][:, None])[:, 0]

    def label(self, sample: int = 0) -> str:
        if not self.found:
            return "predicted class"
        k = int(self.found[0][sample])
        return f"logit {k} {self.names[k]!r}" if self.names else f"logit {k}"


@dataclass(frozen=True, eq=False)
class Unit(Reader):
    """A hidden neuron at one position, after the nonlinearity that directly follows its layer."""

    layer: str
    channel: int
    row: int
    col: int

    def resolve(self, model: VisionModel) -> Reader:
        _channel_in_range(model, self.layer, self.channel)
        return self

    def read(self, values: Tensor) -> Tensor:
        if values.ndim != 4:
            raise UsageError(
                f"layer {self.layer!r} gives {values.ndim}-D output", "a layer with maps", "no position"
            )
        h, w = values.shape[2:]
        if not (0 <= self.row < h and 0 <= self.col < w):
            raise UnknownNameError(
                f"position {self.row},{self.col} is outside the {h}x{w} map of {self.layer!r}",
                f"rows 0 to {h - 1}, columns 0 to {w - 1}",
            )
        return values[:, self.channel, self.row, self.col]

    def label(self, sample: int = 0) -> str:
        return f"{self.layer}:{self.channel}:{self.row},{self.col}"


@dataclass(frozen=True, eq=False)
class Channel(Reader):
    """A whole channel: the mean of its map, after the nonlinearity that directly follows the layer."""

    layer: str
    channel: int

    def resolve(self, model: VisionModel) -> Reader:
        _channel_in_range(model, self.layer, self.channel)
        return self

    def read(self, values: Tensor) -> Tensor:
        return values[:, self.channel].flatten(1).mean(1) if values.ndim > 2 else values[:, self.channel]

    def label(self, sample: int = 0) -> str:
        return f"{self.layer}:{self.channel}"


@dataclass(frozen=True, eq=False)
class Direction(Reader):
    """A direction in a layer's channels: the mean over positions of <v, a>."""

    layer: str
    vector: Tensor

    def resolve(self, model: VisionModel) -> Reader:
        width = model.layers.find(self.layer).units
        if self.vector.numel() != width:
            raise UsageError(
                f"a direction of {self.vector.numel()} numbers", f"{width}, the channels of {self.layer!r}"
            )
        return self

    def read(self, values: Tensor) -> Tensor:
        v = self.vector.flatten().to(values)
        return torch.einsum("nc...,c->n...", values, v).flatten(1).mean(1)

    def label(self, sample: int = 0) -> str:
        return f"direction in {self.layer}"


@dataclass(frozen=True, eq=False)
class Token(Reader):
    """The log-probability of one token at one step of a captioner's output (N, T, V)."""

    layer = None
    token: int
    step: int = -1

    def read(self, values: Tensor) -> Tensor:
        if values.ndim != 3:
            raise UsageError(
                f"output has {values.ndim} dimensions", "a captioner's (pictures, steps, tokens)"
            )
        return values.log_softmax(2)[:, self.step, self.token]

    def label(self, sample: int = 0) -> str:
        return f"token {self.token} at step {self.step}"


@dataclass(frozen=True, eq=False)
class Custom(Reader):
    """Any function from the network's output, or a layer's activation, to (N,)."""

    function: Callable[[Any], Tensor]
    layer: str | None = None

    def read(self, values: Tensor) -> Tensor:
        out = self.function(values)
        if not isinstance(out, Tensor) or out.shape != (len(values),):
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UsageError(
                f"the target function gave {found}", f"one number per picture, shape ({len(values)},)"
            )
        return out

    def label(self, sample: int = 0) -> str:
        return getattr(self.function, "__name__", "function")


@dataclass(frozen=True, eq=False)
class Target:
    """A weighted sum of readers; targets add, subtract and scale like the numbers they stand for."""

    terms: tuple[tuple[float, Reader], ...]

    def __add__(self, other: Target) -> Target:
        return Target(self.terms + other.terms)

    def __sub__(self, other: Target) -> Target:
        return self + -1 * other

    def __neg__(self) -> Target:
        return -1 * self

    def __mul__(self, factor: float) -> Target:
        return Target(tuple((w * factor, r) for w, r in self.terms))

    __rmul__ = __mul__

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it reads, each once."""
        return tuple(dict.fromkeys(r.layer for _, r in self.terms if r.layer is not None))

    @property
    def reads_output(self) -> bool:
        """Whether it needs the network's own output."""
        return any(r.layer is None for _, r in self.terms)

    def resolve(self, model: VisionModel) -> Target:
        """The same target with every name looked up in the model.

        Raises `UnknownNameError` for an unknown or ambiguous class and for layers and channels out of range.
        """
        return Target(tuple((w, r.resolve(model)) for w, r in self.terms))

    def read(self, values: Mapping[str | None, Tensor]) -> Tensor:
        """(N,) from the output (under None) and the activations that `observe` gives."""
        parts = [w * r.read(values[r.layer]) for w, r in self.terms]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def label(self, sample: int = 0) -> str:
        """What a person reads, for one picture of the batch."""
        text = ""
        for i, (w, r) in enumerate(self.terms):
            sign = "-" if w < 0 else "+" if i else ""
            size = "" if abs(w) == 1 else f"{abs(w):g} * "
            text += f" {sign} {size}{r.label(sample)}" if i else f"{sign}{size}{r.label(sample)}"
        return text

    def __repr__(self) -> str:
        return self.label()


def _target(reader: Reader) -> Target:
    return Target(((1.0, reader),))


def logit(index: int | str | Tensor) -> Target:
    """The class score before softmax; a number, a class name, or one number per picture."""
    return _target(Logit(index))


def probability(index: int | str | Tensor) -> Target:
    """The class probability after softmax."""
    return _target(Probability(index))


def predicted() -> Target:
    """The logit of the most probable class."""
    return _target(Predicted())


def unit(layer: str, channel: int, row: int, col: int) -> Target:
    """One hidden neuron."""
    return _target(Unit(layer, channel, row, col))


def channel(layer: str, index: int) -> Target:
    """The mean of one channel's map."""
    return _target(Channel(layer, index))


def direction(layer: str, vector: Tensor | Sequence[float]) -> Target:
    """A direction in a layer's channels, averaged over positions."""
    return _target(Direction(layer, torch.as_tensor(vector)))


def token(index: int, step: int = -1) -> Target:
    """The log-probability of a token of a captioner."""
    return _target(Token(index, step))


def custom(function: Callable[[Any], Tensor], layer: str | None = None) -> Target:
    """Any function of the output, or of a layer's activation, that gives one number per picture."""
    return _target(Custom(function, layer))


def as_target(value: Any) -> Target:
    """A target from what people hand over: None, a class number or name, a function, a target.

    >>> as_target(243), as_target(None)
    (logit 243, predicted class)
    """
    if value is None:
        return predicted()
    if isinstance(value, Target):
        return value
    if isinstance(value, bool):
        raise UsageError(f"target={value}", "a class number or name, a Target, a function")
    if isinstance(value, int) or (isinstance(value, Tensor) and not value.is_floating_point()):
        return logit(value)
    if isinstance(value, str):
        if value == "predicted":
            return predicted()
        return logit(int(value)) if value.lstrip("-").isdigit() else logit(value)
    if callable(value):
        return custom(value)
    raise UsageError(
        f"target of type {type(value).__name__}", "a class number or name, a Target, a function", "target=243"
    )


def parse_unit(text: str) -> Target:
    """A unit from its name, `layer:channel` or `layer:channel:row,col`.

    >>> parse_unit("layer3:41:7,9")
    layer3:41:7,9
    """
    parts = text.split(":")
    try:
        if len(parts) == 2:
            return channel(parts[0], int(parts[1]))
        if len(parts) == 3:
            row, col = parts[2].split(",")
            return unit(parts[0], int(parts[1]), int(row), int(col))
    except ValueError:
        pass
    raise UsageError(f"unit {text!r}", "layer:channel or layer:channel:row,col", "layer3:41 or layer3:41:7,9")


def class_index(name: str, classes: Sequence[str]) -> int:
    """The number of a class by its name, ignoring case; raises with the nearest or the several that fit.

    >>> class_index("tabby", ["tabby, tabby cat", "tiger cat"])
    0
    """
    if not classes:
        raise UnknownNameError(
            f"class {name!r}: the model has no class names", "a class number", "--classes FILE"
        )
    wanted = _fold(name)
    hits = [i for i, c in enumerate(classes) if _fold(c) == wanted]
    hits = hits or [i for i, c in enumerate(classes) if wanted in map(_fold, c.split(","))]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise UnknownNameError(
            f"class name {name!r} is ambiguous",
            " or ".join(f"{i} ({classes[i]!r})" for i in hits),
            f"{hits[0]}",
        )
    parts = {p.strip(): i for i, c in enumerate(classes) for p in [c, *c.split(",")]}
    containing = [p for p in parts if wanted in _fold(p)]
    if len(containing) > 1 and len(containing) <= 8:
        raise UnknownNameError(
            f"no class named {name!r}", "containing it: " + ", ".join(containing), repr(containing[0])
        )
    raise unknown("class", name, parts)


def observe(model: VisionModel, x: Tensor, target: Target) -> dict[str | None, Tensor]:
    """What the target reads, from one forward pass: the output under None, activations under their layers.

    A target of hidden layers alone ends the pass at the last of them.
    """
    if not target.layers:
        return {None: model(x)}
    values: dict[str | None, Tensor] = {}
    with Tap(model, *target.layers, stop=not target.reads_output) as tap:
        values[None] = model(x)
    return values | {name: tap.maps(name) for name in target.layers}


def score(model: VisionModel, x: Tensor, target: Target) -> Tensor:
    """The target's value for each picture, (N,), in one forward pass; differentiable in `x`, (N, 3, H, W) pixels."""
    return target.read(observe(model, x, target))


def gradient(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """d(sum of value)/d(inputs); raises `MethodRefusedError` when the output cannot be differentiated."""
    if not value.requires_grad:
        raise not_differentiable()
    found = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True))


def not_differentiable() -> MethodRefusedError:
    """The refusal when no gradient leads from the target to the pictures."""
    return MethodRefusedError(
        "the target does not depend on the picture in a differentiable way (argmax, rounding or detach on the way)",
        "a target such as a logit, reached by differentiable operators",
        "a method that needs no gradient, such as occlusion",
    )


def _fold(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _channel_in_range(model: VisionModel, layer: str, index: int) -> None:
    width = model.layers.find(layer).units
    if not 0 <= index < width:
        raise UnknownNameError(
            f"channel {index} of {layer!r} is out of range", f"0 to {width - 1}", f"{layer}:{width - 1}"
        )
