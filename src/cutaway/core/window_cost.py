"""Multiply-adds of a pass: what whole pictures would take, and what windows take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .operators import Family, read
from .window_operators import tallied
from .window_places import FULL
from .window_tensor import Changed

Sizes = npt.NDArray[np.float64]


@dataclass
class Cost:
    """Multiply-adds of convolutions and linear layers for one picture.

    `after` is what came once windows had become whole maps. Of each layer before, `each` holds the multiply-adds of
    one place, `maps` rows and columns of the map, `down` and `across` the sizes of the scouts of both axes.
    """

    after: float = 0.0
    each: list[float] = field(default_factory=list)
    maps: list[tuple[int, int]] = field(default_factory=list)
    down: list[Sizes] = field(default_factory=list)
    across: list[Sizes] = field(default_factory=list)
    dense: tuple[str, ...] = ()

    @property
    def whole(self) -> float:
        """Multiply-adds of a whole picture."""
        return self.after + sum(m * h * w for m, (h, w) in zip(self.each, self.maps, strict=True))

    def of(self, down: Sizes, across: Sizes) -> float:
        """Multiply-adds of one window of these sizes (layers,); whole maps from where it covers nearly all of one."""
        each, maps = np.array(self.each), np.array(self.maps, float).reshape(-1, 2).prod(1)
        area = down * across
        late = np.maximum.accumulate(area >= FULL * maps) if len(area) else np.zeros(0, bool)
        return self.after + float((each * np.where(late, maps, area)).sum())


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
        each = float(weight[:, 0].numel() if transposed else weight[0].numel()) * (out.shape.numel() // out.shape[0])
        if not isinstance(out, Changed) or out.whole or out.down.scouts is None or out.across.scouts is None:
            self._cost.after += each
            return
        rows, cols = out.clean.size
        self._cost.each.append(each / (rows * cols))
        self._cost.maps.append((rows, cols))
        self._cost.down.append((out.down.scouts[1] - out.down.scouts[0] + 1).clip(1).astype(float))
        self._cost.across.append((out.across.scouts[1] - out.across.scouts[0] + 1).clip(1).astype(float))


@contextmanager
def counted() -> Iterator[Cost]:
    """Count the multiply-adds of the block, for one picture of its batch."""
    cost = Cost()
    with tallied() as names, _Counter(cost):
        yield cost
    cost.dense = tuple(dict.fromkeys(names))
