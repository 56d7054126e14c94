"""The building blocks of one place: the channels and the groups of channels that make up its activation."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.geometry import Box, receptive_field
from cutaway.core.method import IMAGE, LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Table
from cutaway.methods.features.activation_factors import activation_factors, tint
from cutaway.methods.features.capture import capture, named
from cutaway.methods.features.enlarge import enlarge

from .outline import outlined

HUE = (1.0, 0.72, 0.2)
"""Of a channel's map over the picture."""


@method(
    title="Building blocks",
    chapter="units",
    needs={IMAGE, LAYER},
    gives=Table,
    paper="Olah et al. 2018, The building blocks of interpretability, doi:10.23915/distill.00010",
    tags=Tags(family="features", focus="both", level="mid"),
    caveat="A large activation is not a large effect: what a channel does to the answer is not asked here.",
    laws={"weights sensitive"},
)
def building_blocks(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    position: Annotated[
        str | None,
        "row,column of the layer's map, from 0; the place of the longest activation when not given",
    ] = None,
    channels: Annotated[int, Range(1, 64), "strongest channels of the place"] = 8,
    groups: Annotated[
        int | None,
        Range(0, 24),
        "channel groups of the whole map by NMF; 0 for none; 6, or as many as the layer has, when not given",
    ] = None,
) -> Steps[Raw]:
    """The activation of one place of a layer taken apart: its strongest channels, and the groups they belong to.

    Gives (k, 2), the channels with the largest |a| first, ties by number: the activation a of each at the place, and
    its share |a| / sum over all channels of |a|. Panels show the place and what it sees of the picture, each channel's
    map over it, and the groups of `activation_factors`, each with its weight at the place in the evidence: the
    activation there is sum over groups of weight times direction, up to `left over`, as a share of its length.
    Raises `UnknownNameError` for a place outside the map, `UsageError` for text that names none, and
    `MethodRefusedError` for a map that is zero everywhere, or for groups of a layer with negative numbers.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="one layer")
    >>> model.explain(torch.rand(3, 9, 9), "building_blocks", layer="1", position="2,3", channels=3).values.shape
    (3, 2)
    """
    names, notes = named(model, layer)
    name = names[0]
    yield Progress(0, 1, note=f"building blocks of {name}")
    maps = capture(model, x, [name])[name]
    if not bool(maps.flatten(1).any(1).all()):
        raise MethodRefusedError(
            f"layer {name!r} is zero everywhere on this picture; there is nothing to take apart",
            "a layer that answers",
            "another picture or layer",
        )
    at = _places(name, maps, position)
    each = torch.arange(len(maps), device=maps.device)
    there = maps[each, :, at[:, 0], at[:, 1]]  # (N, C)
    total = there.abs().sum(1, keepdim=True)
    count = min(channels, there.shape[1])
    order = there.abs().argsort(dim=1, descending=True, stable=True)[:, :count]
    values = there.gather(1, order)
    shares = values.abs() / total.clamp_min(torch.finfo(total.dtype).tiny)
    if not bool(total.all()):
        notes += ("every channel is zero at this place",)
    seen = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
    boxes, said = _fields(model, name, at)
    panels = {
        "place": RawPanel(
            f"what place {_words(at)} of {name} sees",
            torch.stack([p if b is None else outlined(p, b) for p, b in zip(seen, boxes, strict=True)]),
            "picture",
        ),
        "channels": RawPanel(
            f"where else each of them answers, {name}",
            torch.stack([_over(model, name, *one) for one in zip(maps, order, seen, strict=True)]),
            "picture",
            labels=[
                {i: f"{c}: {a:.3g}" for i, (c, a) in enumerate(zip(*one, strict=True))}
                for one in zip(order.tolist(), values.tolist(), strict=True)
            ],
        ),
    }
    evidence: dict[str, Any] = {"place": [tuple(p) for p in at.tolist()], "channels": order}
    evidence |= {"together": shares.sum(1), "length": there.norm(dim=1)}
    if groups != 0 and groups is None and bool((maps < 0).any()):
        notes += (f"no channel groups: {name} holds negative numbers, which NMF does not take",)
    elif groups != 0:
        factors = yield from activation_factors(model, x, layer=name, factors=groups)
        found, drawn = _groups(factors, there, at)
        evidence |= found
        panels |= drawn
    return Raw(
        torch.stack([values, shares], 2),
        signed=bool((values < 0).any()),
        unit="activation; share of the place's activations",
        layer=name,
        evidence=evidence,
        notes=(*notes, *said),
        panels=panels,
        extra={
            "rows": [[f"{name}:{c}" for c in own] for own in order.tolist()],
            "columns": ("activation", "share"),
        },
    )


def _places(layer: str, maps: Tensor, position: str | None) -> Tensor:
    """(N, 2): the place asked for, or of each picture the first with the longest activation."""
    high, wide = maps.shape[2:]
    if position is None:
        at = maps.double().square().sum(1).flatten(1).argmax(1)
        return torch.stack([at.div(wide, rounding_mode="floor"), at % wide], 1)
    try:
        row, column = (int(part) for part in position.split(","))
    except ValueError:
        raise UsageError(f"position={position!r}", "row,column, two whole numbers", "position=3,4") from None
    if not (0 <= row < high and 0 <= column < wide):
        raise UnknownNameError(
            f"position {row},{column} of {layer!r}", f"rows 0 to {high - 1}, columns 0 to {wide - 1}"
        )
    return torch.tensor([[row, column]], device=maps.device).expand(len(maps), 2)


def _words(at: Tensor) -> str:
    """The place where it is one for all pictures."""
    found = {tuple(p) for p in at.tolist()}
    return "{},{}".format(*found.pop()) if len(found) == 1 else "of the longest activation"


def _fields(model: VisionModel, layer: str, at: Tensor) -> tuple[list[Box | None], tuple[str, ...]]:
    """What each picture's place sees of it; None, and why, where that is not known."""
    try:
        trace = model.layers.trace
        return [receptive_field(trace, layer, *place).clipped for place in at.tolist()], ()
    except MethodRefusedError as error:
        return [None] * len(at), (f"the place is not drawn: {error.found}",)


def _over(model: VisionModel, layer: str, maps: Tensor, channels: Tensor, photo: Tensor) -> Tensor:
    """Each channel's map (C, h, w) over the grey photograph, (k, 3, H, W), on its own scale."""
    heat, _ = enlarge(model, layer, maps[channels].clamp_min(0), int(photo.shape[1]), int(photo.shape[2]))
    far = heat.flatten(1).amax(1).clamp_min(torch.finfo(heat.dtype).tiny)
    hue = heat.new_tensor([HUE])
    return torch.stack([tint(photo, one[None], hue) for one in heat / far[:, None, None]])


def _groups(factors: Raw, there: Tensor, at: Tensor) -> tuple[dict[str, Any], dict[str, RawPanel]]:
    """The weights of the groups at the place with what they leave over, and their maps over the picture."""
    each = torch.arange(len(at), device=at.device)
    weights = factors.values[each, :, at[:, 0], at[:, 1]].double()  # (N, g)
    directions = torch.tensor(factors.evidence["directions"], dtype=torch.float64, device=at.device)
    rest = there.double() - torch.einsum("ng,ngc->nc", weights, directions)
    length = there.double().norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    alone = [factors.panels[f"factor {g}"].values for g in range(weights.shape[1])]
    names = [
        {
            g: f"{w:.4g}: {', '.join(map(str, own[:2]))}"
            for g, (w, own) in enumerate(zip(row, strongest, strict=True))
        }
        for row, strongest in zip(weights.tolist(), factors.evidence["strongest_channels"], strict=True)
    ]
    evidence = {
        "groups": weights,
        "left over": rest.norm(dim=1) / length,
        "strongest channels": factors.evidence["strongest_channels"],
        "directions": factors.evidence["directions"],
    }
    title = "channel groups, each with its weight at the place and its strongest channels"
    panels = {
        "hues": factors.panels["hues"],
        "groups": RawPanel(title, torch.stack(alone, 1), "picture", labels=names),
    }
    return evidence, panels
