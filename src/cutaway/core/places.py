"""What is known of one value before any unit is asked for: its dimensions, and its rows and columns as axes.

An axis is carried forward from the picture, operator by operator, as one affine rule for all positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from .axes import Dims, Kind
from .steps import Formula, Step, Unknown, Whole


@dataclass(frozen=True)
class Axis:
    """Rows or columns of one value: position o sees pixels [jump o + low, jump o + high].

    `steady` is False after resizing or transposed convolution, where that depends on o; `low` and `high` are
    then not kept. `whole` and `unknown` hold the reason where one applies.
    """

    jump: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)
    steady: bool = True
    whole: str = ""
    unknown: str = ""

    def through(self, step: Step) -> Axis:
        """The axis after an operator that reads this one by `step`."""
        if isinstance(step, Whole):
            return self if self.whole else Axis(self.jump, whole=step.reason)
        if self.whole or self.unknown:
            return self if isinstance(step, Unknown) else replace(self, jump=self.jump * step.scale)
        if isinstance(step, Unknown):
            return Axis(unknown=step.reason)
        if isinstance(step, Formula) or not self.steady:
            return Axis(self.jump * step.scale, steady=False)
        if step.stride == 1 and step.start == step.reach == 0:
            return self
        low = self.low + self.jump * step.start
        return Axis(self.jump * step.stride, low, self.high + self.jump * (step.start + step.reach))

    def join(self, axis: Axis) -> Axis:
        """The hull of two ways to the picture."""
        for a in (self, axis):
            if a.whole:
                return a
        for a in (self, axis):
            if a.unknown:
                return a
        if self.steady and axis.steady and self.jump == axis.jump:
            return replace(self, low=min(self.low, axis.low), high=max(self.high, axis.high))
        return Axis(max(self.jump, axis.jump), steady=False)


@dataclass(frozen=True)
class Place:
    """What is known of one value: the meaning of its dimensions, and its rows and columns."""

    dims: Dims
    rows: Axis
    columns: Axis

    def axis(self, kind: Kind) -> Axis:
        """Rows or columns."""
        return self.rows if kind is Kind.ROW else self.columns

    def length(self, kind: Kind) -> int:
        """How many rows, columns or channels there are."""
        return next((a.length for d in self.dims for a in d.atoms if a.kind is kind), 1)
