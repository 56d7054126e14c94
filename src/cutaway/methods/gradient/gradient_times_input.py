"""Gradient times input: the score, shared out as if the network were linear."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target, flat, gradient, score


@method(
    title="Gradient times input",
    chapter="gradient",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Shrikumar et al. 2016, arXiv:1605.01713, sec. 2",
    tags=Tags(family="decomposition", level="high"),
    caveat="What counts as nothing (black, or the mean colour) gets nothing, and biases and saturation are left out of the sum.",
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def gradient_times_input(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    reduce: Annotated[Literal["sum", "rgb"], "sum the colours, or keep them"] = "sum",
    origin: Annotated[
        Literal["black", "network"],
        "what counts as nothing: a black pixel, or the colour that the network's preprocessing turns into 0",
    ] = "black",
) -> Raw:
    """Each pixel's distance from nothing times its gradient: (u - o) dS/du.

    Pixel space, u in [0, 1], signed, in units of the target; (N, H, W), or (N, 3, H, W) with `reduce="rgb"`.
    With `origin="network"`, o is the colour that becomes the network input 0, and the product is the paper's
    x dS/dx of the network's own input x. It adds up to the score where the network is piecewise linear without
    biases; the evidence holds the score, the sum and what of the score it leaves out.
    Raises `MethodRefusedError` when the target cannot be differentiated.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> u = torch.rand(3, 2, 2)
    >>> result = model.explain(u, "gradient_times_input", target=1)
    >>> w = net[1].weight[1].detach().view(3, 2, 2)
    >>> torch.allclose(torch.tensor(result.values), (w * u).sum(0))
    True
    """
    x = x.detach().requires_grad_()
    value = score(model, x, target)
    (g,) = gradient(value, x)
    nothing = torch.zeros_like(x[:1])
    if origin == "network":
        nothing = model.preprocess.denormalise(model.preprocess.normalise(nothing) * 0)
    heat = (x.detach() - nothing) * g  # Shrikumar 2016, sec. 2
    total = heat.sum((1, 2, 3))
    evidence = {"score": value.detach(), "sum": total, "left out": value.detach() - total}
    return Raw(
        heat if reduce == "rgb" else heat.sum(1),
        signed=True,
        unit="share of the target",
        evidence=evidence,
        notes=flat(g, target),
    )
