"""The rules of layer-wise relevance propagation, each written once for any weighted sum.

Relevance R_k of an output is shared among the inputs j in proportion to contributions,
R_j = sum_k z_jk / (sum_j z_jk + b_k) R_k; a rule says which contributions z_jk count. What the offset b_k or a
stabiliser takes, and what finds no contribution at all, is booked in a `Ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.operators import Call, Family

RuleName = Literal["zero", "epsilon", "gamma", "z_plus", "alpha_beta", "flat", "w_square", "box"]
Pair = tuple[Tensor, Tensor, float]
"""(input, weight, sign): one of the sums a denominator is made of."""


@dataclass
class Ledger:
    """What did not reach the inputs, per picture (N,): by offsets, by stabilisers, and at units without contributions."""

    pictures: int
    entries: dict[str, Tensor] = field(default_factory=dict)

    def book(self, name: str, amount: Tensor) -> None:
        """Add a tensor of relevance, batch first, to an entry."""
        if amount.shape[0] % self.pictures == 0:
            found = amount.reshape(self.pictures, -1).sum(1).double()
            self.entries[name] = self.entries[name] + found if name in self.entries else found


@dataclass(frozen=True)
class Strengths:
    """The numbers in the rules: epsilon (in units of the layer's output), gamma, and alpha = beta + 1."""

    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0


@dataclass(frozen=True)
class WeightedSum:
    """A convolution, linear layer or matrix product: `sums(x, w)` is its output without offset for other numbers."""

    call: Call
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    sums: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def of(cls, call: Call, live: int = 0) -> WeightedSum:
        """The weighted sum a call computes; `live` is the factor of a matrix product that is no constant."""
        if call.family is Family.MATMUL:
            left, right = call.inputs
            if live == 1:
                return cls(call, right, left, None, lambda x, w: call.function(w, x))
            return cls(call, left, right, None, lambda x, w: call.function(x, w))
        x, weight, bias = call.inputs[0], call.arguments["weight"], call.arguments.get("bias")
        if bias is not None and call.family is not Family.LINEAR:
            bias = bias.view(-1, *[1] * (weight.ndim - 2))
        return cls(call, x, weight, bias, lambda x, w: call.compute(x, weight=w, bias=None))

    def output(self) -> Tensor:
        """What the forward pass computed, to the bit."""
        with torch.no_grad():
            if self.call.family is Family.MATMUL:
                return self.sums(self.x, self.weight)
            out: Tensor = self.call.compute(self.x)
            return out


def relevance(
    name: RuleName,
    layer: WeightedSum,
    signal: Tensor,
    strengths: Strengths,
    ledger: Ledger,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Relevance of a layer's inputs for the relevance of its outputs, by the rule of that name.

    `bounds` are the lowest and highest values the inputs can take, for "box".
    """
    x, w, b = layer.x, layer.weight, layer.bias
    if name in ("zero", "epsilon"):  # Bach 2015, eq. 56 and 58; Montavon 2019, sec. 10.2.1
        epsilon = strengths.epsilon if name == "epsilon" else 0.0
        return share(layer, [(x, w, 1)], signal, ledger, b, total=layer.output(), epsilon=epsilon)
    if name == "flat":  # Lapuschkin 2019, "Unmasking Clever Hans predictors", methods
        return share(layer, [(torch.ones_like(x), torch.ones_like(w), 1)], signal, ledger)
    if name == "w_square":  # Montavon 2017, "deep Taylor decomposition", eq. 12
        return share(layer, [(torch.ones_like(x), w * w, 1)], signal, ledger)
    if name == "box":  # Montavon 2019, table 10.1, z^B: x w - l w+ - h w-
        if bounds is None:
            raise ValueError("the box rule needs bounds")
        low, high = bounds
        pairs: list[Pair] = [(x, w, 1), (low, w.clamp(min=0), -1), (high, w.clamp(max=0), -1)]
        return share(layer, pairs, signal, ledger)
    if name == "gamma":
        return _gamma(layer, signal, strengths.gamma, ledger)
    alpha = 1.0 if name == "z_plus" else strengths.alpha
    result = share(layer, _signed(x, w, 0, 1), alpha * signal, ledger, _part(b, 1))
    if alpha != 1:  # Bach 2015, eq. 60: alpha z+/sum z+ - beta z-/sum z-, alpha - beta = 1
        result = result + share(layer, _signed(x, w, 0, -1), (1 - alpha) * signal, ledger, _part(b, -1))
    return result


def share(
    layer: WeightedSum,
    pairs: Sequence[Pair],
    signal: Tensor,
    ledger: Ledger,
    bias: Tensor | None = None,
    *,
    total: Tensor | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Share `signal` in proportion to the products in `pairs`: one forward and one backward pass of the operator.

    `total` is sum + bias where it is known to the bit. The stabiliser has the sign of the total, plus at zero.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x, _, _ in pairs]
        sums = torch.stack(
            [sign * layer.sums(leaf, w) for leaf, (_, w, sign) in zip(leaves, pairs, strict=True)]
        ).sum(0)
    if total is None:
        total = sums.detach() if bias is None else sums.detach() + bias
    factor = quotient(signal, total, ledger, bias, epsilon)
    with torch.enable_grad():
        handed = (sums * factor).sum()
    found = torch.autograd.grad(handed, leaves)
    return torch.stack([leaf.detach() * g for leaf, g in zip(leaves, found, strict=True)]).sum(0)


def quotient(
    signal: Tensor, total: Tensor, ledger: Ledger, bias: Tensor | None = None, epsilon: float = 0.0
) -> Tensor:
    """signal / (total + epsilon sign(total)), zero where there is nothing to divide by; books what is lost."""
    size = torch.full_like(total, epsilon)
    stabiliser = torch.where(total >= 0, size, -size)
    below = total + stabiliser
    # smaller sums are rounding errors of zero, and a division by them could overflow
    alive = below.abs() > torch.finfo(below.dtype).tiny ** 0.5
    factor = torch.where(alive, signal / torch.where(alive, below, torch.ones_like(below)), 0)
    ledger.book("nowhere", torch.where(alive, 0, signal))
    if bias is not None:
        ledger.book("biases", factor * bias)
    if epsilon:
        ledger.book("stabilisers", factor * stabiliser)
    return factor


def contributions(
    call: Call, signal: Tensor, ledger: Ledger, live: Sequence[bool], epsilon: float = 0.0
) -> tuple[Tensor, ...]:
    """Share among the inputs of an operator that is linear but for an offset: additions, means, batch norm alone.

    `live` says which inputs depend on the picture; the others and the offset count as biases.
    """
    with torch.enable_grad():
        leaves = tuple(t.detach().requires_grad_() for t in call.inputs)
        output = call.compute(*leaves)
    total = output.detach()
    factor = quotient(signal, total, ledger, epsilon=epsilon)
    with torch.enable_grad():
        handed = (output * factor).sum()
    found = torch.autograd.grad(handed, leaves)
    shares = tuple(t.detach() * g for t, g in zip(leaves, found, strict=True))
    if call.family in (Family.ADD, Family.BATCH_NORM):
        ledger.book("biases", factor * total)
        for part, depends in zip(shares, live, strict=True):
            if depends:
                ledger.book("biases", -part)
    return shares


def _gamma(layer: WeightedSum, signal: Tensor, gamma: float, ledger: Ledger) -> Tensor:
    """Contributions of the output's own sign count 1 + gamma times.

    For inputs and outputs above zero this is w + gamma w+ of Montavon 2019, sec. 10.2.1; the form for either sign
    keeps every denominator at least as large as the output, so that nothing needs a stabiliser.
    """
    x, w, b = layer.x, layer.weight, layer.bias
    output = layer.output()
    result = torch.zeros_like(x)
    for sign in (1, -1):
        own = output.sign() == sign
        if bool((signal * own).any()):
            offset = None if b is None else b + gamma * (b.clamp(min=0) if sign > 0 else b.clamp(max=0))
            result = result + share(layer, _signed(x, w, 1, sign, gamma), signal * own, ledger, offset)
    ledger.book("nowhere", signal * (output == 0))
    return result


def _signed(x: Tensor, w: Tensor, base: float, sign: int, factor: float = 1.0) -> list[Pair]:
    """Pairs whose sum is base * x w + factor * (the part of x w that has the sign)."""
    up, down = w.clamp(min=0), w.clamp(max=0)
    with_up, with_down = (up, down) if sign > 0 else (down, up)
    pairs: list[Pair] = [(x.clamp(min=0), base * w + factor * with_up, 1)]
    if bool((x < 0).any()):
        pairs.append((x.clamp(max=0), base * w + factor * with_down, 1))
    return pairs


def _part(bias: Tensor | None, sign: int) -> Tensor | None:
    if bias is None:
        return None
    return bias.clamp(min=0) if sign > 0 else bias.clamp(max=0)
