"""pgd against closed forms on linear networks, a loop written by hand, and its own bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cutaway
from cutaway.methods.adversarial.balls import Ball

from .nets import attack, curved, linear, middle, rows


def test_on_a_linear_target_it_ends_where_the_ball_ends() -> None:
    model, x = linear(), middle()
    w = rows(model)[0][1] - rows(model)[0][2]
    target = cutaway.logit(1) - cutaway.logit(2)
    (found,) = attack(model, "pgd", x, target, norm="l2", radius=0.3, random_start=False)
    right = x.flatten() - 0.3 * w / w.norm()
    np.testing.assert_allclose(found.values.ravel(), right, atol=1e-12)
    (boxed,) = attack(model, "pgd", x, target)  # from a random start; every pixel reaches its wall
    np.testing.assert_allclose(boxed.values.ravel(), x.flatten() - 8 / 255 * w.sign(), atol=1e-15)


def by_hand(
    model: cutaway.VisionModel, x: Tensor, k: Tensor, norm: str, bound: float, steps: int, sign: int
) -> Tensor:
    """The loop as the paper states it, each picture alone."""
    pages = []
    for picture, label in zip(x, k, strict=True):
        u = picture.clone()
        for _ in range(steps):
            u = u.detach().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(model(u[None]), label[None]), u)
            move = g.sign() if norm == "linf" else g / g.norm()
            d = u.detach() + sign * 2.5 * bound / steps * move - picture
            d = d.clamp(-bound, bound) if norm == "linf" else d * min(1.0, bound / float(d.norm()))
            u = (picture + d).clamp(0, 1)
        pages.append(u)
    return torch.stack(pages)


@pytest.mark.parametrize(("norm", "bound"), [("linf", 8 / 255), ("l2", 0.4)])
@pytest.mark.parametrize("toward", [None, "elk"])
def test_it_is_the_loop_of_the_paper(norm: str, bound: float, toward: str | None) -> None:
    model = curved()
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    with torch.no_grad():
        x = x[model(x).argmax(1) != 4][:3]
        k = model(x).argmax(1)
    options = {"epsilon": bound} if norm == "linf" else {"radius": bound}
    found = attack(model, "pgd", x, None, norm=norm, steps=7, random_start=False, toward=toward, **options)
    wanted = k if toward is None else torch.full_like(k, 4)
    right = by_hand(model, x, wanted, norm, bound, 7, 1 if toward is None else -1)
    np.testing.assert_allclose(np.stack([f.values for f in found]), right, atol=1e-12)


def test_a_random_start_fills_the_ball_and_is_the_seeds() -> None:
    x = torch.full((2, 3, 20, 20), 0.5, dtype=torch.float64)
    torch.manual_seed(0)
    d = Ball("linf", 0.1).random(x) - x
    assert torch.equal(d[0], d[1])
    assert 0.09 < float(d.max()) <= 0.1
    assert float(d.flatten().std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)
    lengths = torch.stack(
        [(Ball("l2", 0.5).random(x[:, :, :1, :1]) - x[:, :, :1, :1])[0].norm() for _ in range(4000)]
    )
    assert float(lengths.max()) <= 0.5
    assert float((lengths < 0.25).double().mean()) == pytest.approx(
        0.25**1.5, abs=0.02
    )  # (1/2)^3 of the volume


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_hold_before_and_after_rounding(norm: str) -> None:
    model = curved()
    x = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(1)).double() / 255
    for i, found in enumerate(attack(model, "pgd", x, norm=norm, epsilon=0.03, radius=0.3, step=0.05)):
        d = found.values - x[i].numpy()
        levels = np.rint(255 * found.panels["eight_bit"].values) - np.rint(255 * x[i].numpy())
        if norm == "linf":
            assert np.abs(d).max() <= 0.03 + 1e-15
            assert np.abs(levels).max() <= 7  # 7.65 levels are allowed
        else:
            assert np.linalg.norm(d) <= 0.3 + 1e-12
            assert np.linalg.norm(levels) <= 0.3 * 255 + 1e-9
        assert found.values.min() >= 0
        assert found.values.max() <= 1


def test_restarts_keep_the_first_success_else_the_largest_loss() -> None:
    model = curved()
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        k = model(x).argmax(1)

    def losses(found: list) -> list[float]:
        u = torch.stack([torch.from_numpy(f.values) for f in found])
        with torch.no_grad():
            return F.cross_entropy(model(u), k, reduction="none").tolist()

    options = {"epsilon": 1 / 255, "step": 1 / 2550, "steps": 2}
    one, many = attack(model, "pgd", x, **options), attack(model, "pgd", x, restarts=6, **options)
    for a, b, fooled in zip(
        losses(one), losses(many), [f.evidence["fooled before rounding"] for f in one], strict=True
    ):
        assert b >= a or fooled
    assert losses(one) != losses(many)
    assert many[0].evidence["backward passes"] == 12


def test_a_later_start_does_not_replace_a_success() -> None:
    model = curved()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    one = attack(model, "pgd", x, epsilon=16 / 255)
    assert all(f.evidence["fooled before rounding"] for f in one)
    for a, b in zip(one, attack(model, "pgd", x, epsilon=16 / 255, restarts=3), strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_towards_a_class_only_that_class_is_success() -> None:
    model = curved()
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    with torch.no_grad():
        x = x[model(x).argmax(1) != 4]
    outcomes = set()
    for epsilon in (1 / 255, 6 / 255, 0.3):
        for found in attack(model, "pgd", x, None, epsilon=epsilon, toward="elk"):
            there = found.evidence["as 8-bit"].startswith("4 'elk'")
            assert found.evidence["fooled"] is there
            outcomes.add(there)
    assert outcomes == {True, False}


def test_a_length_below_one_level_is_said_to_change_nothing() -> None:
    (found,) = attack(curved(), "pgd", middle(1, 8, 8), norm="l2", radius=0.9 / 255)
    assert found.evidence["levels"] == 0
    assert any("radius is 0.9 of one 8-bit level" in n for n in found.notes)
    (found,) = attack(curved(), "pgd", middle(1, 8, 8), norm="l2", radius=0.5)
    assert not any("level" in n for n in found.notes)


def test_the_length_allowed_grows_with_the_root_of_the_numbers() -> None:
    (found,) = attack(curved(), "pgd", middle(1, 8, 8), norm="l2", steps=1)
    assert found.evidence["bound"] == pytest.approx(3 * 8 / 224)
