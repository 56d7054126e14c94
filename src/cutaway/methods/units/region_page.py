"""A unit's ranked regions of its best pictures, beside its page."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Patches
from cutaway.sweep.atlas import Atlas

from .regions import drawn, rank_regions


def region_page(
    model: VisionModel,
    atlas: Atlas,
    page: Patches,
    layer: str,
    channel: int,
    *,
    pictures: int = 8,
    most: int = 16,
    photos: str | Path | None = None,
) -> Steps[Patches]:
    """The regions of a unit's best pictures that excite it most (Girshick 2014), with the provenance of its `page`.

    Regions are proposals of a hierarchical segmentation, each warped to the network's input; the values are
    activations divided by the unit's largest in the atlas, the field of the activation is outlined. Raises what
    `rank_regions` raises.
    """
    start = time.perf_counter()
    top = atlas.top(layer, channel)
    numbers = top.pictures[:pictures].tolist()
    files = [atlas.path(number, photos) for number in numbers]
    found = yield from rank_regions(
        model, atlas.layer(layer), channel, files, most=most, largest=float(top.values[0])
    )
    seconds = time.perf_counter() - start
    return Patches(
        values=drawn(model, files, found).numpy(),
        scores=np.array([region.share for region in found]),
        sources=[atlas.names[numbers[region.picture]] for region in found],
        boxes=np.array([region.box for region in found]),
        unit="share of the largest activation",
        method="ranked_regions",
        target=page.target,
        layer=page.layer,
        options={"pictures": pictures, "most": most},
        provenance=replace(page.provenance, seconds=seconds),
    )
