"""The operator families and how each is spelled in PyTorch.

Everything that looks inside a forward pass (backward rules, the audit, receptive fields, incremental inference)
asks this one table which family a call belongs to, which of its arguments carry activations, and how to compute
it again. A new spelling is one line here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .spellings import TABLE, Family, Spelling

__all__ = ["Call", "Family", "Spelling", "owners", "read", "with_owner"]


@dataclass(frozen=True)
class Call:
    """One operator at work: what ran, on which activations, with which other arguments.

    `inputs` are the activations (for a concatenation, all its parts); `arguments` everything else by name;
    `owner` the layer whose parameter it used, when known. `compute` runs it again, out of place.
    """

    family: Family
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    arguments: Mapping[str, Any]
    input_names: tuple[str, ...]
    in_place: bool = False
    owner: str | None = None

    @property
    def name(self) -> str:
        """The spelling, such as "conv2d" or "relu_"."""
        return getattr(self.function, "__name__", str(self.function))

    def compute(self, *inputs: Tensor, **changed: Any) -> Any:
        """The operator's output for other inputs or arguments, never in place.

        >>> x = torch.tensor([-1.0, 2.0])
        >>> call = read(torch.relu_, (x,), {})
        >>> call.compute(x), x
        (tensor([0., 2.]), tensor([-1.,  2.]))
        """
        arguments = {**self.arguments, **changed}
        arguments.pop("inplace", None)
        if self.family is Family.RELU:
            high = arguments["high"]
            return torch.relu(inputs[0]) if math.isinf(high) else inputs[0].clamp(0, high)
        if self.input_names == ("tensors",):
            return self.function(list(inputs), **arguments)
        function = _out_of_place(self.function)
        named = dict(zip(self.input_names, inputs, strict=True))
        order = TABLE[self.function].names
        positional = []
        merged = {**named, **arguments}
        rest = merged.pop("rest", ())  # variadic shapes: view(2, -1)
        for name in order:
            if name not in merged:
                break
            positional.append(merged.pop(name))
        return function(*positional, *rest, **merged)


def read(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """The call in normal form, or None for an operator that is in no family.

    Spellings of one operator give one form: every ReLU, as a module, a function, a method or a clamp at zero,
    in place or not, comes out with family RELU and the argument `high` (infinity, or 6 for ReLU6).

    >>> read(torch.Tensor.clamp, (torch.zeros(2),), {"min": 0}).family
    <Family.RELU: 'ReLU'>
    >>> read(torch.Tensor.clamp, (torch.zeros(2),), {"min": -1}) is None
    True
    """
    spelling = TABLE.get(function)
    if spelling is None:
        return None
    values = dict(kwargs)
    names = spelling.names
    if len(args) > len(names):  # variadic shapes: view(2, -1), permute(0, 2, 1)
        values |= dict(zip(names, args, strict=False))
        values["rest"] = args[len(names) :]
    else:
        values |= dict(zip(names, args, strict=False))
    in_place = spelling.in_place or bool(values.get("inplace", False))
    values.pop("inplace", None)
    if spelling.family is Family.RELU:
        bounds = _relu_bounds(function, values)
        if bounds is None:
            return None
        return Call(Family.RELU, function, (values["input"],), {"high": bounds}, ("input",), in_place)
    if spelling.inputs == ("tensors",):
        parts = values.pop("tensors")
        return Call(spelling.family, function, tuple(parts), values, ("tensors",), in_place)
    if "input" not in values:  # a keyword the table does not know, such as Tensor.add(other=...)
        return None
    inputs = {n: values.pop(n) for n in spelling.inputs if isinstance(values.get(n), Tensor)}
    return Call(spelling.family, function, tuple(inputs.values()), values, tuple(inputs), in_place)


def with_owner(call: Call, owners: Mapping[int, str]) -> Call:
    """The call with the layer that owns its weight, found by the identity of the weight."""
    for name in ("weight", "other", "running_mean"):
        owner = owners.get(id(call.arguments.get(name)))
        if owner is not None:
            return replace(call, owner=owner)
    for value in call.inputs:
        if id(value) in owners:
            return replace(call, owner=owners[id(value)])
    return call


def owners(network: torch.nn.Module) -> dict[int, str]:
    """The layer name for the identity of every parameter and buffer."""
    found: dict[int, str] = {}
    for layer, module in network.named_modules():
        for _, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            found.setdefault(id(tensor), layer)
    return found


def _relu_bounds(function: Any, values: dict[str, Any]) -> float | None:
    """Upper bound of a ReLU spelling, or None when the call is no ReLU."""
    name = function.__name__.strip("_")
    if name == "relu":
        return math.inf
    if name == "relu6":
        return 6.0
    if name == "hardtanh":
        low, high = values.get("min_val", -1.0), values.get("max_val", 1.0)
    elif name == "threshold":
        if values.get("threshold") != 0 or values.get("value") != 0:
            return None
        low, high = 0, math.inf
    else:
        low, high = values.get("min"), values.get("max")
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low is None or low != 0:
        return None
    return math.inf if high is None else float(high)


def _out_of_place(function: Any) -> Any:
    """The spelling that leaves its input alone."""
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        for home in (torch.Tensor, torch, F):
            if getattr(home, name, None) is function and hasattr(home, name[:-1]):
                return getattr(home, name[:-1])
    if name.startswith("__i") and name.endswith("__"):
        return getattr(torch.Tensor, f"__{name[3:]}")
    return function
