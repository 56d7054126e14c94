"""Metrics beside Quantus where it answers the same question, and where its answer is another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cutaway import Preprocess, VisionModel
from cutaway.core.target import logit
from cutaway.metrics import UndefinedError
from cutaway.metrics.location import pointing_game
from cutaway.metrics.removal import removal_curve

quantus: Any = pytest.importorskip("quantus")


def points(maps: np.ndarray, truths: np.ndarray) -> list[float]:
    """What Quantus makes of maps and truths (N, H, W)."""
    game = quantus.PointingGame(disable_warnings=True)
    return list(game.evaluate_batch(a_batch=maps[:, None], s_batch=truths[:, None]))


def test_the_pointing_game_is_that_of_quantus_but_for_ties() -> None:
    rng = np.random.default_rng(3)
    maps, truths = rng.standard_normal((60, 9, 7)), rng.random((60, 9, 7)) < 0.4
    mine = [pointing_game(torch.from_numpy(m), t) for m, t in zip(maps, truths, strict=True)]
    assert mine == points(maps, truths)
    assert 0 < np.mean(mine) < 1
    truth = np.array([[True, False, False]])
    tied = np.array([[1.0, 1.0, 0.0]])
    assert points(tied[None], truth[None]) == [1]  # any place that shares the largest value
    assert pointing_game(torch.from_numpy(tied), truth) == 0.5
    assert points(np.ones((1, 1, 3)), truth[None]) == [1]  # a constant map always hits
    with pytest.raises(UndefinedError):
        pointing_game(torch.ones(1, 3), truth)


@pytest.mark.filterwarnings("ignore")
def test_deletion_visits_the_pictures_of_pixel_flipping() -> None:
    """On one colour, where a pixel is a value; its area is a sum over steps that grows with their number, ours a mean."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    model = VisionModel(net, Preprocess(channels="L"), name="grey")
    x, heat = torch.rand(1, 1, 8, 8), torch.randn(8, 8).double()
    for steps in (4, 16):
        flipping = quantus.PixelFlipping(
            features_in_step=64 // steps,
            perturb_func=lambda arr, indices, **_: fill(arr, indices, 0.5),
            disable_warnings=True,
            return_auc_per_sample=False,
        )
        peer = quantus.helpers.model.pytorch_model.PyTorchModel(net, softmax=False)
        (theirs,) = flipping.evaluate_batch(
            model=peer, x_batch=x.numpy(), y_batch=np.array([1]), a_batch=heat.numpy()[None, None]
        )
        mine = removal_curve(model, x, heat, logit(1), steps=steps, fill="grey", of="score")
        np.testing.assert_allclose(
            mine[1:].numpy(), theirs, atol=1e-6
        )  # Quantus runs every network in float32
        with torch.no_grad():
            assert float(mine[0]) == pytest.approx(float(net(x)[0, 1]), abs=1e-6)  # which it leaves out


def fill(values: np.ndarray, places: np.ndarray, colour: float) -> np.ndarray:
    out = values.copy()
    np.put_along_axis(out, places, colour, axis=1)
    return out
