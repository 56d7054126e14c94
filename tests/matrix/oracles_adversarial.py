"""Methods that change the picture until the answer changes, a step or two against autograd written out."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from cutaway.core.image import Photo, read
from cutaway.core.method import DATA

from .case import Case, agree, close, oracle
from .networks import picture

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
    """Two iterations of the same solver on c |r|^2 - log(1 - p), written out; the picture itself where they fail."""
    u, target, c = case.plain.u, case.plain.target, 1e-3
    with mock.patch("cutaway.methods.adversarial.lbfgs_attack.FALLS", 1):  # of 12 weights that it may try
        found = case.run("lbfgs_attack", c=c, searches=0, steps=2)
    start = u.numpy().ravel()

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        moved = torch.from_numpy(v).view_as(u).requires_grad_()
        scores = case.plain.scores(moved)[0]
        ahead = scores[target] - scores[torch.arange(len(scores)) != target].logsumexp(0)
        value = torch.logaddexp(ahead.new_zeros(()), ahead)  # p may round to 1 on the way
        (g,) = torch.autograd.grad(value, moved)
        r = v - start
        return c * (r @ r) + float(value.detach()), 2 * c * r + g.numpy().ravel()

    limits = [(0, 1)] * len(start)
    right = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 2}).x
    fooled = int(answer(case, torch.from_numpy(right).view_as(u)).argmax()) != target
    agree(found.values.ravel(), right if fooled else start, 1e-6)
    assert found.evidence["fooled before rounding"] == fooled


class Two:
    """Two pictures without labels."""

    labels = None
    names = ("0", "1")

    def __init__(self, size: int) -> None:
        self.pixels = torch.cat([picture(size, seed) for seed in (1, 2)])

    def __len__(self) -> int:
        return 2

    def photo(self, number: int) -> Photo:
        return read(self.pixels[number])

    def fingerprint(self, numbers: Any = None) -> str:
        return "two"


def slopes(case: Case, u: Tensor, classes: Tensor) -> Tensor:
    """d cross-entropy / du of each picture's class."""
    u = u.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(case.plain.scores(u), classes, reduction="sum"), u)
    return g


def answers(case: Case, u: Tensor) -> Tensor:
    with torch.no_grad():
        return case.plain.scores(u).argmax(1)


def rounded(u: Tensor, moved: Tensor, most: int) -> Tensor:
    """Whole levels within `most` of the rounded original."""
    first = (255 * u).round()
    return (first + (255 * (moved - u)).round().clamp(-most, most)).clamp(0, 255) / 255


@oracle("universal_perturbation")
def _(case: Case) -> None:
    """One step of the gradient of two pictures together, a tenth of the bound."""
    two = Two(case.network.size)
    u, bound = two.pixels, 10 / 255
    found = case.run("universal_perturbation", given={DATA: two}, epochs=1, batch=2, held_out=0.0)
    before = answers(case, u)
    right = bound / 10 * slopes(case, u, before).sum(0).sign()
    agree(found.values[0], right)
    after = answers(case, rounded(u, (u + right).clamp(0, 1), 10))
    close(found.evidence["fooled, learned from"], float((after != before).double().mean()))


@oracle("attack_strength")
def _(case: Case) -> None:
    """Within 16 levels: one step of the bound, and two of 1.25 of it."""
    two, most = Two(case.network.size), 16
    u, epsilon = two.pixels, most / 255
    found = case.run("attack_strength", given={DATA: two}, levels=str(most), steps=2)
    before = answers(case, u)
    right = []
    for steps, size in ((1, epsilon), (2, 1.25 * epsilon)):
        moved = u
        for _ in range(steps):
            moved = moved + size * slopes(case, moved, before).sign()
            moved = (u + (moved - u).clamp(-epsilon, epsilon)).clamp(0, 1)
        right.append([float((answers(case, rounded(u, moved, most)) != before).double().mean())])
    np.testing.assert_allclose(found.values[:, 1:], right, atol=1e-12)


@oracle("adversarial_patch")
def _(case: Case) -> None:
    """Two steps of torch's Adam under a mask, conditions still; outside it the picture to the bit."""
    u, weight = case.plain.u, 0.5
    still = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "light": 0.0, "trials": 1, "samples": 1}
    own = {"row": 0.5, "column": 0.5, "share": 0.25, "steps": 2, "rate": 0.02, "print_weight": 0.0}
    found = case.run("adversarial_patch", size_weight=weight, **own, **still)
    edge = case.network.size // 4
    where = torch.zeros_like(u)
    where[..., edge:-edge, edge:-edge] = 1
    d = torch.zeros_like(u).requires_grad_()
    adam = torch.optim.Adam([d], lr=0.02)
    for _ in range(2):
        cost = weight * torch.linalg.vector_norm(where * d)
        loss = F.cross_entropy(case.plain.scores(u + where * d), torch.tensor([case.plain.target]))
        (d.grad,) = torch.autograd.grad(cost - loss, d)
        d.grad *= where
        adam.step()
        with torch.no_grad():
            d.copy_((u + d).clamp(0, 1) - u)
    agree(found.values, (u + where * d)[0], 1e-7)
    outside = (where == 0)[0].numpy()
    assert np.array_equal(found.values[outside], u[0].numpy()[outside])
