"""What the dimensions of a tensor mean: pictures, channels, rows, columns, followed through reshapes.

A dimension is a product of atoms, outermost first. A token axis of a 14 x 14 grid is (row 14, column 14), a
window axis is (row of stride 1 and size 7, ...). Splitting and merging atoms is what `view` does, so rows and
columns are found again after window partitions, heads and channel shuffles, without a guess from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

Shape = tuple[int, ...]


class Kind(Enum):
    """What an index along a dimension counts."""

    PICTURE = "picture"
    CHANNEL = "channel"
    ROW = "row"
    COLUMN = "column"
    OTHER = "other"


class Atom(NamedTuple):
    """`size` steps of `stride` along an axis of `length`."""

    kind: Kind
    stride: int
    size: int
    length: int


class Dim(NamedTuple):
    """One dimension: its atoms, and how many foreign entries (class tokens) stand before and after them."""

    atoms: tuple[Atom, ...] = ()
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        """The length of the dimension."""
        return self.before + math.prod(a.size for a in self.atoms) + self.after

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds its atoms are of."""
        return frozenset(a.kind for a in self.atoms)

    @property
    def positions(self) -> frozenset[Kind]:
        """Which of row and column it holds."""
        return self.kinds & {Kind.ROW, Kind.COLUMN}

    def is_full(self, kind: Kind) -> bool:
        """Whether it is that one axis, complete and in order."""
        if len(self.atoms) != 1 or self.before or self.after:
            return False
        atom = self.atoms[0]
        return atom.kind is kind and atom.size == atom.length


Dims = tuple[Dim, ...]


def full(kind: Kind, size: int) -> Dim:
    """A dimension that is one axis."""
    return Dim((Atom(kind, 1, size, size),))


def other(size: int) -> Dim:
    """A dimension that means nothing that is followed."""
    return full(Kind.OTHER, size)


def find(dims: Dims, kind: Kind) -> int | None:
    """The dimension that is the whole axis of this kind, or None."""
    return next((i for i, dim in enumerate(dims) if dim.is_full(kind)), None)


def view(dims: Dims, shape: Shape) -> Dims:
    """The dimensions after a reshape to `shape`.

    >>> grid = (full(Kind.PICTURE, 2), full(Kind.CHANNEL, 5), full(Kind.ROW, 3), full(Kind.COLUMN, 4))
    >>> [atom.kind.value for atom in view(grid, (2, 5, 12))[2].atoms]
    ['row', 'column']
    >>> view(view(grid, (2, 5, 12)), (2, 5, 3, 4)) == grid
    True
    """
    if tuple(d.size for d in dims) == shape:
        return dims
    if 0 in shape:
        return tuple(other(n) for n in shape)
    out: list[Dim] = [Dim()] * len(shape)
    targets = [i for i, size in enumerate(shape) if size != 1]
    rest = [d for d in dims if d.size != 1]
    while targets and rest:
        taken, wanted = [rest.pop(0)], [targets.pop(0)]
        while (have := math.prod(d.size for d in taken)) != (want := math.prod(shape[i] for i in wanted)):
            if have < want:
                taken.append(rest.pop(0))
            else:
                wanted.append(targets.pop(0))
        for i, dim in zip(wanted, _group(taken, [shape[i] for i in wanted]), strict=True):
            out[i] = dim
    if len(dims) == len(shape):  # an axis of length one stays what it was where it stands in its place
        out = [d if d.size == 1 == n else o for d, n, o in zip(dims, shape, out, strict=True)]
    return tuple(out)


def _group(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    """Dimensions that together are cut anew into `sizes`."""
    if len(dims) == len(sizes) == 1:
        return list(dims)
    if any(d.before or d.after for d in dims):
        return [other(n) for n in sizes]
    atoms = [a for d in dims for a in d.atoms if a.size != 1]
    result: list[Dim] = []
    for size in reversed(sizes):
        piece: list[Atom] = []
        left = size
        while left > 1:
            atom = atoms.pop()
            if left % atom.size == 0:
                piece.insert(0, atom)
                left //= atom.size
            elif atom.size % left == 0:
                atoms.append(atom._replace(stride=atom.stride * left, size=atom.size // left))
                piece.insert(0, atom._replace(size=left))
                left = 1
            else:
                return [other(n) for n in sizes]
        result.insert(0, Dim(_merge(piece)))
    return result


def _merge(atoms: Sequence[Atom]) -> tuple[Atom, ...]:
    """Neighbouring atoms of one axis joined where they continue each other."""
    merged: list[Atom] = []
    for atom in atoms:
        if merged and merged[-1].kind is atom.kind and merged[-1].stride == atom.stride * atom.size:
            atom = atom._replace(size=merged.pop().size * atom.size)
        merged.append(atom)
    return tuple(merged)


def broadcast(parts: Sequence[Dims], shape: Shape) -> Dims:
    """The dimensions of an elementwise operator: for each the part that says most about it."""
    out: list[Dim] = []
    for back in range(len(shape), 0, -1):
        size = shape[-back]
        choices = [dims[-back] for dims in parts if len(dims) >= back and dims[-back].size == size]
        choices.sort(key=lambda d: (not d.positions, Kind.OTHER in d.kinds, not d.kinds))
        out.append(choices[0] if choices else other(size))
    return tuple(out)
