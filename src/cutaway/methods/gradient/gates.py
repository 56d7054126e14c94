"""Which piece of a piecewise linear network a picture falls into."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.operators import Call, Family
from cutaway.core.rules import backward_rules

KINKED = frozenset({Family.RELU, Family.MAX_POOL})
"""Families that are linear but for their kinks."""
CURVED = frozenset(
    {Family.ACTIVATION, Family.GATE, Family.FUNCTION, Family.SOFTMAX, Family.NORM, Family.ATTENTION}
)
"""Families that bend between kinks."""


class Gates:
    """Watches a forward pass: the state of every ReLU and max pooling, one 64-bit fingerprint per picture.

    Pictures with the same states lie in one convex piece of the network, on which it is linear (every ReLU state
    and every choice of a maximum is a linear inequality once those before it are settled). So where both ends of
    a segment have one fingerprint, no kink lies between them.

    >>> gates = Gates()
    >>> with gates.watch(3):
    ...     y = torch.relu(torch.tensor([[-1.0, 2.0], [-3.0, 1.0], [1.0, 1.0]], requires_grad=True))
    >>> a, b, c = gates.fingerprints.tolist()
    >>> a == b, a == c, gates.families
    (True, False, {<Family.RELU: 'ReLU'>})
    """

    def __init__(self) -> None:
        self.fingerprints = torch.zeros(1, dtype=torch.int64)
        self.families: set[Family] = set()
        self._met = 0

    def watch(self, pictures: int) -> backward_rules:
        """The mode under which to run the network once on a batch; nothing but watching happens."""
        self.fingerprints, self.families, self._met = torch.zeros(pictures, dtype=torch.int64), set(), 0
        return backward_rules(self._see)

    def _see(self, call: Call) -> None:
        self.families.add(call.family)
        if call.family in KINKED:
            with torch.no_grad():
                states = _states(call)
                if states.numel() % len(self.fingerprints):
                    return  # shared by the whole batch: it cannot tell its pictures apart
                states = states.reshape(len(self.fingerprints), -1)
                self._met += 1
                generator = torch.Generator().manual_seed(self._met)
                top = 2**62
                odd = torch.randint(-top, top, (states.shape[1],), generator=generator).to(states.device) | 1
                # sums of random 64-bit numbers wrap around, which is what a fingerprint wants
                self.fingerprints = self.fingerprints.to(states.device) + (states * odd).sum(1)


def _states(call: Call) -> Tensor:
    """A whole number per gate: which side of each kink it is on, or which position is the maximum."""
    x = call.inputs[0].detach()
    states: Tensor
    if call.family is Family.RELU:
        states = (x > 0).long() + (x >= call.arguments["high"]).long()
    elif call.name == "amax":
        states = (x == call.compute(x, keepdim=True)).long()
    else:
        arguments = {k: v for k, v in call.arguments.items() if k != "return_indices"}
        states = getattr(F, call.name.removesuffix("_with_indices"))(x, **arguments, return_indices=True)[1]
    return states
