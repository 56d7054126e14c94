"""How operators that join tensors or cut them read their inputs: concatenations, stacks, slices, splits."""

from __future__ import annotations

from typing import Any

from .axes import Dim, Dims, Kind, full, other
from .graph import Node, Stub
from .links import POSITIONS, Inputs, Link, Reader, Reading, everywhere, refused
from .steps import Slide, Step, Unknown, part, placed, unchanged


def concatenation(node: Node, ins: Inputs) -> list[Reading]:
    """Concatenation along channels, or of class tokens before or after the positions."""
    shape = node.shapes[0]
    known = [d for d in ins if d is not None]
    if node.name in ("stack", "hstack", "vstack") or len(known[0]) != len(shape):
        return refused(node, ins) if node.name != "stack" else _stacked(node, ins)
    axis = int(node.arguments.get("dim", 0)) % len(shape)
    lengths = [s[axis] for s in node.input_shapes]
    out = list(known[0])
    steps: dict[Kind, Step] = {}
    readers: list[Reader] = [unchanged] * len(ins)
    holding = [i for i, d in enumerate(ins) if d is not None and d[axis].positions]
    if holding:
        i = holding[0]
        dim = ins[i][axis]  # type: ignore[index]
        if len(holding) == 1:  # what stands beside the positions are class tokens
            out[axis] = Dim(dim.atoms, dim.before + sum(lengths[:i]), dim.after + sum(lengths[i + 1 :]))
        else:
            out[axis] = other(shape[axis])
            steps = {k: Unknown(f"{node.name} joins maps side by side") for k in dim.positions}
    elif all(d[axis].is_full(Kind.CHANNEL) for d in known):
        out[axis] = full(Kind.CHANNEL, shape[axis])
        readers = [placed(sum(lengths[:i]), n) for i, n in enumerate(lengths)]
    else:
        out[axis] = other(shape[axis])
    links = tuple(None if d is None else Link(steps, r) for d, r in zip(ins, readers, strict=True))
    return [Reading(tuple(out), links)]


def _stacked(node: Node, ins: Inputs) -> list[Reading]:
    axis = int(node.arguments.get("dim", 0)) % len(node.shapes[0])
    out = list(next(d for d in ins if d is not None))
    out.insert(axis, other(node.shapes[0][axis]))
    return [Reading(tuple(out), everywhere(ins, Link()))]


def slicing(node: Node, ins: Inputs) -> list[Reading]:
    """Indexing, narrow, select, chunk, split and unbind."""
    dims, a = ins[0], node.arguments
    if dims is None:
        return refused(node, ins)
    if node.name == "__getitem__":
        keys = _keys(a["index"], len(dims))
        return refused(node, ins) if keys is None else [_cut(node, dims, keys)]
    axis = int(a.get("dim", 0)) % len(dims)
    results: list[Reading] = []
    start = 0
    for number, shape in enumerate(node.shapes):
        key: Any
        if node.name == "unbind":
            key = number
        elif node.name == "select":
            key = a["index"]
        else:
            first = int(a["start"]) % dims[axis].size if node.name == "narrow" else start
            key = slice(first, first + shape[axis])
            start += shape[axis]
        results.append(_cut(node, dims, [*[slice(None)] * axis, key]))
    return results


def _keys(index: Any, count: int) -> list[Any] | None:
    """One key for each dimension, None for new axes; None when the index is not made of numbers and slices."""
    keys = list(index) if isinstance(index, tuple) and not isinstance(index, Stub) else [index]
    if any(not (k is None or k is Ellipsis or type(k) in (int, slice)) for k in keys):
        return None
    used = sum(1 for k in keys if k is not None and k is not Ellipsis)
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (count - used)
    return keys


def _cut(node: Node, dims: Dims, keys: list[Any]) -> Reading:
    """One output of a slice: `keys` go dimension by dimension, None makes a new one."""
    out: list[Dim] = []
    steps: dict[Kind, Step] = {}
    reader: Reader = unchanged
    rest = list(dims)
    for key in keys:
        if key is None:
            out.append(Dim())
            continue
        dim = rest.pop(0)
        if isinstance(key, slice):
            start, stop, stride = key.indices(dim.size)
            count = len(range(start, stop, stride))
        else:
            start, stride, count = int(key) % dim.size, 0, 1
        kept, step, channels = _select(node, dim, start, stride, count)
        steps |= step
        reader = channels or reader
        if isinstance(key, slice):
            out.append(kept)
    return Reading((*out, *rest), (Link(steps, reader),))


def _select(
    node: Node, dim: Dim, start: int, stride: int, count: int
) -> tuple[Dim, dict[Kind, Step], Reader | None]:
    """Every `stride`-th entry of a dimension: what is left, and how rows, columns and channels are read."""
    if count == dim.size:
        return dim, {}, None
    kind = next((k for k in (*POSITIONS, Kind.CHANNEL) if dim.is_full(k)), None)
    if kind is Kind.CHANNEL:
        return full(kind, count), {}, part(start, count, dim.size, stride)
    if kind is not None:
        return full(kind, count), {kind: Slide(stride, start)}, None
    if not dim.positions:
        return other(count), {}, None
    stop = start + max(stride, 1) * (count - 1) + 1
    if stop <= dim.before or start >= dim.size - dim.after:  # class tokens alone
        return other(count), {}, None
    if stride == 1 and start <= dim.before and stop >= dim.size - dim.after:
        return Dim(dim.atoms, dim.before - start, stop - (dim.size - dim.after)), {}, None
    why = f"the operator {node.name} in {node.scope or 'the network'} picks single tokens"
    return other(count), {k: Unknown(why) for k in dim.positions}, None
