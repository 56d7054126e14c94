"""Which crop of a picture gives one unit exactly as the whole picture does, and where the unit lies in it."""

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
class Cropping:
    """The crops of a layer behind nothing but windows.

    Position o of an axis sees pixels [jump o + low, jump o + high]. A crop that begins at a multiple of the jump keeps
    the phase of every stride on the way, so that inside it each window covers the pixels that it covers in the whole
    picture. Where the field leaves the picture the crop ends with it, so that the unit reads the same padding;
    elsewhere the padding around the crop is read by other units only.
    """

    rows: Axis
    columns: Axis

    def crop(self, row: int, column: int, size: tuple[int, int]) -> Box:
        """The pixels of a picture of `size` (height, width) to run for one unit; few shapes for all units together."""
        top, bottom = _span(self.rows, row, size[0])
        left, right = _span(self.columns, column, size[1])
        return Box(top, left, bottom, right)

    def position(self, row: int, column: int, crop: Box) -> tuple[int, int]:
        """Where in the layer's map of that crop the unit lies."""
        return row - crop.top // int(self.rows.jump), column - crop.left // int(self.columns.jump)


def cropping(trace: Trace, layer: str) -> Cropping | None:
    """How crops give a layer's units, or None where something on the way needs the whole picture.

    Needed are operators that act in windows (convolution, pooling) or number by number, at one distance between
    positions wherever ways meet: no resizing, no padding of its own, no statistics of the picture, no constant that
    differs from place to place.

    >>> import torch
    >>> from cutaway.core.trace import trace
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2))
    >>> found = cropping(trace(net, torch.zeros(1, 3, 33, 33)), "2")
    >>> crop = found.crop(2, 0, (33, 33))  # sees rows 7 to 13, columns -1 to 5
    >>> crop, found.position(2, 0, crop)
    (Box(top=4, left=0, bottom=13, right=9), (1, 0))
    """
    value, where = trace.value(layer), geometry(trace)
    steps = zip(trace.nodes[1 : value.node + 1], where.readings[1 : value.node + 1], strict=True)
    if not all(_slides(node, readings) for node, readings in steps):
        return None
    place = where.places[value]
    axes = (place.rows, place.columns)
    if any(not axis.steady or axis.whole or axis.unknown or axis.jump.denominator != 1 for axis in axes):
        return None
    return Cropping(*axes)


def _span(axis: Axis, position: int, length: int) -> tuple[int, int]:
    """First and last pixel along one axis: from a multiple of the jump to the field's end, or to the picture's."""
    jump, low, high = int(axis.jump), int(axis.low), int(axis.high)
    before = low // jump * jump  # from the unit's place to where a crop may begin, at most 0
    reach = high - before + 1
    if jump * position + high >= length:
        return max(0, (length - reach) // jump * jump), length - 1
    first = max(0, jump * position + before)
    return first, min(first + reach, length) - 1


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
