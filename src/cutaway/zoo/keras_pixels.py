"""What numbers a Keras network expects for its pixels; a .keras file does not say."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.preprocess import Preprocess

_CAFFE = {"channels": "BGR", "range": 255, "mean": (103.939, 116.779, 123.68)}
_PLUS_MINUS_ONE = {"range": 255, "mean": 127.5, "std": 127.5}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# The networks of keras.applications that leave preprocessing to the caller, by the names they give themselves.
_APPLICATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"vgg(16|19)|resnet(50|101|152)", _CAFFE),
    (r"resnet(50|101|152)v2|mobilenet(v2)?_[\d.]+_\w+|inception_v3|inception_resnet_v2", _PLUS_MINUS_ONE),
    (r"xception|nasnet\w*", _PLUS_MINUS_ONE),
    (r"densenet(121|169|201)", _IMAGENET),
)
_OTHERS = r"efficientnet\w*|convnext_\w+|mobilenet_?v3\w*"


def is_application(name: str) -> bool:
    """Whether a network carries the name that one of keras.applications gives itself."""
    return any(re.fullmatch(pattern, name) for pattern in (_OTHERS, *(p for p, _ in _APPLICATIONS)))


def preprocessing(
    network: nn.Module, model: Any, shape: tuple[int | None, int | None, int], notes: list[str]
) -> Preprocess:
    """What the file says about its pictures, and in `notes` what it leaves open."""
    height, width, channels = shape
    known: dict[str, Any] = {"channels": "L" if channels == 1 else "RGB"}
    if height and width:
        known["resize"] = (height, width)
    range_, how = _range(network, (1, channels, height or 224, width or 224))
    inside = [layer.name for layer in model.layers if hasattr(layer, "layers")]
    named = [
        (n, p) for n in (model.name, *inside) for pattern, p in _APPLICATIONS if re.fullmatch(pattern, n)
    ]
    if how:
        notes.append(f"pixels from 0 to {range_} are taken, because {how}")
        known["range"] = range_
    elif named and channels == 3:
        notes.append(f"{named[0][0]} is taken for the network of keras.applications, with its preprocessing")
        known |= named[0][1]
    else:
        notes.append(
            "the file does not say how its pictures were scaled: pixels from 0 to 1 are taken; for 0 to 255 give "
            'the preprocessing {"range": 255}, with the size'
        )
    return Preprocess(**known)


def _range(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, str]:
    """255 or 1, and why: what the steps before the first weighted layer make of black and of white.

    They are y = a x + b. Offsets of more than 1.5 in x, or |a| so small that 255 stays below 16, are made for
    numbers up to 255. Nothing is known when nothing happens before that layer.
    """
    black, white = (_arrives(network, shape, value) for value in (0.0, 255.0))
    if black is None or white is None or (white - black).abs() < 1e-9:
        return 1, ""
    a, b = float(white - black) / 255, float(black)
    if abs(a - 1) < 1e-6 and abs(b) < 1e-6:
        return 1, ""
    where = f"its own first layers make them x * {a:.4g} {'+' if b >= 0 else '-'} {abs(b):.4g}"
    return (255 if abs(a) * 255 <= 16 or abs(b / a) > 1.5 else 1), where


def _middle(arrived: Tensor, channels: int) -> Tensor:
    """The mean over the colours in the middle, where padding put in front of a layer does not reach.

    >>> padded = nn.functional.pad(torch.full((1, 3, 4, 4), 255.0), (3, 3, 3, 3))
    >>> float(_middle(padded, 3)), float(_middle(padded.permute(0, 2, 3, 1), 3))
    (255.0, 255.0)
    """
    if arrived.ndim != 4:
        return arrived.mean()
    maps = arrived if arrived.shape[1] == channels else arrived.permute(0, 3, 1, 2)
    return maps[..., maps.shape[2] // 2, maps.shape[3] // 2].mean()


class _Arrived(BaseException):
    """Carries what reached the first weighted layer out of the network."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def _arrives(network: nn.Module, shape: tuple[int, ...], value: float) -> Tensor | None:
    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise _Arrived(args[0])

    with contextlib.ExitStack() as stack:
        for module in network.modules():
            own = [*module._parameters.values(), *getattr(module, "_torch_params", {}).values()]
            if any(p is not None and p.requires_grad for p in own):
                stack.callback(module.register_forward_pre_hook(stop).remove)
        try:
            network(torch.full(shape, value, dtype=next(network.parameters()).dtype))
        except _Arrived as found:
            return _middle(found.value.detach().double(), shape[1])
        except (RuntimeError, ValueError, StopIteration):
            return None
    return None
