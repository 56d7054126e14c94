"""One unit on a page: what an atlas knows of it, with the pictures it answers to."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import CutawayError, InputError, MethodRefusedError, UsageError
from cutaway.core.geometry import Box
from cutaway.core.model import VisionModel
from cutaway.core.result import Curves, Panel, Patches, Result, Table
from cutaway.core.tap import Tap
from cutaway.core.window_order import suggested_batch
from cutaway.sweep.atlas import Atlas, Top

from ..features.activation_mask import activation_mask
from .fields import crops, fields
from .outline import outlined
from .projected import RULES, Projecting, projections
from .selectivity import class_selectivity
from .unit_indexes import changed
from .unit_numbers import concept_of, indexes, made_by

Projection = Literal["deconvnet", "guided", "backprop", "none"]
_BINS = 48
SHARE = 0.005
"""The share of all places that a high-activation mask shows (Bau et al. 2017)."""


def unit_page(
    model: VisionModel,
    atlas: Atlas,
    layer: str,
    channel: int,
    *,
    photos: str | Path | None = None,
    k: int | None = None,
    projection: Projection = "deconvnet",
    dissection: Result | None = None,
    profile: bool = False,
    again: str = "",
) -> list[Result]:
    """Everything an atlas holds of one unit: its best patches, its distribution, its classes, its indexes.

    Parameters
    ----------
    photos : where the pictures are, when no longer where the atlas was built.
    k : best patches that are shown, nine when None; the indexes are of all that the atlas keeps.
    projection : how the patches are projected to pixels beside them.
    dissection : the units of this layer as `cutaway dissect` saved them; names the unit's concept.
    profile : the orientation, symmetry and shape indexes as well, eleven passes over all patches that the atlas keeps.

    Gives `Patches` (k, 3, h, w), the receptive fields in the network's frame, mid-grey beyond the picture, with the
    panels "projection" (Zeiler & Fergus 2014, fig. 2), "pictures" with the field outlined, "masks" of the highest
    activations (Bau 2017), and "feature", the weighted mean of all kept patches (Rafegas 2020); `Curves`, the share
    of activations at each height; a `Table` of the classes it answers. What cannot be had of this unit is said in the
    notes of the first.
    Raises `InputError` for an atlas of another network and pictures that are gone or have changed, `UsageError` for a
    channel that the layer does not have.
    """
    start = time.perf_counter()
    if projection not in (*RULES, "none"):
        raise UsageError(f"projection={projection!r}", ", ".join((*RULES, "none")), "projection='deconvnet'")
    atlas.check(model)
    name = atlas.layer(layer)
    top, notes = atlas.top(layer, channel), list[str]()
    k = min(9, len(top)) if k is None else k
    if not 1 <= k <= len(top):
        raise UsageError(f"k={k} of {len(top)} patches", f"1 to {len(top)}", f"k={min(9, len(top))}")
    every = pixels_of(model, atlas, top, len(top) if profile else k, photos)
    _check(model, name, channel, every, top)
    pixels, rows, cols, values = every[:k], top.rows[:k], top.cols[:k], top.values[:k]
    try:
        boxes = fields(model, name, channel, pixels, rows, cols)
    except MethodRefusedError as error:
        height, width = pixels.shape[-2:]
        boxes = [Box(0, 0, height - 1, width - 1)] * k
        notes.append(f"whole pictures are shown: {error.found}")
    panels: dict[str, Panel] = {}
    if float(top.values[0]) <= 0:
        notes.append("dead on these pictures: it never answers above 0, so its first pictures say nothing")
    elif projection != "none":
        try:
            panels["projection"] = _projected(model, name, channel, pixels, rows, cols, projection)
        except CutawayError as error:
            notes.append(f"no {projection} projection: {error.found}")
    said = {i: _words(atlas, top, i) for i in range(k)}
    shown = pixels.float().cpu().expand(-1, 3, -1, -1)
    seen = torch.stack([outlined(p, box) for p, box in zip(shown, boxes, strict=True)])
    panels["pictures"] = Panel(
        "whole pictures, the field outlined",
        seen.numpy(),
        "picture",
        labels=said,
        columns=math.isqrt(k - 1) + 1,
    )
    if "sketch" in atlas.plan.statistics and float(top.values[0]) > 0 and model.layers.find(name).grid:
        panels["masks"] = _masked(model, atlas, name, channel, pixels)
    feature = atlas.neuron_feature(layer, channel)
    if feature is not None:
        mean = feature.float() / 255
        panels["feature"] = Panel(f"neuron feature of {len(top)} patches", mean.numpy(), "picture")

    made: dict[str, Any] = {
        "method": "top_patches",
        "target": f"{layer}:{channel}",
        "layer": name,
        "options": {"k": k, "projection": projection},
    }
    made["provenance"] = made_by(model, atlas, time.perf_counter() - start, again)
    evidence, more = indexes(atlas, layer, channel)
    if profile:
        lost, said_of = changed(model, name, channel, every, top)
        evidence, more = evidence | lost, (*more, *said_of)
    if dissection is not None:
        evidence |= concept_of(atlas, layer, channel, dissection)
    patches = Patches(
        values=crops(shown, boxes).numpy(),
        scores=values.numpy(),
        sources=list(top.names[:k]),
        boxes=np.array(boxes),
        unit="activation",
        panels=panels,
        evidence=evidence,
        notes=(*notes, *more),
        **made,
    )
    found: list[Result] = [patches]
    if "sketch" in atlas.plan.statistics:
        found.append(_histogram(atlas, layer, channel, made | {"method": "activation_histogram"}))
    classes = _classes(atlas, layer, channel, top, made | {"method": "unit_classes"})
    return found + ([classes] if classes is not None else [])


def pixels_of(model: VisionModel, atlas: Atlas, top: Top, k: int, photos: str | Path | None) -> Tensor:
    """The k best pictures as the network sees them."""
    found = []
    for number in top.pictures[:k].tolist():
        path = atlas.path(number, photos)
        if not path.is_file():
            raise InputError(
                f"{path} is gone",
                "the pictures the atlas was built over",
                "--photos, the folder they are in now",
            )
        found.append(model.pixels(path))
    return torch.cat(found)


def _check(
    model: VisionModel,
    layer: str,
    channel: int,
    pixels: Tensor,
    top: Top,
) -> None:
    """Raise `InputError` where a picture no longer gives the activation that was recorded."""
    answers, values = [], top.values[: len(pixels)]
    rows, cols = (places[: len(pixels)] for places in (top.rows, top.cols))
    with model.guard(), torch.no_grad():
        for part in torch.split(pixels, suggested_batch(pixels)):
            with Tap(model, layer, stop=True) as tap:
                model(part)
            maps = tap.maps(layer)
            answers.append(maps if maps.ndim == 4 else maps[:, :, None, None])
    now = torch.cat(answers)[torch.arange(len(pixels)), channel, rows, cols].float().cpu()
    off = (now - values).abs() / values.abs().max().clamp(min=1e-12)
    if not float(off.max()) < 1e-2:
        worst = int(off.argmax())
        raise InputError(
            f"{top.names[worst]} gives {float(now[worst]):.4g} and gave {float(values[worst]):.4g} when the atlas was built",
            "the pictures the atlas was built over, unchanged",
            "--photos, the folder they are in, or build the atlas again",
        )


def _projected(
    model: VisionModel,
    layer: str,
    channel: int,
    pixels: Tensor,
    rows: Tensor,
    cols: Tensor,
    rule: Projecting,
) -> Panel:
    found = projections(model, layer, channel, pixels, rows, cols, rule)
    how = "guided backprop" if rule == "guided" else rule
    return Panel(
        f"the same patches by {how}",
        found.tiles.float().cpu().expand(-1, 3, -1, -1).numpy(),
        "tiles",
        each=True,
    )


def _masked(model: VisionModel, atlas: Atlas, layer: str, channel: int, pixels: Tensor) -> Panel:
    """Where each picture excites the unit beyond all but `SHARE` of all places of all pictures."""
    found = atlas.reducer(layer, "sketch").sketch.threshold(SHARE)
    above, share = float(found.value[channel]), float(found.share[channel])
    with model.guard(), torch.no_grad():
        raw = activation_mask(model, pixels, layer=layer, unit=channel, threshold=above)
    title = f"where it is above {above:.3g}, as {share:.2%} of all places are"
    columns = math.isqrt(len(pixels) - 1) + 1
    return Panel(title, raw.panels["mask"].values.float().cpu().numpy(), "picture", columns=columns)


def _words(atlas: Atlas, top: Top, rank: int) -> str:
    label = int(top.labels[rank])
    return atlas.classes[label] if 0 <= label < len(atlas.classes) else Path(top.names[rank]).stem


def _histogram(atlas: Atlas, layer: str, channel: int, made: dict[str, Any]) -> Curves:
    """The share of activations at each height; the share of exact zeros stands in the notes."""
    sketch = atlas.reducer(layer, "sketch").sketch
    extremes = atlas.reducer(layer, "extremes") if "extremes" in atlas.plan.statistics else None
    top = float(atlas.top(layer, channel, 1).values[0])
    low = float(extremes.lows[channel]) if extremes is not None else min(0.0, top)
    limits = torch.linspace(low, max(top, low + 1e-6), _BINS + 1, dtype=torch.float64)
    middle = (limits[1:] + limits[:-1]) / 2
    inside = (limits[:-1] < 0) & (limits[1:] >= 0)
    inside[0] |= bool(limits[0] == 0)
    limits[0], limits[-1] = -torch.inf, torch.inf  # nothing lies beyond, but buckets reach
    share = sketch.histogram(limits)[channel] / sketch.totals[channel].double()
    zero = float(sketch.zero_share[channel])
    share[inside] -= zero  # what is exactly 0 would dwarf the rest
    return Curves(
        values=share.clamp(min=0)[None].numpy(),
        x=middle.numpy(),
        names=("",),
        x_label="activation",
        y_label="share of all places",
        unit="share of all places",
        notes=(f"{zero:.1%} of all places are exactly 0 and are not drawn",),
        **made,
    )


def _classes(atlas: Atlas, layer: str, channel: int, top: Top, made: dict[str, Any]) -> Table | None:
    """The classes that hold most of the unit's weight, and how strongly it answers them on average."""
    alive = top.values > 0
    if not bool(alive.any()) or bool((top.labels[alive] < 0).any()) or int(alive.sum()) < 2:
        return None
    found = class_selectivity(top.values, top.labels)
    chosen = found.classes[:8]
    columns = ["share of its best patches", "patches"]
    patches = [(top.labels[alive] == c).sum() for c in chosen]
    numbers = [found.shares[:8].double(), torch.tensor([float(n) for n in patches])]
    if "classes" in atlas.plan.statistics:
        means = atlas.reducer(layer, "classes").means().peak[:, channel]
        columns += ["mean peak in the class", "rank of that mean"]
        order = means.nan_to_num(-torch.inf).argsort(descending=True).argsort() + 1
        numbers += [means[chosen], order[chosen].double()]
    names = [atlas.classes[c] if c < len(atlas.classes) else str(c) for c in chosen.tolist()]
    return Table(values=torch.stack(numbers, 1).numpy(), rows=names, columns=columns, unit="", **made)
