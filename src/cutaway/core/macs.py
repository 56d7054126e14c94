"""Multiply-accumulates of one operator, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .operators import Family

Shape = tuple[int, ...]


def multiply_accumulates(
    name: str,
    family: Family | None,
    inputs: tuple[Shape, ...],
    arguments: Mapping[str, Any],
    outputs: tuple[Shape, ...],
) -> int:
    """Products an operator adds up, over the whole batch: convolutions, linear layers, matrix products, attention.

    A convolution costs (numbers put out) x (input channels / groups) x (kernel size); additions of a bias,
    normalisation, activations and pooling count nothing, as is the custom.

    >>> from cutaway.core.trace import Stub
    >>> conv = {"weight": Stub((8, 3, 5, 5))}
    >>> multiply_accumulates("conv2d", Family.CONV, ((1, 3, 9, 9),), conv, ((1, 8, 5, 5),))
    15000
    """
    weight: Shape = getattr(arguments.get("weight"), "shape", ())
    if name == "bilinear" or not inputs or not outputs:
        return 0
    if family is Family.CONV:
        return math.prod(outputs[0]) * math.prod(weight[1:])
    if family is Family.TRANSPOSED_CONV:
        return math.prod(inputs[0]) * math.prod(weight[1:])
    if family is Family.LINEAR:
        return math.prod(outputs[0]) * inputs[0][-1]
    if family is Family.MATMUL:
        return math.prod(outputs[0]) * inputs[-2][-1]
    if name == "scaled_dot_product_attention":
        query, key, value = inputs[:3]
        pairs = math.prod(query[:-1]) * key[-2]
        return pairs * (query[-1] + value[-1])
    if name == "multi_head_attention_forward":
        return _multi_head(*inputs[:3])
    if name == "einsum" and isinstance(arguments["args"][0], str):
        return _einsum(arguments["args"][0], inputs)
    return 0


def _multi_head(query: Shape, key: Shape, value: Shape) -> int:
    """Three projections in, one out, and the attention between; shapes (T, N, E), or (T, E) without a batch."""
    batch = query[1] if len(query) == 3 else 1
    width, asked, held = query[-1], query[0], key[0]
    projections = asked * 2 * width * width + held * (key[-1] + value[-1]) * width
    return batch * (projections + 2 * asked * held * width)


def _einsum(equation: str, shapes: tuple[Shape, ...]) -> int:
    """The product of the sizes of all letters, for two factors."""
    factors = equation.replace(" ", "").split("->")[0].split(",")
    if len(factors) != 2 or "." in equation:
        return 0
    sizes = {
        c: n
        for letters, shape in zip(factors, shapes, strict=True)
        for c, n in zip(letters, shape, strict=True)
    }
    return math.prod(sizes.values())
