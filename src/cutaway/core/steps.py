"""Along one axis: which inputs an output position reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Interval = tuple[int, int]
Channels = frozenset[int] | None
"""Channels by number; None stands for all of them."""


@dataclass(frozen=True)
class Slide:
    """Position o reads o * stride + start + dilation * t for t in 0..taps-1.

    A convolution or pool with kernel k, stride s, padding p, dilation d has start -p and k taps.

    >>> Slide(stride=2, start=-1, taps=3).window(3)
    (5, 7)
    """

    stride: int = 1
    start: int = 0
    taps: int = 1
    dilation: int = 1

    @property
    def scale(self) -> Fraction:
        """Input steps for one output step."""
        return Fraction(self.stride)

    @property
    def reach(self) -> int:
        """From the first tap to the last."""
        return self.dilation * (self.taps - 1)

    def window(self, o: int) -> Interval:
        """The ends of what one position reads, which may lie outside the axis."""
        first = o * self.stride + self.start
        return first, first + self.reach

    def mask(self, positions: int) -> int:
        """The set of positions that a set of positions reads."""
        spread = positions
        if self.stride != 1:
            spread = 0
            for o in bits(positions):
                spread |= 1 << o * self.stride
        found = 0
        for tap in range(self.start, self.start + self.reach + 1, self.dilation):
            found |= spread << tap if tap >= 0 else spread >> -tap
        return found


@dataclass(frozen=True)
class Formula:
    """Position o reads `taps(o)`; `inside`, where given, is what it reads of a real axis (wrapping, mirroring)."""

    taps: Callable[[int], Sequence[int]]
    scale: Fraction
    inside: Callable[[int], Sequence[int]] | None = None

    def window(self, o: int) -> Interval:
        """The ends of what one position reads, which may lie outside the axis."""
        found = self.taps(o)
        return min(found), max(found)

    def mask(self, positions: int) -> int:
        """The set of positions that a set of positions reads."""
        taps = self.inside or self.taps
        found = 0
        for o in bits(positions):
            for i in taps(o):
                if i >= 0:
                    found |= 1 << i
        return found


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


def run(interval: Interval) -> int:
    """An interval as a set: bit i of the number stands for position i."""
    return (1 << interval[1] + 1) - (1 << interval[0])


def bits(positions: int) -> list[int]:
    """The positions of a set."""
    return [i for i, bit in enumerate(reversed(bin(positions)[2:])) if bit == "1"]


def ends(positions: int) -> Interval:
    """The first and the last position of a set that is not empty."""
    return (positions & -positions).bit_length() - 1, positions.bit_length() - 1


def transposed(kernel: int, stride: int, padding: int, dilation: int) -> Step:
    """A transposed convolution: input i writes to i * stride - padding + dilation * t for t in 0..kernel-1."""
    if stride == 1:
        return Slide(1, padding - dilation * (kernel - 1), kernel, dilation)

    def inside(o: int) -> Sequence[int]:
        reached = (o + padding - dilation * t for t in range(kernel))
        return [at // stride for at in reached if at % stride == 0]

    # between the taps of a stride beyond the kernel nothing is read: the nearest input stands for its place
    return Formula(lambda o: inside(o) or [(o + padding) // stride], Fraction(1, stride), inside)


def adaptive(length: int, bins: int) -> Step:
    """Adaptive pooling: bin o covers floor(o n / m) to ceil((o + 1) n / m) - 1."""
    if length % bins == 0:
        return Slide(length // bins, 0, length // bins)
    return Formula(lambda o: range(o * length // bins, -((o + 1) * length // -bins)), Fraction(length, bins))


def resized(length: int, target: int, mode: str, corners: bool, factor: float | None) -> Step | None:
    """`interpolate` along one axis, or None for a mode that is not known.

    `factor` is the scale factor where the caller gave one; PyTorch then uses it, not the ratio of the sizes.
    """
    ratio = Fraction(length, target) if factor is None else 1 / Fraction(factor)
    if mode == "area":
        return adaptive(length, target)
    if mode == "nearest":
        return Formula(lambda o: (math.floor(o * ratio),), ratio)
    if mode == "nearest-exact":
        return Formula(lambda o: (math.floor((o + Fraction(1, 2)) * ratio),), ratio)
    reach = {"linear": (0, 1), "bilinear": (0, 1), "trilinear": (0, 1), "bicubic": (-1, 2)}.get(mode)
    if reach is None:
        return None
    if corners:
        ratio = Fraction(length - 1, max(target - 1, 1))

    def taps(o: int) -> Sequence[int]:
        at = o * ratio if corners else (o + Fraction(1, 2)) * ratio - Fraction(1, 2)
        floor = math.floor(at)
        return (floor,) if at == floor else range(floor + reach[0], floor + reach[1] + 1)

    return Formula(taps, ratio)


def padded(length: int, left: int, mode: str) -> Step:
    """`pad` along one axis with `left` entries in front."""
    if mode == "constant":
        return Slide(1, -left)

    def inside(o: int) -> Sequence[int]:
        i = o - left
        if mode == "circular":
            i %= length
        elif mode == "replicate":
            i = min(max(i, 0), length - 1)
        else:  # reflect
            i = abs(i) if abs(i) < length else 2 * (length - 1) - abs(i)
        return (i,)

    return Formula(lambda o: (o - left,), Fraction(1), inside)


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
