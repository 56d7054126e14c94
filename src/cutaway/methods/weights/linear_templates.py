"""A linear classifier's weights, each row drawn as the picture it is compared with."""

from cutaway.core.method import LAYER, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import MOST, Page, Space, TileScale, in_space, page_of, unit_of
from .linear import picture_rows


@method(
    title="Linear templates",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, sec. 3, eq. 2",
    tags=Tags(family="parameters", level="high"),
    caveat="Exact for a linear layer that reads the picture itself; a template averages all that a class looks like.",
    laws={"weights sensitive"},
)
def linear_templates(
    model: VisionModel,
    *,
    layer: LayerName = None,
    space: Space = "network",
    scale: TileScale = "filter",
    page: Page = 1,
) -> Raw:
    """The weights of a linear layer on the picture, unfolded in the network's own order: (K, 3, H, W).

    S_c = <template_c, x> + b_c for every x, in the network's input space or, with `space="pixels"`, on pixels;
    the evidence holds b_c. Raises `MethodRefusedError` where the layer does not read the whole picture as it is.
    """
    rows = picture_rows(model, layer)
    shown, paged = page_of(len(rows.weights), page, MOST, "templates")
    templates, constant, order = in_space(model, rows.weights[shown], space)
    return Raw(
        templates[None],
        unit=unit_of(space),
        layer=rows.layer,
        evidence={"bias": tuple((rows.bias[shown] + constant).tolist())},
        notes=rows.notes + order + paged,
        extra={"scale": "tiles", "each": scale == "filter", "title": f"templates of {rows.layer}"},
    )
