"""How each operator reads its inputs: which rows, columns and channels, and what its output dimensions mean.

Operators over windows or whole axes stand here; those that work place by place in `reading_elementwise`, those
over matrices in `reading_mixing`, over shapes in `reading_shapes`. What is not understood is said to be unknown,
with the operator's name, and never guessed.
"""

from __future__ import annotations

from typing import Any

from .axes import Dim, Dims, Kind, full, other
from .graph import Node
from .links import (
    POSITIONS,
    Handler,
    Inputs,
    Link,
    Reader,
    Reading,
    everywhere,
    inside,
    mixes,
    refused,
    same,
    sizes,
)
from .operators import Family
from .reading_elementwise import POINTWISE, elementwise
from .steps import (
    SAME,
    Slide,
    Step,
    Unknown,
    Whole,
    adaptive,
    everything,
    grouped,
    padded,
    placed,
    resized,
    transposed,
    unchanged,
)

__all__ = [
    "POINTWISE",
    "POSITIONS",
    "REDUCTIONS",
    "Handler",
    "Inputs",
    "Link",
    "Reader",
    "Reading",
    "convolution",
    "elementwise",
    "everywhere",
    "mixes",
    "normalisation",
    "padding",
    "pooling",
    "reduction",
    "refused",
    "resizing",
    "same",
    "sizes",
    "slide",
    "spread",
]

REDUCTIONS = {
    *("mean", "sum", "std", "var", "var_mean", "std_mean", "amax", "amin", "max", "min", "logsumexp", "norm"),
    *(
        "argmax",
        "argmin",
        "prod",
        "median",
        "any",
        "all",
        "count_nonzero",
        "softmax",
        "log_softmax",
        "softmin",
    ),
    *("cumsum", "sort", "topk", "std_mean"),
}


def spread(value: Any, count: int, default: int = 1) -> tuple[int, ...]:
    """A number or a sequence of numbers, one for each spatial axis."""
    if value is None or value == () or value == []:
        return (default,) * count
    if isinstance(value, (tuple, list)):
        return tuple(int(v) for v in value) * (count if len(value) == 1 else 1)
    return (int(value),) * count


def slide(node: Node, dims: Dims, steps: list[Step], channels: Reader, width: int | None) -> list[Reading]:
    """An operator that slides along the last dimensions, one step each; `width` new channels before them."""
    count = len(steps)
    found: dict[Kind, Step] = {}
    shape = node.shapes[0]
    out = list(dims[:-count]) + [other(n) for n in shape[-count:]]
    for i, step in zip(range(len(dims) - count, len(dims)), steps, strict=True):
        dim, size = dims[i], shape[i]
        kind = next((k for k in POSITIONS if dim.is_full(k)), None)
        if kind is None and dim.size == count - 1 == 1:
            kind = POSITIONS[i - len(dims)]  # a map of one position after global pooling
        if step == SAME and dim.size == size:
            out[i] = dim
        elif kind is not None:
            found[kind] = step
            out[i] = Dim() if isinstance(step, Whole) and size == 1 else full(kind, size)
        else:
            for kind in dim.positions:
                found[kind] = Unknown(f"{node.name}{inside(node)} slides over an axis that mixes positions")
    if width is not None:
        for kind in dims[-count - 1].positions:
            found[kind] = Whole(f"{node.name}{inside(node)} mixes all positions")
        out[-count - 1] = full(Kind.CHANNEL, width)
    link = Link(found, channels)
    return [Reading(tuple(out), (link,)) for _ in node.shapes]


def convolution(node: Node, ins: Inputs) -> list[Reading]:
    """Convolutions, plain, grouped, dilated, transposed."""
    dims, weight, a = ins[0], node.arguments["weight"].shape, node.arguments
    if dims is None:
        return refused(node, ins, f"{node.name}{inside(node)} convolves a constant with the picture")
    count = len(weight) - 2
    kernel = weight[2:]
    stride, dilation = spread(a.get("stride"), count), spread(a.get("dilation"), count)
    padding = a.get("padding", 0)
    groups = int(a.get("groups", 1))
    outs, channels_in = node.shapes[0][-count - 1], dims[-count - 1].size
    steps: list[Step] = []
    for i in range(count):
        reach = dilation[i] * (kernel[i] - 1)
        if node.family is Family.TRANSPOSED_CONV:
            steps.append(transposed(kernel[i], stride[i], spread(padding, count, 0)[i], dilation[i]))
            continue
        left = {"same": reach // 2, "valid": 0}.get(padding) if isinstance(padding, str) else None
        left = spread(padding, count, 0)[i] if left is None else left
        steps.append(Slide(stride[i], -left, kernel[i], dilation[i]))
    return slide(node, dims, steps, grouped(channels_in, outs, groups), outs)


def pooling(node: Node, ins: Inputs) -> list[Reading]:
    """Max and average pooling: windows, adaptive bins, or a reduction over dimensions."""
    dims, a = ins[0], node.arguments
    if dims is None:
        return refused(node, ins)
    if "dim" in a or node.name == "amax":
        return reduction(node, ins)
    shape = node.shapes[0]
    count = int(node.name[node.name.index("pool") + 4])
    steps: list[Step] = []
    if "adaptive" in node.name:
        for size, bins in zip(sizes(dims)[-count:], shape[-count:], strict=True):
            whole = Whole(f"{node.name}{inside(node)} pools over the whole picture")
            steps.append(whole if bins == 1 < size else adaptive(size, bins))
    else:
        kernel = spread(a["kernel_size"], count)
        stride = kernel if a.get("stride") in (None, (), []) else spread(a["stride"], count)
        padding, dilation = spread(a.get("padding"), count, 0), spread(a.get("dilation"), count)
        steps = [Slide(s, -p, k, d) for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)]
    return slide(node, dims, steps, unchanged, None)


def reduction(node: Node, ins: Inputs) -> list[Reading]:
    """Mean, sum, softmax and the like over some dimensions."""
    dims, a = ins[0], node.arguments
    if dims is None:
        return refused(node, ins)
    extra = a.get("args", ())
    over = a["dim"] if "dim" in a else (extra[1] if len(extra) > 1 else None)
    if over is not None and not isinstance(over, (int, tuple, list)):
        return refused(node, ins)
    wanted = range(len(dims)) if over is None or over == () else spread(over, 1)
    axes = {i % len(dims) for i in wanted}
    positions = {kind for i in axes for kind in dims[i].positions}
    channels = everything if any(Kind.CHANNEL in dims[i].kinds for i in axes) else unchanged
    link = Link(mixes(node, positions, "runs over all positions"), channels)
    kept = tuple(Dim() if i in axes else d for i, d in enumerate(dims))
    dropped = tuple(d for i, d in enumerate(dims) if i not in axes)
    out = []
    for shape in node.shapes:
        choices = [d for d in (dims, kept, dropped) if sizes(d) == shape]
        out.append(Reading(choices[0] if choices else tuple(other(n) for n in shape), (link,)))
    return out


def normalisation(node: Node, ins: Inputs) -> list[Reading]:
    """Layer, group, instance and response norms: whole over the axes whose statistics they take."""
    dims, a = ins[0], node.arguments
    if dims is None:
        return refused(node, ins)
    if node.name in ("layer_norm", "rms_norm"):
        axes = range(len(dims) - len(a["normalized_shape"]), len(dims))
    elif node.name in ("group_norm", "instance_norm"):
        axes = range(1 if node.name == "group_norm" else 2, len(dims))
        if node.name == "instance_norm" and not a.get("use_input_stats", True):
            axes = range(0)
    elif node.name == "normalize":
        axes = range(a.get("dim", 1) % len(dims), a.get("dim", 1) % len(dims) + 1)
    elif node.name == "local_response_norm":
        axes = range(1, 2)
    else:  # batch norm
        axes = range(2, len(dims)) if a.get("training") else range(0)
    positions = {kind for i in axes for kind in dims[i].positions}
    channels = everything if any(Kind.CHANNEL in dims[i].kinds for i in axes) else unchanged
    return same(node, ins, Link(mixes(node, positions, "takes statistics over all positions"), channels))


def padding(node: Node, ins: Inputs) -> list[Reading]:
    """Padding of rows, columns, tokens or channels."""
    dims, a = ins[0], node.arguments
    if dims is None:
        return refused(node, ins)
    out = list(dims)
    steps: dict[Kind, Step] = {}
    channels: Reader = unchanged
    pairs = list(zip(a["pad"][::2], a["pad"][1::2], strict=True))
    for back, (left, right) in enumerate(pairs, start=1):
        i = len(dims) - back
        dim, size = dims[i], node.shapes[0][i]
        if left == right == 0:
            continue
        kind = next((k for k in (*POSITIONS, Kind.CHANNEL) if dim.is_full(k)), None)
        out[i] = full(kind, size) if kind else other(size)
        if kind is Kind.CHANNEL:
            channels = placed(left, dim.size)
        elif kind is not None:
            steps[kind] = padded(dim.size, left, a.get("mode") or "constant")
        elif dim.positions and min(left, right) >= 0 and a.get("mode", "constant") == "constant":
            out[i] = Dim(dim.atoms, dim.before + left, dim.after + right)
        else:
            steps |= {k: Unknown(f"{node.name}{inside(node)} pads mixed positions") for k in dim.positions}
    return [Reading(tuple(out), (Link(steps, channels),))]


def resizing(node: Node, ins: Inputs) -> list[Reading]:
    """Interpolation and pixel shuffle."""
    dims, a, shape = ins[0], node.arguments, node.shapes[0]
    if dims is None:
        return refused(node, ins)
    steps: list[Step] = []
    if node.name == "pixel_unshuffle":
        r = int(a["args"][1] if len(a.get("args", ())) > 1 else a["downscale_factor"])
        return slide(node, dims, [Slide(r, 0, r)] * 2, everything, shape[-3])
    if "upscale_factor" in a:
        r = int(a["upscale_factor"])
        steps = [resized(n, n * r, "nearest", False, None) or SAME for n in sizes(dims)[-2:]]
        return slide(node, dims, steps, everything, shape[-3])
    count = len(dims) - 2
    factor = None if a.get("recompute_scale_factor") else a.get("scale_factor")
    factors = factor if isinstance(factor, (tuple, list)) else (factor,) * count
    for n, m, scale in zip(sizes(dims)[2:], shape[2:], factors, strict=True):
        step = resized(n, m, a.get("mode") or "nearest", bool(a.get("align_corners")), scale)
        if step is None or a.get("antialias"):
            return refused(node, ins)
        steps.append(step)
    return slide(node, dims, steps, unchanged, None)
