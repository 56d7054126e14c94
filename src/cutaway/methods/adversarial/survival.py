"""Whether an adversarial picture survives what happens to pictures: JPEG, blur, a shift."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .goal import Goal

QUALITY, SIGMA, PIXELS = 75, 1.0, 2


def survives(goal: Goal, x: Tensor, whole: Tensor) -> list[dict[str, dict[str, bool]]]:
    """For each picture and each treatment: does the 8-bit adversarial stay fooling, and does the original stay right.

    One forward pass of 2N pictures for each of the three treatments. The second number tells what the treatment
    does by itself.
    """
    found: list[dict[str, dict[str, bool]]] = [{} for _ in x]
    for name, treat in TREATMENTS.items():
        fooling = goal.reached(goal.read(treat(whole))).tolist()
        spared = (~goal.reached(goal.read(treat(x)))).tolist()
        for row, f, s in zip(found, fooling, spared, strict=True):
            row[name] = {"still fooled": f, "original unmoved": s}
    return found


def jpeg(x: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] written as JPEG of quality 75 and read again."""
    pages = []
    for picture in x:
        grey = len(picture) == 1
        levels = (255 * picture).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        file = io.BytesIO()
        Image.fromarray(levels[..., 0] if grey else levels).save(file, "JPEG", quality=QUALITY)
        read = torch.from_numpy(np.asarray(Image.open(file)).copy())
        pages.append(read[None] if grey else read.permute(2, 0, 1))
    return torch.stack(pages).to(x) / 255


def blur(x: Tensor) -> Tensor:
    """Blurred by a Gaussian of one pixel, edges repeated.

    >>> blur(torch.eye(9)[4].view(1, 1, 1, 9))[0, 0, 0, 3:6]
    tensor([0.2420, 0.3989, 0.2420])
    """
    reach = round(4 * SIGMA)
    line = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(line**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    count = x.shape[1]
    wide = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    down = F.conv2d(wide, weights.view(1, 1, -1, 1).expand(count, 1, -1, 1), groups=count)
    return F.conv2d(down, weights.view(1, 1, 1, -1).expand(count, 1, 1, -1), groups=count)


def shift(x: Tensor) -> Tensor:
    """Moved two pixels down and to the right, the edges repeated."""
    wide = F.pad(x, (PIXELS, 0, PIXELS, 0), mode="replicate")
    return wide[..., : x.shape[-2], : x.shape[-1]]


TREATMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    f"JPEG at quality {QUALITY}": jpeg,
    f"a blur of {SIGMA:g} px": blur,
    f"a shift of {PIXELS} px": shift,
}
