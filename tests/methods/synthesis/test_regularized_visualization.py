"""Regularized visualization: every operator against numpy and SciPy, the published combinations by their numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import cutaway
from cutaway.core.errors import MethodRefusedError
from cutaway.core.progress import finish
from cutaway.core.result import Result
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.methods.synthesis.regularized_visualization import PUBLISHED

SIDE, MEAN = 9, np.array([0.4, 0.5, 0.6])
QUIET = {
    "decay": 0.0, "blur_radius": 0.0, "blur_every": 0, "norm_percentile": 0.0, "contribution_percentile": 0.0,
    "progress": 0.0, "rate": 300.0,
}  # fmt: skip


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(1)
    return (
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Flatten(), nn.Linear(6 * 49, 4)).double().eval()
    )


def model_of(net: nn.Module, **how: Any) -> cutaway.VisionModel:
    prep = cutaway.Preprocess(crop=SIDE, mean=tuple(MEAN), std=(0.2, 0.3, 0.25), **how)
    return cutaway.VisionModel(net, prep, name="small")


def drawn(model: cutaway.VisionModel, target: Any, **options: Any) -> Result:
    return finish(explain(model, METHODS["regularized_visualization"], None, target, options))[0]


def slope(net: nn.Module, levels: np.ndarray) -> np.ndarray:
    """Gradient of class 1 by numbers of 0 to 255 less the mean."""
    x = torch.from_numpy(levels)[None].requires_grad_()
    std = torch.tensor([0.2, 0.3, 0.25], dtype=torch.float64).view(3, 1, 1)
    (g,) = torch.autograd.grad(net(x / 255 / std)[0, 1], x)
    return g[0].numpy()


def by_hand(net: nn.Module, start: np.ndarray, steps: int, **own: Any) -> np.ndarray:
    """The published loop, in numpy: clip, climb, decay, blur, small norm, small contribution; pixels in the end."""
    o, mean = QUIET | own, 255 * MEAN[:, None, None]
    x = start
    for i in range(steps):
        x = np.clip(x + mean, 0, 255) - mean
        g = slope(net, x)
        rate = o["rate"] if not o["progress"] else min(o["rate"], o["progress"] / np.linalg.norm(g) ** 2)
        x = (x + rate * g) * (1 - o["decay"])
        if o["blur_every"] and i % o["blur_every"] == 0:
            x = np.stack([gaussian_filter(c, o["blur_radius"]) for c in x])
        if o["norm_percentile"]:
            norms = np.linalg.norm(x, axis=0)
            x = x * (norms >= np.percentile(norms, o["norm_percentile"]))
        if o["contribution_percentile"]:
            benefit = np.abs((x * g).sum(0))
            x = x * (benefit >= np.percentile(benefit, o["contribution_percentile"]))
    return np.clip(x + mean, 0, 255) / 255


def beginning() -> np.ndarray:
    """The start the package draws for seed 0: normal numbers of spread 10."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return 10 * torch.randn(1, 3, SIDE, SIDE, generator=random, dtype=torch.float64)[0].numpy()


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"decay": 0.3},
        {"blur_radius": 0.5, "blur_every": 1},
        {"blur_radius": 1.7, "blur_every": 2},
        {"norm_percentile": 37.0},
        {"contribution_percentile": 81.0},
        {"progress": 2.0, "rate": 1e9},
        {"progress": 2.0},
        {
            "decay": 0.01,
            "blur_radius": 1.0,
            "blur_every": 2,
            "norm_percentile": 20.0,
            "contribution_percentile": 30.0,
        },
    ],
    ids=str,
)
def test_three_steps_of_each_operator_by_hand(net: nn.Sequential, own: dict[str, Any]) -> None:
    found = drawn(model_of(net), 1, **QUIET | own, steps=3)
    right = by_hand(net, beginning(), 3, **own)
    np.testing.assert_allclose(found.values, right, rtol=0, atol=1e-12)
    assert np.abs(right - by_hand(net, beginning(), 3, rate=1e-9)).max() > 1e-3


def test_the_four_published_combinations() -> None:
    table = {
        name: (
            q.decay,
            q.blur_radius,
            q.blur_every,
            q.norm_percentile,
            q.contribution_percentile,
            q.progress,
            q.steps,
        )
        for name, q in PUBLISHED.items()
    }
    assert table == {
        "blur_and_norm": (0, 0.5, 4, 50, 0, 2, 500),
        "decay_and_norm": (0.3, 0, 0, 20, 0, 0, 750),
        "blur_and_decay": (1e-4, 1.0, 4, 0, 0, 0, 1000),
        "blur_and_contribution": (0, 0.5, 4, 0, 90, 2, 1000),
    }
    assert {q.rate for q in PUBLISHED.values()} == {100.0}


@pytest.mark.parametrize("settings", sorted(PUBLISHED))
def test_settings_are_their_numbers_and_give_way_to_numbers(net: nn.Sequential, settings: str) -> None:
    published = {k: getattr(PUBLISHED[settings], k) for k in QUIET}
    found = drawn(model_of(net), 1, settings=settings, steps=5)
    np.testing.assert_allclose(found.values, by_hand(net, beginning(), 5, **published), rtol=0, atol=1e-12)
    changed = drawn(model_of(net), 1, settings=settings, steps=5, decay=0.9)
    np.testing.assert_allclose(
        changed.values, by_hand(net, beginning(), 5, **published | {"decay": 0.9}), rtol=0, atol=1e-12
    )


def test_a_weak_blur_is_told(net: nn.Sequential) -> None:
    weak = drawn(model_of(net), 1, blur_radius=0.2, steps=1)
    assert any("0.3" in note for note in weak.notes)
    assert not any("radius" in note for note in drawn(model_of(net), 1, blur_radius=0.3, steps=1).notes)


def test_a_unit_is_drawn_on_what_it_sees(net: nn.Sequential) -> None:
    found = drawn(model_of(net), cutaway.channel("0", 2), steps=2)
    assert found.values.shape == (3, 3, 3)


def test_a_dead_unit_is_refused_by_name(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].weight[2] = 0
    with pytest.raises(MethodRefusedError, match=r"exactly zero at the start, 0:2:"):
        drawn(model_of(net), cutaway.channel("0", 2), steps=2)


def test_the_range_of_pixels_holds_at_every_step(net: nn.Sequential) -> None:
    found = drawn(model_of(net), 1, rate=1e8, steps=3)
    assert found.values.min() >= 0
    assert found.values.max() <= 1
    assert ((found.values < 1e-9) | (found.values > 1 - 1e-9)).mean() > 0.5
