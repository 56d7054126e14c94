"""Small random movements of a picture, so that what is drawn does not hang on single pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Shake:
    """Shift, size and turn, drawn anew at every step and the same for all pictures of a batch.

    Parameters
    ----------
    jitter : farthest shift, as a share of the side.
    scale : farthest change of size, as a share: 0.1 draws from 0.9 to 1.1.
    rotate : farthest turn in degrees.

    What comes in from beyond the picture is its mirror image. Without size and turn a shift is by whole pixels and
    interpolates nothing.
    """

    jitter: float = 0.04
    scale: float = 0.1
    rotate: float = 8.0

    def draw(self, random: torch.Generator) -> Movement:
        """One movement."""
        down, across, size, angle = (2 * torch.rand(4, generator=random, dtype=torch.float64) - 1).tolist()
        return Movement(
            down * self.jitter, across * self.jitter, 1 + size * self.scale, math.radians(angle * self.rotate)
        )


@dataclass(frozen=True)
class Movement:
    """A shift in shares of the side, a size and an angle in radians."""

    down: float = 0.0
    across: float = 0.0
    size: float = 1.0
    angle: float = 0.0

    def __call__(self, pixels: Tensor) -> Tensor:
        """The pictures (n, C, H, W), all moved alike; differentiable."""
        high, wide = pixels.shape[-2:]
        down, across = round(self.down * high), round(self.across * wide)
        if self.size == 1 and not self.angle:
            return shifted(pixels, down, across)
        cos, sin = math.cos(self.angle) / self.size, math.sin(self.angle) / self.size
        # places in units of half a side, as affine_grid has them
        move = [[cos, sin * high / wide, -2 * across / wide], [-sin * wide / high, cos, -2 * down / high]]
        grid = functional.affine_grid(
            pixels.new_tensor(move).expand(1, 2, 3), [1, 1, high, wide], align_corners=False
        )
        return functional.grid_sample(
            pixels,
            grid.expand(len(pixels), -1, -1, -1),
            mode="bilinear",
            padding_mode="reflection",
            align_corners=False,
        )


STILL = Shake(0, 0, 0)


def shifted(pixels: Tensor, down: int, across: int) -> Tensor:
    """The pictures moved by whole pixels, mirrored at the border.

    >>> shifted(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 0, 1)
    tensor([[[[1., 1., 2.]]]])
    """
    high, wide = pixels.shape[-2:]
    rows, columns = _mirrored(high, down), _mirrored(wide, across)
    if down:
        pixels = pixels.index_select(2, rows.to(pixels.device))
    return pixels.index_select(3, columns.to(pixels.device)) if across else pixels


def _mirrored(length: int, shift: int) -> Tensor:
    at = (torch.arange(length) - shift) % (2 * length)
    return torch.minimum(at, 2 * length - 1 - at)
