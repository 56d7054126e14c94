"""Where Grad-CAM looks before and after an attack, and how far that moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.method import RawPanel
from cutaway.core.target import logit

from ..gradient.weighted import head
from .goal import Goal

DARK = 0.25  # what is left of the picture's light where the map is zero


def moved_attention(goal: Goal, x: Tensor, moved: Tensor) -> tuple[dict[str, RawPanel], dict[str, Any]]:
    """Grad-CAM of the class each picture has, or of the target that is no class: panels and numbers.

    The maps (Selvaraju 2017, eq. 1 and 2, at the layer the package suggests) light their picture up. The numbers are
    the distance between the maps' centres of mass in pixels, and Spearman's rank correlation of the maps; NaN where a
    map is zero everywhere or constant.
    """
    maps = [_map(goal, u) for u in (x, moved)]
    panels = {}
    for name, title, u, heat in zip(
        ("looks_before", "looks_after"),
        ("where it looks, before", "where it looks, after"),
        (x, moved),
        maps,
        strict=True,
    ):
        most = heat.flatten(1).amax(1).view(-1, 1, 1)
        share = (heat / torch.where(most > 0, most, 1))[:, None]
        light = F.interpolate(share, x.shape[2:], mode="bilinear", align_corners=False)
        panels[name] = RawPanel(title, ((DARK + (1 - DARK) * light) * u).expand(-1, 3, -1, -1), "picture")
    size = torch.tensor(x.shape[2:], dtype=torch.float64)
    shifts = [float(((centre(a) - centre(b)) * size).norm()) for a, b in zip(*maps, strict=True)]
    ranks = [spearman(a, b) for a, b in zip(*maps, strict=True)]
    return panels, {
        "attention moved by pixels": torch.tensor(shifts, dtype=torch.float64),
        "attention rank correlation": torch.tensor(ranks, dtype=torch.float64),
    }


def _map(goal: Goal, x: Tensor) -> Tensor:
    """(N, h, w)."""
    if goal.of_classes:
        with torch.no_grad():
            target = logit(goal.read(x).argmax(1))
        h = head(goal.model, x, target, None)
    elif goal.shared:
        h = head(goal.model, x, goal.targets[0], None)
    else:
        one = torch.arange(1)
        return torch.cat([_map(goal.only(one + i), x[i : i + 1]) for i in range(len(x))])
    return (h.gradient.mean((2, 3), keepdim=True) * h.activation).sum(1).clamp(min=0).detach()


def centre(heat: Tensor) -> Tensor:
    """Centre of mass (row, column) as shares of height and width; NaN for a map that is zero.

    >>> centre(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()
    [0.75, 0.25]
    """
    heat = heat.double().cpu()
    places = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in heat.shape]
    return torch.stack([heat.sum(1) @ places[0], heat.sum(0) @ places[1]]) / heat.sum()


def spearman(one: Tensor, two: Tensor) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean; NaN where a map is constant.

    >>> round(spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([5.0, 7.0, 6.0])), 12)
    0.5
    """
    ranks = []
    for heat in (one, two):
        _, inverse, counts = np.unique(heat.double().cpu().numpy(), return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[inverse.ravel()])
    a, b = (r - r.mean() for r in ranks)
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float("nan")
