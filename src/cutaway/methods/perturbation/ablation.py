"""Feature ablation: take each region of the picture away, once, and ask again."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .fills import described, filler
from .players import Across, Division, Game, Pieces, Players, divide, own_seed, shown

RegionFill = Literal["grey", "mean", "region", "blur", "noise", "black", "white"]


@method(
    title="Feature ablation",
    chapter="perturbation",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Kokhlikyan et al. 2020, arXiv:2009.07896, sec. 3 (regions); Zeiler & Fergus 2014, arXiv:1311.2901, sec. 4.2",
    tags=Tags(family="perturbation", level="high"),
    caveat="Each region goes alone: evidence that stands twice in the picture is missed, since either copy suffices.",
    laws={"linearity", "class sensitive", "weights sensitive"},
    random=True,
)
def ablation(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    players: Division = "grid",
    grid: Across = 7,
    pieces: Pieces = 50,
    fill: Annotated[
        RegionFill, "what replaces a region, in pixel space; region: its own mean colour"
    ] = "grey",
) -> Steps[Raw]:
    """How much the target falls when one region of the picture is taken away.

    Gives (H, W): on all pixels of region R the drop S(x) - S(x with R filled), signed, positive where the region
    speaks for the target. Regions do not overlap and each is a cell of a grid or a superpixel, so a drop belongs to
    one region and none is averaged. On a linear network it is the sum of w (x - fill) inside R, and the drops add up
    to S(x) - S(fill); elsewhere the evidence says how far they are from doing so ("interaction"). Nothing is
    differentiated. Cost: one evaluation per region, of which only what the region changes is computed.
    Raises `UsageError` for more cells than pixels, `MethodRefusedError` for a single superpixel.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="mean of each colour")
    >>> result = model.explain(torch.ones(3, 4, 4), "ablation", target=0, grid=2, fill="black")
    >>> result.values[0].tolist(), result.evidence["interaction"]
    ([0.25, 0.25, 0.25, 0.25], 0.0)
    """
    seed = own_seed()
    regions = [divide(one, players, grid, pieces, seed) for one in x]
    side = max(1, round(math.sqrt(x.shape[-2] * x.shape[-1] / regions[0].count)))
    fills = _fills(x, fill, regions, side)
    total, before = sum(own.count + 2 for own in regions), 0
    heats, facts = [], []
    for i, (own, filled) in enumerate(zip(regions, fills, strict=True)):
        ask = shown(model, x[i : i + 1], target.alone(i), own, filled)
        game = Game(own.count, ask, own.spread, before, total)
        everything = torch.ones(1, own.count, dtype=torch.bool)
        coalitions = torch.cat([everything, ~everything, ~torch.eye(own.count, dtype=torch.bool)])
        scores = yield from game.play(coalitions)
        drops = scores[0] - scores[2:]
        facts.append([scores[0], scores[1], scores[0] - scores[1] - drops.sum(), drops.max()])
        heats.append(own.spread(drops))
        before += own.count + 2
    names = ("score", "score of the fill", "interaction", "largest drop")
    evidence = {
        name: torch.tensor(column) for name, column in zip(names, zip(*facts, strict=True), strict=True)
    }
    outlined = torch.stack([own.outlined(one) for own, one in zip(regions, x, strict=True)])
    how = "the region's own mean colour" if fill == "region" else described(fill, side)
    return Raw(
        torch.stack(heats).to(x),
        unit="drop of the target",
        evidence=evidence | {"regions": [own.count for own in regions]},
        notes=(f"{players} regions, each filled with {how}",),
        panels={"regions": RawPanel("regions", outlined, "picture")},
    )


def _fills(x: Tensor, fill: RegionFill, regions: list[Players], side: int) -> Tensor:
    if fill == "region":
        return torch.stack([own.averaged(one) for own, one in zip(regions, x, strict=True)])
    return filler(x, fill, side)
