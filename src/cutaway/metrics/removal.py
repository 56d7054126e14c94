"""What the target loses when pixels are taken away, against what a map says it should lose.

Deletion and insertion take them in the map's own order, infidelity in squares.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.options import Range
from cutaway.core.readers import Logit
from cutaway.core.target import Target, probability
from cutaway.core.windows import evaluate
from cutaway.methods.gradient.baselines import Baseline, baseline_of

from .metric import UndefinedError, generator, laid, metric, refuse_constant

Reading = Annotated[
    Literal["probability", "score"],
    "the probability of the target's class, as in the paper, or the target itself",
]
Steps = Annotated[int, Range(1, 10_000), "in how many steps of equal size the pixels go"]


@metric(
    title="deletion",
    asks="Does the class go when the pixels go that the map calls most important?",
    low=0,
    high=1,
    better="lower",
    paper="Petsiuk et al. 2018, arXiv:1806.07421, sec. 4.1",
)
def deletion(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    target: Target,
    *,
    steps: Steps = 32,
    fill: Baseline = "blur",
    of: Reading = "probability",
    seed: int = 0,
) -> float:
    """Mean height of the curve while pixels are replaced by `fill`, the most important first.

    The area under the curve by the trapezoid rule, divided by the number of steps: in [0, 1] for a probability, in
    units of the target for `of="score"`. The paper fills with grey; blur, the default, keeps out edges that no
    picture has. Pixels that the map gives the same value go in random order. Raises `UndefinedError` for a constant
    map, `UsageError` for the probability of what is no class.
    """
    return _area(removal_curve(model, x, heat, target, steps=steps, fill=fill, of=of, seed=seed))


@metric(
    title="insertion",
    asks="Does the class come when the pixels come that the map calls most important?",
    low=0,
    high=1,
    better="higher",
    paper="Petsiuk et al. 2018, arXiv:1806.07421, sec. 4.1",
)
def insertion(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    target: Target,
    *,
    steps: Steps = 32,
    fill: Baseline = "blur",
    of: Reading = "probability",
    seed: int = 0,
) -> float:
    """Mean height of the curve while pixels of the picture replace `fill`, the most important first; see `deletion`."""
    curve = removal_curve(model, x, heat, target, steps=steps, fill=fill, of=of, insert=True, seed=seed)
    return _area(curve)


def removal_curve(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    target: Target,
    *,
    steps: int = 32,
    fill: Baseline = "blur",
    of: Literal["probability", "score"] = "probability",
    insert: bool = False,
    seed: int = 0,
) -> Tensor:
    """The target after 0, 1/steps, ..., all of the pixels were replaced, (steps + 1,) float64."""
    refuse_constant(heat, "it puts the pixels in no order")
    goal = _class_probability(target) if of == "probability" else target
    place = order(laid(heat, (x.shape[2], x.shape[3])), generator("deletion", seed))
    pixels = place.numel()
    masks = torch.stack([place < round(k * pixels / steps) for k in range(steps + 1)])
    other = baseline_of(model, x, fill)
    start, end = (other, x) if insert else (x, other)
    return answers(model, start, masks, end[0], goal)


def order(heat: Tensor, chance: torch.Generator) -> Tensor:
    """The place of every pixel when the largest value comes first, from 0; equal values by chance.

    >>> order(torch.tensor([[1.0, 3.0, 2.0]]), torch.Generator()).tolist()
    [[2, 0, 1]]
    """
    shuffled = torch.randperm(heat.numel(), generator=chance)
    largest_first = shuffled[heat.flatten()[shuffled].argsort(descending=True, stable=True)]
    place = torch.empty_like(largest_first)
    place[largest_first] = torch.arange(len(place))
    return place.view(heat.shape)


@metric(
    title="infidelity",
    asks="Does the map foretell how much the target loses with any square of the picture?",
    low=0,
    high=1,
    better="lower",
    paper="Yeh et al. 2019, arXiv:1901.09392, def. 2.1 and sec. 3 (square removal)",
)
def infidelity(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    target: Target,
    *,
    samples: Annotated[int, Range(2, 100_000), "squares"] = 200,
    fill: Baseline = "blur",
    scaled: Annotated[bool, "fit the map's unit, and divide by the mean square of what is lost"] = True,
    seed: int = 0,
) -> float:
    """E[(I^T Phi - (f(x) - f(x - I)))^2] for random squares that `fill` replaces.

    I^T Phi is the sum of the map inside the square: the map holds contributions, value times distance to the fill.
    Sides are uniform from an eighth to half of the short side, places uniform. With `scaled`, Phi is first multiplied
    by the factor >= 0 that makes the mean least, since most maps have a unit of their own, and the result is divided
    by E[(f(x) - f(x - I))^2]: 0 foretells everything, 1 is no better than a map of zeros. Without, it is the paper's
    number, in the target's unit squared, and a coarse map's sum is kept when it is laid over the picture.
    Raises `UndefinedError` when no square changes the target.
    """
    size = (x.shape[2], x.shape[3])
    boxes = squares(size, samples, generator("infidelity", seed))
    whole = torch.cat([torch.zeros(1, 4, dtype=torch.int64), boxes])  # the first is the picture as it is
    scores = answers(model, x, whole, baseline_of(model, x, fill)[0], target)
    lost = scores[0] - scores[1:]
    share = laid(heat, size) * (heat.numel() / (size[0] * size[1]))
    foretold = _sums(share, boxes)
    if not scaled:
        return float((foretold - lost).square().mean())
    power, own = float(lost.square().mean()), float(foretold.square().mean())
    if power <= (1e-6 * float(scores[0].abs()) + 1e-12) ** 2:
        raise UndefinedError("no square changes the target, so there is nothing to foretell")
    factor = max(0.0, float((foretold * lost).mean()) / own) if own else 0.0
    return float((factor * foretold - lost).square().mean()) / power


def squares(size: tuple[int, int], count: int, chance: torch.Generator) -> Tensor:
    """Random squares inside a picture, (count, 4): top, left, bottom, right, the last two excluded."""
    height, width = size
    short = min(size)
    low, high = max(1, short // 8), max(1, short // 2)
    side = torch.randint(low, high + 1, (count,), generator=chance)
    top, left = (
        (torch.rand(count, generator=chance, dtype=torch.float64) * (n - side + 1)).long()
        for n in (height, width)
    )
    return torch.stack([top, left, top + side, left + side], 1)


def answers(model: VisionModel, x: Tensor, regions: Tensor, fill: Tensor, target: Target) -> Tensor:
    """The target for the picture with each region replaced, (n,), float64 on the CPU; regions as `evaluate` takes."""
    out = torch.empty(len(regions), dtype=torch.float64)
    with model.guard():
        for numbers, values in evaluate(
            model, x, regions, fill, layers=target.layers, output=target.reads_output
        ):
            out[numbers] = target.read(values).double().cpu()
    return out


def _sums(share: Tensor, boxes: Tensor) -> Tensor:
    """The sum of a map inside each box, through sums from the corner."""
    table = torch.zeros(share.shape[0] + 1, share.shape[1] + 1, dtype=torch.float64)
    table[1:, 1:] = share.cumsum(0).cumsum(1)
    top, left, bottom, right = boxes.unbind(1)
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]


def _area(curve: Tensor) -> float:
    return float((curve[:-1] + curve[1:]).mean() / 2)


def _class_probability(target: Target) -> Target:
    number = target.class_number
    if number is None:
        raise UsageError(f"the probability of {target.label()}", "a target that is one class", "of='score'")
    return probability(number) if isinstance(target.terms[0][1], Logit) else target
