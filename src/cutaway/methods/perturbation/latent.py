"""Channels of a layer that are kept or silenced together, and the score of every choice of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.tap import Tap
from cutaway.core.target import Target, score
from cutaway.core.windows import suggested_batch

from .players import Ask


@dataclass(frozen=True)
class Channels:
    """The channels of one layer for one picture: `maps` (C, h, w) as they are there.

    >>> Channels(torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])).spread(torch.tensor([8.0, 5.0]))
    tensor([[2., 6.]])
    """

    maps: Tensor

    @property
    def count(self) -> int:
        """How many there are, C."""
        return len(self.maps)

    def spread(self, values: Tensor) -> Tensor:
        """Each channel's value (C,) shared out over the places (h, w) by the size of its activity there."""
        size = self.maps.abs().to(values.dtype)
        total = size.sum((1, 2), keepdim=True)
        return torch.einsum("k,khw->hw", values, size / torch.where(total > 0, total, torch.ones_like(total)))


def channels_of(model: VisionModel, x: Tensor, layer: str) -> list[Channels]:
    """The channels of the layer for each picture (N, C, H, W), on the processor.

    Raises `UsageError` for a layer without rows and columns.
    """
    with torch.no_grad(), Tap(model, layer, stop=True) as tap:
        model(x)
    values = tap.maps(layer)
    if values.ndim != 4:
        raise UsageError(f"layer {layer!r} has no rows and columns", "a layer with maps", "another layer")
    return [Channels(maps.detach().cpu()) for maps in values]


def kept(model: VisionModel, x: Tensor, target: Target, layer: str) -> Ask:
    """Asks about a picture (1, C, H, W) where channels of the layer outside the coalition are set to zero."""
    first = model.layers.find(layer).layout == "map"

    def ask(coalitions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in torch.split(torch.arange(len(coalitions)), suggested_batch(x)):
            mask = coalitions[numbers].to(x)

            def silence(_: str, value: Tensor, mask: Tensor = mask) -> Tensor:
                shape = [len(mask)] + [1] * (value.ndim - 1)
                shape[1 if first else -1] = mask.shape[1]
                return value * mask.view(shape)

            with torch.no_grad(), Tap(model, layer, edit=silence):
                scores = score(model, x.expand(len(numbers), -1, -1, -1), target)
            yield numbers, scores.detach().cpu().double()

    return ask
