"""LIME against additive models, Shapley values, scikit-learn's ridge and choices drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.method import get
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.core.target import logit
from cutaway.methods.perturbation.lime import by_shapley, nearby
from cutaway.methods.perturbation.players import divide, every
from cutaway.methods.perturbation.shapley import exact

from .nets import GapNet, wrap

H, W = 12, 16


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model() -> VisionModel:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(8),
        nn.Tanh(),
        nn.Linear(8, 4),
    )
    net(torch.zeros(1, 3, H, W))
    return VisionModel(net.double().eval(), Preprocess(), name="small")


def linear() -> tuple[VisionModel, Tensor]:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * H * W, 4)).double()
    return VisionModel(net, Preprocess(), name="linear"), net[1].weight[1].detach().view(3, H, W)


def run(model: VisionModel, x: Tensor, target=1, seed: int = 0, **options):
    return finish(
        explain(model, get("lime"), x, target, {"players": "grid", "grid": 4, **options}, seed=seed)
    )


def patches() -> Tensor:
    """Four colours with a little noise: pictures with superpixels that are known."""
    picture = torch.zeros(1, 3, H, W, dtype=torch.float64)
    picture[:, 0, :, 8:] = 1
    picture[:, 1, 6:] = 1
    return picture


def test_an_additive_model_is_recovered_as_alpha_vanishes(x) -> None:
    """On S = <w, u> a region's coefficient is the sum of w (u - fill) in it; ridge shrinks it, less and less."""
    model, w = linear()
    parts = (w * (x[0] - 0.5)).sum(0)
    want = parts.view(4, 3, 4, 4).sum((1, 3)).repeat_interleave(3, 0).repeat_interleave(4, 1).numpy()
    far = []
    for alpha in (1.0, 1e-3, 1e-6):
        (result,) = run(model, x, fill="grey", alpha=alpha)
        far.append(np.abs(result.values - want).max())
        assert result.evidence["r2"] > 0.99
    assert far[0] > 100 * far[1] > 1e4 * far[2]
    (result,) = run(model, x, fill="grey", alpha=0)
    np.testing.assert_allclose(result.values, want, rtol=1e-9)
    assert result.evidence["r2"] == pytest.approx(1, abs=1e-12)
    assert result.evidence["line at the picture"] == pytest.approx(result.evidence["score"], rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_line_is_scikit_learns_with_the_weights_of_the_authors(alpha) -> None:
    random = np.random.default_rng(0)
    choices = random.integers(0, 2, (60, 7)).astype(bool)
    choices[0], choices[1] = True, False
    scores = random.normal(size=60)
    distance = pairwise_distances(choices.astype(float), choices[:1].astype(float), metric="cosine").ravel()
    weights = np.sqrt(np.exp(-(distance**2) / 0.25**2))
    peer = Ridge(alpha=alpha, fit_intercept=True).fit(choices, scores, sample_weight=weights)
    line = nearby(torch.from_numpy(choices), torch.from_numpy(scores), 1.0, 0.25, alpha)
    np.testing.assert_allclose(line.coefficients, peer.coef_, rtol=1e-9)
    assert line.intercept == pytest.approx(float(peer.intercept_), rel=1e-9)
    assert line.r2 == pytest.approx(peer.score(choices, scores, sample_weight=weights), rel=1e-9)


def test_with_shapleys_kernel_the_coefficients_are_shapley_values(model, x) -> None:
    for count in (2, 5, 8):
        scores = torch.randn(2**count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
        line = by_shapley(every(count), scores, 3.0, 0.0, float(scores[0]), float(scores[-1]))
        np.testing.assert_allclose(line.coefficients, exact(scores), rtol=1e-9, atol=1e-12)
    (got,) = run(model, x, logit(2), grid=3, kernel="shapley", alpha=0, fill="black")
    (want,) = finish(explain(model, get("shapley"), x, logit(2), {"grid": 3, "fill": "black"}))
    np.testing.assert_allclose(got.values, want.values, rtol=1e-9, atol=1e-12)


def test_pictures_built_by_hand(model, x) -> None:
    """All 16 choices of four regions: hidden ones in their own mean colour, each choice counting 1000 / 16 times."""
    (result,) = run(model, x, logit(2), grid=2)
    boxes = [(slice(r, r + 6), slice(c, c + 8)) for r in (0, 6) for c in (0, 8)]
    choices, scores = np.zeros((16, 4)), np.zeros(16)
    for k in range(16):
        picture = x.clone()
        for i, box in enumerate(boxes):
            choices[k, i] = k >> i & 1
            if not choices[k, i]:
                picture[0][(slice(None), *box)] = x[0][(slice(None), *box)].mean((1, 2), keepdim=True)
        with torch.no_grad():
            scores[k] = model.network(picture)[0, 2]
    distance = 1 - np.sqrt(choices.mean(1))
    weights = np.sqrt(np.exp(-(distance**2) / 0.25**2)) * 1000 / 16
    peer = Ridge(alpha=1.0).fit(choices, scores, sample_weight=weights)
    np.testing.assert_allclose(result.evidence["coefficients"], peer.coef_, rtol=1e-9)
    np.testing.assert_allclose(result.values[::6, ::8].ravel(), peer.coef_, rtol=1e-9)
    assert result.evidence["r2"] == pytest.approx(
        peer.score(choices, scores, sample_weight=weights), rel=1e-9
    )
    assert result.evidence["evaluations"] == 16


def test_random_choices_are_fair_coins_after_the_whole_picture(x) -> None:
    model, _ = linear()
    seen: list[Tensor] = []
    model.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    run(model, x, fill="black", samples=400)
    pictures = torch.cat(seen)
    shown = (pictures[:, 0, ::3, ::4] != 0).flatten(1)
    assert shown.double().mean(0).sub(0.5).abs().max() < 0.12
    assert bool(shown.all(1).any())
    pairs = (shown * 2.0 - 1).T @ (shown * 2.0 - 1) / len(shown)
    assert pairs.fill_diagonal_(0).abs().max() < 0.25


def test_quickshift_has_the_authors_parameters(x) -> None:
    from skimage.segmentation import quickshift

    smooth = nn.functional.avg_pool2d(torch.rand(1, 3, 60, 60, dtype=torch.float64), 9, 1)[0]
    want = quickshift(smooth.permute(1, 2, 0).numpy(), kernel_size=4, max_dist=200, ratio=0.2, rng=3)
    got = divide(smooth, "quickshift", 0, 0, 3)
    assert got.count == len(np.unique(want)) > 1
    for one in np.unique(want):
        assert len(got.labels[torch.from_numpy(want == one)].unique()) == 1


def test_what_speaks_for_and_against_is_shown() -> None:
    """Red speaks for the class, green against it."""

    class Red(nn.Module):
        def forward(self, p: Tensor) -> Tensor:
            return torch.stack([p[:, 0].mean((1, 2)) - p[:, 1].mean((1, 2)), p.mean((1, 2, 3))], 1)

    model, x = VisionModel(Red(), Preprocess(), name="red"), patches()
    (result,) = run(model, x, 0, players="slic", superpixels=4, fill="black", alpha=0, top=1)
    assert (result.values[:6, 8:] > 0.2).all()
    assert (result.values[6:, :8] < -0.2).all()
    kept = (np.abs(result.panels["supporting"].values - result.image.transpose(2, 0, 1)) < 1e-9).all(0)
    assert kept[:6, 8:].all()
    assert not kept[:, :8].any()
    kept = (np.abs(result.panels["opposing"].values - result.image.transpose(2, 0, 1)) < 1e-9).all(0)
    assert kept[6:, :8].all()
    assert not kept[:6].any()


class Odd(nn.Module):
    """Answers whether an even number of quarters is bright: no sum of them says that."""

    def forward(self, p: Tensor) -> Tensor:
        bright = (p.mean(1).unfold(1, 6, 6).unfold(2, 8, 8).mean((3, 4)) > 0.25).flatten(1)
        even = 1.0 - bright.sum(1) % 2
        return torch.stack([even, 1 - even], 1).to(p)


def test_a_low_r2_is_warned_of(model) -> None:
    odd = VisionModel(Odd(), Preprocess(), name="odd")
    bright = torch.full((1, 3, H, W), 0.9, dtype=torch.float64)
    (result,) = run(odd, bright, 0, grid=2, fill="black")
    assert result.evidence["r2"] < 0.5
    assert any(n.startswith("warning: R²") for n in result.notes)
    (result,) = run(odd, torch.zeros_like(bright), 0, grid=2, fill="black")
    assert math.isnan(result.evidence["r2"])
    assert any("the same whatever" in n for n in result.notes)
    (result,) = run(linear()[0], bright, fill="black")
    assert not any("R²" in n for n in result.notes)


def test_one_superpixel_is_refused(model) -> None:
    with pytest.raises(MethodRefusedError, match="one superpixel") as caught:
        run(model, torch.full((1, 3, H, W), 0.3, dtype=torch.float64), players="quickshift")
    assert caught.value.hint == "players='grid'"


def test_previews_batch_and_seed(model) -> None:
    batch = torch.rand(4, 3, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    steps: list[Progress] = []
    options = {"players": "grid", "grid": 4, "samples": 50}
    together = finish(explain(model, get("lime"), batch, 1, options), steps.append)
    assert all(s.preview.shape == (H, W) for s in steps)
    assert len(steps) >= 4
    for i, result in enumerate(together):
        (alone,) = run(model, batch[i : i + 1], samples=50)
        np.testing.assert_array_equal(result.values, alone.values)
        assert result.evidence == alone.evidence
    (other,) = run(model, batch[:1], seed=1, samples=50)
    assert np.abs(other.values - together[0].values).max() > 1e-9


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_channels_of_a_layer_instead_of_regions(alpha) -> None:
    """On S = b + sum_k w_k mean(A_k) the coefficient of channel k is w_k mean(A_k), laid where the channel is active."""
    torch.manual_seed(3)
    net = GapNet().double().eval()
    x = torch.rand(2, 3, H, W, dtype=torch.float64)
    options = {"layer": "features.4", "samples": 100, "alpha": alpha, "top": 2}
    results = finish(explain(wrap(net), get("lime"), x, 3, options))
    with torch.no_grad():
        maps = net.features(x).numpy()
    weights = net.fc.weight[3].detach().numpy()
    for result, one in zip(results, maps, strict=True):
        want = weights * one.mean((1, 2))
        got = np.array(result.evidence["coefficients"])
        heat = np.einsum("k,khw->hw", got, one / np.maximum(one.sum((1, 2), keepdims=True), 1e-300))
        np.testing.assert_allclose(result.values, heat, rtol=1e-9, atol=1e-14)
        largest = np.argsort(-np.abs(got))[:2]
        assert list(result.evidence["largest"]) == [str(k) for k in largest]
        assert result.layer == "features.4"
        if alpha == 0:
            np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)
        else:
            assert np.linalg.norm(got) < np.linalg.norm(want)


def test_too_few_choices_for_the_coefficients_are_warned_of(model, x) -> None:
    for samples, warned in ((20, True), (60, False)):
        (result,) = run(model, x, samples=samples)
        assert any("different choices for 16 coefficients" in n for n in result.notes) == warned
    (result,) = run(model, x, grid=2)  # all 16 choices of four regions
    assert not any("different choices" in n for n in result.notes)


def test_an_unknown_layer_is_named(model, x) -> None:
    with pytest.raises(UnknownNameError, match="no_such"):
        run(model, x, layer="no_such")


def test_one_choice_between_all_and_none_tells_nothing_of_the_fit(model, x) -> None:
    (result,) = run(model, x, samples=2, kernel="shapley")
    assert math.isnan(result.evidence["r2"])
    assert any("R² is undefined" in n for n in result.notes)
    assert not any("the same whatever" in n for n in result.notes)


@pytest.mark.parametrize("layer", ["3", "4"])
def test_a_layer_without_rows_and_columns_is_refused(model, x, layer) -> None:
    with pytest.raises(UsageError, match="no rows and columns"):
        run(model, x, layer=layer)
