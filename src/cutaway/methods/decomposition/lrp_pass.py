"""Layer-wise relevance propagation through a whole network: which operator shares by which rule.

Signals are relevances themselves, so operators that only move numbers (reshape, concatenate, slice) need no rule,
and max pooling gives everything to its winner. What the rules do not reach is refused by name.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from cutaway.core.audit import audit, node_names
from cutaway.core.errors import MethodRefusedError
from cutaway.core.operators import Call, Family, read
from cutaway.core.rules import Rule, backward_rules, plain

from .lrp_rules import Ledger, RuleName, Strengths, WeightedSum, contributions, relevance

PASSES = frozenset({Family.MAX_POOL})
"""Max pooling is the one family whose plain gradient shares relevance: the winner takes it all."""

_INSTEAD = "deeplift, which shares by changes and has rules for more operators, or occlusion"

_WEIGHTED = (Family.CONV, Family.TRANSPOSED_CONV, Family.LINEAR)
_MOVES = (Family.SHAPE, Family.SLICE, Family.IDENTITY, Family.CAT, Family.PAD)
# Autograd nodes that hand every relevance on unchanged; a weighted sum no rule saw is not among them.
_HARMLESS = {
    *(
        "Rewired",
        "AccumulateGrad",
        "Alias",
        "AsStrided",
        "Clone",
        "Contiguous",
        "Copy",
        "CopySlices",
        "Detach",
    ),
    *("ToCopy", "View", "UnsafeView", "Reshape", "ReshapeAlias", "Permute", "Transpose", "T", "Movedim"),
    *("Squeeze", "Unsqueeze", "Expand", "Repeat", "Roll", "Flip", "Slice", "Select", "Narrow", "Split"),
    *("SplitWithSizes", "Chunk", "Unbind", "Cat", "Stack", "Index", "IndexSelect", "Gather", "PixelShuffle"),
    *("PixelUnshuffle", "ChannelShuffle", "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleNearestExact2D"),
    *("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D"),
    *("MkldnnMaxPool2D", "Amax", "Max"),
}


@dataclass(frozen=True)
class Composite:
    """A rule for layers that see pixels, for convolutions and for dense layers; or bands of depth.

    `bands` are (share of the layers, rule) from the input upwards; they go before `conv` and `dense`.
    """

    pixels: RuleName | None
    conv: RuleName
    dense: RuleName
    bands: tuple[tuple[float, RuleName], ...] = ()

    def rule(self, *, pixels: bool, dense: bool, depth: float) -> RuleName:
        """The rule of a layer; `depth` is 0 for the first and below 1 for the last."""
        if pixels and self.pixels is not None:
            return self.pixels
        for end, name in self.bands:
            if depth < end:
                return name
        return self.dense if dense else self.conv


class _Made(NamedTuple):
    """A weighted sum that ran: the call, its place among the layers, and what its tensors were then."""

    call: Call
    place: int
    versions: tuple[int, int]


class RelevanceRules(backward_rules):
    """While active, the network's operators share relevance among their inputs.

    Batch norm right after a weighted sum is merged into it, W' = W g/s and b' = (b - m) g/s + h, and the rule acts
    on the merged layer. A sigmoid gate is a constant: its signal takes all. Arithmetic with constants on the pixels
    themselves is preprocessing, and passes relevance on as it is.
    """

    def __init__(self, composite: Composite, strengths: Strengths, pictures: int, network: nn.Module) -> None:
        super().__init__(network=network)
        self.ledger = Ledger(pictures)
        self.merged, self.gated, self.alone = 0, 0, 0
        self._composite, self._strengths = composite, strengths
        self._layers = 0
        self._place: int | None = None  # of the layer that a batch norm is being merged into
        self._made: Any = WeakIdKeyDictionary()
        self._gates: Any = WeakIdKeyDictionary()
        self._bounds: Any = WeakIdKeyDictionary()

    def start(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Begin with the network's input and the values its pixels can take."""
        self._bounds[x] = (x._version, low, high)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = read(func, args, kwargs) if torch.is_grad_enabled() else None
        if call is None or not any(t.requires_grad for t in call.inputs):
            return super().__torch_function__(func, types, args, kwargs)
        made = self._merges(call)
        bounds = self._moved(call, func, args, kwargs)
        if made is not None:
            call = _merged(made.call, call)
            self._place = made.place
            self.merged += 1
            func, args = call.function, call.inputs
            kwargs = dict(call.arguments)
        elif call.family is Family.MUL:
            gate = self._gate(call)
            if gate is not None:
                self.gated += 1
                args = tuple(a.detach() if a is gate else a for a in args)
                kwargs = {k: v.detach() if v is gate else v for k, v in kwargs.items()}
        source = call.inputs[0]
        version = source._version
        place = self._layers if self._place is None else self._place
        result = super().__torch_function__(func, types, args, kwargs)
        self._place = None
        if bounds is not None:
            parts = (
                zip([result], bounds, strict=True)
                if isinstance(result, Tensor)
                else zip(result, bounds, strict=True)
            )
            for tensor, (low, high) in parts:
                self._bounds[tensor] = (tensor._version, low, high)
        if isinstance(result, Tensor):
            if call.family in _WEIGHTED and made is None:
                self._made[result] = _Made(call, place, (version, result._version))
            if call.family is Family.GATE:
                self._gates[result] = weakref.ref(source)
            elif call.family in _MOVES and source in self._gates:
                self._gates[result] = self._gates[source]
        return result

    def _choose(self, call: Call) -> Rule | None:
        """The rule of one operator, or None where the gradient moves relevance rightly or nothing does."""
        live = [t.requires_grad for t in call.inputs]
        family = call.family
        if family in _WEIGHTED or (family is Family.MATMUL and len(live) == 2 and sum(live) == 1):
            return self._weighted(call, live)
        if family is Family.RELU:
            return _pass
        if (
            family in (Family.ADD, Family.MUL, Family.BATCH_NORM)
            and sum(live) == 1
            and self._sees_pixels(call)
        ):
            return _pass if not call.arguments.get("training") else None
        if family is Family.MUL:
            divides = call.name.strip("_") in ("div", "truediv", "itruediv", "true_divide")
            rounds = call.arguments.get("rounding_mode") is not None
            return None if sum(live) != 1 or rounds or (divides and not live[0]) else _pass
        if family is Family.BATCH_NORM:
            if call.arguments.get("training"):
                return None
            self.alone += 1
            return partial(self._contributions, live=live, epsilon=self._strengths.epsilon)
        # interpolation blends neighbours; pixel shuffles and nearest neighbours only move
        blends = call.name == "interpolate" and "nearest" not in call.arguments.get("mode", "nearest")
        if blends or family in (Family.ADD, Family.AVG_POOL, Family.REDUCE):
            return partial(self._contributions, live=live, epsilon=0.0)
        if family is Family.PAD or (family is Family.CAT and not all(live)):
            return partial(self._moves, live=live)
        return None

    def _weighted(self, call: Call, live: list[bool]) -> Rule | None:
        made = (call.arguments.get("weight"), call.arguments.get("bias"))
        if any(isinstance(t, Tensor) and t.requires_grad for t in made):  # a filter made from the picture
            return None
        place = self._place
        if place is None:
            place = self._layers
            self._layers += 1
        at = live.index(True)
        bounds = self._bounds_of(call.inputs[at])

        def rule(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
            dense = call.family in (Family.LINEAR, Family.MATMUL)
            name = self._composite.rule(pixels=bounds is not None, dense=dense, depth=place / self._layers)
            layer = WeightedSum.of(call, at)
            found = relevance(name, layer, signal, self._strengths, self.ledger, bounds)
            return tuple(found if i == at else None for i in range(len(call.inputs)))

        return rule

    def _contributions(
        self, call: Call, signal: Tensor, *, live: list[bool], epsilon: float
    ) -> tuple[Tensor | None, ...]:
        return contributions(call, signal, self.ledger, live, epsilon)

    def _moves(self, call: Call, signal: Tensor, *, live: list[bool]) -> tuple[Tensor | None, ...]:
        found = plain(call, signal)
        self.ledger.book("nowhere", signal)  # but for what the pictures' own parts get
        for part, depends in zip(found, live, strict=True):
            if depends and part is not None:
                self.ledger.book("nowhere", -part)
        return found

    def _merges(self, call: Call) -> _Made | None:
        """The weighted sum whose output this batch norm scales, while both are what they were."""
        if call.family is not Family.BATCH_NORM or call.arguments.get("training"):
            return None
        made: _Made | None = self._made.get(call.inputs[0])
        if made is None or made.versions != (made.call.inputs[0]._version, call.inputs[0]._version):
            return None
        return None if made.call.family is Family.LINEAR and call.inputs[0].ndim != 2 else made

    def _gate(self, call: Call) -> Tensor | None:
        """The factor that is a gate computed from something else than the other factor, if exactly one is."""
        if len(call.inputs) != 2 or call.arguments.get("rounding_mode") is not None:
            return None
        found = [
            (t, other)
            for t, other in (call.inputs, call.inputs[::-1])
            if t in self._gates and self._gates[t]() is not other
        ]
        return found[0][0] if len(found) == 1 else None

    def _bounds_of(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        found = self._bounds.get(tensor)
        return None if found is None or found[0] != tensor._version else (found[1], found[2])

    def _sees_pixels(self, call: Call) -> bool:
        return all(self._bounds_of(t) is not None for t in call.inputs if t.requires_grad)

    def _moved(self, call: Call, func: Any, args: Any, kwargs: Any) -> list[tuple[Tensor, Tensor]] | None:
        """Bounds of each output, where the operator only moves pixels or scales them by constants."""
        live = [t for t in call.inputs if t.requires_grad]
        affine = call.family in (Family.ADD, Family.MUL, Family.BATCH_NORM) and len(live) == 1
        if not (affine or call.family in _MOVES) or not self._sees_pixels(call):
            return None
        ends = []
        for i in (0, 1):
            at_end = {id(t): (self._bounds_of(t) or (t, t))[i] for t in call.inputs}
            with torch.no_grad():
                if affine:
                    ends.append(call.compute(*(at_end[id(t)] for t in call.inputs)))
                else:
                    ends.append(func(*_replaced(args, at_end), **_replaced(kwargs, at_end)))
        pairs = [tuple(ends)] if isinstance(ends[0], Tensor) else list(zip(*ends, strict=True))
        return [(torch.minimum(a, b), torch.maximum(a, b)) for a, b in pairs]


def reach(mode: RelevanceRules, outputs: list[Tensor], name: str = "lrp") -> None:
    """Raise `MethodRefusedError` naming each operator that shares relevance by no rule."""
    for output in outputs:
        audit(output, mode, passes=PASSES, method=name, instead=_INSTEAD)
        strangers = sorted(node_names(output) - _HARMLESS)
        if strangers:
            spelled = "; ".join(f"{s[:1].lower()}{s[1:]}" for s in strangers)
            raise MethodRefusedError(
                f"{name} has no rule for {spelled} as this network spells it",
                "convolutions, linear layers, batch norm, ReLU, pooling, additions and gates through PyTorch functions",
                f"{_INSTEAD}, or the usual spelling of the operator",
            )


def _replaced(value: Any, tensors: dict[int, Tensor]) -> Any:
    """Arguments with other tensors in the places of some."""
    if isinstance(value, dict):
        return {k: _replaced(v, tensors) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_replaced(v, tensors) for v in value)
    return tensors.get(id(value), value)


def _pass(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """Relevance as it is, summed where an input was broadcast."""
    return tuple(signal.sum_to_size(t.shape) for t in call.inputs)


def _merged(layer: Call, norm: Call) -> Call:
    """The weighted sum with the batch norm inside: W' = W g/s, b' = (b - m) g/s + h, s = sqrt(v + eps)."""
    a, weight, bias = norm.arguments, layer.arguments["weight"], layer.arguments.get("bias")
    scale = (a["running_var"] + a.get("eps", 1e-5)).rsqrt()
    if a.get("weight") is not None:
        scale = scale * a["weight"]
    offset = (0 if bias is None else bias) - a["running_mean"]
    offset = offset * scale
    if a.get("bias") is not None:
        offset = offset + a["bias"]
    if layer.family is Family.TRANSPOSED_CONV:  # (in, out / groups, ...), outputs counted group by group
        groups = layer.arguments.get("groups", 1)
        parts = weight.view(groups, -1, *weight.shape[1:])
        scaled = parts * scale.view(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        weight = scaled.view(weight.shape)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return replace(layer, arguments={**layer.arguments, "weight": weight, "bias": offset})
