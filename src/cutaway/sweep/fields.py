"""The receptive fields of all units of a layer: each channel's own, where paths stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from cutaway.core.axes import Kind
from cutaway.core.geometry import Axis, Geometry, geometry
from cutaway.core.graph import Value
from cutaway.core.links import POSITIONS, Link
from cutaway.core.model import VisionModel
from cutaway.core.steps import Channels, Formula, Interval, Slide

Side = tuple[Interval, ...]
Way = tuple[Value, Channels]


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
    trace = model.layers.trace
    ways, found = _Ways(geometry(trace)), {}
    for layer in layers:
        row = model.layers.find(layer)
        own = _fields(ways, trace.value(layer), row.units, row.grid or (1, 1))
        if own is not None:
            found[layer] = own
    return found


def _fields(ways: _Ways, value: Value, units: int, grid: tuple[int, int]) -> Fields | None:
    like = ways.alike(value, units)
    numbers: dict[tuple[Side, ...], int] = {}
    groups = {}
    for number in dict.fromkeys(like):
        way = value, None if number < 0 else frozenset({like.index(number)})
        down, across = (ways.ends(way, kind, range(n)) for kind, n in zip(POSITIONS, grid, strict=True))
        known = down is not None and across is not None
        groups[number] = numbers.setdefault((down or (), across or ()), len(numbers)) if known else -1
    if not numbers:
        return None
    rows, cols = (torch.tensor([sides[i] for sides in numbers]) for i in (0, 1))
    return Fields(torch.tensor([groups[number] for number in like]), rows, cols)


class _Ways:
    """The ways from channels of values back to the picture, each walked once for all layers.

    A way is a value and the channels of it that are read. What `receptive_field` finds for one place of one layer is
    found here for all of both: an affine rule where there is one, and place by place behind what has none.
    """

    def __init__(self, where: Geometry) -> None:
        self._where = where
        self._numbers: dict[object, int] = {}
        self._alike: dict[Way, int] = {}
        self._sources: dict[Way, list[tuple[int, Link, Way]]] = {}
        self._axes: dict[Kind, dict[Way, Axis | None]] = {kind: {} for kind in POSITIONS}
        self._ends: dict[Kind, dict[Way, dict[int, Interval]]] = {kind: {} for kind in POSITIONS}

    def alike(self, value: Value, units: int) -> list[int]:
        """A number for each channel, the same for those that read the picture alike; -1 where not told apart."""
        if self._where.places[value].length(Kind.CHANNEL) != units:
            return [-1] * units
        return [self._number((value, frozenset({channel}))) for channel in range(units)]

    def ends(self, way: Way, kind: Kind, places: range) -> Side | None:
        """The first and last pixel of each of these places along rows or columns; None where it is not known.

        `places` are all there are: a vector that maps were flattened to has other ones.
        """
        axis, length = self._axis(way, kind), self._where.places[way[0]].length(kind)
        if axis is None or axis.unknown or length != len(places):
            return None
        if axis.whole:
            return ((0, self._where.trace.shape[-2:][POSITIONS.index(kind)] - 1),) * len(places)
        found = self._found(way, kind, places)
        return tuple(found[place] for place in places)

    def _read(self, way: Way) -> list[tuple[int, Link, Way]]:
        """What a way reads next: the number of the input, how, and the way from there; None for all channels."""
        if way not in self._sources:
            value, channels = way
            node, found = self._where.trace.nodes[value.node], []
            links = self._where.readings[value.node][value.output].links if node.parents else ()
            for number, (source, link) in enumerate(zip(node.inputs, links, strict=False)):
                if source is None or link is None:
                    continue
                read = link.channels(channels)
                if read is not None and len(read) >= self._where.places[source].length(Kind.CHANNEL):
                    read = None
                if read is None or read:
                    found.append((number, link, (source, read)))
            self._sources[way] = found
        return self._sources[way]

    def _below(self, way: Way, done: Callable[[Way], object]) -> list[Way]:
        """This way and all it leads to, up to those that are done, the ones nearest to the picture first."""
        seen, left = {way}, [way]
        while left:
            more = {source for _, _, source in self._read(left.pop()) if not done(source)} - seen
            seen |= more
            left += more
        return sorted(seen, key=lambda one: one[0])

    def _number(self, way: Way) -> int:
        """What is read of each input until all channels are, and so on towards the picture, as a number."""
        known = self._alike
        for here in self._below(way, lambda one: one in known or one[1] is None):
            value = here[0]
            read = [(number, known.get(source, source[0])) for number, _, source in self._read(here)]
            own = (value, *read) if self._where.trace.nodes[value.node].parents else here
            known.setdefault(here, self._numbers.setdefault(own, len(self._numbers)))
        return known[way]

    def _axis(self, way: Way, kind: Kind) -> Axis | None:
        """The affine rule of a way along rows or columns, or why there is none; None where no pixel is read."""
        known = self._axes[kind]
        for here in self._below(way, known.__contains__):
            if here in known:
                continue
            node = self._where.trace.nodes[here[0].node]
            if not node.parents:
                known[here] = Axis() if node.index == 0 else Axis(unknown=f"a tensor was made by {node.name}")
                continue
            steps = [(known[source], link.step(kind)) for _, link, source in self._read(here)]
            axes = [axis.through(step) for axis, step in steps if axis is not None]
            axes += [Axis(unknown=f"{node.name} uses the picture as a weight or an index")] * bool(
                node.hidden
            )
            known[here] = reduce(Axis.join, axes) if axes else None
        return known[way]

    def _found(self, way: Way, kind: Kind, places: Iterable[int]) -> dict[int, Interval]:
        """The first and last pixel of these places, and of those that were asked for before."""
        axes, known = self._axes[kind], self._ends[kind]

        def ruled(one: Way) -> bool:
            axis = axes[one]
            return axis is None or axis.steady

        def read(one: Way, place: int) -> Iterator[tuple[Way, int]]:
            for _, link, source in self._read(one):
                step = link.step(kind)
                if axes[source] is not None and isinstance(step, (Slide, Formula)):
                    yield from ((source, end) for end in step.window(place))

        order, asked = self._below(way, ruled), {way: set(places)}
        for here in reversed(order):
            asked[here] = asked.get(here, set()) - known.setdefault(here, {}).keys()
            if not ruled(here):
                for source, end in (pair for place in asked[here] for pair in read(here, place)):
                    asked.setdefault(source, set()).add(end)
        for here in order:
            for place in asked[here]:
                spans = [
                    _span(axes[source], end) if ruled(source) else known[source][end]
                    for source, end in ([(here, place)] if ruled(here) else read(here, place))
                ]
                known[here][place] = min(first for first, _ in spans), max(last for _, last in spans)
        return known[way]


def _span(axis: Axis | None, place: int) -> Interval:
    """The first and last pixel by an affine rule."""
    assert axis is not None
    return int(axis.jump * place + axis.low), int(axis.jump * place + axis.high)
