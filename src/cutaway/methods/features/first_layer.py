"""The first layer at work: the picture, the filters, and the map each filter made."""

from typing import Annotated, Literal

from torch import Tensor

from cutaway.core.method import IMAGE, LAYER, LayerName, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture
from cutaway.methods.weights.common import MOST, Page, first_convolution, in_space, page_of, unit_of

from .capture import capture


@method(
    title="First layer: picture, filters, maps",
    chapter="features",
    needs={IMAGE, LAYER},
    gives=Picture,
    paper="Yosinski et al. 2015, arXiv:1506.06579, sec. 2; filters as in Krizhevsky 2012, fig. 3",
    tags=Tags(family="features", focus="both", level="low"),
    caveat="The maps are those of the convolution itself, before batch norm and ReLU.",
    laws={"weights sensitive"},
)
def first_layer(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    scale: Annotated[Literal["layer", "map"], "one scale for all maps, or each its own"] = "layer",
    page: Page = 1,
) -> Raw:
    """The picture, the first layer's filters and the maps they make, tile for tile in the same order.

    Values are the convolution's own output (O, h, w); panels are the picture (3, H, W) and the filters
    (O, 3, kh, kw). Raises `MethodRefusedError` for a layer with other than 1 or 3 input channels.
    """
    name, module, notes = first_convolution(model, layer)
    shown, paged = page_of(module.out_channels, page, MOST, "filters")
    maps = capture(model, x, [name], raw=True)[name][:, shown]
    weights, _, order = in_space(model, module.weight.detach()[shown], "network")
    filters = weights.expand(len(x), *weights.shape)
    seen = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
    return Raw(
        maps,
        unit="filter response",
        layer=name,
        notes=notes + order + paged,
        panels={
            "picture": RawPanel("what the network saw", seen, "picture"),
            "filters": RawPanel(f"filters of {name}", filters, "tiles", unit_of("network"), each=True),
        },
        extra={"scale": "maps", "each": scale == "map", "title": f"their maps, {name}"},
    )
