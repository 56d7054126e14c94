"""From a colour projection to one number per pixel."""

from typing import Annotated, Literal

from torch import Tensor

Reduce = Annotated[Literal["rgb", "sum", "max"], "keep colours, sum them, or the largest size"]
"""Type of a `reduce` option."""


def reduced(picture: Tensor, reduce: str) -> tuple[Tensor, bool]:
    """(N, 3, H, W) as asked, and whether the values are signed."""
    if reduce == "rgb":
        return picture, True
    if reduce == "sum":
        return picture.sum(1), True
    return picture.abs().amax(1), False
