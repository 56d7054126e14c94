"""RISE against loops over its masks, the exact expectation on a linear network, and limits that must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway.core.method import get
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.core.target import probability
from cutaway.methods.perturbation.rise import drawn

H, W = 10, 13
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model() -> VisionModel:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, 4)
    )
    net(torch.zeros(1, 3, H, W))
    return VisionModel(net.double().eval(), Preprocess(mean=MEAN, std=STD), name="small")


def run(model: VisionModel, x: Tensor, target=1, seed: int = 0, **options):
    return finish(explain(model, get("rise"), x, target, {"samples": 60, "cells": 3, **options}, seed=seed))


def masks_of(seed: int, samples: int, cells: int, chance: float) -> np.ndarray:
    """The masks of a run with this seed."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    return drawn((H, W), samples, cells, chance, generator).part(0, samples).numpy()


def enlarged(cells: int, length: int, shift: int) -> np.ndarray:
    """Which share of each cell (length, cells) a pixel holds: bilinear, by hand."""
    block = math.ceil(length / cells)
    share = np.zeros((length, cells))
    for pixel in range(length):
        place = (pixel + shift + 0.5) * cells / ((cells + 1) * block) - 0.5
        place = min(max(place, 0), cells - 1)
        low = min(int(place), cells - 1)
        share[pixel, low] += 1 - (place - low)
        share[pixel, min(low + 1, cells - 1)] += place - low
    return share


@pytest.mark.parametrize("cells", [1, 3, 7])
def test_masks_are_coins_enlarged_and_shifted(cells) -> None:
    masks = drawn((H, W), 40, cells, 0.4, torch.Generator().manual_seed(1))
    for mask, coins, (top, left) in zip(
        masks.part(0, 40), masks.coins.double().numpy(), masks.shifts.tolist(), strict=True
    ):
        want = enlarged(cells, H, top) @ coins @ enlarged(cells, W, left).T
        np.testing.assert_allclose(mask, want, atol=1e-12)
    many = drawn((H, W), 4000, cells, 0.4, torch.Generator().manual_seed(2))
    assert float(many.coins.double().mean()) == pytest.approx(0.4, abs=0.03)
    for shifts, length in zip(many.shifts.T.tolist(), (H, W), strict=True):
        assert set(shifts) == set(range(math.ceil(length / cells)))


@pytest.mark.parametrize("centre", [False, True])
def test_the_same_masks_by_hand(model, x, centre) -> None:
    (result,) = run(model, x, probability(2), seed=3, probability=0.3, fill="white", centre=centre)
    masks = masks_of(3, 60, 3, 0.3)
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    scores = []
    for mask in torch.from_numpy(masks):
        with torch.no_grad():
            scores.append(float(model.network((mask * x + (1 - mask) - mean) / std).softmax(1)[0, 2]))
    counted = (np.array(scores) - centre * np.mean(scores))[:, None, None] * masks
    np.testing.assert_allclose(result.values, counted.mean(0) / 0.3, rtol=1e-9, atol=1e-12)
    error = counted.std(0, ddof=1) / math.sqrt(60) / 0.3
    np.testing.assert_allclose(result.panels["standard_error"].values, error, rtol=1e-6, atol=1e-12)
    assert result.evidence["mean score"] == pytest.approx(np.mean(scores), rel=1e-12)
    assert result.evidence["standard error"] == pytest.approx(math.sqrt((error**2).mean()), rel=1e-6)
    assert result.signed == centre


@pytest.mark.parametrize("centre", [False, True])
def test_expectation_on_a_linear_network(x, centre) -> None:
    """S = b + sum d M has E[S] = S(fill) + p sum d; E[S M(y)] / p is (1 - p) sum_x d(x) E[a(x) . a(y)] more.

    a(x) are the shares of the cells in pixel x.
    """
    torch.manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * H * W, 2)).double()
    model, cells, p = VisionModel(net, Preprocess(), name="linear"), 3, 0.4
    d = (net[1].weight[1].detach().view(3, H, W) * (x[0] - 0.5)).sum(0).numpy()
    with torch.no_grad():
        start = float(net(torch.full_like(x, 0.5))[0, 1])

    def alike(length: int) -> list[np.ndarray]:
        return [(a := enlarged(cells, length, s)) @ a.T for s in range(math.ceil(length / cells))]

    # shifts down and across are independent, so the mean over both is the product of the means
    together = np.mean(alike(H), 0) @ d @ np.mean(alike(W), 0)
    want = (1 - p) * together + (0 if centre else start + p * d.sum())
    (result,) = run(model, x, samples=20_000, probability=p, fill="grey", centre=centre)
    error = result.panels["standard_error"].values
    apart = (result.values - want) / error
    assert np.abs(apart).max() < 5
    assert error.max() < 0.1 * np.ptp(want)


def test_masks_of_ones_give_the_score_everywhere(model, x) -> None:
    (result,) = run(model, x, probability=1, samples=4, centre=False)
    np.testing.assert_allclose(result.values, result.evidence["score"], rtol=1e-12)
    np.testing.assert_allclose(result.panels["standard_error"].values, 0, atol=1e-7)
    (result,) = run(model, x, probability=1, samples=4)
    np.testing.assert_allclose(result.values, 0, atol=1e-12)
    assert any("nothing to compare" in n for n in result.notes)


def test_the_spot_that_matters_is_found() -> None:
    class Spot(nn.Module):
        def forward(self, p: Tensor) -> Tensor:
            inside = p[:, :, 6:9, 2:5].mean((1, 2, 3))
            return torch.stack([inside, -inside], 1)

    x = torch.ones(1, 3, H, W, dtype=torch.float64)
    (result,) = run(VisionModel(Spot(), Preprocess(), name="spot"), x, 0, samples=2000, cells=5, fill="black")
    row, col = np.unravel_index(result.values.argmax(), result.values.shape)
    assert 6 <= row < 9
    assert 2 <= col < 5


def test_previews_batch_and_seed(model) -> None:
    batch = torch.rand(4, 3, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    steps: list[Progress] = []
    together = finish(explain(model, get("rise"), batch, 1, {"samples": 600, "cells": 3}), steps.append)
    assert all(s.preview.shape == (H, W) for s in steps)
    assert len(steps) > 4
    assert (steps[-1].done, steps[-1].total) == (2400, 2400)
    np.testing.assert_allclose(steps[-1].preview, together[3].values, rtol=1e-6)
    for i, result in enumerate(together):
        (alone,) = run(model, batch[i : i + 1], samples=600)
        np.testing.assert_array_equal(result.values, alone.values)
    (other,) = run(model, batch[:1], seed=1, samples=600)
    assert np.abs(other.values - together[0].values).max() > 1e-9


@pytest.mark.parametrize("centre", [True, False])
def test_a_target_that_no_mask_changes_is_said(model, x, centre) -> None:
    with torch.no_grad():
        model.network[5].weight.zero_()
    (result,) = run(model, x, centre=centre)
    assert any("the same whatever of this picture" in n for n in result.notes)
