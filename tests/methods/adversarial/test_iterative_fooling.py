"""iterative_fooling: into every class, by the least number of steps a straight line needs, from noise and grey too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cutaway.core.errors import MethodRefusedError

from .nets import attack, curved, linear, middle, rows


def test_on_a_linear_network_it_climbs_straight_and_stops_at_once() -> None:
    model, x = linear(classes=3), middle()
    w, b = rows(model)
    step = 0.004
    f = w @ x.flatten() + b
    k = int(f.argmin())
    (found,) = attack(model, "iterative_fooling", x, step=step)  # toward the least likely
    rms = float(w[k].norm()) / 60**0.5
    gains = [(float(step * w[k] @ (w[k] - w[j]) / rms), float(f[j] - f[k])) for j in range(3) if j != k]
    least = max(math.ceil(gap / gain) for gain, gap in gains)
    steps = found.evidence["steps"]
    assert least <= steps <= least + 3  # the rounded picture may need a little more
    np.testing.assert_allclose(found.values.ravel(), x.flatten() + steps * step * w[k] / rms, atol=1e-12)
    assert found.evidence["fooled"] is True
    assert found.evidence["wanted"] == f"class {k}"


@pytest.mark.parametrize("start", ["picture", "noise", "grey"])
@pytest.mark.parametrize("climbs", ["score", "log_probability"])
def test_any_start_becomes_any_class(start: str, climbs: str) -> None:
    model, x = linear(classes=5, factor=8.0), middle()
    noise = torch.rand(
        1, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )  # the run's seed
    begin = {"picture": x, "noise": (255 * noise).round() / 255, "grey": torch.full_like(x, 128 / 255)}[start]
    with torch.no_grad():
        seen = int(model(begin)[0].argmax())
    for k in range(5):
        options = {"toward": str(k), "start": start, "step": 0.01, "confidence": 0.6, "climbs": climbs}
        if k == seen:
            with pytest.raises(MethodRefusedError, match="already"):
                attack(model, "iterative_fooling", x, None, **options)
            continue
        (found,) = attack(model, "iterative_fooling", x, None, **options)
        np.testing.assert_allclose(found.panels["original"].values, begin[0], atol=1e-15)
        with torch.no_grad():
            whole = torch.from_numpy(found.panels["eight_bit"].values)[None]
            probabilities = model(whole)[0].softmax(0)
        assert int(probabilities.argmax()) == k
        assert float(probabilities.max()) >= 0.6
        assert found.evidence["fooled"] is True


def test_what_is_not_reached_is_said_by_the_numbers() -> None:
    (found,) = attack(curved(), "iterative_fooling", middle(1, 8, 8), step=1e-4, steps=2)
    assert found.evidence["fooled"] is False
    assert found.evidence["steps"] == 2


def test_a_score_that_is_off_is_refused_and_its_log_probability_climbed() -> None:
    model, x = linear(classes=3), middle()
    fc = model.network.fc
    with torch.no_grad():
        fc.weight[1], fc.bias[1] = 0, -5  # as behind a last ReLU that is off
    with pytest.raises(MethodRefusedError, match="gradient is zero") as caught:
        attack(model, "iterative_fooling", x, None, toward="1")
    assert caught.value.hint == "climbs='log_probability'"
    (found,) = attack(model, "iterative_fooling", x, None, toward="1", climbs="log_probability", steps=3)
    assert found.evidence["linf"] > 0


def test_the_class_that_is_left_is_never_the_one_wanted() -> None:
    model, x = curved(), middle(1, 8, 8)
    with torch.no_grad():
        order = model(x)[0].argsort().tolist()
    (found,) = attack(model, "iterative_fooling", x, order[0], step=0.01)
    assert found.evidence["wanted"] == f"{order[1]} {model.classes[order[1]]!r}"
    flat = linear(classes=3)
    with torch.no_grad():
        flat.network.fc.weight.zero_()
        flat.network.fc.bias.zero_()
    with pytest.raises(MethodRefusedError, match="gradient is zero everywhere"):
        attack(flat, "iterative_fooling", middle())


def test_of_two_classes_the_wrong_one_is_no_success() -> None:
    model, x = linear(classes=2), middle()
    with torch.no_grad():
        k = int(model(x)[0].argmin())
    (found,) = attack(model, "iterative_fooling", x, k)
    assert found.evidence["already wrong"] is True
    assert found.evidence["fooled"] is None
    assert found.evidence["steps"] == 0
