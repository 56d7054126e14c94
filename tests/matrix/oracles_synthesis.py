"""Pictures that networks draw, each against the same few steps in plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.image import Photo, read
from cutaway.core.method import DATA, GENERATOR

from .case import Case, agree, oracle


def drawn_noise(case: Case) -> Tensor:
    """The normal numbers that a run of seed 0 begins with."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return torch.randn(case.plain.u.shape, generator=random, dtype=torch.float64)


def laid(u: Tensor) -> Tensor:
    """In the layout the package asks in: in an even picture max pooling picks one of equals by it."""
    return u.contiguous(memory_format=torch.channels_last)


@oracle("class_visualization")
def _(case: Case) -> None:
    """Three steps with momentum from the mean colour, in the network's input."""
    decay, rate, mass = 0.01, 0.05, 0.9
    found = case.run("class_visualization", decay=decay, rate=rate, mass=mass, steps=3)
    z, v = torch.zeros_like(case.plain.u), torch.zeros_like(case.plain.u)
    for _ in range(3):
        z.requires_grad_()
        (g,) = torch.autograd.grad(
            case.plain.raw_scores(laid(z))[0, case.plain.target] - decay * z.square().sum(), z
        )
        v = mass * v + g
        z = (z + rate / (2 * decay) * v).detach()
    agree(found.panels["input"].values, z, 1e-7)


@oracle("regularized_visualization")
def _(case: Case) -> None:
    """Three steps of decay and clipping by norm, on levels of 0 to 255."""
    decay, std = 0.1, torch.tensor(case.network.std, dtype=torch.float64).view(1, 3, 1, 1)
    mean = 255 / case.network.range * torch.tensor(case.network.mean, dtype=torch.float64).view(1, 3, 1, 1)

    def slope(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        scores = case.plain.raw_scores(x * case.network.range / 255 / std)
        return torch.autograd.grad(scores[0, case.plain.target], x)[0]

    x = 10 * drawn_noise(case)
    rate = 20 / float(slope(x).abs().max())
    for _ in range(3):
        x = (x + mean).clamp(0, 255) - mean
        x = (x + rate * slope(x)).detach() * (1 - decay)
        norms = x.norm(dim=1).numpy()
        x = x * torch.from_numpy(norms >= np.percentile(norms, 30))[:, None]
    own = {"decay": decay, "rate": rate, "norm_percentile": 30, "steps": 3}
    found = case.run("regularized_visualization", settings="decay_and_norm", **own)
    agree(found.values, ((x + mean).clamp(0, 255) / 255)[0], 1e-6)


@oracle("latent_synthesis")
def _(case: Case) -> None:
    """Three published steps with a generator of two numbers: how much of two pictures is seen."""
    pictures = torch.stack([case.plain.u[0], 1 - case.plain.u[0]])
    found = case.run("latent_synthesis", given={GENERATOR: Blend(pictures)}, steps=3, rate=0.3)
    code = torch.full((1, 2), 0.3, dtype=torch.float64)
    for step in range(3):
        code.requires_grad_()
        u = torch.einsum("nk,kchw->nchw", code, pictures) / 2
        (g,) = torch.autograd.grad(case.plain.scores(laid(u))[0, case.plain.target], code)
        code = (code + 0.3 * (1 - step / 3) * g / g.abs().mean()).detach() * 0.99
        code = code.clamp(0.1, 1)
    agree(found.values, torch.einsum("nk,kchw->chw", code, pictures) / 2)


class Blend:
    """A generator that lays two pictures over each other."""

    name, code_size = "blend", 2

    def __init__(self, pictures: Tensor) -> None:
        self.pictures, self.clip = (
            pictures,
            (torch.full((2,), 0.1, dtype=torch.float64), torch.ones(2).double()),
        )

    def start(self, draws: int, random: torch.Generator) -> Tensor:
        return torch.full((draws, 2), 0.3, dtype=torch.float64)

    def __call__(self, codes: Tensor) -> Tensor:
        return torch.einsum("nk,kchw->nchw", codes, self.pictures) / 2


class Twins:
    """One picture, several times."""

    labels = None

    def __init__(self, picture: Tensor, count: int) -> None:
        self.picture, self.names = picture, [f"{i}.png" for i in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, number: int) -> Photo:
        return read(self.picture)

    def fingerprint(self, numbers: Any = None) -> str:
        return "twins"


@oracle("multifaceted_visualization")
def _(case: Case) -> None:
    """One facet of one picture, a step in each octave, the window in the middle."""
    own = {"steps": 1, "rate": 0.01, "tv": 0.0, "spread": 0.0, "layer": case.network.layer}
    found = case.run("multifaceted_visualization", given={DATA: Twins(case.plain.u[0], 3)}, **own)
    size = case.network.size
    x = case.plain.u
    for octave in range(5):
        side = round(size * 1.1**octave)
        x = F.interpolate(x, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
        corner = round((side - size) / 2)
        inside = (slice(None), slice(None), slice(corner, corner + size), slice(corner, corner + size))
        g = torch.zeros_like(x)
        g[inside] = case.plain.slope(x[inside])
        x = (x + (0.005 if octave == 4 else 0.01) * g / g.abs().mean()).clamp(0, 1)
    right = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    agree(found.values, right[0], 1e-7)


@oracle("feature_visualization")
def _(case: Case) -> None:
    """Three steps of Adam over pixels that lie still, the largest number of the first gradient taken for one."""
    found = case.run("feature_visualization", space="pixels", steps=3, calm=1, rate=0.02)
    x = (0.5 + 0.05 * drawn_noise(case)).clamp(0, 1).requires_grad_()
    adam, largest = torch.optim.Adam([x], lr=0.02, maximize=True), None
    for _ in range(3):
        (g,) = torch.autograd.grad(case.plain.scores(laid(x))[0, case.plain.target], x)
        largest = g.abs().max() if largest is None else largest
        x.grad = g / largest
        adam.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    agree(found.values, x[0], 1e-6)
