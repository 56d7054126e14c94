"""How operators that work place by place read their inputs, broadcasting included."""

from __future__ import annotations

from .axes import Kind, broadcast, find
from .graph import Node
from .links import POSITIONS, Inputs, Link, Reading, inside, refused
from .steps import Slide, Step, everything, unchanged

# Functions of each number alone (or of numbers at one place) that belong to no operator family.
POINTWISE = {
    *("neg", "__neg__", "negative", "exp", "exp_", "expm1", "log", "log1p", "log2", "sqrt", "sqrt_", "rsqrt"),
    *("abs", "__abs__", "absolute", "sign", "square", "pow", "pow_", "__pow__", "__rpow__", "__ipow__"),
    *("reciprocal", "__rtruediv__", "__rdiv__", "sin", "cos", "atan", "clamp", "clamp_", "clip", "clip_"),
    *(
        "clamp_min",
        "clamp_max",
        "clamp_min_",
        "clamp_max_",
        "threshold",
        "hardtanh",
        "hardtanh_",
        "erf",
        "erfc",
    ),
    *("maximum", "minimum", "fmax", "fmin", "where", "gt", "ge", "lt", "le", "eq", "ne", "__gt__", "__ge__"),
    *(
        "__lt__",
        "__le__",
        "__eq__",
        "__ne__",
        "logical_and",
        "logical_or",
        "logical_not",
        "__and__",
        "__or__",
    ),
    *("__invert__", "masked_fill", "masked_fill_", "nan_to_num", "floor", "ceil", "round", "trunc", "lerp"),
    *("addcmul", "addcdiv", "bfloat16", "type", "int", "long", "bool", "cpu", "data", "detach_", "sigmoid"),
    *("hardsigmoid", "hardswish", "relu", "relu6", "silu", "celu", "alpha_dropout", "requires_grad_"),
}


def elementwise(node: Node, ins: Inputs) -> list[Reading]:
    """Operators that work place by place, with broadcasting."""
    shape = node.shapes[0]
    known = [d for d in ins if d is not None]
    dims = broadcast(known, shape)
    links: list[Link | None] = []
    for part in ins:
        if part is None:
            links.append(None)
            continue
        steps: dict[Kind, Step] = {}
        for kind in POSITIONS:
            theirs, ours = find(part, kind), find(dims, kind)
            if theirs is not None and ours is not None:
                if len(part) - theirs != len(dims) - ours:
                    return refused(node, ins, f"{node.name}{inside(node)} joins rows with columns")
                if part[theirs].size == 1 != dims[ours].size:
                    steps[kind] = Slide(0)
        wide = [d for d in part if d.is_full(Kind.CHANNEL)]
        ours = find(dims, Kind.CHANNEL)
        one = bool(wide) and wide[0].size == 1 and ours is not None and dims[ours].size > 1
        links.append(Link(steps, everything if one else unchanged))
    return [Reading(dims, tuple(links)) for _ in node.shapes]
