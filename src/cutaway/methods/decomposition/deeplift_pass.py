"""DeepLIFT through a whole network: two passes, picture and reference, and the rules between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError
from cutaway.core.operators import Call, Family, read
from cutaway.core.rules import Record, Rule, backward_rules

from .deeplift_rules import PairRule, Shares, midpoint, pooled, ratio, rescale, softmax
from .elementary import written_out

ONE_NUMBER = (Family.RELU, Family.ACTIVATION, Family.GATE, Family.FUNCTION)


class Multipliers(backward_rules):
    """While active, remembers what every operator that bends was given, so that another pass can be compared.

    One watches the picture's pass, one the reference's. After `against` has tied them, differentiating the
    picture's pass gives multipliers instead of slopes. Normalisation by the picture's statistics and attention run
    written out, so that the rules see their products and powers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network=network)
        self.trace: list[Record] = []
        self._path: list[tuple[Any, ...]] = []
        self._reference: list[Record] = []

    def against(self, reference: Multipliers) -> None:
        """Compare with that pass. Raises `MethodRefusedError` when it went another way through the network."""
        if self._path != reference._path:
            raise MethodRefusedError(
                "the network takes another path for the baseline than for the picture",
                "networks that run the same operators on every picture",
                "integrated_gradients or occlusion",
            )
        self._reference = reference.trace

    def at_reference(self, place: int) -> Call:
        """The call that the reference's pass made at the same place of the trace."""
        record = self._reference[place]
        if not record.intact():
            raise MethodRefusedError(
                f"the input of {record.call.name} was overwritten in place by code the rules could not see",
                "in-place changes through PyTorch operators",
                "the network without that in-place change",
            )
        return record.call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_grad_enabled():
            call = read(func, args, kwargs)
            composite = call is not None and call.family in (Family.NORM, Family.ATTENTION)
            if call is not None and composite and any(t.requires_grad for t in call.inputs):
                with self:
                    result = written_out(func, args, kwargs)
                if result is not None:
                    return result
        return super().__torch_function__(func, types, args, kwargs)

    def _record(self, call: Call) -> Record:
        record = Record(call)
        self.trace.append(record)
        return record

    def _choose(self, call: Call) -> Rule | None:
        self._path.append((call.name, call.owner, *(tuple(t.shape) for t in call.inputs)))
        return self.rule(call, len(self.trace))

    def rule(self, call: Call, place: int) -> Rule | None:
        """The rule of a call, None for one that is linear in the picture or that no rule is for."""
        pair = pair_rule(call)
        if pair is None:
            return None

        def obey(call: Call, signal: Tensor) -> Shares:
            return pair(call, self.at_reference(place), signal)

        return obey


def pair_rule(call: Call) -> PairRule | None:
    """The rule of an operator that bends; None where its gradient is the same for picture and reference."""
    live = [t.requires_grad for t in call.inputs]
    if any(isinstance(v, Tensor) and v.requires_grad for v in call.arguments.values()):
        return None  # a filter or bound made from the picture; the audit names it
    if call.family in ONE_NUMBER:
        return None if call.name == "rrelu" and call.arguments.get("training") else rescale
    if call.family is Family.MAX_POOL:
        return pooled
    if call.family is Family.SOFTMAX:
        return softmax
    if call.family is Family.MUL:
        if call.arguments.get("rounding_mode") is not None:
            return None
        if call.name.strip("_") in ("div", "truediv", "itruediv", "true_divide"):
            return ratio if call.input_names[live.index(True) :][-1:] == ("other",) and live[-1] else None
        return midpoint if sum(live) == 2 else None
    if call.family is Family.MATMUL:
        return midpoint if sum(live) >= 2 else None
    return None
