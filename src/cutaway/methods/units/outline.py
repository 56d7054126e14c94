"""A box drawn into a picture, to be seen on light and on dark alike."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cutaway.core.geometry import Box


def outlined(picture: Tensor, box: Box, colour: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """A copy of a picture (3, H, W) in [0, 1] with the box's own edge drawn, and a black line around and within it.

    The lines are as thick as a hundredth of the picture; what lies beyond it is left out.

    >>> import torch
    >>> outlined(torch.full((3, 5, 7), 0.5), Box(1, 1, 3, 5))[0].int().tolist()[2]
    [0, 1, 0, 0, 0, 1, 0]
    """
    high, wide = int(picture.shape[1]), int(picture.shape[2])
    line = max(1, round(min(high, wide) / 100))
    drawn = picture.clone()
    for edge, ink in ((-line, None), (line, None), (0, colour)):
        outer = Box(box.top + edge, box.left + edge, box.bottom - edge, box.right - edge)
        paint = drawn.new_zeros(3) if ink is None else drawn.new_tensor(list(ink))
        for top, left, bottom, right in _sides(outer, line):
            rows = slice(max(top, 0), max(min(bottom, high - 1) + 1, 0))
            columns = slice(max(left, 0), max(min(right, wide - 1) + 1, 0))
            drawn[:, rows, columns] = paint[:, None, None]
    return drawn


def _sides(box: Box, line: int) -> tuple[Box, ...]:
    """The four sides of a frame, each `line` pixels thick and inside the box."""
    if box.height < 2 * line or box.width < 2 * line:
        return (box,) if box.height > 0 and box.width > 0 else ()
    return (
        Box(box.top, box.left, box.top + line - 1, box.right),
        Box(box.bottom - line + 1, box.left, box.bottom, box.right),
        Box(box.top, box.left, box.bottom, box.left + line - 1),
        Box(box.top, box.right - line + 1, box.bottom, box.right),
    )
