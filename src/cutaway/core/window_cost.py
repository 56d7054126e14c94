"""The work of a pass: what whole pictures would take, and what windows take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .operators import Call, Family, read
from .window_operators import tallied
from .window_places import FULL
from .window_tensor import Changed

Sizes = npt.NDArray[np.float64]

ELEMENT = 30.0
"""Multiply-adds that take as long as one number is read and written."""
CUT = 2.0
"""How often more a number is read and written where windows are cut and pasted for an operator that looks around."""
_DISPATCH = {"cpu": 15e6, "cuda": 1e9, "mps": 2e8}
_CORES = 16
_FREE = {Family.SHAPE, Family.SLICE, Family.IDENTITY}
_LOOKS_AROUND = {Family.CONV, Family.MAX_POOL, Family.AVG_POOL}


class Work(NamedTuple):
    """Multiply-adds; these with the reading and writing counted as such; operators on windows; numbers at a time."""

    multiplied: float
    price: float
    calls: int
    numbers: float


@dataclass
class Cost:
    """What each of the `operators` takes for one picture.

    Of each operator on windows, `multiplied`, `inside` and `whole` hold the multiply-adds and the price of one place,
    on windows and on whole maps; `maps` the places of the map; `down` and `across` the sizes of the scouts of both
    axes. `after` and `after_price` are what came once windows had become whole maps, `pasted` the price of making them.
    `channels` and `widest` are the numbers that come out of an operator, at one place and from whole maps.
    """

    operators: int = 0
    after: float = 0.0
    after_price: float = 0.0
    pasted: float = 0.0
    widest: float = 0.0
    channels: list[float] = field(default_factory=list)
    multiplied: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    maps: list[int] = field(default_factory=list)
    down: list[Sizes] = field(default_factory=list)
    across: list[Sizes] = field(default_factory=list)
    dense: tuple[str, ...] = ()

    @property
    def picture(self) -> Work:
        """The work of a whole picture."""
        maps = np.array(self.maps, float)
        return Work(
            self.after + float((maps * self.multiplied).sum()),
            self.after_price + float((maps * self.whole).sum()),
            0,
            max([self.widest, *(maps * self.channels)]),
        )

    def of(self, down: Sizes, across: Sizes) -> Work:
        """The work of one window of these sizes (operators,); whole maps from where it covers nearly all of one."""
        maps, area = np.array(self.maps, float), down * across
        late = np.maximum.accumulate(area >= FULL * maps)
        return Work(
            self.after + float((np.where(late, maps, area) * self.multiplied).sum()),
            self.after_price
            + self.pasted
            + float(np.where(late, maps * self.whole, area * self.inside).sum()),
            int((~late).sum()),
            max([self.widest, *(np.where(late, maps, area) * self.channels)]),
        )


class _Counter(TorchFunctionMode):
    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self._cost = cost

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            call = read(func, args, kwargs)
            if call is not None and call.family not in _FREE:
                self._count(call, out)
        return out

    def _count(self, call: Call, out: Tensor) -> None:
        # one number alone belongs to no picture; a batch may be empty
        cost, numbers = self._cost, out.shape.numel() / max(1, out.shape[0]) if out.ndim else 0.0
        multiplied = numbers * _each(call)
        cost.operators += 1
        whole = multiplied + ELEMENT * numbers
        if not isinstance(out, Changed) or out.whole or out.down.scouts is None or out.across.scouts is None:
            cost.after += multiplied
            cost.after_price += whole
            cost.widest = max(cost.widest, numbers)
            return
        rows, cols = out.clean.size
        inside = whole + CUT * ELEMENT * numbers if call.family in _LOOKS_AROUND else whole
        cost.maps.append(rows * cols)
        each = {"multiplied": multiplied, "inside": inside, "whole": whole, "channels": numbers}
        for record, value in each.items():
            getattr(cost, record).append(value / (rows * cols))
        for sizes, span in ((cost.down, out.down.scouts), (cost.across, out.across.scouts)):
            sizes.append((span[1] - span[0] + 1).clip(1).astype(float))


def _each(call: Call) -> float:
    """Multiply-adds for each number that comes out."""
    if call.family not in (Family.CONV, Family.LINEAR, Family.TRANSPOSED_CONV):
        return 0.0
    weight: Tensor = call.arguments["weight"]
    return float((weight[:, 0] if call.family is Family.TRANSPOSED_CONV else weight[0]).numel())


def dispatch(device: torch.device, *, alone: bool = False) -> float:
    """Multiply-adds that take as long as one operator on windows is set up; other devices than CPUs are a guess.

    For one window `alone` it is a third: there is less to gather and to paste.
    """
    each = _DISPATCH.get(device.type, 2e8) / (3 if alone else 1)
    return each * min(torch.get_num_threads(), _CORES) if device.type == "cpu" else each


@contextmanager
def counted(cost: Cost) -> Iterator[None]:
    """Count the work of the block, for one picture of its batch."""
    with tallied() as met, _Counter(cost):
        yield
    cost.dense = tuple(dict.fromkeys(name for name, _ in met))
    cost.pasted = CUT * ELEMENT * sum(numbers for _, numbers in met)
