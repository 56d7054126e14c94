"""Matrices as products of few factors: non-negative (NMF) and singular value decomposition, with their objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Solver = Literal["hals", "multiplicative"]


@dataclass(frozen=True)
class Factors:
    """V (m, n) ~ W H: `left` W (m, k), `right` H (k, n), and |V - W H|^2 at the start and after every step."""

    left: Tensor
    right: Tensor
    objective: tuple[float, ...]


def nmf(matrix: Tensor, count: int, *, steps: int, solver: Solver = "hals") -> Factors:
    """Non-negative W, H that lower |V - W H|^2, V (m, n) >= 0, in a fixed number of steps from a fixed start.

    The start is the non-negative part of the singular vectors (NNDSVDa, Boutsidis & Gallopoulos 2008), so that no
    random numbers are drawn. "hals" solves for one row of W or H after the other, each exactly (Cichocki & Phan
    2009); "multiplicative" is Lee & Seung 2001. Neither ever raises the objective.

    >>> v = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> found = nmf(v, 1, steps=5)
    >>> torch.allclose(found.left @ found.right, v, atol=1e-5)
    True
    """
    left, right = _start(matrix, count)
    update = _hals if solver == "hals" else _multiplicative
    objective = [_error(matrix, left, right)]
    for _ in range(steps):
        right = update(right, left.T @ matrix, left.T @ left)
        left = update(left.T, right @ matrix.T, right @ right.T).T
        objective.append(_error(matrix, left, right))
    return Factors(left, right, tuple(torch.stack(objective).tolist()))


def svd(matrix: Tensor, count: int) -> Factors:
    """The best W H of rank k, W = U diag(s), rows of H orthonormal; each map is given the sign of a positive sum."""
    u, s, right = torch.linalg.svd(matrix, full_matrices=False)
    left, right = u[:, :count] * s[:count], right[:count]
    sign = torch.where(left.sum(0) < 0, -1.0, 1.0).to(left)
    return Factors(left * sign, right * sign[:, None], (float(s[count:].square().sum()),))


def _hals(rows: Tensor, product: Tensor, gram: Tensor) -> Tensor:
    """Each row h_i of (k, n) at its minimum with the others fixed: max(0, h_i + (p_i - g_i H) / g_ii)."""
    rows = rows.clone()
    # where g_ii is 0 so are p_i and the rest of g_i: the row stays as it is
    own = gram.diagonal().clamp_min(torch.finfo(rows.dtype).tiny)
    for i in range(len(rows)):
        rows[i] = (rows[i] + (product[i] - gram[i] @ rows) / own[i]).clamp_min(0)
    return rows


def _multiplicative(rows: Tensor, product: Tensor, gram: Tensor) -> Tensor:
    """Lee & Seung 2001, eq. 4: H times (W'V) / (W'W H)."""
    return rows * product / (gram @ rows).clamp_min(torch.finfo(rows.dtype).tiny)


def _error(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return (matrix - left @ right).square().sum()


def _start(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """NNDSVDa: of each singular pair the sign whose non-negative parts are longer; zeros become the mean of V / 100."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    left, right = u.new_zeros(len(u), count), v.new_zeros(count, v.shape[1])
    for i in range(count):
        parts = [((x * u[:, i]).clamp_min(0), (x * v[i]).clamp_min(0)) for x in (1, -1)]
        a, b = max(parts, key=lambda p: float(p[0].norm() * p[1].norm()))
        # W_i = sqrt(s |a| |b|) a / |a| and the like for H: the two share the size evenly
        size = (a.norm() * b.norm()).clamp_min(torch.finfo(u.dtype).tiny)
        left[:, i] = a * (s[i] / size).sqrt() * b.norm()
        right[i] = b * (s[i] / size).sqrt() * a.norm()
    small = matrix.mean() / 100
    return left.clamp_min(small), right.clamp_min(small)
