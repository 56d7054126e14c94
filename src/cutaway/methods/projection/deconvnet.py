"""Deconvnet: from one unit, map or score down to pixels through switches and rectified signals."""

from collections.abc import Collection
from typing import Annotated, Literal

from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.rules import Rule
from cutaway.core.target import Target

from .reduce import Reduce, reduced
from .rules import PASSES, Keep, Start, deconvnet_relu, overwrite_pool, project, skip_contrast
from .walk import Layers, Maps, Walk, walk


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
    keep: Keep = "auto",
    pool: Annotated[
        Literal["sum", "overwrite"], "signals that meet at one switch of overlapping pools"
    ] = "sum",
    layers: Layers = None,
    maps: Maps = 8,
) -> Steps[Raw]:
    """Activity of a unit, map or score projected back to pixels, (N, 3, H, W).

    All other activations of the layer are zero; max pooling places signals at its recorded switches, ReLU
    rectifies the signal (R where R>0), convolution applies its transposed filters, batch norm keeps its scale,
    local response normalisation is skipped; there are no biases. A hidden unit starts from its activation, an
    output score from 1. With `layers` it walks through the strongest maps of those layers instead, as in fig. 2
    (see `walk`). Raises `MethodRefusedError` when an operator is out of the rules' reach.
    """
    yield Progress(0, 1, note="Deconvnet")
    rules: dict[Family, Rule] = {Family.RELU: deconvnet_relu, Family.NORM: skip_contrast}
    if pool == "overwrite":
        rules[Family.MAX_POOL] = overwrite_pool
    unit = "projected signal"
    if layers is not None:
        asked = Walk(layers, maps, start, keep, unit, plain={"reduce": (reduce, "rgb")})
        return (yield from walk(model, x, target, rules, asked, name="deconvnet", remarks=_remarks))
    done = project(model, x, target, rules, name="deconvnet", start=start, keep=keep)
    heat, signed = reduced(done.picture, reduce)
    notes = done.notes + _remarks(done.families)
    return Raw(heat, signed=signed, unit=unit, evidence={"score": done.value}, notes=notes)


def _remarks(families: Collection[Family]) -> tuple[str, ...]:
    """What a reader must know of the operators that were met."""
    notes: tuple[str, ...] = ()
    if Family.NORM in families:
        notes += ("local response normalisation, if any, is skipped on the way down",)
    if Family.MAX_POOL not in families:
        notes += (
            "no max pooling, hence no switches: the projection depends on the picture through its start alone",
        )
    return notes
