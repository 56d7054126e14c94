"""RevealCancel: what raises a unit and what lowers it are handed on apart (Shrikumar 2017, sec. 3.5.3).

A number h that weighted sums made has a spread T, the sum of |w (x - x')|: of its change dh, (dh + T) / 2 rises and
(dh - T) / 2 falls. Between such sums and the nonlinearity that reads them a signal is two multipliers, one for each
part. Their mean travels as the gradient, half their difference beside it, in `Spread.half`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from cutaway.core.operators import Call, Family
from cutaway.core.rules import Rule, plain

from .deeplift_pass import Multipliers
from .deeplift_rules import Shares, reveal

_WEIGHTED = (Family.CONV, Family.TRANSPOSED_CONV, Family.LINEAR)
_SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")


class Spread:
    """How far the parts of a number's change reach, and half the difference of their two multipliers."""

    def __init__(self, total: Callable[[], Tensor]) -> None:
        self._total = total
        self._known: Tensor | None = None
        self.half: Tensor | None = None

    def total(self) -> Tensor:
        """T, computed when first asked for, which is on the way back."""
        if self._known is None:
            self._known = self._total()
        return self._known

    def give(self, half: Tensor) -> None:
        """Add what one reader of the number hands back."""
        self.half = half if self.half is None else self.half + half


class RevealCancel(Multipliers):
    """Multipliers with the RevealCancel rule where weighted sums feed a nonlinearity.

    Batch norm and additions between the two are followed; behind anything else the Rescale rule holds.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._spreads: Any = WeakIdKeyDictionary()
        self._made: Spread | None = None

    def rule(self, call: Call, place: int) -> Rule | None:
        """As `Multipliers.rule`, and for what makes or reads a spread."""
        below = [self._spread_of(t) for t in call.inputs]
        first = below[0]
        if any(map(_depends, call.arguments.values())):
            return super().rule(call, place)
        if call.family in _WEIGHTED:
            return self._weighted(place)
        if first is not None and call.family is Family.BATCH_NORM and not call.arguments.get("training"):
            return self._normed(call, first)
        if call.family is Family.ADD and any(below) and _plain_sum(call):
            return self._added(place, below)
        if first is not None and call.family in (Family.RELU, Family.ACTIVATION, Family.GATE):
            return self._revealed(place, first)
        return super().rule(call, place)

    def _rewire(self, call: Call, rule: Rule) -> Any:
        result = super()._rewire(call, rule)
        if self._made is not None:
            self._spreads[result] = (result._version, self._made)
            self._made = None
        return result

    def _spread_of(self, t: Tensor) -> Spread | None:
        version, spread = self._spreads.get(t, (None, None))
        return spread if version == t._version else None

    def _change(self, place: int, i: int = 0) -> Tensor:
        return self.trace[place].call.inputs[i] - self.at_reference(place).inputs[i]

    def _weighted(self, place: int) -> Rule:
        own = self._made = Spread(
            lambda: _absolute(self.trace[place].call).compute(self._change(place).abs())
        )

        def rule(call: Call, signal: Tensor) -> Shares:
            (found,) = plain(call, signal)
            if own.half is None or found is None:
                return (found,)
            (apart,) = plain(_absolute(call), own.half)
            assert apart is not None
            return (found + self._change(place).sign() * apart,)

        return rule

    def _normed(self, call: Call, below: Spread) -> Rule:
        scale = _scale(call)
        own = self._made = Spread(lambda: below.total() * scale)

        def rule(call: Call, signal: Tensor) -> Shares:
            if own.half is not None:
                below.give(own.half * scale)
            return plain(call, signal)

        return rule

    def _added(self, place: int, below: list[Spread | None]) -> Rule:
        def part(i: int) -> Tensor:
            spread = below[i]
            return self._change(place, i).abs() if spread is None else spread.total()

        own = self._made = Spread(lambda: part(0) + part(1))

        def rule(call: Call, signal: Tensor) -> Shares:
            found = [signal, signal]
            if own.half is not None:
                for i, spread in enumerate(below):
                    if spread is None:
                        found[i] = signal + self._change(place, i).sign() * own.half
                    else:
                        spread.give(own.half)
            return tuple(found)

        return rule

    def _revealed(self, place: int, below: Spread) -> Rule:
        def rule(call: Call, signal: Tensor) -> Shares:
            rising, falling = reveal(call, self.at_reference(place), below.total())
            below.give(signal * (rising - falling) / 2)
            return (signal * (rising + falling) / 2,)

        return rule


def _absolute(call: Call) -> Call:
    """The weighted sum with |w| and without a bias."""
    weight = call.arguments["weight"].abs()
    return replace(call, arguments={**call.arguments, "weight": weight, "bias": None})


def _scale(call: Call) -> Tensor:
    """|g| / sqrt(v + eps) of a batch norm, along the channels."""
    a = call.arguments
    scale: Tensor = (a["running_var"] + a.get("eps", 1e-5)).rsqrt()
    if a.get("weight") is not None:
        scale = scale * a["weight"]
    return scale.abs().view(1, -1, *[1] * (call.inputs[0].ndim - 2))


def _plain_sum(call: Call) -> bool:
    a = call.inputs
    same = len(a) == 2 and a[0].shape == a[1].shape and all(t.requires_grad for t in a)
    return same and call.name in _SUMS and "alpha" not in call.arguments


def _depends(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad
