"""The smooth model of shapley's estimator "adjusted"."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.methods.perturbation.shapley_adjusted import _NOISE, smooth_of, surprise_slope


def surprise(knobs: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """What is minimised, from the definition; the scale of the values is the most probable one."""
    matrix = smooth_of(knobs).covariance(points, points)
    matrix = matrix + _NOISE * matrix[0, 0] * torch.eye(len(points), dtype=matrix.dtype)
    scale = values @ torch.linalg.inv(matrix) @ values / len(values)
    density = torch.distributions.MultivariateNormal(torch.zeros_like(values), scale * matrix)
    spreads = torch.tensor([1.0] + [0.5**0.5] * (len(knobs) - 2) + [3.0], dtype=knobs.dtype)
    prior = torch.distributions.Normal(torch.zeros_like(knobs), spreads)
    unlikely: Tensor = -density.log_prob(values) - prior.log_prob(knobs).sum()
    return unlikely


def test_the_slope_is_that_of_the_likelihood() -> None:
    chance = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (19, 6), generator=chance).double() * 2 - 1
    points = torch.cat([torch.ones(1, 6, dtype=torch.float64), signs]).unique(dim=0).flip(0)
    assert bool((points[0] == 1).all())  # everybody comes first
    values = torch.randn(len(points), generator=chance, dtype=torch.float64)
    for spread in (0.0, 0.3, 1.0):
        knobs = (spread * torch.randn(8, generator=chance, dtype=torch.float64)).requires_grad_()
        (slope,) = torch.autograd.grad(surprise(knobs, points, values), knobs)
        torch.testing.assert_close(
            surprise_slope(knobs.detach(), points, values), slope, rtol=1e-6, atol=1e-8
        )
