"""Saliency: closed form, finite differences, Captum."""

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import Saliency
from torch import nn

import cutaway
from cutaway.core.errors import MethodRefusedError

from .nets import GapNet, picture, wrap


def test_linear_model_gives_largest_weight() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 3)).double()
    got = wrap(net).explain(picture(3, 4, 5), "saliency", target=2).values
    np.testing.assert_array_equal(got, net[1].weight[2].detach().view(3, 4, 5).abs().amax(0))


@pytest.mark.parametrize("reduce", ["max", "sum", "rgb"])
def test_equals_finite_differences_in_pixel_space(reduce: str) -> None:
    prep = cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="BGR", range=255)
    model = cutaway.VisionModel(GapNet().double().eval(), prep, name="gap")
    x = picture(1, 3, 6, 7)
    got = model.explain(x, "saliency", target=1, reduce=reduce).values
    numeric = torch.zeros(3, 6, 7, dtype=torch.float64)
    step = 1e-7
    with torch.no_grad():
        for i in range(numeric.numel()):
            d = torch.zeros_like(numeric).flatten()
            d[i] = step
            d = d.view_as(x)
            numeric.view(-1)[i] = (model(x + d) - model(x - d))[0, 1] / (2 * step)
    want = {"max": numeric.abs().amax(0), "sum": numeric.abs().sum(0), "rgb": numeric}[reduce]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_equals_captum_on_resnet() -> None:
    net = torchvision.models.resnet18(weights=None).eval()
    x = picture(1, 3, 64, 64).float()
    want = Saliency(net).attribute(x.clone().requires_grad_(), target=7, abs=True).amax(1)[0].detach().numpy()
    got = wrap(net, double=False).explain(x, "saliency", target=7).values
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * want.max())


def test_target_algebra_is_linear_in_the_gradient() -> None:
    model, x = wrap(GapNet()), picture(1, 3, 8, 8)

    def g(target: cutaway.Target) -> np.ndarray:
        return model.explain(x, "saliency", target=target, reduce="rgb").values

    a, b = cutaway.logit(0), cutaway.logit(3)
    np.testing.assert_allclose(g(2 * a - b), 2 * g(a) - g(b), rtol=1e-12, atol=1e-14)


def test_a_gradient_of_zero_everywhere_is_said() -> None:
    class Rounded(GapNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).round()

    for target, net in ((1, Rounded()), (cutaway.logit(0) - cutaway.logit(0), GapNet())):
        result = wrap(net).explain(picture(3, 8, 8), "saliency", target=target)
        assert result.values.max() == 0
        assert any("all zero" in n for n in result.notes)


def test_output_that_is_not_differentiable_is_refused() -> None:
    class Argmax(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(x.flatten(1).argmax(1), 48).double()

    with pytest.raises(MethodRefusedError, match="differentiable"):
        wrap(Argmax()).explain(picture(3, 4, 4), "saliency", target=1)
