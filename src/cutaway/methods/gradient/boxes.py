"""Boxes round objects: (top, left, bottom, right) in pixel edges, so that bottom - top is a height."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cutaway.core.model import VisionModel

Box = tuple[int, int, int, int]
Mask = npt.NDArray[np.bool_]


def box_of(mask: Mask) -> Box:
    """The smallest box that holds every pixel of a mask that has one.

    >>> box_of(np.eye(4, dtype=bool)[:3])
    (0, 0, 3, 3)
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Intersection over union of two boxes.

    >>> overlap((0, 0, 2, 2), (0, 1, 2, 3))
    0.3333333333333333
    """
    height = min(one[2], two[2]) - max(one[0], two[0])
    width = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(height, 0) * max(width, 0)
    total = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, two))
    return shared / (total - shared)


def suppress(boxes: Sequence[Sequence[float]], scores: Sequence[float], most: float) -> list[int]:
    """Non-maximum suppression: which boxes stay, the best score first.

    In the order of the scores, a box stays unless its intersection over union with one that stayed is above `most`.

    >>> suppress([(0, 0, 4, 4), (0, 0, 4, 5), (6, 6, 9, 9)], [0.5, 0.9, 0.1], 0.5)
    [1, 2]
    """
    kept: list[int] = []
    for i in np.argsort(-np.asarray(scores, np.float64), kind="stable").tolist():
        if all(overlap(boxes[i], boxes[j]) <= most for j in kept):
            kept.append(i)
    return kept


def outlined(picture: Tensor, boxes: Sequence[Box], colours: Sequence[Sequence[float]]) -> Tensor:
    """The picture (3, H, W) with each box's border in its colour and black inside it; the first lies on top."""
    drawn = picture.clone()
    for (top, left, bottom, right), colour in reversed(list(zip(boxes, colours, strict=True))):
        thin = min(bottom - top, right - left) < 6
        for inset, shade in ((0, colour),) if thin else ((1, (0.0, 0.0, 0.0)), (0, colour)):
            paint = drawn.new_tensor(shade)[:, None]
            rows = slice(top + inset, bottom - inset)
            columns = slice(left + inset, right - inset)
            drawn[:, rows.start, columns] = drawn[:, rows.stop - 1, columns] = paint
            drawn[:, rows, columns.start] = drawn[:, rows, columns.stop - 1] = paint
    return drawn


def original(model: VisionModel) -> tuple[bool, tuple[str, ...]]:
    """Whether the pixels of the network's input are those of the original picture, and what to say if not."""
    steps = model.preprocess
    if steps.resize is None and steps.crop is None:
        return True, ()
    return False, (
        "boxes count pixels of the network's input; Preprocess.to_original leads to those of the picture's file",
    )
