"""Multiply-adds of a pass: what whole pictures would take, and what windows take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from .operators import Family, read
from .window_operators import tallied
from .window_tensor import Changed


@dataclass
class Cost:
    """Multiply-adds of convolutions and linear layers, for all pictures of a batch."""

    whole: int = 0
    inside: int = 0
    after: int = 0
    dense: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        """How many times fewer multiply-adds the pass took than whole pictures take."""
        return self.whole / max(self.inside + self.after, 1) if self.whole else 1.0


class _Counter(TorchFunctionMode):
    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost = cost

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name.startswith("conv") or name == "linear":
            call = read(func, args, kwargs)
            if call is not None and call.family in (Family.CONV, Family.LINEAR, Family.TRANSPOSED_CONV):
                self._count(call.arguments["weight"], out, call.family is Family.TRANSPOSED_CONV)
        return out

    def _count(self, weight: Tensor, out: Any, transposed: bool) -> None:
        each = weight[:, 0].numel() if transposed else weight[0].numel()
        self._cost.whole += out.shape.numel() * each
        if isinstance(out, Changed) and not out.whole:
            self._cost.inside += out.window.numel() * each
        else:
            self._cost.after += out.shape.numel() * each


@contextmanager
def counted() -> Iterator[Cost]:
    """Count the multiply-adds of the block."""
    cost = Cost()
    with tallied() as names, _Counter(cost):
        yield cost
    cost.dense = tuple(dict.fromkeys(names))
