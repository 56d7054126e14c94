"""The picture without the answer, which an attribution compares with."""

from typing import Annotated, Any

from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.image import Photo
from cutaway.core.method import OrPicture
from cutaway.core.model import VisionModel
from cutaway.methods.perturbation.fills import filler

Baseline = Annotated[
    Any,
    OrPicture(("black", "white", "grey", "mean", "blur", "network")),
    "the picture without the answer, in pixel space",
]
"""Type of a `baseline` option."""


def baseline_of(model: VisionModel, x: Tensor, value: str | Photo) -> Tensor:
    """A baseline for each picture (N, C, H, W), in pixel space.

    "black", "white" and "grey" (0.5) are colours, "mean" is the picture's own mean colour, "blur" the picture under a
    Gaussian of standard deviation a 14th of its short side, "network" the colour that preprocessing turns into 0.
    A picture goes through the model's resize and crop. Raises `UsageError` when its shape then differs.
    """
    if value == "network":
        return model.preprocess.denormalise(model.preprocess.normalise(x) * 0)
    if not isinstance(value, Photo):
        return filler(x, value, max(2, round(min(x.shape[-2:]) / 7)))  # type: ignore[arg-type]
    found = model.preprocess.fit(value).to(x)
    if found.shape[1:] != x.shape[1:] or len(found) not in (1, len(x)):
        raise UsageError(
            f"a baseline of {_size(found)} for {_size(x)}",
            "one picture of the same size, or one for each picture",
            'baseline="black", or a picture of the same size',
        )
    return found.expand_as(x)


def _size(x: Tensor) -> str:
    pictures = "a picture" if len(x) == 1 else f"{len(x)} pictures"
    return f"{pictures} of {x.shape[1]}x{x.shape[2]}x{x.shape[3]}"
