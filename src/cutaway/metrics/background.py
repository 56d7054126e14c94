"""Whether the background decides: the strongest attribution that lies on it, and what that tells about a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.options import Range

from .metric import Mask, UndefinedError, laid, metric


@metric(
    title="strongest on the background",
    asks="Which share of the strongest values lies off the evidence?",
    low=0,
    high=1,
    better="lower",
    paper="Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938, sec. 6.4",
)
def background_share(
    heat: Tensor,
    truth: Mask,
    *,
    top: Annotated[
        float, Range(0, 1, open_low=True), "share of the picture's places that count as the strongest"
    ] = 0.1,
) -> float:
    """sum of max(v, 0) over the strongest places outside the truth / sum of max(v, 0) over the strongest places.

    The strongest places are the largest `top` of all, at least one; of those that share the smallest value still
    among them, as many count as there is room for, wherever they lie. Evidence strewn evenly reaches the background's
    share of the area. A low value speaks for a network known to look at the object; of one that learned a shortcut
    a true explanation has a high value, so the number says which network it is only beside another's. Raises
    `UndefinedError` for a map without positive values and for a truth of no pixel or of all.

    >>> background_share(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), np.array([[True, False], [False, False]]), top=0.5)
    0.25
    """
    if not truth.any() or truth.all():
        raise UndefinedError("the truth covers nothing or everything, so there is no background beside it")
    values = laid(heat, truth.shape).clamp(min=0).flatten()
    room = max(1, round(top * values.numel()))
    last = values.topk(room).values[-1]
    within, level = values > last, values == last
    counted = within.double() + level * (room - within.sum()) / level.sum()
    mass = counted * values
    if not mass.sum() > 0:
        raise UndefinedError("the map has no positive values, so none lies on the background")
    outside = torch.from_numpy(~truth.flatten())
    return float(mass[outside].sum() / mass.sum())


@dataclass(frozen=True)
class Found:
    """How well an explanation tells a biased network from its unbiased twin, on the same N pictures.

    `biased` and `twin` are the mean background shares with their standard errors, `difference` the mean of the
    paired differences with its own. `auc` is the chance that a picture's share is larger under the biased network
    than another's under the twin, ties counted half: 0.5 tells nothing, 1 always tells.
    """

    biased: tuple[float, float]
    twin: tuple[float, float]
    difference: tuple[float, float]
    auc: float
    pictures: int

    @property
    def opposite(self) -> bool:
        """Whether the background decides for the biased network and does not for the twin.

        Each mean lies on its own side of one half, by at least two standard errors.
        """
        high, low = self.biased[0] - 2 * self.biased[1], self.twin[0] + 2 * self.twin[1]
        return high > 0.5 > low


def bias_found(biased: Sequence[float], twin: Sequence[float]) -> Found:
    """The reward of an explanation that is asked to find a bias, from background shares picture by picture.

    Raises `UsageError` for fewer than two pictures, and where the two did not see the same number of them.

    >>> found = bias_found([0.9, 0.8, 1.0], [0.1, 0.0, 0.2])
    >>> found.auc, round(found.difference[0], 3), found.opposite
    (1.0, 0.8, True)
    """
    if len(biased) != len(twin) or len(biased) < 2:
        raise UsageError(
            f"{len(biased)} shares beside {len(twin)}", "two or more pictures, the same for both networks"
        )
    one, other = np.asarray(biased, np.float64), np.asarray(twin, np.float64)
    above = np.sign(one[:, None] - other[None])
    return Found(_mean(one), _mean(other), _mean(one - other), float((above.mean() + 1) / 2), len(one))


def _mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
