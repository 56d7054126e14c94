"""Where in the picture one unit answers highly: the picture inside, dimmed outside."""

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.errors import UnknownNameError
from cutaway.core.method import IMAGE, LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution

from .capture import capture, named
from .enlarge import enlarge

DIM = 0.25
"""Brightness of the picture outside the mask."""


@method(
    title="High-activation mask",
    chapter="features",
    needs={IMAGE, LAYER},
    gives=Attribution,
    paper="Bau et al. 2017, arXiv:1704.05796, sec. 2.2",
    tags=Tags(family="features", focus="both", level="mid"),
    caveat="The threshold comes from this one picture, so every unit has its top share here, also one that barely answers.",
    laws={"weights sensitive"},
)
def activation_mask(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    unit: Annotated[
        int | None, Range(0), "channel; the one with the highest activation when not given"
    ] = None,
    share: Annotated[
        float, Range(0, 1, open_low=True, open_high=True), "of the unit's positions above T"
    ] = 0.05,
    threshold: Annotated[
        float | None, Range(-1e9, 1e9), "T itself, such as an atlas knows it, instead of `share`"
    ] = None,
) -> Raw:
    """The picture where a unit's activation exceeds T, dimmed elsewhere; values are the map, enlarged, (H, W).

    T is the (1 - share) quantile of the unit's own map on this picture, taken before enlarging; over a whole
    data set the published share is 0.005, and `threshold` takes a T found there. The map is enlarged bilinearly
    with its numbers at the centres of their receptive fields, then thresholded, strictly above T. Raises
    `UsageError` for a layer without maps, `UnknownNameError` for a unit out of range.
    """
    names, notes = named(model, layer)
    maps = capture(model, x, names)[names[0]]
    count = maps.shape[1]
    if unit is not None and unit >= count:
        raise UnknownNameError(f"unit {unit} of {names[0]}", f"0 to {count - 1}", f"unit={count - 1}")
    chosen = (
        maps.flatten(2).amax(2).argmax(1) if unit is None else torch.full((len(x),), unit, device=x.device)
    )
    own = maps[torch.arange(len(x), device=x.device), chosen]
    if threshold is None:
        # Bau 2017, sec. 2.2: P(a > T) = share, here over the positions of this map
        above = own.flatten(1).quantile(1 - share, dim=1)
        notes += (
            f"threshold: the top {share:g} of this picture's own map; no atlas of other pictures was asked",
        )
    else:
        above = own.new_full((len(x),), threshold)
    heat, placed = enlarge(model, names[0], own, x.shape[2], x.shape[3])
    inside = heat > above.view(-1, 1, 1)
    seen = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
    lit = torch.where(inside[:, None], seen, seen * DIM)
    flat = own.flatten(1).amax(1) == own.flatten(1).amin(1)
    if bool(flat.any()):
        notes += ("a constant map: no position stands out, so the mask is empty",)
    return Raw(
        heat,
        signed=bool((heat < 0).any()),
        unit="activation",
        layer=names[0],
        evidence={
            "unit": chosen,
            "threshold": above,
            "area": inside.flatten(1).double().mean(1),
            "positions_above": (own > above.view(-1, 1, 1)).flatten(1).double().mean(1),
        },
        notes=notes + placed,
        panels={"mask": RawPanel(f"above T in {names[0]}", lit, "picture")},
    )
