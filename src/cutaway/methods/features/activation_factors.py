"""The channels of a layer in a few groups: where each group answers in the picture, in a hue of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import IMAGE, LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture

from .capture import capture, named
from .enlarge import enlarge
from .factors import Factors, Solver, nmf, svd

USUAL = 6
"""Factors when their number is not given."""
STRONGEST = 5
"""Channels of each group that the evidence names."""


@method(
    title="Activation factors",
    chapter="features",
    needs={IMAGE, LAYER},
    gives=Picture,
    paper="Olah et al. 2018, The building blocks of interpretability, doi:10.23915/distill.00010; NMF as in Lee & Seung 2001",
    tags=Tags(family="features", focus="both", level="mid"),
    caveat="The groups are those of this one picture and of the number asked for; another number cuts them anew.",
    laws={"weights sensitive"},
)
def activation_factors(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    kind: Annotated[
        Literal["nmf", "svd"], "parts that only add, of a layer without negative numbers; or orthogonal axes"
    ] = "nmf",
    factors: Annotated[
        int | None, Range(1, 24), "how many; 6, or as many as the layer has, when not given"
    ] = None,
    steps: Annotated[int, Range(1, 5000), "rounds of NMF, a fixed number"] = 100,
    solver: Annotated[Solver, "of NMF: one row after the other, exactly; or multiplicative updates"] = "hals",
) -> Steps[Raw]:
    """A layer's maps as k spatial maps times k channel groups: V ~ W H, V (h w, C), W (h w, k), H (k, C).

    Values are the spatial maps (k, h, w), strongest factor first; each row of H has length 1, so a number is an
    activation along the group's direction. Panels show them over the picture, each factor in its own hue, alone and
    together. `directions` in the evidence, (k, C), are what `cutaway.direction(layer, vector)` takes; further
    entries: |V - W H|^2 after every step, the explained share 1 - |V - W H|^2 / |V|^2, each factor's share of it
    and its strongest channels. Every picture is factorised alone. Raises `MethodRefusedError` for negative numbers
    under "nmf" and for maps that are all zero, `UsageError` for more factors than channels or positions.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="one layer")
    >>> found = model.explain(torch.rand(3, 9, 9), "activation_factors", layer="1", factors=2)
    >>> found.values.shape, len(found.evidence["directions"][0])
    ((2, 7, 7), 8)
    """
    names, notes = named(model, layer)
    maps = capture(model, x, names[:1])[names[0]]
    count = _count(names[0], maps, factors)
    _refuse(names[0], maps, kind)
    found: list[Factors] = []
    for number, each in enumerate(maps):
        yield Progress(number, len(maps), note=f"{count} factors of {names[0]}")
        matrix = each.flatten(1).T.double()  # rounding of float32 would grow from step to step
        found.append(
            _ordered(nmf(matrix, count, steps=steps, solver=solver) if kind == "nmf" else svd(matrix, count))
        )
    grids = torch.stack([f.left.T.reshape(count, *maps.shape[2:]) for f in found])
    directions = torch.stack([f.right for f in found])
    seen = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
    drawn = [
        _pictures(model, names[0], grid, photo) for grid, photo in zip(grids, seen.double(), strict=True)
    ]
    evidence = _evidence(maps, grids, directions, found)
    panels = {
        "hues": RawPanel(
            f"{count} factors, each in its hue", torch.stack([d[0] for d in drawn]).to(x), "picture"
        ),
        "picture": RawPanel("what the network saw", seen, "picture"),
    }
    for i in range(count):
        tile = torch.stack([d[1][i] for d in drawn]).to(x)
        said = f": channels {_short(evidence['strongest_channels'][0][i])}" if len(x) == 1 else ""
        panels[f"factor {i}"] = RawPanel(f"factor {i}{said}", tile, "picture")
    if kind == "svd":
        notes += ("hues show where a component is positive; the grey maps show both signs",)
    return Raw(
        grids.to(x),
        signed=kind == "svd",
        unit="activation along the factor's direction",
        layer=names[0],
        evidence=evidence,
        notes=(*notes, *drawn[0][2]),
        panels=panels,
        extra={"scale": "maps", "title": f"factors of {names[0]}, strongest first"},
    )


def _count(layer: str, maps: Tensor, asked: int | None) -> int:
    channels, positions = maps.shape[1], maps.shape[2] * maps.shape[3]
    most = min(channels, positions)
    if asked is not None and asked > most:
        raise UsageError(
            f"factors={asked} of layer {layer!r}, {channels} channels at {positions} positions",
            f"1 to {most}",
            f"factors={most}",
        )
    return min(USUAL, most) if asked is None else asked


def _refuse(layer: str, maps: Tensor, kind: str) -> None:
    low = float(maps.min())
    if kind == "nmf" and low < 0:
        raise MethodRefusedError(
            f"layer {layer!r} holds negative numbers, min {low:.2g}",
            "post-ReLU layer needed",
            "use SVD, kind=svd",
        )
    if not bool(maps.flatten(1).any(1).all()):
        raise MethodRefusedError(
            f"layer {layer!r} is zero everywhere on this picture; there is nothing to factorise",
            "a layer that answers",
            "another picture or layer",
        )


def _ordered(found: Factors) -> Factors:
    """Rows of H of length 1, their size moved to W, the factor with the longest map first."""
    length = found.right.norm(dim=1)
    right = found.right / torch.where(length > 0, length, 1)[:, None]
    left = found.left * length
    order = left.norm(dim=0).argsort(descending=True, stable=True)
    return Factors(left[:, order], right[order], found.objective)


def _evidence(maps: Tensor, grids: Tensor, directions: Tensor, found: Sequence[Factors]) -> dict[str, Any]:
    energy = maps.double().square().sum((1, 2, 3))
    lost = energy.new_tensor([f.objective[-1] for f in found])
    strongest = directions.abs().argsort(dim=2, descending=True, stable=True)[..., :STRONGEST]
    own = grids.square().sum((2, 3))
    return {
        "factors": grids.shape[1],
        "explained": 1 - lost / energy,
        "steps": len(found[0].objective) - 1,
        "share": own / own.sum(1, keepdim=True),
        "strongest_channels": [s.tolist() for s in strongest],
        "strongest_weights": [d.gather(1, s).tolist() for d, s in zip(directions, strongest, strict=True)],
        "objective": [list(f.objective) for f in found],
        "directions": [d.tolist() for d in directions],
    }


def _pictures(
    model: VisionModel, layer: str, grids: Tensor, photo: Tensor
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """All factors on one grey photograph (3, H, W), and each alone on its own scale (k, 3, H, W)."""
    heat, notes = enlarge(model, layer, grids.clamp_min(0), *photo.shape[1:])
    hues = hue_circle(len(grids)).to(heat)
    each = heat / heat.flatten(1).amax(1).clamp_min(torch.finfo(heat.dtype).tiny)[:, None, None]
    alone = torch.stack([tint(photo, one[None], hue[None]) for one, hue in zip(each, hues, strict=True)])
    return tint(photo, heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny), hues), alone, notes


def tint(photo: Tensor, strength: Tensor, hues: Tensor) -> Tensor:
    """A grey photograph (3, H, W) tinted by k strengths (k, H, W) in [0, 1], each in its hue (k, 3), mixed as light.

    Where every strength is 0 the photograph is grey; at 1 it has the hue, light and dark as the photograph.
    """
    grey = torch.einsum("c,chw->hw", photo.new_tensor([0.299, 0.587, 0.114]), photo)  # Rec. 601 luma
    total = strength.sum(0)
    mixed = torch.einsum("khw,kc->chw", strength, hues) / total.clamp_min(torch.finfo(total.dtype).tiny)
    opacity = total.clamp(0, 1) ** 0.6
    dark, lit = 0.12 + 0.48 * grey, (mixed * (0.62 + 0.6 * grey)).clamp(0, 1)
    return dark * (1 - opacity) + lit * opacity


def hue_circle(count: int) -> Tensor:
    """`count` colours (count, 3) in [0, 1], evenly around the hue circle, as light as each other (OKLCH, Ottosson 2020).

    >>> hue_circle(3).amin().item() >= 0, hue_circle(3).shape
    (True, torch.Size([3, 3]))
    """
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count) + 0.5
    a, b, light = 0.19 * angle.cos(), 0.19 * angle.sin(), 0.74
    cone = torch.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = cone.new_tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_rgb @ cone**3).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).T


def _short(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:3]))
