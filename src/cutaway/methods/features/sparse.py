"""A picture as few filters put at few places: the operator, its norm, and ISTA and FISTA for it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Solver = Literal["fista", "ista"]
SPECTRA = 64
"""Filters whose spectra are in memory at a time."""


@dataclass(frozen=True)
class Filters:
    """The linear map from coefficients z (N, O, m, n) to a picture (N, C, H, W): sum_i z_i * f_i.

    A coefficient puts its filter (C, kh, kw) at its place, places `stride` pixels apart and beginning outside the
    picture, so that the border is covered like the middle; what sticks out is cut off.
    """

    weights: Tensor
    size: tuple[int, int]
    stride: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of each coefficient map."""
        kernel = self.weights.shape[2:]
        rows, columns = (-(-(n + k - 2) // self.stride) + 1 for n, k in zip(self.size, kernel, strict=True))
        return rows, columns

    def picture(self, z: Tensor) -> Tensor:
        """sum_i z_i * f_i."""
        kh, kw = self.weights.shape[2:]
        whole = F.conv_transpose2d(z, self.weights, stride=self.stride, padding=(kh - 1, kw - 1))
        return whole[:, :, : self.size[0], : self.size[1]]

    def transposed(self, y: Tensor) -> Tensor:
        """How well each filter fits at each place, <f_i, y> there: the transpose of `picture`."""
        kh, kw = self.weights.shape[2:]
        rows, columns = self.grid
        high, wide = (rows - 1) * self.stride - kh + 2, (columns - 1) * self.stride - kw + 2
        padded = F.pad(y, (0, wide - self.size[1], 0, high - self.size[0]))
        return F.conv2d(padded, self.weights, stride=self.stride, padding=(kh - 1, kw - 1))

    def norm(self) -> float:
        """An upper bound of |picture(z)|^2 / |z|^2, tight at stride 1 but for the border.

        On a circle large enough that nothing wraps around, the operator is one C x C matrix per frequency,
        sum_i f_i(w) f_i(w)^*; putting z on the circle, with zeros between its places, keeps its length, and cutting
        the picture out of it makes nothing longer, so the largest eigenvalue of all bounds the operator's.
        """
        weights = self.weights.detach().double()
        size = [n + 2 * (k - 1) + self.stride for n, k in zip(self.size, weights.shape[2:], strict=True)]
        matrices = weights.new_zeros((), dtype=torch.complex128)
        for first in range(0, len(weights), SPECTRA):
            spectra = torch.fft.rfft2(weights[first : first + SPECTRA], size)
            matrices = matrices + torch.einsum("ochw,odhw->hwcd", spectra, spectra.conj())
        largest = torch.linalg.eigvalsh(matrices).amax()
        return float(largest) * (1 + 1e-9)


@dataclass(frozen=True)
class Code:
    """Coefficients z (N, O, m, n), the objective of every step (N, steps + 1) and a bound on what is left to gain.

    `gap` (N,) is the duality gap: the objective lies at most this far above the least possible.
    """

    z: Tensor
    objective: Tensor
    gap: Tensor


def solve(
    filters: Filters, y: Tensor, weight: Tensor, *, steps: int, solver: Solver = "fista"
) -> Generator[int, None, Code]:
    """argmin_z (w / 2) |y - sum_i z_i * f_i|^2 + sum |z|, w (N,) > 0, from z = 0; yields the number of each step.

    The step is 1 / (w L) with L from `Filters.norm`. ISTA never raises the objective; FISTA (Beck & Teboulle 2009)
    may, and comes within 2 w L |z*|^2 / (steps + 1)^2 of the least.
    """
    scale = weight.view(-1, 1, 1, 1)
    step = 1 / filters.norm()
    z = y.new_zeros(len(y), len(filters.weights), *filters.grid)
    ahead, momentum = z, 1.0
    left = y
    objective = [_objective(left, z, weight)]
    for number in range(steps):
        yield number
        at = left if solver == "ista" or number == 0 else y - filters.picture(ahead)
        new = shrink(ahead + step * filters.transposed(at), step / scale)
        if solver == "ista":
            ahead = new
        else:
            # Beck & Teboulle 2009, eq. 4.2 and 4.3
            following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = new + ((momentum - 1) / following) * (new - z)
            momentum = following
        z = new
        left = y - filters.picture(z)
        objective.append(_objective(left, z, weight))
    return Code(z, torch.stack(objective, 1), _gap(filters, y, left, weight, objective[-1]))


def shrink(values: Tensor, by: Tensor) -> Tensor:
    """Soft threshold: every number moved towards zero by `by`, and not past it.

    >>> shrink(torch.tensor([-3.0, 0.5, 2.0]), torch.tensor(1.0)).tolist()
    [-2.0, 0.0, 1.0]
    """
    return values.sign() * (values.abs() - by).clamp_min(0)


def _objective(left: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    return weight / 2 * left.square().flatten(1).sum(1) + z.abs().flatten(1).sum(1)


def _gap(filters: Filters, y: Tensor, left: Tensor, weight: Tensor, objective: Tensor) -> Tensor:
    """P(z) - D(t), D(t) = <t, y> - |t|^2 / (2 w) at the residual made feasible, |F't| <= 1 everywhere."""
    dual = weight.view(-1, 1, 1, 1) * left
    dual = dual / filters.transposed(dual).abs().flatten(1).amax(1).clamp_min(1).view(-1, 1, 1, 1)
    return objective - (dual * y).flatten(1).sum(1) + dual.square().flatten(1).sum(1) / (2 * weight)
