"""Operators that treat every place of a map for itself, or join maps place by place, on windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .operators import Call
from .window_spans import Span
from .window_tensor import Changed, Clean, crop

FULL = 0.9
"""Windows that cover more of a map than this are no longer worth the crops."""


def key_of(call: Call, *more: object) -> tuple[tuple[object, ...], list[Tensor]]:
    """What tells the call from others on the same clean activation: plain arguments, and tensors."""
    plain: list[object] = [call.function, call.input_names, *more]
    tensors = []
    for name, value in sorted(call.arguments.items()):
        if isinstance(value, Tensor):
            tensors.append(value)
            plain.append(name)
        else:
            plain.append((name, _hashable(value)))
    return tuple(plain), tensors


def _hashable(value: Any) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(v) for v in value)
    return str(value) if isinstance(value, (slice, dict)) else value


def pointwise(call: Call) -> Any:
    """Every place for itself: on the clean activation once, and on the windows."""
    (x,) = call.inputs
    assert isinstance(x, Changed)
    key, tensors = key_of(call)
    clean = x.clean
    new = clean.made(key, tensors, lambda: Clean(call.compute(clean.value), clean.rows, clean.cols))
    window = call.compute(x.window)
    if window is x.window:
        return x
    alike = window.ndim == x.ndim and all(
        window.shape[d] == x.window.shape[d] for d in (0, clean.rows, clean.cols)
    )
    return Changed(new, window, x.down, x.across) if alike else None  # an argument has places of its own


def identity(call: Call) -> Any:
    """Copies, and dropout that is switched off."""
    x = call.inputs[0]
    if call.name in ("clone", "detach"):
        assert isinstance(x, Changed)
        return Changed(x.clean, x.window, x.down, x.across)
    if "dropout" in call.name:
        return None if call.arguments.get("training", call.arguments.get("train", True)) else x
    return x if call.name == "contiguous" else pointwise(call)


def channels_second(x: Tensor) -> bool:
    """Whether it is (B, C, rows, columns)."""
    return isinstance(x, Changed) and x.ndim == 4 and (x.clean.rows, x.clean.cols) == (2, 3)


def places_then_channels(x: Tensor) -> bool:
    """Whether the channels come after rows and columns."""
    return isinstance(x, Changed) and x.clean.cols < x.ndim - 1


def batch_norm(call: Call) -> Any:
    """With running statistics it is one scale and offset for each channel."""
    if call.arguments.get("training") or not channels_second(call.inputs[0]):
        return None
    return pointwise(call)


def norm(call: Call) -> Any:
    """Normalisation over the channels of a place; statistics over places change everywhere."""
    if call.name == "local_response_norm" and channels_second(call.inputs[0]):
        return pointwise(call)
    one_dimension = call.name in ("layer_norm", "rms_norm") and len(call.arguments["normalized_shape"]) == 1
    return pointwise(call) if one_dimension and places_then_channels(call.inputs[0]) else None


def softmax(call: Call) -> Any:
    """Over anything but places and pictures."""
    x, dim = call.inputs[0], call.arguments.get("dim")
    if not isinstance(x, Changed) or not isinstance(dim, int):
        return None
    return pointwise(call) if dim % x.ndim not in (0, x.clean.rows, x.clean.cols) else None


def linear(call: Call) -> Any:
    """On the channels of each place."""
    if not places_then_channels(call.inputs[0]):
        return None
    return pointwise(call)


def pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of an option that may be one number."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def combine(call: Call) -> Any:
    """Sums and products: two windows are widened to one; a constant that is the same at every place joins in."""
    changed = [t for t in call.inputs if isinstance(t, Changed)]
    x = changed[0]
    if len(changed) == 1:
        for other in (*call.inputs, *call.arguments.values()):
            if isinstance(other, Tensor) and other is not x and not _constant(other, x):
                return None
        return _joint(call, [x])
    alike = len(call.inputs) == 2 and changed[0].shape == changed[1].shape
    return _joint(call, changed) if alike else None


def _constant(other: Tensor, x: Changed) -> bool:
    """Whether a factor is the same for every picture and place."""
    if other.ndim > x.ndim:
        return False
    shape = (1,) * (x.ndim - other.ndim) + tuple(other.shape)
    return shape[0] == shape[x.clean.rows] == shape[x.clean.cols] == 1


def _joint(call: Call, changed: Sequence[Changed]) -> Any:
    """An operator on activations of one frame, on the union of their windows; other inputs are constants."""
    x = changed[0]
    if any(t.clean.size != x.clean.size or t.clean.rows != x.clean.rows for t in changed):
        return None
    down, across = x.down, x.across
    for other in changed[1:]:
        down = down.joined(other.down, x.clean.size[0])
        across = across.joined(other.across, x.clean.size[1])
    if down.size * across.size >= FULL * x.clean.size[0] * x.clean.size[1]:
        return None
    order = tuple(id(t.clean) if isinstance(t, Changed) else None for t in call.inputs)
    key, tensors = key_of(call, order)
    tensors += [t.clean.value if isinstance(t, Changed) else t for t in call.inputs]
    clean = x.clean.made(
        key,
        tensors,
        lambda: Clean(
            call.compute(*(t.clean.value if isinstance(t, Changed) else t for t in call.inputs)),
            x.clean.rows,
            x.clean.cols,
        ),
    )
    windows = [_at(t, down, across) if isinstance(t, Changed) else t for t in call.inputs]
    return Changed(clean, call.compute(*windows), down, across)


def _at(x: Changed, down: Span, across: Span) -> Tensor:
    return x.window if x.down is down and x.across is across else crop(x, down, across)


def concatenated(call: Call) -> Any:
    """Maps side by side, on the union of their windows."""
    x = next(t for t in call.inputs if isinstance(t, Changed))
    dim = call.arguments.get("dim", 0)
    usual = call.name in ("cat", "concat", "concatenate") and isinstance(dim, int)
    if not usual or not all(isinstance(t, Changed) for t in call.inputs):
        return None
    if dim % x.ndim in (0, x.clean.rows, x.clean.cols):
        return None
    return _joint(call, [t for t in call.inputs if isinstance(t, Changed)])
