"""SmoothGrad: closed forms on linear and quadratic scores, no noise, the sum by hand, Captum's way to vary."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.methods import METHODS

from .nets import GapNet, picture, wrap


class Quadratic(nn.Module):
    """S(x) = sum a x^2 / 2, whose gradient a x is a Gaussian under Gaussian noise."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(-2, 3, 3 * 4 * 4).view(1, 3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a * x**2 / 2).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("samples", [1, 7])
def test_linear_model_gives_the_gradient_for_any_noise(sigma: float, samples: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 3)).double()
    want = net[1].weight[2].detach().view(3, 4, 5)
    options = {"sigma": sigma, "samples": samples, "reduce": "rgb"}
    model, x = wrap(net), picture(3, 4, 5)
    np.testing.assert_allclose(model.explain(x, "smooth_grad", 2, **options).values, want, rtol=1e-12)
    squared = model.explain(x, "smooth_grad", 2, variant="squared", **options).values
    np.testing.assert_allclose(squared, want**2, rtol=1e-12)
    assert np.abs(model.explain(x, "smooth_grad", 2, variant="variance", **options).values).max() < 1e-25


@pytest.mark.parametrize("reduce", ["max", "sum", "rgb"])
def test_without_noise_it_is_saliency(reduce: str) -> None:
    model, x = wrap(GapNet()), picture(1, 3, 9, 8)
    got = model.explain(x, "smooth_grad", 1, sigma=0, samples=5, reduce=reduce)
    want = model.explain(x, "saliency", 1, reduce=reduce)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-12, atol=1e-16)
    assert got.signed == want.signed
    assert got.evidence["score"] == want.evidence["score"]


def test_quadratic_score_gives_the_moments_of_the_noise() -> None:
    net, x = Quadratic().double(), picture(1, 3, 4, 4) * 0.7 + 0.1
    model, a = wrap(net), net.a.detach()[0].numpy()
    options = {"samples": 4000, "sigma": 0.3, "reduce": "rgb"}
    width = 0.3 * float(x.max() - x.min())
    mean = model.explain(x, "smooth_grad", 0, **options)
    np.testing.assert_allclose(mean.evidence["sigma"], width, rtol=1e-12)
    # the gradient at a pixel is a (u + width n): mean a u, variance (a width)^2
    assert np.abs((mean.values - a * x[0].numpy()) / (a * width)).max() < 4.5 / 4000**0.5
    variance = model.explain(x, "smooth_grad", 0, variant="variance", **options).values
    assert np.abs(variance / (a * width) ** 2 - 1).max() < 4.5 * (2 / 4000) ** 0.5
    squared = model.explain(x, "smooth_grad", 0, variant="squared", **options).values
    np.testing.assert_allclose(squared, variance + mean.values**2, rtol=1e-10)
    want = width * np.sqrt((a**2).mean() / 4000) / np.sqrt(((a * x[0].numpy()) ** 2).mean())
    np.testing.assert_allclose(mean.evidence["standard error"], want, rtol=0.03)


def test_signs_are_dropped_after_the_mean() -> None:
    net = GapNet().double().eval()
    model, x = wrap(net), picture(1, 3, 8, 8)
    got = model.explain(x, "smooth_grad", 2, samples=6, sigma=0.4, seed=11).values
    torch.manual_seed(11)
    width = 0.4 * (x.max() - x.min())
    total = torch.zeros_like(x)
    for _ in range(6):
        noisy = (x + width * torch.randn(3, 8, 8).double()).requires_grad_()
        total += torch.autograd.grad(net(noisy)[0, 2], noisy)[0] / 6
    np.testing.assert_allclose(got, total[0].abs().amax(0), rtol=1e-10)


def test_each_picture_has_noise_by_its_own_range() -> None:
    model = wrap(GapNet())
    x = torch.cat([picture(1, 3, 8, 8), 0.2 * picture(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5).double()])
    results = list(finish(explain(model, METHODS["smooth_grad"], x, 2, {"samples": 40, "sigma": 0.5})))
    for i, result in enumerate(results):
        alone = model.explain(x[i : i + 1], "smooth_grad", 2, samples=40, sigma=0.5)
        np.testing.assert_allclose(result.values, alone.values, rtol=1e-12)
    assert results[1].evidence["sigma"] == pytest.approx(0.2 * results[0].evidence["sigma"])
    assert results[2].evidence["sigma"] == 0
    assert any("one colour" in note for note in results[0].notes)


def test_another_seed_is_other_noise() -> None:
    model, x = wrap(GapNet()), picture(1, 3, 8, 8)
    one, two = (model.explain(x, "smooth_grad", 2, samples=4, sigma=1, seed=s).values for s in (1, 2))
    assert np.abs(one - two).max() > 0


def test_the_preview_is_the_running_mean() -> None:
    model, x = wrap(GapNet()), picture(1, 3, 8, 8)
    seen: list[Progress] = []
    options = {"samples": 40, "sigma": 0.5}
    last = finish(explain(model, METHODS["smooth_grad"], x, 2, options), seen.append)[0]
    assert [(s.done, s.total) for s in seen] == [(32, 40), (40, 40)]
    np.testing.assert_array_equal(seen[-1].preview[0], last.values)
    first = model.explain(x, "smooth_grad", 2, samples=32, sigma=0.5)
    np.testing.assert_array_equal(seen[0].preview[0], first.values)
    assert isinstance(first, cutaway.Attribution)
