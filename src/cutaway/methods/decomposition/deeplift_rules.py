"""The rules of DeepLIFT: how an operator's change from the reference is shared among its inputs.

A rule gets the call, the same call on the reference, and the multipliers at its output; it gives the multipliers at
its inputs, such that multiplier times change adds up to the same on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.operators import Call, Family
from cutaway.core.rules import plain

Shares = tuple[Tensor | None, ...]
PairRule = Callable[[Call, Call, Tensor], Shares]


def midpoint(call: Call, reference: Call, signal: Tensor) -> Shares:
    """The gradient half way: exact for anything of degree two, so for products of two changing factors.

    ab - a'b' = (a - a') (b + b') / 2 + (b - b') (a + a') / 2, each factor's Shapley value.
    """
    middle = tuple((h + r) / 2 for h, r in zip(call.inputs, reference.inputs, strict=True))
    return plain(replace(call, inputs=middle), signal)


def rescale(call: Call, reference: Call, signal: Tensor) -> Shares:
    """A function of one number: (f(h) - f(h')) / (h - h'), the Rescale rule (Shrikumar 2017, sec. 3.5.1)."""
    h, r = _precise(call, call.inputs[0]), _precise(call, reference.inputs[0])
    change = call.compute(h) - call.compute(r)
    return (signal * _quotient(change, h - r, call, h, r).to(signal),)


def _precise(call: Call, h: Tensor) -> Tensor:
    """In float64 where single precision would spoil the small differences of a smooth function."""
    exact = call.family is Family.RELU or h.device.type == "mps"
    parameters = any(isinstance(v, Tensor) for v in call.arguments.values())
    return h if exact or parameters or call.arguments.get("rest") else h.double()


def slope(call: Call, at: Tensor) -> Tensor:
    """The derivative of a function of one number."""
    (found,) = plain(replace(call, inputs=(at,)), torch.ones_like(at))
    assert found is not None
    return found


def _quotient(change: Tensor, by: Tensor, call: Call, h: Tensor, r: Tensor) -> Tensor:
    """change / by; the slope half way where h and r share half their digits, since a quotient would keep few.

    Differences on the straight pieces of a ReLU keep them all.
    """
    digits = 0.0 if call.family is Family.RELU else torch.finfo(h.dtype).eps ** 0.5
    near = by.abs() <= digits * torch.maximum(h.abs(), r.abs())
    if not bool(near.any()):
        return change / by
    return torch.where(near, slope(call, (h + r) / 2), change / torch.where(near, 1, by))


def reveal(call: Call, reference: Call, spread: Tensor) -> tuple[Tensor, Tensor]:
    """RevealCancel (Shrikumar 2017, sec. 3.5.2): multipliers for the positive and the negative part of the change.

    The input changes by p + n, p >= 0 and n <= 0 being the sums of what raises and what lowers it, p - n = `spread`.
    The output's change is shared between the two as between two players: by their Shapley values.
    """
    h, r = _precise(call, call.inputs[0]), _precise(call, reference.inputs[0])
    up, down = ((h - r + spread) / 2).clamp(min=0), ((h - r - spread) / 2).clamp(max=0)
    f = call.compute
    none, both, raised, lowered = f(r), f(h), f(r + up), f(r + down)
    return (
        _quotient((raised - none + both - lowered) / 2, up, call, h, r).to(spread),
        _quotient((lowered - none + both - raised) / 2, down, call, h, r).to(spread),
    )


def ratio(call: Call, reference: Call, signal: Tensor) -> Shares:
    """a / b, shared by Shapley values: a gets (1/b + 1/b') / 2, b gets -(a + a') / (2 b b')."""
    a, b = call.inputs if len(call.inputs) == 2 else (call.arguments["input"], call.inputs[0])
    c, d = reference.inputs if len(call.inputs) == 2 else (reference.arguments["input"], reference.inputs[0])
    by_divisor = (-(a + c) / (2 * b * d) * signal).sum_to_size(b.shape)
    if len(call.inputs) == 1:
        return (by_divisor,)
    return ((1 / b + 1 / d) / 2 * signal).sum_to_size(a.shape), by_divisor


def softmax(call: Call, reference: Call, signal: Tensor) -> Shares:
    """Softmax with its probabilities replaced by p~, the logarithmic mean of p and p'.

    As d ln p = dh - dL, the change of p is p~ (dh - dL), and the change dL of the log of the sum is
    sum(p~ dh) / sum(p~), since probabilities keep adding up to one. Log-softmax: dh - dL itself.
    """
    (h,), (r,) = call.inputs, reference.inputs
    dim = call.arguments.get("dim")
    if dim is None:  # what PyTorch then takes, with a warning of its own
        dim = 0 if h.ndim in (0, 1, 3) else 1
    log, other = F.log_softmax(_precise(call, h), dim), F.log_softmax(_precise(call, r), dim)
    gap = (log - other).abs().nan_to_num()  # both minus infinity where a mask hides a place
    larger = torch.maximum(log, other).exp()
    mean = larger * torch.where(gap == 0, 1, -torch.expm1(-gap) / torch.where(gap == 0, 1, gap))
    mean = mean.to(signal)
    if call.name != "log_softmax":
        signal = signal * mean
    return (signal - mean / mean.sum(dim, keepdim=True) * signal.sum(dim, keepdim=True),)


def pooled(call: Call, reference: Call, signal: Tensor) -> Shares:
    """Max pooling, windows that overlap included: with y and y' pooled from picture and reference,

    max(y, y') - y' goes to the place of y and y - max(y, y') to the place of y'. Both have the sign of the change
    there and at most its size.
    """
    (h,), (r,) = call.inputs, reference.inputs
    y, here = _winners(call)
    z, there = _winners(reference)
    signal, top = signal.reshape(y.shape), torch.maximum(y, z)
    same = here == there
    flat = torch.zeros_like(_planes(call, h))
    given = flat.scatter_add(-1, here, torch.where(same, 0, (top - z) * signal))
    given = given.scatter_add(-1, there, torch.where(same, 0, (y - top) * signal))
    change = _planes(call, h - r)
    direct = flat.scatter_add(-1, here, torch.where(same, signal, 0))
    found = direct + torch.where(change == 0, 0, given / torch.where(change == 0, 1, change))
    return (_back(call, found, h),)


def _winners(call: Call) -> tuple[Tensor, Tensor]:
    """(largest values, their places in `_planes`), windows in the last dimension."""
    (h,) = call.inputs
    if call.name == "amax":
        return _planes(call, h).max(-1, keepdim=True)
    arguments = {k: v for k, v in call.arguments.items() if k != "return_indices"}
    function = getattr(F, call.name.removesuffix("_with_indices"))
    values, places = function(h, **arguments, return_indices=True)
    spatial = _spatial(call)
    return values.flatten(-spatial), places.flatten(-spatial)


def _spatial(call: Call) -> int:
    """How many dimensions a window has."""
    return int(call.name.removesuffix("_with_indices")[-2])


def _planes(call: Call, h: Tensor) -> Tensor:
    """The input with what windows run over as its last dimension."""
    if call.name != "amax":
        return h.flatten(-_spatial(call))
    dims = _reduced(call, h)
    return h.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))


def _back(call: Call, planes: Tensor, h: Tensor) -> Tensor:
    if call.name != "amax":
        return planes.view(h.shape)
    dims = _reduced(call, h)
    kept = [s for d, s in enumerate(h.shape) if d not in dims]
    return planes.view(*kept, *(h.shape[d] for d in dims)).movedim(tuple(range(-len(dims), 0)), dims)


def _reduced(call: Call, h: Tensor) -> tuple[int, ...]:
    """The dimensions a maximum runs over, counted from the front."""
    dims = call.arguments.get("dim", ())
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    return tuple(sorted(d % h.ndim for d in dims)) or tuple(range(h.ndim))
