"""Shapley values: what each region of the picture adds, averaged over every order of adding them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.method import IMAGE, TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from ..gradient.baselines import Baseline, baseline_of
from .players import Across, Division, Game, Pieces, Players, divide, every, own_seed, shown
from .shapley_adjusted import adjusted
from .shapley_pairs import Pairs, kernel_pairs, leverage_pairs, regression

Estimator = Literal["auto", "exact", "adjusted", "leverage", "kernel", "permutation"]

EXACT = 15
"""The most players whose coalitions are all evaluated."""
ADJUSTED = 4096
"""The most evaluations that regression adjustment takes: its time grows with their cube."""


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error for each player, (M,), between the scores of nobody and of everybody."""

    values: Tensor
    error: Tensor
    nobody: float
    everybody: float
    estimator: str


@method(
    title="Shapley values",
    chapter="perturbation",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Shapley 1953; Lundberg & Lee 2017, arXiv:1705.07874, sec. 4",
    tags=Tags(family="perturbation", level="high"),
    caveat="A fair division of the score among the regions you chose, against the fill you chose; both change it.",
    laws={"linearity", "symmetry", "class sensitive", "weights sensitive"},
    random=True,
)
def shapley(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    players: Division = "grid",
    grid: Across = 7,
    superpixels: Pieces = 50,
    fill: Baseline = "grey",
    estimator: Annotated[
        Estimator, "how the values are computed; auto: exact when the budget allows"
    ] = "auto",
    budget: Annotated[
        int, Range(6, 1_000_000), "evaluations of the network, unless exact is asked for"
    ] = 1024,
) -> Steps[Raw]:
    """What each region of the picture adds to the target, averaged over all orders of adding the regions.

    Players are the M regions; v(S) is the target of the picture with all regions outside S replaced by the fill.
    phi_i = sum_S |S|! (M - |S| - 1)! / M! [v(S + i) - v(S)]; they add up to v(all) - v(none). On a linear network
    phi_i = sum w (x - fill) over the region. Gives (H, W), signed: each pixel shows the value of its whole region.

    "exact" evaluates all 2^M coalitions, of 15 players at most. The others draw pairs of opposite coalitions and are
    exact where only two regions at a time interact: "permutation" adds regions in random orders and their reverses,
    "kernel" is the regression of Lundberg & Lee 2017, "leverage" draws its sample as in Musco & Witter 2024
    (arXiv:2410.01917), "adjusted" takes a smooth model of the score off first, as in Witter et al. 2025
    (arXiv:2506.11849), and needs the fewest evaluations. No coalition is evaluated twice.
    The evidence holds the scores of all and of none, the values and the largest of their standard errors; the
    panel "standard_error" has each region's. Cost: one forward pass per evaluation.
    Raises `UsageError` when the players are too many for the estimator or the budget.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> picture = torch.rand(3, 4, 4)
    >>> result = model.explain(picture, "shapley", target=1, grid=2)
    >>> parts = (net[1].weight[1].detach().view(3, 4, 4) * (picture - 0.5)).sum(0)
    >>> bool(abs(result.values[0, 0] - parts[:2, :2].sum()) < 1e-5)
    True
    """
    seed = own_seed()
    fills = baseline_of(model, x, fill)
    divided = [divide(p, players, grid, superpixels, seed) for p in x]
    chosen = [_chosen(estimator, p.count, budget) for p in divided]
    costs = [_cost(how, p.count, budget) for how, p in zip(chosen, divided, strict=True)]
    found: list[Estimate] = []
    games: list[Game] = []
    for i, (part, how) in enumerate(zip(divided, chosen, strict=True)):
        ask = shown(model, x[i : i + 1], target.alone(i), part, fills[i])
        game = Game(part.count, ask, part.spread, sum(costs[:i]), sum(costs))
        generator = torch.Generator().manual_seed(seed)
        found.append((yield from estimate(game, how, budget, generator)))
        games.append(game)
    heat = torch.stack([p.spread(e.values) for p, e in zip(divided, found, strict=True)]).to(x)
    return Raw(
        heat,
        signed=True,
        unit="share of the target, per region",
        evidence=_evidence(found, games),
        panels=_panels(x, divided, found, players),
        notes=_notes(divided, found),
    )


def estimate(game: Game, how: str, budget: int, generator: torch.Generator) -> Steps[Estimate]:
    """The Shapley values of a game by an estimator other than "auto", within `budget` evaluations unless exact."""
    count = game.count
    ends = torch.tensor([[False] * count, [True] * count])
    nobody, everybody = (yield from game.play(ends)).tolist()
    rise = everybody - nobody
    if how == "exact":
        values = exact((yield from game.play(every(count))))
        return Estimate(values, torch.zeros_like(values), nobody, everybody, how)
    if how == "permutation":
        orders = torch.rand(_orders(count, budget), count, generator=generator).argsort(1)
        values, error = yield from _permuted(game, orders, rise)
        return Estimate(values, error, nobody, everybody, how)
    draw: Callable[..., Pairs] = kernel_pairs if how == "kernel" else leverage_pairs
    pairs = draw(count, (budget - 2) // 2, generator)
    odd = yield from _odd(game, pairs.coalitions)
    values, error = (adjusted if how == "adjusted" else regression)(pairs, odd, rise)
    return Estimate(values, error, nobody, everybody, how)


def exact(scores: Tensor) -> Tensor:
    """The Shapley values (M,) from the scores of all coalitions, (2^M,) in the order of `every`.

    >>> exact(torch.tensor([0.0, 1.0, 2.0, 7.0]))
    tensor([3., 4.])
    """
    count = len(scores).bit_length() - 1
    numbers = torch.arange(len(scores))
    sizes = every(count).sum(1)
    weights = scores.new_tensor([1 / (count * math.comb(count - 1, s)) for s in range(count)])
    values = []
    for i in range(count):
        without = numbers[(numbers >> i) & 1 == 0]
        values.append((weights[sizes[without]] * (scores[without | 1 << i] - scores[without])).sum())
    return torch.stack(values)


def _odd(game: Game, coalitions: Tensor) -> Steps[Tensor]:
    """(v(S) - v(not S)) / 2 for each coalition."""
    scores = yield from game.play(torch.stack([coalitions, ~coalitions], 1).flatten(0, 1))
    return (scores[::2] - scores[1::2]) / 2


def _permuted(game: Game, orders: Tensor, rise: float) -> Steps[tuple[Tensor, Tensor]]:
    """Means over random orders (k, M), each with its reverse, of what a player adds to those before it."""
    count = game.count
    places = orders.argsort(1)
    before = (
        places[:, None, :] < torch.arange(1, count)[None, :, None]
    )  # the first 1, 2, ... M - 1 of each order
    odd = (yield from _odd(game, before.flatten(0, 1))).view(len(orders), count - 1)
    half = torch.full((len(orders), 1), rise / 2, dtype=torch.float64)
    added = torch.diff(torch.cat([-half, odd, half], 1), dim=1).gather(1, places)
    return added.mean(0), added.std(0) / math.sqrt(len(orders)) if len(orders) > 1 else added[0] * math.nan


def _orders(count: int, budget: int) -> int:
    return max(1, (budget - 2) // (2 * (count - 1)))


def _chosen(estimator: Estimator, count: int, budget: int) -> str:
    """The estimator; raises `UsageError` where it cannot do this many players with this budget."""
    if estimator == "exact" or (estimator != "permutation" and 2**count <= budget and count <= EXACT):
        if count > EXACT:
            raise UsageError(
                f"exact values of {count} players: 2^{count} evaluations",
                f"at most {EXACT} players",
                "estimator='adjusted', or a coarser grid",
            )
        return "exact"
    least = 2 * count + 2
    if budget < least:
        raise UsageError(f"budget={budget} for {count} players", f"at least {least}", f"budget={4 * least}")
    if estimator == "adjusted" and budget > ADJUSTED:
        raise UsageError(
            f"estimator='adjusted' with budget={budget}",
            f"at most {ADJUSTED} evaluations",
            "estimator='leverage'",
        )
    return "leverage" if estimator == "auto" and budget > ADJUSTED else estimator.replace("auto", "adjusted")


def _cost(how: str, count: int, budget: int) -> int:
    """How many evaluations to expect."""
    return 2**count if how == "exact" else budget


def _evidence(found: list[Estimate], games: list[Game]) -> dict[str, Any]:
    return {
        "score": torch.tensor([e.everybody for e in found], dtype=torch.float64),
        "fill score": torch.tensor([e.nobody for e in found], dtype=torch.float64),
        "residual": [float(e.values.sum()) - (e.everybody - e.nobody) for e in found],
        "players": [g.count for g in games],
        "evaluations": [g.evaluations for g in games],
        "estimator": [e.estimator for e in found],
        "largest standard error": [float(e.error.max()) for e in found],
        "values": [e.values.tolist() for e in found],
    }


def _panels(
    x: Tensor, divided: list[Players], found: list[Estimate], players: Division
) -> dict[str, RawPanel]:
    panels = {}
    if players != "grid":
        outlined = torch.stack([p.outlined(one) for p, one in zip(divided, x, strict=True)])
        panels["players"] = RawPanel("superpixels", outlined, "picture")
    errors = torch.stack([p.spread(e.error) for p, e in zip(divided, found, strict=True)])
    if bool(torch.isfinite(errors).all()) and bool((errors > 0).any()):
        panels["standard_error"] = RawPanel(
            "standard error", errors.to(x), "unsigned", "share of the target, per region"
        )
    return panels


def _notes(divided: list[Players], found: list[Estimate]) -> tuple[str, ...]:
    kinds = dict.fromkeys(
        f"{p.count} players, "
        + ("exact: all coalitions evaluated" if e.estimator == "exact" else f"estimated ({e.estimator})")
        for p, e in zip(divided, found, strict=True)
    )
    return tuple(kinds)
