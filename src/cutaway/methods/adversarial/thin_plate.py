"""Thin-plate splines: the smoothest bend of the plane that moves some points where they are wanted."""

from __future__ import annotations

import torch
from torch import Tensor


def thin_plate(controls: Tensor, values: Tensor, points: Tensor) -> Tensor:
    """What the spline through (controls, values) is at some points, (..., m, d).

    `controls` (n, 2), not all on one line, and `values` (..., n, d) what it is there; `points` (m, 2). The spline is
    a_0 + A q + sum over k of w_k U(|q - c_k|), U(r) = r^2 log r^2, with sum w_k = 0 and sum w_k c_k = 0 (Bookstein
    1989, doi:10.1109/34.24792, sec. II): of all functions through the values the one with the least bending energy,
    and exactly affine where the values are.

    >>> square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
    >>> thin_plate(square, 3 * square + 1, torch.tensor([[0.5, 0.25]]).double()).round(decimals=9)
    tensor([[2.5000, 1.7500]], dtype=torch.float64)
    """
    count = len(controls)
    system = controls.new_zeros(count + 3, count + 3)
    system[:count, :count] = _bump(controls, controls)
    system[:count, count:] = _affine(controls)
    system[count:, :count] = _affine(controls).T
    wanted = torch.cat([values, values.new_zeros(*values.shape[:-2], 3, values.shape[-1])], -2)
    found: Tensor = torch.cat([_bump(points, controls), _affine(points)], 1) @ torch.linalg.solve(
        system, wanted
    )
    return found


def _bump(points: Tensor, controls: Tensor) -> Tensor:
    squared = (points[:, None] - controls[None]).square().sum(2)
    return torch.xlogy(squared, squared)


def _affine(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], 1)
