"""Pictures that networks draw, each against the same few steps in plain autograd."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .case import Case, agree, oracle


def drawn_noise(case: Case) -> Tensor:
    """The normal numbers that a run of seed 0 begins with."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return torch.randn(case.plain.u.shape, generator=random, dtype=torch.float64)


@oracle("class_visualization")
def _(case: Case) -> None:
    """Three steps with momentum from the mean colour, in the network's input."""
    decay, rate, mass = 0.01, 0.05, 0.9
    found = case.run("class_visualization", decay=decay, rate=rate, mass=mass, steps=3)
    z, v = torch.zeros_like(case.plain.u), torch.zeros_like(case.plain.u)
    for _ in range(3):
        z.requires_grad_()
        (g,) = torch.autograd.grad(
            case.plain.raw_scores(z)[0, case.plain.target] - decay * z.square().sum(), z
        )
        v = mass * v + g
        z = (z + rate / (2 * decay) * v).detach()
    agree(found.panels["input"].values, z, 1e-7)


@oracle("regularized_visualization")
def _(case: Case) -> None:
    """Three steps of decay and clipping by norm, on levels of 0 to 255."""
    decay, rate = 0.1, 1e4
    found = case.run(
        "regularized_visualization",
        settings="decay_and_norm",
        decay=decay,
        rate=rate,
        norm_percentile=30,
        steps=3,
    )
    std = torch.tensor(case.network.std, dtype=torch.float64).view(1, 3, 1, 1)
    mean = 255 / case.network.range * torch.tensor(case.network.mean, dtype=torch.float64).view(1, 3, 1, 1)
    x = 10 * drawn_noise(case)
    for _ in range(3):
        x = ((x + mean).clamp(0, 255) - mean).requires_grad_()
        (g,) = torch.autograd.grad(
            case.plain.raw_scores(x * case.network.range / 255 / std)[0, case.plain.target], x
        )
        x = ((x + rate * g) * (1 - decay)).detach()
        norms = x.norm(dim=1).numpy()
        x = x * torch.from_numpy(norms >= np.percentile(norms, 30))[:, None]
    agree(found.values, ((x + mean).clamp(0, 255) / 255)[0], 1e-7)


@oracle("feature_visualization")
def _(case: Case) -> None:
    """Three steps of Adam over pixels that lie still, and the spectrum's own first picture."""
    found = case.run("feature_visualization", space="pixels", steps=3, calm=1, rate=0.02)
    x = (0.5 + 0.05 * drawn_noise(case)).clamp(0, 1).requires_grad_()
    adam = torch.optim.Adam([x], lr=0.02, maximize=True)
    for _ in range(3):
        adam.zero_grad()
        case.plain.scores(x)[0, case.plain.target].backward()
        adam.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    agree(found.values, x[0], 1e-7)
