"""Backward rules over operators: the network is run as it is, and named operators send back something else.

A rule belongs to an operator, not to a module, so every spelling obeys it, nothing is hooked and nothing is left
behind. What the mode cannot reach is found by `audit`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .errors import MethodRefusedError
from .operators import Call, Family, owners, read, with_owner

Rule = Callable[[Call, Tensor], tuple[Tensor | None, ...]]
"""(call, signal at the output) -> signal at each of `call.inputs`."""

Rules = Mapping[Family, Rule] | Callable[[Call], Rule | None]
"""A rule per family, or a function that chooses by the call (by owner, for composites by depth)."""

_FRESH = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "size", "dim"}
_FRESH |= {"new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "numel", "is_floating_point"}


def plain(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """The operator's own gradient, as a rule."""
    with torch.enable_grad():
        inputs = tuple(t.detach().requires_grad_() for t in call.inputs)
        output = call.compute(*inputs)
        total = (output * signal).sum()
    return torch.autograd.grad(total, inputs)


_FIRST = {
    "to",
    "type_as",
    "expand_as",
    "view_as",
    "reshape_as",
}  # the second tensor lends its shape or type alone


class Record:
    """What a rewired call remembers; its inputs stay what they were even when later code overwrites them."""

    def __init__(self, call: Call) -> None:
        self.call = replace(call, inputs=tuple(t.detach() for t in call.inputs))
        self.versions = tuple(t._version for t in call.inputs)

    def protect(self) -> None:
        """Keep copies: an in-place operator is about to overwrite the memory."""
        inputs = tuple(t.clone() for t in self.call.inputs)
        self.call = replace(self.call, inputs=inputs)
        self.versions = tuple(t._version for t in inputs)

    def intact(self) -> bool:
        """Whether nothing wrote into the remembered inputs unseen."""
        return self.versions == tuple(t._version for t in self.call.inputs)


class Rewired(torch.autograd.Function):
    """The operator forward; its rule backward."""

    @staticmethod
    def forward(ctx: Any, record: Record, rule: Rule, *inputs: Tensor) -> Any:
        ctx.record, ctx.rule = record, rule
        call = record.call
        if call.in_place:
            record.protect()
            output = call.compute(*record.call.inputs)
            inputs[0].copy_(output)
            ctx.mark_dirty(inputs[0])
            return inputs[0]
        output = call.compute(*inputs)
        if isinstance(output, tuple):
            ctx.mark_non_differentiable(*(o for o in output if not o.is_floating_point()))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, signal: Tensor, *rest: Any) -> tuple[Any, ...]:
        record: Record = ctx.record
        if not record.intact():
            raise MethodRefusedError(
                f"the input of {record.call.name} was overwritten in place by code the rules could not see",
                "in-place changes through PyTorch operators",
                "the network without that in-place change",
            )
        return (None, None, *ctx.rule(record.call, signal))


class backward_rules(TorchFunctionMode):  # noqa: N801 - read as a verb: with backward_rules({...}):
    """While active, operators of the given families obey their rules when differentiated.

    Parameters
    ----------
    rules : a `Rule` per `Family`, or a function from `Call` to a `Rule` or None.
    network : tells rules which layer owns a weight (`Call.owner`).

    `placed` lists the calls that obey a rule, in order; `families` what was met on the way. `bypasses` names
    operators that bring back into the computation what was derived from activations without a gradient
    (`h * (h > 0)`).

    >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> with backward_rules({Family.RELU: lambda call, signal: (signal * 10,)}):
    ...     y = torch.relu(x)
    >>> torch.autograd.grad(y.sum(), x)[0]
    tensor([10., 10.])
    """

    def __init__(self, rules: Rules = MappingProxyType({}), network: nn.Module | None = None) -> None:
        super().__init__()
        self._rules = rules
        self._owners = owners(network) if network is not None else {}
        self._records: dict[int, list[weakref.ref[Record]]] = {}
        self._derived: Any = WeakIdKeyDictionary()
        self.placed: list[Call] = []
        self.families: set[Family] = set()
        self.bypasses: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        if not torch.is_grad_enabled():
            result = func(*args, **kwargs)
            self._mark(func, args, tensors, result, placed=False)
            return result
        call = read(func, args, kwargs)
        self._protect(func, args, call)
        rule = None
        if call is not None and any(t.requires_grad for t in call.inputs):
            self.families.add(call.family)
            call = with_owner(call, self._owners)
            rule = self._choose(call)
        if rule is not None and call is not None:
            result = self._rewire(call, rule)
        else:
            result = func(*args, **kwargs)
        self._mark(func, args, tensors, result, placed=rule is not None)
        return result

    def _choose(self, call: Call) -> Rule | None:
        # a method, for subclasses: handing over one of their own would keep the pass alive in a cycle
        return self._rules(call) if callable(self._rules) else self._rules.get(call.family)

    def _rewire(self, call: Call, rule: Rule) -> Any:
        record = self._record(call)
        for t in call.inputs:
            self._records.setdefault(t.untyped_storage().data_ptr(), []).append(weakref.ref(record))
        self.placed.append(replace(call, inputs=()))
        with torch._C.DisableTorchFunction():  # what a rule computes inside its operator is its own
            return Rewired.apply(record, rule, *call.inputs)

    def _record(self, call: Call) -> Record:
        """What will be remembered of a call until its rule is asked."""
        return Record(call)

    def _protect(self, func: Any, args: Any, call: Call | None) -> None:
        """Before an in-place operator, copy what rewired calls remember of that memory."""
        name = getattr(func, "__name__", "")
        if name in ("numpy", "tolist", "__array__") and any(
            t.requires_grad or t in self._derived for t in _tensors(args)
        ):
            self.bypasses.append(name)
        writes = (
            call.in_place
            if call
            else (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
        )
        if not writes or not args or not isinstance(args[0], Tensor):
            return
        if self._derived.get(args[0]) in ("__get__", "detach"):
            self.bypasses.append(name)  # writes into an activation behind autograd's back
        for ref in self._records.pop(args[0].untyped_storage().data_ptr(), []):
            record = ref()
            if record is not None:
                record.protect()

    def _mark(self, func: Any, args: Any, tensors: list[Tensor], result: Any, *, placed: bool) -> None:
        """Tell the audit which nodes were built here from values that do not depend on activations in secret."""
        name = getattr(func, "__name__", "")
        if name in _FIRST:
            tensors = tensors[:1]
        derived = any(t in self._derived for t in tensors)
        live = any(t.requires_grad for t in tensors)
        outputs = list(_tensors(result))
        if name == "__setitem__":
            outputs.append(args[0])
        for out in outputs:
            if out.requires_grad and out.grad_fn is not None:
                if derived and not placed:
                    self.bypasses.append(name)
                    continue
                _tag(out.grad_fn, "placed" if placed else "seen")
                if placed and out._base is not None and out._base.grad_fn is not None:
                    _tag(out._base.grad_fn, "placed")  # in place on a view: the base's CopySlices
            elif (live or derived) and name not in _FRESH:
                self._derived[out] = name


def _tag(node: Any, mark: str) -> None:
    node.metadata["cutaway"] = mark


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
