"""TensorFlow's SAME padding for networks whose weights were trained with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .operators import Call, Family, read

_TWO_D = {"conv2d", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d"}


class SamePadding(TorchFunctionMode):
    """While active, 2-D convolutions and poolings that pad do it as TensorFlow's "SAME".

    Along each axis of length n, with kernel k, stride s and dilation d, the padding is in total
    max((ceil(n/s) - 1) * s + (k - 1) * d + 1 - n, 0) (tensorflow.org/api_docs/python/tf/nn, "Notes on
    padding"); its odd pixel goes to the end, where PyTorch pads both sides alike. The padding becomes an
    explicit `F.pad` (with minus infinity before max pooling), so other modes see it as an operator. Calls
    whose padding already agrees, that do not pad, or that name their padding ("same", "valid") run
    untouched. Average pooling keeps its `count_include_pad`.

    >>> conv = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    >>> _ = torch.nn.init.ones_(conv.weight)
    >>> with SamePadding():
    ...     conv(torch.arange(16.0).reshape(1, 1, 4, 4)).detach()
    tensor([[[[45., 39.],
              [66., 50.]]]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Pad explicitly where the operator pads; everything else runs as it is."""
        kwargs = dict(kwargs or {})
        call = read(func, args, kwargs) if getattr(func, "__name__", "") in _TWO_D else None
        if call is None or isinstance(call.arguments.get("padding", 0), str):
            return func(*args, **kwargs)
        given = _pair(call.arguments.get("padding", 0))
        if given == (0, 0):
            return func(*args, **kwargs)
        sides = [_sides(call, axis) for axis in (0, 1)]
        if all(before == after == g for (before, after), g in zip(sides, given, strict=True)):
            return func(*args, **kwargs)
        return _padded(call, sides)


def _sides(call: Call, axis: int) -> tuple[int, int]:
    """Pixels before and after along one axis (0 rows, 1 columns)."""
    arguments = call.arguments
    if call.family is Family.CONV:
        kernel = int(arguments["weight"].shape[2 + axis])
        stride = _pair(arguments.get("stride", 1))[axis]
    else:
        kernel = _pair(arguments["kernel_size"])[axis]
        stride = _pair(arguments.get("stride") or arguments["kernel_size"])[axis]
    dilation = _pair(arguments.get("dilation", 1))[axis]
    length = int(call.inputs[0].shape[axis - 2])
    total = max((math.ceil(length / stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
    return total // 2, total - total // 2


def _padded(call: Call, sides: list[tuple[int, int]]) -> Any:
    (top, bottom), (left, right) = sides
    pad = [left, right, top, bottom]
    x = call.inputs[0]
    if call.family is Family.CONV:
        return call.compute(F.pad(x, pad), padding=0)
    if call.family is Family.MAX_POOL:
        out = call.compute(F.pad(x, pad, value=-math.inf), padding=0, ceil_mode=False)
        if isinstance(out, tuple):
            return out[0], _unpadded(out[1], x, top, left, right)
        return out
    out = call.compute(F.pad(x, pad), padding=0, ceil_mode=False)
    if call.arguments.get("count_include_pad", True) or call.arguments.get("divisor_override"):
        return out
    inside = F.pad(torch.ones_like(x[..., :1, :, :]), pad)
    return out / call.compute(inside, padding=0, ceil_mode=False)


def _unpadded(indices: Tensor, x: Tensor, top: int, left: int, right: int) -> Tensor:
    """Positions in the padded picture as positions in the picture itself."""
    wide = int(x.shape[-1]) + left + right
    row, column = torch.div(indices, wide, rounding_mode="floor") - top, indices % wide - left
    return row * int(x.shape[-1]) + column


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = [int(v) for v in value]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
