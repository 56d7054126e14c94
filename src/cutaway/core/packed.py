"""Convolutions with weights laid out once, in the memory layout, blocks and type that a pass wants."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_ACTIVE: ContextVar[Packed | None] = ContextVar("packed", default=None)


class Packed(TorchFunctionMode):
    """While active, `conv2d` gets copies of the network's weights with channels last; the network keeps its own.

    With `dtype`, convolutions and linear layers also work in that type, whatever their input's.

    >>> conv, x = nn.Conv2d(2, 3, 3), torch.rand(1, 2, 5, 5)
    >>> with Packed():
    ...     y = conv(x)
    >>> torch.allclose(y, conv(x), atol=1e-6), conv.weight.is_contiguous()
    (True, True)
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self._kept: Any = WeakIdKeyDictionary()
        self._blocks: Any = WeakIdKeyDictionary()
        self._token: Token[Packed | None] | None = None

    def __enter__(self) -> Self:
        self._token = _ACTIVE.set(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._token is not None:
            _ACTIVE.reset(self._token)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (func is torch.conv2d or (func is F.linear and self.dtype)) and len(args) > 1:
            x, *rest = args
            if self.dtype is not None:
                x = x.to(self.dtype)
                kwargs = {k: self._of(v) for k, v in kwargs.items()}
            args = (x, *(self._of(v) for v in rest))
            if func is torch.conv2d and type(x) is Tensor:
                return convolved(*args, **kwargs)
        if func is torch.Tensor.view:
            return viewed(*args, **kwargs)
        return func(*args, **kwargs)

    def _of(self, value: Any) -> Any:
        if not isinstance(value, nn.Parameter):
            typed = isinstance(value, torch.Tensor) and self.dtype is not None
            return value.to(self.dtype) if typed else value
        if self.dtype is None and (value.ndim != 4 or value.shape[1] == 1):
            return value
        state, copy = self._kept.get(value, (None, None))
        if state != (value._version, value.data_ptr()):
            copy = value.detach().to(self.dtype or value.dtype)
            if value.ndim == 4:
                copy = copy.contiguous(memory_format=torch.channels_last)
            self._kept[value] = (value._version, value.data_ptr()), copy
            self._blocks[copy] = {}
        return copy

    def blocks(self, weight: Tensor, x: Tensor, *options: Any) -> Tensor | None:
        """One of our copies as oneDNN wants it; None for other tensors, and without oneDNN."""
        known: dict[int, Tensor | None] | None = self._blocks.get(weight)
        if known is None:
            return None
        groups: int = options[-1]  # tied weights may be cut into groups differently
        if groups not in known:
            known[groups] = _blocked(weight, x, *options)
        return known[groups]


def viewed(x: Tensor, *shape: Any, **named: Any) -> Tensor:
    """`view`, of a copy where channels last keep it from being one: networks are written for rows last."""
    try:
        return x.view(*shape, **named)
    except RuntimeError:
        return x.contiguous().view(*shape, **named)


SMALL = 4096
"""Places of a batch up to which laying out the weights weighs beside the convolution itself."""


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`conv2d`; on few places with weights that are laid out once for all calls under the same `Packed`."""
    packed = _ACTIVE.get()
    small = x.device.type == "cpu" and x.ndim == 4 and x.shape[0] * x.shape[2] * x.shape[3] <= SMALL
    if packed is not None and small and not isinstance(padding, str):
        options = (*([v, v] if isinstance(v, int) else list(v) for v in (padding, stride, dilation)), groups)
        blocks = packed.blocks(weight, x, *options)
        if blocks is not None:
            found: Tensor = _POINTWISE(x, blocks, bias, *options, "none", [], "")
            return found
    return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)


_POINTWISE: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_REORDER: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)


def _blocked(weight: Tensor, x: Tensor, *options: Any) -> Tensor | None:
    """Weights as oneDNN wants them, which otherwise lays them out anew in each call; None without oneDNN."""
    if _POINTWISE is None or _REORDER is None or weight.dtype is torch.float64:
        return None
    try:
        given = weight.contiguous().to_mkldnn()
        made: Tensor = _REORDER(given, *options, list(x.shape))
    except (RuntimeError, NotImplementedError):  # PyTorch without oneDNN, or a shape it does not take
        return None
    return made
