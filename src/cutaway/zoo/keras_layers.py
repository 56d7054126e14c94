"""Keras layers as the torch operators they are, on the weights and under the names of the file.

Keras runs on torch by operators of its own making: a kernel is turned around at every call, a bias is a sum of its
own, batch norm is four products and sums. Rules that belong to a convolution or a batch norm could not know them.
Here each of these layers becomes the torch layer of the same kind, its kernel turned around once, on maps with
channels second. Every other layer stays Keras's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor] | None

_NOISE = ("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout")
"""Layers that draw random numbers in training and do nothing else."""
_JOINS = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
_WINDOWS = ("MaxPooling2D", "AveragePooling2D", "ZeroPadding2D", "Cropping2D")
_EACH = {
    *(
        "linear",
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "swish",
        "mish",
        "tanh",
    ),
    *("sigmoid", "hard_sigmoid", "hard_silu", "hard_swish", "softplus", "softsign", "exponential"),
}
"""Activations of each number alone, by Keras's names; a softmax runs over channels."""


def torch_layer(layer: Any, *, scores: bool = False, last: bool = True) -> nn.Module | None:
    """The torch layer for a built Keras layer, or None where Keras's own has to run.

    It takes maps with channels second, whether they are `last` in the file or not. With `scores`, a softmax or sigmoid at
    the layer's end is left out: what it would have made probabilities of comes out.
    """
    kind = type(layer).__name__
    drops = scores and bool(ends_in_probabilities(layer))
    if getattr(layer, "quantization_mode", None) or not (drops or _acts_on_each(layer) or kind == "Dense"):
        return None
    after = None if drops else _activation(layer)
    found: nn.Module
    if kind == "Conv2D":
        kernel = _turned(_tensor(layer.kernel))
        found = Conv2D(layer, kernel, _tensor(layer.bias), after, groups=layer.groups)
    elif kind == "DepthwiseConv2D":
        kernel = _tensor(layer.kernel)
        found = DepthwiseConv2D(layer, _split(kernel), _tensor(layer.bias), after, groups=kernel.shape[2])
    elif kind == "SeparableConv2D":
        found = SeparableConv2D(layer, after)
    elif kind == "Dense":
        found = Dense(_tensor(layer.kernel), _tensor(layer.bias), after)
    elif kind == "BatchNormalization" and layer.axis in (1, 3, -1) and not getattr(layer, "renorm", False):
        found = BatchNormalization(layer)
    elif kind == "LayerNormalization" and _is_plain(layer):
        found = LayerNormalization(layer)
    elif kind == "Concatenate":
        found = Concatenate(layer.axis, last)
    elif kind == "GlobalMaxPooling2D":
        found = GlobalMaxPooling2D(layer.keepdims)
    elif kind == "GlobalAveragePooling2D":
        found = GlobalAveragePooling2D(layer.keepdims)
    elif kind == "Rescaling" and all(isinstance(v, int | float) for v in (layer.scale, layer.offset)):
        found = Rescaling(layer.scale, layer.offset)
    elif kind == "UpSampling2D" and layer.interpolation in ("nearest", "bilinear"):
        found = UpSampling2D(tuple(layer.size), layer.interpolation)
    elif kind in _NOISE or (drops and kind in ("Softmax", "Activation")):
        found = nn.Identity()
    else:
        return None
    return found.eval()


def takes_channels_second(layer: Any, module: nn.Module | None) -> bool:
    """Whether a layer of a channels-last file can run on maps with channels second; made ready for it if so."""
    kind = type(layer).__name__
    if module is not None:
        return kind not in ("Dense", "LayerNormalization")
    if kind in _WINDOWS:
        layer.data_format = "channels_first"
        layer.input_spec = None  # it would ask for the file's layout
        return True
    return kind in (*_JOINS, "ReLU", "LeakyReLU", "ELU") or (kind == "Activation" and _acts_on_each(layer))


def ends_in_probabilities(layer: Any) -> str:
    """ "softmax" or "sigmoid" where that is the last thing a layer does, else nothing."""
    if type(layer).__name__ == "Softmax":
        return "softmax"
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    return name if name in ("softmax", "sigmoid") else ""


class Conv2D(nn.Conv2d):
    """A convolution padded as TensorFlow does, with its activation."""

    def __init__(
        self,
        layer: Any,
        kernel: Tensor,
        bias: Tensor | None,
        after: Activation,
        *,
        groups: int = 1,
        stride: Any = None,
    ) -> None:
        """`kernel` is (outputs, inputs per group, height, width); the rest is read off the Keras layer."""
        super().__init__(
            kernel.shape[1] * groups,
            kernel.shape[0],
            tuple(kernel.shape[2:]),  # type: ignore[arg-type]
            stride=tuple(stride or layer.strides),
            dilation=tuple(layer.dilation_rate),
            groups=groups,
            bias=False,
            device="meta",
        )
        self.weight = nn.Parameter(kernel)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self.same, self.after = layer.padding == "same", after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C', h', w')."""
        padding: tuple[int, ...] = (0, 0)
        if self.same:
            sides = [self._sides(x, axis) for axis in (0, 1)]
            padding = tuple(before for before, _ in sides)
            if any(before != after for before, after in sides):
                x, padding = F.pad(x, [*sides[1], *sides[0]]), (0, 0)
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return _then(self.after, y)

    def _sides(self, x: Tensor, axis: int) -> tuple[int, int]:
        """Zeros before and after, as few as give one output for every stride; the odd one goes behind."""
        length, stride = int(x.shape[2 + axis]), self.stride[axis]
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
        total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
        return total // 2, total - total // 2


class DepthwiseConv2D(Conv2D):
    """A convolution of each channel by itself."""


class SeparableConv2D(nn.Module):
    """A convolution of each channel by itself, then one across channels."""

    def __init__(self, layer: Any, after: Activation) -> None:
        super().__init__()
        own = _tensor(layer.depthwise_kernel)
        self.depthwise = DepthwiseConv2D(layer, _split(own), None, None, groups=own.shape[2])
        pointwise = _turned(_tensor(layer.pointwise_kernel))
        self.pointwise = Conv2D(layer, pointwise, _tensor(layer.bias), after, stride=(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C', h', w')."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class Dense(nn.Linear):
    """A linear layer over the last dimension, with its activation."""

    def __init__(self, kernel: Tensor, bias: Tensor | None, after: Activation) -> None:
        """`kernel` is (inputs, outputs), as Keras keeps it."""
        super().__init__(kernel.shape[0], kernel.shape[1], bias=False, device="meta")
        self.weight = nn.Parameter(kernel.T.contiguous())
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., inputs) to (N, ..., outputs)."""
        return _then(self.after, F.linear(x, self.weight, self.bias))


class BatchNormalization(nn.BatchNorm2d):
    """Batch norm with the statistics of the file, for maps and for vectors."""

    def __init__(self, layer: Any) -> None:
        mean = _tensor(layer.moving_mean)
        super().__init__(len(mean), eps=float(layer.epsilon), affine=False, device="meta")
        self.running_mean, self.running_var = mean, _tensor(layer.moving_variance)
        self.num_batches_tracked = torch.zeros((), dtype=torch.long)
        gamma, beta = (layer.gamma if layer.scale else None), (layer.beta if layer.center else None)
        self.register_parameter("weight", None if gamma is None else nn.Parameter(_tensor(gamma)))
        self.register_parameter("bias", None if beta is None else nn.Parameter(_tensor(beta)))
        self.affine = bool(layer.scale and layer.center)

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + epsilon) * gamma + beta for each channel; never the batch's own statistics.

        Channels are second in maps, last in vectors and tokens.
        """
        tokens = x.ndim == 3
        x = x.transpose(1, 2) if tokens else x
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return y.transpose(1, 2) if tokens else y


class LayerNormalization(nn.LayerNorm):
    """Layer norm over the last dimension."""

    def __init__(self, layer: Any) -> None:
        gamma, beta = _tensor(layer.gamma), _tensor(layer.beta)
        super().__init__(tuple(gamma.shape), eps=float(layer.epsilon), elementwise_affine=False)
        self.weight = nn.Parameter(gamma)
        self.register_parameter("bias", None if beta is None else nn.Parameter(beta))


class Concatenate(nn.Module):
    """Several values behind one another along an axis of the file's layout."""

    def __init__(self, axis: int, last: bool) -> None:
        super().__init__()
        self.axis, self.last = axis, last

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Maps have channels second, everything else stands as in the file."""
        axis = self.axis % parts[0].ndim
        return torch.cat(list(parts), (0, 2, 3, 1)[axis] if self.last and parts[0].ndim == 4 else axis)


class GlobalMaxPooling2D(nn.Module):
    """The largest number of each map."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C), or to maps of one position."""
        return torch.amax(x, (2, 3), keepdim=self.keep)


class GlobalAveragePooling2D(GlobalMaxPooling2D):
    """The mean of each map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C), or to maps of one position."""
        return x.mean((2, 3), keepdim=self.keep)


class Rescaling(nn.Module):
    """The same line for every number."""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, x: Tensor) -> Tensor:
        """Scale * x + offset."""
        return x * self.scale + self.offset


class UpSampling2D(nn.Module):
    """Maps made larger by whole factors."""

    def __init__(self, factors: tuple[int, int], mode: str) -> None:
        super().__init__()
        self.factors, self.mode = factors, mode

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, a h, b w)."""
        size = [int(n) * f for n, f in zip(x.shape[2:], self.factors, strict=True)]
        return F.interpolate(x, size, mode=self.mode)


def _then(after: Activation, x: Tensor) -> Tensor:
    return x if after is None else after(x)


def _acts_on_each(layer: Any) -> bool:
    """Whether a layer's activation, if it has one, is a function of each number alone."""
    found = getattr(layer, "activation", None)
    return found is None or getattr(found, "__name__", "") in _EACH


def _activation(layer: Any) -> Activation:
    found = getattr(layer, "activation", None)
    name = getattr(found, "__name__", "")
    if found is None or name == "linear":
        return None
    return F.relu if name == "relu" else found


def _tensor(variable: Any) -> Any:
    """A Keras variable's numbers as a tensor of their own; None stays None."""
    if variable is None:
        return None
    value = variable.value if hasattr(variable, "value") else variable
    return value.detach().clone()


def _turned(kernel: Tensor) -> Tensor:
    """(height, width, inputs, outputs) as (outputs, inputs, height, width)."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def _split(kernel: Tensor) -> Tensor:
    """(height, width, channels, multiplier) as (channels * multiplier, 1, height, width)."""
    return kernel.permute(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2]).contiguous()


def _is_plain(layer: Any) -> bool:
    """Whether a layer norm is the usual one, over the last dimension, with weights."""
    return list(layer.axis) == [-1] and bool(layer.scale) and not getattr(layer, "rms_scaling", False)
