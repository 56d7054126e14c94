"""RISE: the mean of random soft masks, each counted by the score of what shows through it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target, observe, score
from cutaway.core.window_alone import Alone
from cutaway.core.window_asked import Values
from cutaway.core.windows import suggested_batch

from ..gradient.baselines import Baseline, baseline_of
from .players import own_seed


@method(
    title="RISE",
    chapter="perturbation",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Petsiuk, Das & Saenko 2018, arXiv:1806.07421, sec. 3",
    tags=Tags(family="perturbation", level="high"),
    caveat="A map of averages over random masks: as sharp as the masks are fine, and noisy until there are thousands.",
    laws={"linearity", "class sensitive", "weights sensitive"},
    random=True,
)
def rise(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    samples: Annotated[int, Range(2, 1_000_000), "random masks"] = 4000,
    cells: Annotated[int, Range(1, 64), "cells of a mask down and across, before they are made smooth"] = 7,
    probability: Annotated[float, Range(0, 1, open_low=True), "chance of a cell to be shown"] = 0.5,
    fill: Baseline = "network",
    centre: Annotated[bool, "take the mean score off first, so that zero means no effect"] = True,
) -> Steps[Raw]:
    """The mean score of the picture under random masks, over the masks that show a pixel.

    A mask M is a grid of `cells` times `cells` coins, enlarged bilinearly to (cells + 1) blocks of
    ceil(H / cells) times ceil(W / cells) pixels and cut out at a random shift of less than a block (Petsiuk 2018,
    sec. 3.2); the network sees M x + (1 - M) fill. importance(pixel) = (1 / (n E[M])) sum S(M) M(pixel), with
    E[M] = `probability` (eq. 6): the mean score where the pixel is seen. Most of that is the mean over all masks; with
    `centre` it is taken off each score first, which leaves (H, W) signed, and the same order of pixels but for noise.
    Panel "standard_error": that of the map. Every picture of a batch meets the same masks. Cost: one forward pass
    per mask. Raises `MethodRefusedError` for a network whose answer depends on chance or on the rest of a batch.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> picture = torch.rand(3, 4, 4)
    >>> result = model.explain(picture, "rise", target=1, samples=2, probability=1, centre=False)
    >>> bool(abs(result.values - model(picture[None])[0, 1].item()).max() < 1e-5)
    True
    """
    fills = baseline_of(model, x, fill)
    generator = torch.Generator().manual_seed(own_seed())
    size = (x.shape[2], x.shape[3])
    masks = drawn(size, samples, cells, probability, generator)
    batch = suggested_batch(x)
    sums = [Sums(x.new_zeros(size, dtype=torch.float64)) for _ in x]
    clean = []
    for i, one in enumerate(x):
        goal = target.alone(i)
        with torch.no_grad():
            clean.append(score(model, one[None], goal))
        for start in range(0, samples, batch):
            part = masks.part(start, min(start + batch, samples)).to(x)
            pictures = torch.lerp(fills[i], one, part[:, None])
            with torch.no_grad():
                values = observe(model, pictures, goal)
                if not start:
                    _alike(model, goal, pictures, values)
            sums[i].add(part, goal.read(values))
            done = i * samples + sums[i].count
            preview = sums[i].importance(probability, centre).float().cpu().numpy()
            yield Progress(done, len(x) * samples, preview, "masks")
    heat = torch.stack([s.importance(probability, centre) for s in sums]).to(x)
    errors = torch.stack([s.error(probability, centre) for s in sums]).to(x)
    unit = "score above the mean" if centre else "score"
    return Raw(
        heat,
        signed=centre or bool((heat < 0).any()),
        unit=unit,
        evidence={
            "score": torch.cat(clean),
            "mean score": torch.stack([s.level for s in sums]),
            "masks": samples,
            "standard error": torch.stack([e.square().mean().sqrt() for e in errors]),
        },
        notes=_notes(centre, probability, sums),
        panels={"standard_error": RawPanel("standard error", errors, "unsigned", unit)},
    )


def _alike(model: VisionModel, target: Target, pictures: Tensor, values: Values) -> None:
    """Refuse a network that answers the picture in the middle otherwise when it is alone."""
    alone = Alone(lambda x: observe(model, x, target), lambda number: pictures[number][None])
    alone.check(len(pictures) // 2, len(pictures) // 2, values)


def _notes(centre: bool, probability: float, sums: list[Sums]) -> tuple[str, ...]:
    if centre and probability == 1:
        return ("all zero: masks that always show everything leave nothing to compare",)
    flat = [i + 1 for i, s in enumerate(sums) if s.low == s.high]
    which = ["this picture" if len(sums) == 1 else f"picture {i}" for i in flat]
    return tuple(f"the target is the same whatever of {name} is shown" for name in which)


@dataclass(frozen=True)
class Masks:
    """Coins (n, s, s) and shifts (n, 2) in pixels, from which masks of `size` are made when they are needed."""

    size: tuple[int, int]
    coins: Tensor
    shifts: Tensor

    def part(self, first: int, end: int) -> Tensor:
        """Masks number `first` to `end` - 1, (m, H, W) in [0, 1], float64."""
        cells = self.coins.shape[1]
        block = [math.ceil(n / cells) for n in self.size]
        large = torch.nn.functional.interpolate(
            self.coins[first:end, None].double(),
            size=[(cells + 1) * b for b in block],
            mode="bilinear",
            align_corners=False,
        )[:, 0]
        height, width = self.size
        return torch.stack(
            [
                mask[top : top + height, left : left + width]
                for mask, (top, left) in zip(large, self.shifts[first:end].tolist(), strict=True)
            ]
        )


def drawn(
    size: tuple[int, int], samples: int, cells: int, probability: float, generator: torch.Generator
) -> Masks:
    """Random masks for pictures of `size`."""
    coins = torch.rand(samples, cells, cells, generator=generator) < probability
    block = torch.tensor([math.ceil(n / cells) for n in size])
    shifts = (torch.rand(samples, 2, generator=generator, dtype=torch.float64) * block).long()
    return Masks(size, coins, shifts)


class Sums:
    """Sums over masks of S, and of M, S M, M^2, S M^2 and (S M)^2 for each pixel, in float64."""

    def __init__(self, zeros: Tensor) -> None:
        self.count = 0
        self.low, self.high = math.inf, -math.inf
        self._scores = zeros.new_zeros(())
        self._first = zeros.expand(2, *zeros.shape)
        self._second = zeros.expand(3, *zeros.shape)

    def add(self, masks: Tensor, scores: Tensor) -> None:
        """Take in masks (n, H, W) with their scores (n,)."""
        masks, scores = masks.double(), scores.detach().double()
        powers = torch.stack([torch.ones_like(scores), scores, scores**2])
        self.count += len(scores)
        self.low, self.high = min(self.low, float(scores.min())), max(self.high, float(scores.max()))
        self._scores = self._scores + scores.sum()
        self._first = self._first + torch.tensordot(powers[:2], masks, 1)
        self._second = self._second + torch.tensordot(powers, masks**2, 1)

    @property
    def level(self) -> Tensor:
        """The mean score."""
        return self._scores / self.count

    def importance(self, probability: float, centre: bool) -> Tensor:
        """The mean of score times mask over the chance of a pixel to be seen, (H, W)."""
        return self._mean(centre) / probability

    def error(self, probability: float, centre: bool) -> Tensor:
        """The standard error of the importance, (H, W)."""
        off = self.level if centre else torch.zeros_like(self.level)
        shown, scored, squared = (self._second / self.count).unbind()
        variance = squared - 2 * off * scored + off**2 * shown - self._mean(centre) ** 2
        return (variance.clamp(min=0) / max(1, self.count - 1)).sqrt() / probability

    def _mean(self, centre: bool) -> Tensor:
        shown, scored = (self._first / self.count).unbind()
        return scored - self.level * shown if centre else scored
