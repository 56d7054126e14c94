"""What a unit loses when its best patches are turned, mirrored and shuffled, as evidence of its page."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.model import VisionModel
from cutaway.sweep.atlas import Top

from .profile import profile

ANGLES = (90.0, 180.0, 270.0)


def changed(
    model: VisionModel, layer: str, channel: int, pictures: Tensor, top: Top
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The activity lost to each change of the fields, from `profile`, and what must be said.

    Parameters
    ----------
    pictures : (k, 3, H, W) in [0, 1], those of `top` in its order.

    Names: "orientation index" (the mean of "turned 90" and so on), "symmetry index" (of "upside down" and "left and
    right exchanged"), "shape index" (pixels shuffled). Nothing, and why, for a dead unit, an unknown field and a
    network of grey pictures.
    """
    try:
        found = profile(model, layer, channel, pictures, top.rows, top.cols, angles=ANGLES, wanted=len(top))
    except (MethodRefusedError, UsageError) as error:
        return {}, (f"no orientation, symmetry and shape index: {error.found}",)
    turned = {f"turned {angle:g}": lost for angle, lost in zip(ANGLES, found.turns, strict=True)}
    up, across = found.mirrors
    numbers = {"orientation index": found.orientation, **turned, "symmetry index": found.symmetry}
    numbers |= {"upside down": up, "left and right exchanged": across, "shape index": found.shape}
    return numbers, ()
