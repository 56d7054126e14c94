"""Numbers that the docs state: the width of the blurred baseline, the standard error of SmoothGrad."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from cutaway.methods.gradient.baselines import baseline_of


def model() -> cutaway.VisionModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 28, 28))
    return cutaway.VisionModel(net.double(), cutaway.Preprocess(), name="curved")


def test_the_blurred_baseline_is_a_gaussian_of_a_14th_of_the_short_side() -> None:
    x = torch.zeros(1, 3, 28, 57, dtype=torch.float64)
    x[..., 14, 28] = 1
    row = baseline_of(model(), x, "blur")[0, 0].sum(0)
    spread = float((row * (torch.arange(57) - 28.0) ** 2).sum() / row.sum())
    assert math.sqrt(spread) == pytest.approx(28 / 14, rel=0.03)


def test_the_standard_error_is_that_of_a_mean() -> None:
    x, count = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(1)), 4
    parts = {
        v: model().explain(x, "smooth_grad", target=1, samples=count, variant=v, reduce="rgb")
        for v in ("mean", "variance")
    }
    unbiased = np.mean(parts["variance"].values) * count / (count - 1)
    wanted = np.sqrt(unbiased / count) / np.sqrt(np.mean(parts["mean"].values ** 2))
    assert parts["mean"].evidence["standard error"] == pytest.approx(float(wanted))
