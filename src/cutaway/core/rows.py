"""One row of the layer table: what a named module is, read off its run, its parameters and the geometry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from .axes import Dims, Kind
from .geometry import geometry
from .graph import ModuleRun, Trace, Value
from .operators import Family

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


def layer_rows(network: nn.Module, trace: Trace) -> list[Layer]:
    """A row for every named module that returned a tensor, in the order in which they first finished."""
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
    found = {_next_activation(trace, values[0])[0] if values else None for values in run.outputs}
    return found.pop() if len(found) == 1 else None


def read_as(trace: Trace, name: str) -> Value:
    """The value that a layer's activation is: its output, or that of the nonlinearity which directly follows."""
    value = trace.value(name)
    return _next_activation(trace, value)[1] if _activation(trace, trace.modules[name]) else value


def _next_activation(trace: Trace, value: Value) -> tuple[str | None, Value]:
    through: list[str] = []
    while True:
        readers = trace.readers.get(value, ())
        if len(readers) != 1 or value in trace.output:
            return None, value
        node = trace.nodes[readers[0]]
        name = node.name.strip("_")
        if node.family in (Family.RELU, Family.ACTIVATION) and node.inputs[:1] == (value,):
            return f"{name} after {', '.join(through)}" if through else name, Value(node.index)
        if node.family not in (Family.BATCH_NORM, Family.IDENTITY) or node.hidden:
            return None, value
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
