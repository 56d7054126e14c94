"""Filters as sums of gratings: how much of their energy lies at which frequency, and beyond what a stride keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import UsageError

RADIUS = 0.1
"""The RMS above which a filter dominates (Zeiler & Fergus 2014, sec. 3)."""
BINS = 10
"""Bands of frequency from 0 to 0.5 cycles per pixel; the last also holds what diagonals have beyond."""
_SIZE = 64
"""Frequencies along an axis at which a spectrum is read, at least."""


def rms(weights: Tensor) -> Tensor:
    """The root mean square of each filter (O, I, h, w) -> (O,)."""
    return weights.flatten(1).square().mean(1).sqrt()


def renormalised(weights: Tensor, radius: float = RADIUS) -> Tensor:
    """Filters with an RMS above `radius` scaled to it, the others as they are (Zeiler & Fergus 2014, sec. 3).

    >>> rms(renormalised(torch.tensor([0.05, 0.4]).view(2, 1, 1, 1))).tolist()
    [0.05000000074505806, 0.10000000149011612]
    """
    size = rms(weights).clamp_min(torch.finfo(weights.dtype).tiny)
    return weights * (radius / size).clamp(max=1).view(-1, 1, 1, 1)


def dead_units(maxima: Tensor, eps: float = 0.0) -> Tensor:
    """Units whose largest activation over a data set is at most eps: bool, of the shape of `maxima`.

    Raises `UsageError` for maxima that are NaN, or for a negative eps.

    >>> dead_units(torch.tensor([0.0, 2.0, -1.0])).tolist()
    [True, False, True]
    """
    if not eps >= 0 or bool(maxima.isnan().any()):
        raise UsageError(f"maxima with NaN, or eps={eps}", "numbers, and eps at least 0", "eps=0")
    return maxima <= eps


def spectrum(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The energy of each filter (O, I, h, w) at each frequency, (O, n, n), and the frequencies (n,) down and across.

    A Hann window, sin^2 of pi (i + 1) / (h + 1) along each axis, keeps the filter's own edges out of it and none of
    its weights at zero; energies of the inputs are added. Frequencies are in cycles per pixel of the layer's input, -0.5 to 0.5.
    """
    high, wide = weights.shape[2:]
    size = max(_SIZE, 4 * high, 4 * wide)
    seen = weights.double() * (_hann(high)[:, None] * _hann(wide)).to(weights.device)
    energy = torch.fft.fft2(seen, s=(size, size)).abs().square().sum(1)
    frequency = torch.fft.fftfreq(size, dtype=torch.float64, device=weights.device)
    return energy, frequency, frequency


def aliased(weights: Tensor, stride: tuple[int, int]) -> Tensor:
    """The share of each filter's energy, (O,), above 1 / (2 s) cycles per pixel along either axis; 0 for dead ones.

    A map read every s pixels cannot tell such a grating from a slower one (Shannon 1949; the checkerboards of
    Zeiler & Fergus 2014, sec. 4.1). Nothing lies above at stride 1.
    """
    energy, down, across = spectrum(weights)
    above = (down.abs() > 0.5 / stride[0])[:, None] | (across.abs() > 0.5 / stride[1])
    return (energy * above).sum((1, 2)) / _total(energy)


def bands(weights: Tensor) -> Tensor:
    """The share of each filter's energy in each band of frequency, (O, 10), rings of 0.05 cycles per pixel from 0."""
    energy, down, across = spectrum(weights)
    radius = (down.square()[:, None] + across.square()).sqrt()
    ring = (radius / (0.5 / BINS)).long().clamp(max=BINS - 1).flatten()
    found = energy.new_zeros(len(energy), BINS).index_add_(1, ring, energy.flatten(1))
    return found / _total(energy)[:, None]


def peak(weights: Tensor) -> Tensor:
    """The frequency at which each filter has most energy, (O,), cycles per pixel from 0; 0 for dead ones."""
    energy, down, across = spectrum(weights)
    radius = (down.square()[:, None] + across.square()).sqrt().flatten()
    return radius[energy.flatten(1).argmax(1)]


@dataclass(frozen=True)
class Bank:
    """What a bank of filters is like: per filter RMS and share of energy aliased (O,), over living ones the bands (10,)."""

    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    rms: Tensor
    aliased: Tensor
    bands: Tensor

    @property
    def dead(self) -> list[int]:
        """Filters that are zero."""
        return (self.rms == 0).nonzero().flatten().tolist()

    @property
    def dominant(self) -> list[int]:
        """Filters with an RMS above 0.1."""
        return (self.rms > RADIUS).nonzero().flatten().tolist()

    def to_dict(self) -> Mapping[str, Any]:
        """The bank in plain numbers: counts, mean aliasing of living filters, and the histogram of frequencies."""
        living = self.rms > 0
        return {
            "filters": self.filters,
            "kernel": self.kernel,
            "stride": self.stride,
            "dead": len(self.dead),
            "dominant": len(self.dominant),
            "mean rms": float(self.rms.mean()),
            "aliased": float(self.aliased[living].mean()) if bool(living.any()) else 0.0,
            "covered": int((self.bands >= 0.5 / BINS).sum()),
            "bands": self.bands.tolist(),
        }


def bank(weights: Tensor, stride: int | tuple[int, int]) -> Bank:
    """The description of filters (O, I, h, w) that are applied every `stride` pixels.

    `covered` in its `to_dict` counts bands with at least half of an even share of the energy.
    Raises `UsageError` for other shapes and for numbers that are not finite.
    """
    steps = (stride, stride) if isinstance(stride, int) else stride
    if weights.ndim != 4 or not weights.numel() or min(steps) < 1:
        raise UsageError(f"weights {tuple(weights.shape)}, stride {stride}", "(O, I, h, w), stride from 1")
    if not bool(weights.isfinite().all()):
        raise UsageError("weights with NaN or infinity", "finite weights")
    seen = weights.detach().double()
    size, shares = rms(seen), bands(seen)
    living = size > 0
    mean = shares[living].mean(0) if bool(living.any()) else shares.new_zeros(BINS)
    kernel = (int(weights.shape[2]), int(weights.shape[3]))
    return Bank(len(seen), kernel, steps, size, aliased(seen, steps), mean)


def compare_banks(
    first: Tensor, first_stride: int | tuple[int, int], second: Tensor, second_stride: int | tuple[int, int]
) -> dict[str, Any]:
    """Two banks of filters side by side, such as 11x11 at stride 4 and 7x7 at stride 2 (Zeiler & Fergus 2014, sec. 4.1).

    Every number of both, and under "change" second less first.

    >>> found = compare_banks(torch.rand(4, 3, 11, 11), 4, torch.rand(6, 3, 7, 7), 2)
    >>> found["first"]["kernel"], found["second"]["filters"], sorted(found["change"])
    ((11, 11), 6, ['aliased', 'covered', 'dead', 'dominant', 'mean rms'])
    """
    one, two = bank(first, first_stride).to_dict(), bank(second, second_stride).to_dict()
    changed = ("aliased", "covered", "dead", "dominant", "mean rms")
    return {"first": one, "second": two, "change": {key: two[key] - one[key] for key in changed}}


def _hann(length: int) -> Tensor:
    at = torch.arange(1, length + 1, dtype=torch.float64)
    return torch.sin(math.pi * at / (length + 1)).square()


def _total(energy: Tensor) -> Tensor:
    return energy.sum((1, 2)).clamp_min(torch.finfo(energy.dtype).tiny)
