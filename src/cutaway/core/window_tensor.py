"""A batch of activations that differ from one activation in a window each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .window_spans import Span

RECENT = 4
"""Outputs kept of one operator on one activation, for arguments that differ."""

Padding = tuple[int, int, int, int]
"""Places added above, below, left and right."""


class Clean:
    """An activation of the picture as it is, with batch one, and what was derived from it once.

    `rows` and `cols` are the numbers of its dimensions that run over the picture; the others are channels.
    """

    def __init__(self, value: Tensor, rows: int, cols: int) -> None:
        self.value, self.rows, self.cols = value, rows, cols
        self._size = value.shape[rows], value.shape[cols]
        self._padded: dict[tuple[Padding, float], tuple[Tensor, int]] = {}
        self._sums: Tensor | None = None
        self._made: dict[tuple[object, ...], list[tuple[Sequence[tuple[Tensor, int]], Any]]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._size

    def made(self, key: tuple[object, ...], tensors: Sequence[Tensor], make: Callable[[], Any]) -> Any:
        """What an operator with these arguments makes of it; made when first asked for.

        Tensors among the arguments count as the same when they are the same or hold the same numbers: a network
        may compute its weights anew in each pass, or write others into them.
        """
        known = self._made.setdefault(key, [])
        for others, value in known:
            if len(others) == len(tensors) and all(
                written(a) == version and _same(a, b) for (a, version), b in zip(others, tensors, strict=True)
            ):
                return value
        versions = tuple((t, written(t)) for t in tensors)
        value = make()
        known.append((versions, value))
        del known[:-RECENT]  # what a network makes anew in each pass must not pile up
        return value

    def places(self, padding: Padding, fill: float) -> tuple[Tensor, int]:
        """(places, channels) in reading order of the padded map, and the padded map's columns."""
        key = (padding, fill)
        if key not in self._padded:
            above, below, left, right = padding
            value = self.value if self.rows == 1 else self.value.movedim((self.rows, self.cols), (1, 2))
            value = value.flatten(3)
            if any(padding):
                value = F.pad(value, (0, 0, left, right, above, below), value=fill)
            value = value.contiguous()
            self._padded[key] = (value.view(-1, value.shape[-1]), value.shape[2])
        return self._padded[key]

    def sums(self) -> Tensor:
        """(rows + 1, cols + 1, channels): the sum of what lies above and left of each place, in float64."""
        if self._sums is None:
            places, columns = self.places((0, 0, 0, 0), 0.0)
            table = places.view(-1, columns, places.shape[1]).double().cumsum(0).cumsum(1)
            self._sums = F.pad(table, (0, 0, 1, 0, 1, 0))
        return self._sums


def written(x: Tensor) -> int:
    """How often it or a view of it was written to."""
    return 0 if x.is_inference() else int(x._version)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))


class Changed(Tensor):
    """(B, ...): B copies of a clean activation, each replaced in a window of one size by `window`.

    Behaves like the dense tensor of that shape: operators that `window_operators` knows give another `Changed`,
    any other is given the dense tensor.
    """

    clean: Clean
    window: Tensor
    down: Span
    across: Span
    shared: bool = False

    @staticmethod
    def __new__(cls, clean: Clean, window: Tensor, down: Span, across: Span) -> Changed:
        """A wrapper without memory of its own."""
        shape = (len(window), *clean.value.shape[1:])
        made: Changed = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=window.dtype, device=window.device
        )
        return made

    def __init__(self, clean: Clean, window: Tensor, down: Span, across: Span) -> None:
        self.clean, self.window, self.down, self.across = clean, window, down, across

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Changed({tuple(self.shape)}, windows of {self.down.size}x{self.across.size})"

    @property
    def whole(self) -> bool:
        """Whether the windows are the maps."""
        return (self.down.size, self.across.size) == self.clean.size

    @property
    def share(self) -> float:
        """Part of the map that a window covers."""
        rows, cols = self.clean.size
        return self.down.size * self.across.size / (rows * cols)

    def become(self, other: Tensor) -> Changed:
        """Take on another value, as an operator in place does."""
        if isinstance(other, Changed):
            self.clean, self.window, self.down, self.across = (
                other.clean,
                other.window,
                other.down,
                other.across,
            )
        else:
            rows, cols = self.clean.size
            nothing = np.zeros(len(other), np.int64)
            self.window, self.down, self.across = other, Span(nothing, rows), Span(nothing, cols)
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from .window_operators import apply

        return apply(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What reaches the kernels without passing as a torch function: copies, or anything, as dense tensors."""
        kwargs = kwargs or {}
        if func in (
            torch.ops.aten.clone.default,
            torch.ops.aten.detach.default,
            torch.ops.aten.alias.default,
        ):
            x = args[0]
            made = Changed(x.clean, x.window, x.down, x.across)
            x.shared = made.shared = x.shared or func is not torch.ops.aten.clone.default
            return made
        out = func(*dense(args), **dense(kwargs))
        if func.is_view:  # views made here do not tell when they are written to
            raise WritesIntoWindow(str(func))
        return out


def dense(value: Any) -> Any:
    """The value with every `Changed` in it made a plain tensor."""
    if isinstance(value, Changed):
        return filled(value)
    if isinstance(value, dict):
        return {k: dense(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(dense(v) for v in value)
    return value


_LENT: ContextVar[list[tuple[Tensor, int]] | None] = ContextVar("lent", default=None)


class WritesIntoWindow(Exception):  # noqa: N818 - no error: the plain way is taken instead
    """An operator without a handler writes in place; its input is no dense tensor that could be written to."""


@contextmanager
def unwritten() -> Iterator[None]:
    """Raise `WritesIntoWindow` where the block writes into a view of a `Changed`, which does not change with it."""
    lent: list[tuple[Tensor, int]] = []
    token = _LENT.set(lent)
    try:
        yield
    finally:
        _LENT.reset(token)
    if any(written(x) != version for x, version in lent):
        raise WritesIntoWindow("a view is written to")


def given_dense(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator makes of dense tensors; views of them are watched."""
    parts, named = dense(args), dense(kwargs)
    out = func(*parts, **named)
    memory = {
        o.untyped_storage().data_ptr()
        for o in (out if isinstance(out, (list, tuple)) else (out,))
        if isinstance(o, Tensor) and not isinstance(o, Changed) and o.numel()
    }
    for x, full in zip((*args, *kwargs.values()), (*parts, *named.values()), strict=True):
        if isinstance(x, Changed) and full.untyped_storage().data_ptr() in memory:
            x.shared = True
            lent = _LENT.get()
            if lent is not None:
                lent.append((full, written(full)))
    return out


def filled(x: Changed) -> Tensor:
    """The dense tensor: every clean activation with its window pasted in."""
    if x.whole:
        return x.window
    rows, cols = x.clean.size
    nothing = np.zeros(len(x.window), np.int64)
    return crop(x, Span(nothing, rows), Span(nothing, cols))


def crop(
    x: Changed, down: Span, across: Span, *, padding: Padding = (0, 0, 0, 0), fill: float = 0.0
) -> Tensor:
    """What lies at other places, counted in the padded map: (B, ...) in the layout of `x`, channels last in memory."""
    above, _, left, _ = padding
    dy, dx = x.down.starts + above - down.starts, x.across.starts + left - across.starts
    even = bool((dy == dy[0]).all() and (dx == dx[0]).all())
    clean = x.clean
    if even and dy[0] <= 0 and dx[0] <= 0:
        bottom, right = -int(dy[0]) + down.size, -int(dx[0]) + across.size
        if bottom <= x.down.size and right <= x.across.size:  # the window itself covers it
            part = x.window.narrow(clean.rows, -int(dy[0]), down.size)
            return part.narrow(clean.cols, -int(dx[0]), across.size)
    places, columns = clean.places(padding, fill)
    count, channels = len(x.window), places.shape[1]
    window = x.window.movedim((clean.rows, clean.cols), (1, 2)).flatten(3)
    if count == 1:
        map_ = places.view(1, -1, columns, channels).narrow(1, int(down.starts[0]), down.size)
        out = map_.narrow(2, int(across.starts[0]), across.size).clone()
    else:
        index = down.numbers(across, columns).to(places.device)
        out = places.index_select(0, index).view(count, down.size, across.size, channels)
    if even:
        y, x0 = int(dy[0]), int(dx[0])
        top, left_ = max(0, y), max(0, x0)
        bottom, right = min(down.size, y + x.down.size), min(across.size, x0 + x.across.size)
        if bottom > top and right > left_:
            out[:, top:bottom, left_:right] = window[:, top - y : bottom - y, left_ - x0 : right - x0]
    else:
        _paste(out, window, dy, dx)
    shape = clean.value.shape
    rest = [shape[d] for d in range(1, len(shape)) if d not in (clean.rows, clean.cols)]
    return out.view(count, down.size, across.size, *rest).movedim((1, 2), (clean.rows, clean.cols))


def _paste(out: Tensor, window: Tensor, dy: Any, dx: Any) -> None:
    """Write each window (B, h, w, C) at its own offset into (B, H, W, C), as far as it lies inside."""
    count, height, width, channels = out.shape
    _, h, w, _ = window.shape
    y = dy[:, None] + np.arange(h)
    x = dx[:, None] + np.arange(w)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    to = ((np.arange(count)[:, None, None] * height + y[:, :, None]) * width + x[:, None, :])[inside]
    source = window.reshape(-1, channels)
    if not inside.all():
        source = source.index_select(0, torch.from_numpy(np.flatnonzero(inside)).to(out.device))
    out.view(-1, channels).index_copy_(0, torch.from_numpy(to).to(out.device), source)
