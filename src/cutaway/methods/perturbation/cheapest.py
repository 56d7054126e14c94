"""The cheapest change that brings a function to a value: exact where it is linear, step by step elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.core.model import VisionModel
from cutaway.core.target import Target, gradient, score

_RADII = tuple(2.0**-k for k in range(8))
"""How far a pixel may move in one step; all are tried side by side."""
_SHORTER = 2.0 ** -torch.arange(1, 9, dtype=torch.float64)
"""Parts of the smallest step that are tried where no whole one helps."""
_GAIN = 1e-3
"""What a step must mend: as a share of the way gone so far or, once the value is reached, of the cost."""


def spreads(values: Tensor, dim: int) -> Tensor:
    """The median absolute deviation along a dimension.

    >>> spreads(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]), 0)
    tensor(1.)
    """
    centre = values.quantile(0.5, dim=dim, keepdim=True)
    return (values - centre).abs().quantile(0.5, dim=dim)


def cheapest(slope: Tensor, low: Tensor, high: Tensor, amount: float) -> Tensor:
    """The z of least sum |z| with slope . z = amount and low <= z <= high; all are (D,).

    Each feature stands as near to 0 as it may; from there the steepest go first, each to the end of its range, the
    last one as far as needed: the greedy solution of a continuous knapsack, which is exact (Dantzig 1957). Where the
    amount is out of reach, the nearest to it.

    >>> cheapest(torch.tensor([1.0, -3.0, 2.0]), torch.tensor([-1.0] * 3), torch.ones(3), 4.0).tolist()
    [0.0, -1.0, 0.5]
    """
    least = torch.zeros_like(slope).clamp(low, high)
    amount -= float(slope @ least)
    rise = slope if amount >= 0 else -slope
    ends = torch.where(rise > 0, high, low)
    order = rise.abs().argsort(descending=True, stable=True)
    gains = (rise * (ends - least))[order]
    left = (abs(amount) - gains.cumsum(0) + gains).clamp(min=0)
    share = torch.zeros_like(slope)
    share[order] = torch.where(gains > 0, (left / gains.clamp(min=1e-300)).clamp(max=1), 0.0)
    return least + share * (ends - least)


class Search:
    """The search from one picture (1, C, H, W); `step` improves it until it returns False."""

    def __init__(
        self, model: VisionModel, x: Tensor, target: Target, wanted: float, spread: Tensor, tolerance: float
    ) -> None:
        self._model, self._x, self._target = model, x, target
        self.wanted, self._spread = wanted, spread.flatten()
        start = x.double().cpu().flatten()
        moves = self._spread > 0
        price = torch.where(moves, self._spread, 1.0)
        self._low = torch.where(moves, (-start / price).clamp(max=0), 0.0)
        self._high = torch.where(moves, ((1 - start) / price).clamp(min=0), 0.0)
        self._z = torch.zeros_like(start)
        self.clean = self.score = float(self._scores(self._z[None])[0])
        self._near = tolerance * abs(self.clean - wanted)
        self.taken, self.why = 0, "steps ran out"

    @property
    def change(self) -> Tensor:
        """x' - x, (C, H, W) in float64."""
        return (self._z * self._spread).view(self._x.shape[1:])

    @property
    def picture(self) -> Tensor:
        """x', (1, C, H, W)."""
        return self._pictures(self._z[None])

    @property
    def cost(self) -> float:
        """sum |x'_k - x_k| / MAD_k."""
        return float(self._z.abs().sum())

    @property
    def changed(self) -> int:
        """How many features differ."""
        return int((self._z != 0).sum())

    @property
    def reached(self) -> bool:
        """Whether the wanted value is reached within the tolerance."""
        return abs(self.score - self.wanted) <= self._near

    def step(self) -> bool:
        """One linearisation; False where it mends nothing any more."""
        if self.clean == self.wanted:
            return False
        x = self.picture.requires_grad_()
        (g,) = gradient(score(self._model, x, self._target), x)
        slope = g.double().cpu().flatten() * self._spread
        if not bool((slope != 0).any()):
            self.why = "no pixel moves the target here"
            return False
        amount = float(slope @ self._z) + self.wanted - self.score
        self.taken += 1
        tried = torch.stack([self._within(radius, slope, amount) for radius in _RADII])
        scores = self._scores(tried)
        if not self.reached and not bool(((scores - self.wanted).abs() <= self._near).any()):
            between = self._before_crossing(tried, scores)
            tried, scores = torch.cat([tried, between]), torch.cat([scores, self._scores(between)])
        if self._take(tried, scores):
            return True
        shorter = self._z + _SHORTER[:, None] * (tried[len(_RADII) - 1] - self._z)
        return self._take(shorter, self._scores(shorter))

    def _within(self, radius: float, slope: Tensor, amount: float) -> Tensor:
        """The solution of the linearised problem where no pixel moves by more than the radius."""
        far = torch.where(self._spread > 0, radius / self._spread.clamp(min=1e-300), 0.0)
        low, high = torch.maximum(self._low, self._z - far), torch.minimum(self._high, self._z + far)
        return cheapest(slope, low, high, amount)

    def _take(self, tried: Tensor, scores: Tensor) -> bool:
        """Go on with the best of what was tried, if it is better than what there is."""
        apart, costs = (scores - self.wanted).abs(), tried.abs().sum(1)
        near = apart <= self._near
        if bool(near.any()):
            best = int(torch.where(near, costs, torch.inf).argmin())
            better = not self.reached or float(costs[best]) < (1 - _GAIN) * self.cost
        else:
            best = int(apart.argmin())
            mended = abs(self.score - self.wanted) - float(apart[best])
            better = not self.reached and mended > _GAIN * abs(self.score - self.clean)
        if better:
            self._z, self.score = tried[best], float(scores[best])
        else:
            self.why = "no step brings it nearer"
        return better

    def _before_crossing(self, tried: Tensor, scores: Tensor) -> Tensor:
        """Places on the way to the nearest of the changes that go too far; none where none does."""
        beyond = ((scores > self.wanted) != (self.score > self.wanted)).nonzero()[:, 0].tolist()
        if not beyond:
            return tried[:0]
        parts = torch.arange(1, 9, dtype=tried.dtype)[:, None] / 9
        return self._z + parts * (tried[beyond[-1]] - self._z)

    def _scores(self, z: Tensor) -> Tensor:
        """The target's value for several changes (n, D), in float64."""
        if not len(z):
            return torch.empty(0, dtype=torch.float64)
        with torch.no_grad():
            return score(self._model, self._pictures(z), self._target).detach().double().cpu()

    def _pictures(self, z: Tensor) -> Tensor:
        change = (z * self._spread).view(-1, *self._x.shape[1:]).to(self._x)
        return torch.where(change == 0, self._x, (self._x + change).clamp(0, 1))
