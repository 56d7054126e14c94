"""Deeper filters as grey planes: a row for each unit, a column for each of its inputs."""

from typing import Annotated, Literal

from cutaway.core.method import LAYER, LayerName, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import Page, convolution, convolutions, page_of


@method(
    title="Filter planes",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Krizhevsky, Sutskever & Hinton 2012, ImageNet classification, sec. 3.5",
    tags=Tags(family="parameters", level="low"),
    caveat="A plane says how a unit weighs one map of the layer below, not what that map means.",
    laws={"weights sensitive"},
)
def filter_planes(
    model: VisionModel,
    *,
    layer: LayerName = None,
    columns: Annotated[int, Range(1, 1024), "most input channels to draw"] = 64,
    rows: Annotated[int, Range(1, 1024), "units on a page"] = 32,
    order: Annotated[Literal["size", "stored"], "columns by their sum of |w|, or as stored"] = "stored",
    scale: Annotated[Literal["layer", "plane"], "one scale for all planes, or each its own"] = "layer",
    page: Page = 1,
) -> Raw:
    """Each unit's filter, one grey plane per input channel: (rows x columns, kh, kw), row by row.

    Where there are more inputs than `columns`, the ones with the largest sum of |w| over the units shown are
    kept. A unit of a grouped convolution has the inputs of its own group only, counted from the group's first.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        names = convolutions(model)
        layer = names[min(1, len(names) - 1)]
        notes = (f"layer {layer}: the {'second' if len(names) > 1 else 'only'} convolution",)
    module = convolution(model, layer)
    shown, paged = page_of(module.out_channels, page, rows, "units")
    weights = module.weight.detach()[shown]
    total = weights.shape[1]
    sizes = weights.abs().sum((0, 2, 3))
    kept = sizes.argsort(descending=True, stable=True)[:columns]
    if order == "stored":
        kept = kept.sort().values
    if total > columns:
        notes += (f"{columns} of {total} input channels, those with the largest sum of |w|",)
    if module.groups > 1:
        notes += (f"{module.groups} groups: a unit reads {total} of the layer's {module.in_channels} inputs",)
    return Raw(
        weights[:, kept].flatten(0, 1)[None],
        unit="weight",
        layer=layer,
        evidence={"inputs": tuple(kept.tolist()), "first_unit": shown.start, "units": module.out_channels},
        notes=notes + paged,
        extra={
            "scale": "maps",
            "each": scale == "plane",
            "columns": len(kept),
            "title": f"{layer}: a row per unit, a column per input",
        },
    )
