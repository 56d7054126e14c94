"""Which windows to evaluate together: those that stay of one size on their way through the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEP = 8
"""Sizes are told apart in steps of so many pixels."""


def grouped(boxes: Tensor, size: tuple[int, int], least: int = 16) -> list[Tensor]:
    """Numbers of the boxes (n, 4), those of about one size together and in an order that suits batches.

    A window grows by each convolution and is cut at the border, so windows equally far from the centre on an axis
    have equal sizes all along: rows are taken in bands of that distance, within a band by the distance across.
    """
    height, width = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    kinds = torch.stack([(height + STEP - 1) // STEP, (width + STEP - 1) // STEP], 1)
    out = []
    for kind in sorted({(h, w) for h, w in kinds.tolist()}):
        numbers = (kinds == torch.tensor(kind)).all(1).nonzero()[:, 0]
        bands = max(1, round(math.sqrt(len(numbers) / least)))
        down = (boxes[numbers, 0] + boxes[numbers, 2] - size[0]).abs()
        across = (boxes[numbers, 1] + boxes[numbers, 3] - size[1]).abs()
        order = down.argsort(stable=True)
        for band in order.tensor_split(bands):
            out.append(numbers[band[across[band].argsort(stable=True)]])
    return [g for g in out if len(g)]


def even(numbers: Tensor, most: int) -> list[Tensor]:
    """Parts of at most so many, as equal as can be."""
    return list(numbers.tensor_split(math.ceil(len(numbers) / most))) if len(numbers) else []


def bounds(masks: Tensor) -> Tensor:
    """The box around the true places of each mask (n, H, W): (n, 4); empty at the corner where there are none.

    >>> bounds(torch.tensor([[[False, True], [False, True]]])).tolist()
    [[0, 1, 2, 2]]
    """
    out = torch.zeros(len(masks), 4, dtype=torch.int64)
    for i, axis in ((0, 2), (1, 1)):
        lines = masks.any(axis).int()
        some = lines.any(1)
        out[:, i] = lines.argmax(1) * some
        out[:, i + 2] = (lines.shape[1] - lines.flip(1).argmax(1)) * some
    return out
