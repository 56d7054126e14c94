"""Class visualization against the closed form of a linear network, in any order of colours and scale."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError
from cutaway.core.progress import finish
from cutaway.core.result import Result
from cutaway.core.run import explain
from cutaway.methods import METHODS

SIDE = 6


def linear(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 4)).double()


def model_of(net: nn.Module, **how: object) -> cutaway.VisionModel:
    prep = cutaway.Preprocess.from_dict(
        {"crop": SIDE, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], **how}
    )
    return cutaway.VisionModel(net, prep, name="small")


def drawn(model: cutaway.VisionModel, target: object, **options: object) -> list[Result]:
    return finish(explain(model, METHODS["class_visualization"], None, target, options))


@pytest.mark.parametrize(
    "how",
    [{}, {"channels": "BGR", "range": 255, "mean": [104, 117, 123], "std": [1.0]}],
    ids=["torch", "caffe"],
)
@pytest.mark.parametrize("decay", [0.05, 3.0])
def test_of_a_linear_network_it_is_the_weight_over_two_lambda(decay: float, how: dict[str, object]) -> None:
    net = linear()
    weight, bias = net[1].weight[2].detach(), float(net[1].bias[2].detach())
    (found,) = drawn(model_of(net, **how), 2, decay=decay, steps=400, rate=0.2, mass=0.5)
    best = (weight / (2 * decay)).view(3, SIDE, SIDE)
    best = best.flip(0) if how else best  # the panel is red first
    np.testing.assert_allclose(
        found.panels["input"].values[0], best, rtol=0, atol=1e-12 * float(best.abs().max())
    )
    size = float(best.square().sum())
    np.testing.assert_allclose(
        found.evidence["value"] - decay * size, float(weight.square().sum()) / (4 * decay) + bias, rtol=1e-12
    )


def test_it_is_shown_with_the_mean_and_says_what_was_clipped() -> None:
    net = linear()
    (found,) = drawn(model_of(net), 2, decay=0.01, steps=400, rate=0.2, mass=0.5)
    mean = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.25], dtype=torch.float64).view(3, 1, 1)
    pixels = (net[1].weight[2].detach() / (2 * 0.01)).view(3, SIDE, SIDE) * std + mean
    np.testing.assert_allclose(found.values, pixels.clamp(0, 1), atol=1e-10)
    outside = float(((pixels < 0) | (pixels > 1)).any(0).double().mean())
    assert 0 < outside < 1
    assert found.evidence["share clipped"] == pytest.approx(outside)


def test_two_steps_with_momentum_by_hand() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Softplus(), nn.Flatten(), nn.Linear(5 * 16, 4)).double()
    decay, rate, mass = 0.7, 0.3, 0.6
    (found,) = drawn(model_of(net), 1, decay=decay, rate=rate, mass=mass, steps=2)
    x, v = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64), 0.0
    for _ in range(2):
        x.requires_grad_()
        value = net(x)[0, 1] - decay * x.square().sum()
        (g,) = torch.autograd.grad(value, x)
        v = mass * v + g
        x = (x + rate / (2 * decay) * v).detach()
    np.testing.assert_allclose(found.panels["input"].values, x, atol=1e-13)


def test_several_classes_are_drawn_as_each_alone() -> None:
    model = model_of(linear())
    together = drawn(model, cutaway.logit(torch.tensor([3, 0])), steps=5)
    for found, k in zip(together, (3, 0), strict=True):
        np.testing.assert_allclose(found.values, drawn(model, k, steps=5)[0].values, atol=1e-12)
        assert found.target == f"logit {k}"


def test_the_same_picture_comes_of_the_same_pixels_whatever_the_scale_of_the_input() -> None:
    """The default lambda and step belong to the spread of photographs, not to the network's units."""

    class Pixels(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.inner, self.factor = linear(), factor

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x / self.factor)
            return out

    one = drawn(model_of(Pixels(1.0), mean=[0.5], std=[0.25]), 1)[0]
    other = drawn(model_of(Pixels(255.0), range=255, mean=[127.5], std=[0.25]), 1)[0]
    np.testing.assert_allclose(one.values, other.values, atol=1e-10)


def test_a_probability_is_told_from_the_logit_and_a_dead_score_is_refused() -> None:
    (found,) = drawn(model_of(linear()), cutaway.probability(1), steps=2)
    assert any("logit" in note for note in found.notes)
    net = linear()
    with torch.no_grad():
        net[1].weight[1] = 0
    with pytest.raises(MethodRefusedError, match="exactly zero"):
        drawn(model_of(net), 1, steps=2)
