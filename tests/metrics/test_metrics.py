"""Metrics against closed forms on linear networks, planted truth, brute force and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import captum.metrics
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway import Preprocess, VisionModel
from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.core.method import get as get_method
from cutaway.core.target import Target, logit, score
from cutaway.metrics import METRICS, Case, UndefinedError, get
from cutaway.metrics.completeness import completeness
from cutaway.metrics.judging import case_of
from cutaway.metrics.location import box_iou, largest_piece, pointing_game, share_inside
from cutaway.metrics.metric import generator
from cutaway.metrics.randomization import cascade, randomization, stages
from cutaway.metrics.ranks import ranks, spearman
from cutaway.metrics.removal import deletion, infidelity, insertion, order, removal_curve, squares
from cutaway.metrics.stability import max_sensitivity, same_input_twice
from cutaway.view.words import share_inside as share_in_words

H, W = 12, 9
FILLS = ("black", "grey", "blur", "mean")


class Linear(nn.Module):
    """Scores that are one weighted sum of the pixels each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * H * W, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


class Small(nn.Module):
    """Convolution, norm, ReLU, twice, then mean pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.rand(3))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x * self.scale.view(1, 3, 1, 1))).relu()
        x = self.bn2(self.conv2(x)).relu()
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def wrap(net: nn.Module) -> VisionModel:
    return VisionModel(
        net.double().eval(), Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)), name="net"
    )


@pytest.fixture
def linear() -> VisionModel:
    torch.manual_seed(1)
    return wrap(Linear())


@pytest.fixture
def small() -> VisionModel:
    torch.manual_seed(2)
    return wrap(Small())


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, H, W, generator=torch.Generator().manual_seed(3)).double()


TARGET = logit(1)


def contributions(model: VisionModel, x: Tensor, other: Tensor) -> Tensor:
    """What each place adds to the score of class 1 when it holds the picture instead of `other`: w (x - other)."""
    w = model.network.fc.weight.detach()[1].view(1, 3, H, W)  # type: ignore[union-attr,operator]
    change = model.preprocess.normalise(x) - model.preprocess.normalise(other)
    return (w * change).sum(1)[0]


def filled(x: Tensor, fill: str) -> Tensor:
    from cutaway.methods.gradient.baselines import baseline_of

    return baseline_of(wrap(Linear()), x, fill)


def value(model: VisionModel, x: Tensor) -> float:
    with torch.no_grad():
        return float(model(x)[0, 1])


# ranks


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_spearman_is_that_of_scipy(levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(20):
        one, two = rng.integers(-levels, levels, (2, 7, 5)).astype(np.float64)
        mine = spearman(torch.from_numpy(one), torch.from_numpy(two))
        assert mine == pytest.approx(scipy.stats.spearmanr(one.ravel(), two.ravel()).statistic, abs=1e-11)
        np.testing.assert_array_equal(ranks(torch.from_numpy(one)), scipy.stats.rankdata(one.ravel()) - 1)


def test_spearman_of_a_constant_map_is_undefined_and_says_so() -> None:
    flat, some = torch.full((3, 4), 0.3), torch.rand(3, 4)
    for pair in ((flat, some), (some, flat)):
        with pytest.raises(UndefinedError, match=r"0\.3 everywhere.*rank correlation is undefined"):
            spearman(*pair)


# deletion and insertion


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("steps", [1, 7, H * W])
def test_deletion_and_insertion_have_a_closed_form_on_a_linear_network(
    linear: VisionModel, x: Tensor, fill: str, steps: int
) -> None:
    shares = contributions(linear, x, filled(x, fill))
    gone = torch.cat([torch.zeros(1).double(), shares.flatten().sort(descending=True).values.cumsum(0)])
    counts = [round(k * H * W / steps) for k in range(steps + 1)]
    heights = gone[counts]
    area = float(torch.trapezoid(heights)) / steps
    start, end = value(linear, x), value(linear, filled(x, fill))
    told: dict[str, Any] = {"steps": steps, "fill": fill, "of": "score"}
    assert deletion(linear, x, shares, TARGET, **told) == pytest.approx(start - area, rel=1e-10)
    assert insertion(linear, x, shares, TARGET, **told) == pytest.approx(end + area, rel=1e-10)


def test_no_order_deletes_faster_than_the_true_contributions(linear: VisionModel, x: Tensor) -> None:
    shares = contributions(linear, x, filled(x, "black"))
    told: dict[str, Any] = {"fill": "black", "of": "score", "steps": 27}
    best = deletion(linear, x, shares, TARGET, **told)
    for seed in range(5):
        other = torch.rand(H, W, generator=torch.Generator().manual_seed(seed))
        assert deletion(linear, x, other, TARGET, **told) > best
        assert insertion(linear, x, other, TARGET, **told) < insertion(linear, x, shares, TARGET, **told)


def test_the_probability_is_that_of_the_class(small: VisionModel, x: Tensor) -> None:
    heat = torch.rand(H, W)
    curve = removal_curve(small, x, heat, TARGET, steps=4, fill="grey")
    place = order(heat.double(), torch.Generator())
    for k in range(5):
        picture = torch.where(place < k * H * W // 4, 0.5, x)
        with torch.no_grad():
            assert float(curve[k]) == pytest.approx(float(small(picture).softmax(1)[0, 1]), rel=1e-9)
    with pytest.raises(UsageError, match="probability of"):
        deletion(small, x, heat, logit(1) - logit(2))


def test_equal_values_go_in_random_order_and_a_constant_map_in_none(small: VisionModel, x: Tensor) -> None:
    heat = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    seen = {tuple(order(heat, torch.Generator().manual_seed(s))[0].tolist()) for s in range(60)}
    assert len(seen) == 6  # every order of the three
    assert {p[0] for p in seen} == {0}
    assert {p[4] for p in seen} == {4}
    with pytest.raises(UndefinedError, match="in no order"):
        deletion(small, x, torch.zeros(H, W), TARGET)


# infidelity


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("scaled", [True, False])
def test_true_contributions_have_infidelity_zero(
    linear: VisionModel, x: Tensor, fill: str, scaled: bool
) -> None:
    shares = contributions(linear, x, filled(x, fill))
    told: dict[str, Any] = {"fill": fill, "scaled": scaled, "samples": 60}
    assert infidelity(linear, x, shares, TARGET, **told) < 1e-18
    assert infidelity(linear, x, shares + 1e-3, TARGET, **told) > 1e-6
    wrong = torch.rand(H, W, generator=torch.Generator().manual_seed(0)).double()
    assert infidelity(linear, x, wrong, TARGET, **told) > 0.05


def test_infidelity_by_hand(small: VisionModel, x: Tensor) -> None:
    heat = torch.randn(H, W, generator=torch.Generator().manual_seed(5)).double()
    boxes = squares((H, W), 40, generator("infidelity", 9))
    lost, foretold = [], []
    for t, l, b, r in boxes.tolist():  # noqa: E741
        assert 0 <= t < b <= H
        assert 0 <= l < r <= W
        assert b - t == r - l
        picture = x.clone()
        picture[:, :, t:b, l:r] = 0.5
        lost.append(value(small, x) - value(small, picture))
        foretold.append(float(heat[t:b, l:r].sum()))
    p, q = np.array(foretold), np.array(lost)
    told: dict[str, Any] = {"samples": 40, "fill": "grey", "seed": 9}
    by_hand = np.mean((p - q) ** 2)
    assert infidelity(small, x, heat, TARGET, scaled=False, **told) == pytest.approx(by_hand, rel=1e-9)
    grid = np.linspace(0, 1, 20001) * 2 * abs(p @ q) / (p @ p)
    least = min(np.mean((a * p - q) ** 2) for a in grid[::100]) / np.mean(q**2)
    assert infidelity(small, x, heat, TARGET, **told) == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("scaled", [False, True])
def test_infidelity_is_captums_on_the_same_squares(small: VisionModel, x: Tensor, scaled: bool) -> None:
    shares = explained(small, x, "integrated_gradients", baseline="grey").heat
    boxes = squares((H, W), 30, generator("infidelity", 2))
    masks = torch.zeros(30, 1, H, W).double()
    for mask, (t, l, b, r) in zip(masks, boxes.tolist(), strict=True):  # noqa: E741
        mask[:, t:b, l:r] = 1

    def remove(inputs: Tensor) -> tuple[Tensor, Tensor]:
        assert len(inputs) == 30
        return masks / 3 + 0 * inputs, inputs * (1 - masks) + 0.5 * masks  # a third for each colour

    with torch.no_grad():
        lost = small(x)[0, 1] - small(remove(x.expand(30, -1, -1, -1))[1])[:, 1]
        peer = captum.metrics.infidelity(
            small, remove, x, shares.expand(1, 3, H, W), target=1, n_perturb_samples=30, normalize=scaled
        )
    mine = infidelity(small, x, shares, TARGET, samples=30, fill="grey", scaled=scaled, seed=2)
    assert mine == pytest.approx(float(peer) / (float(lost.square().mean()) if scaled else 1), rel=1e-6)


def test_infidelity_ignores_the_unit_but_not_the_sign(linear: VisionModel, x: Tensor) -> None:
    shares = contributions(linear, x, filled(x, "blur"))
    assert infidelity(linear, x, 1000 * shares, TARGET) < 1e-18
    assert infidelity(linear, x, -shares, TARGET) == 1
    assert infidelity(linear, x, torch.zeros(H, W), TARGET) == 1
    with torch.no_grad():
        linear.network.fc.weight.zero_()  # type: ignore[union-attr,operator]
    with pytest.raises(UndefinedError, match="no square changes the target"):
        infidelity(linear, x, shares, TARGET)


# place


def test_random_maps_point_right_as_often_as_the_truth_has_area() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((16, 10), bool)
    truth[2:9, 4:8] = True
    hits = [pointing_game(torch.from_numpy(rng.random((16, 10))), truth) for _ in range(4000)]
    area = truth.mean()
    assert abs(np.mean(hits) - area) < 4 * np.sqrt(area * (1 - area) / 4000)


def test_pointing_shares_a_tie_and_allows_the_tolerance() -> None:
    truth = np.zeros((20, 15), bool)
    truth[4:7, 5:9] = True
    far = scipy.ndimage.distance_transform_edt(~truth)
    for tolerance in (1, 3, 5):
        for place in np.ndindex(truth.shape):
            heat = torch.zeros(truth.shape)
            heat[place] = 1
            assert pointing_game(heat, truth, tolerance=tolerance) == (far[place] <= tolerance)
    heat = torch.zeros(truth.shape)
    heat[5, 8] = heat[5, 9] = heat[5, 10] = 2
    assert pointing_game(heat, truth) == pytest.approx(1 / 3)


def test_the_largest_piece_is_that_of_scipy() -> None:
    rng = np.random.default_rng(4)
    for density in (0.05, 0.3, 0.45, 0.8):
        for _ in range(10):
            mask = rng.random((13, 17)) < density
            named, count = scipy.ndimage.label(mask, np.ones((3, 3)))
            sizes = np.bincount(named.ravel(), minlength=count + 1)[1:]
            found = largest_piece(mask)
            assert found.sum() == sizes.max()
            assert len(np.unique(named[found])) == 1


def test_box_iou_by_hand() -> None:
    heat = torch.zeros(20, 20)
    heat[2:6, 3:11] = 1.0  # 32 places
    heat[10:13, 10:13] = 5.0
    heat[6, 4] = 0.9  # below a fifth of 5
    truth = np.zeros((20, 20), bool)
    truth[10:14, 10:14] = True
    assert box_iou(heat, truth) == pytest.approx(9 / 16)
    assert box_iou(heat, truth, threshold=0.1) == 0  # now the weaker, larger piece counts
    with pytest.raises(UndefinedError, match="no positive values"):
        box_iou(torch.tensor([[-1.0, -2.0]]), np.array([[True, False]]))


def test_share_inside_is_the_one_that_reports_print() -> None:
    rng = np.random.default_rng(8)
    for size in ((24, 18), (6, 5)):
        heat, truth = rng.standard_normal(size), rng.random((24, 18)) < 0.3
        mine = share_inside(torch.from_numpy(heat), truth)
        assert mine == pytest.approx(share_in_words(heat, truth).evidence, rel=1e-6)
    planted = torch.from_numpy(truth.astype(np.float64))
    assert share_inside(planted - 0.5, truth) == 1


@pytest.mark.parametrize("metric", ["pointing_game", "box_iou", "share_inside"])
def test_places_need_values_and_a_truth(metric: str) -> None:
    function: Callable[..., float] = METRICS[metric].function
    some, truth = torch.rand(4, 5), np.ones((4, 5), bool)
    for heat, where in ((torch.zeros(4, 5), truth), (some, ~truth)):
        with pytest.raises(UndefinedError):
            function(heat, where)


# completeness


def explained(model: VisionModel, x: Tensor, name: str, truth: Any = None, **options: Any) -> Case:
    method = get_method(name)
    return case_of(model, method, method.options(options), x, TARGET, truth=truth, seed=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [("integrated_gradients", {"baseline": "grey"}), ("cam", {}), ("deeplift", {}), ("integrated_gradients", {"reduce": "rgb"})],
)  # fmt: skip
def test_methods_that_add_up_have_no_residual(
    small: VisionModel, x: Tensor, method: str, options: dict[str, Any]
) -> None:
    case = explained(small, x, method, **options)
    assert get("completeness").holds(get("completeness")(case))
    broken = replace(case.result, values=case.result.values * 1.25)
    assert completeness(small, x, TARGET, broken) == pytest.approx(0.25, abs=0.02)


def test_the_residual_of_gradient_times_input_is_the_bias(linear: VisionModel, x: Tensor) -> None:
    case = explained(linear, x, "gradient_times_input")
    whole = value(linear, x)
    left = value(linear, torch.zeros_like(x))
    assert get("completeness")(case) == pytest.approx(abs(left / whole), rel=1e-9)


def test_a_map_without_a_claim_has_no_residual(small: VisionModel, x: Tensor) -> None:
    with pytest.raises(UndefinedError, match="claims no sum"):
        get("completeness")(explained(small, x, "saliency"))


# stability


def test_sensitivity_has_a_closed_form_on_a_linear_network(linear: VisionModel, x: Tensor) -> None:
    x = 0.1 + 0.8 * x  # so that the noise leaves nothing to clamp
    assert get("max_sensitivity")(explained(linear, x, "saliency")) == 0
    case = explained(linear, x, "gradient_times_input")
    chance, worst = generator("max_sensitivity", 4), 0.0
    for _ in range(3):
        noise = (2 * torch.rand(x.shape, generator=chance, dtype=torch.float64) - 1) * 0.05
        moved = (contributions(linear, x + noise, x)).norm() / case.heat.norm()
        worst = max(worst, float(moved))
    found = get("max_sensitivity")(case, {"radius": 0.05, "samples": 3}, seed=4)
    assert found == pytest.approx(worst, rel=1e-4)  # a picture is read in float32
    with pytest.raises(UndefinedError):
        max_sensitivity(linear, x, torch.zeros(H, W), case.again)


class Batched(nn.Module):
    """Dropout that never ends, or pictures scaled by the first of their batch."""

    def __init__(self, chance: bool) -> None:
        super().__init__()
        self.chance, self.conv, self.fc = chance, nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, 0.3, True) if self.chance else x * x[:1].mean() / x.mean((1, 2, 3), keepdim=True)
        out: Tensor = self.fc(self.conv(x).relu().mean((2, 3)))
        return out


@pytest.mark.parametrize("chance", [True, False])
@pytest.mark.parametrize("method", ["saliency", "grad_cam", "integrated_gradients"])
def test_sensitivity_of_what_looks_at_its_batch_is_that_of_pictures_alone(
    chance: bool, method: str, x: Tensor
) -> None:
    torch.manual_seed(3)
    case = explained(wrap(Batched(chance)), x, method)
    draws, worst = generator("max_sensitivity", 2), 0.0
    for _ in range(5):
        noise = (2 * torch.rand(x.shape, generator=draws, dtype=torch.float64) - 1) * 0.02
        moved = case.again(case.model, (x + noise).clamp(0, 1)) - case.heat
        worst = max(worst, float(moved.norm() / case.heat.norm()))
    assert get("max_sensitivity")(case, seed=2) == pytest.approx(worst, rel=1e-6)


def test_the_same_input_twice(small: VisionModel, x: Tensor) -> None:
    assert get("same_input_twice")(explained(small, x, "saliency")) == 0
    few = get("same_input_twice")(explained(small, x, "smooth_grad", samples=4))
    many = get("same_input_twice")(explained(small, x, "smooth_grad", samples=256))
    assert few > 3 * many > 0


# randomization


def test_the_cascade_forgets_from_the_top_and_leaves_the_model_alone(small: VisionModel, x: Tensor) -> None:
    before, state = small.fingerprint, torch.get_rng_state()
    original = {k: v.clone() for k, v in small.network.state_dict().items()}
    forgotten = []

    def again(model: VisionModel, x: Tensor, seed: int | None = None) -> Tensor:
        own = model.network.state_dict()
        forgotten.append({k for k in own if not torch.equal(own[k], original[k])})
        return torch.rand(H, W)

    found = list(cascade(small, x, torch.rand(H, W), again, steps=10))
    top = {"fc.weight", "fc.bias"}
    second = {f"{n}.{p}" for n in ("conv2",) for p in ("weight", "bias")}
    assert [s.layer for s in found][:2] == ["fc", "conv2"]
    assert forgotten[0] == top
    assert forgotten[1] == top | second
    assert all(a < b for a, b in pairwise(forgotten))
    assert {k for k, p in small.network.named_parameters() if "bn" not in k} <= forgotten[-1]
    assert small.fingerprint == before
    assert all(p.requires_grad for p in small.network.parameters())
    torch.set_rng_state(state)


def test_no_stage_is_empty_and_all_layers_are_in_one(small: VisionModel) -> None:
    for most in (1, 2, 3, 50):
        groups = stages(small, most)
        names = [name for group in groups for name in group]
        assert len(groups) == min(most, 4)
        assert sorted(names) == ["", "bn1", "bn2", "conv1", "conv2", "fc"]
        assert names[0] == "fc"
    assert [len(g) for g in stages(small, 2)] == [3, 3]


def test_a_map_that_ignores_the_network_fails_and_one_that_is_new_every_time_passes(
    small: VisionModel, x: Tensor
) -> None:
    edges = (x[0, 0] - x[0, 0].mean()).abs()
    assert randomization(small, x, edges, lambda model, x, seed=None: edges) == 1
    chance = torch.Generator().manual_seed(0)
    new = randomization(small, x, edges, lambda m, x, s=None: torch.rand(H, W, generator=chance), steps=4)
    assert abs(new) < 0.3
    signs = randomization(small, x, edges, lambda m, x, s=None: -edges, absolute=True)
    assert signs == 1
    with pytest.raises(UndefinedError, match="every map of the randomised network is constant"):
        randomization(small, x, edges, lambda m, x, s=None: torch.zeros(H, W))
    with pytest.raises(UndefinedError, match="rank correlation is undefined"):
        randomization(small, x, torch.ones(H, W), lambda m, x, s=None: edges)


# seeds and declarations


def test_metrics_and_explainers_share_no_random_numbers(small: VisionModel, x: Tensor) -> None:
    streams = {tuple(torch.rand(4, generator=torch.Generator().manual_seed(s)).tolist()) for s in range(50)}
    purposes = ("deletion", "infidelity", "max_sensitivity", "randomization", "same_input_twice")
    own = {tuple(torch.rand(4, generator=generator(p, s)).tolist()) for p in purposes for s in range(50)}
    assert len(own) == 250
    assert not own & streams


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_depends_on_its_own_seed_alone(small: VisionModel, x: Tensor, name: str) -> None:
    truth = np.zeros((H, W), bool)
    truth[3:8, 2:6] = True
    torch.manual_seed(4)
    case, metric = explained(small, x, "integrated_gradients", truth), METRICS[name]
    case = replace(case, twin=wrap(Small()))
    before = small.fingerprint
    torch.manual_seed(5)
    one, state = metric(case, seed=3), torch.get_rng_state()
    torch.manual_seed(6)
    assert metric(case, seed=3) == one
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert metric.low <= one <= metric.high
    assert small.fingerprint == before


def test_declarations_are_complete() -> None:
    asked = [m.asks for m in METRICS.values()]
    assert len(set(asked)) == len(METRICS) >= 10
    for metric in METRICS.values():
        assert metric.asks.endswith("?")
        assert any(c.isdigit() for c in metric.paper)
        assert metric.low < metric.high
        assert metric.function.__doc__
    with pytest.raises(UnknownNameError, match="'deletion'"):
        get("deletions")
    with pytest.raises(UnknownNameError, match="option of deletion"):
        get("deletion").options({"step": 3})
    with pytest.raises(UsageError, match="steps=0"):
        get("deletion").options({"steps": 0})


def test_a_target_may_be_a_hidden_unit(small: VisionModel, x: Tensor) -> None:
    from cutaway.core.target import channel

    target: Target = channel("conv2", 3)
    heat = torch.rand(H, W)
    curve = removal_curve(small, x, heat, target, steps=2, of="score", fill="grey")
    with torch.no_grad():
        assert float(curve[0]) == pytest.approx(float(score(small, x, target)[0]), rel=1e-9)
    assert 0 < infidelity(small, x, heat, target, samples=10) <= 1
    assert same_input_twice(small, x, heat, lambda m, x, s=None: heat) == 0
