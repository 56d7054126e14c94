"""Methods that change the picture until the answer changes, a step or two against autograd written out."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from .case import Case, agree, close, oracle

EPSILON = 2 / 255


def slope(case: Case, u: Tensor, wanted: int | None = None) -> Tensor:
    """d cross-entropy / du of the target's class, or of a wanted one."""
    u = u.detach().clone().requires_grad_()
    k = case.plain.target if wanted is None else wanted
    (g,) = torch.autograd.grad(F.cross_entropy(case.plain.scores(u), torch.tensor([k])), u)
    return g


def answer(case: Case, u: Tensor) -> Tensor:
    with torch.no_grad():
        return case.plain.scores(u)[0]


@oracle("fgsm")
def _(case: Case) -> None:
    u = case.plain.u
    found = case.run("fgsm", epsilon=EPSILON)
    right = (u + EPSILON * slope(case, u).sign()).clamp(0, 1)
    agree(found.values, right[0])
    close(found.evidence["confidence after"], float(answer(case, right).softmax(0).max()))


@oracle("pgd")
def _(case: Case) -> None:
    """Two steps, the second of which is cut by the ball."""
    u = case.plain.u
    found = case.run("pgd", epsilon=EPSILON, steps=2, random_start=False)
    moved = u
    for _ in range(2):
        moved = moved + 1.25 * EPSILON * slope(case, moved).sign()
        moved = (u + (moved - u).clamp(-EPSILON, EPSILON)).clamp(0, 1)
    agree(found.values, moved[0])


@oracle("deepfool")
def _(case: Case) -> None:
    """One linearisation, the two most probable classes."""
    u, scores = case.plain.u, answer(case, case.plain.u)
    first, second = scores.topk(2).indices.tolist()
    v = u.clone().requires_grad_()
    f = case.plain.scores(v)[0]
    (w,) = torch.autograd.grad(f[second] - f[first], v)
    r = float(scores[first] - scores[second]) * w / w.norm() ** 2
    found = case.run("deepfool", classes=2, steps=1)
    agree(found.values, (u + 1.02 * r).clamp(0, 1)[0])


@oracle("iterative_fooling")
def _(case: Case) -> None:
    """One step up the score of the least likely class."""
    u = case.plain.u
    least = int(answer(case, u).argmin())
    v = u.clone().requires_grad_()
    (g,) = torch.autograd.grad(case.plain.scores(v)[0, least], v)
    found = case.run("iterative_fooling", steps=1, step=0.01)
    agree(found.values, (u + 0.01 * g / (g.norm() / math.sqrt(g.numel()))).clamp(0, 1)[0])


@oracle("lbfgs_attack")
def _(case: Case) -> None:
    """Four iterations of the same solver on c |r|^2 - log(1 - p), written out, for the weight that it ends with."""
    u, target = case.plain.u, case.plain.target
    found = case.run("lbfgs_attack", c=1e-3, searches=0, steps=4)
    start = u.numpy().ravel()

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        moved = torch.from_numpy(v).view_as(u).requires_grad_()
        value = -torch.log1p(-case.plain.scores(moved).softmax(1)[0, target])
        (g,) = torch.autograd.grad(value, moved)
        c, r = found.evidence["c"], v - start
        return c * (r @ r) + float(value.detach()), 2 * c * r + g.numpy().ravel()

    limits = [(0, 1)] * len(start)
    right = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 4}).x
    agree(found.values.ravel(), right, 1e-6)
    after = torch.from_numpy(right).view_as(u)
    assert found.evidence["fooled before rounding"] == (int(answer(case, after).argmax()) != target)
