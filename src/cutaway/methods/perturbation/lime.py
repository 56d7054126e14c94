"""LIME: a linear model of what the network does when superpixels of this picture are taken away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.method import IMAGE, TARGET, OrPicture, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from ..gradient.baselines import baseline_of
from .latent import Channels, channels_of, kept
from .players import Across, Division, Game, Pieces, Players, divide, every, own_seed, shown
from .shapley_pairs import kernel as shapley_weight

Kernel = Literal["cosine", "shapley"]
LOW = 0.5
"""Below this R^2 the linear model is said not to describe the network."""


@dataclass(frozen=True)
class Line:
    """score ~ intercept + the sum of the coefficients (M,) of the regions shown, with the R^2 of the fit."""

    intercept: float
    coefficients: Tensor
    r2: float


@method(
    title="LIME",
    chapter="perturbation",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938, sec. 3",
    tags=Tags(family="perturbation", level="high"),
    caveat="The coefficients describe a linear stand-in, not the network; a low R^2 says they do not even do that.",
    laws={"linearity", "class sensitive", "weights sensitive"},
    random=True,
)
def lime(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    players: Division = "quickshift",
    grid: Across = 7,
    superpixels: Pieces = 50,
    fill: Annotated[
        Any,
        OrPicture(("superpixel", "black", "white", "grey", "mean", "blur", "network")),
        "what replaces a region that is hidden, in pixel space; superpixel: its own mean colour",
    ] = "superpixel",
    samples: Annotated[int, Range(2, 1_000_000), "random choices of the regions that are shown"] = 1000,
    kernel: Annotated[
        Kernel, "what a choice weighs: by nearness to the picture, or as in Shapley values"
    ] = "cosine",
    width: Annotated[float, Range(0, 100, open_low=True), "kernel width, in cosine distance"] = 0.25,
    alpha: Annotated[float, Range(0, 1e9), "penalty on the squares of the coefficients"] = 1.0,
    top: Annotated[int, Range(1, 1000), "regions in the panels of the largest coefficients"] = 5,
    layer: Annotated[str | None, "silence this layer's channels instead of hiding regions"] = None,
) -> Steps[Raw]:
    """The coefficients of a linear model of the target in the superpixels that are shown.

    Every region is shown or hidden by a coin, `samples` times (the first time all are shown); where that many choices
    do not exist, each that exists counts equally often. The line minimises
    sum w (S - b - sum_{i shown} c_i)^2 + alpha |c|^2 with w = sqrt(exp(-d^2 / width^2)), d the cosine distance
    1 - sqrt(shown / M) to the whole picture (the authors' code). `kernel="shapley"` weighs by
    (M - 1) / (C(M, s) s (M - s)) instead and holds the line to the scores of all and of none: with all choices and
    alpha = 0 the coefficients are the Shapley values (Lundberg & Lee 2017, theorem 2).
    Gives (H, W), signed: each pixel shows the coefficient of its region. The evidence holds the line's R^2, of
    which less than 0.5 is warned of. Panels: the regions, and those with the largest coefficients of either sign.
    With `layer`, its channels take the place of the regions: those not chosen are set to zero, and the map, on the
    layer's grid, shares each channel's coefficient out over the places by the size of its activity.
    Cost: one forward pass per choice.
    Raises `MethodRefusedError` for a picture of one superpixel, `MissingDependencyError` without scikit-image.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> picture = torch.rand(3, 4, 4)
    >>> result = model.explain(picture, "lime", target=1, players="grid", grid=2, fill="black", alpha=0)
    >>> parts = (net[1].weight[1].detach().view(3, 4, 4) * picture).sum(0)
    >>> bool(abs(result.values[0, 0] - parts[:2, :2].sum()) < 1e-5)
    True
    """
    seed = own_seed()
    goals = [target.alone(i) for i in range(len(x))]
    divided: list[Players | Channels]
    panels = {}
    if layer is None:
        regions = [divide(p, players, grid, superpixels, seed) for p in x]
        fills = _fills(model, x, regions, fill)
        asks = [shown(model, p[None], *rest) for p, *rest in zip(x, goals, regions, fills, strict=True)]
        divided = [*regions]
    else:
        layer = model.layers.find(layer).name
        divided = [*channels_of(model, x, layer)]
        asks = [kept(model, p[None], goal, layer) for p, goal in zip(x, goals, strict=True)]
    lines, games, clean = [], [], []
    for i, (part, ask) in enumerate(zip(divided, asks, strict=True)):
        game = Game(part.count, ask, part.spread, i * samples, len(x) * samples)
        choices, times = _choices(part.count, samples, torch.Generator().manual_seed(seed))
        everybody = float((yield from game.play(torch.ones(1, part.count, dtype=torch.bool))))
        scores = yield from game.play(choices)
        if kernel == "cosine":
            line = nearby(choices, scores, times, width, alpha)
        else:
            nobody = float((yield from game.play(torch.zeros(1, part.count, dtype=torch.bool))))
            line = by_shapley(choices, scores, times, alpha, nobody, everybody)
        lines.append(line)
        games.append(game)
        clean.append(everybody)
    heat = torch.stack([p.spread(line.coefficients) for p, line in zip(divided, lines, strict=True)])
    evidence = {
        "score": torch.tensor(clean, dtype=torch.float64),
        "line at the picture": [line.intercept + float(line.coefficients.sum()) for line in lines],
        "intercept": [line.intercept for line in lines],
        "r2": [line.r2 for line in lines],
        "channels" if layer else "superpixels": [p.count for p in divided],
        "evaluations": [g.evaluations for g in games],
        "coefficients": [line.coefficients.tolist() for line in lines],
    }
    if layer is None:
        panels = _panels(x, regions, lines, top)
    else:
        evidence["largest"] = [_largest(line.coefficients, top) for line in lines]
    unit = "added to the target"
    return Raw(
        heat.to(x),
        signed=True,
        unit=unit,
        layer=layer,
        evidence=evidence,
        notes=_notes(lines, games),
        panels=panels,
    )


def _fills(model: VisionModel, x: Tensor, regions: list[Players], fill: Any) -> Tensor:
    if fill == "superpixel":
        return torch.stack([part.averaged(p) for part, p in zip(regions, x, strict=True)])
    return baseline_of(model, x, fill)


def _largest(coefficients: Tensor, top: int) -> dict[str, float]:
    """The channels with the coefficients of the largest size."""
    order = coefficients.abs().argsort(descending=True, stable=True)[:top].tolist()
    return {str(k): float(coefficients[k]) for k in order}


def nearby(choices: Tensor, scores: Tensor, times: float, width: float, alpha: float) -> Line:
    """The line that counts choices (n, M) the more the nearer they are to the whole picture, each `times`."""
    count = choices.shape[1]
    seen = choices.double()
    distance = 1 - (seen.sum(1) / count).sqrt()
    weights = times * torch.exp(-(distance**2) / width**2).sqrt()
    share = weights / weights.sum()
    middle, level = share @ seen, share @ scores
    coefficients = _ridge(seen - middle, scores - level, weights, alpha)
    intercept = float(level - middle @ coefficients)
    return Line(intercept, coefficients, _r2(scores, intercept + seen @ coefficients, weights))


def by_shapley(
    choices: Tensor, scores: Tensor, times: float, alpha: float, nobody: float, everybody: float
) -> Line:
    """The line through the scores of none and of all that weighs the rest as in Shapley values."""
    count, size = choices.shape[1], choices.double().sum(1)
    inside = (size > 0) & (size < count)
    seen, scores, size = choices[inside].double(), scores[inside], size[inside]
    of_size = [0.0, *(shapley_weight(count, s) for s in range(1, count))]
    weights = times * torch.tensor(of_size, dtype=torch.float64)[size.long()]
    if not len(weights):
        raise UsageError("no choice shows some regions and hides others", "more samples", "samples=1000")
    share, rise = size[:, None] / count, everybody - nobody
    free = _ridge(seen - share, scores - nobody - rise * share[:, 0], weights, alpha)
    coefficients = free - free.mean() + rise / count
    return Line(nobody, coefficients, _r2(scores, nobody + seen @ coefficients, weights))


def _choices(count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Which regions are shown, (n, M), and how often each choice counts."""
    if count < 31 and 2**count <= samples:
        return every(count), samples / 2**count
    choices = torch.rand(samples, count, generator=generator) < 0.5
    choices[0] = True
    return choices, 1.0


def _ridge(rows: Tensor, right: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """argmin_c sum w (right - rows c)^2 + alpha |c|^2; the smallest c where that leaves a choice."""
    root = weights.sqrt()
    if alpha == 0:
        least: Tensor = torch.linalg.pinv(root[:, None] * rows, rtol=1e-10) @ (root * right)
        return least
    square = rows.T @ (weights[:, None] * rows) + alpha * torch.eye(rows.shape[1], dtype=rows.dtype)
    shrunk: Tensor = torch.linalg.solve(square, rows.T @ (weights * right))
    return shrunk


def _r2(scores: Tensor, line: Tensor, weights: Tensor) -> float:
    """The share of the weighted variance that the line explains; nan where there is none to explain."""
    share = weights / weights.sum()
    spread = float(share @ (scores - share @ scores) ** 2)
    return 1 - float(share @ (scores - line) ** 2) / spread if spread > 0 else math.nan


def _panels(x: Tensor, divided: list[Players], lines: list[Line], top: int) -> dict[str, RawPanel]:
    outlined, best, worst = [], [], []
    for picture, part, line in zip(x, divided, lines, strict=True):
        outlined.append(part.outlined(picture))
        best.append(_kept(picture, part, line.coefficients, top))
        worst.append(_kept(picture, part, -line.coefficients, top))
    return {
        "players": RawPanel("regions", torch.stack(outlined), "picture"),
        "supporting": RawPanel(f"most for it (up to {top})", torch.stack(best), "picture"),
        "opposing": RawPanel(f"most against it (up to {top})", torch.stack(worst), "picture"),
    }


def _kept(picture: Tensor, players: Players, coefficients: Tensor, top: int) -> Tensor:
    """The picture (3, H, W) with only the `top` regions of the largest positive coefficients at full contrast."""
    order = coefficients.argsort(descending=True, stable=True)[:top]
    chosen = torch.zeros_like(coefficients, dtype=torch.bool)
    chosen[order] = coefficients[order] > 0
    seen = picture.expand(3, -1, -1)
    faint = 0.85 + 0.15 * seen.mean(0, keepdim=True).expand_as(seen)
    return torch.where(players.spread(chosen).to(seen.device), seen, faint)


def _notes(lines: list[Line], games: list[Game]) -> tuple[str, ...]:
    notes = []
    many, few = max(g.count for g in games), min(g.evaluations for g in games)
    if few < min(2 * many, 2**many):
        notes.append(
            f"warning: {few} different choices for {many} coefficients: the line bends to them, and its R² says too "
            f"much; samples={4 * many} or more"
        )
    for i, line in enumerate(lines):
        which = "this picture" if len(lines) == 1 else f"picture {i + 1}"
        if math.isnan(line.r2):
            same = len(set(games[i].known.values())) == 1
            notes.append(
                f"the target is the same whatever of {which} is shown"
                if same
                else f"warning: R² is undefined for {which}: the choices that show some of its parts and hide others "
                f"have one score, so it does not tell how well the line fits; samples={4 * many} or more"
            )
        elif line.r2 < LOW:
            notes.append(
                f"warning: R² is {line.r2:.2f} for {which}: no sum over its parts describes the network around it, "
                "so the coefficients say little"
            )
    return tuple(notes)
