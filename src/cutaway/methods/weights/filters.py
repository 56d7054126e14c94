"""First-layer filters as small colour pictures."""

from cutaway.core.method import LAYER, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import MOST, Page, Space, TileScale, first_convolution, in_space, page_of, unit_of


@method(
    title="First-layer filters",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Krizhevsky, Sutskever & Hinton 2012, ImageNet classification, fig. 3",
    tags=Tags(family="parameters", level="low"),
    caveat="Only the first layer's filters are pictures; what a deeper filter sees depends on all below it.",
    laws={"weights sensitive"},
)
def filters(
    model: VisionModel,
    *,
    layer: LayerName = None,
    space: Space = "network",
    scale: TileScale = "filter",
    page: Page = 1,
) -> Raw:
    """The filters of the layer that reads the picture, as they are: (O, 3, kh, kw).

    Zero is mid-grey; a filter's three colours share one scale. `space="pixels"` divides by sigma_c, which shows
    the filter acting on pixels in [0, 1]. Raises `MethodRefusedError` for other than 1 or 3 input channels.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(crop=16), name="four filters")
    >>> bool((model.inspect("filters").values == net[0].weight.detach().numpy()).all())
    True
    """
    name, module, notes = first_convolution(model, layer)
    shown, paged = page_of(module.out_channels, page, MOST, "filters")
    weights, _, order = in_space(model, module.weight.detach()[shown], space)
    return Raw(
        weights[None],
        unit=unit_of(space),
        layer=name,
        evidence={"filters": module.out_channels},
        notes=notes + order + paged,
        extra={"scale": "tiles", "each": scale == "filter", "title": f"filters of {name}"},
    )
