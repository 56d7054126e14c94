"""What keeps an ascent on pixels quiet: blur, and zeros where a pixel is small or matters little."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def blurred(x: Tensor, radius: float) -> Tensor:
    """Pictures (n, C, H, W) under a Gaussian of that standard deviation in pixels, mirrored at the border.

    The Gaussian ends after four radii, as SciPy's `gaussian_filter` has it.

    >>> [round(v, 3) for v in blurred(torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]]).double(), 0.5).flatten().tolist()]
    [0.0, 0.106, 0.787, 0.106, 0.0]
    """
    if not radius:
        return x
    reach = int(4 * radius + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / radius) ** 2)
    kernel = (taps / taps.sum()).expand(x.shape[1], 1, -1)
    for dim in (2, 3):
        at = torch.arange(-reach, x.shape[dim] + reach, device=x.device) % (2 * x.shape[dim])
        x = x.index_select(dim, torch.minimum(at, 2 * x.shape[dim] - 1 - at))
        x = F.conv2d(x, kernel.unsqueeze(2 if dim == 3 else 3), groups=x.shape[1])
    return x


def without_small(x: Tensor, sizes: Tensor, percentile: float) -> Tensor:
    """Pictures (n, C, H, W) with zeros where the pixel's size (n, H, W) is below that percentile of its picture's.

    >>> x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    >>> without_small(x, x[:, 0], 50).tolist()
    [[[[0.0, 0.0, 3.0, 4.0]]]]
    """
    if not percentile:
        return x
    flat = sizes.flatten(1).sort(1).values  # torch.quantile takes no more than 16 million numbers
    place = (flat.shape[1] - 1) * percentile / 100
    low = int(place)
    under, over = flat[:, low], flat[:, min(low + 1, flat.shape[1] - 1)]
    bound = under + (over - under) * (place - low)
    return x * (sizes >= bound[:, None, None])[:, None]


def tv_denoised(x: Tensor, weight: float, rounds: int = 10) -> Tensor:
    """Pictures (n, C, H, W) with less total variation: near the y that minimises |y - x|^2 / 2 + weight TV(y).

    TV sums over places the length of the gradient, all colours together (Chambolle 2004,
    doi:10.1023/B:JMIV.0000011325.36760.1e).

    >>> tv_denoised(torch.tensor([[[[0.0, 1.0]]]]), 0.1, rounds=100).round(decimals=3).flatten().tolist()
    [0.10000000149011612, 0.8999999761581421]
    """
    if not weight:
        return x
    down, across = torch.zeros_like(x), torch.zeros_like(x)

    def divergence() -> Tensor:
        return (down - F.pad(down, (0, 0, 1, 0))[:, :, :-1]) + (across - F.pad(across, (1, 0))[..., :-1])

    for _ in range(rounds):
        slope = divergence() - x / weight
        fall, turn = (
            F.pad(slope.diff(dim=2), (0, 0, 0, 1)),
            F.pad(slope.diff(dim=3), (0, 1)),
        )
        size = 1 + (fall.square() + turn.square()).sum(1, keepdim=True).sqrt() / 4
        down, across = (down + fall / 4) / size, (across + turn / 4) / size
    return x - weight * divergence()
