"""A picture at several sizes, worked on from the smallest up, so that large forms come before small ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cutaway.core.errors import CutawayError
from cutaway.core.model import VisionModel
from cutaway.core.target import Target, score

from .shaking import Movement, Shake


def sizes(size: tuple[int, int], count: int, ratio: float) -> list[tuple[int, int]]:
    """Height and width of each octave, the picture itself first.

    >>> sizes((224, 112), 3, 2)
    [(224, 112), (112, 56), (56, 28)]
    """
    high, wide = size
    return [(max(1, round(high / ratio**k)), max(1, round(wide / ratio**k))) for k in range(count)]


def usable(model: VisionModel, target: Target, wanted: list[tuple[int, int]]) -> int:
    """How many of the octaves, from the largest down, the target can be read on; each is tried once.

    The first is not tried: what is wrong with it is no matter of size.
    """
    one = target.take(torch.zeros(1, dtype=torch.long))
    for number, size in enumerate(wanted[1:], 1):
        blank = torch.zeros(1, model.preprocess.pixel_channels, *size, device=model.device, dtype=model.dtype)
        try:
            with torch.no_grad():
                score(model, blank, one)
        except (CutawayError, IndexError):  # a unit may lie beyond the smaller map
            return number
    return len(wanted)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, C, H, W) at another size: bilinear, each pixel of a smaller one the mean of what it covers."""
    if tuple(x.shape[-2:]) == size:
        return x
    smaller = size[0] < x.shape[-2]
    return functional.interpolate(x, size, mode="bilinear", align_corners=False, antialias=smaller)


@dataclass(frozen=True)
class Rolling(Shake):
    """Shifts by up to that many whole pixels; what leaves the picture comes in on its other side."""

    pixels: int = 32

    def draw(self, random: torch.Generator) -> Movement:
        """One shift."""
        down, across = torch.randint(-self.pixels, self.pixels + 1, (2,), generator=random).tolist()
        return Roll(down, across)


class Roll(Movement):
    """A shift by whole pixels around the picture."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """The pictures (n, C, H, W), all moved alike; differentiable."""
        return pixels.roll((int(self.down), int(self.across)), (-2, -1))
