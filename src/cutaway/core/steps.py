"""Along one axis: which inputs an output position reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

Interval = tuple[int, int]
Channels = frozenset[int] | None
"""Channels by number; None stands for all of them."""


@dataclass(frozen=True)
class Slide:
    """Position o reads [o * stride + start, o * stride + start + reach], both ends included.

    A convolution or pool with kernel k, stride s, padding p, dilation d has start -p and reach d (k - 1).

    >>> Slide(stride=2, start=-1, reach=2).window(3)
    (5, 7)
    """

    stride: int = 1
    start: int = 0
    reach: int = 0

    @property
    def scale(self) -> Fraction:
        """Input steps for one output step."""
        return Fraction(self.stride)

    def window(self, o: int) -> Interval:
        """What one position reads, which may lie outside the axis."""
        first = o * self.stride + self.start
        return first, first + self.reach


@dataclass(frozen=True)
class Formula:
    """Position o reads windows(o); `inside`, where given, holds for positions of a real axis (wrapping, mirroring)."""

    windows: Callable[[int], Interval]
    scale: Fraction
    inside: Callable[[int], Interval] | None = None

    def window(self, o: int) -> Interval:
        """What one position reads, which may lie outside the axis."""
        return self.windows(o)


@dataclass(frozen=True)
class Whole:
    """Every position reads the whole axis, and why."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """Nobody knows what a position reads, and which operator is to blame."""

    reason: str


Step = Slide | Formula | Whole | Unknown
SAME = Slide()


def virtual(step: Slide | Formula, interval: Interval) -> Interval:
    """What an interval of positions reads, as if the axis had no ends."""
    (a, b), (c, d) = step.window(interval[0]), step.window(interval[1])
    return min(a, c), max(b, d)


def inside(step: Slide | Formula, interval: Interval | None, length: int) -> Interval | None:
    """What it reads of an axis with `length` positions; None when it reads padding alone."""
    if interval is None:
        return None
    if isinstance(step, Formula) and step.inside is not None:
        found = [step.inside(o) for o in range(interval[0], interval[1] + 1)]
        low, high = min(a for a, _ in found), max(b for _, b in found)
    else:
        low, high = virtual(step, interval)
    low, high = max(low, 0), min(high, length - 1)
    return (low, high) if low <= high else None


def transposed(kernel: int, stride: int, padding: int, dilation: int) -> Step:
    """A transposed convolution: input i writes to i * stride - padding + dilation * t for t in 0..kernel-1."""
    if stride == 1:
        return Slide(1, padding - dilation * (kernel - 1), dilation * (kernel - 1))

    def windows(o: int) -> Interval:
        taps = [o + padding - dilation * t for t in range(kernel)]
        readers = [t // stride for t in taps if t % stride == 0]
        nearest = (o + padding) // stride
        return (min(readers), max(readers)) if readers else (nearest, nearest)

    def real(o: int) -> Interval:
        taps = [o + padding - dilation * t for t in range(kernel)]
        readers = [t // stride for t in taps if t % stride == 0]
        return (min(readers), max(readers)) if readers else (1 << 40, -(1 << 40))

    return Formula(windows, Fraction(1, stride), real)


def adaptive(length: int, bins: int) -> Step:
    """Adaptive pooling: bin o covers floor(o n / m) to ceil((o + 1) n / m) - 1."""
    if length == bins:
        return SAME
    if length % bins == 0:
        return Slide(length // bins, 0, length // bins - 1)
    return Formula(lambda o: (o * length // bins, -((o + 1) * length // -bins) - 1), Fraction(length, bins))


def resized(length: int, target: int, mode: str, corners: bool, factor: float | None) -> Step | None:
    """`interpolate` along one axis, or None for a mode that is not known.

    `factor` is the scale factor where the caller gave one; PyTorch then uses it, not the ratio of the sizes.
    """
    ratio = Fraction(length, target) if factor is None else 1 / Fraction(factor)
    if mode == "area":
        return adaptive(length, target)
    if mode == "nearest":
        return Formula(lambda o: (math.floor(o * ratio),) * 2, ratio)
    if mode == "nearest-exact":
        return Formula(lambda o: (math.floor((o + Fraction(1, 2)) * ratio),) * 2, ratio)
    taps = {"linear": (0, 1), "bilinear": (0, 1), "trilinear": (0, 1), "bicubic": (-1, 2)}.get(mode)
    if taps is None:
        return None
    if corners:
        ratio = Fraction(length - 1, max(target - 1, 1))

    def windows(o: int) -> Interval:
        at = o * ratio if corners else (o + Fraction(1, 2)) * ratio - Fraction(1, 2)
        floor = math.floor(at)
        return (floor, floor) if at == floor else (floor + taps[0], floor + taps[1])

    def real(o: int) -> Interval:
        low, high = windows(o)
        return min(max(low, 0), length - 1), min(max(high, 0), length - 1)

    return Formula(windows, ratio, real)


def padded(length: int, left: int, mode: str) -> Step:
    """`pad` along one axis with `left` entries in front."""
    if mode == "constant":
        return Slide(1, -left, 0)

    def real(o: int) -> Interval:
        i = o - left
        if mode == "circular":
            i %= length
        elif mode == "replicate":
            i = min(max(i, 0), length - 1)
        else:  # reflect
            i = abs(i)
            i = i if i < length else 2 * (length - 1) - i
        return i, i

    return Formula(lambda o: (o - left, o - left), Fraction(1), real)


def grouped(ins: int, outs: int, groups: int) -> Callable[[Channels], Channels]:
    """The input channels that output channels of a grouped convolution read."""
    if groups == 1:
        return everything
    wide, per = ins // groups, outs // groups

    def read(channels: Channels) -> Channels:
        if channels is None:
            return None
        return frozenset(i for g in {c // per for c in channels} for i in range(g * wide, (g + 1) * wide))

    return read


def part(offset: int, count: int, length: int, stride: int = 1) -> Callable[[Channels], Channels]:
    """Of `length` input channels every `stride`-th from `offset` on is kept, `count` in all."""
    if count == length:
        return unchanged

    def read(channels: Channels) -> Channels:
        return frozenset(offset + stride * c for c in (range(count) if channels is None else channels))

    return read


def placed(offset: int, length: int) -> Callable[[Channels], Channels]:
    """`length` input channels stand in the output from `offset` on (concatenation, padding)."""

    def read(channels: Channels) -> Channels:
        if channels is None:
            return None
        return frozenset(c - offset for c in channels if 0 <= c - offset < length)

    return read


def gathered(order: tuple[int, ...]) -> Callable[[Channels], Channels]:
    """Output channel c reads input channel order[c] (channel shuffle)."""

    def read(channels: Channels) -> Channels:
        return None if channels is None else frozenset(order[c] for c in channels)

    return read


def everything(channels: Channels) -> Channels:
    """Every output channel reads every input channel."""
    return None


def unchanged(channels: Channels) -> Channels:
    """Output channel c reads input channel c."""
    return channels
