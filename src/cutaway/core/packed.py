"""Weights in the memory layout and type that a pass wants, laid out once instead of in each call."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary


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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (func is torch.conv2d or (func is F.linear and self.dtype)) and len(args) > 1:
            x, *rest = args
            if self.dtype is not None:
                x = x.to(self.dtype)
                kwargs = {k: self._of(v) for k, v in kwargs.items()}
            args = (x, *(self._of(v) for v in rest))
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
        return copy
