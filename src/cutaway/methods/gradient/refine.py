"""Cutting a line into segments, where it bends, until what is left over is small enough."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from .segments import Line, Node, Segment

FIRST = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the adaptive rule starts."""


@dataclass
class Cut:
    """The line so far: `settled` segments hold no kink (or a negligible one), `open` ones may hold several."""

    settled: list[Segment] = field(default_factory=list)
    open: list[Segment] = field(default_factory=list)

    def integral(self, like: Tensor) -> Tensor:
        """The gradient integrated over the whole line, (C, H, W) as `like`, in float64.

        Settled segments bend where their end tangents cross, open ones are trapezoids: with many kinks inside,
        bending at the crossing would hide the residual and be further from the truth per pixel.
        """
        weights: dict[Node, float] = {}
        for segments, settled in ((self.settled, True), (self.open, False)):
            for s in segments:
                first = s.crossing if settled else s.length / 2
                weights[s.left] = weights.get(s.left, 0.0) + first
                weights[s.right] = weights.get(s.right, 0.0) + s.length - first
        total = torch.zeros_like(like, dtype=torch.float64)
        for node in sorted(weights, key=lambda n: n.place):
            total += weights[node] * node.gradient
        return total


@dataclass(frozen=True)
class Accuracy:
    """How far numbers of one type can be trusted: equal gradients, negligible scores, distance along the line."""

    same: float
    negligible: float
    near: float


DOUBLE, SINGLE = Accuracy(1e-9, 1e-13, 1e-9), Accuracy(1e-4, 1e-6, 1e-4)


def adaptive(
    line: Line, ends: list[Node], *, tolerance: float, steps: int, size: int
) -> Generator[Cut, None, None]:
    """Halve the segments with the largest local residual until all add up to at most `tolerance` of the rise.

    Evaluates `size` pictures at a time, at most `steps` in all. Yields the cut after every batch.
    """
    enough = tolerance * abs(ends[1].score - ends[0].score)
    inner = line.nodes(FIRST[1:-1][: steps - line.evaluations]) if steps > line.evaluations else []
    cut = Cut()
    _sort_in(cut, line, pairwise([ends[0], *inner, ends[1]]), 0.0)
    yield cut
    while cut.open and line.evaluations < steps and abs(sum(s.residual for s in cut.open)) > enough:
        cut.open.sort(key=lambda s: (-abs(s.residual), s.left.place))
        count = min(size, steps - line.evaluations)
        _split(cut, line, count, lambda s: s.left.place + s.length / 2, 0.0)
        yield cut


def exact(line: Line, ends: list[Node], *, steps: int, size: int) -> Generator[Cut, None, None]:
    """Split every segment where its end tangents cross until none holds more than one kink.

    In a piecewise linear network a crossing of tangents next to the only kink is the kink itself, so kinks are
    found to rounding. Evaluates at most `steps` pictures in all. Yields the cut after every batch.
    """
    trust = _trust(line)
    negligible = trust.negligible * max(abs(ends[0].score), abs(ends[1].score))

    def place(segment: Segment) -> float:
        a, b, t = segment.left.place, segment.right.place, segment.left.place + segment.crossing
        if t in (a, b) or segment.length <= 2 * trust.near:
            return (a + b) / 2
        return min(max(t, a + trust.near), b - trust.near)

    cut = Cut()
    _sort_in(cut, line, pairwise(ends), negligible)
    yield cut
    while cut.open and line.evaluations < steps:
        cut.open.sort(key=lambda s: (-s.length, s.left.place))
        _split(cut, line, min(size, steps - line.evaluations), place, negligible)
        yield cut


def _trust(line: Line) -> Accuracy:
    return DOUBLE if line.difference.dtype == torch.float64 else SINGLE


def _sort_in(cut: Cut, line: Line, ends: Iterable[tuple[Node, Node]], negligible: float) -> None:
    """Add segments: to the settled ones when they need no more looking at, else to the open ones.

    Settled are segments in one linear piece, segments so short that one kink explains both ends to rounding, and
    segments too short to matter.
    """
    trust = _trust(line)
    for left, right in ends:
        s = Segment(left, right)
        one_kink = s.length <= 2 * trust.near and abs(s.left_over) <= negligible
        settled = one_kink or s.length <= trust.near / 100 or s.linear(trust.same)
        settled = settled or (negligible > 0 and s.effect(line.difference) <= negligible)
        (cut.settled if settled else cut.open).append(s)


def _split(cut: Cut, line: Line, count: int, place: Callable[[Segment], float], negligible: float) -> None:
    """Split the first `count` open segments, evaluated in one batch."""
    chosen, cut.open = cut.open[:count], cut.open[count:]
    nodes = line.nodes([place(s) for s in chosen])
    halves = [pair for s, n in zip(chosen, nodes, strict=True) for pair in ((s.left, n), (n, s.right))]
    _sort_in(cut, line, halves, negligible)
