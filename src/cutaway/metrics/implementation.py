"""Whether a map depends on what the network computes alone, and not on how it is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cutaway.core.errors import CutawayError
from cutaway.core.graph import Trace, Value
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.trace import trace

from .metric import Again, UndefinedError, generator, metric, refuse_constant
from .randomization import copied

Way = Literal["both", "fold", "rescale"]
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_HOMOGENEOUS = {Family.RELU, Family.MAX_POOL, Family.AVG_POOL, Family.SHAPE, Family.IDENTITY}
"""g(s h) = s g(h) for s > 0 in each channel; a ReLU with an upper end is none of them."""
_EQUAL = 1e-9
"""How far scores of an equal network may lie apart in double precision, of the largest score."""


@dataclass(frozen=True)
class Equal:
    """A network that computes the same function with other weights.

    `folded` names batch norms that went into the layer before them; `rescaled` pairs of layers, the first of which
    gives each channel enlarged or reduced by a power of two that the second takes back.
    """

    model: VisionModel
    folded: tuple[str, ...]
    rescaled: tuple[tuple[str, str], ...]


@metric(
    title="implementation invariance",
    asks="How far do the maps of two networks that compute the same function lie apart?",
    low=0,
    high=float("inf"),
    better="lower",
    passes=0.001,
    paper="Sundararajan et al. 2017, arXiv:1703.01365, sec. 2.2",
)
def implementation_invariance(
    model: VisionModel,
    x: Tensor,
    again: Again,
    *,
    by: Annotated[
        Way, "how the equal network is made: batch norms folded, channels rescaled through ReLU, or both"
    ] = "both",
    seed: int = 0,
) -> float:
    """max |Phi'(x) - Phi(x)| / (max Phi(x) - min Phi(x)), Phi' of an equal network; see `equal`.

    Both maps are computed in double precision, so that rounding is no difference. Raises `UndefinedError` where no
    equal network can be made, where it leads the method to a map of another size, and for a constant map.
    """
    own = _double(model)
    other = equal(model, x, by=by, seed=seed)
    return residual(again(own, x.double()), again(other.model, x.double()))


def residual(heat: Tensor, other: Tensor) -> float:
    """The largest difference of two maps, of the range of the first.

    >>> residual(torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 4.0]]))
    0.25
    """
    if heat.shape != other.shape:
        sizes = " and ".join("x".join(map(str, h.shape)) for h in (heat, other))
        raise UndefinedError(f"the equal network leads to a map of another size: {sizes}")
    refuse_constant(heat, "a difference of its range is undefined")
    return float((other - heat).abs().max() / (heat.max() - heat.min()))


def equal(model: VisionModel, x: Tensor, *, by: Way = "both", seed: int = 0) -> Equal:
    """Another network of the same function, in double precision; the model itself is not touched.

    A batch norm that is the only reader of a convolution or linear layer is folded into it. Each channel between two
    such layers (or a batch norm and one), with nothing but ReLU, pooling and reshaping between them, is multiplied by
    a random power of two, which is exact. The scores for `x` and for a picture of noise must agree to 1e-9.
    Raises `UndefinedError` when nothing can be changed, and when the scores do not agree.
    """
    chance = generator("implementation_invariance", seed)
    own = _double(model)
    with own.guard():
        graph = trace(own.network, x.double(), run=own)
        pictures = torch.cat(
            [x.double(), torch.rand(x.shape, generator=chance, dtype=torch.float64).to(x.device)]
        )
        right = _scores(own, pictures)
        for each in (True, False):  # where channels lie otherwise than thought, one factor for all of a pair
            changed = _changed(own, graph, by, chance, each=each)
            left = _scores(changed.model, pictures)
            if float((left - right).abs().max()) <= _EQUAL * float(right.abs().max()):
                return changed
    raise UndefinedError("no equal network: with its weights changed it does not compute the same")


def _changed(own: VisionModel, graph: Trace, by: Way, chance: torch.Generator, *, each: bool) -> Equal:
    """A copy with everything folded and rescaled that the graph allows."""
    model = copied(own, "written otherwise")
    network, folded, rescaled = model.network, [], []
    if by != "rescale":
        for before, norm in _folds(network, graph):
            layer, fused = network.get_submodule(before), network.get_submodule(norm)
            fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
            network.set_submodule(before, fuse(layer, fused))
            network.set_submodule(norm, nn.Identity())
            folded.append(norm)
    if by != "fold":
        for first, second in _pairs(network, graph, set(folded)):
            if _rescale(network.get_submodule(first), network.get_submodule(second), chance, each=each):
                rescaled.append((first, second))
    if not folded and not rescaled:
        what = {"fold": "no batch norm to fold", "rescale": "no two layers with only ReLU between them"}
        raise UndefinedError(f"no equal network: it has {what.get(by, ' and '.join(what.values()))}")
    return Equal(model, tuple(folded), tuple(rescaled))


def _folds(network: nn.Module, graph: Trace) -> Iterator[tuple[str, str]]:
    """Every batch norm with the layer before it, where nothing else reads what that layer gives."""
    usable = _usable(network, graph)
    for node in graph.nodes:
        if node.family is Family.BATCH_NORM and node.owner in usable and node.inputs[0] is not None:
            before = graph.nodes[node.inputs[0].node].owner
            norm = usable[node.owner]
            if (
                before in usable
                and isinstance(usable[before], Layer)
                and isinstance(norm, Norm)
                and norm.running_mean is not None
                and _only_reader(graph, node.inputs[0]) == node.index
            ):
                yield before, node.owner


def _pairs(network: nn.Module, graph: Trace, folded: set[str]) -> Iterator[tuple[str, str]]:
    """Layers in a row with nothing between them but what keeps a positive factor."""
    usable = _usable(network, graph)
    for node in graph.nodes:
        if node.owner not in usable or not isinstance(usable[node.owner], Layer | Norm):
            continue
        met, passed_relu = Value(node.index), False
        while (reader := _only_reader(graph, met)) is not None:
            after = graph.nodes[reader]
            if after.owner in folded or (
                after.family in _HOMOGENEOUS and after.arguments.get("high", float("inf")) == float("inf")
            ):
                passed_relu |= after.family is Family.RELU
                met = Value(reader)
                continue
            if after.owner in usable and isinstance(usable[after.owner], Layer) and passed_relu:
                yield node.owner, after.owner
            break


def _only_reader(graph: Trace, value: Value) -> int | None:
    """The one operator that reads a value; None when several do, or when it is the answer."""
    readers = graph.readers.get(value, ())
    return readers[0] if len(readers) == 1 and value not in graph.output else None


def _usable(network: nn.Module, graph: Trace) -> dict[str, nn.Module]:
    """Layers that run once and share no weight with another, by name."""
    runs = Counter(node.owner for node in graph.nodes)
    named = dict(network.named_modules())
    held = Counter(id(p) for m in named.values() for p in m._parameters.values() if p is not None)
    return {
        name: module
        for name, module in named.items()
        if runs[name] == 1 and all(held[id(p)] == 1 for p in module._parameters.values() if p is not None)
    }


def _rescale(first: nn.Module, second: nn.Module, chance: torch.Generator, *, each: bool) -> bool:
    """Multiply the channels between two layers by powers of two, in place; whether their shapes allowed it."""
    weight, bias = first.weight, first.bias
    if not isinstance(weight, Tensor) or not isinstance(second.weight, Tensor):
        return False
    channels, groups = len(weight), int(getattr(second, "groups", 1))
    columns = second.weight.shape[1] * groups  # one for each number that a linear layer reads
    if columns % channels or (columns != channels and not isinstance(second, nn.Linear)):
        return False
    powers = torch.tensor([0.25, 0.5, 2.0, 4.0], dtype=weight.dtype)
    factors = powers[torch.randint(4, (channels if each else 1,), generator=chance)].expand(channels)
    factors = factors.to(weight.device)
    with torch.no_grad():
        weight.mul_(factors.view(-1, *[1] * (weight.ndim - 1)))
        if isinstance(bias, Tensor):
            bias.mul_(factors)
        back = (1 / factors).repeat_interleave(columns // channels).view(groups, -1)
        rows = back.repeat_interleave(len(second.weight) // groups, 0)  # what each output's group reads
        second.weight.mul_(rows.view(*rows.shape, *[1] * (second.weight.ndim - 2)))
    return True


def _double(model: VisionModel) -> VisionModel:
    if model.device.type == "mps":
        raise UndefinedError("this device has no double precision, in which equal networks are compared")
    model = copied(model, "in double precision")
    model.network.double()
    return model


def _scores(model: VisionModel, pictures: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return model(pictures)
    except CutawayError as error:
        raise UndefinedError(f"the network does not run in double precision: {error.found}") from error
