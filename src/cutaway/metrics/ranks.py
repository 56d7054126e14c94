"""Spearman's rank correlation of two maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .metric import refuse_constant


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of all numbers in a tensor, ties sharing the mean of theirs; float64.

    >>> ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    _, inverse, counts = np.unique(values.flatten().numpy(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    return torch.from_numpy(((last - counts + last - 1) / 2)[inverse])


def spearman(one: Tensor, two: Tensor) -> float:
    """Pearson's correlation of the ranks, in [-1, 1]. Raises `UndefinedError` when either is constant.

    >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([5.0, 7.0, 6.0]))
    0.5
    """
    for values in (one, two):
        refuse_constant(values, "it orders nothing and a rank correlation is undefined")
    a, b = (r - r.mean() for r in (ranks(one), ranks(two)))
    return round(float((a * b).sum() / torch.sqrt((a * a).sum() * (b * b).sum())), 12)
