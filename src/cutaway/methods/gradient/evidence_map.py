"""The map of a gradient method on the picture's own grid, for methods that look for objects in it."""

from __future__ import annotations

import inspect
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError
from cutaway.core.method import Range, Raw, get
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.target import Target

Source = Annotated[
    Literal["saliency", "smooth_grad", "guided_backprop", "integrated_gradients", "grad_cam"],
    "method whose map is read, with that method's own options at their defaults",
]
Smoothing = Annotated[
    float, Range(0, 0.5), "standard deviation of a Gaussian over the map, as a share of the shorter side"
]


def evidence_map(
    model: VisionModel, x: Tensor, target: Target, source: str, smoothing: float
) -> Steps[tuple[Tensor, Raw]]:
    """How much evidence each pixel holds, (N, H, W) in float64 and at least 0, and what the method itself gave.

    Of a signed map the positive part counts, of a map in colours the largest size, max_c |v_c|, as in saliency. A
    coarser grid is enlarged bilinearly, corners not aligned, and the result smoothed.
    Raises `MethodRefusedError` for a map that is the same everywhere, and whatever the method itself raises.
    """
    chosen = get(source)
    run = chosen.function(model, x, target, **chosen.options({}))
    raw: Raw = (yield from run) if inspect.isgeneratorfunction(chosen.function) else run
    values = raw.values.detach().cpu().double()
    model.check_finite(values, x)
    heat = values.abs().amax(1) if values.ndim == 4 else values.clamp(min=0)
    if heat.shape[1:] != x.shape[2:]:
        heat = F.interpolate(heat[:, None], x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    for i, one in enumerate(heat):
        if float(one.max()) == float(one.min()):
            which = f"picture {i} of the batch: " if len(heat) > 1 else ""
            raise MethodRefusedError(
                f"{which}the map of {source} is {float(one.max()):g} everywhere",
                "a map that tells one pixel from another",
                "another target, or another method for the map",
            )
    return smoothed(heat, smoothing * min(x.shape[2:])), raw


def smoothed(heat: Tensor, sigma: float) -> Tensor:
    """(N, H, W) under a Gaussian of `sigma` pixels, cut at 3 sigma; at the border only what lies inside counts."""
    if sigma == 0:
        return heat
    reach = max(1, round(3 * sigma))
    kernel = torch.exp(-torch.arange(-reach, reach + 1, dtype=heat.dtype).square() / (2 * sigma**2))

    def blur(t: Tensor) -> Tensor:
        rows = F.conv2d(t[:, None], kernel[None, None, :, None], padding=(reach, 0))
        return F.conv2d(rows, kernel[None, None, None], padding=(0, reach))[:, 0]

    return blur(heat) / blur(torch.ones_like(heat[:1]))


def colours(x: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) in [0, 1] on the processor, of a grey picture three times the same."""
    return x.detach().cpu().double().clamp(0, 1).expand(-1, 3, -1, -1)


def large_enough(x: Tensor, least: int, why: str) -> None:
    """Raise `InputError` for a picture of fewer than `least` pixels."""
    height, width = x.shape[2:]
    if height * width < least:
        raise InputError(f"a picture of {height}x{width} pixels", f"at least {least} pixels, {why}")
