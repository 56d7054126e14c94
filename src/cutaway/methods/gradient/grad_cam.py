"""Grad-CAM: channels weighted by the mean gradient of the target."""

from typing import Annotated

from torch import Tensor

from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .weighted import head, silent


@method(
    title="Grad-CAM",
    chapter="gradient",
    needs={IMAGE, TARGET, LAYER},
    gives=Attribution,
    paper="Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2",
    tags=Tags(family="sensitivity", level="high"),
    caveat="Coarse, and exact only for a head of average pooling and one linear layer; elsewhere it is a local estimate.",
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def grad_cam(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    layer: LayerName = None,
    relu: Annotated[bool, "keep only positive evidence, as in the paper"] = True,
    counterfactual: Annotated[bool, "negate the gradient: what speaks against the target"] = False,
) -> Raw:
    """Which places of a layer speak for the target: L = ReLU(sum_k alpha_k A_k), alpha_k the mean of dS/dA_k.

    Gives (N, h, w) on the layer's own grid, any head and any target. The ReLU acts on the weighted sum, not on
    the weights. An all-zero map is a legitimate answer and is noted. Cost: one forward pass and the backward
    pass of the head. Raises `UsageError` for a layer without maps.
    """
    h = head(model, x, target, layer)
    alpha = h.gradient.mean((2, 3), keepdim=True)  # Selvaraju 2017, eq. 1
    if counterfactual:
        alpha = -alpha  # Selvaraju 2017, sec. 3.3
    heat = (alpha * h.activation).sum(1)
    if relu:
        heat = heat.clamp(min=0)  # Selvaraju 2017, eq. 2
    notes = h.notes + silent(heat, h.layer)
    return Raw(
        heat, signed=not relu, unit="evidence", layer=h.layer, evidence={"score": h.value}, notes=notes
    )
