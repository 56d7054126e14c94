"""Convolution weights in the memory layout that channels-last activations want, laid out once instead of in each call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary


class Packed(TorchFunctionMode):
    """While active, `conv2d` gets copies of the network's weights with channels last; the network keeps its own.

    >>> conv, x = nn.Conv2d(2, 3, 3), torch.rand(1, 2, 5, 5)
    >>> with Packed():
    ...     y = conv(x)
    >>> torch.allclose(y, conv(x), atol=1e-6), conv.weight.is_contiguous()
    (True, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: Any = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is torch.conv2d
            and len(args) > 1
            and isinstance(args[1], nn.Parameter)
            and args[1].shape[1] > 1
        ):
            args = (args[0], self._of(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))

    def _of(self, weight: nn.Parameter) -> torch.Tensor:
        version, copy = self._kept.get(weight, (None, None))
        if version != (weight._version, weight.data_ptr()):
            copy = weight.detach().contiguous(memory_format=torch.channels_last)
            self._kept[weight] = (weight._version, weight.data_ptr()), copy
        return copy  # type: ignore[no-any-return]
