"""The picture to which a linear unit answers most strongly."""

from typing import Annotated

import torch

from cutaway.core.errors import MethodRefusedError, UnknownNameError
from cutaway.core.method import LAYER, LayerName, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import MOST, Page, Space, convolutions, first_convolution, in_space, page_of
from .linear import picture_rows


@method(
    title="Optimal stimulus of a linear unit",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Erhan, Bengio, Courville & Vincent 2009, Visualizing higher-layer features, sec. 3",
    tags=Tags(family="parameters", level="low"),
    caveat="Under a bound on energy alone: real pixels are bounded one by one, and other bounds have other optima.",
    laws={"weights sensitive"},
)
def optimal_stimulus(
    model: VisionModel,
    *,
    layer: LayerName = None,
    unit: Annotated[int | None, Range(0), "one unit; all when not given"] = None,
    energy: Annotated[
        float, Range(0, 1e9, open_low=True), "largest sum of squares r^2 of the stimulus"
    ] = 1.0,
    space: Space = "network",
    page: Page = 1,
) -> Raw:
    """The stimulus with the largest f(w x) for rising f under |x|^2 <= r^2: x* = r w / |w|, (O, 3, h, w).

    The answer there is w x* = r |w|, without the bias, in the evidence. Takes the layer that reads the picture,
    convolutional (the stimulus fills one window) or linear (it fills the picture). Raises `MethodRefusedError`
    for a unit whose weights are all zero, and for a layer deeper in the network.
    """
    if layer is not None and isinstance(
        model.network.get_submodule(model.layers.find(layer).name), torch.nn.Linear
    ):
        rows = picture_rows(model, layer)
        name, weights, notes = rows.layer, rows.weights, rows.notes
    elif layer is None and not _has_convolution(model):
        rows = picture_rows(model, None)
        name, weights, notes = rows.layer, rows.weights, rows.notes
    else:
        name, module, notes = first_convolution(model, layer)
        weights = module.weight.detach()
    if unit is not None and unit >= len(weights):
        raise UnknownNameError(
            f"unit {unit} of {name}", f"0 to {len(weights) - 1}", f"unit={len(weights) - 1}"
        )
    chosen = range(len(weights)) if unit is None else range(unit, unit + 1)
    shown, paged = page_of(len(chosen), page, MOST, "units")
    chosen = chosen[shown]
    weights, _, order = in_space(model, weights[chosen.start : chosen.stop], space)
    norm = weights.flatten(1).norm(dim=1)
    silent = [u for u, size in zip(chosen, norm.tolist(), strict=True) if size == 0]
    if len(silent) == len(chosen):
        raise MethodRefusedError(
            f"unit {silent[0]} of {name} has zero weights; every stimulus is optimal",
            "a unit with a weight other than zero",
            "another unit",
        )
    if silent:
        notes += (f"zero weights, every stimulus is optimal: units {', '.join(map(str, silent))}",)
    radius = energy**0.5
    best = radius * weights / torch.where(norm > 0, norm, 1).view(-1, 1, 1, 1)  # Erhan 2009: r w / |w|
    return Raw(
        best[None],
        unit="pixel value" if space == "pixels" else "normalised input",
        layer=name,
        evidence={"response": tuple((radius * norm).tolist()), "energy": energy},
        notes=notes + order + paged,
        extra={"scale": "tiles", "each": True, "title": f"optimal stimuli of {name}"},
    )


def _has_convolution(model: VisionModel) -> bool:
    try:
        convolutions(model)
    except MethodRefusedError:
        return False
    return True
