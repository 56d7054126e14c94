"""A layer of an atlas on a sheet: every unit by its best patches or their mean."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.geometry import Box
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Patches
from cutaway.sweep.atlas import Atlas

from .fields import crops, fields
from .unit_numbers import made_by
from .unit_page import pixels_of

Shown = Literal["patches", "features"]
TILE = 96
"""Pixels of a unit's block, at least; small patches are enlarged whole."""


def layer_sheet(
    model: VisionModel,
    atlas: Atlas,
    layer: str,
    *,
    units: Sequence[int] | None = None,
    what: Shown = "patches",
    k: int | None = None,
    photos: str | Path | None = None,
    again: str = "",
) -> Steps[Patches]:
    """The units of a layer, each as a block of its k best patches or as its neuron feature; yields `Progress`.

    Parameters
    ----------
    units : channels; the first 64 when None.
    what : "patches", or "features", the weighted mean patch, which needs no pictures.
    k : patches of a unit; nine, or all that the atlas keeps, when None.

    Gives `Patches` (u, 3, h, w) with the largest activation of each and the channels as names; dead units are mid-grey
    and said. Raises `InputError` for an atlas of another network and pictures that are gone, `UsageError` for channels
    that the layer does not have and more patches than are kept, `MethodRefusedError` for features where the atlas has none.
    """
    start = time.perf_counter()
    atlas.check(model)
    count = atlas.units(layer)
    chosen = list(range(min(64, count))) if units is None else list(units)
    wrong = [c for c in chosen if not 0 <= c < count]
    if wrong or not chosen:
        raise UsageError(f"channels {wrong} of layer {layer!r}", f"0 to {count - 1}")
    table = atlas.reducer(layer, "top")
    k = min(9, table.k) if k is None else k
    if not 1 <= k <= table.k:
        raise UsageError(f"k={k} of an atlas that keeps {table.k}", f"1 to {table.k}", f"k={min(9, table.k)}")
    peaks, notes = table.values[chosen, 0], list[str]()
    dead = [c for c, peak in zip(chosen, peaks.tolist(), strict=True) if peak <= 0]
    if what == "features":
        features = atlas.neuron_features(layer)
        if features is None:
            raise MethodRefusedError(
                f"the atlas holds no mean patches of {layer!r}",
                "a layer whose receptive field is known, of an atlas that was built, not joined",
                "--what patches",
            )
        blocks = features[chosen].float() / 255
    else:
        made = []
        for i, channel in enumerate(chosen):
            yield Progress(i, len(chosen), note=f"{layer}:{channel}")
            made.append(_block(model, atlas, layer, channel, k, photos) if channel not in dead else None)
        first = next((b for b in made if b is not None), torch.full((3, TILE, TILE), 0.5))
        blocks = torch.stack([torch.full_like(first, 0.5) if b is None else b for b in made])
    if dead:
        notes.append(f"dead on these pictures, and grey: {', '.join(map(str, dead))}")
    return Patches(
        values=blocks.numpy(),
        scores=peaks.numpy(),
        sources=[table_name(atlas, layer, c) for c in chosen],
        boxes=np.zeros((len(chosen), 4), np.int64),
        names=[str(c) for c in chosen],
        unit="activation",
        method="layer_sheet",
        target=layer,
        layer=atlas.layer(layer),
        options={"what": what, "k": k},
        evidence={"units": count, "dead": len(dead)},
        notes=tuple(notes),
        provenance=made_by(model, atlas, time.perf_counter() - start, again),
    )


def table_name(atlas: Atlas, layer: str, channel: int) -> str:
    """The picture that excites a unit most."""
    return atlas.top(layer, channel, 1).names[0]


def _block(
    model: VisionModel, atlas: Atlas, layer: str, channel: int, k: int, photos: str | Path | None
) -> Tensor:
    """The best patches of a unit in a square of squares, one pixel between them."""
    top = atlas.top(layer, channel)
    few = min(k, len(top))
    pixels = pixels_of(model, atlas, top, few, photos).cpu()
    try:
        boxes = fields(model, atlas.layer(layer), channel, pixels, top.rows[:few], top.cols[:few])
    except MethodRefusedError:
        boxes = [Box(0, 0, pixels.shape[2] - 1, pixels.shape[3] - 1)] * few
    side = math.isqrt(k - 1) + 1
    cell = max(TILE // side, 1)
    patches = crops(pixels.float(), boxes)
    mode = "area" if min(patches.shape[2:]) > cell else "nearest"
    patches = interpolate(patches, (cell, cell), mode=mode)
    sheet = torch.full((3, side * (cell + 1) - 1, side * (cell + 1) - 1), 1.0)
    for i, patch in enumerate(patches.expand(-1, 3, -1, -1)):
        y, x = (i // side) * (cell + 1), (i % side) * (cell + 1)
        sheet[:, y : y + cell, x : x + cell] = patch
    return sheet
