"""Targets against numbers read off by hand."""

import torch
from torch import nn

import cutaway


def colours() -> cutaway.VisionModel:
    """Class scores are the means of red, green and blue."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return cutaway.VisionModel(net, cutaway.Preprocess(), ("red", "green", "blue"), name="colours")


def plain(channel: int) -> torch.Tensor:
    picture = torch.zeros(3, 4, 4)
    picture[channel] = 1
    return picture


def test_one_predicted_target_decides_anew_for_each_picture() -> None:
    model, goal = colours(), cutaway.predicted()
    for channel, name in ((0, "red"), (2, "blue"), (1, "green")):
        result = model.explain(plain(channel), "saliency", goal, reduce="rgb")
        assert result.target == f"logit {channel} {name!r}"
        want = torch.zeros(3, 4, 4)
        want[channel] = 1 / 16
        assert torch.equal(torch.tensor(result.arrays()["values"]), want)
