"""What all pictures of weights share: finding a convolution, pages, and the space and order of colours."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import Range
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family

MOST = 1024
"""Tiles on one page."""

Space = Annotated[
    Literal["network", "pixels"], "the network's normalised input, or pixels (weights divided by sigma)"
]
TileScale = Annotated[
    Literal["filter", "layer"], "each filter on its own scale, or all on one; never a scale per colour"
]
Page = Annotated[int, Range(1), "which page, where there is too much for one"]


def convolutions(model: VisionModel) -> list[str]:
    """Names of the `nn.Conv2d` layers in the order in which they run; one whose weight is computed is not listed.

    Raises `MethodRefusedError` when there is none.
    """
    owners = [n.owner for n in model.layers.trace.nodes if n.family is Family.CONV and n.owner]
    found = [o for o in dict.fromkeys(owners) if isinstance(model.network.get_submodule(o), nn.Conv2d)]
    if not found:
        raise MethodRefusedError(
            "no convolution with weights of its own",
            "a network with at least one nn.Conv2d",
            "a convolutional network, or linear_templates for a linear one",
        )
    return found


def convolution(model: VisionModel, layer: str) -> nn.Conv2d:
    """The convolution of that name; raises `UnknownNameError`, or `MethodRefusedError` for another kind of layer."""
    name = model.layers.find(layer).name
    module = model.network.get_submodule(name)
    if not isinstance(module, nn.Conv2d):
        raise MethodRefusedError(
            f"layer {layer!r} is a {type(module).__name__}", "a convolution", repr(convolutions(model)[0])
        )
    return module


def first_convolution(model: VisionModel, layer: str | None) -> tuple[str, nn.Conv2d, tuple[str, ...]]:
    """A convolution whose filters are pictures: 1 or 3 input channels; the first one when none is named.

    Raises `MethodRefusedError` for any other number of input channels.
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = convolutions(model)[0]
        notes = (f"layer {layer}: the first convolution",)
    module = convolution(model, layer)
    channels = module.in_channels
    if channels not in (1, 3) or module.groups != 1:
        grouped = f" in {module.groups} groups" if module.groups > 1 else ""
        raise MethodRefusedError(
            f"layer {layer!r} has {channels} input channels{grouped}, which are no colours",
            "1 or 3 input channels in one group",
            "filter_planes or effective_filters",
        )
    if layer != convolutions(model)[0]:
        notes += (
            f"the {channels} inputs of {layer} are maps of a hidden layer, drawn as if they were colours",
        )
    return layer, module, notes


def page_of(count: int, page: int, most: int, noun: str) -> tuple[slice, tuple[str, ...]]:
    """The slice of one page, and a note when there are several. Raises `UsageError` beyond the last page.

    >>> page_of(10, 2, 4, "filters")
    (slice(4, 8, None), ('filters 4 to 7 of 10, page 2 of 3',))
    """
    pages = max(1, -(-count // most))
    if page > pages:
        raise UsageError(f"page={page}", f"1 to {pages}: {count} {noun}, {most} on a page", f"page={pages}")
    first = (page - 1) * most
    last = min(first + most, count)
    notes = (f"{noun} {first} to {last - 1} of {count}, page {page} of {pages}",) if pages > 1 else ()
    return slice(first, last), notes


def in_space(model: VisionModel, weights: Tensor, space: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """(weights, constant, notes) for weights (n, c, h, w) on the network's input, put in RGB order.

    Network input x = (range u - mean) / std, so <w, x> = <w', u> + constant with w' = w range / std and
    constant = -sum w mean / std; in the network's own space the constant is zero.
    """
    steps = model.preprocess
    n, channels = weights.shape[:2]
    constant = weights.new_zeros(n)
    if channels != steps.pixel_channels:
        return weights, constant, ()
    if space == "pixels":
        std, mean = (weights.new_tensor(v).view(1, -1, 1, 1) for v in (steps.std, steps.mean))
        constant = -(weights * mean / std).flatten(1).sum(1)
        weights = weights * steps.range / std
    notes: tuple[str, ...] = ()
    if steps.channels == "BGR":
        weights = weights.flip(1)
        notes = ("the network takes blue, green, red; colours are put in the order red, green, blue here",)
    return weights, constant, notes


def unit_of(space: str) -> str:
    """What one number of a filter means."""
    return "weight per pixel value (0 to 1)" if space == "pixels" else "weight per normalised input"


def exact(tensor: Tensor) -> Tensor:
    """The numbers in float64 on the processor, apart from the network."""
    return tensor.detach().cpu().to(torch.float64)
