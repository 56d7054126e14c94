"""A linear layer on the picture, found with the order in which the network lays the picture out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError
from cutaway.core.model import VisionModel


@dataclass(frozen=True)
class Rows:
    """A linear layer's weights as pictures, (K, C, H, W), and its bias (K,)."""

    layer: str
    weights: Tensor
    bias: Tensor
    notes: tuple[str, ...]


def picture_rows(model: VisionModel, layer: str | None) -> Rows:
    """The rows of a linear layer as pictures, the first linear layer when None.

    A picture of which every number is its own index runs through the network; what arrives at the layer is the
    order. Raises `MethodRefusedError` when the layer is not linear or something else arrives.
    """
    notes: tuple[str, ...] = ()
    table = model.layers
    if layer is None:
        linear = [r.name for r in table if isinstance(model.network.get_submodule(r.name), nn.Linear)]
        if not linear:
            raise _refused("no linear layer with weights of its own")
        layer, notes = linear[0], (f"layer {linear[0]}: the first linear layer",)
    layer = table.find(layer).name
    module = model.network.get_submodule(layer)
    if not isinstance(module, nn.Linear):
        raise _refused(f"layer {layer!r} is a {type(module).__name__}")
    channels = model.preprocess.pixel_channels
    height, width = table.trace.shape[-2:]
    size = channels * height * width
    if module.in_features != size:
        raise _refused(
            f"layer {layer!r} reads {module.in_features} numbers, a picture has "
            f"{channels} x {height} x {width} = {size}"
        )
    order = _order(model, module, (channels, height, width))
    if order is None:
        raise _refused(f"layer {layer!r} does not read the picture as it is: something computes before it")
    weight = module.weight.detach()
    unfolded = torch.empty_like(weight)
    unfolded[:, order] = weight
    bias = module.bias.detach() if module.bias is not None else weight.new_zeros(len(weight))
    return Rows(layer, unfolded.reshape(-1, channels, height, width), bias, notes)


def _order(model: VisionModel, module: nn.Linear, shape: tuple[int, int, int]) -> Tensor | None:
    """Which number of the picture each input of the layer is, or None when it is not one of them."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().reshape(-1))

    size = shape[0] * shape[1] * shape[2]
    # Counted in both signs and offset by one, so that a ReLU or a scaling on the way is seen.
    index = torch.arange(1, size + 1, device=model.device, dtype=model.dtype)
    handle = module.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            model.network(index.view(1, *shape))
            model.network(-index.view(1, *shape))
    finally:
        handle.remove()
    if len(seen) != 2 or seen[0].numel() != size or not torch.equal(seen[0], -seen[1]):
        return None
    order = seen[0].round().long() - 1
    whole = torch.equal((order + 1).to(seen[0]), seen[0])
    return (
        order if whole and torch.equal(order.sort().values, torch.arange(size, device=order.device)) else None
    )


def _refused(found: str) -> MethodRefusedError:
    return MethodRefusedError(
        found, "a linear layer that reads every number of the picture", "filters, or saliency at a picture"
    )
