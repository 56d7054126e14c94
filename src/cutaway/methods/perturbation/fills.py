"""What stands in for the pixels that are taken away."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Fill = Literal["grey", "mean", "blur", "noise", "black", "white"]
"""Name of a fill, in pixel space."""

_LEVELS = {"grey": 0.5, "black": 0.0, "white": 1.0}


def filler(x: Tensor, fill: Fill, window: int) -> Tensor:
    """A picture for each picture (N, C, H, W) whose pixels replace the ones hidden, same shape, in [0, 1].

    "grey" is 0.5, "black" 0, "white" 1; "mean" the picture's own mean colour; "blur" the picture under a Gaussian
    of standard deviation window / 2; "noise" one picture of uniform noise, the same for all N, drawn from torch's
    global generator.

    >>> filler(torch.ones(1, 3, 2, 2), "grey", 1).unique()
    tensor([0.5000])
    """
    if fill in _LEVELS:
        return torch.full_like(x, _LEVELS[fill])
    if fill == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    if fill == "blur":
        return blurred(x, window / 2)
    # drawn once and on the processor: every picture of a batch gets what it would get alone, on any device
    return torch.rand(1, *x.shape[1:]).to(x).expand_as(x)


def described(fill: Fill, window: int) -> str:
    """What fills the windows, in words."""
    return {
        "grey": "middle grey (0.5)",
        "black": "black",
        "white": "white",
        "mean": "the picture's mean colour",
        "blur": f"the picture blurred with a Gaussian of standard deviation {window / 2:g} pixels",
        "noise": "one picture of uniform noise, the same for all windows",
    }[fill]


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Pictures (N, C, H, W) under a Gaussian of standard deviation `sigma` pixels, the border repeated outwards."""
    radius = math.ceil(3 * sigma)
    place = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(place**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    n, c, h, w = x.shape
    planes = x.reshape(n * c, 1, h, w)
    planes = torch.nn.functional.pad(planes, (radius,) * 4, mode="replicate")
    planes = torch.nn.functional.conv2d(planes, weights.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(planes, weights.view(1, 1, 1, -1)).reshape(n, c, h, w)
