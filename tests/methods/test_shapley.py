"""Shapley values against their definition, their axioms, closed forms and exact values of small networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import get
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.core.target import logit
from cutaway.methods.perturbation.players import Game, Players, divide, every, shown
from cutaway.methods.perturbation.shapley import estimate, exact
from cutaway.methods.perturbation.shapley_adjusted import Smooth
from cutaway.methods.perturbation.shapley_pairs import (
    all_pairs,
    kernel,
    kernel_pairs,
    leverage_pairs,
    regression,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SAMPLED = ("permutation", "kernel", "leverage", "adjusted")


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(16), nn.Tanh(), nn.Linear(16, 4),
    )  # fmt: skip


@pytest.fixture
def model() -> VisionModel:
    torch.manual_seed(1)
    net = small()
    net(torch.zeros(1, 3, 12, 16))
    return VisionModel(net.double().eval(), Preprocess(mean=MEAN, std=STD), name="small")


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def run(model: VisionModel, x: Tensor, target=1, seed: int = 0, **options):
    return finish(explain(model, get("shapley"), x, target, options, seed=seed))


def game_of(scores: Tensor) -> Game:
    """The game with these scores of all coalitions, which counts how often each was asked for."""
    count = len(scores).bit_length() - 1

    def ask(coalitions: Tensor):
        numbers = (coalitions.long() << torch.arange(count)).sum(1)
        asked.extend(numbers.tolist())
        yield torch.arange(len(numbers)), scores[numbers]

    asked: list[int] = []
    game = Game(count, ask, lambda values: values)
    game.asked = asked  # type: ignore[attr-defined]
    return game


def table(count: int, score: Callable[[Tensor], Tensor]) -> Tensor:
    return score(every(count).double())


def random_scores(count: int, seed: int = 0) -> Tensor:
    return torch.randn(2**count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_definition(scores: np.ndarray, count: int) -> np.ndarray:
    """The mean over every order of what each player adds to those before it."""
    total = np.zeros(count)
    for order in permutations(range(count)):
        before = 0
        for player in order:
            total[player] += scores[before | 1 << player] - scores[before]
            before |= 1 << player
    return total / math.factorial(count)


def test_exact_is_the_definition_over_all_orders() -> None:
    scores = random_scores(5)
    found = finish(estimate(game_of(scores), "exact", 0, generator()))
    np.testing.assert_allclose(found.values, by_definition(scores.numpy(), 5), rtol=1e-12)
    assert found.error.abs().max() == 0


def test_a_network_against_pictures_built_by_hand(model, x) -> None:
    (result,) = run(model, x, logit(2), grid=2, fill="black")
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    scores = np.zeros(16)
    corners = [(0, 0), (0, 8), (6, 0), (6, 8)]
    for k in range(16):
        picture = torch.zeros_like(x)
        for i, (top, left) in enumerate(corners):
            if k >> i & 1:
                picture[..., top : top + 6, left : left + 8] = x[..., top : top + 6, left : left + 8]
        with torch.no_grad():
            scores[k] = model.network((picture - mean) / std)[0, 2]
    want = by_definition(scores, 4)
    np.testing.assert_allclose(result.values, np.kron(want.reshape(2, 2), np.ones((6, 8))), rtol=1e-9)
    assert result.evidence["estimator"] == "exact"
    assert result.evidence["evaluations"] == 16
    assert result.evidence["score"] == pytest.approx(scores[15], rel=1e-12)
    assert result.evidence["fill score"] == pytest.approx(scores[0], rel=1e-12)
    np.testing.assert_allclose(result.evidence["values"], want, rtol=1e-9)


def test_axioms() -> None:
    """Efficiency, symmetry, dummy and additivity (Shapley 1953) of a game with all of them in it."""

    def score(z: Tensor) -> Tensor:
        # players 0 and 1 are alike, 2 does nothing, 3 and 4 interact with the others
        return (
            3
            + z[:, 0] * z[:, 1]
            + (z[:, 0] + z[:, 1]) * z[:, 3]
            - torch.sin(z[:, 4] + z[:, 3] * z[:, 0] * z[:, 1])
        )

    scores, other = table(5, score), random_scores(5)
    values = exact(scores)
    assert float(values.sum()) == pytest.approx(float(scores[-1] - scores[0]), rel=1e-12)
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-12)
    assert abs(float(values[2])) < 1e-14
    np.testing.assert_allclose(exact(scores + 2 * other), values + 2 * exact(other), rtol=1e-12)


def test_kernel_weights_and_the_regression_on_all_coalitions() -> None:
    assert kernel(5, 2) == pytest.approx(4 / (10 * 2 * 3))
    for count in range(2, 9):
        scores, pairs = random_scores(count, count), all_pairs(count)
        assert len(pairs.coalitions) == 2 ** (count - 1) - 1
        numbers = (pairs.coalitions.long() << torch.arange(count)).sum(1)
        odd = (scores[numbers] - scores[2**count - 1 - numbers]) / 2
        values, error = regression(pairs, odd, float(scores[-1] - scores[0]))
        np.testing.assert_allclose(values, exact(scores), rtol=1e-9, atol=1e-12)
        assert error.abs().max() == 0


@pytest.mark.parametrize("how", SAMPLED)
def test_exact_where_two_players_interact_at_most(how) -> None:
    count = 9
    one, two = random_scores(4)[:count], random_scores(7)[: count**2].view(count, count)

    def score(z: Tensor) -> Tensor:
        return 2 + z @ one + torch.einsum("ni,ij,nj->n", z, two, z)

    scores = table(count, score)
    found = finish(estimate(game_of(scores), how, 4 * count, generator()))
    np.testing.assert_allclose(found.values, exact(scores), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("how", SAMPLED)
@pytest.mark.parametrize("count", [6, 7, 12])
def test_estimates_add_up_use_the_budget_and_ask_nothing_twice(how, count) -> None:
    scores, budget = random_scores(count), 3 * count + 10
    game = game_of(scores)
    found = finish(estimate(game, how, budget, generator(3)))
    assert float(found.values.sum()) == pytest.approx(float(scores[-1] - scores[0]), rel=1e-9, abs=1e-9)
    asked = game.asked
    assert len(asked) == len(set(asked)) == game.evaluations <= budget
    if how in ("leverage", "adjusted"):
        assert game.evaluations == budget - budget % 2
    finish(game.play(every(count)[asked]))
    assert len(asked) == game.evaluations


@pytest.mark.parametrize("how", SAMPLED)
def test_standard_errors_are_the_errors(how) -> None:
    """Over many samples the error is as large as the standard error says: neither half of it nor twice."""
    scores = table(8, lambda z: torch.sin(2 * z @ torch.linspace(-1, 2, 8, dtype=torch.float64)))
    right = exact(scores)
    found = [finish(estimate(game_of(scores), how, 80, generator(s))) for s in range(40)]
    missed = torch.stack([f.values - right for f in found]).square().mean().sqrt()
    said = torch.stack([f.error for f in found]).square().mean().sqrt()
    assert 0.6 < float(missed / said) < 1.7


@pytest.mark.parametrize("draw", [kernel_pairs, leverage_pairs])
@pytest.mark.parametrize("count", [6, 7])
def test_samples_are_different_pairs(draw, count) -> None:
    every_one = 2 ** (count - 1) - 1
    for wanted in (count + 1, every_one - 2, every_one, every_one + 5):
        pairs = draw(count, wanted, generator(wanted))
        rows = {tuple(r) for r in pairs.both.tolist()}
        assert len(rows) == 2 * len(pairs.coalitions)
        assert len(pairs.coalitions) == min(wanted, every_one)
        assert not {(False,) * count, (True,) * count} & rows


def test_leverage_sampling_weighs_every_pair_fairly() -> None:
    """Horvitz-Thompson: over many samples, the weights of each pair average to the kernel's."""
    count, times = 5, 3000
    total: dict[tuple[bool, ...], float] = {}
    for seed in range(times):
        pairs = leverage_pairs(count, 7, generator(seed))
        for row, weight in zip(pairs.coalitions.tolist(), pairs.weights.tolist(), strict=True):
            total[tuple(row)] = total.get(tuple(row), 0) + weight / times
    assert len(total) == 15
    for row, weight in total.items():
        assert weight == pytest.approx(kernel(count, sum(row)), rel=0.15)


@pytest.mark.parametrize("count", [3, 6, 9])
def test_the_smooth_models_own_values_are_those_of_its_covariance(count) -> None:
    """Odd in each coalition, 1 + the linear part at a coalition itself, and Shapley values by all coalitions."""
    rates = torch.linspace(0.05, 1.2, count, dtype=torch.float64)
    model, signs = Smooth(rates, torch.tensor(0.7, dtype=torch.float64)), every(count).double() * 2 - 1
    table = model.covariance(signs, signs)
    brute = [
        math.prod(
            1 + math.tanh(r) * a * b for r, a, b in zip(rates.tolist(), signs[1].tolist(), z, strict=True)
        )
        for z in signs.tolist()
    ]
    odd = np.array(brute) - np.array(brute)[::-1]
    size = math.prod(1 + math.tanh(r) for r in rates) - math.prod(1 - math.tanh(r) for r in rates)
    np.testing.assert_allclose(
        table[1], odd / size + 0.7 * (signs @ signs[1]).numpy() / count, rtol=1e-10, atol=1e-12
    )
    for k in (0, 1, 2**count - 2):
        got = model.shapley(signs[k : k + 1])[:, 0]
        np.testing.assert_allclose(got, exact(table[k]), rtol=1e-10, atol=1e-12)


def plain_kernel_shap(scores: Tensor, budget: int, seed: int) -> np.ndarray:
    """KernelSHAP as in Lundberg & Lee 2017: coalitions drawn one by one by their weight, constrained least squares."""
    count = len(scores).bit_length() - 1
    random = np.random.default_rng(seed)
    sizes = np.arange(1, count)
    chance = 1 / (sizes * (count - sizes))
    rows: dict[int, int] = {}
    while len(rows) < budget - 2:
        members = random.permutation(count)[: random.choice(sizes, p=chance / chance.sum())]
        number = int((1 << members).sum())
        rows[number] = rows.get(number, 0) + 1
    numbers = np.array(list(rows))
    z = (numbers[:, None] >> np.arange(count) & 1).astype(float)
    rise = float(scores[-1] - scores[0])
    left = z[:, :-1] - z[:, -1:]
    right = scores.numpy()[numbers] - float(scores[0]) - z[:, -1] * rise
    root = np.sqrt(np.array(list(rows.values()), float))
    first = np.linalg.lstsq(root[:, None] * left, root * right, rcond=None)[0]
    return np.append(first, rise - first.sum())


def test_adjusted_needs_half_of_kernel_shaps_error_at_the_same_evaluations(model, x) -> None:
    """On 12 cells of a picture, against exact values."""
    labels = (torch.arange(12) // 4)[:, None] * 4 + torch.arange(16) // 4
    ask = shown(model, x, logit(1), Players(labels), torch.full_like(x[0], 0.5))
    scores = finish(Game(12, ask, lambda v: v).play(every(12)))
    right = exact(scores).numpy()
    for budget in (100, 200, 400):
        theirs = [np.linalg.norm(plain_kernel_shap(scores, budget, s) - right) for s in range(5)]
        ours = [
            np.linalg.norm(
                finish(estimate(game_of(scores), "adjusted", budget, generator(s))).values.numpy() - right
            )
            for s in range(5)
        ]
        assert np.mean(ours) <= 0.5 * np.mean(theirs)


def test_linear_network(x) -> None:
    """phi of a region is the sum of w (x - fill) in it, whatever the estimator."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 2)).double()
    model = VisionModel(linear, Preprocess(mean=MEAN, std=STD), name="linear")
    w = linear[1].weight[1].detach().view(3, 12, 16) / torch.tensor(STD, dtype=torch.float64).view(3, 1, 1)
    parts = (w * (x[0] - x[0].mean((1, 2), keepdim=True))).sum(0)
    want = parts.view(4, 3, 4, 4).sum((1, 3)).repeat_interleave(3, 0).repeat_interleave(4, 1)
    for estimator in SAMPLED:
        (result,) = run(model, x, grid=4, fill="mean", estimator=estimator, budget=60)
        np.testing.assert_allclose(result.values, want, rtol=1e-8, atol=1e-10)
        assert abs(result.evidence["residual"]) < 1e-10


@pytest.mark.parametrize("players", ["quickshift", "slic"])
def test_superpixels_are_players(model, players) -> None:
    picture = torch.zeros(1, 3, 24, 32, dtype=torch.float64)
    picture[:, 0, :, 16:] = 1
    picture[:, 1, 12:] = 1
    wide = VisionModel(nn.Sequential(nn.AvgPool2d(2), model.network), model.preprocess, name="wide")
    (result,) = run(wide, picture, players=players, superpixels=4, budget=2**10)
    count = result.evidence["players"]
    assert 2 <= count == len(result.evidence["values"])
    assert set(np.unique(result.values.round(12))) == set(np.round(result.evidence["values"], 12))
    assert result.panels["players"].scale == "picture"
    if players == "slic":
        assert (result.values[:12, 16:] == result.values[0, 16]).all()
        assert result.values[0, 0] != result.values[0, 31]


def test_one_superpixel_is_refused(model) -> None:
    with pytest.raises(MethodRefusedError, match="one superpixel"):
        run(model, torch.full((1, 3, 12, 16), 0.3, dtype=torch.float64), players="quickshift")


def test_previews_while_it_runs(model, x) -> None:
    steps: list[Progress] = []
    options = {"grid": 4, "budget": 100}
    finish(explain(model, get("shapley"), x.repeat(2, 1, 1, 1), 1, options), steps.append)
    assert len(steps) > 2
    assert [s.done for s in steps] == sorted({s.done for s in steps})
    assert all(s.preview.shape == (12, 16) for s in steps)
    assert (steps[-1].done, steps[-1].total) == (200, 200)


def test_four_pictures_are_four_times_one_and_the_seed_decides(model) -> None:
    batch = torch.rand(4, 3, 12, 16, dtype=torch.float64, generator=generator(2))
    options = {"grid": 4, "budget": 60}
    together = run(model, batch, **options)
    for i, result in enumerate(together):
        (alone,) = run(model, batch[i : i + 1], **options)
        np.testing.assert_array_equal(result.values, alone.values)
        assert result.evidence == alone.evidence
    (other,) = run(model, batch[:1], seed=1, **options)
    assert np.abs(other.values - together[0].values).max() > 1e-9


def test_what_cannot_be_done_is_said(model, x) -> None:
    for options, words in [
        ({"grid": 4, "estimator": "exact"}, "16 players"),
        ({"grid": 4, "budget": 20}, "budget=20 for 16 players"),
        ({"grid": 13}, "13x13 cells"),
        ({"grid": 4, "estimator": "adjusted", "budget": 5000}, "budget=5000"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            run(model, x, **options)
        assert caught.value.accepted
        assert caught.value.hint
    (result,) = run(model, x, grid=4, budget=5000)
    assert result.evidence["estimator"] == "leverage"


def test_grid_cells_differ_by_one_pixel_at_most(x) -> None:
    sizes = torch.bincount(divide(x[0], "grid", 5, 0, 0).labels.flatten())
    assert len(sizes) == 25
    assert {int(s) for s in sizes} <= {2 * 3, 2 * 4, 3 * 3, 3 * 4}
