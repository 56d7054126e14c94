"""Whether the shares of a map add up to what they share out."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target, score

from .metric import UndefinedError, metric


@metric(
    title="completeness residual",
    asks="Does the map add up to the score?",
    low=0,
    high=float("inf"),
    better="lower",
    passes=0.01,
    paper="Sundararajan et al. 2017, arXiv:1703.01365, prop. 1",
)
def completeness(model: VisionModel, x: Tensor, target: Target, result: Attribution) -> float:
    """|sum of the map - (f(x) - f0)| / |f(x) - f0|, the score f(x) taken anew from the network.

    f0 is what the method leaves out by its own account: the score of its baseline or the head's bias, as its evidence
    says, or 0 for a map whose unit is a share of the target. Under mean pooling the map's mean is taken for its sum.
    Raises `UndefinedError` for a map that makes no such claim: its numbers share out nothing.
    """
    claim = result.evidence
    if "baseline score" in claim:
        apart = float(claim["baseline score"])
    elif "bias" in claim:
        apart = float(claim["bias"])
    elif result.unit == "share of the target":
        apart = 0.0
    else:
        raise UndefinedError("the map claims no sum")
    with model.guard(), torch.no_grad():
        whole = float(score(model, x, target)[0].double()) - apart
    if not whole:
        raise UndefinedError("there is nothing to share out: the score is that of the baseline")
    values = torch.from_numpy(result.values).double()
    places = result.heat.size if claim.get("pooling") == "mean" else 1
    return abs(float(values.sum()) / places - whole) / abs(whole)
