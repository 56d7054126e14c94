"""deepfool against the distance to a hyperplane, to the nearest of several, and the paper's loop by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import cutaway
from cutaway.core.errors import MethodRefusedError

from .nets import attack, curved, linear, middle, rows


def test_a_linear_classifier_takes_one_step_to_its_nearest_boundary() -> None:
    model, x = linear(classes=6), middle(4)
    w, b = rows(model)
    for i, found in enumerate(attack(model, "deepfool", x, overshoot=0.02)):
        f = w @ x[i].flatten() + b
        k = int(f.argmax())
        others = [j for j in range(6) if j != k]
        distances = [float((f[k] - f[j]) / (w[k] - w[j]).norm()) for j in others]
        j = others[int(np.argmin(distances))]
        r = (f[k] - f[j]) * (w[j] - w[k]) / (w[j] - w[k]).norm() ** 2
        np.testing.assert_allclose(found.values.ravel() - x[i].numpy().ravel(), 1.02 * r, atol=1e-12)
        assert found.evidence["l2"] == pytest.approx(1.02 * min(distances), rel=1e-9)
        assert found.evidence["steps"] == 1
        assert found.evidence["fooled before rounding"] is True
        assert found.evidence["rho"] == pytest.approx(1.02 * min(distances) / float(x[i].norm()), rel=1e-9)


def test_a_target_that_is_no_class_is_a_binary_classifier() -> None:
    model, x = linear(), middle()
    w, b = rows(model)
    way = 1 if float((w[1] - w[2]) @ x.flatten() + b[1] - b[2]) > 0 else -1
    target = way * (cutaway.logit(1) - cutaway.logit(2))
    (found,) = attack(model, "deepfool", x, target, overshoot=0.05)
    f, n = float(way * ((w[1] - w[2]) @ x.flatten() + b[1] - b[2])), way * (w[1] - w[2])
    np.testing.assert_allclose(found.values.ravel(), x.flatten() - 1.05 * f * n / n.norm() ** 2, atol=1e-12)
    assert found.evidence["score after"] == pytest.approx(-0.05 * f)


def by_hand(model: cutaway.VisionModel, x: Tensor, overshoot: float) -> tuple[Tensor, int]:
    """Algorithm 2 for one picture, one class after the other."""
    with torch.no_grad():
        k0 = int(model(x[None]).argmax())
    total, u, steps = torch.zeros_like(x), x, 0
    while True:
        u = u.detach().requires_grad_()
        f = model(u[None])[0]
        if int(f.argmax()) != k0 or steps == 50:
            return u.detach(), steps
        best, r = np.inf, None
        for k in range(len(f)):
            if k == k0:
                continue
            (w,) = torch.autograd.grad(f[k] - f[k0], u, retain_graph=True)
            gap = float((f[k] - f[k0]).detach().abs())
            if gap / float(w.norm()) < best:
                best, r = gap / float(w.norm()), gap * w / w.norm() ** 2
        assert r is not None
        total, steps = total + r, steps + 1
        u = (x + (1 + overshoot) * total).clamp(0, 1)


def test_on_a_curved_network_it_is_the_loop_of_the_paper() -> None:
    model = curved()
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    counts = []
    for picture, found in zip(x, attack(model, "deepfool", x), strict=True):
        right, steps = by_hand(model, picture, 0.02)
        np.testing.assert_allclose(found.values, right, atol=1e-12)
        assert found.evidence["steps"] == steps
        counts.append(steps)
    assert max(counts) > 1
    assert len(set(counts)) > 1  # pictures leave the batch one after the other


def test_what_rounding_undoes_is_said_with_the_factor_that_survives() -> None:
    model = linear(classes=2)
    w, b = rows(model)
    x = middle()
    f = (w @ x.flatten() + b).double()
    k = int(f.argmax())
    n = w[k] - w[1 - k]
    model.network.fc.bias.data[k] -= (f[k] - f[1 - k]) - 0.2 / 255 * n.norm()  # a fifth of a level away
    (found,) = attack(model, "deepfool", x, k)
    factor = found.evidence["times for 8 bits"]
    power = math.log(factor, 1.25)
    assert power == pytest.approx(round(power))
    assert factor > 1
    assert found.evidence["fooled"] is True
    with torch.no_grad():
        d = torch.from_numpy(found.values)[None] - x
        rounded = [
            int(model((255 * (x + t * d)).round() / 255).argmax()) != k for t in (1, factor / 1.25, factor)
        ]
    assert rounded == [False, False, True]
    assert any("rounding to 8 bits undoes a change this small" in n for n in found.notes)


def test_scores_that_do_not_move_are_refused() -> None:
    model, x = linear(), middle()
    model.network.fc.weight.data.zero_()
    with pytest.raises(MethodRefusedError, match="gradient is zero"):
        attack(model, "deepfool", x)


def test_a_picture_wrong_from_the_start_stays_as_it_is() -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        wrong = int(model(x)[0].argmin())
    (found,) = attack(model, "deepfool", x, wrong)
    np.testing.assert_array_equal(found.values, x[0])
    assert found.evidence["fooled"] is None
