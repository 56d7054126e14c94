"""Where windows lie along one axis, and where an operator moves them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Places = npt.NDArray[np.int64]
Ends = tuple[Places, Places]
"""First and last place of each interval, both included."""


class Span:
    """Intervals of one size along an axis of a map: the first place of each, inside the map, and their common size.

    `ends` are the first and last place of each that truly changes: the others lie within the interval only to make
    all of one size. `scouts` are further intervals that move through the network with them and carry no numbers:
    they tell how large other windows become before any of them is computed.

    >>> within(np.array([0, 6]), np.array([1, 7]), 8).slid(kernel=3, stride=2, padding=1, dilation=1, out=4)
    Span([0 2], 2)
    """

    def __init__(
        self, starts: Places, size: int, ends: Ends | None = None, scouts: Ends | None = None
    ) -> None:
        self.starts, self.size, self.scouts = starts, size, scouts
        self.ends = (starts, starts + size - 1) if ends is None else ends
        self._known: dict[tuple[object, ...], Any] = {}

    def __repr__(self) -> str:
        return f"Span({self.starts}, {self.size})"

    def slid(self, *, kernel: int, stride: int, padding: int, dilation: int, out: int) -> Span:
        """The places of a sliding operator's output (of size `out`) that see a changed place of its input."""
        if kernel == stride == dilation == 1 and padding == 0:
            return self
        reach = (kernel - 1) * dilation

        def reached(first: Places, last: Places) -> Ends:
            first = -((reach - padding - first) // stride)  # ceil((first + padding - reach) / stride)
            last = (last + padding) // stride
            return np.minimum(np.maximum(first, 0), out - 1), np.minimum(np.maximum(last, 0), out - 1)

        key = (kernel, stride, padding, dilation, out)
        if key not in self._known:
            scouts = None if self.scouts is None else reached(*self.scouts)
            self._known[key] = within(*reached(*self.ends), out, scouts)
        found: Span = self._known[key]
        return found

    def seen(self, stride: int, size: int) -> Span:
        """What a sliding operator looks at for these outputs, in the padded input."""
        key = ("seen", stride, size)
        if key not in self._known:
            self._known[key] = Span(self.starts * stride, size)
        found: Span = self._known[key]
        return found

    def moved(self, by: int, times: int = 1) -> Span:
        """Shifted after stretching: places p become p * times + by."""
        if by == 0 and times == 1:
            return self
        key = ("moved", by, times)
        if key not in self._known:
            ends = _stretched(self.ends, by, times)
            scouts = None if self.scouts is None else _stretched(self.scouts, by, times)
            self._known[key] = Span(self.starts * times + by, self.size * times, ends, scouts)
        found: Span = self._known[key]
        return found

    def joined(self, other: Span, length: int) -> Span:
        """Intervals that hold both, one for one."""
        if other is self:
            return self
        key = ("joined", other)
        if key not in self._known:
            both = self.scouts is not None and other.scouts is not None
            scouts = _union(self.scouts, other.scouts) if both else None  # type: ignore[arg-type]
            self._known[key] = within(*_union(self.ends, other.ends), length, scouts)
        found: Span = self._known[key]
        return found

    def numbers(self, across: Span, columns: int) -> Tensor:
        """The places of all rectangles of a map with so many columns, numbered in reading order."""
        key = ("numbers", across, columns)
        if key not in self._known:
            rows = self.starts[:, None] + np.arange(self.size)
            cols = across.starts[:, None] + np.arange(across.size)
            self._known[key] = torch.from_numpy((rows[:, :, None] * columns + cols[:, None, :]).reshape(-1))
        found: Tensor = self._known[key]
        return found


def within(first: Places, last: Places, length: int, scouts: Ends | None = None) -> Span:
    """Intervals from `first` to `last` (included), widened to the largest of them and kept inside the map."""
    size = max(int((last - first).max()) + 1, 1)
    return Span(np.minimum(first, length - size), size, (first, last), scouts)


def _stretched(ends: Ends, by: int, times: int) -> Ends:
    return ends[0] * times + by, ends[1] * times + times - 1 + by


def _union(one: Ends, other: Ends) -> Ends:
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])
