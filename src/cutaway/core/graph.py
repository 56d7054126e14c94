"""The recorded graph: which operators one forward pass ran, what each read, and which module returned what.

Nodes hold shapes and arguments, never a tensor, so that a graph keeps no activation alive. `trace` writes it;
geometry, the layer table and the suggestion of a layer read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from .errors import UsageError, unknown
from .operators import Family

Shape = tuple[int, ...]


class Value(NamedTuple):
    """One output of one operator."""

    node: int
    output: int = 0


class Stub(NamedTuple):
    """Where an argument held a tensor: its shape alone."""

    shape: Shape


@dataclass(frozen=True)
class Node:
    """One operator that ran, without its tensors.

    `inputs` are the values it read, None where an input does not depend on the picture; `hidden` are values of
    the picture used as anything else (a weight, an index). `family` is None for an operator in no family.
    `scope` is the innermost module that was running, `owner` the layer whose parameter was used.
    """

    index: int
    name: str
    family: Family | None
    inputs: tuple[Value | None, ...]
    input_names: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    arguments: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    hidden: tuple[Value, ...] = ()
    owner: str | None = None
    scope: str = ""
    macs: int = 0
    function: Callable[..., Any] | None = None

    @property
    def parents(self) -> tuple[Value, ...]:
        """Every value of the picture this operator read."""
        return tuple(v for v in self.inputs if v is not None) + self.hidden


@dataclass
class ModuleRun:
    """What one named module did: its type, the values it returned each time it ran, and whether as bare tensors."""

    name: str
    type: str
    runs: int = 0
    bare: bool = True
    outputs: list[tuple[Value, ...]] = field(default_factory=list)

    @property
    def value(self) -> Value | None:
        """The first tensor of its last run, or None when it returned no tensor that depends on the picture."""
        return self.outputs[-1][0] if self.outputs and self.outputs[-1] else None


@dataclass(frozen=True, eq=False)
class Trace:
    """The dataflow graph of one forward pass.

    `nodes` stand in the order of execution; node 0 is the picture. `modules` stand in the order in which they
    first finished, so that a block follows its parts. `aliases` maps further names of one module to the first.
    """

    shape: Shape
    nodes: tuple[Node, ...]
    modules: Mapping[str, ModuleRun]
    output: tuple[Value, ...]
    aliases: Mapping[str, str]

    def value(self, layer: str) -> Value:
        """The value a layer returned when it last ran.

        Raises UnknownNameError for a layer that does not exist or did not run, UsageError for one whose output
        holds no tensor.
        """
        name = self.aliases.get(layer, layer)
        if name not in self.modules:
            raise unknown("layer", layer, [n for n in self.modules if n])
        value = self.modules[name].value
        if value is None:
            raise UsageError(
                f"layer {layer!r} returns no tensor computed from the picture",
                "a layer that returns a tensor",
            )
        return value

    def value_shape(self, value: Value) -> Shape:
        """The shape of a value, batch first."""
        return self.nodes[value.node].shapes[value.output]

    def beside(self, value: Value) -> bool:
        """Whether the picture reaches the output by a way that does not lead through this value."""
        reached: set[int] = {0}
        for node in self.nodes[1:]:
            if any(v.node in reached and v != value for v in node.parents):
                reached.add(node.index)
        return any(v.node in reached and v != value for v in self.output)

    @cached_property
    def readers(self) -> Mapping[Value, tuple[int, ...]]:
        """For every value the operators that read it, in order."""
        found: dict[Value, list[int]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.parents):
                found.setdefault(value, []).append(node.index)
        return {value: tuple(nodes) for value, nodes in found.items()}
