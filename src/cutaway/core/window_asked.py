"""The pictures that are asked about: whole, as windows, and what the network makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import UsageError
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
        # copies: a network may return memory that its next pass writes to
        return {key: dense(value).to(self.x.dtype, copy=True) for key, value in values.items()}


def replaced(x: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """One copy of the picture (1, C, H, W) for each box (m, 4), with the pixels of `fill` inside it: (m, C, H, W)."""
    pictures = x.detach().repeat(len(boxes), 1, 1, 1)
    for picture, (top, left, bottom, right) in zip(pictures, boxes.tolist(), strict=True):
        picture[:, top:bottom, left:right] = fill[:, top:bottom, left:right]
    return pictures


def check(
    x: Tensor, boxes: Tensor, fill: Tensor, layers: Sequence[str], output: bool, batch: int | None
) -> None:
    """Raise `UsageError` for boxes that leave the picture and for shapes that do not fit."""
    if x.ndim != 4 or len(x) != 1:
        raise UsageError(f"a picture of shape {tuple(x.shape)}", "one picture, (1, C, H, W)")
    if fill.shape != x.shape[1:]:
        raise UsageError(f"a fill of shape {tuple(fill.shape)}", f"the picture's {tuple(x.shape[1:])}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_floating_point() or boxes.is_complex():
        raise UsageError(f"boxes of shape {tuple(boxes.shape)} and {boxes.dtype}", "(n, 4) whole numbers")
    height, width = x.shape[-2:]
    top, left, bottom, right = boxes.unbind(1)
    inside = (
        (top >= 0) & (top <= bottom) & (bottom <= height) & (left >= 0) & (left <= right) & (right <= width)
    )
    if not bool(inside.all()):
        bad = boxes[~inside][0].tolist()
        raise UsageError(
            f"box {bad} on a picture of {height}x{width}", "0 <= top <= bottom <= height, and across"
        )
    if not (layers or output):
        raise UsageError("neither the output nor a layer is wanted", "output=True, or layers")
    if batch is not None and batch < 1:
        raise UsageError(f"batch={batch}", "at least 1")
