"""Receptive fields: interval arithmetic over the operators that really ran."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from .axes import Dims, Kind, full, other
from .errors import MethodRefusedError, UsageError
from .graph import Node, Shape, Trace, Value
from .links import POSITIONS, Link, Reading
from .places import Axis, Place
from .reading_shapes import reading
from .regions import Region, gather
from .steps import Channels, Formula, Interval, Slide, Step, Unknown, Whole, ends, run, virtual

__all__ = ["Axis", "Box", "Geometry", "Place", "ReceptiveField", "geometry", "receptive_field"]


class Box(NamedTuple):
    """A rectangle of pixels, all four ends included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows it covers."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> int:
        """Columns it covers."""
        return self.right - self.left + 1


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that can change a unit.

    `unclipped` goes on into the padding and may be negative; `clipped` lies in the picture and counts no padding,
    at the border of any layer: it is None for a unit that reads padding alone. `whole` says that an operator
    mixes all positions, `reason` which one.
    """

    unclipped: Box
    clipped: Box | None
    whole: bool = False
    reason: str = ""


class Geometry:
    """Where every value of a trace lies in the picture."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.places: dict[Value, Place] = {}
        self.readings: list[list[Reading]] = []
        self._sizes: dict[Value, tuple[int, int] | None] = {}
        if len(trace.shape) != 4:
            raise UsageError(f"a network input of {len(trace.shape)} dimensions", "pictures (N, C, H, W)")
        for node in trace.nodes:
            self._place(node)

    def _place(self, node: Node) -> None:
        if not node.parents:
            self.readings.append([])
            for number, shape in enumerate(node.shapes):
                known = node.index == 0
                dims = _picture(shape) if known else tuple(other(n) for n in shape)
                axis = Axis() if known else Axis(unknown=f"a tensor was made by {node.name}")
                self.places[Value(node.index, number)] = Place(dims, axis, axis)
            return
        ins = tuple(v and self.places[v].dims for v in node.inputs)
        readings = reading(node, ins)
        self.readings.append(readings)
        for number, shape in enumerate(node.shapes):
            read = readings[number]
            axes: dict[Kind, Axis] = {}
            for value, link in self._links(node, read):
                for kind in POSITIONS:
                    axis = self.places[value].axis(kind).through(link.step(kind))
                    axes[kind] = axes[kind].join(axis) if kind in axes else axis
            self.places[Value(node.index, number)] = Place(read.dims, axes[Kind.ROW], axes[Kind.COLUMN])
            assert tuple(d.size for d in read.dims) == shape, (node, read.dims)

    def _links(self, node: Node, read: Reading) -> list[tuple[Value, Link]]:
        """The values an output reads; a value used as a weight is read by the first link, which refuses."""
        found = [
            (value, link)
            for value, link in zip(node.inputs, read.links, strict=False)
            if value is not None and link is not None
        ]
        if node.hidden:
            why = Unknown(f"{node.name} uses the picture as a weight or an index")
            found += [(v, Link(dict.fromkeys(POSITIONS, why))) for v in node.hidden]
        return found

    def receptive_field(
        self, value: Value, rows: Interval, columns: Interval, channels: Channels = None
    ) -> ReceptiveField:
        """The field of a box of units, walked back to the picture over every path."""
        start = {Kind.ROW: rows, Kind.COLUMN: columns}
        first = Region(start, {kind: run(i) for kind, i in start.items()}, channels)
        pending = {value: [first]}
        whole: dict[Kind, str] = {}
        unknown: dict[Kind, str] = {}
        while pending:
            here = max(pending)
            regions = pending.pop(here)
            if here.node == 0:
                return self._answer(reduce(Region.hull, regions), whole, unknown)
            node = self.trace.nodes[here.node]
            if not node.parents:
                unknown |= dict.fromkeys(POSITIONS, f"a tensor was made by {node.name}")
                continue
            for source, link in self._links(node, self.readings[here.node][here.output]):
                for region in regions:
                    wanted = link.channels(region.channels)
                    if wanted is not None and not wanted:
                        continue
                    back = Region({}, {}, wanted)
                    for kind in POSITIONS:
                        self._back(link.step(kind), kind, region, source, back, whole, unknown)
                    pending[source] = gather(pending.get(source, []), back)
        return self._answer(None, whole, unknown)

    def _back(
        self,
        step: Step,
        kind: Kind,
        region: Region,
        source: Value,
        back: Region,
        whole: dict[Kind, str],
        unknown: dict[Kind, str],
    ) -> None:
        """One axis of one link, from the output's region to the input's."""
        length = self.places[source].length(kind)
        if isinstance(step, (Slide, Formula)):
            back.virtual[kind] = virtual(step, region.virtual[kind])
            back.inside[kind] = step.mask(region.inside[kind]) & (1 << length) - 1
            return
        (whole if isinstance(step, Whole) else unknown)[kind] = (
            step.reason
        )  # the one nearest the picture stays
        back.virtual[kind], back.inside[kind] = (0, length - 1), (1 << length) - 1

    def _answer(
        self, region: Region | None, whole: Mapping[Kind, str], unknown: Mapping[Kind, str]
    ) -> ReceptiveField:
        for kind in POSITIONS:
            if kind in unknown and kind not in whole:
                raise MethodRefusedError(
                    f"the receptive field is not known: {unknown[kind]}",
                    "operators over windows, positions or the whole picture",
                    "a layer before it",
                )
        height, width = self.trace.shape[-2:]
        every = {Kind.ROW: (0, height - 1), Kind.COLUMN: (0, width - 1)}
        reason = "; ".join(dict.fromkeys(whole.values()))
        if region is None:
            if len(whole) < 2:
                raise UsageError("a unit that depends on no pixel", "a unit computed from the picture")
            region = Region(dict(every), {kind: run(i) for kind, i in every.items()}, None)
        (top, bottom), (left, right) = (every[k] if k in whole else region.virtual[k] for k in POSITIONS)
        unclipped, clipped = Box(top, left, bottom, right), None
        if region.seen:
            (top, bottom), (left, right) = (
                every[k] if k in whole else ends(region.inside[k]) for k in POSITIONS
            )
            clipped = Box(top, left, bottom, right)
        return ReceptiveField(unclipped, clipped, len(whole) == 2, reason)

    def size(self, value: Value) -> tuple[int, int] | None:
        """(rows, columns) of pixels that one unit sees, padding included; None when whole or unknown.

        Where it varies from place to place, the most that a unit in the middle sees.
        """
        if value not in self._sizes:
            self._sizes[value] = self._size(self.places[value], value)
        return self._sizes[value]

    def _size(self, place: Place, value: Value) -> tuple[int, int] | None:
        axes = (place.rows, place.columns)
        if any(axis.whole or axis.unknown for axis in axes):
            return None
        if all(axis.steady for axis in axes):
            return int(place.rows.high - place.rows.low) + 1, int(place.columns.high - place.columns.low) + 1
        lengths = [place.length(kind) for kind in POSITIONS]
        phases = min(max(axis.jump.denominator for axis in axes), *lengths, 8)
        fields = []
        for phase in range(phases):
            rows, columns = (min(n // 2 + phase, n - 1) for n in lengths)
            fields.append(self.receptive_field(value, (rows, rows), (columns, columns)).unclipped)
        return max(box.height for box in fields), max(box.width for box in fields)


def _picture(shape: Shape) -> Dims:
    kinds = (Kind.PICTURE, Kind.CHANNEL, Kind.ROW, Kind.COLUMN)
    return tuple(full(kind, n) for kind, n in zip(kinds, shape, strict=True))


_CACHE: weakref.WeakKeyDictionary[Trace, Geometry] = weakref.WeakKeyDictionary()


def geometry(trace: Trace) -> Geometry:
    """The geometry of a trace, worked out once."""
    if trace not in _CACHE:
        _CACHE[trace] = Geometry(trace)
    return _CACHE[trace]


def receptive_field(
    trace: Trace,
    layer: str,
    row: int | Interval | None = None,
    col: int | Interval | None = None,
    *,
    channel: int | None = None,
) -> ReceptiveField:
    """The pixels that can change a unit, or a box of units, of a layer.

    Parameters
    ----------
    row, col : a position of the layer's map from 0, an interval with both ends included, or None for all.
    channel : only the paths that lead to this channel (through concatenations, groups, shuffles).

    One axis, a window with kernel k, stride s, padding p and dilation d takes the interval [a, b] of its outputs
    to [a s - p, b s - p + d (k - 1)] of its inputs, 0-based, both ends included; branches give their hull.

    Raises UnknownNameError for the layer, UsageError for a position or channel it does not have, and
    MethodRefusedError naming the operator that is not understood.

    >>> import torch
    >>> from cutaway.core.trace import trace
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1))
    >>> receptive_field(trace(net, torch.zeros(1, 3, 9, 9)), "0", 0, 2).unclipped
    Box(top=-1, left=3, bottom=1, right=5)
    """
    value = trace.value(layer)
    where = geometry(trace)
    place = where.places[value]
    rows = _interval("row", layer, row, place.length(Kind.ROW))
    columns = _interval("column", layer, col, place.length(Kind.COLUMN))
    channels: Channels = None
    if channel is not None:
        count = place.length(Kind.CHANNEL)
        if not 0 <= channel < count:
            raise UsageError(f"channel {channel} of layer {layer!r}", f"0 to {count - 1}")
        channels = frozenset({channel})
    return where.receptive_field(value, rows, columns, channels)


def _interval(what: str, layer: str, asked: int | Interval | None, length: int) -> Interval:
    first, last = (0, length - 1) if asked is None else (asked, asked) if isinstance(asked, int) else asked
    if not 0 <= first <= last < length:
        raise UsageError(f"{what} {asked} of layer {layer!r}", f"0 to {length - 1}")
    return first, last
