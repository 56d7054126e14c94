"""The picture of a class that a network would score highest, kept small: the first of its kind."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Annotated

from torch import Tensor

from cutaway.core.method import TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.readers import Probability
from cutaway.core.result import Picture
from cutaway.core.target import Target

from .ascent import Ascent, Stride
from .canvas import Input
from .drawn import drawing
from .wanted import Wanted, neurons

SPREAD = 0.25
"""Standard deviation of the pixels of photographs, in [0, 1]."""
SIZE = 0.01
"""Lambda where photographs have a spread of 1."""


@method(
    title="Class visualization",
    chapter="synthesis",
    needs={TARGET},
    gives=Picture,
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034",
    tags=Tags(family="synthesis", focus="model", level="high"),
    caveat="Nothing keeps it near photographs: what raises the score most is mostly fine-grained noise.",
    random=True,
    command="dream",
)
def class_visualization(
    model: VisionModel,
    target: Target,
    *,
    decay: Annotated[
        float | None,
        Range(0, 1e9, open_low=True),
        "weight of the squared size of the network's input (lambda of the paper); by default 0.01 over the squared "
        "spread that photographs have there",
    ] = None,
    steps: Annotated[int, Range(1, 10000), "steps of the ascent"] = 200,
    rate: Annotated[
        float,
        Range(0, 1, open_low=True),
        "step size, as a share of the way to the answer if the score were linear: rate / (2 lambda)",
    ] = 0.01,
    mass: Annotated[
        float, Range(0, 1, open_high=True), "momentum: how much of a step goes into the next"
    ] = 0.9,
) -> Steps[Raw]:
    """Climb S(I) - lambda |I|^2 from the mean picture: pictures (3, H, W), clipped to [0, 1] to be seen.

    I is the network's input, where zero is the mean colour, and S the target, by the paper the class score before
    softmax: a probability can also rise by lowering the other classes. A step is v <- mass v + (dS/dI - 2 lambda I),
    I <- I + rate / (2 lambda) v; of a linear score S = w I + b the answer is I = w / (2 lambda), at |w|^2 / (4 lambda)
    + b. The panel holds I itself, unclipped, red first; the evidence says which share of the pixels was clipped, `value` is the
    target of the unclipped picture. A hidden channel is read at one neuron, on a canvas that is just what it sees.

    Raises `MethodRefusedError` where nothing leads uphill.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> prep = cutaway.Preprocess(crop=2, mean=(0.5,) * 3)
    >>> drawn = cutaway.VisionModel(net, prep, name="linear").explain(None, "class_visualization", 1, decay=0.5)
    >>> best = net[1].weight[1].detach() / (2 * 0.5)
    >>> bool(abs(drawn.panels["input"].values.ravel() - best.numpy()).max() < 1e-5)
    True
    """
    wanted = neurons(model, target)
    canvas = Input(model, wanted.size)
    if decay is None:
        decay = SIZE / (SPREAD * model.preprocess.range / fmean(model.preprocess.std)) ** 2
    weight = decay
    notes = [f"lambda is {weight:.3g} in the network's input"]
    if any(isinstance(reader, Probability) for _, reader in target.terms):
        notes.append("a probability can also rise by lowering other classes; the paper climbs the logit")

    def ascent(part: Wanted) -> Ascent:
        return Ascent(
            part.values,
            canvas,
            Stride("momentum", rate / (2 * weight), mass),
            steps,
            revive=part.leaking,
            penalty=lambda numbers: weight * numbers.square().flatten(1).sum(1),
        )

    def unclipped(numbers: Tensor) -> dict[str, RawPanel]:
        red_first = numbers.flip(1) if model.preprocess.channels == "BGR" else numbers
        title = "the network's input, unclipped; mid-grey is the mean colour"
        return {"input": RawPanel(title, red_first[:, None], "tiles", "network input")}

    wanted = replace(wanted, notes=(*wanted.notes, *notes))
    return (yield from drawing(wanted, canvas, ascent, spread=0, beside=unclipped))
