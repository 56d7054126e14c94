"""The words in which a reading is written: how one output of an operator reads each of its inputs.

A link holds a step along rows and columns, and which channels are read; a reading holds one link for each input
and what the dimensions of the output mean. What is not understood is a link too, one that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .axes import Dims, Kind, other, view
from .graph import Node, Shape
from .steps import SAME, Channels, Step, Unknown, Whole, everything, unchanged

POSITIONS = (Kind.ROW, Kind.COLUMN)
Reader = Callable[[Channels], Channels]


@dataclass(frozen=True)
class Link:
    """How one output reads one input: a step for rows and columns, and the channels."""

    steps: Mapping[Kind, Step] = field(default_factory=dict)
    channels: Reader = unchanged

    def step(self, kind: Kind) -> Step:
        """The step along rows or columns; position by position where nothing else is said."""
        return self.steps.get(kind, SAME)


@dataclass(frozen=True)
class Reading:
    """What one output of an operator means, and how it reads every input (None: it does not)."""

    dims: Dims
    links: tuple[Link | None, ...]


Inputs = tuple[Dims | None, ...]
Handler = Callable[[Node, Inputs], list[Reading]]


def everywhere(ins: Inputs, link: Link) -> tuple[Link | None, ...]:
    """The same link for every input that depends on the picture."""
    return tuple(None if dims is None else link for dims in ins)


def same(node: Node, ins: Inputs, link: Link | None = None, dims: Dims | None = None) -> list[Reading]:
    """Every output has the dimensions of the first input and reads it by `link`."""
    link = link or Link()
    first = dims if dims is not None else next(d for d in ins if d is not None)
    return [
        Reading(first if sizes(first) == shape else view(first, shape), everywhere(ins, link))
        for shape in node.shapes
    ]


def refused(node: Node, ins: Inputs, why: str = "") -> list[Reading]:
    """An operator that is not understood."""
    reason = why or f"the operator {node.name}{inside(node)} is not understood"
    link = Link({kind: Unknown(reason) for kind in POSITIONS}, everything)
    return [Reading(tuple(other(n) for n in shape), everywhere(ins, link)) for shape in node.shapes]


def mixes(node: Node, positions: Iterable[Kind], what: str) -> dict[Kind, Step]:
    """The steps of an operator that mixes all positions along some axes."""
    return {kind: Whole(f"{node.name}{inside(node)} {what}") for kind in positions}


def sizes(dims: Dims) -> Shape:
    """The shape these dimensions stand for."""
    return tuple(d.size for d in dims)


def inside(node: Node) -> str:
    """Where an operator ran, " in " and the layer's name; nothing where that is not known."""
    place = node.owner or node.scope
    return f" in {place}" if place else ""
