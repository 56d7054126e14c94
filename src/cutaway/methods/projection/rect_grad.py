"""RectGrad: only signals that matter enough, activation times signal, pass a ReLU."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import MethodRefusedError
from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Call, Family
from cutaway.core.result import Attribution
from cutaway.core.rules import Rule, plain
from cutaway.core.target import Target

from .reduce import Reduce, reduced
from .rules import PASSES, project


@method(
    title="RectGrad",
    chapter="projection",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Kim et al. 2019, arXiv:1902.04893, sec. 3",
    tags=Tags(family="sensitivity", level="mid"),
    caveat="Clean because 98 % of every layer is thrown away: what is dark was not found unimportant, only less important.",
    passes=PASSES,
    laws={"weights sensitive"},
    single_pass=True,
)
def rect_grad(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    q: Annotated[float, Range(0, 100, open_high=True), "percentile of activation x signal at each ReLU"] = 98,
    threshold: Annotated[
        Literal["percentile", "zero"], "the percentile q, or exactly zero (guided backprop's mask)"
    ] = "percentile",
    times_input: Annotated[bool, "multiply by the network's input at the end"] = True,
    padding_trick: Annotated[bool, "silence the border of signals that enter padded convolutions"] = False,
    proportional: Annotated[bool, "max pooling shares its signal out by activation (PRR)"] = False,
    reduce: Reduce = "sum",
) -> Raw:
    """The gradient with every ReLU passing R where a R > tau, times the input (Kim 2019, eq. 5).

    a is the ReLU's output, R the signal that comes down, tau the q-th percentile of a R over one picture and
    layer, linear between neighbours. `q=0` is that layer's minimum, not zero; `threshold="zero"` sets tau = 0.
    The result is multiplied by the network's own input x = (u - mean) / std, as the authors do, in units of the
    signal: x dS/dx = (u - o) dS/du, where o is the colour that becomes x = 0.
    `padding_trick` zeroes the one-pixel border of the signal that enters, from above, every padded convolution
    whose output has its input's size (over the stride). `proportional` replaces max pooling's switch by
    a R / (mean a + 1e-10) / window.
    Gives (N, H, W), or (N, 3, H, W) with `reduce="rgb"`.
    Raises `MethodRefusedError` when an operator is out of the rule's reach.
    """

    def rectify(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
        return (rectified(call, signal, None if threshold == "zero" else q),)

    rules: dict[Family, Rule] = {Family.RELU: rectify, Family.NORM: plain}
    if padding_trick:
        rules[Family.CONV] = border_silenced
    if proportional:
        rules[Family.MAX_POOL] = shared_by_activation
    done = project(model, x, target, rules, name="rect_grad", start="gradient", keep="map")
    picture = done.picture
    if times_input:
        nothing = model.preprocess.denormalise(model.preprocess.normalise(x[:1]) * 0)
        picture = picture * (x - nothing)
    heat, signed = reduced(picture, reduce)
    unit = "rectified signal" + (" x input" if times_input else "")
    return Raw(heat, signed=signed, unit=unit, evidence={"score": done.value}, notes=done.notes)


def rectified(call: Call, signal: Tensor, q: float | None) -> Tensor:
    """R where a R > tau; `q=None` is tau = 0. Above ReLU6's ceiling nothing passes: its own slope there is 0."""
    high: float = call.arguments["high"]
    h = call.inputs[0]
    weight = h.clamp(0, high) * signal
    if q is None:
        tau: float | Tensor = 0.0
    else:
        tau = percentile(weight.flatten(1), q).view(-1, *[1] * (h.ndim - 1))
    return signal * ((weight > tau) & (h < high))  # Kim 2019, eq. 5


def percentile(values: Tensor, q: float) -> Tensor:
    """The q-th percentile of every row, linear between neighbours, so that below 100 the largest lies above it.

    For rows of any length, where `torch.quantile` ends at 16 million numbers.

    >>> percentile(torch.tensor([[4.0, 1.0, 2.0, 3.0]]), 50)
    tensor([2.5000])
    """
    place = (values.shape[1] - 1) * q / 100
    low = math.floor(place)
    below = values.kthvalue(low + 1, 1).values
    if place == low:
        return below
    return below + (place - low) * (values.kthvalue(low + 2, 1).values - below)


def border_silenced(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """A convolution's own gradient, of a signal whose one-pixel border is zero where padding keeps the size."""
    spatial = call.inputs[0].ndim - 2
    if _same(call, signal):
        inside = (slice(None), slice(None), *[slice(1, -1)] * spatial)
        kept = torch.zeros_like(signal)
        kept[inside] = signal[inside]
        signal = kept
    return plain(call, signal)


def shared_by_activation(call: Call, signal: Tensor) -> tuple[Tensor | None, ...]:
    """Proportional redistribution: a R / (mean of the window + 1e-10) / window, over every window a lies in.

    Raises `MethodRefusedError` for poolings whose windows are not blocks of a plane.
    """
    a = call.inputs[0]
    arguments: dict[str, Any] = dict(call.arguments)
    dilated = arguments.get("dilation", 1) not in (1, (1, 1), [1, 1])
    if not call.name.startswith("max_pool2d") or dilated:
        raise MethodRefusedError(
            f"proportional redistribution has no windows for {call.name}{' with dilation' if dilated else ''}",
            "two-dimensional max pooling without dilation",
            "proportional=false",
        )
    given = {k: arguments[k] for k in ("kernel_size", "stride", "padding", "ceil_mode") if k in arguments}
    with torch.enable_grad():
        places = a.detach().requires_grad_()
        mean = F.avg_pool2d(places, **given, count_include_pad=False)
        total = (mean * (signal / (mean.detach() + 1e-10))).sum()
    (spread,) = torch.autograd.grad(total, places)  # each window's signal over its mean, divided by its size
    return (a * spread,)


def _same(call: Call, signal: Tensor) -> bool:
    """Whether a convolution sees zeros beyond the border and so gives as many positions as it has strides."""
    padding, stride = call.arguments.get("padding", 0), call.arguments.get("stride", 1)
    sizes = call.inputs[0].shape[2:]
    strides = [stride] * len(sizes) if isinstance(stride, int) else list(stride) * (len(sizes) // len(stride))
    if list(signal.shape[2:]) != [-(-n // s) for n, s in zip(sizes, strides, strict=True)]:
        return False
    if isinstance(padding, str):
        return padding == "same"
    return any(p > 0 for p in ((padding,) if isinstance(padding, int) else padding))
