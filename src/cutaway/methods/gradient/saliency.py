"""The gradient of the target in the pixels, by its size."""

from typing import Annotated, Literal

from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target, flat, gradient, score


@method(
    title="Saliency",
    chapter="gradient",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, sec. 3",
    tags=Tags(family="sensitivity", level="high"),
    caveat="It shows where a tiny change would move the score most, not what the score is made of; noise is part of it.",
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def saliency(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    reduce: Annotated[
        Literal["max", "sum", "rgb"], "over colours: largest, sum of sizes, or the signed gradient"
    ] = "max",
) -> Raw:
    """How strongly each pixel moves the target: |d target / d pixel|.

    Pixel space, u in [0, 1]: M = max_c |dS/du_c|, (N, H, W); `reduce="rgb"` keeps the signed gradient,
    (N, 3, H, W). Unit: change of the target per full range of one pixel.
    Raises `MethodRefusedError` when the target cannot be differentiated.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> result = model.explain(torch.rand(3, 2, 2), "saliency", target=1)
    >>> w = net[1].weight[1].detach().view(3, 2, 2)
    >>> torch.allclose(torch.tensor(result.values), w.abs().amax(0))
    True
    """
    x = x.detach().requires_grad_()
    value = score(model, x, target)
    (g,) = gradient(value, x)
    if reduce == "rgb":
        heat = g
    else:
        heat = g.abs().amax(1) if reduce == "max" else g.abs().sum(1)  # Simonyan 2014, sec. 3.1
    notes = flat(heat, target)
    return Raw(
        heat, signed=reduce == "rgb", unit="d target / d pixel", evidence={"score": value}, notes=notes
    )
