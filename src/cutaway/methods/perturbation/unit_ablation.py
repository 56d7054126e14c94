"""Unit ablation: silence each channel of a layer, once, and ask again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.errors import CutawayError, UsageError
from cutaway.core.layers import Layer, as_map
from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Table
from cutaway.core.tap import Tap
from cutaway.core.target import Target, score
from cutaway.core.windows import suggested_batch

Instead = Literal["zero", "mean"]

_HELD = 2**24
"""Numbers of a layer's activation held at a time."""
_SAME = 1e4
"""How many roundings apart two ways to compute one answer may lie."""


@method(
    title="Unit ablation",
    chapter="perturbation",
    needs={IMAGE, TARGET, LAYER},
    gives=Table,
    paper="Morcos et al. 2018, arXiv:1803.06959, sec. 2; Zhou et al. 2018, arXiv:1806.02891, sec. 3",
    tags=Tags(family="perturbation", level="mid"),
    caveat="A channel whose work others can do alone costs nothing, and a silenced one is a state no picture causes.",
    laws={"linearity", "class sensitive", "weights sensitive"},
)
def unit_ablation(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    layer: LayerName = None,
    instead: Annotated[
        Instead, "what its map becomes: zero, or its own mean over positions, which keeps its strength"
    ] = "zero",
    show: Annotated[int, Range(1, 64), "maps to show, of the channels that matter most"] = 16,
) -> Steps[Raw]:
    """How much the target falls when one channel of a layer is silenced.

    Gives (C, 1), the channels with the largest |drop| first: S(x) - S(x with channel k replaced), signed, positive
    where the channel speaks for the target. It is replaced at every position, after the nonlinearity that directly
    follows the layer, by 0 or by the mean of its own map (so that only where it answered is lost). Where the target
    is linear in the layer, the drop is the sum of dS/da (a - a') over the map. The panel shows the strongest
    channels' maps. Cost: what lies above the layer, once per channel; a channel whose map already is what would
    replace it has drop 0 at once.
    Raises `UnknownNameError` for an unknown layer, `UsageError` for one that ran several times or has no channels.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="pooled and weighted")
    >>> result = model.explain(torch.ones(3, 2, 2), "unit_ablation", target=1, layer="0")
    >>> sizes = net[2].weight[1].abs().sort(descending=True).values
    >>> torch.allclose(torch.tensor(result.values[:, 0]).abs(), sizes)
    True
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer, why = model.layers.suggest()
        notes = (f"layer {layer}: {why}",)
    row = model.layers.find(layer)
    axis = _channel_axis(row, instead)
    drops, before, kept = [], [], []
    for i in range(len(x)):
        one, goal = x[i : i + 1], target.alone(i)
        with torch.no_grad():
            clean = score(model, one, goal).double().cpu()
            with Tap(model, row.name) as tap:
                model(one)
        before.append(clean)
        activation = tap[row.name].detach().movedim(axis, 1)
        kept.append(as_map(tap[row.name].detach(), row)[0])
        changed = ~(activation == _replaced(activation, instead)).flatten(2).all(2)[0]
        drop = torch.zeros(activation.shape[1], dtype=torch.float64)
        numbers = changed.nonzero()[:, 0].cpu()
        size = min(256, _HELD // activation.numel())
        for part, found in _without(model, one, goal, row.name, axis, numbers, instead, size):
            drop[part] = clean - found
            yield Progress(int(i * len(drop) + part[-1]) + 1, len(x) * len(drop), note="channels")
        drops.append(drop)
    order = torch.stack(drops).abs().argsort(dim=1, descending=True, stable=True)
    values = torch.stack(drops).gather(1, order)
    names = [[f"{row.name}:{k}" for k in own] for own in order.tolist()]
    dead = [int((drop == 0).sum()) for drop in drops]
    return Raw(
        values[..., None].to(x),
        unit="drop of the target",
        layer=row.name,
        evidence={
            "score": torch.cat(before),
            "channels": order,
            "channels without effect": torch.tensor(dead),
            "largest drop": values.amax(1),
            "smallest drop": values.amin(1),
        },
        notes=(
            *notes,
            f"each channel of {row.name} replaced by {'0' if instead == 'zero' else 'the mean of its own map'}",
        ),
        panels=_maps(kept, order, values, min(show, len(order[0])), row),
        extra={"rows": names, "columns": ("drop of the target",)},
    )


def _channel_axis(row: Layer, instead: Instead) -> int:
    """Where the layer's output has its channels."""
    if row.layout == "other" or len(row.shape) < 2:
        raise UsageError(
            f"layer {row.name!r} gives {row.shape}, which has no channels",
            "a layer with maps or a vector",
            "layer=none",
        )
    if row.layout == "vector" and instead == "mean":
        raise UsageError(
            f"the mean over positions of layer {row.name!r}, which has no positions",
            "instead='zero'",
            "instead='zero'",
        )
    return -1 if row.layout in ("nhwc", "tokens") else 1


def _replaced(activation: Tensor, instead: Instead) -> Tensor:
    """What stands in for every channel of (N, C, ...)."""
    if instead == "zero":
        return torch.zeros_like(activation)
    mean = activation.flatten(2).mean(2)
    return mean.reshape(*mean.shape, *[1] * (activation.ndim - 2)).expand_as(activation)


def _without(
    model: VisionModel,
    x: Tensor,
    target: Target,
    layer: str,
    axis: int,
    channels: Tensor,
    instead: Instead,
    size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The target's value for the picture (1, C, H, W) without each of the channels: (channels, values).

    The picture goes in once and becomes many at the layer, so that what lies before it is computed once for them.
    Where a network does not stand that, or answers otherwise than to many pictures, it is given many.
    """
    once = True
    for part in torch.split(channels, max(suggested_batch(x), size)):
        found = None
        if once:
            try:
                found = _silenced(model, x, target, layer, axis, part, instead)
                check = _silenced(model, x.repeat(2, 1, 1, 1), target, layer, axis, part[[0, -1]], instead)
                far = float((found[[0, -1]] - check).abs().max())
                if not far <= _SAME * torch.finfo(x.dtype).eps * float(check.abs().max()):
                    found = None
            except (CutawayError, RuntimeError, TypeError, ValueError, IndexError):
                found = None
            once = found is not None
        if found is not None:
            yield part, found
            continue
        for few in torch.split(part, suggested_batch(x)):
            pictures = x.repeat(len(few), 1, 1, 1)
            yield few, _silenced(model, pictures, target, layer, axis, few, instead)


def _silenced(
    model: VisionModel, x: Tensor, target: Target, layer: str, axis: int, channels: Tensor, instead: Instead
) -> Tensor:
    """The target's values (n,) for n channels silenced in turn; x holds the picture once or n times."""
    where = torch.arange(len(channels)), channels

    def edit(name: str, activation: Tensor) -> Tensor:
        edited = activation.expand(len(channels), *activation.shape[1:]).clone()
        second = edited.movedim(axis, 1)
        second[where] = _replaced(second, instead)[where]
        return edited

    with torch.no_grad(), Tap(model, layer, edit=edit):
        found = score(model, x, target).double().cpu()
    if found.shape != (len(channels),):
        raise UsageError(f"{tuple(found.shape)} values for {len(channels)} pictures", "one for each")
    return found


def _maps(kept: list[Tensor], order: Tensor, values: Tensor, count: int, row: Layer) -> dict[str, RawPanel]:
    """The maps of the channels that matter most, each under its number and its drop."""
    if kept[0].ndim != 3:
        return {}
    maps = torch.stack([m[own[:count].to(m.device)] for m, own in zip(kept, order, strict=True)])
    labels = [
        {j: f"{k}: {v:+.2g}" for j, (k, v) in enumerate(zip(own, drops, strict=True))}
        for own, drops in zip(order[:, :count].tolist(), values[:, :count].tolist(), strict=True)
    ]
    title = f"maps of {row.name}, the channels that matter most, each with its drop"
    return {"maps": RawPanel(title, maps, "maps", "activation", labels, each=True)}
