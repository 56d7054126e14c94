"""Shapley values from pairs of opposite coalitions.

The even part of a game v, (v(S) + v(not S)) / 2, has Shapley values of zero, so all that counts is its odd part
g(S) = (v(S) - v(not S)) / 2, and interactions of two players cancel. A pair is told by one of its two coalitions,
here the one with player 0 in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

_DRAWS = 100
"""Draws for each pair that is wanted, after which a repeating sample is taken as it is."""


@dataclass(frozen=True)
class Pairs:
    """Sampled pairs: `coalitions` (n, M), the `weights` (n,) of the regression, and `fresh` (n,).

    `fresh` is the share of a pair's squared influence that is chance: 1 where few of many were drawn, 0 where the
    pair was certain to be in the sample.
    """

    coalitions: Tensor
    weights: Tensor
    fresh: Tensor

    @property
    def both(self) -> Tensor:
        """The coalitions and, after them, their complements, (2n, M)."""
        return torch.cat([self.coalitions, ~self.coalitions])


def kernel(count: int, size: int) -> float:
    """The weight of one coalition in the regression of Lundberg & Lee 2017, theorem 2.

    >>> kernel(4, 1), kernel(4, 2)
    (0.25, 0.125)
    """
    return (count - 1) / (math.comb(count, size) * size * (count - size))


def all_pairs(count: int) -> Pairs:
    """Every pair but that of nobody and everybody."""
    rows = [r for s in range(1, count // 2 + 1) for r in _of_size(count, s)]
    coalitions = torch.stack(rows)
    weights = torch.tensor([kernel(count, int(n)) for n in coalitions.sum(1)], dtype=torch.float64)
    return Pairs(coalitions, weights, torch.zeros_like(weights))


def kernel_pairs(count: int, wanted: int, generator: torch.Generator) -> Pairs:
    """`wanted` different pairs, drawn with replacement by the kernel's weights (Covert & Lee 2021, sec. 3.2)."""
    if wanted >= 2 ** (count - 1) - 1:
        return all_pairs(count)
    sizes = torch.arange(1, count, dtype=torch.float64)
    found: dict[bytes, int] = {}
    rows: list[Tensor] = []
    times: list[int] = []
    for _ in range(_DRAWS):
        drawn = 1 + torch.multinomial(1 / (sizes * (count - sizes)), wanted, True, generator=generator)
        for row in _canonical(_random(count, drawn, generator)):
            key = row.numpy().tobytes()
            if key not in found:
                if len(rows) == wanted:
                    break
                found[key] = len(rows)
                rows.append(row)
                times.append(0)
            times[found[key]] += 1
        if len(rows) == wanted:
            break
    weights = torch.tensor(times, dtype=torch.float64)
    return Pairs(torch.stack(rows), weights, 1 / weights)


def leverage_pairs(count: int, wanted: int, generator: torch.Generator) -> Pairs:
    """`wanted` different pairs, drawn without replacement by their leverage in the regression.

    The leverage of a coalition of s players is 1 / C(M, s) (Musco & Witter 2024, arXiv:2410.01917, lemma 3.2): every
    size gets the same share of the sample, up to all there are. Within a size each coalition is as likely as any.
    """
    if wanted >= 2 ** (count - 1) - 1:
        return all_pairs(count)
    sizes = range(1, count // 2 + 1)
    there = [math.comb(count, s) // (2 if 2 * s == count else 1) for s in sizes]
    share = [1.0 if 2 * s == count else 2.0 for s in sizes]
    expected = _allotted(there, share, wanted)
    ends = torch.tensor(expected, dtype=torch.float64).cumsum(0) + torch.rand(
        (), dtype=torch.float64, generator=generator
    )
    numbers = torch.diff(ends.floor(), prepend=torch.zeros(1, dtype=torch.float64)).long().tolist()
    rows, weights, fresh = [], [], []
    for s, n, number, mean in zip(sizes, there, numbers, expected, strict=True):
        chosen = _chosen(count, s, min(number, n), n, generator)
        rows += chosen
        # the kernel's weight times n / mean, without the binomial coefficient that both hold
        weights += [(count - 1) / (s * (count - s)) * (0.5 if 2 * s == count else 1) / mean] * len(chosen)
        fresh += [1 - mean / min(n, 10**300)] * len(chosen)
    return Pairs(
        torch.stack(rows),
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(fresh, dtype=torch.float64),
    )


def regression(pairs: Pairs, odd: Tensor, rise: float) -> tuple[Tensor, Tensor]:
    """Shapley values (M,) by weighted least squares, and their standard errors.

    `odd` (n,) is g of each pair, `rise` what everybody scores more than nobody. The values minimise
    sum w (g(S) - sum_{i in S} phi_i + rise / 2)^2 among those that add up to `rise` (Lundberg & Lee 2017, theorem 2,
    both coalitions of a pair at once). The errors are those of the sandwich estimator: the spread of the pairs'
    influences, whatever the game.
    """
    n, count = pairs.coalitions.shape
    size = pairs.coalitions.sum(1, keepdim=True).double()
    rows = pairs.coalitions.double() - size / count
    right = odd - rise * (size[:, 0] / count - 0.5)
    root = pairs.weights.sqrt()
    back = torch.linalg.pinv(root[:, None] * rows, rtol=1e-10)
    free = back @ (root * right)  # adds up to zero, as every row does
    left = right - rows @ free
    influence = back * (root * left)
    spare = n / max(1, n - count + 1)
    return free + rise / count, ((influence**2 * pairs.fresh).sum(1) * spare).sqrt()


def _of_size(count: int, size: int) -> list[Tensor]:
    """Every pair whose smaller coalition has that size."""
    rows = np.zeros((math.comb(count, size), count), dtype=bool)
    for row, members in zip(rows, combinations(range(count), size), strict=True):
        row[list(members)] = True
    found = torch.from_numpy(rows)
    return list(found[found[:, 0]] if 2 * size == count else _canonical(found))


def _chosen(count: int, size: int, number: int, there: int, generator: torch.Generator) -> list[Tensor]:
    """`number` different pairs of `there`, each as likely as any."""
    if 3 * number >= there:
        rows = _of_size(count, size)
        return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:number].tolist()]
    found: dict[bytes, Tensor] = {}
    while len(found) < number:
        sizes = torch.full((number,), size)
        for row in _canonical(_random(count, sizes, generator)):
            found.setdefault(row.numpy().tobytes(), row)
    return list(found.values())[:number]


def _random(count: int, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """A random coalition of each size, (n, M)."""
    order = torch.rand(len(sizes), count, dtype=torch.float64, generator=generator).argsort(1).argsort(1)
    return order < sizes[:, None]


def _canonical(coalitions: Tensor) -> Tensor:
    """Of each pair the coalition that player 0 is in."""
    return torch.where(coalitions[:, :1], coalitions, ~coalitions)


def _allotted(there: list[int], share: list[float], wanted: int) -> list[float]:
    """`wanted` handed out in proportion to `share`, to no one more than is there.

    >>> _allotted([3, 100], [1.0, 1.0], 10)
    [3.0, 7.0]
    """
    full: set[int] = set()
    while True:
        rest = wanted - sum(there[i] for i in full)
        total = sum(s for i, s in enumerate(share) if i not in full)
        out = [float(n) if i in full else rest * share[i] / total for i, n in enumerate(there)]
        over = {i for i, n in enumerate(there) if i not in full and out[i] >= n}
        if not over:
            return out
        full |= over
