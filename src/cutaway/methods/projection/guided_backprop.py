"""Guided backpropagation."""

from typing import Annotated

from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.rules import Rule, plain
from cutaway.core.target import Target

from .reduce import Reduce, reduced
from .rules import PASSES, Keep, Start, deconvnet_relu, guided_relu, project, skip_contrast
from .walk import Layers, Maps, Walk, walk


@method(
    title="Guided backpropagation",
    chapter="projection",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2015, arXiv:1412.6806, sec. 3.4",
    tags=Tags(family="sensitivity", level="mid"),
    caveat="Sharp but nearly the same for every class, and it fails randomization tests: it shows edges the network can see.",
    passes=PASSES,
    laws={"weights sensitive"},
    single_pass=True,
)
def guided_backprop(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    reduce: Reduce = "rgb",
    start: Start = "gradient",
    keep: Keep = "auto",
    compare: Annotated[bool, "add backprop and deconvnet beside it, from the same start"] = False,
    layers: Layers = None,
    maps: Maps = 8,
) -> Steps[Raw]:
    """The gradient with every ReLU passing only positive signals through open gates: R where h>0 and R>0.

    Gives (N, 3, H, W). With `compare=True` the panels hold the figure input / backprop / deconvnet / guided.
    With `layers` it walks through the strongest maps of those layers (see `walk`), as in fig. 3 of the paper.
    Raises `MethodRefusedError` when an operator is out of the rule's reach.
    """
    yield Progress(0, 1, note="Guided backpropagation")
    rules: dict[Family, Rule] = {Family.RELU: guided_relu, Family.NORM: plain}
    if layers is not None:
        kept = {"reduce": (reduce, "rgb"), "compare": (compare, False)}
        asked = Walk(layers, maps, start, keep, "guided signal", plain=kept)
        return (yield from walk(model, x, target, rules, asked, name="guided_backprop"))
    done = project(model, x, target, rules, name="guided_backprop", start=start, keep=keep)
    panels = {}
    if compare:
        deconv: dict[Family, Rule] = {Family.RELU: deconvnet_relu, Family.NORM: skip_contrast}
        tables: dict[str, dict[Family, Rule]] = {"backprop": {}, "deconvnet": deconv, "guided": rules}
        for title, table in tables.items():
            part = project(model, x, target, table, name=title, start=start, keep=keep)
            panels[title] = RawPanel(title, part.picture, "signed", "signal")
    heat, signed = reduced(done.picture, reduce)
    evidence = {"score": done.value}
    return Raw(heat, signed=signed, unit="guided signal", evidence=evidence, notes=done.notes, panels=panels)
