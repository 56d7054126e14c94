"""Shapley values with the help of a smooth model of the game."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .shapley_pairs import Pairs, regression

FOLDS = 10
_LEARNT_FROM = 400
"""The most pairs from which the smoothness is learnt; the model itself is fitted to all of them."""
_NOISE = 1e-6
"""Variance of what the model leaves out, as a share of its own: keeps the equations solvable."""
_START, _LINEAR = 0.3, 100.0
_STEPS, _RATE = 50, 0.15


@dataclass(frozen=True)
class Smooth:
    """A Gaussian process over odd games: how much players interact, and how far the game is a plain sum.

    With z = +1 for players that are shown and -1 for others, the covariance of two coalitions is
    sinh(sum_i rate_i z_i z'_i) / sinh(sum_i rate_i) + linear z.z' / M. The first is the odd part of
    prod_i (1 + tanh(rate_i) z_i z'_i): the interaction of a set of players weighs as the product of its tanh(rate_i).
    """

    rates: Tensor
    linear: Tensor

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """Between signs (n, M) and (m, M): (n, m)."""
        return self.waves(a, b)[0] + self.linear * (a @ b.T) / a.shape[1]

    def waves(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """sinh and cosh of sum_i rate_i z_i z'_i, both over sinh(sum_i rate_i): (n, m) each."""
        total, both = self.rates.sum(), (a * self.rates) @ b.T
        up, down, whole = (both - total).exp(), (-both - total).exp(), 1 - (-2 * total).exp()
        return (up - down) / whole, (up + down) / whole

    def shapley(self, points: Tensor) -> Tensor:
        """The Shapley values (M, n) of the covariance with each of the points (n, M).

        Those of prod_j (1 + t_j z_j z'_j) are t_i z'_i int_{-1}^{1} prod_{j != i} (1 + t_j u z'_j) du, by the
        multilinear extension (Owen 1972); Gauss-Legendre nodes are exact for these polynomials.
        """
        count, share = points.shape[1], torch.tanh(self.rates)
        nodes, weights = np.polynomial.legendre.leggauss(count // 2 + 1)
        total = torch.zeros_like(points)
        # sinh(sum) is half the difference of two such products, each over prod_j sqrt(1 - t_j^2)
        size = torch.log1p(share).sum() + torch.log1p(-(-2 * self.rates.sum()).exp())
        for node, weight in zip(nodes, weights, strict=True):
            factors = torch.log1p(share * points * node)
            total += weight * (factors.sum(1, keepdim=True) - factors - size).exp()
        return (2 * share * points * total + 2 * self.linear * points / count).T


def adjusted(pairs: Pairs, odd: Tensor, rise: float) -> tuple[Tensor, Tensor]:
    """Shapley values (M,) by regression adjustment, and their standard errors.

    A smooth model f of the odd part is fitted to the sample; its own Shapley values are known exactly, and the
    regression on the sample only estimates those of g - f (Witter et al. 2025, arXiv:2506.11849, sec. 3; there f is
    a linear model or a set of trees, here the mean of a Gaussian process whose smoothness is learnt from the
    sample). The errors are those of the regression on g - f at pairs that were left out of the fit, a tenth at a
    time: on the large side, since the model then knows less.
    """
    plain, error = regression(pairs, odd, rise)
    shown = pairs.coalitions.double()
    if float((odd + rise / 2 - shown @ plain).norm()) <= 1e-9 * float(odd.norm()):
        return plain, error  # a sum over players leaves nothing to learn
    count = pairs.coalitions.shape[1]
    signs = shown * 2 - 1
    # the pair of nobody and everybody is known too
    points = torch.cat([torch.ones(1, count, dtype=torch.float64), signs])
    values = torch.cat([odd.new_tensor([rise / 2]), odd])
    model = learnt(points, values)
    matrix = _firm(model.covariance(points, points))
    shares = torch.linalg.solve(matrix, values)
    own = model.shapley(points) @ shares
    residual = _NOISE * matrix[0, 0] * shares[1:]
    more, _ = regression(pairs, residual, rise - float(own.sum()))
    return own + more, regression(pairs, _left_out(matrix, values)[1:], 0.0)[1]


def _left_out(matrix: Tensor, values: Tensor) -> Tensor:
    """What the model misses at each point when it is fitted without that point's fold."""
    missed = torch.zeros_like(values)
    for fold in range(min(FOLDS, len(values) - 1)):
        out = torch.zeros_like(values, dtype=torch.bool)
        out[1 + fold :: FOLDS] = True
        shares = torch.linalg.solve(matrix[~out][:, ~out], values[~out])
        missed[out] = values[out] - matrix[out][:, ~out] @ shares
    return missed


def learnt(points: Tensor, values: Tensor) -> Smooth:
    """The smoothness under which the values (n,) at signs (n, M) are most probable, the scale of the values fitted."""
    every = -(-len(points) // _LEARNT_FROM)
    points, values = points[::every], values[::every]
    knobs = torch.zeros(points.shape[1] + 2, dtype=torch.float64)
    # Adam (Kingma & Ba 2015, algorithm 1); torch.optim would take seconds to import its compiler
    mean, square = torch.zeros_like(knobs), torch.zeros_like(knobs)
    for step in range(1, _STEPS + 1):
        slope = surprise_slope(knobs, points, values)
        if not bool(torch.isfinite(slope).all()):
            break
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        rate = _RATE * (1 - step / (_STEPS + 1))
        knobs = knobs - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-12)
    return smooth_of(knobs)


def smooth_of(knobs: Tensor) -> Smooth:
    """From logarithms (M + 2,): of the common rate, each player's part of it, the linear part."""
    return Smooth(_START * (knobs[0] + knobs[1:-1]).exp(), _LINEAR * knobs[-1].exp())


def surprise_slope(knobs: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """The gradient (M + 2,) of n / 2 log(values K^-1 values) + log|K| / 2 and of the knobs' normal priors.

    K is the covariance of the points. In closed form, since backwards through its factors takes several times as long.
    """
    smooth = smooth_of(knobs)
    sums = points @ points.T / points.shape[1]
    sinh, cosh = smooth.waves(points, points)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(_firm(sinh + smooth.linear * sums))[0])
    shares = inverse @ values
    by_matrix = 0.5 * (inverse - len(values) / (values @ shares) * torch.outer(shares, shares))
    by_rates = ((by_matrix * cosh) @ points * points).sum(0)
    by_rates = smooth.rates * (by_rates - (by_matrix * sinh).sum() / smooth.rates.sum().tanh())
    by_linear = smooth.linear * ((by_matrix * sums).sum() + _NOISE * by_matrix.trace())
    own = torch.cat([by_rates.sum()[None], by_rates, by_linear[None]])
    return own + torch.cat([knobs[:1], 2 * knobs[1:-1], knobs[-1:] / 9])


def _firm(matrix: Tensor) -> Tensor:
    return matrix + _NOISE * matrix[0, 0] * torch.eye(len(matrix), dtype=matrix.dtype)
