"""Guided Grad-CAM: where Grad-CAM looks, in guided backprop's detail."""

import torch.nn.functional as F
from torch import Tensor

from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.result import Attribution
from cutaway.core.rules import Rule, plain
from cutaway.core.target import Target
from cutaway.methods.projection.reduce import Reduce, reduced
from cutaway.methods.projection.rules import PASSES, guided_relu, project

from .weighted import head, silent


@method(
    title="Guided Grad-CAM",
    chapter="gradient",
    needs={IMAGE, TARGET, LAYER},
    gives=Attribution,
    paper="Selvaraju et al. 2017, arXiv:1610.02391, sec. 3.2",
    tags=Tags(family="sensitivity", level="high"),
    caveat="The place comes from Grad-CAM; the fine detail from guided backprop, which hardly depends on the class.",
    passes=PASSES,
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def guided_grad_cam(
    model: VisionModel, x: Tensor, target: Target, *, layer: LayerName = None, reduce: Reduce = "rgb"
) -> Raw:
    """Guided backprop times Grad-CAM, enlarged bilinearly (corners not aligned) to the picture, (N, 3, H, W).

    Raises `MethodRefusedError` where guided backprop is refused.
    """
    h = head(model, x, target, layer)
    coarse = (h.gradient.mean((2, 3), keepdim=True) * h.activation).sum(1, keepdim=True).clamp(min=0)
    rules: dict[Family, Rule] = {Family.RELU: guided_relu, Family.NORM: plain}
    fine = project(model, x, target, rules, name="guided_grad_cam", start="gradient", keep="map")
    large = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
    heat, signed = reduced(large * fine.picture, reduce)
    notes = h.notes + fine.notes + silent(coarse, h.layer)
    return Raw(
        heat, signed=signed, unit="guided evidence", layer=h.layer, evidence={"score": h.value}, notes=notes
    )
