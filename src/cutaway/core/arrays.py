"""Arrays and tensors as pictures: which axis is colour, which numbers are brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import InputError

_SHAPES = "HxW, HxWx3, 3xHxW, Nx3xHxW or NxHxWx3"
_VALUES = "uint8 from 0 to 255, or floating point from 0 to 1"


def array_to_content(
    source: np.ndarray[Any, Any] | Tensor,
) -> tuple[tuple[Image.Image, ...] | Tensor, tuple[str, ...]]:
    """Pillow images for uint8, else a tensor (N, 1 or 3, H, W) in [0, 1]; and what to tell the person.

    Shapes: HxW grey, 3xHxW or HxWx3 colour, and batches of these; 4 channels carry transparency.
    uint16 is divided by 65535, bool becomes 0 and 1. Raises `InputError` for any other shape or value.
    """
    if not 2 <= source.ndim <= 4:
        raise InputError(f"image must have 2, 3 or 4 dimensions, got {source.ndim}", _SHAPES)
    shape = tuple(source.shape)
    if 0 in shape:
        raise InputError(f"the array has no pixels: shape {_times(shape)}", _SHAPES)
    said: list[str] = []
    x = _batched(_as_tensor(source, said), isinstance(source, Tensor), said)
    if x.dtype == torch.uint8:
        channels_last = x.permute(0, 2, 3, 1).cpu().numpy()
        return tuple(_pillow(picture) for picture in channels_last), tuple(said)
    x = _checked(x)
    if x.shape[1] == 4:
        said.append("transparency laid over white")
        x = x[:, :3] * x[:, 3:] + (1 - x[:, 3:])
    return x, tuple(said)


def _as_tensor(source: np.ndarray[Any, Any] | Tensor, said: list[str]) -> Tensor:
    """The values as uint8, float32 or float64."""
    if isinstance(source, Tensor) and (
        source.layout != torch.strided or source.is_meta or source.is_quantized
    ):
        raise InputError("a tensor that is sparse, quantized or holds no numbers", _VALUES, "x.to_dense()")
    kind = str(source.dtype).removeprefix("torch.")
    if kind not in ("uint8", "uint16", "bool", "float16", "bfloat16", "float32", "float64"):
        low, high = (source.min(), source.max()) if kind.startswith(("int", "uint")) else ("?", "?")
        span = f" from {int(low)} to {int(high)}" if low != "?" else ""
        raise InputError(f"the array holds {kind} numbers{span}", _VALUES, "image.astype('uint8')")
    if isinstance(source, Tensor):
        x = source.detach()
    elif kind == "uint16":
        x = torch.from_numpy(source.astype(np.int32))
    else:
        x = torch.from_numpy(np.array(source, order="C"))
    if kind == "uint16":
        said.append("16 bits a channel, divided by 65535")
        return (x.to(torch.float64) / 65535).float()
    if kind == "bool":
        said.append("true and false read as 1 and 0")
        return x.float()
    return x.float() if kind in ("float16", "bfloat16") else x


def _batched(x: Tensor, is_tensor: bool, said: list[str]) -> Tensor:
    """(N, C, H, W) with C of 1, 3 or 4; where both are possible tensors put C first, arrays last."""
    if x.ndim == 2:
        return x[None, None]
    batch = x if x.ndim == 4 else x[None]
    first, last = batch.shape[1] in (1, 3, 4), batch.shape[3] in (1, 3, 4)
    if not first and not last:
        raise InputError(
            f"no axis of {_times(tuple(x.shape))} can be colour", f"{_SHAPES}, with 1, 3 or 4 channels"
        )
    if first and last:
        side = "first" if is_tensor else "last"
        said.append(f"shape {_times(tuple(x.shape))} can be read two ways; channels are taken to come {side}")
    return batch if first and (is_tensor or not last) else batch.permute(0, 3, 1, 2)


def _pillow(picture: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if picture.shape[2] == 1 else picture))


def _checked(x: Tensor) -> Tensor:
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        n, c, row, column = (int(i) for i in (~finite).nonzero()[0])
        value = float(x[n, c, row, column])
        raise InputError(
            f"{int((~finite).sum())} pixel values are NaN or infinite, the first ({value}) in picture {n}, "
            f"channel {c}, row {row}, column {column}",
            _VALUES,
        )
    low, high = float(x.min()), float(x.max())
    if low < -1e-6 or high > 1 + 1e-6:
        hint = (
            "image / 255, or image.astype('uint8')"
            if low >= 0 and high <= 255
            else "undo the normalisation first: image * std + mean"
        )
        raise InputError(f"the floating-point values reach from {low:.4g} to {high:.4g}", _VALUES, hint)
    return x.clamp(0, 1)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
