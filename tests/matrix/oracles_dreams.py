"""DeepDream and feature inversion: their first steps, taken with plain autograd on the bare network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .case import Case, agree, close, oracle


@oracle("deep_dream")
def _(case: Case) -> None:
    """Two steps at one size: towards the class, and up the layer's own signal."""
    rate, size = 0.01, case.plain.u.shape[-1]

    def climbed(value: Callable[[Tensor], Tensor]) -> Tensor:
        u = case.plain.u
        for _ in range(2):
            u = u.detach().requires_grad_()
            (g,) = torch.autograd.grad(value(u), u)
            u = (u + rate * g / g.abs().mean()).clamp(0, 1)
        return u.detach()[0]

    options: dict[str, Any] = {"octaves": 1, "steps": 2, "jitter": 0, "rate": rate}
    found = case.run("deep_dream", **options)
    agree(found.values, climbed(lambda u: case.plain.scores(u)[0, case.plain.target]))
    close(found.evidence["value at the start"], case.plain.clean)
    assert found.evidence["octaves"] == (f"{size} x {size}",)
    layer = case.model.explain(case.plain.u, "deep_dream", layer=case.network.layer, **options)
    agree(layer.values, climbed(lambda u: case.plain.maps_of(u).square().sum() / 2))


@oracle("feature_inversion")
def _(case: Case) -> None:
    """The authors' first step from the same noise, the loss written out.

    Random weights answer to noise so wildly that a second step would turn on the last bits of the first.
    """
    name, rate, u = case.network.layer, 1e-6, case.plain.u
    found = case.run("feature_inversion", layer=name, by="authors", steps=1, rate=rate, beta_weight=10)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    start = torch.randn(u.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    typical = 0.226 * 255 * start.numel() ** 0.5
    z = (start / start.norm() * typical).requires_grad_()
    with torch.no_grad():
        wanted = case.plain.maps_of(u)
    apart = (case.plain.maps_of(z / 255 + 0.5) - wanted).square().sum() / wanted.square().sum()
    rough = (z[..., 1:] - z[..., :-1]).square().sum() + (z[..., 1:, :] - z[..., :-1, :]).square().sum()
    (g,) = torch.autograd.grad(typical**2 * apart + 8e-10 / 2 * z.pow(6).sum() + 10 / 2 * rough, z)
    z = z - rate * g
    shown = (z / 255 + 0.5).clamp(0, 1).detach()
    agree(found.values, shown[0])
    close(found.evidence[f"pixel error {name}"], float((shown - u).square().mean().sqrt()))
    with torch.no_grad():
        # random EfficientNets answer to it so strongly that the last bits of the layout of memory show at 5e-8
        off = (case.plain.maps_of(shown) - wanted).norm() / wanted.norm()
    close(found.evidence[f"feature error {name}"], float(off), 1e-6)
