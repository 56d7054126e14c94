"""A straight line of pictures, the segments it is cut into, and what the gradient adds up to over each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.target import Target, gradient, score

from .gates import Gates


@dataclass(frozen=True, eq=False)
class Node:
    """One picture of the line: its place in [0, 1], score, slope of the score along the line, gradient, gates."""

    place: float
    score: float
    slope: float
    gradient: Tensor
    gates: int


class Line:
    """The pictures x' + a (x - x'), a in [0, 1], and what the network says of them.

    `evaluations` counts pictures that went forward and backward; `families` names the operators on the way.
    """

    def __init__(self, model: VisionModel, baseline: Tensor, x: Tensor, target: Target) -> None:
        self.model, self.baseline, self.target = model, baseline, target
        self.difference = x - baseline
        self.evaluations = 0
        self.families: set[Family] = set()
        self._gates = Gates()

    def nodes(self, places: Sequence[float], *, gates: bool = True) -> list[Node]:
        """Evaluate pictures of the line in one batch."""
        at = torch.tensor(places, dtype=torch.float64).to(self.difference).view(-1, 1, 1, 1)
        pictures = (self.baseline + at * self.difference).detach().requires_grad_()
        if gates:
            with self._gates.watch(len(places)):
                values = score(self.model, pictures, self.target)
            self.families |= self._gates.families
        else:
            values = score(self.model, pictures, self.target)
        (gradients,) = gradient(values, pictures)
        slopes = (gradients.double() * self.difference.double()).sum((1, 2, 3))
        marks = self._gates.fingerprints.tolist() if gates else [0] * len(places)
        self.evaluations += len(places)
        return [
            Node(*row)
            for row in zip(
                places,
                values.detach().double().tolist(),
                slopes.tolist(),
                gradients.detach(),
                marks,
                strict=True,
            )
        ]


@dataclass(frozen=True, eq=False)
class Segment:
    """The part of the line between two nodes."""

    left: Node
    right: Node

    @property
    def length(self) -> float:
        """In units of the line."""
        return self.right.place - self.left.place

    @property
    def rise(self) -> float:
        """How much the score grows."""
        return self.right.score - self.left.score

    @property
    def residual(self) -> float:
        """Rise less the trapezoid of the end slopes: zero where the score is linear."""
        return self.rise - self.length * (self.left.slope + self.right.slope) / 2

    @property
    def crossing(self) -> float:
        """Where the end tangents cross, from the left end; half the length for parallel ones, never outside.

        With one kink inside this is the kink, to rounding.
        """
        bend = self.left.slope - self.right.slope
        if bend == 0:
            return self.length / 2
        return min(max((self.rise - self.length * self.right.slope) / bend, 0.0), self.length)

    @property
    def left_over(self) -> float:
        """Rise less what the end gradients add up to when each counts up to where the end tangents cross."""
        return self.rise - self.crossing * self.left.slope - (self.length - self.crossing) * self.right.slope

    def effect(self, difference: Tensor) -> float:
        """How much the attributions can change, all pixels together, by where inside the segment it bends."""
        apart = (self.left.gradient - self.right.gradient).double() * difference[0].double()
        return float(apart.abs().sum()) * self.length

    def linear(self, accuracy: float) -> bool:
        """Whether both ends lie in one linear piece: the same gates and, to rounding, the same gradient."""
        if self.left.gates != self.right.gates:
            return False
        apart = (self.left.gradient - self.right.gradient).abs().max()
        return bool(apart <= accuracy * self.left.gradient.abs().max())
