"""Counterfactuals against the closed form of linear functions, a linear program, and a search of every picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.core.target import custom, logit, probability
from cutaway.methods import get

from .nets import GapNet, picture, wrap


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


def run(model: Any, x: Tensor, target: Any = 1, **options: Any) -> Any:
    return finish(explain(model, get("counterfactual"), x, target, options))[0]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def linear() -> tuple[Any, Tensor, np.ndarray]:
    torch.manual_seed(0)
    net, x = Linear(), 0.4 + 0.2 * picture(1, 3, 5, 4)
    return wrap(net), x, net.fc.weight[1].detach().double().numpy()


@pytest.mark.parametrize("way", [0.01, -0.01])
def test_a_linear_function_moves_the_one_feature_with_the_largest_w_times_mad(linear, way: float) -> None:
    model, x, w = linear
    u = x[0].numpy()
    mad = np.array([np.median(np.abs(c - np.median(c))) for c in u]).repeat(20)
    clean = float(model(x)[0, 1])
    found = run(model, x, wanted=clean + way)
    k = int(np.abs(w * mad).argmax())
    right = np.zeros(60)
    right[k] = way / w[k]
    np.testing.assert_allclose(found.values.ravel(), right, atol=1e-12)
    assert found.evidence["cost"] == pytest.approx(abs(way) / np.abs(w * mad).max(), rel=1e-9)
    assert found.evidence["features changed"] == 1
    assert found.evidence["reached"]
    assert found.evidence["linearisations"] <= 2
    np.testing.assert_allclose(found.panels["counterfactual"].values.ravel(), u.ravel() + right, atol=1e-12)


def program(w: np.ndarray, u: np.ndarray, way: float) -> Any:
    """The cheapest rise and fall of each feature within black and white, by a solver of linear programs."""
    walls = [(0, 1 - v) for v in u] + [(0, v) for v in u]
    return linprog(np.ones(2 * len(u)), A_eq=np.concatenate([w, -w])[None], b_eq=[way], bounds=walls)


@pytest.mark.parametrize("way", [0.6, -1.1])
def test_with_walls_at_black_and_white_it_is_the_linear_program(linear, way: float) -> None:
    model, x, w = linear
    u = x[0].numpy().ravel()
    clean = float(model(x)[0, 1])
    found = run(model, x, wanted=clean + way, spread="one")
    right = program(w, u, way)
    assert found.evidence["features changed"] > 1
    assert found.evidence["cost"] == pytest.approx(right.fun, rel=1e-8)
    np.testing.assert_allclose(found.values.ravel(), right.x[:60] - right.x[60:], atol=1e-8)


def test_mad_over_pictures_prices_each_feature_and_freezes_those_that_never_vary(linear) -> None:
    model, x, w = linear
    others = picture(7, 3, 5, 4)
    others[:, :, 2:] = 0.25
    others[5:, 0, 2, 0] = torch.tensor(
        [0.1, 0.9]
    ).double()  # most pictures agree here, so its MAD is 0 as well
    spread = np.median(np.abs(others.numpy() - np.median(others.numpy(), 0)), 0).ravel()
    assert (spread == 0).sum() == 36
    found = run(model, x, wanted=float(model(x)[0, 1]) + 0.01, spread=others)
    k = int(np.abs(w * spread).argmax())
    assert np.flatnonzero(found.values).tolist() == [k]
    assert found.evidence["cost"] == pytest.approx(0.01 / np.abs(w * spread).max(), rel=1e-9)
    assert any("36 of 60 features have MAD 0" in n for n in found.notes)
    far = run(model, x, wanted=1e3, spread=others)
    assert (far.values.ravel()[spread == 0] == 0).all()
    assert (far.values.ravel()[spread > 0] != 0).all()


def test_what_cannot_be_reached_is_said_and_the_nearest_is_shown(linear) -> None:
    model, x, w = linear
    found = run(model, x, wanted=1e3)
    best = torch.from_numpy(np.where(w > 0, 1.0, 0.0)).view(1, 3, 5, 4)
    most = float(model(best)[0, 1])
    assert not found.evidence["reached"]
    assert found.evidence["score of the counterfactual"] == pytest.approx(most)
    assert any("not reached" in n and f"{most:.4g}" in n for n in found.notes)
    np.testing.assert_allclose(found.panels["counterfactual"].values, best[0], atol=1e-12)


class Curved(nn.Module):
    """Three features, one curved score with an interaction; every picture on a fine grid can be tried."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x[:, 0, 0, 0], x[:, 1, 0, 0], x[:, 2, 0, 0]
        return torch.stack([torch.tanh(2 * a) + b * b + 0.5 * a * c - 0.3 * c, 0 * a], 1)


@pytest.mark.parametrize(
    ("start", "wanted"), [((0.2, 0.3, 0.6), 1.2), ((0.9, 0.8, 0.1), 0.5), ((0.1, 0.9, 0.9), 0.9)]
)
def test_on_a_curved_function_it_is_as_cheap_as_the_cheapest_of_all_pictures(
    start: Any, wanted: float
) -> None:
    x = torch.tensor(start, dtype=torch.float64).view(1, 3, 1, 1)
    found = run(wrap(Curved()), x, 0, wanted=wanted, spread="one", tolerance=0.02)
    axis = torch.linspace(0, 1, 101, dtype=torch.float64)
    every = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1).T
    scores = Curved()(every.view(-1, 3, 1, 1))[:, 0]
    costs = (every - x.flatten()).abs().sum(1)
    near = (scores - wanted).abs() <= 0.02 * abs(float(Curved()(x)[0, 0]) - wanted)
    assert found.evidence["reached"]
    assert found.evidence["cost"] <= 1.03 * float(costs[near].min()) + 0.005
    with torch.no_grad():
        after = torch.from_numpy(found.panels["counterfactual"].values)[None]
        assert float(Curved()(after)[0, 0]) == pytest.approx(found.evidence["score of the counterfactual"])


def test_by_default_a_class_falls_to_its_strongest_rival() -> None:
    torch.manual_seed(2)
    net = GapNet().double().eval()
    x = picture(1, 3, 12, 12)
    scores = net(x)[0]
    best, second = (int(k) for k in scores.topk(2).indices)
    found = run(wrap(net), x, best)
    assert found.evidence["wanted"] == pytest.approx(float(scores[second]))
    assert found.evidence["reached"]
    after = torch.from_numpy(found.panels["counterfactual"].values)[None]
    assert float(net(after)[0, best]) == pytest.approx(
        found.evidence["score of the counterfactual"], rel=1e-9
    )
    assert abs(float(net(after)[0, best] - scores[second])) <= 0.01 * float(scores[best] - scores[second])
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    np.testing.assert_allclose(found.values, (after - x)[0].numpy(), atol=1e-12)
    assert found.evidence["cost"] < 0.9 * descended(net, x, best, float(scores[second]))


def descended(net: nn.Module, x: Tensor, k: int, wanted: float) -> float:
    """The cost, in MADs, of where Newton's steps along the gradient end, which ask for f = y' alone."""
    y = x.clone()
    for _ in range(60):
        with torch.enable_grad():
            apart = net(y.requires_grad_())[0, k] - wanted
            (g,) = torch.autograd.grad(apart, y)
        y = (y.detach() - apart.detach() / g.square().sum() * g).clamp(0, 1)
    mad = np.array([np.median(np.abs(c - np.median(c))) for c in x[0].numpy()])
    change = (y - x)[0].abs().sum((1, 2)).numpy()
    return float((change / mad).sum())


def test_by_default_a_probability_rises_to_that_of_its_strongest_rival(linear) -> None:
    model, x, _ = linear
    order = model(x)[0].argsort()
    found = run(model, x, probability(int(order[0])))
    before = model(x).softmax(1)[0]
    assert found.evidence["wanted"] == pytest.approx(float(before[order[2]]))
    assert found.evidence["reached"]
    after = model(torch.from_numpy(found.panels["counterfactual"].values)[None]).softmax(1)[0]
    assert abs(float(after[order[0]] - before[order[2]])) <= 0.01 * float(before[order[2]] - before[order[0]])


def test_a_difference_of_classes_is_brought_to_a_tie(linear) -> None:
    model, x, _ = linear
    scores = model(x)[0]
    found = run(model, x, logit(0) - logit(1), spread="one")
    assert found.evidence["wanted"] == 0
    w = (model.network.fc.weight[0] - model.network.fc.weight[1]).detach().numpy()
    right = program(w, x.flatten().numpy(), float(scores[1] - scores[0]))
    assert found.evidence["cost"] == pytest.approx(right.fun, rel=1e-8)
    tied = model(torch.from_numpy(found.panels["counterfactual"].values)[None])[0]
    assert float(tied[0]) == pytest.approx(float(tied[1]), abs=1e-9)


def test_a_colour_that_most_pixels_share_has_a_price_all_the_same(linear) -> None:
    model, x, _ = linear
    x = x.clone()
    x[:, 1, :4] = 0.5
    x[:, 2] = 0.25
    found = run(model, x)
    assert any("stands in" in n for n in found.notes)
    assert found.evidence["reached"]


def test_a_score_that_is_there_already_changes_nothing_and_says_so(linear) -> None:
    model, x, _ = linear
    found = run(model, x, wanted=float(model(x)[0, 1]))
    assert (found.values == 0).all()
    assert any("already" in n for n in found.notes)


def test_a_flat_function_is_said_to_be_flat(linear) -> None:
    model, x, _ = linear
    found = run(model, x, custom(lambda out: (out * 0).sum(1)), wanted=1)
    assert (found.values == 0).all()
    assert any("no pixel moves" in n for n in found.notes)


@pytest.mark.parametrize("others", [picture(1, 3, 5, 4), picture(4, 3, 6, 4), torch.full((4, 3, 5, 4), 0.5)])
def test_pictures_that_give_no_price_are_refused(linear, others: Tensor) -> None:
    model, x, _ = linear
    with pytest.raises(UsageError):
        run(model, x, spread=others)


def test_a_score_without_a_gradient_is_refused(linear) -> None:
    model, x, _ = linear
    with pytest.raises(MethodRefusedError):
        run(model, x, custom(lambda out: out.argmax(1).double()), wanted=7)
