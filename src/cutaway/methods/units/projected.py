"""The crops that excite a unit most, each projected to pixels: one activation at a time, batched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.core.geometry import Box
from cutaway.core.layers import LayerTable
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.rules import Rule, plain
from cutaway.core.tap import Tap
from cutaway.core.target import gradient
from cutaway.core.window_order import suggested_batch
from cutaway.methods.projection.rules import deconvnet_relu, guided_relu, reach, skip_contrast, under

from .cropping import cropping
from .fields import inside, moved, window

Projecting = Literal["deconvnet", "guided", "backprop"]
Route = Literal["crop", "whole"]

RULES: Mapping[Projecting, Mapping[Family, Rule]] = {
    "deconvnet": {Family.RELU: deconvnet_relu, Family.NORM: skip_contrast},
    "guided": {Family.RELU: guided_relu, Family.NORM: plain},
    "backprop": {},
}
"""What each kind of projection sends back through ReLU and local response normalisation."""


@dataclass(frozen=True)
class Projections:
    """One unit's projections from n pictures, each cropped to its receptive field.

    `tiles` (n, 3, h, w) are signed numbers in pixel space, zero beyond the picture; `boxes` the pixels of each tile,
    (top, left, bottom, right) with all ends included, possibly beyond the picture; `values` (n,) the activations;
    `routes` says of each picture whether only a crop of it was run, or all of it.
    """

    tiles: Tensor
    boxes: tuple[Box, ...]
    values: Tensor
    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()


def projections(
    model: VisionModel,
    layer: str,
    channel: int,
    pictures: Tensor,
    rows: Sequence[int] | Tensor,
    cols: Sequence[int] | Tensor,
    rule: Projecting = "deconvnet",
) -> Projections:
    """A unit's activation in each picture projected to pixels, every other activation of the layer zero.

    Parameters
    ----------
    layer, channel : the unit, read after the nonlinearity that directly follows the layer.
    pictures : (n, 3, H, W) pixels in [0, 1], as the network sees them.
    rows, cols : (n,) where in the layer's map the activation lies, from 0.
    rule : "deconvnet" (Zeiler & Fergus 2014, sec. 2.1), "guided" (Springenberg 2015, sec. 3.4) or "backprop".

    The signal starts from the activation itself. A unit behind windows alone (see `cropping`) needs no more than a
    crop about its field, run from and back to pixels; others take the whole picture. Both routes give the same
    numbers, those of the methods of that name with `start="activation"`.

    Raises `UnknownNameError` for the layer, channel or a position, `UsageError` for pictures or positions of another
    shape, `MethodRefusedError` when an operator is out of the rule's reach.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> from cutaway import Preprocess
    >>> found = projections(VisionModel(net, Preprocess(), name="tiny"), "2", 1, torch.rand(2, 3, 20, 20), [0, 4], [3, 7])
    >>> found.tiles.shape, found.routes, found.boxes[1]
    (torch.Size([2, 3, 4, 4]), ('crop', 'crop'), Box(top=8, left=14, bottom=11, right=17))
    """
    if rule not in RULES:
        raise UsageError(f"rule={rule!r}", " or ".join(map(repr, RULES)), "rule='deconvnet'")
    x, at = _checked(model, pictures, rows, cols)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(model.device.type, enabled=False),
        model.guard(),
    ):
        x = x.clone() if x.is_inference() else x.detach()
        table = layer_table(model, x)
        return _projected(model, table, unit_of(table, layer, channel, at), channel, x, at, rule)


def unit_of(table: LayerTable, layer: str, channel: int, at: Sequence[tuple[int, int]] = ()) -> str:
    """The layer's own name; raises where it has no maps, not that channel, or not those positions."""
    row = table.find(layer)
    if row.layout not in ("map", "nhwc", "tokens") or row.grid is None or row.runs != 1:
        raise UsageError(
            f"layer {layer!r} {'ran several times' if row.runs != 1 else 'gives no maps'}",
            "a layer with rows and columns that runs once",
            repr(table.suggest()[0]),
        )
    if not 0 <= channel < row.units:
        raise UnknownNameError(f"channel {channel} of {layer!r}", f"0 to {row.units - 1}")
    high, wide = row.grid
    for r, c in at:
        if not (0 <= r < high and 0 <= c < wide):
            raise UnknownNameError(
                f"position {r},{c} of {layer!r}", f"rows 0 to {high - 1}, columns 0 to {wide - 1}"
            )
    return row.name


def _checked(
    model: VisionModel, pictures: Tensor, rows: Sequence[int] | Tensor, cols: Sequence[int] | Tensor
) -> tuple[Tensor, list[tuple[int, int]]]:
    """The pictures where the network is, and a position for each."""
    if pictures.ndim != 4 or not pictures.is_floating_point() or not len(pictures):
        raise UsageError(
            f"pictures of shape {tuple(pictures.shape)}, {pictures.dtype}",
            "floating-point pixels (n, 3, H, W) in [0, 1], n at least 1",
            "model.pixels(photograph)",
        )
    at = [(int(r), int(c)) for r, c in zip(rows, cols, strict=False)]
    if not len(rows) == len(cols) == len(pictures):
        raise UsageError(
            f"{len(rows)} rows and {len(cols)} columns for {len(pictures)} pictures",
            "one of each per picture",
        )
    return pictures.to(model.device, model.dtype), at


def layer_table(model: VisionModel, x: Tensor) -> LayerTable:
    """The model's layer table for pictures of the size of x, (n, C, H, W)."""
    table = model.layers
    if table.trace.shape[-2:] == tuple(x.shape[-2:]):
        return table
    with torch.no_grad(), torch.random.fork_rng(devices=model.random_devices):
        return LayerTable.build(model, x[:1])


def _projected(
    model: VisionModel,
    table: LayerTable,
    layer: str,
    channel: int,
    x: Tensor,
    at: Sequence[tuple[int, int]],
    rule: Projecting,
) -> Projections:
    size = (int(x.shape[-2]), int(x.shape[-1]))
    boxes, notes = inside(table.trace, layer, channel, at)
    whole = Box(0, 0, size[0] - 1, size[1] - 1)
    # TensorFlow's SAME padding depends on the picture's size, so that a crop would be padded otherwise
    cut = cropping(table.trace, layer) if model.preprocess.padding == "torch" else None
    crops = [cut.crop(*p, size) if cut else whole for p in at]
    tiles = x.new_zeros(len(x), x.shape[1], boxes[0].height, boxes[0].width)
    values = x.new_zeros(len(x))
    for shape in dict.fromkeys((crop.height, crop.width) for crop in crops):
        alike = [i for i, crop in enumerate(crops) if (crop.height, crop.width) == shape]
        parts = torch.stack([window(x[i], crops[i]) for i in alike])
        places = [cut.position(*at[i], crops[i]) if cut else at[i] for i in alike]
        signals, values[alike], said = _signals(model, layer, channel, parts, places, rule)
        notes += said
        for i, signal in zip(alike, signals, strict=True):
            tiles[i] = window(signal, moved(boxes[i], -crops[i].top, -crops[i].left))
    routes: list[Route] = ["whole" if crop == whole else "crop" for crop in crops]
    return Projections(tiles, tuple(boxes), values, tuple(routes), tuple(dict.fromkeys(notes)))


def _signals(
    model: VisionModel,
    layer: str,
    channel: int,
    x: Tensor,
    at: Sequence[tuple[int, int]],
    rule: Projecting,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The signal at every pixel (n, 3, H, W), the activations (n,) and what must be said."""
    signals, values = [], []
    notes: tuple[str, ...] = ()
    positions, step = torch.tensor(at, device=x.device), suggested_batch(x)
    for part, here in zip(torch.split(x, step), torch.split(positions, step), strict=True):
        seen = part.detach().requires_grad_()
        with under(RULES[rule], model) as mode, Tap(model, layer, stop=True) as tap:
            model(seen)
        maps = tap.maps(layer)
        if RULES[rule]:
            notes = reach(mode, [maps], f"{layer}:{channel}", rule)
        picked = maps[torch.arange(len(seen), device=x.device), channel, here[:, 0], here[:, 1]]
        (signal,) = gradient((picked * picked.detach()).sum(), seen)
        signals.append(signal)
        values.append(picked.detach())
    return torch.cat(signals), torch.cat(values), notes
