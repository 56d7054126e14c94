"""Windows laid over a picture in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError

Edges = Literal["clamp", "clip"]
Span = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Windows at every pair of a span of rows and a span of columns, (first, end excluded) each."""

    size: tuple[int, int]
    rows: tuple[Span, ...]
    cols: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """How many windows, (down, across)."""
        return len(self.rows), len(self.cols)

    @property
    def boxes(self) -> Tensor:
        """(n, 4): top, left, bottom, right of each window, in reading order."""
        return torch.tensor([[t, l, b, r] for t, b in self.rows for l, r in self.cols])  # noqa: E741

    @property
    def uncovered(self) -> int:
        """How many pixels lie in no window."""
        down, across = self._covers()
        return int((~(down.any(0)[:, None] & across.any(0)[None])).sum())

    def spread(self, values: Tensor, known: Tensor | None = None) -> Tensor:
        """Per pixel the mean of `values` (down, across) over the windows that cover it, (H, W) in float64.

        `known` (down, across) says which windows count; a pixel that none of them covers is 0.

        >>> lay((1, 4), (1, 2), 1).spread(torch.tensor([[2.0, 4.0, 0.0]]))
        tensor([[2., 3., 2., 0.]], dtype=torch.float64)
        """
        down, across = (c.double() for c in self._covers())
        weight = torch.ones(self.shape) if known is None else known
        total = down.T @ (values.double() * weight) @ across
        count = down.T @ weight.double() @ across
        return total / count.clamp(min=1)

    def _covers(self) -> tuple[Tensor, Tensor]:
        """Which span covers which pixel, down (rows, H) and across (cols, W)."""
        return _cover(self.rows, self.size[0]), _cover(self.cols, self.size[1])


def lay(size: tuple[int, int], window: int | tuple[int, int], stride: int, edges: Edges = "clamp") -> Grid:
    """A grid of windows, `stride` apart from the upper left corner on.

    At the right and lower border the last window is moved inwards to end at the border ("clamp": all windows are
    of one size) or keeps its place and is cut off there ("clip").
    Raises `UsageError` when the window is larger than the picture.

    >>> lay((5, 5), 2, 2).rows, lay((5, 5), 2, 2, "clip").rows
    (((0, 2), (2, 4), (3, 5)), ((0, 2), (2, 4), (4, 5)))
    """
    height, width = size
    h, w = (window, window) if isinstance(window, int) else window
    if h > height or w > width:
        raise UsageError(
            f"a window of {h}x{w} pixels on a picture of {height}x{width}",
            f"a window of at most {min(height, width)}",
            f"window={max(1, min(height, width) // 4)}",
        )
    return Grid(size, _spans(height, h, stride, edges), _spans(width, w, stride, edges))


def _spans(length: int, window: int, stride: int, edges: Edges) -> tuple[Span, ...]:
    starts = list(range(0, length - window + 1, stride))
    if starts[-1] + window < length:
        if edges == "clamp":
            starts.append(length - window)
        elif starts[-1] + stride < length:
            starts.append(starts[-1] + stride)
    return tuple((s, min(s + window, length)) for s in starts)


def _cover(spans: Sequence[Span], length: int) -> Tensor:
    place = torch.arange(length)
    return torch.stack([(place >= first) & (place < end) for first, end in spans])
