"""The layer table: what a network is made of, as one forward pass shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

from torch import Tensor, nn

from .errors import UsageError, unknown
from .geometry import Geometry, geometry
from .graph import Trace, Value
from .rows import Layer, Layout, layer_rows, read_as
from .suggest import last_map, stages, suggest
from .trace import trace

if TYPE_CHECKING:
    from .model import VisionModel

__all__ = ["Layer", "LayerTable", "Layout", "as_map"]


class LayerTable(Sequence[Layer]):
    """Every named module that returned a tensor, in the order in which they first finished.

    A block stands after its parts. The network itself has no row.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> import torch
    >>> table = LayerTable.of(net, torch.zeros(1, 3, 9, 9))
    >>> [(row.name, row.parameters) for row in table][:2]
    [('0', 224), ('1', 0)]
    >>> table.suggest()[0], table.find("0").activation, table.macs
    ('1', 'relu', 10600)
    """

    def __init__(self, network: nn.Module, trace: Trace) -> None:
        self.trace = trace
        self.parameters = sum(p.numel() for p in network.parameters())
        self.macs = sum(node.macs for node in trace.nodes) // max(trace.shape[0], 1)
        self._rows = layer_rows(network, trace)
        self._by_name = {row.name: row for row in self._rows}

    @classmethod
    def of(cls, network: nn.Module, x: Tensor) -> LayerTable:
        """The table of a network for an input like x, (N, C, H, W); one forward pass."""
        network = network.module if isinstance(network, nn.DataParallel) else network
        return cls(network, trace(network, x))

    @classmethod
    def build(cls, model: VisionModel, x: Tensor) -> LayerTable:
        """The table of a model for pixels like x, (N, 3, H, W), through its preprocessing."""
        return cls(model.network, trace(model.network, x, run=model))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self.trace.aliases or name in self._rows

    @overload
    def __getitem__(self, index: int | str) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | str | slice) -> Layer | Sequence[Layer]:
        return self.find(index) if isinstance(index, str) else self._rows[index]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all layers."""
        return tuple(self._by_name)

    @property
    def geometry(self) -> Geometry:
        """Where every value lies in the picture."""
        return geometry(self.trace)

    def find(self, name: str) -> Layer:
        """The row of a layer; raises UnknownNameError with the nearest names."""
        row = self._by_name.get(self.trace.aliases.get(name, name))
        if row is None:
            raise unknown("layer", name, self._by_name)
        return row

    def follow(self, name: str) -> str | None:
        """The nonlinearity that directly follows a layer, through batch norm and identities, or None."""
        return self.find(name).activation

    def read_as(self, name: str) -> Value:
        """The value of the trace that a layer's activation is; layers with one value have one activation."""
        return read_as(self.trace, self.find(name).name)

    def suggest(self) -> tuple[str, str]:
        """(layer, reason): the layer that a class activation map should read.

        Raises MethodRefusedError when no layer keeps positions.
        """
        return self._suggestion

    @cached_property
    def _suggestion(self) -> tuple[str, str]:
        return suggest(self.trace, self._spatial())

    def last_map(self) -> str:
        """The last layer with positions that the scores still read; pooled layers and class maps count.

        Raises MethodRefusedError when no layer keeps positions.
        """
        return last_map(self.trace, self._spatial())

    def stages(self) -> tuple[str, ...]:
        """One layer per stage, shallow first: the last before positions lie farther apart, and the last of all.

        Raises MethodRefusedError when no layer keeps positions.
        """
        return stages(self.trace, self._spatial())

    def _spatial(self) -> dict[str, tuple[int, int]]:
        return {
            row.name: row.grid
            for row in self._rows
            # a layer that ran several times, or gave its activation among others, has no one activation to read
            if row.layout in ("map", "nhwc", "tokens")
            and row.grid
            and math.prod(row.grid) > 1
            and row.runs == 1
            and self.trace.modules[row.name].bare
        }


def as_map(tensor: Tensor, row: Layer) -> Tensor:
    """A layer's output with channels second and a grid behind, (N, C, h, w); tokens before the grid are dropped.

    Output without positions comes back as it is.

    Raises UsageError for tokens that do not fill the layer's grid.
    """
    if row.layout == "nhwc":
        return tensor.movedim(-1, 1)
    if row.layout == "tokens" and row.grid is not None:
        height, width = row.grid
        if tensor.ndim != 3 or tensor.shape[1] < row.prefix + height * width:
            raise UsageError(
                f"layer {row.name!r} with output {tuple(tensor.shape)}",
                f"(N, {row.prefix + height * width}, {row.units})",
                "a picture of the size the layer table was made for",
            )
        grid = tensor[:, row.prefix : row.prefix + height * width]
        return grid.transpose(1, 2).reshape(len(grid), -1, height, width)
    return tensor
