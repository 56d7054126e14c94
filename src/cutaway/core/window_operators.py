"""How each operator acts on activations that differ from a clean one in a window.

A handler gives the operator's output as a `Changed`, or None for what it does not know; the operator is then
given dense tensors and the network goes on with what it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from .operators import Call, Family, read
from .packed import convolved, viewed
from .window_places import (
    batch_norm,
    combine,
    concatenated,
    identity,
    linear,
    norm,
    pointwise,
    softmax,
)
from .window_shapes import padded, resized, shaped, sliced
from .window_sliding import average, convolution, max_pool, reduce
from .window_tensor import Changed, WritesIntoWindow, dense, given_dense

Handler = Callable[[Call], Any]


_DENSE: ContextVar[list[tuple[str, float]] | None] = ContextVar("dense", default=None)


@contextmanager
def tallied() -> Iterator[list[tuple[str, float]]]:
    """Collect the operators that are given dense tensors in the block, and how many numbers of each picture."""
    met: list[tuple[str, float]] = []
    token = _DENSE.set(met)
    try:
        yield met
    finally:
        _DENSE.reset(token)


def _went_dense(name: str, *given: Any) -> None:
    met = _DENSE.get()
    if met is not None:
        parts = [part for one in given for part in (one if isinstance(one, (list, tuple)) else (one,))]
        numbers = sum(p.shape.numel() / len(p) for p in parts if isinstance(p, Changed) and not p.whole)
        met.append((name, numbers))


def apply(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operator on tensors of which some are `Changed`."""
    with torch._C.DisableTorchFunctionSubclass():
        if getattr(func, "__name__", "") in _PLAIN:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "").startswith("new_"):
            return func(args[0].clean.value, *args[1:], **kwargs)
        if kwargs.get("out") is not None:
            raise WritesIntoWindow("out")
        target = args[0] if args else kwargs.get("input")
        args, kwargs = _unwrapped(args), _unwrapped(kwargs)
        call = read(func, args, kwargs)
        changed = [t for t in call.inputs if isinstance(t, Changed)] if call is not None else []
        if call is None or not changed:
            return _given_dense(func, args, kwargs)
        handler = _HANDLERS.get(call.family)
        result = handler(call) if handler is not None else None
        if result is None and not call.in_place:
            return _given_dense(func, args, kwargs)
        if call.family in (Family.SHAPE, Family.SLICE) or call.name == "detach":
            _lend(changed[0], result)
        if not call.in_place:
            return result
        if result is None:
            _went_dense(call.name, *call.inputs)
            result = call.compute(*dense(call.inputs))
        return _overwritten(target, result, call.name)


_PLAIN = {
    "size",
    "dim",
    "numel",
    "__len__",
    "is_floating_point",
    "ndimension",
    "stride",
    "is_complex",
    "data_ptr",
}
_PLAIN |= {"__get__", "is_contiguous", "element_size", "requires_grad_", "__repr__", "__hash__"}


_LAID: Mapping[Any, Any] = {torch.conv2d: convolved, torch.Tensor.view: viewed}


def _given_dense(func: Any, args: Any, kwargs: Any) -> Any:
    name = getattr(func, "__name__", str(func))
    _went_dense(name, *args)
    writes = (
        (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or name == "__setitem__"
    )
    if writes and args and isinstance(args[0], Changed):
        raise WritesIntoWindow(name)
    return given_dense(_LAID.get(func, func), args, kwargs)


def _unwrapped(value: Any) -> Any:
    """Windows that cover their maps are the dense tensors already."""
    if isinstance(value, Tensor):
        return value.window if isinstance(value, Changed) and value.whole else value
    if isinstance(value, dict):
        return {k: _unwrapped(v) for k, v in value.items()} if value else value
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_unwrapped(v) for v in value)
    return value


def _lend(x: Changed, views: Any) -> None:
    """Remember that several names stand for one memory; an operator in place would have to change them all."""
    x.shared = True
    for view in views if isinstance(views, tuple) else (views,):
        view.shared = True


def _overwritten(target: Any, result: Any, name: str) -> Any:
    if not isinstance(target, Changed):
        return target.copy_(dense(result))
    if target.shared:
        raise WritesIntoWindow(name)
    return target.become(result)


_HANDLERS: Mapping[Family, Handler] = {
    **dict.fromkeys((Family.RELU, Family.ACTIVATION, Family.GATE, Family.FUNCTION), pointwise),
    Family.IDENTITY: identity,
    Family.BATCH_NORM: batch_norm,
    Family.NORM: norm,
    Family.SOFTMAX: softmax,
    Family.LINEAR: linear,
    Family.CONV: convolution,
    Family.MAX_POOL: max_pool,
    Family.AVG_POOL: average,
    Family.REDUCE: reduce,
    **dict.fromkeys((Family.ADD, Family.MUL), combine),
    Family.CAT: concatenated,
    Family.PAD: padded,
    Family.SLICE: sliced,
    Family.RESIZE: resized,
    Family.SHAPE: shaped,
}
