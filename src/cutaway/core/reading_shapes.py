"""How reshapes, permutations and moves read their inputs; the table of all readings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from .axes import Atom, Dim, Dims, Kind, full, other, view
from .graph import Node
from .links import POSITIONS, Handler, Inputs, Link, Reader, Reading, refused, sizes
from .operators import Family
from .reading import REDUCTIONS, convolution, normalisation, padding, pooling, reduction, resizing
from .reading_elementwise import POINTWISE, elementwise
from .reading_mixing import attention, einstein, linear, matrix_product
from .reading_slices import concatenation, slicing
from .steps import Formula, Slide, Step, Unknown, everything, gathered, unchanged

__all__ = ["concatenation", "reading", "reshaping", "slicing"]

# Spellings of reshapes that belong to no operator family.
_SHAPES = {"T", "mT", "H", "mH", "reshape_as", "ravel", "squeeze_", "unsqueeze_", "flatten_"}
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


def reshaping(node: Node, ins: Inputs) -> list[Reading]:
    """Views, permutations, flips, repeats: where every number went."""
    dims, shape = ins[0], node.shapes[0]
    if dims is None:
        return refused(node, ins)
    name = node.name
    if name in ("flip", "roll", "channel_shuffle"):
        return _moved(node, dims)
    if name in ("expand", "expand_as", "repeat", "view_as"):
        return elementwise(node, ins) if name.startswith("expand") else _repeated(node, dims)
    if name in ("permute", "transpose", "t", "T", "mT", "movedim", "swapaxes", "adjoint", "H", "mH"):
        order = _order(node, len(dims))
        return refused(node, ins) if order is None else [Reading(tuple(dims[i] for i in order), (Link(),))]
    if name.rstrip("_") in ("squeeze", "unsqueeze"):
        kept = [d for d in dims if d.size != 1]
        return [Reading(_aligned(dims, kept, shape), (Link(),))]
    return [_canonical(view(dims, shape))]


def _aligned(dims: Dims, kept: list[Dim], shape: tuple[int, ...]) -> Dims:
    """Dimensions longer than one in their order, with new ones of length one between."""
    if sizes(dims) == shape:
        return dims
    queue = list(kept)
    return tuple(Dim() if n == 1 else queue.pop(0) for n in shape)


def _order(node: Node, count: int) -> tuple[int, ...] | None:
    """Which input dimension each output dimension is, found on a tensor whose sides are all different."""
    tiny = torch.empty(_PRIMES[:count], device="meta")
    if node.name in ("T", "mT", "H", "mH"):
        moved = getattr(tiny, node.name)
    else:
        arguments = {k: v for k, v in node.arguments.items() if k not in ("rest", "args")}
        if node.function is None:
            return None
        moved = node.function(tiny, *node.arguments.get("rest", ()), **arguments)
    return tuple(_PRIMES.index(n) for n in moved.shape)


def _arguments(node: Node, *names: str) -> list[Any]:
    """Positional or keyword arguments after the tensor."""
    given = list(node.arguments.get("rest", ()))
    return [given[i] if i < len(given) else node.arguments.get(name) for i, name in enumerate(names)]


def _moved(node: Node, dims: Dims) -> list[Reading]:
    """Flip, roll and channel shuffle, which keep every dimension and move along it."""
    steps: dict[Kind, Step] = {}
    reader: Reader = unchanged
    if node.name == "channel_shuffle":
        groups, count = int(_arguments(node, "groups")[0]), dims[1].size
        order = torch.arange(count).reshape(groups, -1).t().reshape(-1)
        return [Reading(dims, (Link({}, gathered(tuple(order.tolist()))),))]
    if node.name == "flip":
        axes = list(node.arguments.get("rest", ())) or [node.arguments.get("dims")]
        axes = list(axes[0]) if isinstance(axes[0], tuple) else axes
        moves: list[tuple[int, int | None]] = [(i, None) for i in axes]
    else:
        shifts, over = _arguments(node, "shifts", "dims")
        if over is None or over == ():
            return refused(node, (dims,))
        pairs = zip(_listed(shifts), _listed(over), strict=True)
        moves = [(i, int(shift)) for shift, i in pairs]
    for i, shift in moves:
        dim = dims[i]
        kind = next((k for k in POSITIONS if dim.is_full(k)), None)
        if kind is not None:
            steps[kind] = _travel(dim.size, shift)
        elif dim.positions:
            steps |= {k: Unknown(f"{node.name} moves mixed positions") for k in dim.positions}
        elif Kind.CHANNEL in dim.kinds:
            reader = everything
    return [Reading(dims, (Link(steps, reader),))]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _travel(n: int, shift: int | None) -> Step:
    """Along an axis of length n: mirrored (None), or rolled by `shift`."""
    if shift is None:
        return Formula(lambda o: (n - 1 - o,), Fraction(1))
    return Formula(lambda o: (o - shift,), Fraction(1), lambda o: ((o - shift) % n,))


def _repeated(node: Node, dims: Dims) -> list[Reading]:
    shape = node.shapes[0]
    if sizes(dims) == shape:
        return [Reading(dims, (Link(),))]
    if len(shape) != len(dims) or any(d.positions and d.size != n for d, n in zip(dims, shape, strict=True)):
        return refused(node, (dims,))
    out = tuple(d if d.size == n else other(n) for d, n in zip(dims, shape, strict=True))
    return [Reading(out, (Link({}, everything),))]


def _canonical(dims: Dims) -> Reading:
    """After a reshape: rows and columns that were cut into patches, or put together from channels, named anew.

    Space to depth leaves (row, stride 2) where rows were and puts the odd rows among the channels; a patch
    embedding by hand does the same with stride 16. Depth to space puts channels behind rows. A channel shuffle
    leaves the channel atoms in another order.
    """
    steps: dict[Kind, Step] = {}
    reader: Reader = unchanged
    out = list(dims)
    for kind in POSITIONS:
        pure = [i for i, d in enumerate(out) if kind in d.kinds and d.kinds <= set(POSITIONS)]
        mixed = [i for i, d in enumerate(out) if kind in d.kinds and Kind.CHANNEL in d.kinds]
        if len(pure) == 1 and len(mixed) == 1:
            atom = next(a for a in out[pure[0]].atoms if a.kind is kind)
            inner = [a for a in out[mixed[0]].atoms if a.kind is kind]
            if math.prod(a.size for a in inner) == atom.stride:
                steps[kind] = Slide(atom.stride, 0, atom.stride)
                atoms = tuple(Atom(kind, 1, a.size, a.size) if a is atom else a for a in out[pure[0]].atoms)
                out[pure[0]] = Dim(atoms, out[pure[0]].before, out[pure[0]].after)
                rest = tuple(a for a in out[mixed[0]].atoms if a.kind is not kind)
                out[mixed[0]] = Dim((Atom(Kind.CHANNEL, 1, atom.stride, atom.stride), *rest))
                reader = everything
        elif not pure and len(mixed) == 1:
            atom, *rest_atoms = out[mixed[0]].atoms
            ours = atom.kind is kind and atom.size == atom.length
            ours = ours and all(a.kind is Kind.CHANNEL for a in rest_atoms)
            if ours:
                times = math.prod(a.size for a in rest_atoms)
                steps[kind] = _nearest(times)
                out[mixed[0]] = full(kind, out[mixed[0]].size)
                reader = everything
    if reader is everything:
        out = [full(Kind.CHANNEL, d.size) if d.kinds == {Kind.CHANNEL} else d for d in out]
        return Reading(tuple(out), (Link(steps, reader),))
    for i, d in enumerate(out):
        if d.kinds == {Kind.CHANNEL} and d.size == d.atoms[0].length and not d.is_full(Kind.CHANNEL):
            out[i] = full(Kind.CHANNEL, d.size)
            reader = gathered(_numbers(d.atoms))
    return Reading(tuple(out), (Link(steps, reader),))


def _nearest(times: int) -> Step:
    return Formula(lambda o: (o // times,), Fraction(1, times))


def _numbers(atoms: tuple[Atom, ...]) -> tuple[int, ...]:
    """The channel number at each place of a dimension made of channel atoms."""
    numbers = [0]
    for atom in atoms:
        numbers = [n + atom.stride * i for n in numbers for i in range(atom.size)]
    return tuple(numbers)


_HANDLERS: Mapping[Family, Handler] = {
    **dict.fromkeys(
        (
            Family.RELU,
            Family.ACTIVATION,
            Family.GATE,
            Family.FUNCTION,
            Family.IDENTITY,
            Family.ADD,
            Family.MUL,
        ),
        elementwise,
    ),
    **dict.fromkeys((Family.CONV, Family.TRANSPOSED_CONV), convolution),
    **dict.fromkeys((Family.MAX_POOL, Family.AVG_POOL), pooling),
    **dict.fromkeys((Family.REDUCE, Family.SOFTMAX), reduction),
    **dict.fromkeys((Family.BATCH_NORM, Family.NORM), normalisation),
    Family.LINEAR: linear,
    Family.MATMUL: matrix_product,
    Family.ATTENTION: attention,
    Family.CAT: concatenation,
    Family.PAD: padding,
    Family.SLICE: slicing,
    Family.RESIZE: resizing,
    Family.SHAPE: reshaping,
}


def reading(node: Node, ins: Inputs) -> list[Reading]:
    """What every output of an operator means and how it reads every input."""
    if node.hidden:
        where = f" in {node.scope}" if node.scope else ""
        return refused(node, ins, f"{node.name}{where} uses the picture as a weight or an index")
    if node.family is not None:
        return _HANDLERS[node.family](node, ins)
    if node.name in POINTWISE:
        return elementwise(node, ins)
    if node.name in REDUCTIONS:
        return reduction(node, ins)
    if node.name in _SHAPES:
        return reshaping(node, ins)
    if node.name == "pixel_unshuffle":
        return resizing(node, ins)
    if node.name == "einsum" and node.arguments["args"] and isinstance(node.arguments["args"][0], str):
        return einstein(node, ins)
    return refused(node, ins)
