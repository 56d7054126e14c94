"""Effective filters: what a deeper convolution computes from the picture while every ReLU stays open."""

from typing import Annotated, Literal

from cutaway.core.errors import MethodRefusedError
from cutaway.core.method import LAYER, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import Page, Space, TileScale, convolution, convolutions, in_space, page_of, unit_of
from .composition import Affine, chain, compose

Pool = Annotated[Literal["refuse", "mean"], "max pooling on the way: refuse, or mean pooling in its place"]
MOST = 256


@method(
    title="Effective filters",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Springenberg et al. 2015, arXiv:1412.6806, sec. 2; kernels composed as in Dumoulin & Visin 2016, arXiv:1603.07285",
    tags=Tags(family="parameters", level="low"),
    caveat="Every ReLU is taken as open; what a unit answers at one picture is its gradient there.",
    laws={"weights sensitive"},
)
def effective_filters(
    model: VisionModel,
    *,
    layer: LayerName = None,
    pool: Pool = "refuse",
    space: Space = "network",
    scale: TileScale = "filter",
    page: Page = 1,
) -> Raw:
    """Convolutions one after another as one convolution on the picture, nonlinearities left out: (O, 3, h, w).

    K[o, i, p] = sum_m sum_q k2[o, m, q] k1[m, i, p - q d2 s1], batch norms folded; the evidence holds the bias
    b2 + sum k2 b1, the size and the stride. It equals the layers wherever no padding is read. At one picture, a
    ReLU network's own effective filter is the gradient of the unit (`saliency` with a unit as target).
    Raises `MethodRefusedError` where the way to the layer is no chain of convolutions.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = deepest(model, pool)
        notes = (f"layer {layer}: the deepest of the first three convolutions that a plain chain leads to",)
    convolution(model, layer)
    found = chain(model, model.layers.find(layer).name, pool=pool)
    top = found.steps[-1]
    shown, paged = page_of(len(top.kernel), page, MOST, "units")
    whole = compose((*found.steps[:-1], Affine(top.kernel[shown], top.bias[shown], top.stride, top.layer)))
    kernel, constant, order = in_space(model, whole.kernel, space)
    if kernel.shape[1] not in (1, 3):
        raise MethodRefusedError(
            f"a picture of {kernel.shape[1]} channels", "1 or 3 channels", "filter_planes"
        )
    return Raw(
        kernel[None],
        unit=unit_of(space),
        layer=layer,
        evidence={
            "bias": tuple((whole.bias + constant).tolist()),
            "size": f"{kernel.shape[2]} x {kernel.shape[3]}",
            "stride": f"{whole.stride[0]} x {whole.stride[1]}",
            "layers": tuple(found.steps[i].layer for i in found.convolutions),
        },
        notes=notes + found.notes + order + paged,
        extra={"scale": "tiles", "each": scale == "filter", "title": f"effective filters of {layer}"},
    )


def deepest(model: VisionModel, pool: str) -> str:
    """The deepest of the first three convolutions with an effective kernel; raises when there is none."""
    found, last = [], None
    for name in convolutions(model)[:3]:
        try:
            chain(model, name, pool=pool)
        except MethodRefusedError as error:
            last = error
        else:
            found.append(name)
    if not found and last is not None:
        raise last
    return found[-1]
