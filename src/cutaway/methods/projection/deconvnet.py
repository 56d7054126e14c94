"""Deconvnet: from one unit, map or score down to pixels through switches and rectified signals."""

from typing import Annotated, Literal

from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.result import Attribution
from cutaway.core.rules import Rule
from cutaway.core.target import Target

from .reduce import Reduce, reduced
from .rules import PASSES, Keep, Start, deconvnet_relu, overwrite_pool, project, skip_contrast


@method(
    title="Deconvnet",
    chapter="projection",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Zeiler & Fergus 2014, arXiv:1311.2901, sec. 2.1",
    tags=Tags(family="sensitivity", level="mid"),
    caveat="It draws the pattern a unit can see more than the reason it fired; for a class score it barely depends on the class.",
    passes=PASSES,
    laws={"weights sensitive"},
    single_pass=True,
)
def deconvnet(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    reduce: Reduce = "rgb",
    start: Start = "activation",
    keep: Keep = "map",
    pool: Annotated[
        Literal["sum", "overwrite"], "signals that meet at one switch of overlapping pools"
    ] = "sum",
) -> Raw:
    """Activity of a unit, map or score projected back to pixels, (N, 3, H, W).

    All other activations of the layer are zero; max pooling places signals at its recorded switches, ReLU
    rectifies the signal (R where R>0), convolution applies its transposed filters, batch norm keeps its scale,
    local response normalisation is skipped; there are no biases. A hidden unit starts from its activation, an
    output score from 1. Raises `MethodRefusedError` when an operator is out of the rules' reach.
    """
    rules: dict[Family, Rule] = {Family.RELU: deconvnet_relu, Family.NORM: skip_contrast}
    if pool == "overwrite":
        rules[Family.MAX_POOL] = overwrite_pool
    done = project(model, x, target, rules, name="deconvnet", start=start, keep=keep)
    notes = done.notes
    if Family.NORM in done.families:
        notes += ("local response normalisation, if any, is skipped on the way down",)
    if Family.MAX_POOL not in done.families:
        notes += (
            "no max pooling, hence no switches: the projection depends on the picture through its start alone",
        )
    heat, signed = reduced(done.picture, reduce)
    return Raw(heat, signed=signed, unit="projected signal", evidence={"score": done.value}, notes=notes)
