"""Convolutions one after another as one convolution: the chain from the picture to a layer, and its kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError
from cutaway.core.graph import Node, Value
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.trace import trace

from .common import exact

_POOLS = (Family.MAX_POOL, Family.AVG_POOL)
_SILENT = (Family.IDENTITY, Family.PAD)
_BENT = (Family.RELU, Family.ACTIVATION)


@dataclass(frozen=True)
class Affine:
    """One step y = k * x + b of a chain: kernel (O, I, kh, kw), already dilated, float64."""

    kernel: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    layer: str | None = None


@dataclass(frozen=True)
class Chain:
    """The steps from the picture up to a layer, lowest first, and what was ignored on the way."""

    steps: tuple[Affine, ...]
    notes: tuple[str, ...]

    @property
    def convolutions(self) -> list[int]:
        """Places of the convolutions among the steps."""
        return [i for i, step in enumerate(self.steps) if step.layer is not None]


def halves(found: Chain) -> tuple[Affine, Affine]:
    """(the last convolution but one seen from the picture, the last one), each with its batch norm, no pooling between.

    Raises `IndexError` for a chain of one convolution.
    """
    lower, upper = found.convolutions[-2], found.convolutions[-1]
    between = tuple(s for s in found.steps[lower + 1 : upper] if s.kernel.shape[2:] == (1, 1))
    return compose((*found.steps[: lower + 1], *between)), compose(found.steps[upper:])


def compose(steps: tuple[Affine, ...]) -> Affine:
    """One step that equals all of them, lowest first, wherever padding plays no part.

    K[o, i, p] = sum_m sum_q k2[o, m, q] k1[m, i, p - q s1], with k1 and k2 dilated: size
    (k1 - 1) + 1 + s1 (k2 - 1) and stride s1 s2; bias b2 + sum k2 b1.

    >>> one = Affine(torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    >>> compose((one, one)).kernel.flatten().tolist()
    [1.0, 2.0, 1.0]
    """
    top = steps[-1]
    kernel, bias, (down, across) = top.kernel, top.bias, top.stride
    for lower in reversed(steps[:-1]):
        bias = bias + kernel.sum((2, 3)) @ lower.bias
        # the transposed convolution of the upper kernel with the lower one is the sum over q above
        kernel = F.conv_transpose2d(kernel, lower.kernel, stride=lower.stride)
        down, across = down * lower.stride[0], across * lower.stride[1]
    return Affine(kernel, bias, (down, across), top.layer)


def chain(model: VisionModel, layer: str, *, pool: str = "refuse") -> Chain:
    """The chain of convolutions and batch norms from the picture to a layer's convolution, its batch norm included.

    Nonlinearities are left out and noted. Max pooling has no kernel: `pool="mean"` puts mean pooling in its place
    and says so. Raises `MethodRefusedError` for anything else that joins or mixes on the way.
    """
    graph = model.layers.trace
    node = next((n for n in graph.nodes if n.owner == layer and n.family is Family.CONV), None)
    if node is None:
        raise _refused(layer, "it is no convolution with weights of its own")
    first = _network_input(model)
    notes: dict[str, None] = {}
    steps: list[Affine] = []
    above = _norm_above(model, node)
    if above is not None:
        steps.append(_norm(model, above, layer))
    while True:
        steps += _steps(model, node, layer, pool, notes)
        (parent,) = node.parents if len(node.parents) == 1 else (None,)
        if parent is None:
            raise _refused(layer, f"{node.name} joins several values below it")
        if parent.node == first:
            return Chain(tuple(reversed(steps)), tuple(notes))
        if parent.node < first:
            raise _refused(layer, "it reads the picture before it was normalised")
        node = graph.nodes[parent.node]


def _steps(model: VisionModel, node: Node, layer: str, pool: str, notes: dict[str, None]) -> list[Affine]:
    if node.family is Family.CONV:
        return [_convolution(model, node, layer)]
    if node.family is Family.BATCH_NORM:
        return [_norm(model, node, layer)]
    if node.family in _SILENT:
        return []
    if node.family in _BENT:
        notes[f"{node.name.strip('_')} is ignored: the kernel is what a unit sees while it stays open"] = None
        return []
    if node.family in _POOLS:
        if node.family is Family.MAX_POOL and pool != "mean":
            raise _refused(
                layer, "max pooling lies below it and has no kernel", "pool=mean, which averages instead"
            )
        if node.family is Family.MAX_POOL:
            notes["max pooling is replaced by mean pooling"] = None
        return [_pool(node, layer)]
    kind = node.family.value if node.family else "unknown operator"
    raise _refused(layer, f"{node.name} ({kind}) lies below it")


def _convolution(model: VisionModel, node: Node, layer: str) -> Affine:
    module = model.network.get_submodule(node.owner) if node.owner else None
    if not isinstance(module, nn.Conv2d) or len(node.parents) != 1:
        raise _refused(layer, f"the weights of {node.scope or node.name} are computed, not stored")
    weight = exact(module.weight)
    outputs, inputs, height, width = weight.shape
    dense = weight.new_zeros(module.groups, outputs // module.groups, module.groups, inputs, height, width)
    for group in range(module.groups):
        dense[group, :, group] = weight.view(module.groups, -1, inputs, height, width)[group]
    kernel = dense.view(outputs, -1, height, width)
    down, across = (int(d) for d in module.dilation)
    dilated = kernel.new_zeros(*kernel.shape[:2], down * (height - 1) + 1, across * (width - 1) + 1)
    dilated[..., ::down, ::across] = kernel
    bias = exact(module.bias) if module.bias is not None else weight.new_zeros(outputs)
    return Affine(dilated, bias, (int(module.stride[0]), int(module.stride[1])), node.owner)


def _norm(model: VisionModel, node: Node, layer: str) -> Affine:
    """Eval-mode batch norm as a 1x1 convolution: y = (x - mean) gamma / sqrt(var + eps) + beta."""
    module = model.network.get_submodule(node.owner) if node.owner else None
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        raise _refused(layer, "a batch norm without statistics of its own lies below it")
    mean, variance = exact(module.running_mean), exact(module.running_var)
    gamma = exact(module.weight) if module.affine else torch.ones_like(mean)
    beta = exact(module.bias) if module.affine else torch.zeros_like(mean)
    factor = gamma / (variance + module.eps).sqrt()
    return Affine(factor.diag()[:, :, None, None], beta - mean * factor)


def _pool(node: Node, layer: str) -> Affine:
    found = node.arguments.get("kernel_size")
    if found is None:
        raise _refused(layer, f"{node.name} takes its window from the picture's size")
    kernel = _pair(found)
    stride = _pair(node.arguments.get("stride") or kernel)
    if _pair(node.arguments.get("dilation", 1)) != (1, 1):
        raise _refused(layer, "dilated pooling lies below it")
    channels = node.shapes[0][1]
    eye = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
    return Affine(eye.expand(-1, -1, *kernel) / (kernel[0] * kernel[1]), eye.new_zeros(channels), stride)


def _norm_above(model: VisionModel, node: Node) -> Node | None:
    """The batch norm that alone reads a convolution's output."""
    readers = model.layers.trace.readers.get(Value(node.index), ())
    above = model.layers.trace.nodes[readers[0]] if len(readers) == 1 else None
    return above if above is not None and above.family is Family.BATCH_NORM else None


def _network_input(model: VisionModel) -> int:
    """The node that made the network's input: the last one of the preprocessing."""
    x = torch.zeros(1, model.preprocess.pixel_channels, 2, 2, device=model.device, dtype=model.dtype)
    return len(trace(nn.Identity(), x, run=model.preprocess.normalise).nodes) - 1


def _pair(value: object) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return int(sides[0]), int(sides[-1])


def _refused(layer: str, why: str, hint: str = "") -> MethodRefusedError:
    return MethodRefusedError(
        f"no effective kernel for {layer!r}: {why}",
        "convolutions and batch norms one after another from the picture, nonlinearities ignored",
        hint or "an earlier layer, or saliency with a unit of this layer at a picture",
    )
