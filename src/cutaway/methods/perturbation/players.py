"""Regions of a picture that are shown or hidden together, and the score of every choice of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import Range
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.target import Target
from cutaway.core.windows import evaluate

from .superpixels import superpixels

Division = Annotated[
    Literal["grid", "quickshift", "slic"], "cells of a grid, or superpixels that follow the picture's colours"
]
"""Type of a `players` option."""
Across = Annotated[int, Range(2, 64), "cells down and across, for a grid"]
Pieces = Annotated[int, Range(2, 1000), "superpixels asked for, for slic"]

_AT_A_TIME = 512
"""Coalitions whose masks are in memory together: 26 MB for pictures of 224x224."""

Ask = Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]
"""From coalitions (n, M) to their scores: (numbers (m,), scores (m,) in float64) until each had its turn."""


@dataclass(frozen=True)
class Players:
    """A picture cut into M regions: `labels` (H, W) holds the number of each pixel's region, 0 to M - 1.

    >>> halves = Players(torch.tensor([[0, 0, 1]]))
    >>> halves.count, halves.hidden(torch.tensor([[True, False]])).tolist(), halves.spread(torch.tensor([5, 7]))
    (2, [[[False, False, True]]], tensor([[5, 5, 7]]))
    """

    labels: Tensor

    @property
    def count(self) -> int:
        """How many there are, M."""
        return int(self.labels.max()) + 1

    def hidden(self, coalitions: Tensor) -> Tensor:
        """The pixels (n, H, W) that stand outside each coalition (n, M) of those that are shown."""
        return ~coalitions[:, self.labels]

    def spread(self, values: Tensor) -> Tensor:
        """Each player's value (..., M) on all of its pixels, (..., H, W)."""
        return values[..., self.labels]

    def averaged(self, picture: Tensor) -> Tensor:
        """The picture (C, H, W) with every player in its own mean colour."""
        flat, labels = picture.flatten(1).cpu().double(), self.labels.flatten()
        size = torch.bincount(labels, minlength=self.count)
        total = torch.zeros(len(flat), self.count, dtype=torch.float64)
        colours = total.index_add_(1, labels, flat) / size
        return colours[:, labels].view_as(picture).to(picture)

    def outlined(self, picture: Tensor) -> Tensor:
        """The picture as colour (3, H, W) with a yellow line where one player ends."""
        labels, drawn = self.labels, picture.expand(3, -1, -1).clone()
        edge = torch.zeros_like(labels, dtype=torch.bool)
        edge[:-1] |= labels[:-1] != labels[1:]
        edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        drawn[:, edge.to(drawn.device)] = drawn.new_tensor([1.0, 0.85, 0.0])[:, None]
        return drawn


def divide(picture: Tensor, how: str, across: int, pieces: int, seed: int) -> Players:
    """The players of a picture (C, H, W) in [0, 1].

    "grid" is `across` times `across` cells, as equal as whole pixels allow. "quickshift" has the parameters of
    Ribeiro et al. 2016 (kernel 4, largest distance 200, ratio 0.2; `seed` breaks ties), "slic" aims at `pieces`
    superpixels. Raises `UsageError` for more cells than pixels, `MissingDependencyError` without scikit-image and
    `MethodRefusedError` where there is one superpixel only.

    >>> divide(torch.zeros(3, 2, 5), "grid", 2, 0, 0).labels
    tensor([[0, 0, 0, 1, 1],
            [2, 2, 2, 3, 3]])
    """
    height, width = picture.shape[-2:]
    if how == "grid":
        if across > min(height, width):
            raise UsageError(
                f"a grid of {across}x{across} cells on a picture of {height}x{width}",
                f"at most {min(height, width)} cells across",
                f"grid={max(2, min(height, width) // 4)}",
            )
        down, right = (torch.arange(n) * across // n for n in (height, width))
        return Players(down[:, None] * across + right)
    given: dict[str, Any]
    if how == "slic":
        given = {"n_segments": pieces, "compactness": 10, "start_label": 0}
    else:
        given = {"kernel_size": 4, "max_dist": 200, "ratio": 0.2, "rng": seed}
    why = "a division into superpixels"
    players = Players(superpixels(picture, "slic" if how == "slic" else "quickshift", why, **given))
    if players.count < 2:
        raise MethodRefusedError(
            f"{how} finds one superpixel in this picture, so there is nothing to compare",
            "a picture with at least two superpixels",
            "players='grid'",
        )
    return players


@dataclass
class Game:
    """The score of any coalition of `count` players; none is evaluated twice.

    `ask` evaluates, `show` turns a number per player (M,) into a picture, and `before` of `total` evaluations were
    done for earlier pictures.
    """

    count: int
    ask: Ask
    show: Callable[[Tensor], Tensor]
    before: int = 0
    total: int = 0
    known: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._with = torch.zeros(2, self.count, dtype=torch.float64)
        self._all = torch.zeros(2, 1, dtype=torch.float64)

    @property
    def evaluations(self) -> int:
        """How many coalitions were evaluated so far."""
        return len(self.known)

    def play(self, coalitions: Tensor) -> Steps[Tensor]:
        """The scores (n,) in float64 of coalitions (n, M), true for the players that are shown.

        Yields `Progress` with, for each player, the mean score seen with it minus that seen without.
        """
        keys = [row.tobytes() for row in np.packbits(coalitions.numpy(), axis=1)]
        new: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in self.known:
                new.setdefault(key, i)
        rows = torch.tensor(list(new.values()), dtype=torch.int64)
        for part in torch.split(rows, _AT_A_TIME):
            for numbers, scores in self.ask(coalitions[part]) if len(part) else ():
                played = part[numbers]
                self.known |= {keys[i]: s for i, s in zip(played.tolist(), scores.tolist(), strict=True)}
                self._count(coalitions[played].double(), scores)
                done = self.before + self.evaluations
                yield Progress(done, max(done, self.total), self._preview(), "coalitions")
        return torch.tensor([self.known[key] for key in keys], dtype=torch.float64)

    def _count(self, shown: Tensor, scores: Tensor) -> None:
        both = torch.stack([torch.ones_like(scores), scores])
        self._with += both @ shown
        self._all += both.sum(1, keepdim=True)

    def _preview(self) -> Any:
        without = self._all - self._with
        known = (self._with[0] > 0) & (without[0] > 0)
        apart = self._with[1] / self._with[0].clamp(min=1) - without[1] / without[0].clamp(min=1)
        return self.show(torch.where(known, apart, torch.zeros_like(apart))).float().numpy()


def shown(model: VisionModel, x: Tensor, target: Target, players: Players, fill: Tensor) -> Ask:
    """Asks about a picture (1, C, H, W) where players outside the coalition are replaced by `fill` (C, H, W)."""

    def ask(coalitions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        masks = players.hidden(coalitions)
        answers = evaluate(model, x, masks, fill, layers=target.layers, output=target.reads_output)
        for numbers, values in answers:
            yield numbers, target.read(values).detach().cpu().double()

    return ask


def every(count: int) -> Tensor:
    """All coalitions of `count` players, (2^M, M): player i is in coalition k where bit i of k is set.

    >>> every(2).int().tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    return (torch.arange(2**count)[:, None] >> torch.arange(count)) & 1 == 1


def own_seed() -> int:
    """A seed from torch's global generator, from which every picture of a batch draws what it would draw alone."""
    return int(torch.randint(2**31, ()))
