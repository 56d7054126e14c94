"""Class activation maps, where they are exact."""

from __future__ import annotations

from torch import Tensor

from cutaway.core.audit import audit, node_names
from cutaway.core.errors import MethodRefusedError
from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.result import Attribution
from cutaway.core.rules import backward_rules
from cutaway.core.target import Target

from .weighted import Head, head

_MEAN = {"Mean", "AdaptiveAvgPool2D", "AvgPool2D", "MkldnnAdaptiveAvgPool2D"}


@method(
    title="CAM",
    chapter="gradient",
    needs={IMAGE, TARGET, LAYER},
    gives=Attribution,
    paper="Zhou et al. 2016, arXiv:1512.04150, eq. 2",
    tags=Tags(family="decomposition", level="high"),
    caveat="Exact: the map adds up to the score less its bias. But each place has seen far beyond its own square.",
    laws={"completeness", "class sensitive", "weights sensitive"},
    single_pass=True,
)
def cam(model: VisionModel, x: Tensor, target: Target, *, layer: LayerName = None) -> Raw:
    """The score as a sum over places: M = sum_k w_k A_k for a head of global pooling and one linear layer.

    Gives (N, h, w), signed. With sum pooling, sum(M) = S - b; with mean pooling, sum(M) = h w (S - b); evidence
    holds b and what is left. A head is recognised by what it computes, not by how it is spelled: it must be
    linear in the layer's activation, with the same weights at every position.
    Raises `MethodRefusedError` for any other head, saying what to use.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = model.layers.last_map()
        notes = (f"layer {layer}: the last one with rows and columns",)
    with backward_rules({}, model.network) as mode:
        h = head(model, x, target, layer)
    if target.reads_output and model.layers.trace.beside(model.layers.trace.value(layer)):
        raise _refusal(layer, "is not all there is: the score also reads the picture beside this layer")
    if h.elsewhere:
        raise _refusal(layer, "reads a token that stands at no position, such as the class token")
    pooling = _pooling(h, mode)
    places = h.activation[0, 0].numel()
    weights = h.gradient.mean((2, 3), keepdim=True) * (places if pooling == "mean" else 1)
    heat = (weights * h.activation).sum(1)  # Zhou 2016, eq. 2
    explained = heat.sum((1, 2)) / (places if pooling == "mean" else 1)
    evidence = {"score": h.value, "bias": h.value - explained, "pooling": pooling}
    return Raw(
        heat, signed=True, unit=f"evidence, {pooling} pooling", layer=layer, evidence=evidence, notes=notes
    )


def _pooling(h: Head, mode: backward_rules) -> str:
    """ "mean" or "sum"; refuses a head that is not global pooling and one linear layer."""
    try:
        audit(h.output, mode, method="cam")
    except MethodRefusedError as error:
        # nothing below the layer is differentiated, so that every ReLU met lies in the head
        bend = (
            "a ReLU lies in it"
            if Family.RELU in mode.families
            else error.found.removeprefix("cam cannot reach ")
        )
        raise _refusal(h.layer, f"is not linear: {bend}") from error
    spread = (h.gradient - h.gradient.mean((2, 3), keepdim=True)).abs().max()
    if bool(spread > 1e-5 * h.gradient.abs().max()):
        raise _refusal(h.layer, "weighs positions differently (Flatten and a linear layer)")
    return "mean" if _MEAN & node_names(h.output) else "sum"


def _refusal(layer: str, why: str) -> MethodRefusedError:
    return MethodRefusedError(
        f"the head above {layer!r} {why}",
        "global pooling followed by one linear layer",
        "grad_cam, which takes any head, or cutaway.nn.gap to replace and fit the head",
    )
