"""A convolution written out as a matrix M; the transposed convolution is its transpose."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.core.errors import UsageError


def convolution_matrix_of(
    weight: Tensor,
    size: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """M of shape (O h' w', C h w) with conv(x) = M x, x and the result flattened row by row.

    y[o, r, c] = sum over i, a, b of w[o, i, a, b] x[i, r s - p + a d, c s - p + b d]; M^T is the transposed
    convolution (Dumoulin & Visin 2016, arXiv:1603.07285, sec. 4.1), not the inverse.
    Raises `UsageError` where the window does not fit.

    >>> convolution_matrix_of(torch.tensor([[[[1.0, 2.0, 3.0]]]]), (1, 5)).tolist()
    [[1.0, 2.0, 3.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0, 0.0], [0.0, 0.0, 1.0, 2.0, 3.0]]
    """
    outputs, inputs, kh, kw = weight.shape
    rows = (size[0] + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (size[1] + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    if min(rows, columns) < 1:
        raise UsageError(f"an input of {size[0]} x {size[1]} for a window of {kh} x {kw}", "a larger input")
    matrix = weight.new_zeros(outputs, rows, columns, inputs * groups, *size)
    out = torch.arange(outputs)
    for a in range(kh):
        for b in range(kw):
            for r in range(rows):
                y = r * stride[0] - padding[0] + a * dilation[0]
                for c in range(columns):
                    x = c * stride[1] - padding[1] + b * dilation[1]
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        for i in range(inputs):
                            source = out // (outputs // groups) * inputs + i
                            matrix[out, r, c, source, y, x] = weight[:, i, a, b]
    return matrix.reshape(outputs * rows * columns, -1)
