"""The layer table: what a network is made of, as one forward pass shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

from torch import Tensor, nn

from .axes import Dims, Kind
from .errors import UsageError, unknown
from .geometry import Geometry, geometry
from .operators import Family
from .suggest import last_map, suggest
from .trace import ModuleRun, Trace, Value, trace

if TYPE_CHECKING:
    from .model import VisionModel

Layout = Literal["map", "nhwc", "tokens", "vector", "other"]


@dataclass(frozen=True)
class Layer:
    """One named module, as it ran.

    Parameters
    ----------
    name, type : the module's path and class.
    shape : of its output, batch first.
    layout : "map" (N, C, h, w), "nhwc" (N, h, w, C), "tokens" (N, prefix + h w, C), "vector" (N, C) or "other".
    grid : (h, w) where it has positions, otherwise None.
    prefix : tokens before the grid, such as the class token.
    units : channels.
    weights_per_unit : weights that one unit sums over, its bias included; None for a layer without weights.
    parameters, macs : its own, without those of layers inside it; MACs of one picture.
    total_parameters, total_macs : with those of layers inside it.
    field : (rows, columns) of pixels one unit sees, padding included; None when it sees the whole picture
        (`whole`) or when it is not known (`note` says why).
    jump : (down, across) pixels from one position to the next, None without positions.
    runs : how often it ran in one forward pass.
    activation : the nonlinearity that directly follows, such as "relu after batch_norm", or None.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    layout: Layout
    grid: tuple[int, int] | None
    prefix: int
    units: int
    weights_per_unit: int | None
    parameters: int
    total_parameters: int
    macs: int
    total_macs: int
    field: tuple[int, int] | None
    jump: tuple[float, float] | None
    whole: bool
    note: str
    runs: int
    activation: str | None


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
        self._rows = _rows(network, trace)
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

    def _spatial(self) -> dict[str, tuple[int, int]]:
        return {
            row.name: row.grid
            for row in self._rows
            # a layer that ran several times has no one activation to read
            if row.layout in ("map", "nhwc", "tokens")
            and row.grid
            and math.prod(row.grid) > 1
            and row.runs == 1
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


def _rows(network: nn.Module, trace: Trace) -> list[Layer]:
    modules = {name: run for name, run in trace.modules.items() if name and run.value is not None}
    counted = _parameters(network, modules)
    macs: dict[str, int] = {}
    for node in trace.nodes:
        home = _row_above(node.scope, modules)
        macs[home] = macs.get(home, 0) + node.macs
    batch = max(trace.shape[0], 1)
    weights = {name: _weights(module) for name, module in network.named_modules() if name in modules}
    inner = {name: {name} for name in modules}
    for name in modules:
        above = _row_above(name.rpartition(".")[0], modules)
        while above:
            inner[above].add(name)
            above = _row_above(above.rpartition(".")[0], modules)
    return [
        _row(
            trace,
            run,
            weights[name],
            (counted.get(name, 0), sum(counted.get(n, 0) for n in inner[name])),
            (macs.get(name, 0) // batch, sum(macs.get(n, 0) for n in inner[name]) // batch),
        )
        for name, run in modules.items()
    ]


def _row(
    trace: Trace, run: ModuleRun, weights: int | None, parameters: tuple[int, int], macs: tuple[int, int]
) -> Layer:
    value = run.value
    assert value is not None
    where = geometry(trace)
    place, shape = where.places[value], trace.value_shape(value)
    layout, grid, prefix = _layout(place.dims, shape, trace)
    units = (
        shape[1] if layout == "map" or (layout == "other" and len(shape) > 1) else shape[-1] if shape else 1
    )
    rows, columns = place.rows, place.columns
    has_jump = (
        grid is not None and not (grid == (1, 1) and rows.whole) and not (rows.unknown or columns.unknown)
    )
    return Layer(
        run.name,
        run.type,
        shape,
        layout,
        grid,
        prefix,
        units,
        None if weights is None else weights // units if units and weights % units == 0 else None,
        *parameters,
        *macs,
        where.size(value),
        (float(rows.jump), float(columns.jump)) if has_jump else None,
        bool(rows.whole and columns.whole),
        rows.whole or columns.whole or rows.unknown or columns.unknown,
        run.runs,
        _activation(trace, run),
    )


def _layout(dims: Dims, shape: tuple[int, ...], trace: Trace) -> tuple[Layout, tuple[int, int] | None, int]:
    """What a shape means: from the followed dimensions, else from the numbers alone."""
    held = [d.positions for d in dims]
    if len(shape) == 4:
        if held[1] == {Kind.ROW} and held[2] == {Kind.COLUMN}:
            return "nhwc", (shape[1], shape[2]), 0
        if held[2] == held[3] == frozenset() or (held[2] == {Kind.ROW} and held[3] == {Kind.COLUMN}):
            return ("map", (shape[2], shape[3]), 0) if not held[1] else ("other", None, 0)
        return "other", None, 0
    if len(shape) == 3:
        kinds = [a.kind for a in dims[1].atoms]
        if kinds == [Kind.ROW, Kind.COLUMN] and not held[2]:
            rows, columns = dims[1].atoms
            return "tokens", (rows.size, columns.size), dims[1].before
        if kinds == [Kind.OTHER] and not held[2]:
            for _, _, h, w in _grids(trace):
                if 0 <= shape[1] - h * w <= 8 and h * w > 1:
                    return "tokens", (h, w), shape[1] - h * w
    return ("vector", None, 0) if len(shape) == 2 else ("other", None, 0)


def _grids(trace: Trace) -> Iterator[tuple[int, ...]]:
    """Shapes of maps that convolutions made, the last first: where tokens can have come from."""
    for node in reversed(trace.nodes):
        if node.family is Family.CONV and len(node.shapes[0]) == 4:
            yield node.shapes[0]


def _activation(trace: Trace, run: ModuleRun) -> str | None:
    """The nonlinearity that alone reads the output, directly or through batch norm and identities."""
    found = {_next_activation(trace, values[0]) if values else None for values in run.outputs}
    return found.pop() if len(found) == 1 else None


def _next_activation(trace: Trace, value: Value) -> str | None:
    through: list[str] = []
    while True:
        readers = trace.readers.get(value, ())
        if len(readers) != 1 or value in trace.output:
            return None
        node = trace.nodes[readers[0]]
        name = node.name.strip("_")
        if node.family in (Family.RELU, Family.ACTIVATION) and node.inputs[:1] == (value,):
            return f"{name} after {', '.join(through)}" if through else name
        if node.family not in (Family.BATCH_NORM, Family.IDENTITY) or node.hidden:
            return None
        if node.family is Family.BATCH_NORM:
            through.append(name)
        value = Value(node.index)


def _row_above(name: str, rows: object) -> str:
    """The nearest module at or above `name` that has a row; the empty name for none."""
    assert isinstance(rows, dict)
    while name and name not in rows:
        name = name.rpartition(".")[0]
    return name


def _parameters(network: nn.Module, rows: object) -> dict[str, int]:
    """Parameters for each row, each counted once; those of a module without a row go to the one above."""
    seen: set[int] = set()
    counted: dict[str, int] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                home = _row_above(name, rows)
                counted[home] = counted.get(home, 0) + parameter.numel()
    return counted


def _weights(module: nn.Module) -> int | None:
    """Numbers in a layer's own weight and bias, None when it has no weight."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor):
        return None
    return weight.numel() + (bias.numel() if isinstance(bias, Tensor) else 0)
