"""Which windows to evaluate together: those that stay of one size on their way through the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .window_cost import Cost, Sizes, Work
from .window_spans import Ends

_PIXELS, _LARGEST = 8 * 224 * 224, 64
"""Pixels and pictures of one batch on a processor: a larger one leaves the cache and costs more for each picture."""
_PIXELS_GPU, _LARGEST_GPU = 64 * 224 * 224, 256
PREPARED = 1.0
"""Whole pictures that could be computed while operators are prepared for windows of another size."""
_GROUPS = 6
_PROFILES = 32

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """Numbers of boxes, to how many they are filled up, and the work of one of them."""

    numbers: Tensor
    size: int
    work: Work

    def price(self, dispatch: float) -> float:
        """Multiply-adds for each of its boxes, all else counted as such."""
        return (self.size * self.work.price + dispatch * self.work.calls) / len(self.numbers)

    @property
    def filled(self) -> Tensor:
        """The numbers, the last one repeated: batches of one size meet operators that are prepared already."""
        return torch.cat([self.numbers, self.numbers[-1:].expand(self.size - len(self.numbers))])


class Scouts:
    """The different intervals that boxes (n, 4) cover along each axis, and which of them is whose.

    >>> Scouts(torch.tensor([[0, 0, 2, 2], [0, 4, 2, 6]])).down
    (array([0]), array([1]))
    """

    def __init__(self, boxes: Tensor) -> None:
        self.down, self.rows = _different(boxes[:, 0], boxes[:, 2])
        self.across, self.cols = _different(boxes[:, 1], boxes[:, 3])

    def batches(self, cost: Cost, most: int, dispatch: float, numbers: float = math.inf) -> list[Batch]:
        """All boxes in batches of at most `most`, whose activations hold about `numbers` numbers at a time.

        A window is as large as the largest of its batch, layer for layer, so boxes go together that stay of about
        one size; but each size is prepared anew, so they make few groups. Batches of the groups alternate: early
        answers come from all over the picture.
        """
        if not cost.maps:
            whole = cost.picture
            parts = even(torch.arange(len(self.rows)), min(most, _fitting(whole, numbers)))
            return [Batch(part, len(parts[0]), whole) for part in parts]
        down, across, inside = np.stack(cost.down), np.stack(cost.across), np.array(cost.inside)
        tall = _merged(down, self.rows, inside * across[:, self.cols].mean(1))
        wide = _merged(across, self.cols, inside * down[:, self.rows].mean(1))
        best: list[tuple[int, int, int, Work]] = []
        least, prepared = math.inf, PREPARED * cost.picture.price
        known: dict[tuple[bytes, bytes], Work] = {}
        for rows in tall:
            for cols in wide:
                plan, price = [], 0.0
                for r, c, count in _pairs(rows[self.rows], cols[self.cols]):
                    sizes = down[:, rows == r].max(1), across[:, cols == c].max(1)
                    key = sizes[0].tobytes(), sizes[1].tobytes()
                    if key not in known:
                        known[key] = cost.of(*sizes)
                    work = known[key]
                    plan.append((r, c, count, work))
                    calls = dispatch * work.calls * math.ceil(count / min(most, _fitting(work, numbers)))
                    price += count * work.price + calls + prepared
                if price < least:
                    least, best, labels = price, plan, (rows[self.rows], cols[self.cols])
        groups = []
        for r, c, n, work in best:
            own = torch.from_numpy(np.flatnonzero((labels[0] == r) & (labels[1] == c)))
            count = math.ceil(n / min(most, _fitting(work, numbers)))
            groups.append([Batch(own[i::count], math.ceil(n / count), work) for i in range(count)])
        return [b for b in chain.from_iterable(zip_longest(*groups)) if b is not None]


def _fitting(work: Work, numbers: float) -> int:
    """Boxes at a time whose activations stay within so many numbers: what goes in, what is cut out, what comes out."""
    return max(1, int(min(numbers / max(3 * work.numbers, 1), 1e6)))


def _different(first: Tensor, last: Tensor) -> tuple[Ends, Numbers]:
    ends, which = np.unique(np.stack([first.numpy(), last.numpy()]), axis=1, return_inverse=True)
    return (ends[0], np.maximum(ends[1] - 1, ends[0])), which.reshape(-1)


def _pairs(rows: Numbers, cols: Numbers) -> list[tuple[int, int, int]]:
    """Each pair of a row's and a column's group that some box has, and how many boxes have it."""
    pairs, counts = np.unique(np.stack([rows, cols]), axis=1, return_counts=True)
    return [(int(r), int(c), int(n)) for (r, c), n in zip(pairs.T, counts, strict=True)]


def _merged(sizes: Sizes, which: Numbers, weights: Sizes) -> list[Numbers]:
    """Groups of intervals of similar sizes (layers, intervals): labels for one group, for two, and so on.

    Those two groups are merged first whose boxes become the least larger by it.
    """
    profiles, label = np.unique(sizes, axis=1, return_inverse=True)
    label = label.reshape(-1)
    if profiles.shape[1] > _PROFILES:
        order = np.argsort(weights @ profiles)
        part = np.empty(len(order), np.int64)
        part[order] = np.arange(len(order)) * _PROFILES // len(order)
        profiles = np.stack([profiles[:, part == p].max(1) for p in range(_PROFILES)], 1)
        label = part[label]
    held = np.bincount(label[which], minlength=profiles.shape[1]).astype(float)
    groups = list(range(profiles.shape[1]))
    found = []
    while True:
        if len(groups) <= _GROUPS:
            found.append(label.copy())
        if len(groups) == 1:
            return found[::-1]
        kept, own = profiles[:, groups], held[groups]
        both = np.maximum(kept[:, :, None], kept[:, None, :])
        more = (own[:, None] + own) * np.tensordot(weights, both, 1)
        alone = own * (weights @ kept)
        more -= alone[:, None] + alone
        np.fill_diagonal(more, np.inf)
        a, b = (groups[i] for i in np.unravel_index(np.argmin(more), more.shape))
        profiles[:, a] = np.maximum(profiles[:, a], profiles[:, b])
        held[a] += held[b]
        label[label == b] = a
        groups.remove(b)


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
    pixels, most = (_PIXELS, _LARGEST) if x.device.type == "cpu" else (_PIXELS_GPU, _LARGEST_GPU)
    return max(1, min(most, pixels // (x.shape[-1] * x.shape[-2])))
