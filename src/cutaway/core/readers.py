"""What a target reads: one number per picture from the output or from a layer's activation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import UnknownNameError, UsageError
from .lookup import channel_in_range, class_index

if TYPE_CHECKING:
    from .model import VisionModel


class Reader(ABC):
    """Reads one number per picture from the network's output (`layer` None) or from a layer's activation."""

    layer: str | None

    def resolve(self, model: VisionModel) -> Reader:
        """The same reader with names looked up and ranges checked against the model."""
        return self

    def alone(self, sample: int) -> Reader:
        """The same reader for one picture of the batch, to be read on any number of its variants."""
        return self

    @property
    def count(self) -> int | None:
        """How many pictures it has something of its own for; None where it asks the same of any number."""
        return None

    def take(self, rows: Tensor) -> Reader:
        """The same reader for the pictures of those numbers, in that order, repeated where a number is."""
        return self

    @abstractmethod
    def read(self, values: Tensor) -> Tensor:
        """(N, ...) to (N,)."""

    @abstractmethod
    def label(self, sample: int = 0) -> str:
        """What a person reads."""


def _numbers(given: int | Tensor, what: str) -> list[int]:
    """The number for all pictures, or that of each; raises `UsageError` for a tensor of anything else."""
    if not isinstance(given, Tensor):
        return [given]
    if given.ndim != 1 or not len(given) or given.is_floating_point() or given.dtype is torch.bool:
        raise UsageError(
            f"{what} numbers of shape {tuple(given.shape)} and type {str(given.dtype).removeprefix('torch.')}",
            f"whole {what} numbers (n,), one for each picture",
            "torch.arange(4)",
        )
    numbers: list[int] = given.tolist()
    return numbers


@dataclass(frozen=True, eq=False)
class _Class(Reader):
    layer = None
    index: int | str | Tensor
    names: Mapping[int, str] = field(default_factory=dict)

    def resolve(self, model: VisionModel) -> Reader:
        index = class_index(self.index, model.classes) if isinstance(self.index, str) else self.index
        numbers = _numbers(index, "class")
        for k in numbers if model.classes else ():
            if not 0 <= k < len(model.classes):
                raise UnknownNameError(
                    f"class {k} is out of range",
                    f"0 to {len(model.classes) - 1}",
                    f"{len(model.classes) - 1}",
                )
        return replace(self, index=index, names={k: model.classes[k] for k in numbers if model.classes})

    def alone(self, sample: int) -> Reader:
        return replace(self, index=int(self.index[sample])) if isinstance(self.index, Tensor) else self

    @property
    def count(self) -> int | None:
        return len(self.index) if isinstance(self.index, Tensor) else None

    def take(self, rows: Tensor) -> Reader:
        return replace(self, index=self.index[rows]) if isinstance(self.index, Tensor) else self

    def pick(self, values: Tensor) -> Tensor:
        index = self.index
        if isinstance(index, str):
            raise UsageError(f"class {index!r} was not looked up", "a target resolved against a model", "")
        scores = values.flatten(2).sum(2) if values.ndim > 2 else values
        if isinstance(index, Tensor):
            if len(index) == len(values) and not bool(((index >= 0) & (index < scores.shape[1])).all()):
                raise UnknownNameError(
                    f"classes {index.tolist()} are out of range", f"0 to {scores.shape[1] - 1}"
                )
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
        index = self.index
        k = int(index[min(sample, len(index) - 1)]) if isinstance(index, Tensor) else index
        return f"{k} {self.names[k]!r}" if isinstance(k, int) and k in self.names else str(k)


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
        return replace(self, names=model.classes, found=[])

    def alone(self, sample: int) -> Reader:
        if not self.found:
            raise UsageError(
                "the predicted class was not decided yet", "a target that was settled on the pictures"
            )
        index = int(self.found[0][sample])
        return Logit(index, {index: self.names[index]} if self.names else {})

    def take(self, rows: Tensor) -> Reader:
        if not self.found:
            return self
        index = self.found[0][rows.to(self.found[0].device)]
        return Logit(index, {k: self.names[k] for k in index.tolist() if self.names})

    def read(self, values: Tensor) -> Tensor:
        if values.ndim < 2:
            raise UsageError(
                f"the predicted class of scores of shape {tuple(values.shape)}",
                "(pictures, classes)",
                "a Target of your own",
            )
        scores = values.flatten(2).sum(2) if values.ndim > 2 else values
        if not self.found:
            with torch._C.DisableTorchFunction():  # which class it is is no part of what modes watch
                self.found.append(scores.detach().argmax(1))
        return scores.gather(1, self.found[0][:, None])[:, 0]

    def label(self, sample: int = 0) -> str:
        if not self.found:
            return "predicted class"
        k = int(self.found[0][sample])
        return f"logit {k} {self.names[k]!r}" if self.names else f"logit {k}"


@dataclass(frozen=True, eq=False)
class _Hidden(Reader):
    layer: str
    channel: int | Tensor

    def resolve(self, model: VisionModel) -> Reader:
        for channel in _numbers(self.channel, "channel"):
            channel_in_range(model, self.layer, channel)
        return self

    def alone(self, sample: int) -> Reader:
        return replace(self, channel=int(self.channel[sample])) if isinstance(self.channel, Tensor) else self

    @property
    def count(self) -> int | None:
        return len(self.channel) if isinstance(self.channel, Tensor) else None

    def take(self, rows: Tensor) -> Reader:
        return replace(self, channel=self.channel[rows]) if isinstance(self.channel, Tensor) else self

    def pick(self, values: Tensor) -> Tensor:
        """(N, C, ...) to (N, ...)."""
        if not isinstance(self.channel, Tensor):
            return values[:, self.channel]
        if self.channel.shape != (len(values),):
            raise UsageError(
                f"{tuple(self.channel.shape)} channels for {len(values)} pictures", "one channel per picture"
            )
        return values[torch.arange(len(values)), self.channel.to(values.device)]

    def number(self, sample: int) -> int:
        channel = self.channel
        return int(channel[min(sample, len(channel) - 1)]) if isinstance(channel, Tensor) else channel


@dataclass(frozen=True, eq=False)
class Unit(_Hidden):
    """A hidden neuron at one position, after the nonlinearity that directly follows its layer."""

    row: int
    col: int

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
        return self.pick(values)[:, self.row, self.col]

    def label(self, sample: int = 0) -> str:
        return f"{self.layer}:{self.number(sample)}:{self.row},{self.col}"


@dataclass(frozen=True, eq=False)
class Channel(_Hidden):
    """A whole channel: the mean of its map, after the nonlinearity that directly follows the layer."""

    def read(self, values: Tensor) -> Tensor:
        own = self.pick(values)
        return own.flatten(1).mean(1) if own.ndim > 1 else own

    def label(self, sample: int = 0) -> str:
        return f"{self.layer}:{self.number(sample)}"


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
