"""A layer's convolution as the matrix it is."""

from typing import Annotated

from cutaway.core.errors import UnknownNameError
from cutaway.core.method import LAYER, LayerName, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import convolution, convolutions
from .matrices import convolution_matrix_of


@method(
    title="Convolution as a matrix",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Dumoulin & Visin 2016, arXiv:1603.07285, sec. 4.1",
    tags=Tags(family="parameters", level="low"),
    caveat="Drawn for one pair of channels on a toy input; the transposed matrix carries signals back and is no inverse.",
    laws={"weights sensitive"},
)
def convolution_matrix(
    model: VisionModel,
    *,
    layer: LayerName = None,
    size: Annotated[
        int, Range(1, 32), "side of the toy input in positions, at least the layer's window"
    ] = 16,
    output: Annotated[int, Range(0), "output channel"] = 0,
    input: Annotated[int, Range(0), "input channel within the unit's group"] = 0,
    transposed: Annotated[bool, "the matrix of the transposed convolution, M^T"] = False,
) -> Raw:
    """The matrix M of one filter plane with y = M x: a row per output position, a column per input position.

    Same stride, padding and dilation as the layer, on a `size` x `size` input: (1, h' w', size^2).
    Raises `UsageError` where the window does not fit the toy input.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = convolutions(model)[0]
        notes = (f"layer {layer}: the first convolution",)
    module = convolution(model, layer)
    weight = module.weight.detach()
    for name, value, count in (("output", output, weight.shape[0]), ("input", input, weight.shape[1])):
        if value >= count:
            raise UnknownNameError(f"{name}={value} of {layer}", f"0 to {count - 1}", f"{name}={count - 1}")
    before = module._reversed_padding_repeated_twice  # left, right, top, bottom, also for padding="same"
    padding = (int(before[2]), int(before[0]))
    matrix = convolution_matrix_of(
        weight[output : output + 1, input : input + 1],
        (size, size),
        stride=(int(module.stride[0]), int(module.stride[1])),
        padding=padding,
        dilation=(int(module.dilation[0]), int(module.dilation[1])),
    )
    return Raw(
        (matrix.T if transposed else matrix)[None, None],
        unit="weight",
        layer=layer,
        evidence={
            "shape": " x ".join(map(str, matrix.shape[:: -1 if transposed else 1])),
            "padding": list(padding),
        },
        notes=notes,
        extra={"scale": "maps", "title": f"{'transposed ' if transposed else ''}matrix of {layer}"},
    )
