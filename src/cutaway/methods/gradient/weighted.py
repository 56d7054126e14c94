"""What all class activation maps share: one forward pass, and the head's backward pass down to one layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.layers import as_map
from cutaway.core.model import VisionModel
from cutaway.core.tap import Tap
from cutaway.core.target import Target, score, slopes


@dataclass(frozen=True)
class Head:
    """A layer's activation A and the target's gradient in it, both (N, C, h, w), and the target's value (N,).

    `output` is the value still in its graph down to the layer; `elsewhere` says that the target also reads tokens of
    the layer that stand at no position, such as a class token.
    """

    layer: str
    activation: Tensor
    gradient: Tensor
    value: Tensor
    notes: tuple[str, ...]
    output: Tensor
    elsewhere: bool = False


def head(model: VisionModel, x: Tensor, target: Target, layer: str | None) -> Head:
    """Run the network once, keeping a graph only above `layer` (the suggested one when None).

    Raises `UsageError` for a layer without maps and `MethodRefusedError` when the target does not depend on it.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer, why = model.layers.suggest()
        notes = (f"layer {layer}: {why}",)
    row = model.layers.find(layer)
    with Tap(model, layer, leaf=True) as tap:
        value = score(model, x.detach(), target)
    if not tap.calls[layer]:
        raise _unrelated(target, layer, model)
    raw = tap[layer]
    activation = as_map(raw, row)
    if activation.ndim != 4:
        raise UsageError(
            f"layer {layer!r} gives {tuple(raw.shape[1:])} per picture, no maps",
            "a layer whose output has rows and columns",
            repr(model.layers.suggest()[0]),
        )
    (slope,) = slopes(value, raw, keep=True)
    if slope is None:
        raise _unrelated(target, layer, model)
    found = as_map(slope, row)
    elsewhere = bool(slope.count_nonzero() > found.count_nonzero())
    return Head(layer, activation.detach(), found, value.detach(), notes, value, elsewhere)


def _unrelated(target: Target, layer: str, model: VisionModel) -> MethodRefusedError:
    return MethodRefusedError(
        f"{target.label()} does not depend on layer {layer!r}",
        "a layer between the picture and the target",
        repr(model.layers.suggest()[0]),
    )


def silent(heat: Tensor, layer: str) -> tuple[str, ...]:
    """The note for an all-zero map, which is a legitimate answer."""
    if bool((heat.flatten(1) == 0).all(1).any()):
        return (f"all zero: no positive evidence at {layer}",)
    return ()
