"""How a deeper filter is put together: at each of its taps the lower filters it weighs most."""

from typing import Annotated

import torch

from cutaway.core.errors import MethodRefusedError
from cutaway.core.method import LAYER, LayerName, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import Page, Space, convolution, convolutions, in_space, page_of
from .composition import chain, halves

MOST = 36


@method(
    title="Filter arrangement",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Krizhevsky, Sutskever & Hinton 2012, ImageNet classification, fig. 3, carried one layer up",
    tags=Tags(family="parameters", level="low"),
    caveat="Only the strongest of many weights are drawn, and every ReLU and pooling between the two layers is left out.",
    laws={"weights sensitive"},
)
def filter_arrangement(
    model: VisionModel,
    *,
    layer: LayerName = None,
    strongest: Annotated[int, Range(1, 8), "lower filters drawn side by side at each tap"] = 1,
    space: Space = "network",
    page: Page = 1,
) -> Raw:
    """At each tap q of a filter the lower filters with the largest |k2[o, m, q]|, drawn as k2[o, m, q] times k1[m].

    Gives (O, 3, kh h, kw strongest w): cell (row, column) of a tile belongs to that tap; a negative weight turns
    its lower filter into the negative. Lower filters are the effective kernels of the convolution below, with its
    batch norm; pooling between the two is left out, and max pooling further down counts as mean pooling. The
    evidence lists the lower units and weights. Raises `MethodRefusedError` for the first convolution and where no
    plain chain leads to the layer.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        names = convolutions(model)
        layer = names[min(1, len(names) - 1)]
        notes = (f"layer {layer}: the second convolution",)
    convolution(model, layer)
    found = chain(model, model.layers.find(layer).name, pool="mean")
    if len(found.convolutions) < 2:
        raise MethodRefusedError(
            f"layer {layer!r} reads the picture itself", "a convolution above another one", "filters"
        )
    below, top = halves(found)
    tiles, _, order = in_space(model, below.kernel, space)
    shown, paged = page_of(len(top.kernel), page, MOST, "units")
    kernel = top.kernel[shown]
    units, lower, rows, columns = kernel.shape
    strongest = min(strongest, lower)
    chosen = kernel.abs().argsort(dim=1, descending=True, stable=True)[:, :strongest].permute(0, 2, 3, 1)
    weights = kernel.permute(0, 2, 3, 1).gather(3, chosen)  # (units, rows, columns, strongest)
    drawn = weights[..., None, None, None] * tiles[chosen]
    height, width = tiles.shape[2:]
    picture = drawn.permute(0, 4, 1, 5, 2, 3, 6)  # (units, colours, rows, h, columns, strongest, w)
    picture = picture.reshape(units, tiles.shape[1], rows * height, columns * strongest * width)
    lower_name = found.steps[found.convolutions[-2]].layer
    share = weights.abs().sum() / kernel.abs().sum().clamp_min(torch.finfo(kernel.dtype).tiny)
    return Raw(
        picture[None],
        unit="weight times lower filter",
        layer=layer,
        evidence={
            "taps": f"{rows} x {columns} of {strongest} x ({height} x {width})",
            "share_of_weight_drawn": float(share),
            "inputs": tuple(chosen.tolist()),
            "weights": tuple(weights.tolist()),
        },
        notes=(*notes, f"lower filters: {lower_name}", *found.notes, *order, *paged),
        extra={"scale": "tiles", "each": True, "title": f"{layer} drawn with the filters of {lower_name}"},
    )
