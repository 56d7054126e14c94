"""Grad-CAM++: positive gradients weighted so that each occurrence counts alike."""

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .weighted import head, silent


@method(
    title="Grad-CAM++",
    chapter="gradient",
    needs={IMAGE, TARGET, LAYER},
    gives=Attribution,
    paper="Chattopadhay et al. 2018, arXiv:1710.11063, eq. 10 and 19",
    tags=Tags(family="sensitivity", level="high"),
    caveat="It ignores negative gradients by construction, so it marks what is present rather than what decides.",
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def grad_cam_plus_plus(model: VisionModel, x: Tensor, target: Target, *, layer: LayerName = None) -> Raw:
    """Grad-CAM with weights w_k = sum_ij alpha_ij ReLU(G_ij), alpha = G^2 / (2 G^2 + G^3 sum_ab A_ab).

    G = dS/dA_k. The paper differentiates Y = exp(S); its common positive factor exp(S) is left out, since it
    scales the whole map. Where the denominator is zero alpha is zero. Gives (N, h, w), not negative.
    """
    h = head(model, x, target, layer)
    g, a = h.gradient, h.activation
    # eq. 19 divided by G^2, which underflows where the score is nearly certain
    denominator = 2 + a.sum((2, 3), keepdim=True) * g
    alpha = torch.where((g != 0) & (denominator != 0), 1 / torch.where(denominator != 0, denominator, 1), 0)
    weights = (alpha * g.clamp(min=0)).sum((2, 3), keepdim=True)  # eq. 10
    heat = (weights * a).sum(1).clamp(min=0)
    notes = h.notes + silent(heat, h.layer)
    return Raw(heat, signed=False, unit="evidence", layer=h.layer, evidence={"score": h.value}, notes=notes)
