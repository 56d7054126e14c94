"""The share of the strongest values on the background, and the reward of finding a bias, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from cutaway.core.errors import UsageError
from cutaway.metrics import METRICS, UndefinedError
from cutaway.metrics.background import background_share, bias_found


def test_the_share_of_planted_maps_is_what_was_planted() -> None:
    truth = np.zeros((10, 10), bool)
    truth[:2] = True
    heat = torch.zeros(10, 10)
    heat[0, :6] = 3.0  # 18 on the object
    heat[5, :4] = 0.5  # 2 on the background
    heat[9] = -50.0  # evidence against the class is no evidence for it
    assert background_share(heat, truth, top=0.1) == pytest.approx(2 / 20)
    assert background_share(heat, truth, top=0.06) == 0
    assert background_share(heat, truth, top=1.0) == pytest.approx(2 / 20)
    assert background_share(heat, ~truth, top=0.1) == pytest.approx(18 / 20)
    assert background_share(7 * heat, truth) == pytest.approx(background_share(heat, truth))


def test_places_that_tie_for_the_last_rank_count_as_in_the_mean_over_random_choices() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random((8, 8)) < 0.3
    heat = rng.integers(0, 4, (8, 8)).astype(np.float64)
    room, chosen = 24, []
    for _ in range(6000):
        order = np.lexsort((rng.random(64), -heat.ravel()))[:room]
        chosen.append(heat.ravel()[order][~truth.ravel()[order]].sum() / heat.ravel()[order].sum())
    mine = background_share(torch.from_numpy(heat), truth, top=room / 64)
    assert abs(mine - np.mean(chosen)) < 4 * np.std(chosen) / np.sqrt(6000)


def test_evidence_strewn_evenly_reaches_the_share_of_the_area() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((20, 20), bool)
    truth[3:9, 5:15] = True
    shares = [background_share(torch.from_numpy(rng.random((20, 20))), truth) for _ in range(600)]
    assert abs(np.mean(shares) - 0.85) < 4 * np.std(shares) / np.sqrt(600)
    assert background_share(torch.ones(20, 20), truth) == pytest.approx(0.85)


def test_a_map_of_regions_counts_its_largest_regions() -> None:
    """Two regions of a quarter each are the strongest half; the third and fourth do not count."""
    truth = np.zeros((8, 8), bool)
    truth[:4, :4] = True
    heat = torch.tensor([[4.0, 1.0], [0.5, 0.2]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert background_share(heat, truth, top=0.5) == pytest.approx(1 / 5)


def test_no_background_and_no_values_are_undefined() -> None:
    some = torch.rand(4, 5)
    half = np.zeros((4, 5), bool)
    half[:2] = True
    with pytest.raises(UndefinedError, match="no positive values"):
        background_share(-some, half)
    for truth in (np.zeros((4, 5), bool), np.ones((4, 5), bool)):
        with pytest.raises(UndefinedError, match="nothing or everything"):
            background_share(some, truth)
    with pytest.raises(UsageError, match="top=0"):
        METRICS["background_share"].options({"top": 0})


def test_the_reward_is_the_rank_sum_and_the_paired_difference_of_scipy() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        one, other = np.round(rng.random(17), 1), np.round(rng.random(17) * 0.8, 1)
        found = bias_found(one.tolist(), other.tolist())
        wins = scipy.stats.mannwhitneyu(one, other).statistic
        assert found.auc == pytest.approx(wins / 17**2, rel=1e-12)
        assert found.difference[0] / found.difference[1] == pytest.approx(
            scipy.stats.ttest_rel(one, other).statistic, rel=1e-9
        )
        assert found.biased[1] == pytest.approx(scipy.stats.sem(one), rel=1e-12)
        assert found.pictures == 17


def test_results_are_opposite_only_where_each_mean_is_sure_of_its_side() -> None:
    high, low, unsure = [0.8, 0.9, 1.0], [0.0, 0.1, 0.2], [0.0, 0.55, 1.0]
    assert bias_found(high, low).opposite
    for biased, twin in ((low, high), (high, high), (low, low), (unsure, low), (high, unsure)):
        assert not bias_found(biased, twin).opposite
    assert bias_found(high, high).auc == 0.5
    for biased, twin in (([0.5], [0.5]), ([0.1, 0.2], [0.3])):
        with pytest.raises(UsageError, match="two or more pictures"):
            bias_found(biased, twin)
