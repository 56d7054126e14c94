"""What the autograd graph between a target and its input really contains.

A backward rule is only as good as its reach. The audit walks the graph and accepts a node when it is linear,
was placed by a rule, or belongs to a family that the method lets pass as plain gradient; anything else is
refused by name, so that the plain gradient is never returned under another name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from .errors import MethodRefusedError
from .operators import Family
from .rules import Rewired, backward_rules

_LINEAR = [
    "Convolution",
    "ConvolutionOverrideable",
    "MkldnnConvolution",
    "CudnnConvolution",
    "Addmm",
    "Addbmm",
    "Baddbmm",
    "Mv",
    "Linear",
    "MkldnnLinear",
    "ConvTranspose",
    "SlowConv2D",
    "SlowConvDilated2D",
    "ConvDepthwise2D",
    "ThnnConvDepthwise2D",
    "T",
    "View",
    "UnsafeView",
    "Reshape",
    "ReshapeAlias",
    "Permute",
    "Transpose",
    "Expand",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Select",
    "Narrow",
    "Diagonal",
    "Cat",
    "Stack",
    "Split",
    "SplitWithSizes",
    "Chunk",
    "Unbind",
    "Unfold",
    "Im2Col",
    "Col2Im",
    "AsStrided",
    "Alias",
    "Clone",
    "ToCopy",
    "Copy",
    "Contiguous",
    "Add",
    "Sub",
    "Rsub",
    "Neg",
    "Mean",
    "Sum",
    "Cumsum",
    "AvgPool2D",
    "AvgPool1D",
    "AvgPool3D",
    "AdaptiveAvgPool2D",
    "AdaptiveAvgPool1D",
    "AdaptiveAvgPool3D",
    "MkldnnAdaptiveAvgPool2D",
    "ConstantPadNd",
    "ReflectionPad1D",
    "ReflectionPad2D",
    "ReplicationPad1D",
    "ReplicationPad2D",
    "ReplicationPad3D",
    "Roll",
    "Flip",
    "Repeat",
    "UpsampleNearest1D",
    "UpsampleNearest2D",
    "UpsampleBilinear2D",
    "UpsampleBicubic2D",
    "UpsampleBilinear2DAa",
    "UpsampleNearestExact2D",
    "GridSampler2D",
    "PixelShuffle",
    "PixelUnshuffle",
    "ChannelShuffle",
    "NativeDropout",
    "Detach",
    "AccumulateGrad",
    "Movedim",
    "Triu",
    "Tril",
    "IndexSelect",
]
_NODES: dict[str, Family] = {
    **dict.fromkeys(["Relu", "Hardtanh", "Clamp", "ClampMin", "ClampMax", "Threshold"], Family.RELU),
    **dict.fromkeys(
        [
            "MaxPool2DWithIndices",
            "AdaptiveMaxPool2D",
            "MkldnnMaxPool2D",
            "Amax",
            "Max",
        ],
        Family.MAX_POOL,
    ),
    **dict.fromkeys(
        [
            "NativeLayerNorm",
            "NativeGroupNorm",
            "FusedRmsNorm",
            "LinalgVectorNorm",
            "Norm",
            "Rsqrt",
            "Var",
            "Std",
        ],
        Family.NORM,
    ),
    **dict.fromkeys(["Sigmoid", "Hardsigmoid"], Family.GATE),
    **dict.fromkeys(
        [
            "Gelu",
            "Silu",
            "Mish",
            "Hardswish",
            "LeakyRelu",
            "Prelu",
            "PreluKernel",
            "Elu",
            "Softplus",
            "Tanh",
            "Celu",
            "RreluWithNoise",
            "LogSigmoid",
            "Hardshrink",
            "Softshrink",
            "Erf",
        ],
        Family.ACTIVATION,
    ),
    **dict.fromkeys(["Softmax", "LogSoftmax"], Family.SOFTMAX),
    **dict.fromkeys(["Mul", "Div", "Mm", "Bmm"], Family.MUL),
}
_BILINEAR = {"Convolution", "Addmm", "Addbmm", "Baddbmm", "Mv", "Linear", "GridSampler2D"}
_CHOOSING = {"Where", "MaskedFill", "IndexPut", "Index", "Gather", "CopySlices", "MaskedScatter", "Scatter"}


def audit(
    output: Tensor,
    rules: backward_rules | None = None,
    *,
    passes: Collection[Family] = (),
    method: str = "this method",
    instead: str = "a method without backward rules (saliency, grad_cam, occlusion)",
) -> dict[Family, int]:
    """Check every node behind `output`; return how many of each passed family there are.

    Parameters
    ----------
    output : the tensor a target reads, computed while `rules` was active.
    passes : families whose plain gradient the method lets pass.
    method, instead : its name, and what to use in its place, for the message.

    Raises `MethodRefusedError` naming each operator that is out of reach.
    """
    found: dict[Family, int] = {}
    strangers: dict[str, None] = {}
    for node in _walk(output):
        family = _family(node)
        if family is None:
            continue
        if isinstance(family, Family) and family in passes:
            found[family] = found.get(family, 0) + 1
            continue
        strangers[_describe(node, family)] = None
    if rules is not None:
        for name in dict.fromkeys(rules.bypasses):
            strangers[f"{name} with a mask or copy computed from activations"] = None
    if strangers:
        raise MethodRefusedError(
            f"{method} cannot reach {'; '.join(strangers)}",
            "operators that are linear, obey one of its rules, or pass as plain gradient"
            + (f" ({', '.join(sorted(f.value for f in passes))})" if passes else ""),
            f"{instead}, or the usual spelling of the operator",
        )
    return found


def node_names(output: Tensor) -> set[str]:
    """The operators behind a tensor, as autograd names them, such as {"Addmm", "Mean"}."""
    return {_name(node) for node in _walk(output)}


def _walk(output: Tensor) -> Iterator[Any]:
    seen: set[Any] = set()
    stack = [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)


def _family(node: Any) -> Family | str | None:
    """None for a node that is right as it stands; otherwise its family, or its name when it has none."""
    name = _name(node)
    mark = node.metadata.get("cutaway")
    if mark == "placed" or getattr(type(node), "_forward_cls", None) is Rewired:
        return None
    if isinstance(node, BackwardCFunction):  # written by hand: its name says nothing
        return f"{name}, a custom autograd function"
    factors = [parent for parent, _ in node.next_functions]
    factors = factors[1:3] if name in ("Addmm", "Addbmm", "Baddbmm") else factors[:2]
    if name in _BILINEAR and None not in factors and len(factors) == 2:
        return Family.MUL
    if name in ("Amax", "Max") and not _over_positions(node):
        return "a maximum over other things than positions"
    if name in _LINEAR:
        return None
    if name.endswith("BatchNorm"):
        if _training(node):
            return "batch norm in training mode"
        return Family.MUL if factors[1:] and factors[1] is not None else None  # a scale made from the picture
    live = sum(parent is not None for parent, _ in node.next_functions)
    if name in ("Mul", "Div", "Mm", "Bmm") and live < 2:
        # one factor is a constant: a number, a parameter, or something the mode saw come from neither mask nor copy
        divided_by_live = name == "Div" and node.next_functions[0][0] is None
        if not divided_by_live and (mark == "seen" or name in ("Mm", "Bmm") or _scalar(node)):
            return None
        return Family.MUL if divided_by_live else "a product with a mask or copy computed from activations"
    if name == "Mul" and _is_swish(node):
        return Family.ACTIVATION
    if name in _CHOOSING and mark == "seen":
        return None
    if name.startswith("ScaledDotProduct"):
        return Family.ATTENTION
    return _NODES.get(name, name)


def _name(node: Any) -> str:
    return re.sub(r"(Backwards?\d*)+$", "", node.name().rpartition("::")[2])


def _over_positions(node: Any) -> bool:
    """Whether a maximum runs over rows and columns, as global max pooling does."""
    dims = getattr(node, "_saved_dim", None)
    dims = dims if isinstance(dims, tuple) else (dims,)
    behind = {2, 3, -1, -2, 2**64 - 1, 2**64 - 2}  # autograd keeps negative numbers unsigned
    return bool(dims) and all(d in behind for d in dims)


def _training(node: Any) -> bool:
    return bool(getattr(node, "_saved_training", False))


def _scalar(node: Any) -> bool:
    for side in ("_saved_other", "_saved_self"):
        saved = getattr(node, side, None)
        if isinstance(saved, Tensor):
            return saved.ndim == 0
    return True


def _is_swish(node: Any) -> bool:
    """x * sigmoid(x), SiLU spelled by hand."""
    parents = [p for p, _ in node.next_functions]
    for gate, other in (parents, parents[::-1]):
        if (
            gate is not None
            and _name(gate) in ("Sigmoid", "Hardsigmoid", "Tanh")
            and gate.next_functions[0][0] is other
        ):
            return True
    return False


def _describe(node: Any, family: Family | str) -> str:
    spelled = f"{_name(node)[:1].lower()}{_name(node)[1:]}"
    if family is Family.RELU:
        return f"{spelled}, a ReLU written where its rule cannot act (scripted or custom code, or bounds that are no ReLU's)"
    if isinstance(family, Family):
        return f"{spelled} ({family.value})"
    return spelled if family == _name(node) else f"{spelled}: {family}"
