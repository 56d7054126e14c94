"""How many pictures an attack turns, against the strength it is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.data.batches import batches
from cutaway.data.folder import PictureSource

from .balls import Ball, eight_bit
from .goal import Goal, class_scores

EPSILONS = tuple(k / 255 for k in (1, 2, 4, 8, 16))


@dataclass(frozen=True)
class Strength:
    """Shares of pictures fooled as 8-bit pictures: `values` (1, points) over `x` (points,), the bounds.

    `counted` pictures had the right class before; `left_out` had not and count nowhere.
    """

    x: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    names: tuple[str, ...]
    counted: int
    left_out: int


def strength_curve(
    model: VisionModel,
    data: PictureSource,
    attack: Literal["fgsm", "pgd"] = "pgd",
    epsilons: Sequence[float] = EPSILONS,
    *,
    steps: int = 10,
    batch: int = 16,
) -> Steps[Strength]:
    """Share of pictures that the attack turns within each bound on the largest change of a pixel.

    The class to be left is the picture's label where the data has one, else the class predicted; pictures that are
    wrong from the start are left out and counted apart. FGSM takes one step of the bound, PGD `steps` of 2.5 bound /
    steps from the picture itself, without random start. A picture whose gradient is zero stays as it is and counts as
    not fooled. Raises `UsageError` for bounds outside (0, 1] or none, and for an attack of another name.
    """
    if attack not in ("fgsm", "pgd"):
        raise UsageError(f"attack={attack!r}", "'fgsm' or 'pgd'", "attack='pgd'")
    if not len(epsilons) or not all(0 < e <= 1 for e in epsilons):
        raise UsageError(f"epsilons={list(epsilons)}", "numbers above 0, at most 1", "epsilons=(8/255,)")
    fooled, counted, left_out = np.zeros(len(epsilons)), 0, 0
    for part in batches(model, data, range(len(data)), batch, workers=0):
        with torch.no_grad():
            now = class_scores(model, part.pixels).argmax(1)
        labels = part.labels.to(now.device)
        right = (labels == now) | (labels < 0)
        left_out += int((~right).sum())
        x, goal = part.pixels[right], Goal(model, now[right])
        counted += len(x)
        for i, epsilon in enumerate(epsilons):
            if len(x):
                fooled[i] += _fooled(goal, x, epsilon, 1 if attack == "fgsm" else steps, attack)
            yield Progress(counted + left_out, len(data), note=f"{attack}, bound {255 * epsilon:.3g}/255")
    if not counted:
        raise UsageError("no picture that the network gets right", "pictures of its classes", "other labels")
    return Strength(np.array(epsilons, float), (fooled / counted)[None], (attack,), counted, left_out)


def _fooled(goal: Goal, x: Tensor, epsilon: float, steps: int, attack: str) -> int:
    ball = Ball("linf", epsilon)
    size = epsilon if attack == "fgsm" else 2.5 * epsilon / steps
    moved = x
    for _ in range(steps):
        g, _ = goal.gradient(moved)
        moved = ball.project(moved + ball.step(g, size), x)
    with torch.no_grad():
        return int(goal.reached(goal.read(eight_bit(x, moved, ball))).sum())
