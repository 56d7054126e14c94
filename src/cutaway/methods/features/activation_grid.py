"""Every map of a layer, side by side."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture
from cutaway.methods.weights.common import page_of

from .capture import capture, named

MOST = 1024


@method(
    title="Activation grid",
    chapter="features",
    needs={IMAGE},
    gives=Picture,
    paper="Yosinski et al. 2015, arXiv:1506.06579, sec. 2",
    tags=Tags(family="features", focus="both", level="any"),
    caveat="A bright map says that a unit answered, not what it stands for.",
    laws={"weights sensitive"},
)
def activation_grid(
    model: VisionModel,
    x: Tensor,
    *,
    layers: Annotated[
        str | None, "layers joined by commas, all read in one pass; chosen and said when not given"
    ] = None,
    order: Annotated[
        Literal["channel", "strongest"], "as numbered, or by the largest activation"
    ] = "channel",
    scale: Annotated[Literal["layer", "map"], "one scale for the layer, or each map its own"] = "layer",
    raw: Annotated[bool, "the layer's own output, before the nonlinearity that follows it"] = False,
    page: Annotated[int, Range(1), "which page of 1024 maps"] = 1,
) -> Raw:
    """One picture's activations as grey maps, (C, h, w) for the first layer, a panel for each further one.

    Cost: one forward pass for all layers, ended at the last. The evidence holds the channels in the order drawn.
    Raises `UsageError` for a layer without maps, with a tuple as its output, or that ran several times.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="two layers")
    >>> grid = model.explain(torch.rand(3, 9, 9), "activation_grid", layers="0,2")
    >>> grid.values.shape, grid.panels["2"].values.shape
    ((4, 7, 7), (2, 5, 5))
    """
    names, notes = named(model, layers)
    found = capture(model, x, names, raw=raw)
    grids: dict[str, Tensor] = {}
    evidence: dict[str, Tensor] = {}
    for name in names:
        maps = found[name]
        channels = torch.arange(maps.shape[1], device=maps.device).expand(len(maps), -1)
        if order == "strongest":
            channels = maps.flatten(2).amax(2).argsort(dim=1, descending=True, stable=True)
        pages = -(-maps.shape[1] // MOST)
        # of several layers the small ones have fewer pages; they show their last
        shown, paged = page_of(
            maps.shape[1], min(page, pages) if len(names) > 1 else page, MOST, f"maps of {name}"
        )
        channels = channels[:, shown]
        grids[name] = maps.gather(1, channels[..., None, None].expand(-1, -1, *maps.shape[2:]))
        evidence[f"channels {name}"] = channels
        notes += paged
    each = scale == "map"
    first, *others = names
    return Raw(
        grids[first],
        signed=bool((grids[first] < 0).any()),
        unit="activation",
        layer=first,
        evidence=evidence,
        notes=notes,
        panels={n: RawPanel(n, grids[n], "maps", "activation", each=each) for n in others},
        extra={"scale": "maps", "each": each, "title": first},
    )
