"""Whether a map stays when nothing that matters changes: under noise too small to see, and asked twice."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.model import VisionModel
from cutaway.core.options import Range
from cutaway.core.windows import suggested_batch

from .metric import Again, UndefinedError, generator, metric

SAME = 1e-4
"""Share of a map that rounding changes at most, where pictures are explained together."""


@metric(
    title="max sensitivity",
    asks="How much does noise too small to see change the map?",
    low=0,
    high=float("inf"),
    better="lower",
    paper="Yeh et al. 2019, arXiv:1901.09392, def. 3.1",
)
def max_sensitivity(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    again: Again,
    *,
    radius: Annotated[float, Range(0, 1, open_low=True), "most that one pixel changes, of [0, 1]"] = 0.02,
    samples: Annotated[int, Range(1, 10_000), "noisy pictures"] = 5,
    seed: int = 0,
) -> float:
    """max over noise of |Phi(x + noise) - Phi(x)| / |Phi(x)|, noise uniform in [-radius, radius] at every value.

    The noisy picture stays in [0, 1]; the explainer keeps its seed and its target. Noisy pictures are explained
    together, but one by one where the one in the middle gets another map alone: a network may look at its batch, and
    one with chance meets the same chance only in a batch of the same size. Being relative, 1 means that the
    map changes by as much as it holds. Raises `UndefinedError` for a map of zeros.
    """
    size = _size(heat)
    chance = generator("max_sensitivity", seed)
    most = suggested_batch(x)
    worst = 0.0
    for first in range(0, samples, most):
        count = min(most, samples - first)
        noise = (2 * torch.rand((count, *x.shape[1:]), generator=chance, dtype=torch.float64) - 1) * radius
        maps = _maps(model, (x + noise.to(x)).clamp(0, 1), heat, again)
        worst = max(worst, float((maps - heat).flatten(1).norm(dim=1).max()) / size)
    return worst


@metric(
    title="same input twice",
    asks="Does another run give the same map?",
    low=0,
    high=float("inf"),
    better="lower",
    paper="Visani et al. 2022, arXiv:2001.11757",
)
def same_input_twice(model: VisionModel, x: Tensor, heat: Tensor, again: Again, *, seed: int = 0) -> float:
    """|Phi'(x) - Phi(x)| / |Phi(x)| where Phi' is the same explainer with another seed.

    0 for a method without chance; for one with chance, its noise. Raises `UndefinedError` for a map of zeros.
    """
    other = int(torch.randint(2**31 - 1, (1,), generator=generator("same_input_twice", seed)))
    return float((again(model, x, other) - heat).norm()) / _size(heat)


def _maps(model: VisionModel, noisy: Tensor, heat: Tensor, again: Again) -> Tensor:
    """The maps of noisy pictures, (n, ...) of the shape of `heat`."""
    maps = again(model, noisy).reshape(len(noisy), *heat.shape)
    middle = len(noisy) // 2
    if len(noisy) == 1:
        return maps
    alone = again(model, noisy[middle : middle + 1])
    if float((maps[middle] - alone).norm()) <= SAME * float(alone.norm()):
        return maps
    return torch.stack([again(model, picture[None]) for picture in noisy])


def _size(heat: Tensor) -> float:
    size = float(heat.norm())
    if not size:
        raise UndefinedError("the map is 0 everywhere, so a change relative to it is undefined")
    return size
