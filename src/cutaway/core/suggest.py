"""Which layer a class activation map should read, found on the dataflow graph alone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from fractions import Fraction

from .errors import MethodRefusedError
from .geometry import Geometry, geometry
from .operators import Family
from .reading import POSITIONS
from .steps import Whole
from .trace import Node, Trace, Value

_POOLS = (Family.MAX_POOL, Family.AVG_POOL)
_SAME_TENSOR = (Family.SHAPE, Family.IDENTITY)
_POINTWISE = (Family.RELU, Family.ACTIVATION, Family.BATCH_NORM, Family.NORM, *_SAME_TENSOR)
_AFTER_SCORES = (Family.RELU, Family.ACTIVATION, Family.GATE, Family.SOFTMAX, Family.RESIZE, *_SAME_TENSOR)
_WEIGHTED = (Family.CONV, Family.TRANSPOSED_CONV, Family.LINEAR, Family.MATMUL, Family.ATTENTION)
_INTO_ATTENTION = (Family.SHAPE, Family.SLICE, Family.IDENTITY, Family.MUL, Family.NORM)


class Reach(IntEnum):
    """How much of a value's positions can still change the output."""

    NOTHING = 0
    SOME = 1
    ALL = 2


def suggest(trace: Trace, grids: Mapping[str, tuple[int, int]]) -> tuple[str, str]:
    """(layer, reason): the deepest of the layers with positions from which all positions still reach the scores.

    Not a class map, of which the scores are a mere mean; not what pooling left, but what went into it; not a
    projection inside an attention. Of names for one tensor the outermost.
    Raises MethodRefusedError when there is none.
    """
    where = geometry(trace)
    reach = _reach(trace, where)
    weighted = _weighted(trace)
    good: dict[str, Value] = {}
    for name in grids:
        value = trace.value(name)
        if reach.get(value, Reach.NOTHING) is not Reach.ALL or _scores(trace, value, weighted):
            continue
        if _pooled(trace, value) or _projects(trace, value):
            continue
        good[name] = value
    name = _deepest(trace, good)
    height, width = grids[name]
    follows = _follows(trace, where, good[name])
    return name, f"the deepest layer that still has positions ({height} x {width}){follows}"


def last_map(trace: Trace, grids: Mapping[str, tuple[int, int]]) -> str:
    """The last layer with positions that the scores still read; pooled layers and class maps count."""
    reach = _reach(trace, geometry(trace))
    values = {n: trace.value(n) for n in grids}
    return _deepest(trace, {n: v for n, v in values.items() if reach.get(v)})


def stages(trace: Trace, grids: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """One layer per stage, shallow first: the last before positions lie farther apart (or closer), and the last of all.

    Only values that everything after them is computed from count, so that a stage ends where a block ends and not
    inside it; what pooling left and maps of class scores do not. Of names for one tensor the outermost.
    Raises MethodRefusedError when there is none.
    """
    where, weighted, bottlenecks = geometry(trace), _weighted(trace), _bottlenecks(trace)
    found: dict[Value, str] = {}
    for name in grids:
        value = trace.value(name)
        axes = where.places[value].rows, where.places[value].columns
        if value.node not in bottlenecks or any(axis.unknown for axis in axes) or _pooled(trace, value):
            continue
        if _scores(trace, value, weighted) or _projects(trace, value):
            continue
        origin = _origin(trace, value, _SAME_TENSOR)
        found[origin] = min(found.get(origin, name), name, key=lambda n: n.count("."))
    if not found:
        return (_deepest(trace, {}),)
    kept: list[tuple[Fraction, str]] = []
    for value in sorted(found):
        step = where.places[value].rows.jump * where.places[value].columns.jump
        if kept and step == kept[-1][0]:
            kept.pop()
        kept.append((step, found[value]))
    return tuple(name for _, name in kept)


def _bottlenecks(trace: Trace) -> set[int]:
    """The operators that no way from the picture to the output leads around."""
    last: dict[int, int] = {value.node: value.node for value in trace.output}
    for node in reversed(trace.nodes):
        if node.index in last:
            for parent in (*node.parents, *node.hidden):
                last[parent.node] = max(last.get(parent.node, 0), node.index)
    found, far = set(), 0
    for index in sorted(last):
        if far <= index:
            found.add(index)
        far = max(far, last[index])
    return found


def _deepest(trace: Trace, layers: Mapping[str, Value]) -> str:
    if not layers:
        raise MethodRefusedError(
            "no layer of this network keeps positions up to the scores",
            "a network with maps or tokens larger than 1 x 1",
            "a larger picture, or a method that needs no layer such as integrated_gradients",
        )
    origin = {name: _origin(trace, value, _SAME_TENSOR) for name, value in layers.items()}
    deepest = max(origin.values())
    return min((n for n in layers if origin[n] == deepest), key=lambda n: n.count("."))


def _origin(trace: Trace, value: Value, through: tuple[Family, ...]) -> Value:
    """Back through operators of these families with one input."""
    while (node := trace.nodes[value.node]).family in through and len(node.parents) == 1:
        value = node.parents[0]
    return value


def _scores(trace: Trace, value: Value, weighted: set[Value]) -> bool:
    """Whether it is a map of scores: made by a convolution, with nothing weighted between it and the output.

    Behind a normalisation or an addition it is a map of features of a network without a classifier.
    """
    maker = trace.nodes[_origin(trace, value, _AFTER_SCORES).node].family
    return value not in weighted and maker in (Family.CONV, Family.LINEAR)


def _pooled(trace: Trace, value: Value) -> bool:
    """Whether it is the output of a pool, give or take functions of each number alone."""
    node = trace.nodes[_origin(trace, value, _POINTWISE).node]
    if node.family not in _POOLS:
        return False
    return node.input_shapes[0] != node.shapes[0] or _pooled(trace, node.parents[0])


def _projects(trace: Trace, value: Value) -> bool:
    """Whether it is a query, key or value on its way into an attention."""
    if trace.nodes[_origin(trace, value, _SAME_TENSOR).node].family not in (Family.LINEAR, Family.CONV):
        return False
    todo, seen = [value], set()
    while todo:
        for index in trace.readers.get(todo.pop(), ()):
            node = trace.nodes[index]
            if node.family is Family.ATTENTION or (node.family is Family.MATMUL and len(node.parents) > 1):
                return True
            if node.family in _INTO_ATTENTION and len(node.parents) == 1 and index not in seen:
                seen.add(index)
                todo += [Value(index, i) for i in range(len(node.shapes))]
    return False


def _weighted(trace: Trace) -> set[Value]:
    """The values with a weighted operator between them and the output."""
    found: set[Value] = set()
    for node in reversed(trace.nodes):
        outs = (Value(node.index, i) for i in range(len(node.shapes)))
        if node.family in _WEIGHTED or any(v in found for v in outs):
            found.update(node.parents)
    return found


def _reach(trace: Trace, where: Geometry) -> dict[Value, Reach]:
    """For every value how much of it reaches the output, walked from the output back."""
    found: dict[Value, Reach] = dict.fromkeys(trace.output, Reach.ALL)
    for node in reversed(trace.nodes):
        for number, read in enumerate(where.readings[node.index]):
            here = found.get(Value(node.index, number), Reach.NOTHING)
            if here is Reach.NOTHING:
                continue
            for i, value in enumerate(node.inputs):
                if value is None:
                    continue
                link = read.links[i] if i < len(read.links) else None
                mixes = link is not None and any(isinstance(link.step(k), Whole) for k in POSITIONS)
                passed = _passed(node, where, value, Value(node.index, number), i, mixes, here)
                found[value] = max(found.get(value, Reach.NOTHING), passed)
            for value in node.hidden:
                found[value] = Reach.ALL
    return found


def _passed(node: Node, where: Geometry, value: Value, out: Value, i: int, mixes: bool, here: Reach) -> Reach:
    """How much of input i is read when `here` of the output is."""
    if mixes and node.family in (Family.ATTENTION, Family.MATMUL):
        return here if i == 0 else Reach.ALL  # the positions of an attention are those of its query
    if mixes:
        return Reach.ALL
    if node.family is Family.SLICE:
        before = {k for d in where.places[value].dims for k in d.positions}
        after = {k for d in where.places[out].dims for k in d.positions}
        return here if after == before else Reach.SOME
    return here


def _follows(trace: Trace, where: Geometry, value: Value) -> str:
    """What happens to the positions next, in words."""
    seen: set[Value] = set()
    todo = [value]
    while todo:
        here = todo.pop(0)
        for index in trace.readers.get(here, ()):
            node = trace.nodes[index]
            if node.family is Family.MAX_POOL:
                return ", before max pooling"
            if node.family in (Family.AVG_POOL, Family.REDUCE):
                return ", before average pooling"
            if node.family in (Family.ATTENTION, Family.MATMUL):
                kept = any(d.positions for d in where.places[Value(index)].dims)
                return f"; after its attention {'only the class token is' if kept else 'no position is'} read"
            if node.family is Family.CONV:
                return ", before the map of class scores"
            if node.family is Family.LINEAR and where.places[Value(index)].rows.whole:
                links = where.readings[index][0].links
                if links[0] is not None and isinstance(links[0].step(POSITIONS[0]), Whole):
                    return ", before a linear layer joins them"
            new = [Value(index, i) for i in range(len(node.shapes))]
            todo += [v for v in new if v not in seen]
            seen.update(new)
    return ""
