"""Pictures of what dissected units answer to."""

from __future__ import annotations

from dataclasses import replace

import torch

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.data.folder import PictureSource
from cutaway.methods.features.enlarge import enlarge

from .dissection_counts import KEPT, Source
from .dissection_found import DissectedLayer, Dissection, UnitPictures


def show_units(
    model: VisionModel,
    pictures: PictureSource,
    found: Dissection,
    *,
    each: int = 1,
    most: int = 12,
    count: int = 5,
) -> Steps[Dissection]:
    """The dissection with pictures of its best units: of each concept that has detectors the `each` with the highest
    IoU, at most `most` units of a layer, best first, each in the `count` pictures with its highest peaks.

    Yields `Progress` in units. Raises `UsageError` for more pictures than were kept.
    """
    if not 1 <= count <= KEPT or each < 1 or most < 1:
        raise UsageError(f"each={each}, most={most}, count={count}", f"at least 1, count to {KEPT}")
    shown: dict[str, list[UnitPictures]] = {}
    for layer in found.layers:
        best = [unit for _, units in layer.by_concept() for unit in units[:each]]
        best = sorted(best, key=lambda u: (-float(layer.best[u]), u))[:most]
        shown[layer.layer] = []
        for done, unit in enumerate(best):
            shown[layer.layer].append(_pictured(model, pictures, layer, unit, count))
            yield Progress(done + 1, len(best), note=f"pictures of {layer.layer}")
    return replace(found, shown=shown)


def _pictured(
    model: VisionModel, pictures: PictureSource, layer: DissectedLayer, unit: int, count: int
) -> UnitPictures:
    numbers = [n for n in layer.top.pictures[unit, :count].tolist() if n >= 0]
    tiles, masks = [], []
    for some, maps in Source(model, pictures, 1, 0).maps([layer.layer], None, numbers):
        own = maps[layer.layer][0, unit : unit + 1].float()
        heat, _ = enlarge(model, layer.layer, own, *some.pixels.shape[2:])
        masks.append(heat[0].cpu() > float(layer.thresholds.value[unit]))
        tiles.append(some.pixels[0].float().cpu().expand(3, -1, -1))
    high, wide = (
        max(t.shape[i] for t in tiles) for i in (1, 2)
    )  # pictures of several sizes: top left aligned
    pixels = torch.full((len(tiles), 3, high, wide), 0.5)
    where = torch.zeros(len(tiles), high, wide, dtype=torch.bool)
    for k, (tile, mask) in enumerate(zip(tiles, masks, strict=True)):
        pixels[k, :, : tile.shape[1], : tile.shape[2]] = tile
        where[k, : mask.shape[0], : mask.shape[1]] = mask
    names = tuple(pictures.names[n] for n in numbers)
    return UnitPictures(layer.layer, unit, layer.concept(unit), float(layer.best[unit]), names, pixels, where)
