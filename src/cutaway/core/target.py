"""What to explain is a value: the scalar per picture that every method asks about.

>>> logit(243) - logit(281)
logit 243 - logit 281
>>> 2 * channel("layer3", 41) + unit("layer4", 7, 0, 3)
2 * layer3:41 + layer4:7:0,3
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import MethodRefusedError, UsageError
from .readers import Channel, Custom, Direction, Logit, Predicted, Probability, Reader, Token, Unit
from .tap import Tap

if TYPE_CHECKING:
    from .model import VisionModel


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
        `UsageError` where two terms ask something of different numbers of pictures.
        """
        counts = {r.count for _, r in self.terms} - {None}
        if len(counts) > 1:
            found = " and ".join(map(str, sorted(c for c in counts if c is not None)))
            raise UsageError(
                f"a target of terms for {found} pictures", "one number of pictures for all terms"
            )
        return Target(tuple((w, r.resolve(model)) for w, r in self.terms))

    def alone(self, sample: int) -> Target:
        """The target of one picture of the batch, to be read on any number of its variants.

        A class number per picture becomes that picture's number, a predicted class the logit found for it.
        Raises `UsageError` when a predicted class was not decided yet.

        >>> logit(torch.tensor([3, 5])).alone(1)
        logit 5
        """
        return Target(tuple((weight, reader.alone(sample)) for weight, reader in self.terms))

    @property
    def count(self) -> int | None:
        """How many pictures it asks something of their own; None where it asks the same of any number.

        >>> channel("layer3", torch.tensor([4, 7, 9])).count, logit(3).count
        (3, None)
        """
        return next((c for c in (r.count for _, r in self.terms) if c is not None), None)

    def take(self, rows: Tensor) -> Target:
        """The target of the pictures of those numbers, in that order, repeated where a number is.

        >>> channel("layer3", torch.tensor([4, 7])).take(torch.tensor([1, 1, 0])).label(2)
        'layer3:4'
        """
        return Target(tuple((weight, reader.take(rows)) for weight, reader in self.terms))

    @property
    def class_number(self) -> int | None:
        """The class it is about, when it is one logit or probability; else None."""
        reader = self.terms[0][1] if len(self.terms) == 1 else None
        if isinstance(reader, (Logit, Probability)) and isinstance(reader.index, int):
            return reader.index
        return None

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


def unit(layer: str, channel: int | Tensor, row: int, col: int) -> Target:
    """One hidden neuron; with one channel number per picture, one neuron of each."""
    return _target(Unit(layer, channel, row, col))


def channel(layer: str, index: int | Tensor) -> Target:
    """The mean of one channel's map; with one number per picture, of a channel of each."""
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
    if isinstance(value, Tensor) and not value.is_floating_point():
        return logit(value if value.ndim else int(value))
    if isinstance(value, Integral):
        return logit(int(value))
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
    """d(sum of value)/d(inputs), zeros where nothing depends on one; frees the graph.

    Raises `MethodRefusedError` when the output cannot be differentiated.
    """
    found = slopes(value, *inputs, keep=False)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True))


def slopes(value: Tensor, *inputs: Tensor, keep: bool) -> tuple[Tensor | None, ...]:
    """d(sum of value)/d(inputs), None where nothing depends on one; `keep` leaves the graph for later use.

    Raises `MethodRefusedError` when the output cannot be differentiated.
    """
    if not value.requires_grad:
        raise not_differentiable()
    try:
        return torch.autograd.grad(value.sum(), inputs, allow_unused=True, retain_graph=keep)
    except RuntimeError as error:
        raise MethodRefusedError(
            f"the network cannot be differentiated ({str(error).splitlines()[0][:200]})",
            "networks whose backward pass runs",
            "the network without checkpointing or in-place changes, or occlusion, which needs no gradient",
        ) from error


def flat(heat: Tensor, target: Target) -> tuple[str, ...]:
    """The note for a gradient that is zero everywhere, which is rarely what a reader takes it for."""
    if bool((heat.flatten(1) == 0).all(1).any()):
        return (f"all zero: no pixel moves {target.label()} (a saturated, rounded or cancelled score?)",)
    return ()


def not_differentiable() -> MethodRefusedError:
    """The refusal when no gradient leads from the target to the pictures."""
    return MethodRefusedError(
        "the target does not depend on the picture in a differentiable way (argmax, rounding or detach on the way)",
        "a target such as a logit, reached by differentiable operators",
        "a method that needs no gradient, such as occlusion",
    )
