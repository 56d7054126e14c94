"""lbfgs_attack: the nearest adversarial of linear networks, with and without walls, and by a solver of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import cutaway

from .nets import attack, curved, linear, middle, rows


@pytest.mark.parametrize("toward", [None, "other"])
def test_on_a_linear_network_it_comes_near_the_distance_to_the_boundary(toward: str | None) -> None:
    model, x = linear(classes=2), middle()
    w, b = rows(model)
    f = w @ x.flatten() + b
    k = int(f.argmax())
    n = w[1 - k] - w[k]
    distance = float((f[k] - f[1 - k]) / n.norm())
    options = {} if toward is None else {"toward": str(1 - k)}
    (found,) = attack(model, "lbfgs_attack", x, k, searches=14, **options)
    assert found.evidence["fooled before rounding"] is True
    assert distance <= found.evidence["l2"] <= 1.01 * distance
    d = found.values.ravel() - x.numpy().ravel()
    assert d @ n.numpy() / np.linalg.norm(d) / float(n.norm()) == pytest.approx(1, abs=1e-4)  # along w


def test_with_walls_it_is_the_nearest_point_of_the_box_beyond_the_boundary() -> None:
    model, x = linear(classes=2, seed=2), middle()
    x[0, 0], x[0, 1] = 1.0, 0.0
    w, b = rows(model)
    f = w @ x.flatten() + b
    k = int(f.argmax())
    n, gap = (w[k] - w[1 - k]).numpy(), float(f[k] - f[1 - k])
    u = x.numpy().ravel()
    right = minimize(
        lambda r: r @ r, np.zeros(60), jac=lambda r: 2 * r, method="SLSQP", bounds=list(zip(-u, 1 - u, strict=True)),
        constraints={"type": "eq", "fun": lambda r: gap + n @ r, "jac": lambda r: n}, options={"ftol": 1e-14},
    )  # fmt: skip
    assert right.success
    assert np.isclose(right.x, -gap * n / (n @ n), atol=1e-6).mean() < 1  # the walls matter
    (found,) = attack(model, "lbfgs_attack", x, k, searches=14, steps=100)
    size = float(np.linalg.norm(right.x))
    assert size * (1 - 1e-6) <= found.evidence["l2"] <= 1.002 * size
    after = found.values.ravel()
    inside = (after > 0) & (after < 1)
    f = w @ torch.from_numpy(after) + b
    pull = float(torch.sigmoid(f[k] - f[1 - k])) * -n  # 2 c r where no wall holds
    np.testing.assert_allclose(
        2 * found.evidence["c"] * (after - u)[inside], pull[inside], rtol=0.01, atol=1e-4
    )


def test_on_a_curved_network_it_is_about_as_near_as_deepfool_and_alone_as_in_a_batch() -> None:
    model = curved()
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = attack(model, "lbfgs_attack", x, searches=8)
    for i, (mine, near) in enumerate(zip(found, attack(model, "deepfool", x), strict=True)):
        assert mine.evidence["fooled before rounding"] is True
        assert mine.evidence["l2"] <= 1.25 * near.evidence["l2"]
        np.testing.assert_allclose(
            mine.values, attack(model, "lbfgs_attack", x[i : i + 1], searches=8)[0].values, atol=1e-12
        )


def test_a_target_that_is_no_class_is_brought_to_zero() -> None:
    model, x = linear(), middle()
    w, b = rows(model)
    f = float((w[1] - w[2]) @ x.flatten() + b[1] - b[2])
    target = (1 if f > 0 else -1) * (cutaway.logit(1) - cutaway.logit(2))
    (found,) = attack(model, "lbfgs_attack", x, target, searches=14)
    assert found.evidence["score after"] <= 0
    assert found.evidence["l2"] <= 1.02 * abs(f) / float((w[1] - w[2]).norm())


def test_its_picture_is_where_length_and_loss_hold_each_other() -> None:
    """Of two classes on a linear network: 2 c r = sigmoid(gap) (w_1 - w_0), gap the margin that is left."""
    model, x = linear(classes=2), middle()
    w, b = rows(model)
    k = int((w @ x.flatten() + b).argmax())
    n = w[1 - k] - w[k]
    (found,) = attack(model, "lbfgs_attack", x, k, searches=6, steps=100)
    r = torch.from_numpy(found.values).flatten() - x.flatten()
    f = w @ (x.flatten() + r) + b
    np.testing.assert_allclose(
        2 * found.evidence["c"] * r, torch.sigmoid(f[k] - f[1 - k]) * n, atol=2e-4 * float(n.norm())
    )


def test_weights_are_halved_on_a_logarithmic_scale() -> None:
    model, x = curved(), middle(3, 8, 8)
    found = attack(model, "lbfgs_attack", x, searches=2)
    quarters = [4 * math.log10(f.evidence["c"]) for f in found]
    assert quarters == pytest.approx([round(q) for q in quarters])
    assert any(round(q) % 4 for q in quarters)
