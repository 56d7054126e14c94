"""Integrated gradients: completeness, closed forms, ten thousand midpoints, Captum with the same nodes."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor, nn

import cutaway
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.methods.gradient.gates import Gates

from .nets import GapNet, Plain, picture, wrap


class Smooth(nn.Module):
    """A network that bends everywhere and kinks nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.tanh(3 * F.silu(self.conv(x))).mean((2, 3)))
        return out


class Bump(nn.Module):
    """A ReLU bump of the mean grey that is up only between 0.3 and 0.4: both ends have the slopes of a flat line."""

    def forward(self, x: Tensor) -> Tensor:
        t = x.mean((1, 2, 3)).unsqueeze(1)
        return t + F.relu(0.05 - (F.relu(t - 0.35) + F.relu(0.35 - t)))


def midpoints(model: cutaway.VisionModel, x: Tensor, start: Tensor, k: int, nodes: int) -> np.ndarray:
    """The integral as a plain sum, (3, H, W)."""
    total = torch.zeros_like(x)
    for part in ((torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes).split(1000):
        u = (start + part.view(-1, 1, 1, 1) * (x - start)).requires_grad_()
        total += torch.autograd.grad(model(u)[:, k].sum(), u)[0].sum(0) / nodes
    return np.asarray(((x - start) * total)[0])


def sizes(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 5, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(5 * 1 * 1, 3),
    ).double()


@pytest.mark.parametrize("rule", ["auto", "exact", "adaptive", "gauss"])
@pytest.mark.parametrize(("baseline", "level"), [("black", 0.0), ("white", 1.0), ("grey", 0.5)])
def test_linear_model_gives_weight_times_difference(rule: str, baseline: str, level: float) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 3)).double()
    x = picture(3, 4, 5)
    result = wrap(net).explain(x, "integrated_gradients", 2, rule=rule, baseline=baseline, reduce="rgb")
    want = net[1].weight[2].detach().view(3, 4, 5) * (x - level)
    np.testing.assert_allclose(result.values, want, rtol=1e-10, atol=1e-14)


def test_without_biases_it_is_gradient_times_input() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 2, bias=False)
    ).double()
    model, x = wrap(net), picture(1, 3, 8, 8)
    want = model.explain(x, "gradient_times_input", 1).values
    for rule, steps in (("gauss", 3), ("exact", 60)):
        got = model.explain(x, "integrated_gradients", 1, rule=rule, steps=steps)
        np.testing.assert_allclose(got.values, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
def test_small_relu_networks_are_exact(seed: int, baseline: str) -> None:
    model = wrap(sizes(seed))
    x = picture(1, 3, 8, 8)
    result = model.explain(x, "integrated_gradients", 1, baseline=baseline, reduce="rgb", steps=1000)
    assert result.evidence["rule"] == "exact"
    assert result.evidence["completeness residual"] <= 1e-9
    assert not any("may still hold" in note for note in result.notes)
    with torch.no_grad():
        start = {
            "black": torch.zeros_like(x),
            "white": torch.ones_like(x),
            "mean": x.mean((2, 3), keepdim=True).expand_as(x),
        }.get(baseline)
        rise = result.evidence["score"] - result.evidence["baseline score"]
        assert abs(result.values.sum() - rise) <= 1e-9
        if start is None:
            return
        assert result.evidence["baseline score"] == pytest.approx(float(model(start)[0, 1]), abs=1e-12)
    want = midpoints(model, x, start, 1, 10_000)
    assert result.evidence["evaluations"] < 1000
    # each kink sits inside one of the 10,000 intervals and leaves at most half of it to the wrong side
    np.testing.assert_allclose(result.values, want, rtol=0, atol=2e-3 * np.abs(want).max())
    closer = midpoints(model, x, start, 1, 80_000) if seed == 0 and baseline == "black" else None
    if closer is not None:
        assert np.abs(result.values - closer).max() < 0.3 * np.abs(result.values - want).max()


def test_a_residual_network_with_batch_norm_is_exact() -> None:
    net = GapNet().double().eval()
    model, x = wrap(net), picture(1, 3, 6, 6)
    result = model.explain(x, "integrated_gradients", 3, rule="exact", steps=3000)
    assert result.evidence["completeness residual"] <= 1e-9
    want = midpoints(model, x, torch.zeros_like(x), 3, 10_000).sum(0)
    np.testing.assert_allclose(result.values, want, rtol=0, atol=2e-3 * np.abs(want).max())


def test_gates_tell_pieces_apart_that_gradients_cannot() -> None:
    net, x = Bump().double(), torch.rand(1, 3, 4, 4, dtype=torch.float64)
    gates, states = Gates(), []
    for level in (0.1, 0.2, 0.32, 0.5, 0.6):
        with gates.watch(1):
            net(torch.full_like(x, level).requires_grad_())
        states.append(int(gates.fingerprints))
    assert states[0] == states[1]
    assert states[3] == states[4]
    assert len(set(states)) == 3


def test_smooth_networks_converge_fast_under_gauss() -> None:
    model, x = wrap(Smooth()), picture(1, 3, 8, 8)
    auto = model.explain(x, "integrated_gradients", 2, reduce="rgb")
    assert auto.evidence["rule"] == "gauss"
    assert any("no ReLU" in note for note in auto.notes)
    assert auto.evidence["relative residual"] < 1e-9
    want = midpoints(model, x, torch.zeros_like(x), 2, 10_000)
    np.testing.assert_allclose(auto.values, want, rtol=0, atol=1e-7 * np.abs(want).max())


def test_equals_captum_with_the_same_nodes() -> None:
    net, x = Plain(3, 2).double(), picture(1, 3, 15, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, delta = IntegratedGradients(net).attribute(
            x, target=1, n_steps=37, method="gausslegendre", return_convergence_delta=True
        )
    got = wrap(net).explain(x, "integrated_gradients", 1, rule="gauss", steps=37, reduce="rgb")
    # Captum keeps nodes and weights in single precision
    np.testing.assert_allclose(got.values, want[0], rtol=0, atol=1e-6 * float(want.abs().max()))
    np.testing.assert_allclose(got.evidence["completeness residual"], abs(float(delta)), rtol=1e-3)


def test_adaptive_stops_at_the_tolerance_or_says_that_it_did_not() -> None:
    model, x = wrap(Plain()), picture(1, 3, 24, 24)
    loose = model.explain(x, "integrated_gradients", 1, rule="adaptive", tolerance=1e-2)
    tight = model.explain(x, "integrated_gradients", 1, rule="adaptive", tolerance=1e-4, steps=2000)
    for result, tolerance in ((loose, 1e-2), (tight, 1e-4)):
        assert result.evidence["relative residual"] <= tolerance
        assert not any("residual" in note for note in result.notes)
    assert 5 <= loose.evidence["evaluations"] < tight.evidence["evaluations"] < 2000
    want = midpoints(model, x, torch.zeros_like(x), 1, 10_000).sum(0)
    error = [np.abs(r.values - want).max() for r in (loose, tight)]
    assert error[1] < error[0] / 5
    short = model.explain(x, "integrated_gradients", 1, rule="adaptive", tolerance=1e-9, steps=12)
    assert short.evidence["evaluations"] == 12
    assert any("above the tolerance" in note for note in short.notes)
    rise = short.evidence["score"] - short.evidence["baseline score"]
    residual = abs(short.values.sum() - rise)
    assert short.evidence["completeness residual"] == pytest.approx(residual, abs=1e-12)
    assert residual > 0


def test_exact_without_enough_steps_says_so() -> None:
    result = wrap(Plain()).explain(
        picture(1, 3, 24, 24), "integrated_gradients", 1, rule="exact", steps=9, tolerance=0
    )
    assert result.evidence["evaluations"] == 9
    assert any("may still hold kinks" in note for note in result.notes)
    assert any("above the tolerance" in note for note in result.notes)


def test_single_precision_finds_the_kinks_to_its_own_rounding() -> None:
    net = sizes()
    x = picture(1, 3, 8, 8)
    want = wrap(net).explain(x, "integrated_gradients", 1, rule="exact", steps=1000).values
    got = wrap(net.float(), double=False).explain(
        x.float(), "integrated_gradients", 1, rule="exact", steps=1000
    )
    assert not any("may still hold" in note for note in got.notes)
    np.testing.assert_allclose(got.values, want, rtol=0, atol=2e-4 * np.abs(want).max())


def test_a_picture_that_is_its_own_baseline_has_nothing() -> None:
    result = wrap(Plain()).explain(torch.zeros(3, 12, 12), "integrated_gradients", 1)
    assert np.abs(result.values).max() == 0
    assert result.evidence["relative residual"] == 0
    assert any("equals the baseline" in note for note in result.notes)


def test_previews_run_towards_the_result() -> None:
    model, x = wrap(Plain()), picture(2, 3, 24, 24)
    seen: list[Progress] = []
    options = {"rule": "adaptive", "tolerance": 1e-3}
    results = finish(explain(model, METHODS["integrated_gradients"], x, 1, options), seen.append)
    assert len(seen) > 4
    assert all(a.fraction <= b.fraction <= 1 for a, b in pairwise(seen))
    np.testing.assert_array_equal(seen[-1].preview[1], results[1].values)
    first = np.abs(seen[0].preview[0].numpy() - results[0].values).max()
    assert 0 < first < np.abs(results[0].values).max()


def test_one_kink_is_found_where_the_end_tangents_cross() -> None:
    class Hinge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.mean((1, 2, 3)) - self.level).unsqueeze(1)

    result = wrap(Hinge()).explain(
        torch.full((3, 4, 4), 0.9, dtype=torch.float64), "integrated_gradients", 0, rule="exact"
    )
    assert result.evidence["evaluations"] <= 5  # halving alone would take thirty
    np.testing.assert_allclose(result.values, 0.6 / 16, rtol=1e-12)
