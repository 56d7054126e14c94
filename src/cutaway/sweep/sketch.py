"""Counts of activations in fixed buckets: quantiles with a proven bound, shares that are exact, merged by addition."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UsageError

BITS = 4
"""Bits of the mantissa a bucket keeps: 16 buckets to each doubling."""
LOW, HIGH = -18, 14
"""Magnitudes from 2^LOW to 2^HIGH have buckets of their own."""

_STEP = 1 << (23 - BITS)  # numbers of float32 in a bucket
_SIDE = ((HIGH - LOW) << BITS) + 2  # buckets of one sign: those to 2^LOW, those in range, those beyond 2^HIGH
ZERO = _SIDE
"""The bucket of exactly 0 (and -0)."""
BUCKETS = 2 * _SIDE + 1
"""Buckets in all, 1029: 8 kilobytes for each unit."""

_BASE = ((LOW + 127) << BITS) - 1  # what makes (0, 2^LOW] the first bucket of its sign
_INFINITY = 0x7F800000
_UNITS, _CHUNK = 64, 1 << 18  # units and values counted at a time: both tables stay in the processor's cache


def edges() -> Tensor:
    """The BUCKETS + 1 edges, ascending, float64: bucket i holds edge_i < a <= edge_(i+1).

    They are -inf, -2^HIGH .. -2^LOW, the largest float32 below 0, 0, 2^LOW .. 2^HIGH, inf.

    >>> edges()[ZERO + 1 :][:3].tolist() == [0.0, 2.0**LOW, 2.0**LOW * 17 / 16]
    True
    """
    steps = torch.arange(((HIGH - LOW) << BITS) + 1)
    fraction = 1 + (steps % (1 << BITS)).double() / (1 << BITS)
    positive = fraction * torch.exp2((LOW + (steps >> BITS)).double())
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    around_zero = torch.tensor([-(2.0**-149), 0.0], dtype=torch.float64)
    return torch.cat([-infinity, -positive.flip(0), around_zero, positive, infinity])


def codes(values: Tensor) -> Tensor:
    """The bucket of each value, int32 in 0 .. BUCKETS - 1, by arithmetic on the bits of float32.

    Raises `UsageError` for NaN.

    >>> codes(torch.tensor([0.0, 1e-30, 1.0])).tolist() == [ZERO, ZERO + 1, ZERO + 1 + (-LOW << BITS)]
    True
    """
    bits = values.detach().float().view(torch.int32)
    sign = bits >> 31  # -1 for negative numbers and -0
    magnitude = bits & 0x7FFFFFFF
    _refuse_nan(magnitude)
    steps = _steps(magnitude, magnitude - sign)
    return (steps ^ sign).sub_(sign).add_(ZERO)


def _steps(magnitude: Tensor, rounded: Tensor) -> Tensor:
    """Buckets away from zero: 0 for 0, 1 up to 2^LOW .. _SIDE beyond 2^HIGH.

    `rounded` is the magnitude, one more for negative numbers: their buckets are closed on the other side.
    """
    steps = (rounded + (_STEP - 1 - _BASE * _STEP)).bitwise_right_shift_(23 - BITS)
    torch.maximum(steps, magnitude.clamp(max=1), out=steps)
    return steps.clamp_(max=_SIDE)


def _refuse_nan(magnitude: Tensor) -> None:
    if magnitude.numel() and int(magnitude.max()) > _INFINITY:
        raise UsageError(
            "activations with NaN among them", "numbers", "looking for the first layer that gives NaN"
        )


def counts(maps: Tensor) -> Tensor:
    """How many values of each unit fall into each bucket, (u, BUCKETS) int64.

    Parameters
    ----------
    maps : (n, u) or (n, u, ...) activations of n pictures, in any memory order; channels last is the fastest.

    Raises `UsageError` for NaN.

    >>> counts(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))[:, ZERO].tolist()
    [2, 0]
    """
    values = (maps if maps.ndim > 2 else maps[:, :, None]).detach().to("cpu", torch.float32).flatten(2)
    found = torch.zeros(values.shape[1], BUCKETS, dtype=torch.int64)
    for some, table in zip(torch.split(values, _UNITS, 1), torch.split(found, _UNITS), strict=True):
        _count(some, table)
    return found


def _count(values: Tensor, found: Tensor) -> None:
    """Add the counts of values (n, u, places) to those found (u, BUCKETS)."""
    offsets = torch.arange(len(found), dtype=torch.int32)
    if values.stride(1) == 1:  # units beside each other in memory
        values = values.transpose(1, 2)
    else:
        offsets = offsets[:, None]
    for part in torch.split(values, max(1, _CHUNK // max(1, values[:1].numel()))):
        if not part.numel():
            continue
        part = part.contiguous()
        bits = part.view(torch.int32)
        if int(bits.min()) < 0:
            numbers, first = codes(part), 0
        else:
            _refuse_nan(bits)
            numbers, first = _steps(bits, bits), ZERO
        width = BUCKETS - first
        numbers += offsets * width
        found[:, first:] += torch.bincount(numbers.view(-1), minlength=len(found) * width).view(-1, width)


class Quantile(NamedTuple):
    """A quantile and how far it may be off."""

    value: Tensor
    bound: Tensor


class Threshold(NamedTuple):
    """The edge `value` that at most a share q lies above, the exact `share` above it, and the number of the edge."""

    value: Tensor
    share: Tensor
    edge: Tensor


class Sketch:
    """The distribution of each unit's activation, as bucket counts.

    Counts are exact and a bucket is 1/16 of a doubling wide, so the rank error at every edge is 0, and a quantile
    lies within half its bucket: 1/32 of its magnitude from 2^-18 to 2^14, 2^-19 below. Beyond 2^14 in magnitude
    only the count is known. Sketches of parts are added, which no order can change. After Masson, Rim and Lee,
    "DDSketch" (VLDB 2019, arXiv:1908.10693), with buckets cut from the bits of the number.

    Parameters
    ----------
    counts : (u, BUCKETS) int64, as `counts` gives them; 8 kilobytes for each unit.

    >>> sketch = Sketch(counts(torch.arange(1.0, 101.0).view(-1, 1)))
    >>> value, bound = sketch.quantile(0.5)
    >>> abs(value.item() - 50) <= bound.item() <= 50 / 16
    True
    """

    def __init__(self, counts: Tensor) -> None:
        if counts.ndim != 2 or counts.shape[1] != BUCKETS or counts.dtype != torch.int64:
            raise UsageError(
                f"counts of shape {tuple(counts.shape)}, {counts.dtype}",
                f"(units, {BUCKETS}) int64",
                "`counts`",
            )
        self.counts = counts

    @property
    def totals(self) -> Tensor:
        """Values counted of each unit, (u,) int64."""
        return self.counts.sum(1)

    @property
    def zero_share(self) -> Tensor:
        """The exact share of values that are 0, (u,) float64."""
        return self.counts[:, ZERO].double() / self._counted()

    def quantile(self, q: float) -> Quantile:
        """The smallest value that at least a share q of the values does not exceed, and its bound, (u,) float64.

        The value is the middle of its bucket: the true one differs by at most `bound`, which is 0 for exactly 0 and
        infinite beyond 2^HIGH, where the value is the edge.
        """
        ranks = self._ranks(q, math.ceil).clamp(min=1)
        bucket = (self.counts.cumsum(1) < ranks[:, None]).sum(1)
        limits = edges()
        low, high = limits[bucket], limits[bucket + 1]
        bound = (high - low) / 2
        value = torch.where(low.isinf(), high, torch.where(high.isinf(), low, (low + high) / 2))
        exact = bucket == ZERO
        return Quantile(value.masked_fill(exact, 0.0), bound.masked_fill(exact, 0.0))

    def above(self) -> Tensor:
        """How many values lie strictly above each edge, (u, BUCKETS + 1) int64, exact."""
        upward = self.counts.flip(1).cumsum(1).flip(1)
        return torch.cat([upward, torch.zeros_like(upward[:, :1])], 1)

    def tail(self, edge: Tensor | int) -> Tensor:
        """The exact share of values strictly above an edge, (u,) float64.

        Parameters
        ----------
        edge : number in `edges()`, one for all units or (u,).
        """
        numbers = torch.as_tensor(edge).expand(len(self.counts)).long()
        if numbers.numel() and not (int(numbers.min()) >= 0 and int(numbers.max()) <= BUCKETS):
            raise UsageError("the number of an edge that is none", f"0 to {BUCKETS}", "`threshold(q).edge`")
        return self.above().gather(1, numbers[:, None])[:, 0].double() / self._counted()

    def threshold(self, q: float) -> Threshold:
        """The smallest edge T with P(a > T) <= q, and that share, exact.

        A unit that is constant has a share of 0 for every q < 1: no threshold parts its values.
        """
        most = self._ranks(q, math.floor)
        edge = (self.above() > most[:, None]).sum(1)
        return Threshold(edges()[edge], self.tail(edge), edge)

    def histogram(self, limits: Tensor) -> Tensor:
        """Counts between ascending limits (m + 1,), to be drawn: (u, m) float64.

        A bin holds low < a <= high. A bucket that a limit cuts is spread evenly; what lies beyond 2^HIGH is only in
        a bin that reaches to infinity.
        """
        limits = limits.double()
        if limits.ndim != 1 or len(limits) < 2 or not bool((limits.diff() > 0).all()):
            raise UsageError("limits of a histogram", "at least two, ascending", "")
        own = edges()
        bucket = (torch.searchsorted(own, limits) - 1).clamp(0, BUCKETS - 1)
        low, high = own[bucket], own[bucket + 1]
        part = torch.where(limits == high, 1.0, (limits - low) / (high - low))
        part = torch.where(low.isinf(), limits.isfinite().double(), part)
        below = torch.cat([torch.zeros_like(self.counts[:, :1]), self.counts.cumsum(1)], 1).double()
        return (below[:, bucket] + part * self.counts[:, bucket]).diff(dim=1)

    def merge(self, other: Sketch) -> None:
        """Add the counts of other values of the same units."""
        if self.counts.shape != other.counts.shape:
            raise UsageError(f"a sketch of {len(other.counts)} units", f"{len(self.counts)} units", "")
        self.counts = self.counts + other.counts

    def _counted(self) -> Tensor:
        totals = self.totals
        if bool((totals == 0).any()):
            raise UsageError(
                "a sketch of no values", "at least one value of every unit", "counting some pictures"
            )
        return totals

    def _ranks(self, q: float, rounding: Callable[[Fraction], int]) -> Tensor:
        """A share q of the values of each unit, rounded to whole values without the error of floating point."""
        if not 0 <= q <= 1:
            raise UsageError(f"q={q}", "a share from 0 to 1", "q=0.005")
        ranks = {n: rounding(Fraction(str(q)) * n) for n in set(self._counted().tolist())}
        return torch.tensor([ranks[n] for n in self.totals.tolist()])
