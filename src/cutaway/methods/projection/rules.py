"""The backward rules of projections, and one pass that uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.audit import audit
from cutaway.core.errors import MethodRefusedError
from cutaway.core.model import VisionModel
from cutaway.core.operators import Call, Family
from cutaway.core.readers import Channel, Unit
from cutaway.core.rules import Rule, backward_rules
from cutaway.core.target import Target, flat, gradient, not_differentiable, observe

Start = Annotated[Literal["gradient", "activation"], "what a hidden map starts from"]
Keep = Annotated[
    Literal["auto", "map", "maximum"],
    "of a hidden map: all of it, or its strongest position; auto: the position with `layers`, else the map",
]
"""Types of the options `start` and `keep`."""

PASSES = frozenset({Family.MAX_POOL, Family.NORM, Family.GATE, Family.MUL})
"""Families whose plain gradient a projection lets pass; max pooling's is its switch."""


def open_gate(call: Call) -> Tensor:
    """Where the ReLU (or ReLU6) let its input through."""
    h = call.inputs[0]
    high: float = call.arguments["high"]
    return (h > 0) & (h < high)


def deconvnet_relu(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """Rectify the signal itself: R>0 (Zeiler & Fergus 2014, sec. 2.1)."""
    return (signal.clamp(min=0),)


def guided_relu(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """Rectify the signal and keep the gate: R>0 and h>0 (Springenberg 2015, sec. 3.4)."""
    return (signal.clamp(min=0) * open_gate(call),)


def skip_contrast(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """Local response normalisation passes the signal as it is."""
    return (signal,)


def overwrite_pool(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """Unpooling that writes each signal at its switch; where windows overlap, the last in reading order stays.

    The gradient of max pooling adds such signals instead. Equal for windows that do not overlap.
    """
    x = call.inputs[0]
    spatial = x.ndim - 2 if x.ndim > 3 else x.ndim - 1
    arguments = {k: v for k, v in call.arguments.items() if k != "return_indices"}
    name = call.name.removesuffix("_with_indices")
    indices = getattr(torch.nn.functional, name)(x, **arguments, return_indices=True)[1]
    places, positions = indices.flatten(-spatial), signal.flatten(-spatial)
    order = torch.arange(places.shape[-1], device=x.device).expand_as(places)
    flat = x.flatten(-spatial)
    last = torch.full(flat.shape, -1, dtype=torch.int64, device=x.device)
    last = last.scatter_reduce(-1, places, order, "amax")
    out = positions.gather(-1, last.clamp(min=0)) * (last >= 0)
    return (out.view_as(x),)


@dataclass(frozen=True)
class Projection:
    """A projected picture (N, 3, H, W), the target's value (N,), notes, and the families met on the way."""

    picture: Tensor
    value: Tensor
    notes: tuple[str, ...]
    families: frozenset[Family]


def project(
    model: VisionModel,
    x: Tensor,
    target: Target,
    rules: Mapping[Family, Rule],
    *,
    name: str,
    start: Start,
    keep: Keep,
) -> Projection:
    """One forward and one backward pass under `rules`, keyed by family; NORM's acts on local response normalisation.

    `start="activation"` starts a hidden unit or map from its own values (everything else in the layer zero);
    `"gradient"` from the derivative of the target. `keep="maximum"` keeps only a map's strongest position.
    Raises `MethodRefusedError` when an operator is out of the rules' reach, or when no ReLU obeys them.
    """
    x = x.detach().requires_grad_()
    with under(rules, model) as mode:
        values = observe(model, x, target)
    value = target.read(values)
    notes = reach(mode, [values[r.layer] for _, r in target.terms], target.label(), name) if rules else ()
    outputs, seeds = [], []
    for weight, reader in target.terms:
        activation = values[reader.layer]
        if isinstance(reader, (Channel, Unit)) and (start == "activation" or keep == "maximum"):
            outputs.append(activation)
            seeds.append(weight * _start(activation.detach(), reader, start, keep))
        else:
            outputs.append(weight * reader.read(activation))
            seeds.append(torch.ones_like(outputs[-1]))
    if not all(o.requires_grad for o in outputs):
        raise not_differentiable()
    # one scalar instead of grad_outputs, for which PyTorch first loads a symbolic algebra package
    total = torch.stack([(output * seed).sum() for output, seed in zip(outputs, seeds, strict=True)]).sum()
    (picture,) = gradient(total, x)
    return Projection(picture, value.detach(), notes + flat(picture, target), frozenset(mode.families))


def under(rules: Mapping[Family, Rule], model: VisionModel) -> backward_rules:
    """The mode in which the model's operators obey `rules`; NORM's acts on local response normalisation alone."""

    def choose(call: Call) -> Rule | None:
        other_norm = call.family is Family.NORM and call.name != "local_response_norm"
        return None if other_norm or call.name == "amax" else rules.get(call.family)

    return backward_rules(choose, model.network)


def reach(mode: backward_rules, tensors: Sequence[Tensor], label: str, name: str) -> tuple[str, ...]:
    """The note on what passed as plain gradient between the picture and `tensors`, which are called `label`.

    Raises `MethodRefusedError` for what the rules of the method `name` do not reach.
    """
    passed: dict[Family, int] = {}
    for tensor in tensors:
        passed |= audit(tensor, mode, passes=PASSES, method=name)
    if not any(c.family is Family.RELU for c in mode.placed):
        raise MethodRefusedError(
            f"no ReLU lies between the picture and {label}, so {name} would be the plain gradient",
            "networks with ReLU",
            "saliency or grad_cam",
        )
    stated = [f"{n} x {f.value}" for f, n in passed.items() if f is not Family.MAX_POOL]
    return (f"passed as plain gradient: {', '.join(sorted(stated))}",) if stated else ()


def _start(activation: Tensor, reader: Channel | Unit, start: Start, keep: Keep) -> Tensor:
    """The signal at the layer: zero but for the unit or map that is asked about."""
    mask = torch.zeros_like(activation)
    each = torch.arange(len(activation), device=activation.device)
    channel = torch.as_tensor(reader.channel, device=activation.device).expand(len(activation))
    if isinstance(reader, Unit):
        mask[each, channel, reader.row, reader.col] = 1
    elif keep == "maximum" and activation.ndim == 4:
        one = activation[each, channel].flatten(1)
        peak = torch.nn.functional.one_hot(one.argmax(1), one.shape[1])
        mask[each, channel] = peak.to(mask).view_as(mask[:, 0])
    else:
        mask[each, channel] = 1
        if start == "gradient":
            mask /= activation[0, 0].numel()  # the target is the map's mean
    return mask * activation if start == "activation" else mask
