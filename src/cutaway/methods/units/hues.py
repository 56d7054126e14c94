"""Which hues stand out: peaks among angles on the circle."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .opponent import CHROMA, coloured, hue

ABOVE_MEAN = 1.5
"""A peak of hues is at least this many times as high as the mean."""
VALLEY = 0.75
"""Between two peaks the density falls to this part of the lower one."""


class Mode(NamedTuple):
    """A peak among angles: where, in degrees, and the share of the weight that lies around it."""

    angle: float
    share: float


def modes(
    angles: Tensor, weights: Tensor, *, apart: float = 60.0, least: float = 0.15, width: float = 12.0
) -> list[Mode]:
    """The peaks of weighted angles (n,) in degrees on the circle, the largest first; none without weight.

    The density, a Gaussian of standard deviation `width` around each angle, has a peak where it is highest within
    `apart` degrees on both sides and clearly above its mean; of two peaks without a valley between them the higher
    stays. A peak counts if at least `least` of the weight lies nearer to it than to any other and not more than
    `apart` away; its angle is the weighted circular mean of what lies within half of `apart`.

    >>> [(round(m.angle), m.share) for m in modes(torch.tensor([10.0, 10.0, 20.0, 190.0]), torch.ones(4))]
    [(13, 0.75), (190, 0.25)]
    """
    total = float(weights.sum())
    if not total > 0:
        return []
    angles, weights = angles.double().cpu().remainder(360), weights.double().cpu()
    grid = torch.arange(360, dtype=torch.float64)
    here = torch.bincount(angles.floor().long().remainder(360), weights, minlength=360)
    kernel = torch.exp(-0.5 * (_between(grid, grid.new_zeros(1))[:, 0] / width) ** 2)
    density = torch.fft.irfft(torch.fft.rfft(here) * torch.fft.rfft(kernel), n=360)
    tops = _peaks(density, apart)
    found: list[Mode] = []
    while len(tops):
        distance = _between(angles, tops)
        nearest = distance.argmin(1)
        mass = torch.stack(
            [weights[(nearest == k) & (distance[:, k] <= apart)].sum() for k in range(len(tops))]
        )
        if float(mass.min()) >= least * total:
            break
        tops = tops[torch.arange(len(tops)) != mass.argmin()]  # its weight may belong to a neighbour
    for k in range(len(tops)):
        close = distance[:, k] <= apart / 2
        radians = angles[close].deg2rad()
        y, x = (weights[close] * radians.sin()).sum(), (weights[close] * radians.cos()).sum()
        found.append(Mode(float(torch.atan2(y, x).rad2deg().remainder(360)), float(mass[k]) / total))
    return sorted(found, key=lambda m: (-m.share, m.angle))


def _peaks(density: Tensor, apart: float) -> Tensor:
    """Where a density over whole degrees (360,) peaks, (p,), the highest first."""
    grid = torch.arange(360, dtype=density.dtype)
    near = _between(grid, grid) <= apart
    highest = density >= torch.where(near, density[None], density.new_tensor(-torch.inf)).amax(1)
    tops = (highest & (density > ABOVE_MEAN * density.mean())).nonzero()[:, 0]
    found: list[int] = []
    for top in tops[density[tops].argsort(descending=True, stable=True)].tolist():
        valleys = []
        for other in found:
            steps = (other - top + 180) % 360 - 180
            arc = torch.arange(top, top + steps + (1 if steps >= 0 else -1), 1 if steps >= 0 else -1)
            valleys.append(float(density[arc % 360].min()))
        if all(valley <= VALLEY * float(density[top]) for valley in valleys):
            found.append(top)
    return torch.tensor(found, dtype=density.dtype) + 0.5


def hue_modes(rgb: Tensor, *, least: float = CHROMA, apart: float = 60.0) -> list[Mode]:
    """The hues of a neuron feature (3, h, w), by their area: one is a single-colour cell, two a double.

    Pixels below `least` chroma do not count, so that a colour beside grey is one hue; no mode means that no hue stands
    out. The criterion of the paper is not known.

    >>> halves = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])[:, None]  # red beside cyan
    >>> [round(mode.angle, 1) for mode in hue_modes(halves)]
    [26.6, 206.6]
    """
    keep = coloured(rgb, least)
    angles = hue(rgb)[keep]
    return modes(angles, torch.ones_like(angles), apart=apart)


def _between(a: Tensor, b: Tensor) -> Tensor:
    """Angles in degrees between every one of a (n,) and every one of b (m,), (n, m), from 0 to 180."""
    return ((a[:, None] - b[None] + 180).remainder(360) - 180).abs()
