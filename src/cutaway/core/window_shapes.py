"""Operators that move, cut, stretch or regroup a map, on windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .operators import Call
from .window_places import channels_second, key_of, pointwise
from .window_sliding import sliding
from .window_tensor import Changed, Clean


def padded(call: Call) -> Any:
    """Constant padding moves the windows."""
    x, pad = call.inputs[0], list(call.arguments["pad"])
    constant = call.arguments.get("mode", "constant") == "constant"
    if not isinstance(x, Changed) or not constant or min(pad) < 0 or not channels_second(x) or len(pad) > 4:
        return None
    pad += [0] * (4 - len(pad))
    key, tensors = key_of(call)
    clean = x.clean.made(key, tensors, lambda: Clean(call.compute(x.clean.value), 2, 3))
    return Changed(clean, x.window, x.down.moved(pad[2]), x.across.moved(pad[0]))


def sliced(call: Call) -> Any:
    """Parts of the channels; every n-th place of the map."""
    x = call.inputs[0]
    assert isinstance(x, Changed)
    if call.name == "__getitem__":
        return _indexed(call, x)
    dim = call.arguments.get("dim", 0)
    if not isinstance(dim, int) or dim % x.ndim in (0, x.clean.rows, x.clean.cols):
        return None
    if call.name in ("unbind", "select"):
        return None
    return _parts(call, x)


def _parts(call: Call, x: Changed) -> Any:
    key, tensors = key_of(call)

    def make() -> Any:
        out = call.compute(x.clean.value)
        rows, cols = x.clean.rows, x.clean.cols
        return Clean(out, rows, cols) if isinstance(out, Tensor) else [Clean(o, rows, cols) for o in out]

    clean, windows = x.clean.made(key, tensors, make), call.compute(x.window)
    if isinstance(clean, Clean):
        return Changed(clean, windows.clone(), x.down, x.across)
    return tuple(Changed(c, w.clone(), x.down, x.across) for c, w in zip(clean, windows, strict=True))


def _indexed(call: Call, x: Changed) -> Any:
    index = call.arguments["index"]
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        gap = index.index(Ellipsis)
        full = (slice(None),) * (x.ndim - len(index) + 1)
        index = (*index[:gap], *full, *index[gap + 1 :])
    if not all(isinstance(i, slice) for i in index) or len(index) > x.ndim:
        return None
    whole = slice(None)
    index += (whole,) * (x.ndim - len(index))
    spatial = [index[x.clean.rows], index[x.clean.cols]]
    if index[0] != whole:
        return None
    if all(s == whole for s in spatial):
        return _parts(call, x)
    rest_whole = all(i == whole for d, i in enumerate(index) if d not in (x.clean.rows, x.clean.cols))
    if not rest_whole or not channels_second(x):
        return None
    steps, firsts = [], []
    for s, size in zip(spatial, x.clean.size, strict=True):
        first, last, step = s.indices(size)
        if last != size or step < 1:
            return None
        firsts.append(first)
        steps.append(step)
    return _thinned(call, x, (firsts[0], firsts[1]), (steps[0], steps[1]))


def _thinned(call: Call, x: Changed, first: tuple[int, int], step: tuple[int, int]) -> Any:
    """Every n-th row and column, as a sliding operator that looks at one place."""

    def run(value: Tensor, stride: tuple[int, int]) -> Tensor:
        return value[:, :, :: stride[0], :: stride[1]]

    return (
        sliding(call, x, (1, 1), step, (-first[0], -first[1]), (1, 1), 0.0, run) if not any(first) else None
    )


def resized(call: Call) -> Any:
    """Nearest neighbours by a whole factor stretch the windows."""
    x, a = call.inputs[0], call.arguments
    nearest = call.name == "interpolate" and a.get("mode", "nearest") == "nearest"
    if not isinstance(x, Changed) or not nearest or not channels_second(x):
        return None
    key, tensors = key_of(call)
    clean: Clean = x.clean.made(key, tensors, lambda: Clean(call.compute(x.clean.value), 2, 3))
    times = [n // o for n, o in zip(clean.size, x.clean.size, strict=True)]
    if any(o * t != n for n, o, t in zip(clean.size, x.clean.size, times, strict=True)):
        return None
    window = x.window.repeat_interleave(times[0], 2).repeat_interleave(times[1], 3)
    return Changed(clean, window, x.down.moved(0, times[0]), x.across.moved(0, times[1]))


def shaped(call: Call) -> Any:
    """Dimensions in another order, channels regrouped or reversed."""
    x = call.inputs[0]
    assert isinstance(x, Changed)
    if call.name in ("permute", "transpose", "swapaxes", "movedim", "channel_shuffle"):
        return _permuted(call, x)
    if call.name in ("view", "reshape", "flatten", "unflatten"):
        return _regrouped(call, x)
    if call.name == "flip":
        dims = call.arguments.get("dims", call.arguments.get("rest", ()))
        dims = dims[0] if len(dims) == 1 and isinstance(dims[0], (list, tuple)) else dims
        channels = all(d % x.ndim not in (0, x.clean.rows, x.clean.cols) for d in dims)
        return pointwise(call) if channels else None
    return None


def _permuted(call: Call, x: Changed) -> Any:
    if call.name == "channel_shuffle":
        return pointwise(call) if channels_second(x) else None
    marker = torch.empty([0 if d == 0 else d + 1 for d in range(x.ndim)], device="meta")
    order = [0 if s == 0 else s - 1 for s in call.compute(marker).shape]
    rows, cols = order.index(x.clean.rows), order.index(x.clean.cols)
    if order[0] != 0 or rows + 1 != cols:
        return None
    key, tensors = key_of(call)
    clean = x.clean.made(key, tensors, lambda: Clean(call.compute(x.clean.value), rows, cols))
    return Changed(clean, call.compute(x.window), x.down, x.across)


def _regrouped(call: Call, x: Changed) -> Any:
    """Channels split or joined, rows and columns left as they are."""
    key, tensors = key_of(call)
    shape = tuple(call.compute(torch.empty(x.shape, device="meta")).shape)
    if x.clean.cols != x.ndim - 1 or len(shape) < 4 or shape[0] != x.shape[0] or shape[-2:] != x.shape[-2:]:
        return None
    rows, cols = len(shape) - 2, len(shape) - 1
    clean = x.clean.made(
        (*key, shape[1:]), tensors, lambda: Clean(x.clean.value.reshape(1, *shape[1:]), rows, cols)
    )
    window = x.window.reshape(len(x.window), *shape[1:-2], *x.window.shape[-2:])
    return Changed(clean, window, x.down, x.across)
