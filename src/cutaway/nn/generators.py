"""Generators of pictures: networks that turn a code into pixels, so that a code can be looked for instead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Generator(Protocol):
    """What turns codes into pictures.

    `code_size` is how many numbers a code has; `clip` (low, high) the range of each, (code_size,), or None for no
    range. `name` is what results call it.
    """

    @property
    def name(self) -> str: ...

    @property
    def code_size(self) -> int: ...

    @property
    def clip(self) -> tuple[Tensor, Tensor] | None: ...

    def start(self, draws: int, random: torch.Generator) -> Tensor:
        """Different codes to begin with, (draws, code_size)."""

    def __call__(self, codes: Tensor) -> Tensor:
        """Pictures (n, C, h, w) in [0, 1] of codes (n, code_size), differentiable; each of its own row alone."""


class FeatureGenerator(nn.Module):
    """Pictures from a network's features, averaged on a grid; their own mean and spread lie beside the weights.

    y (N, C * g * g), divided by the spread of its channel, becomes maps of `widths[0]` channels by a linear layer;
    each further width is a convolution on maps of twice the size, and a last one gives the pixels: the
    up-convolutional network of Dosovitskiy & Brox 2016 (arXiv:1506.02753), with interpolation for the transposed
    convolutions. A number of the code may lie from 0 to the mean and three spreads of its channel (Nguyen et al.
    2016, arXiv:1605.09304).

    >>> net = FeatureGenerator(8, 2, side=32, widths=(16, 8)).eval()
    >>> net(torch.zeros(2, 32)).shape, net.code_size
    (torch.Size([2, 3, 32, 32]), 32)
    """

    def __init__(
        self, channels: int, grid: int, *, side: int, widths: Sequence[int], name: str = "generator"
    ) -> None:
        super().__init__()
        self.name, self.grid, self.side, self.code_size = name, grid, side, channels * grid * grid
        self.small = side >> len(widths)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.first = nn.Linear(self.code_size, widths[0] * self.small**2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    @property
    def clip(self) -> tuple[Tensor, Tensor]:
        """From nothing to the mean and three spreads of each channel."""
        high = self._each("mean") + 3 * self._each("spread")
        return torch.zeros_like(high), high

    def start(self, draws: int, random: torch.Generator) -> Tensor:
        """The mean features of each channel, with normal numbers of their spread, inside the range."""
        low, high = self.clip
        normal = torch.randn((draws, self.code_size), generator=random, dtype=torch.float64).to(high)
        return (self._each("mean") + self._each("spread") * normal).clamp(low, high)

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures (N, 3, side, side) in [0, 1]."""
        h = self.first(codes / self._each("spread"))
        h = self.norm(h.view(len(codes), -1, self.small, self.small)).relu()
        for layer in (*self.layers, self.last):
            h = layer(F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False))
        pixels: Tensor = h.sigmoid()
        return pixels

    def _each(self, name: str) -> Tensor:
        """A number of each channel, for each number of the code."""
        return self.get_buffer(name)[:, None].expand(-1, self.grid**2).flatten()


class DigitGenerator(nn.Module):
    """The class-conditional generator of digits of an auxiliary-classifier GAN (Odena 2017, arXiv:1610.09585).

    Its code is the product of noise z ~ N(0, 1) and the row of `embedding` of a class; here the code itself is free,
    within three spreads of each of its numbers over all classes. Pictures are (N, 1, 28, 28).
    """

    def __init__(self, name: str = "digits", size: int = 100, classes: int = 10) -> None:
        super().__init__()
        self.name, self.code_size = name, size
        self.embedding = nn.Embedding(classes, size)
        self.fc = nn.Linear(size, 128 * 49)
        self.bn1 = nn.BatchNorm2d(128, eps=1e-3)
        self.conv1, self.bn2 = nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128, eps=1e-3)
        self.conv2, self.bn3 = nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64, eps=1e-3)
        self.conv3 = nn.Conv2d(64, 1, 3, padding=1)

    @property
    def clip(self) -> tuple[Tensor, Tensor]:
        """Three spreads of each number around zero."""
        spread = self.embedding.weight.detach().square().mean(0).sqrt()
        return -3 * spread, 3 * spread

    def start(self, draws: int, random: torch.Generator) -> Tensor:
        """Noise of the spread that the codes of all classes have."""
        high = self.clip[1]
        normal = torch.randn((draws, self.code_size), generator=random, dtype=torch.float64).to(high)
        return (high / 3 * normal).clamp(-high, high)

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures (N, 1, 28, 28) in [0, 1]."""
        h = self.bn1(self.fc(codes).relu().view(-1, 128, 7, 7))
        h = self.bn2(self.conv1(F.interpolate(h, scale_factor=2)).relu())
        h = self.bn3(self.conv2(F.interpolate(h, scale_factor=2)).relu())
        pixels: Tensor = (self.conv3(h).tanh() + 1) / 2
        return pixels
