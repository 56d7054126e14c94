"""The receptive fields of all units of a layer: each channel's own, where paths stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.core.axes import Kind
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.geometry import Geometry, geometry, receptive_field
from cutaway.core.graph import Trace, Value
from cutaway.core.model import VisionModel

Side = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Fields:
    """The unclipped receptive field of every unit of a layer, in pixels of the network's frame.

    `group` (u,) int64: channels of one number share their field; -1 where it is not known. `rows` (g, h, 2) and
    `cols` (g, w, 2): the first and last pixel of each row and column of the map, for each number.
    """

    group: Tensor
    rows: Tensor
    cols: Tensor

    def boxes(self, channels: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """Top, left, bottom and right (m, 4) of channels (m,) at these places, float64; nan where not known.

        >>> one = Fields(torch.tensor([0, -1]), torch.tensor([[[-1, 1]]]), torch.tensor([[[3, 5]]]))
        >>> zero = torch.zeros(2, dtype=torch.int64)
        >>> one.boxes(torch.tensor([0, 1]), zero, zero).tolist()
        [[-1.0, 3.0, 1.0, 5.0], [nan, nan, nan, nan]]
        """
        group = self.group[channels]
        (top, bottom), (left, right) = self.rows[group, rows].T, self.cols[group, cols].T
        found = torch.stack([top, left, bottom, right], 1).double()
        return torch.where(group[:, None] >= 0, found, torch.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name).tolist() for name in ("group", "rows", "cols")}

    @classmethod
    def of(cls, own: Mapping[str, Any]) -> Fields:
        """Back from `to_dict`."""
        return cls(*(torch.tensor(own[name]) for name in ("group", "rows", "cols")))


def fields_of(model: VisionModel, layers: Sequence[str]) -> dict[str, Fields]:
    """The receptive fields of layers; those of which none is known are left out."""
    trace, paths = model.layers.trace, _Paths(geometry(model.layers.trace))
    found = {}
    for layer in layers:
        row = model.layers.find(layer)
        own = _fields(trace, paths, layer, row.units, row.grid or (1, 1))
        if own is not None:
            found[layer] = own
    return found


def _fields(trace: Trace, paths: _Paths, layer: str, units: int, grid: tuple[int, int]) -> Fields | None:
    like = paths.alike(trace.value(layer), units)
    numbers: dict[tuple[Side, Side], int] = {}
    groups = {}
    for path in dict.fromkeys(like):
        channel = None if path < 0 else like.index(path)
        try:
            places = [(min(i, grid[0] - 1), min(i, grid[1] - 1)) for i in range(max(grid))]
            boxes = [receptive_field(trace, layer, *at, channel=channel).unclipped for at in places]
        except (MethodRefusedError, UsageError):  # not understood, or no pixel is read
            groups[path] = -1
            continue
        down = tuple((box.top, box.bottom) for box in boxes[: grid[0]])
        sides = down, tuple((box.left, box.right) for box in boxes[: grid[1]])
        groups[path] = numbers.setdefault(sides, len(numbers))
    if not numbers:
        return None
    rows, cols = (torch.tensor([sides[i] for sides in numbers]) for i in (0, 1))
    return Fields(torch.tensor([groups[path] for path in like]), rows, cols)


class _Paths:
    """By which paths channels read the picture, each way numbered: what is alike has one receptive field."""

    def __init__(self, where: Geometry) -> None:
        self._where = where
        self._numbers: dict[object, int] = {}
        self._known: dict[tuple[Value, frozenset[int]], int] = {}

    def alike(self, value: Value, units: int) -> list[int]:
        """The number of each channel's way; -1 for all where channels are not told apart."""
        if self._where.places[value].length(Kind.CHANNEL) != units:
            return [-1] * units
        return [self._way(value, frozenset({channel})) for channel in range(units)]

    def _way(self, value: Value, channels: frozenset[int]) -> int:
        """One more step towards the picture, as long as only some of the channels are read."""
        if (value, channels) not in self._known:
            node = self._where.trace.nodes[value.node]
            links = self._where.readings[value.node][value.output].links if node.parents else ()
            way: list[object] = [value] if links else [value, channels]
            for place, (source, link) in enumerate(zip(node.inputs, links, strict=False)):
                if source is None or link is None:
                    continue
                read = link.channels(channels)
                if read is None or len(read) >= self._where.places[source].length(Kind.CHANNEL):
                    way.append((place, source))
                elif read:
                    way.append((place, self._way(source, read)))
            self._known[value, channels] = self._numbers.setdefault(tuple(way), len(self._numbers))
        return self._known[value, channels]
