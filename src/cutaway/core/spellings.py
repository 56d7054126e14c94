"""How each operator is spelled in PyTorch: one line per spelling."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


class Family(Enum):
    """What an operator is, as far as an explanation cares."""

    RELU = "ReLU"
    CONV = "convolution"
    TRANSPOSED_CONV = "transposed convolution"
    LINEAR = "linear layer"
    MATMUL = "matrix product"
    MAX_POOL = "max pooling"
    AVG_POOL = "average pooling"
    REDUCE = "mean or sum"
    BATCH_NORM = "batch norm"
    NORM = "normalisation by statistics of the picture"
    ADD = "addition"
    MUL = "product"
    CAT = "concatenation"
    ACTIVATION = "smooth or leaky activation"
    GATE = "gate"
    FUNCTION = "power, exponential or other function of one number"
    SOFTMAX = "softmax"
    ATTENTION = "attention"
    PAD = "padding"
    SLICE = "slice"
    RESIZE = "resizing"
    SHAPE = "reshaping"
    IDENTITY = "identity"


class Spelling(NamedTuple):
    """One way to write an operator: its family, the names of its arguments, and which of them carry activations."""

    family: Family
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    in_place: bool


TABLE: dict[Any, Spelling] = {}


def _declare(family: Family, names: str, functions: list[Any], *, inputs: str = "input") -> None:
    for function in functions:
        if function is None:
            continue
        name = getattr(function, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or (
            name.startswith("__i") and name.endswith("__") and name not in ("__init__", "__invert__")
        )
        TABLE[function] = Spelling(family, tuple(names.split()), tuple(inputs.split()), in_place)


T = torch.Tensor
nn_ = torch._C._nn
_declare(Family.RELU, "input inplace", [F.relu, F.relu_, torch.relu, torch.relu_, T.relu, T.relu_, F.relu6])
_declare(Family.RELU, "input min_val max_val inplace", [F.hardtanh, F.hardtanh_])
_declare(
    Family.RELU,
    "input min max",
    [torch.clamp, torch.clamp_, T.clamp, T.clamp_, torch.clip, torch.clip_, T.clip, T.clip_],
)
_declare(Family.RELU, "input min", [torch.clamp_min, torch.clamp_min_, T.clamp_min, T.clamp_min_])
_declare(
    Family.RELU,
    "input threshold value inplace",
    [F.threshold, vars(F)["_threshold"], vars(F)["threshold_"], torch.threshold, torch.threshold_],
)
_CONV = "input weight bias stride padding dilation groups"
_declare(Family.CONV, _CONV, [torch.conv1d, torch.conv2d, torch.conv3d])
_declare(
    Family.TRANSPOSED_CONV,
    "input weight bias stride padding output_padding groups dilation",
    [torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d],
)
_declare(Family.LINEAR, "input weight bias", [F.linear])
_declare(
    Family.MATMUL,
    "input other",
    [torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.mm, T.mm, torch.bmm, T.bmm],
    inputs="input other",
)
_declare(
    Family.MATMUL,
    "bias input other",
    [torch.addmm, T.addmm, torch.baddbmm, T.baddbmm],
    inputs="bias input other",
)
_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_declare(Family.MAX_POOL, _POOL, [torch.max_pool1d, torch.max_pool2d, torch.max_pool3d])
_declare(
    Family.MAX_POOL,
    _POOL,
    [
        F.max_pool1d,
        F.max_pool2d,
        F.max_pool3d,
        F.max_pool1d_with_indices,
        F.max_pool2d_with_indices,
        F.max_pool3d_with_indices,
    ],
)
_declare(
    Family.MAX_POOL,
    "input output_size return_indices",
    [
        torch.adaptive_max_pool1d,
        F.adaptive_max_pool1d,
        F.adaptive_max_pool2d,
        F.adaptive_max_pool3d,
        F.adaptive_max_pool1d_with_indices,
        F.adaptive_max_pool2d_with_indices,
        F.adaptive_max_pool3d_with_indices,
    ],
)
_declare(Family.MAX_POOL, "input dim keepdim", [torch.amax, T.amax])
_AVG = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
_declare(Family.AVG_POOL, _AVG, [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d])
_declare(
    Family.AVG_POOL,
    "input output_size",
    [torch.adaptive_avg_pool1d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d],
)
_declare(Family.REDUCE, "input dim keepdim", [torch.mean, T.mean, torch.sum, T.sum])
_declare(
    Family.BATCH_NORM, "input running_mean running_var weight bias training momentum eps", [F.batch_norm]
)
_declare(
    Family.BATCH_NORM,
    "input weight bias running_mean running_var training momentum eps cudnn_enabled",
    [torch.batch_norm],
)
_declare(Family.NORM, "input normalized_shape weight bias eps", [F.layer_norm, torch.layer_norm])
_declare(Family.NORM, "input num_groups weight bias eps", [F.group_norm, torch.group_norm])
_declare(
    Family.NORM, "input running_mean running_var weight bias use_input_stats momentum eps", [F.instance_norm]
)
_declare(Family.NORM, "input size alpha beta k", [F.local_response_norm])
_declare(Family.NORM, "input normalized_shape weight eps", [getattr(F, "rms_norm", None)])
_declare(Family.NORM, "input p dim eps", [F.normalize])
_declare(
    Family.ADD,
    "input other",
    [
        torch.add,
        T.add,
        T.add_,
        T.__add__,
        T.__radd__,
        T.__iadd__,
        torch.sub,
        T.sub,
        T.sub_,
        T.__sub__,
        T.__isub__,
        torch.subtract,
        T.subtract,
    ],
    inputs="input other",
)
_declare(Family.ADD, "other input", [T.__rsub__, torch.rsub], inputs="other input")
_declare(
    Family.MUL,
    "input other",
    [
        torch.mul,
        T.mul,
        T.mul_,
        T.__mul__,
        T.__rmul__,
        T.__imul__,
        torch.multiply,
        T.multiply,
        torch.div,
        T.div,
        T.div_,
        T.__truediv__,
        T.__itruediv__,
        torch.true_divide,
    ],
    inputs="input other",
)
_declare(
    Family.CAT,
    "tensors dim",
    [torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack],
    inputs="tensors",
)
_declare(
    Family.ACTIVATION,
    "input",
    [
        F.gelu,
        F.silu,
        F.mish,
        F.hardswish,
        F.leaky_relu,
        F.leaky_relu_,
        F.elu,
        F.elu_,
        F.selu,
        F.selu_,
        F.celu,
        F.celu_,
        F.softplus,
        F.prelu,
        torch.prelu,
        F.rrelu,
        F.softsign,
        F.tanh,
        torch.tanh,
        T.tanh,
        torch.tanh_,
        T.tanh_,
        F.logsigmoid,
        F.tanhshrink,
        F.hardshrink,
        F.softshrink,
        torch.erf,
        T.erf,
    ],
)
_GATES = [F.sigmoid, torch.sigmoid, torch.sigmoid_, T.sigmoid, T.sigmoid_, F.hardsigmoid]
_declare(Family.GATE, "input", _GATES)
_declare(
    Family.FUNCTION,
    "input",
    [
        *(torch.exp, T.exp, torch.exp_, T.exp_, torch.expm1, T.expm1, torch.log, T.log, torch.log1p, T.log1p),
        *(torch.sqrt, T.sqrt, torch.sqrt_, T.sqrt_, torch.rsqrt, T.rsqrt, torch.square, T.square),
        *(torch.reciprocal, T.reciprocal, torch.abs, T.abs, T.__abs__, torch.sin, T.sin, torch.cos, T.cos),
    ],
)
_declare(Family.FUNCTION, "input exponent", [torch.pow, T.pow, T.pow_, T.__pow__])
_declare(Family.FUNCTION, "input other", [T.__rtruediv__, T.__rdiv__])
_SOFT = [F.softmax, torch.softmax, T.softmax, F.log_softmax, torch.log_softmax, T.log_softmax]
_declare(Family.SOFTMAX, "input dim", _SOFT)
_declare(
    Family.ATTENTION,
    "input key value",
    [F.scaled_dot_product_attention, F.multi_head_attention_forward],
    inputs="input key value",
)
_declare(Family.PAD, "input pad mode value", [F.pad])
_declare(Family.SLICE, "input index", [T.__getitem__])
_declare(Family.SLICE, "input dim start length", [torch.narrow, T.narrow])
_declare(Family.SLICE, "input chunks dim", [torch.chunk, T.chunk])
_declare(Family.SLICE, "input split_size_or_sections dim", [torch.split, T.split])
_declare(Family.SLICE, "input dim", [torch.unbind, T.unbind])
_declare(Family.SLICE, "input dim index", [torch.select, T.select])
_declare(Family.RESIZE, "input size scale_factor mode align_corners", [F.interpolate])
_declare(Family.RESIZE, "input upscale_factor", [F.pixel_shuffle, torch.pixel_shuffle])
_declare(
    Family.SHAPE,
    "input",
    [
        T.view,
        T.reshape,
        torch.reshape,
        torch.flatten,
        T.flatten,
        torch.permute,
        T.permute,
        torch.transpose,
        T.transpose,
        T.squeeze,
        torch.squeeze,
        T.unsqueeze,
        torch.unsqueeze,
        T.expand,
        T.expand_as,
        T.view_as,
        torch.movedim,
        T.movedim,
        torch.unflatten,
        T.unflatten,
        T.t,
        torch.t,
        torch.swapaxes,
        T.swapaxes,
        torch.roll,
        T.roll,
        torch.flip,
        T.flip,
        F.channel_shuffle,
        torch.channel_shuffle,
        T.repeat,
    ],
)
_declare(
    Family.IDENTITY,
    "input",
    [
        F.dropout,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        torch.dropout,
        torch.feature_dropout,
        T.contiguous,
        T.clone,
        torch.clone,
        T.to,
        T.float,
        T.double,
        T.half,
        T.type_as,
        T.detach,
    ],
)
