"""How linear layers, matrix products and attention read their inputs."""

from __future__ import annotations

from .axes import Kind, full, other
from .reading import POSITIONS, Inputs, Link, Reading, everywhere, mixes, refused
from .steps import everything
from .trace import Node


def linear(node: Node, ins: Inputs) -> list[Reading]:
    """A linear layer over the last dimension; whole when that dimension holds positions."""
    dims = ins[0]
    if dims is None:
        return refused(node, ins)
    link = Link(mixes(node, dims[-1].positions, "mixes all positions"), everything)
    out = (*dims[:-1], full(Kind.CHANNEL, node.shapes[0][-1]))
    return [Reading(out, (link,))]


def matrix_product(node: Node, ins: Inputs) -> list[Reading]:
    """A matrix product: rows come from the left, columns from the right, the rest is summed over."""
    shape = node.shapes[0]
    left, right = ins[-2], ins[-1]
    found: set[Kind] = set()
    if left is not None:
        found |= left[-1].positions
    if right is not None and len(right) > 1:
        found |= right[-2].positions
    if left is not None and right is not None and len(right) > 1:
        found |= left[-2].positions & right[-1].positions  # every entry is a pair of positions
    out = [other(n) for n in shape]
    source = left if left is not None else right
    for i in range(len(shape) - 2):
        if source is not None and len(source) == len(shape) and source[i].size == shape[i]:
            out[i] = source[i]
    if left is not None and len(left) > 1 and len(shape) > 1:
        out[-2] = left[-2]
    if right is not None:
        out[-1] = right[-1]
    elif left is not None:
        out[-1] = full(Kind.CHANNEL, shape[-1])
    link = Link(mixes(node, found, "mixes positions"), everything)
    return [Reading(tuple(out), everywhere(ins, link))]


def einstein(node: Node, ins: Inputs) -> list[Reading]:
    """`einsum` with letters alone: what is summed over or paired is mixed."""
    terms = str(node.arguments["args"][0]).replace(" ", "").split("->")
    if len(terms) != 2 or "." in terms[0]:
        return refused(node, ins)
    parts = [
        (letters, dims) for letters, dims in zip(terms[0].split(","), ins, strict=True) if dims is not None
    ]
    meaning = {letter: dim for letters, dims in parts for letter, dim in zip(letters, dims, strict=True)}
    placed_at = [letter for letter in terms[1] if letter in meaning and meaning[letter].positions]
    found = {k for letter, dim in meaning.items() if letter not in terms[1] for k in dim.positions}
    for i, letter in enumerate(placed_at):
        for second in placed_at[i + 1 :]:
            found |= meaning[letter].positions & meaning[second].positions
    out = tuple(meaning.get(c) or other(n) for c, n in zip(terms[1], node.shapes[0], strict=True))
    link = Link(mixes(node, found, "mixes positions"), everything)
    return [Reading(out, everywhere(ins, link))]


def attention(node: Node, ins: Inputs) -> list[Reading]:
    """Attention: every position looks at every other; places are those of the query."""
    query = ins[0]
    if query is None:
        return refused(node, ins)
    link = Link(mixes(node, POSITIONS, "lets every position look at every other"), everything)
    last = ins[2][-1] if len(ins) > 2 and ins[2] is not None else query[-1]
    first = (*query[:-1], last if last.size == node.shapes[0][-1] else full(Kind.CHANNEL, node.shapes[0][-1]))
    rest = [tuple(other(n) for n in shape) for shape in node.shapes[1:]]
    return [Reading(dims, everywhere(ins, link)) for dims in (first, *rest)]
