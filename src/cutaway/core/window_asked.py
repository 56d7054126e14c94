"""The pictures that are asked about: whole, as windows, and what the network makes of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .packed import Packed
from .tap import Tap
from .window_cost import Cost, counted
from .window_order import Scouts
from .window_spans import within
from .window_tensor import Changed, Clean, dense, unwritten

if TYPE_CHECKING:
    from .model import VisionModel

Values = dict[str | None, Tensor]
"""The network's output under None, activations as maps under the names of their layers."""


@dataclass(frozen=True)
class Asked:
    """A picture, which parts of it are replaced by what, and which of the network's numbers are wanted."""

    model: VisionModel
    x: Tensor
    fill: Tensor
    layers: tuple[str, ...]
    output: bool
    boxes: Tensor
    masks: Tensor | None
    packed: Packed

    def pictures(self, numbers: Tensor) -> Tensor:
        """Whole pictures with these boxes filled."""
        if self.masks is None:
            return replaced(self.x, self.boxes[numbers], self.fill)
        return torch.where(self.masks[numbers, None].to(self.x.device), self.fill, self.x)

    def windows(self, clean: Clean, numbers: Tensor, scouts: Scouts | None = None) -> Changed:
        """The same pictures as windows of one size."""
        boxes = self.boxes[numbers]
        top, left, bottom, right = (boxes[:, i].numpy() for i in range(4))
        height, width = clean.size
        sent = (scouts.down, scouts.across) if scouts is not None else (None, None)
        down = within(top, np.maximum(bottom - 1, top), height, sent[0])
        across = within(left, np.maximum(right - 1, left), width, sent[1])
        window = self.x.new_empty((len(boxes), down.size, across.size, self.x.shape[1])).permute(0, 3, 1, 2)
        for i, (t, l, b, r) in enumerate(boxes.tolist()):  # noqa: E741
            y, x = int(down.starts[i]), int(across.starts[i])
            window[i] = self.x[0, :, y : y + down.size, x : x + across.size]
            fill = self.fill[:, t:b, l:r]
            if self.masks is not None:
                hidden = self.masks[numbers[i], t:b, l:r].to(fill.device)
                fill = torch.where(hidden, fill, self.x[0, :, t:b, l:r])
            window[i, :, t - y : b - y, l - x : r - x] = fill
        return Changed(clean, window, down, across)

    def run(self, pictures: Tensor, *, packed: bool = True, cost: Cost | None = None) -> Values:
        """What is asked about the pictures; `packed` lays activations and weights out with channels last."""
        layout, count = self.packed if packed else nullcontext(), counted(cost) if cost else nullcontext()
        with torch.no_grad(), unwritten(), layout, count:
            values: Values = {}
            if not self.layers:
                values[None] = self.model(pictures)
            else:
                with Tap(self.model, *self.layers, stop=not self.output) as tap:
                    values[None] = self.model(pictures)
                values |= {name: tap.maps(name) for name in self.layers}
        return {key: dense(value).to(self.x.dtype) for key, value in values.items()}


def replaced(x: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """One copy of the picture (1, C, H, W) for each box (m, 4), with the pixels of `fill` inside it: (m, C, H, W)."""
    pictures = x.detach().repeat(len(boxes), 1, 1, 1)
    for picture, (top, left, bottom, right) in zip(pictures, boxes.tolist(), strict=True):
        picture[:, top:bottom, left:right] = fill[:, top:bottom, left:right]
    return pictures
