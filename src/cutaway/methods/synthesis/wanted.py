"""What an ascent is asked for: a target read on a canvas that is no larger than what the target can see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cutaway.core.layers import LayerTable
from cutaway.core.model import VisionModel
from cutaway.core.operators import Call, Family
from cutaway.core.readers import Channel, Unit
from cutaway.core.rules import backward_rules, plain
from cutaway.core.tap import Tap
from cutaway.core.target import Target, score
from cutaway.methods.units.cropping import cropping

from .ascent import Leaks

LEAK = 0.01
"""Share of the gradient that a shut ReLU lets pass where a unit is dead."""
HELD = 67e6
"""Bytes of activations that the pictures moved together may hold on a processor: more leave its cache and are slower."""
WIDER = 32
"""An accelerator is given so many times that."""
MOST = 32
"""Pictures moved together."""


@dataclass(frozen=True)
class Wanted:
    """A target of one value per picture and the size of the canvas on which it is read.

    `rows` is how many pictures that is. `box` is the part of the network's input that the canvas stands for, (top,
    left, bottom, right) with all ends included; None for all of it; `asked` the target as
    it came, where another is read for it. `notes` say what was chosen.
    """

    model: VisionModel
    target: Target
    size: tuple[int, int]
    rows: int = 1
    box: tuple[int, int, int, int] | None = None
    notes: tuple[str, ...] = ()
    asked: Target | None = None

    def values(self, pixels: Tensor) -> Tensor:
        """(n,) for the n pictures of the target."""
        return score(self.model, pixels.to(self.model.dtype), self.target)

    def values_and_maps(self, pixels: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """The values, and a layer's activations (n, C, ...) from the same pass."""
        with Tap(self.model, *{layer, *self.target.layers}, stop=not self.target.reads_output) as tap:
            output = self.model(pixels.to(self.model.dtype))
        held: dict[str | None, Tensor] = {name: tap.maps(name) for name in self.target.layers}
        if self.target.reads_output:
            held[None] = output
        return self.target.read(held), tap.maps(layer)

    def leaking(self, leaks: Leaks) -> backward_rules:
        """While active every ReLU leaks a little gradient for the pictures that `leaks` names, so a shut unit is reached.

        Each shut gate on a way costs a factor of `LEAK`. What comes through first is therefore the gradient of the
        number before the unit's own ReLU, and where that is zero too, what other gates let through.
        """

        def leaky(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
            if math.isinf(call.arguments["high"]):  # plain, but at once
                own: Tensor | None = torch.ops.aten.threshold_backward(signal, call.inputs[0], 0)
            else:
                (own,) = plain(call, signal)
            if own is None or leaks.rows is None or len(signal) != len(leaks.rows):
                return (own,)
            share = torch.where(leaks.rows, LEAK, 0.0).to(own)
            return (own.lerp_(signal, share.view(-1, *(1,) * (own.ndim - 1))),)

        return backward_rules({Family.RELU: leaky}, self.model.network)

    @property
    def named(self) -> Target:
        """The target in the words it came in."""
        return self.asked or self.target

    def portions(self, count: int, draws: int = 1) -> Iterator[Wanted]:
        """The target, of `count` pictures or the same for all, in parts small enough to be moved together.

        Each part has `draws` rows for each of its pictures.
        """
        most = max(1, self.together() // draws)
        for start in range(0, count, most):
            rows = torch.arange(start, min(start + most, count)).repeat_interleave(draws)
            yield replace(self, asked=self.named.take(rows), target=self.target.take(rows), rows=len(rows))

    def together(self) -> int:
        """How many pictures to move together; the same on every processor."""
        table = self.model.layers
        last = len(table.trace.nodes)
        if not self.target.reads_output:
            last = max(table.read_as(name).node for name in self.target.layers) + 1
        held = sum(math.prod(shape) for node in table.trace.nodes[:last] for shape in node.shapes)
        part = self.size[0] * self.size[1] / (table.trace.shape[-2] * table.trace.shape[-1])
        room = HELD if self.model.device.type == "cpu" else WIDER * HELD
        return int(min(MOST, max(1, room / max(4 * held * part, 1))))


def canvas_size(model: VisionModel) -> tuple[int, int]:
    """(height, width) of the network's input."""
    high, wide = model.layers.trace.shape[-2:]
    return int(high), int(wide)


def whole(model: VisionModel, target: Target) -> Wanted:
    """The target as it stands, on a canvas of the network's input."""
    return Wanted(model, target, canvas_size(model), target.count or 1)


def neurons(model: VisionModel, target: Target) -> Wanted:
    """The target with each channel read at one neuron in the middle of its map.

    Where only windows lead to the neuron, the canvas is the crop that it sees (the neuron's value is then that of the
    whole picture, to the bit of rounding); elsewhere it is the network's input. Targets that read no channel stay as
    they are.
    """
    readers = [r for _, r in target.terms]
    table = model.layers
    size = canvas_size(model)
    channels = [r for r in readers if isinstance(r, Channel) and table.find(r.layer).grid is not None]
    if not channels:
        return whole(model, target)
    names = {r.layer for r in channels}
    box, places = None, {name: _middle(table, name) for name in names}
    notes: tuple[str, ...] = ()
    alone = len(names) == 1 and len(channels) == len(readers)
    if alone:
        (name,) = names
        found = cropping(table.trace, table.find(name).name)
        if found is not None:
            crop = found.crop(*places[name], size)
            places[name] = found.position(*places[name], crop)
            if (crop.height, crop.width) != size:
                box = (crop.top, crop.left, crop.bottom, crop.right)
                size = crop.height, crop.width
                notes = (f"the canvas is what one neuron of {name} sees, {size[0]} x {size[1]} pixels",)
    terms = tuple(
        (
            weight,
            Unit(r.layer, r.channel, *places[r.layer]) if isinstance(r, Channel) and r in channels else r,
        )
        for weight, r in target.terms
    )
    return Wanted(model, Target(terms), size, target.count or 1, box, notes, target)


def _middle(table: LayerTable, name: str) -> tuple[int, int]:
    grid = table.find(name).grid
    assert grid is not None
    return grid[0] // 2, grid[1] // 2
