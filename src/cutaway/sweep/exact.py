"""Sums of floating-point numbers that do not depend on order or grouping, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError

DIGIT = 32
"""Bits of one digit; the other half of its int64 is room for what was not carried yet."""

_MASK = (1 << DIGIT) - 1
_PENDING = 1 << 29  # additions between carries: each puts less than 2^33 on a digit, together less than 2^62
_FULL = 1 << 62  # a carried top digit beyond this could overflow before it is carried again
_BLOCK = 1 << 17  # entries read at a time

Ints = np.ndarray[Any, np.dtype[np.int64]]


class ExactSum:
    """A table of sums, each kept as one long integer: sum = Σ_i digit_i · 2^(low + 32 i).

    Integers add exactly, so any order of `add`, and any partition joined by `merge`, gives the same digits. This
    is the long accumulator of Kulisch, "Computer Arithmetic and Validity" (2013), with its carries put off.

    Parameters
    ----------
    shape : of the table.
    low, high : multiples of 32 with -480 <= low <= 0 < high <= 480. A sum resolves 2^low: a value is rounded to a
        multiple of it when it is added (half to even), by itself, which no order can change. A value must stay
        below 2^high; 2^30 such values may be added. Memory: (high - low) / 4 bytes for each sum. The default holds
        squares of any float32 exactly; -64 to 64 takes a fifth of its 160 bytes.

    Raises `UsageError` for a range that is none, values that are not finite or too large, and tables that do not fit.

    >>> total = ExactSum(1)
    >>> for value in (1e30, 1.0, -1e30):
    ...     total.add(torch.tensor([value], dtype=torch.float64))
    >>> total.value().item(), 1e30 + 1.0 - 1e30
    (1.0, 0.0)
    """

    def __init__(self, *shape: int, low: int = -320, high: int = 320) -> None:
        if low % DIGIT or high % DIGIT or not -480 <= low <= 0 < high <= 480:
            raise UsageError(
                f"digits from 2^{low} to 2^{high}", "multiples of 32, -480 <= low <= 0 < high <= 480", ""
            )
        self.shape, self.low, self.high = shape, low, high
        self._digits = torch.zeros(*shape, (high - low) // DIGIT, dtype=torch.int64)
        self._pending = 0

    def add(self, values: Tensor, at: Tensor | None = None) -> None:
        """Add floating-point values exactly.

        Parameters
        ----------
        values : (*shape), or with further axes before them: (n, *shape) adds n values to every sum.
        at : (n,) int64, which entry of the table's first axis each row of values (n, *shape[1:]) is added to.
        """
        entries, deepest = self._entries(tuple(values.shape), at)
        if not values.numel():
            return
        given = values.detach().to("cpu", torch.float64).numpy().reshape(-1)
        largest = float(np.abs(given).max())
        if not largest < 2.0**self.high:  # NaN is not smaller either
            raise UsageError(
                f"a sum was given the value {largest}", f"finite values below 2^{self.high} in magnitude", ""
            )
        if self._pending + deepest > _PENDING:
            self._carry()
        self._pending += deepest

        whole = np.rint(np.ldexp(given, -self.low))
        shift = np.maximum(np.frexp(whole)[1] - 53, 0)
        mantissa = np.ldexp(np.abs(whole), -shift).astype(np.int64)  # at most 53 bits, exact
        sign = np.where(whole < 0, np.int64(-1), np.int64(1))
        first, bits = np.divmod(shift.astype(np.int64), DIGIT)
        lower, upper = (mantissa & _MASK) << bits, (mantissa >> DIGIT) << bits
        last = self._digits.shape[-1] - 1
        place = entries * (last + 1)
        parts = (lower & _MASK, (lower >> DIGIT) + (upper & _MASK), upper >> DIGIT)
        flat = self._digits.view(-1)
        for i, part in enumerate(parts):
            # a part beyond the last digit is 0, as the value is below 2^high
            index = torch.from_numpy(place + np.minimum(first + i, last))
            flat.scatter_add_(0, index, torch.from_numpy(part * sign))

    def merge(self, other: ExactSum, at: Tensor | None = None) -> None:
        """Add another table of the same range and shape; with `at` (n,), its n entries to these, each once."""
        like = self.shape if at is None else (len(at), *self.shape[1:])
        if (like, self.low, self.high) != (other.shape, other.low, other.high):
            raise UsageError(
                f"sums of shape {other.shape} over 2^{other.low} to 2^{other.high}",
                f"shape {like} over 2^{self.low} to 2^{self.high}",
                "merge tables made alike",
            )
        self._carry()
        other._carry()
        if at is None:
            self._digits += other._digits
        else:
            self._digits[at] += other._digits
        self._carry()

    def taken(self, at: Tensor) -> ExactSum:
        """A table of the entries `at` (n,) of the first axis alone."""
        made = ExactSum(0, low=self.low, high=self.high)
        made.shape = (len(at), *self.shape[1:])
        made._digits, made._pending = self._digits[at], self._pending
        return made

    def placed(self, count: int, at: Tensor) -> ExactSum:
        """A table whose first axis has `count` entries, with these sums at the entries `at` (n,) and 0 elsewhere."""
        made = ExactSum(count, *self.shape[1:], low=self.low, high=self.high)
        made._digits[at] = self._digits
        made._pending = self._pending
        return made

    def value(self) -> Tensor:
        """The sums as float64 (*shape), each the nearest there is to the exact sum, ties to even."""
        self._carry()
        digits = self._digits.view(-1, self._digits.shape[-1]).numpy()
        blocks = [_rounded(digits[i : i + _BLOCK], self.low) for i in range(0, len(digits), _BLOCK)]
        return torch.from_numpy(np.concatenate(blocks or [np.zeros(0)])).reshape(self.shape)

    def state(self) -> dict[str, Tensor]:
        """`digits` (*shape, D) int64, all but the last in [0, 2^32), and `range`; equal sums have equal digits."""
        self._carry()
        return {"digits": self._digits, "range": torch.tensor([self.low, self.high])}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ExactSum:
        """The table that `state` described."""
        low, high = state["range"].tolist()
        made = cls(0, low=low, high=high)
        made.shape = tuple(state["digits"].shape[:-1])
        made._digits = state["digits"].clone()
        return made

    def _entries(self, shape: tuple[int, ...], at: Tensor | None) -> tuple[Ints, int]:
        """The flat number of the sum each value goes to, and how many values one sum may be given."""
        inner = self.shape if at is None else self.shape[1:]
        outer = shape[: len(shape) - len(inner)]
        if shape != (*outer, *inner) or (at is not None and (outer != tuple(at.shape) or at.ndim != 1)):
            where = "" if at is None else f" at {tuple(at.shape)} entries"
            raise UsageError(
                f"values {shape}{where} for sums {self.shape}", "values that end in that shape", ""
            )
        size = int(np.prod(inner, dtype=np.int64))
        rows = int(np.prod(outer, dtype=np.int64))
        if at is None:
            return np.tile(np.arange(size), rows), rows
        numbers = at.detach().cpu().numpy().astype(np.int64)
        if rows and not (numbers.min() >= 0 and numbers.max() < self.shape[0]):
            raise UsageError(
                f"entries from {numbers.min()} to {numbers.max()}", f"0 to {self.shape[0] - 1}", ""
            )
        return (numbers[:, None] * size + np.arange(size)).reshape(-1), rows

    def _carry(self) -> None:
        """Bring every digit but the last into [0, 2^32): the one way to write a sum."""
        digits = self._digits.view(-1, self._digits.shape[-1]).numpy()
        _carry(digits)
        self._pending = 0
        if digits.size and not (digits[:, -1].min() > -_FULL and digits[:, -1].max() < _FULL):
            raise UsageError(
                f"a sum beyond 2^{self.high + 30}", "a wider range of digits", f"high={self.high + 32}"
            )


def _carry(digits: Ints) -> None:
    for i in range(digits.shape[1] - 1):
        digits[:, i + 1] += digits[:, i] >> DIGIT
        digits[:, i] &= _MASK


def _rounded(carried: Ints, low: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The float64 nearest to each row of carried digits (entries, D)."""
    negative = carried[:, -1] < 0
    digits = np.where(negative[:, None], -carried, carried)
    _carry(digits)
    top = digits[:, -1:]
    digits = np.concatenate(
        [np.zeros((len(digits), 2), np.int64), digits[:, :-1], top & _MASK, top >> DIGIT], 1
    )
    used = digits != 0
    head = digits.shape[1] - 1 - used[:, ::-1].argmax(1)
    head[~used.any(1)] = 2  # a sum of 0: nothing is set below either
    rows = np.arange(len(digits))
    a, b, c = (digits[rows, head - i].astype(np.uint64) for i in range(3))
    length = np.frexp(a.astype(np.float64))[1]
    bits = length.astype(np.uint64)
    # 64 bits from the highest that is set; the lowest of them also stands for anything set below
    window = (((a << np.uint64(DIGIT)) | b) << (np.uint64(DIGIT) - bits)) | (c >> bits)
    below = (c & ((np.uint64(1) << bits) - np.uint64(1))) != 0
    window |= (below | (used.argmax(1) < head - 2)).astype(np.uint64)
    value = np.ldexp(window.astype(np.float64), low + DIGIT * (head - 2) + length - 64)
    signed: np.ndarray[Any, np.dtype[np.float64]] = np.where(negative, -value, value)
    return signed
