"""Which windows to evaluate together: those that stay of one size on their way through the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PIXELS = 8 * 224 * 224
"""Pixels of one batch on a processor: a larger one leaves the cache and costs more for each picture."""
_PIXELS_GPU = 64 * 224 * 224
_LARGEST = 256
STEP = 8
"""Sizes are told apart in steps of so many pixels."""


def batches(boxes: Tensor, most: int) -> list[Tensor]:
    """Numbers of the boxes (n, 4) in batches of at most `most`, those of about one size together.

    A window is as large as the largest of its batch, layer for layer. Each batch takes boxes from all over the
    picture, so that all batches come out alike: operators are prepared anew for every size they meet, which for a
    few hundred windows costs more than the windows do.

    >>> boxes = torch.tensor([[i, 0, i + 2, 2] for i in range(5)])
    >>> [b.tolist() for b in batches(boxes, 3)]
    [[0, 2, 4], [1, 3]]
    """
    height, width = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    kinds = torch.stack([(height + STEP - 1) // STEP, (width + STEP - 1) // STEP], 1)
    out = []
    for kind in sorted({(h, w) for h, w in kinds.tolist()}):
        numbers = (kinds == torch.tensor(kind)).all(1).nonzero()[:, 0]
        count = math.ceil(len(numbers) / most)
        out += [numbers[i::count] for i in range(count)]
    return out


def filled_up(numbers: Tensor, size: int) -> Tensor:
    """The batch with its last box repeated until it has `size`."""
    return torch.cat([numbers, numbers[-1:].expand(size - len(numbers))])


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


def suggested_batch(x: Tensor) -> int:
    """How many pictures of this size to evaluate at a time."""
    pixels = _PIXELS_GPU if x.device.type == "cuda" else _PIXELS
    return max(1, min(_LARGEST, pixels // (x.shape[-1] * x.shape[-2])))
