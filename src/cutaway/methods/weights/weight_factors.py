"""Singular vectors of a layer's weights: the few shapes that all its filters are made of."""

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture

from .common import convolution, convolutions, exact, in_space

MOST = 16
"""Components drawn when their number is not given."""


@method(
    title="Weight factors",
    chapter="weights",
    needs={LAYER},
    gives=Picture,
    paper="Eckart & Young 1936, Psychometrika 1; separable filters as in Rigamonti et al. 2013, Learning separable filters",
    tags=Tags(family="parameters", level="low"),
    caveat="A component is an axis of the weights, orthogonal to the others; no unit of the layer need look like it.",
    laws={"weights sensitive"},
)
def weight_factors(
    model: VisionModel,
    *,
    layer: LayerName = None,
    components: Annotated[int | None, Range(1, 1024), "how many to draw; 16, or all, when not given"] = None,
    columns: Annotated[
        int, Range(1, 64), "most input channels of a component to draw, of a layer that reads no colours"
    ] = 16,
) -> Raw:
    """The right singular vectors of W, (C_out, C_in kh kw) = U diag(s) V': unit shapes, most energy first.

    Of a layer on colours a component is a tile, (n, 3, kh, kw); of a deeper one a row of planes, the input channels
    with most energy in the components drawn, (n columns, kh, kw). Keeping n components leaves the squared error
    sum of s_i^2, i > n, the least of any matrix of rank n. The evidence holds every s, the share of energy kept,
    U ("left"), and how separable each filter is, s_1^2 / sum s^2 of the filter itself: `separability` of its planes
    as column times row (1 for a Gaussian), `depthwise_separability` as one plane times weights over inputs.
    Raises `MethodRefusedError` for weights that are all zero, `UsageError` for more components than there are.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(crop=16), name="four filters")
    >>> found = model.inspect("weight_factors", components=2)
    >>> found.values.shape, len(found.evidence["singular_values"])
    ((2, 3, 5, 5), 4)
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = convolutions(model)[0]
        notes = (f"layer {layer}: the first convolution",)
    module = convolution(model, layer)
    weights = exact(module.weight)
    if not bool(weights.any()):
        raise MethodRefusedError(
            f"layer {layer!r} has zero weights; there is nothing to factorise",
            "a layer with a weight other than zero",
            "another layer, or the trained weights",
        )
    weights, _, order = in_space(model, weights, "network")
    units, inputs, height, width = weights.shape
    matrix = weights.flatten(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    count = min(MOST, len(values)) if components is None else components
    if count > len(values):
        raise UsageError(
            f"components={count} of layer {layer!r}, {units} filters of {matrix.shape[1]} weights",
            f"1 to {len(values)}",
            f"components={len(values)}",
        )
    # a singular vector is known up to its sign: the largest weight is made positive
    largest = right.gather(1, right.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(right)
    left, right = left * sign.T, right * sign
    energy = values.square().cumsum(0) / values.square().sum()
    shapes = right[:count].reshape(count, inputs, height, width)
    colours = inputs == model.preprocess.pixel_channels and module.groups == 1 and inputs in (1, 3)
    if module.groups > 1:
        notes += (
            f"{module.groups} groups: filters of different groups read different inputs, so the shapes are shared, "
            "the inputs are not",
        )
    planes, shown = separable(weights), list(range(inputs))
    if not colours:
        sizes = (shapes.square().sum((2, 3)) * values[:count, None].square()).sum(0)
        kept = sizes.argsort(descending=True, stable=True)[:columns].sort().values
        shown = kept.tolist()
        if inputs > columns:
            part = float(sizes[kept].sum() / sizes.sum())
            notes += (f"{columns} of {inputs} input channels drawn, {part:.0%} of the components' energy",)
        shapes = shapes[:, kept]
    panels: dict[str, RawPanel] = {}
    if colours and (height, width) != (1, 1):
        ranked = planes.argsort(descending=True, stable=True)
        title = "the filters, most separable first"
        panels["filters"] = RawPanel(title, weights[ranked][None], "tiles", "weight", each=True)
    title = f"components of {layer}, most energy first"
    return Raw(
        shapes[None] if colours else shapes.flatten(0, 1)[None],
        unit="weight, each component of length 1",
        layer=layer,
        evidence={
            "components": count,
            "energy_drawn": float(energy[count - 1]),
            "components_for_90_percent": int((energy < 0.9).sum()) + 1,
            "error": float(values[count:].square().sum()),
            "mean_separability": float(planes.mean()),
            "singular_values": tuple(values.tolist()),
            "energy": tuple(energy.tolist()),
            "inputs": tuple(shown),
            "left": tuple(left[:, :count].tolist()),
            "separability": tuple(planes.tolist()),
            "depthwise_separability": tuple(first_share(weights.flatten(2)).tolist()),
        },
        notes=(*notes, *order),
        panels=panels,
        extra={
            "scale": "tiles" if colours else "maps",
            "each": colours,
            "columns": None if colours else len(shown),
            "title": title if colours else f"{title}: a row each, a column per input",
        },
    )


def separable(weights: Tensor) -> Tensor:
    """The share of each filter's energy, (O,), that its planes (O, I, kh, kw) keep as one column times one row each.

    >>> [round(float(separable(plane.view(1, 1, 3, 3))), 4) for plane in (torch.eye(3), torch.ones(3, 3))]
    [0.3333, 1.0]
    """
    energy = weights.square().sum((2, 3))
    share = first_share(weights) * energy
    return share.sum(1) / energy.sum(1).clamp_min(torch.finfo(weights.dtype).tiny)


def first_share(matrices: Tensor) -> Tensor:
    """s_1^2 / sum s^2 of each matrix, (..., m, n) -> (...); 0 for a matrix of zeros."""
    squares: Tensor = torch.linalg.svdvals(matrices).square()
    return squares[..., 0] / squares.sum(-1).clamp_min(torch.finfo(matrices.dtype).tiny)
