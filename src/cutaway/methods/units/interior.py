"""Which units a crop of the picture gives exactly as the whole picture does, and where they lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cutaway.core.geometry import Box, geometry
from cutaway.core.graph import Node, Shape, Stub, Trace
from cutaway.core.links import POSITIONS, Reading
from cutaway.core.operators import Family
from cutaway.core.places import Axis
from cutaway.core.steps import SAME, Slide

_WINDOWS = frozenset({Family.CONV, Family.MAX_POOL, Family.AVG_POOL})
_WITH_CONSTANTS = frozenset({Family.ADD, Family.MUL, Family.CAT, Family.FUNCTION})
_POINTWISE = _WITH_CONSTANTS | {
    Family.RELU,
    Family.ACTIVATION,
    Family.GATE,
    Family.BATCH_NORM,
    Family.NORM,
    Family.IDENTITY,
}


@dataclass(frozen=True)
class Interior:
    """The interior units of a layer behind nothing but windows: they read no padding, so a crop is enough for them.

    Position o of an axis sees pixels [jump o + low, jump o + high]. A crop that begins at a multiple of the jump keeps
    the phase of every stride on the way, so that inside it each window covers the pixels that it covers in the whole
    picture; the padding around the crop is read by other units only.
    """

    rows: Axis
    columns: Axis

    def holds(self, row: int, column: int, size: tuple[int, int]) -> bool:
        """Whether the unit's whole field lies in a picture of `size` (height, width), so that it reads no padding."""
        return all(
            axis.jump * o + axis.low >= 0 and axis.jump * o + axis.high < n
            for axis, o, n in zip((self.rows, self.columns), (row, column), size, strict=True)
        )

    def crop(self, row: int, column: int) -> Box:
        """The pixels to run for one interior unit: its field, begun at a multiple of the jump; one size for all."""
        (top, bottom), (left, right) = _span(self.rows, row), _span(self.columns, column)
        return Box(top, left, bottom, right)

    @property
    def position(self) -> tuple[int, int]:
        """The unit's own row and column in the layer's map of its crop, the same for all."""
        return -_first(self.rows), -_first(self.columns)


def interior(trace: Trace, layer: str) -> Interior | None:
    """How crops give a layer's interior units, or None where something on the way needs the whole picture.

    Needed are operators that act in windows (convolution, pooling) or number by number, at one distance between
    positions wherever ways meet: no resizing, no padding of its own, no statistics of the picture, no constant that
    differs from place to place.

    >>> import torch
    >>> from cutaway.core.trace import trace
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2))
    >>> found = interior(trace(net, torch.zeros(1, 3, 33, 33)), "2")
    >>> found.crop(2, 3), found.position, found.holds(2, 3, (33, 33)), found.holds(0, 0, (33, 33))
    (Box(top=4, left=8, bottom=13, right=17), (1, 1), True, False)
    """
    value, where = trace.value(layer), geometry(trace)
    steps = zip(trace.nodes[1 : value.node + 1], where.readings[1 : value.node + 1], strict=True)
    if not all(_slides(node, readings) for node, readings in steps):
        return None
    place = where.places[value]
    axes = (place.rows, place.columns)
    if any(not axis.steady or axis.whole or axis.unknown or axis.jump.denominator != 1 for axis in axes):
        return None
    return Interior(*axes)


def _first(axis: Axis) -> int:
    """Positions from a unit back to where its crop begins, at most 0: floor(low / jump)."""
    return int(axis.low // axis.jump)


def _span(axis: Axis, position: int) -> tuple[int, int]:
    jump = int(axis.jump)
    return jump * (position + _first(axis)), jump * position + int(axis.high)


def _slides(node: Node, readings: Sequence[Reading]) -> bool:
    """Whether an operator does the same at every place, over windows that begin at or before their own place."""
    if not node.parents or node.hidden or "adaptive" in node.name:
        return False
    windows = node.family in _WINDOWS
    if not windows and node.family not in _POINTWISE and node.name != "flip":  # of colours, where it slides
        return False
    if node.family in _WITH_CONSTANTS and any(map(_places, _constants(node))):
        return False
    steps = [link.step(kind) for read in readings for link in read.links if link for kind in POSITIONS]
    return all(isinstance(s, Slide) and s.start <= 0 if windows else s == SAME for s in steps)


def _constants(node: Node) -> list[Shape]:
    """Shapes of the tensors among an operator's arguments that do not come from the picture."""
    inputs = [shape for value, shape in zip(node.inputs, node.input_shapes, strict=True) if value is None]
    return inputs + [a.shape for a in node.arguments.values() if isinstance(a, Stub)]


def _places(shape: Shape) -> bool:
    """Whether a tensor of this shape differs from place to place when it meets maps (N, C, h, w)."""
    return any(n != 1 for n in shape[-2:])
