"""Operators that slide over a map, or add it up, on windows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import Call
from .packed import convolved
from .window_places import FULL, channels_second, key_of, pair
from .window_tensor import Changed, Clean, crop


def convolution(call: Call) -> Any:
    """Convolution in two dimensions, any stride, padding, dilation and groups."""
    x, weight = call.inputs[0], call.arguments["weight"]
    if not isinstance(x, Changed) or not channels_second(x) or isinstance(weight, Changed):
        return None
    kernel: tuple[int, int] = (weight.shape[2], weight.shape[3])
    stride, dilation = pair(call.arguments.get("stride", 1)), pair(call.arguments.get("dilation", 1))
    padding = call.arguments.get("padding", 0)
    if isinstance(padding, str):
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            return None
        padding = 0 if padding == "valid" else [r // 2 for r in reach]

    def run(value: Tensor, stride: tuple[int, int]) -> Tensor:
        return convolved(value, **{**call.arguments, "stride": stride, "padding": 0})

    return sliding(call, x, kernel, stride, pair(padding), dilation, 0.0, run)


def max_pool(call: Call) -> Any:
    """Max pooling, ceil mode and overlapping windows included."""
    x, a = call.inputs[0], call.arguments
    if not isinstance(x, Changed) or not channels_second(x) or not call.name.startswith("max_pool2d"):
        return None
    if a.get("return_indices") or "indices" in call.name:
        return None
    kernel, dilation = pair(a["kernel_size"]), pair(a.get("dilation", 1))
    stride, padding = pair(a.get("stride") or kernel), pair(a.get("padding", 0))

    def run(value: Tensor, stride: tuple[int, int]) -> Tensor:
        if value.device.type != "cpu" or max(*kernel, *dilation) > 3:
            return F.max_pool2d(value, kernel, stride, 0, dilation)
        for dim in (
            2,
            3,
        ):  # rows, then columns: PyTorch's own also finds where the maximum is, at twice the time
            value = _largest(value, dim, kernel[dim - 2], stride[dim - 2], dilation[dim - 2])
        return value

    return sliding(call, x, kernel, stride, padding, dilation, -math.inf, run)


def _largest(x: Tensor, dim: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """The maximum over a sliding interval of one axis."""
    last = x.shape[dim] - (kernel - 1) * dilation
    parts = (x.narrow(dim, i * dilation, last) for i in range(kernel))
    thinned = (p[:, :, ::stride] if dim == 2 else p[:, :, :, ::stride] for p in parts)
    return functools.reduce(torch.maximum, thinned)


def average(call: Call) -> Any:
    """Average pooling whose every window counts alike, and adaptive pooling by a whole factor."""
    x, a = call.inputs[0], call.arguments
    if not isinstance(x, Changed) or not channels_second(x):
        return None
    if call.name.startswith("adaptive_avg_pool2d"):
        return _adaptive(call, x)
    kernel = pair(a["kernel_size"])
    stride, padding = pair(a.get("stride") or kernel), pair(a.get("padding", 0))
    uneven = a.get("ceil_mode") or (any(padding) and not a.get("count_include_pad", True))
    if call.name != "avg_pool2d" or uneven:
        return None
    return _averaged(call, x, kernel, stride, padding)


def _averaged(
    call: Call, x: Changed, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Any:
    divisor = call.arguments.get("divisor_override")

    def run(value: Tensor, stride: tuple[int, int]) -> Tensor:
        return F.avg_pool2d(value, kernel, stride, 0, False, True, divisor)

    return sliding(call, x, kernel, stride, padding, (1, 1), 0.0, run)


def _adaptive(call: Call, x: Changed) -> Any:
    size, wanted = x.clean.size, call.arguments["output_size"]
    rows, cols = (w if w is not None else s for w, s in zip(pair(wanted), size, strict=True))
    if (rows, cols) == (1, 1):
        return _mean(x)[:, :, None, None]
    if (rows, cols) == size:
        return Changed(x.clean, x.window, x.down, x.across)
    if size[0] % rows or size[1] % cols:
        return None
    kernel = (size[0] // rows, size[1] // cols)
    return _averaged(call, x, kernel, kernel, (0, 0))


def sliding(
    call: Call,
    x: Changed,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    fill: float,
    run: Callable[[Tensor, tuple[int, int]], Tensor],
) -> Changed | None:
    """A sliding operator on what its changed outputs see, cut from the padded clean map with the window in it."""
    key, tensors = key_of(call)
    clean: Clean = x.clean.made(key, tensors, lambda: Clean(call.compute(x.clean.value), 2, 3))
    spans, seen, pads = [], [], []
    for i, span in enumerate((x.down, x.across)):
        k, s, p, d, length, out = (
            kernel[i],
            stride[i],
            padding[i],
            dilation[i],
            x.clean.size[i],
            clean.size[i],
        )
        reach = (k - 1) * d + 1
        spans.append(span.slid(kernel=k, stride=s, padding=p, dilation=d, out=out))
        seen.append((spans[i].size - 1) * s + reach)
        pads += [p, max(0, (out - 1) * s + reach - length - p)]
    if spans[0].size * spans[1].size >= FULL * clean.size[0] * clean.size[1]:
        return None
    if kernel == stride == (1, 1) and not any(padding):
        part = x.window
    else:
        down, across = (spans[i].seen(stride[i], seen[i]) for i in (0, 1))
        part = crop(x, down, across, padding=(pads[0], pads[1], pads[2], pads[3]), fill=fill)
    return Changed(clean, run(part, stride), *spans)


def _mean(x: Changed, *, total: bool = False) -> Tensor:
    """Mean or sum over the map, (B, channels): the clean total, less the clean window, plus the new one."""
    table, clean = x.clean.sums(), x.clean
    top, left = torch.from_numpy(x.down.starts), torch.from_numpy(x.across.starts)
    bottom, right = top + x.down.size, left + x.across.size
    inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    window = x.window.movedim((clean.rows, clean.cols), (1, 2)).flatten(3).flatten(1, 2)
    wide = window if window.dtype == torch.float64 else window.float()
    found = table[-1, -1] - inside + wide.sum(1).double()
    rows, cols = clean.size
    shape = [s for d, s in enumerate(x.shape) if d not in (clean.rows, clean.cols)]
    return (found if total else found / (rows * cols)).to(x.dtype).view(shape)


def reduce(call: Call) -> Any:
    """Mean or sum over the map."""
    x, dim = call.inputs[0], call.arguments.get("dim")
    if not isinstance(x, Changed) or call.arguments.get("dtype") is not None:
        return None
    dims = [dim] if isinstance(dim, int) else dim
    if dims is None or sorted(d % x.ndim for d in dims) != [x.clean.rows, x.clean.cols]:
        return None
    out = _mean(x, total=call.name == "sum")
    if call.arguments.get("keepdim"):
        for d in (x.clean.rows, x.clean.cols):
            out = out.unsqueeze(d)
    return out
