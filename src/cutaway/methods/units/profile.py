"""One unit's whole profile: its neuron feature and every selectivity index, from its best patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel

from .fields import crops, fields
from .hues import Mode, hue_modes
from .opponent import OpponentAxis, opponent_axes
from .selectivity import (
    WANTED,
    ClassSelectivity,
    PopulationCode,
    activity_lost,
    class_selectivity,
    colour_selectivity,
    neuron_feature,
    population_code,
    shortfall,
)
from .transforms import Change, answers, brightness_grey, grey, mirrored, principal_grey, shuffled, turned

Grey = Literal["luminance", "brightness", "principal"]

GREYS: dict[Grey, tuple[Change, str]] = {
    "luminance": (grey, "grey version: luminance of the whole picture"),
    "brightness": (brightness_grey, "grey version: (R + G + B) / 3 of the whole picture"),
    "principal": (
        principal_grey,
        "grey version: first principal component of the field in opponent space, clipped to [0, 1]",
    ),
}


@dataclass(frozen=True)
class Profile:
    """What a unit looks for and what it does not care about.

    `feature` is (3, h, w) in [0, 1]; `colour` is alpha, `colour_bounded` its variant in [0, 1]; `orientation`,
    `symmetry` and `shape` are the activity lost when patches are turned, mirrored and shuffled; `hues` has one entry
    for a single-colour and two for a double-colour feature; `axes` are its opponent axes, None when it is grey;
    `classes` and `population` are None where the pictures' classes are not known. `turns` gives the orientation index
    for each angle alone, `mirrors` the symmetry index for each axis.
    """

    feature: Tensor
    colour: float
    colour_bounded: float
    orientation: float
    turns: tuple[float, ...]
    symmetry: float
    mirrors: tuple[float, float]
    shape: float
    hues: list[Mode]
    axes: tuple[OpponentAxis, OpponentAxis] | None
    classes: ClassSelectivity | None
    population: PopulationCode | None
    notes: tuple[str, ...]


def profile(
    model: VisionModel,
    layer: str,
    channel: int,
    pictures: Tensor,
    rows: Tensor,
    cols: Tensor,
    labels: Tensor | None = None,
    *,
    grey_version: Grey = "luminance",
    angles: Sequence[float] = (90.0, 180.0, 270.0),
    shuffles: int = 4,
    threshold: float = 1.0,
    share: float = 0.1,
    wanted: int = WANTED,
    seed: int = 0,
) -> Profile:
    """The profile of one unit from its best patches.

    Parameters
    ----------
    pictures : (k, 3, H, W) in [0, 1], as `model.pixels` gives them: those of its top list, the best first.
    rows, cols : (k,) where in the layer's map it answered best; zeros for a layer without a map.
    labels : (k,) class numbers, -1 where unknown; the class indexes need all of them.
    grey_version : "luminance" or "brightness" (R + G + B) / 3 of the picture, or the "principal" component of the
        field, which keeps the contrast of equally bright hues.
    angles : degrees that the field is turned by; shuffles: how often its pixels are shuffled, from `seed`.
    threshold, share : of class selectivity and population code.
    wanted : patches that the list should hold; a note says when fewer excite the unit.

    The cost is one pass that ends at the layer for each picture and change. Raises `MethodRefusedError` for a dead
    unit or a field that is not known, `UnknownNameError` and `UsageError` as `fields.fields` does.
    """
    if shuffles < 1 or not angles:
        raise UsageError(f"{shuffles} shuffles, {len(angles)} angles", "one or more of each")
    boxes = fields(model, layer, channel, pictures, rows, cols)

    def after(change: Change | None) -> Tensor:
        return answers(model, layer, channel, pictures, rows, cols, boxes, change)

    values = after(None)
    feature = neuron_feature(values, crops(pictures.cpu(), boxes))
    change, said = GREYS[grey_version]
    without = after(change)
    turns = [activity_lost(values, after(turned(angle))) for angle in angles]
    up, across = (activity_lost(values, after(mirrored(axis))) for axis in ("horizontal", "vertical"))
    mixed = torch.stack([after(shuffled(seed + k)) for k in range(shuffles)])
    alive = values > 0
    known = labels is not None and int(alive.sum()) > 1 and bool((labels[alive] >= 0).all())
    return Profile(
        feature,
        colour_selectivity(values, without),
        colour_selectivity(values, without, bounded=True),
        sum(turns) / len(turns),
        tuple(turns),
        (up + across) / 2,
        (up, across),
        activity_lost(values, mixed),
        hue_modes(feature),
        opponent_axes(feature),
        class_selectivity(values, labels, threshold=threshold) if known and labels is not None else None,
        population_code(values, labels, share=share) if known and labels is not None else None,
        (*shortfall(values, wanted), said),
    )
