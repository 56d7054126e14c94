"""Gradient times input: closed form, homogeneity, Captum."""

import numpy as np
import torch
from captum.attr import InputXGradient
from torch import nn

import cutaway

from .nets import GapNet, picture, wrap


def homogeneous() -> nn.Sequential:
    """Convolutions, ReLU, pooling and a linear layer without any bias: S(t x) = t S(x) for t > 0."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 4, 3, bias=False),
    ).double()


def test_linear_model_gives_weight_times_pixel() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 3)).double()
    x = picture(3, 4, 5)
    result = wrap(net).explain(x, "gradient_times_input", target=2, reduce="rgb")
    weight, bias = net[1].weight[2].detach().view(3, 4, 5), net[1].bias[2].item()
    np.testing.assert_allclose(result.values, weight * x, rtol=1e-12)
    np.testing.assert_allclose(result.evidence["left out"], bias, rtol=1e-10)


def test_adds_up_to_the_score_without_biases() -> None:
    net, x = homogeneous(), picture(1, 3, 8, 8)
    result = wrap(net).explain(x, "gradient_times_input", target=1)
    np.testing.assert_allclose(result.values.sum(), net(x)[0, 1].item(), rtol=1e-12)
    assert abs(result.evidence["left out"]) < 1e-12 * abs(result.evidence["score"])


def test_in_the_networks_own_space_it_adds_up_under_any_normalisation() -> None:
    prep = cutaway.Preprocess(mean=(104, 117, 123), std=(50, 60, 70), channels="BGR", range=255)
    net, x = homogeneous(), picture(1, 3, 8, 8)
    model = cutaway.VisionModel(net, prep, name="normalised")
    result = model.explain(x, "gradient_times_input", target=1, origin="network")
    score = model(x)[0, 1].item()
    np.testing.assert_allclose(result.values.sum(), score, rtol=1e-10)
    black = model.explain(x, "gradient_times_input", target=1).values.sum()
    assert abs(black - score) > 1e-3 * abs(score)


def test_equals_captum() -> None:
    net, x = GapNet().double().eval(), picture(2, 3, 9, 7)
    want = InputXGradient(net).attribute(x.clone().requires_grad_(), target=3).detach()
    model = wrap(net)
    for i in range(2):
        got = model.explain(x[i : i + 1], "gradient_times_input", target=3, reduce="rgb").values
        np.testing.assert_allclose(got, want[i], rtol=1e-10, atol=1e-14)
