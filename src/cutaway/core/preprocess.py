"""How a picture becomes a network's input: size, colour order, range, mean and spread."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .decode import MEGAPIXELS
from .errors import InputError, UsageError, unknown
from .image import Photo, luma, read, to_tensor
from .same_padding import SamePadding

__all__ = ["Preprocess", "SamePadding"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
_CHOICES: dict[str, tuple[object, ...]] = {
    "resize_mode": ("short_side", "warp"),
    "interpolation": get_args(Interpolation),
    "channels": ("RGB", "BGR", "L"),
    "range": (1, 255),
    "padding": ("torch", "tensorflow_same"),
}


@dataclass(frozen=True)
class Preprocess:
    """The steps from a picture to a network's input; every one optional.

    Parameters
    ----------
    resize : the short side (`short_side`), or both sides (`warp`), in pixels; a pair (height,
        width) always warps.
    crop : size of the centred window that is kept, a number or (height, width).
    interpolation : of the resizing; always antialiased, as Pillow and torchvision do it.
    channels : the order the network was trained with; "L" is one grey channel.
    range : 1 or 255, the number that white becomes before the mean is subtracted.
    mean, std : one number, or one per channel in the network's own order and range.
    padding : "tensorflow_same" pads convolutions and poolings as TensorFlow does (see `SamePadding`).

    Network input of pixels u in [0, 1]: x = (range * u - mean) / std, channels in the network's order.

    >>> caffe = Preprocess(resize=(256, 256), crop=227, channels="BGR", range=255, mean=(104, 117, 123))
    >>> caffe.normalise(torch.ones(1, 3, 1, 1)).flatten()
    tensor([151., 138., 132.])
    """

    resize: int | tuple[int, int] | None = None
    resize_mode: Literal["short_side", "warp"] = "short_side"
    crop: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    range: Literal[1, 255] = 1
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    padding: Literal["torch", "tensorflow_same"] = "torch"

    def __post_init__(self) -> None:
        for name, accepted in _CHOICES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or value not in accepted:
                raise UsageError(f"{name}={value!r}", ", ".join(repr(a) for a in accepted))
        fix = object.__setattr__  # the frozen dataclass's own way to bring fields to their one form
        for name in ("resize", "crop"):
            fix(self, name, _side(name, getattr(self, name)))
        if isinstance(self.resize, tuple):
            fix(self, "resize_mode", "warp")
        for name in ("mean", "std"):
            fix(self, name, _numbers(name, getattr(self, name), self.pixel_channels))
        if any(s <= 0 for s in self.std):
            raise UsageError(f"std={list(self.std)}", "numbers above 0")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """From the keys of a JSON object; unknown keys and bad values are refused.

        >>> Preprocess.from_dict({"resize": 256, "krop": 224})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        cutaway.core.errors.UnknownNameError: no preprocessing key named 'krop'. ... Try: 'crop'.
        """
        names = [f.name for f in fields(cls)]
        for key in values:
            if key not in names:
                raise unknown("preprocessing key", key, names)
        fixed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fixed)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Preprocess:
        """From a JSON file. Raises `InputError` when the file cannot be read or holds no object."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}", "a JSON file") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}", "a JSON object", '{"resize": 256}') from error
        if not isinstance(values, dict):
            raise InputError(f"{path} holds a {type(values).__name__}", "a JSON object", '{"resize": 256}')
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, ready for JSON; `from_dict` takes it back."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @property
    def pixel_channels(self) -> int:
        """Channels of the pictures the network sees: 3, or 1 for "L"."""
        return 1 if self.channels == "L" else 3

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the network's input, or None where they follow the picture."""
        if self.crop is not None:
            return _pair(self.crop)
        return _pair(self.resize) if self.resize is not None and self.resize_mode == "warp" else None

    def fit(self, photo: Photo) -> Tensor:
        """Resize and crop: pixels (N, 3, h, w), or (N, 1, h, w) for "L", floating point in [0, 1], RGB.

        8-bit pictures give the bits of torchvision's `Resize` and `CenterCrop` on Pillow images.
        Raises `InputError` when the picture, after resizing, is smaller than the crop (nothing is padded), or
        so narrow that resizing it would take more than 100 megapixels.
        """
        photo = read(photo, self.pixel_channels)
        height, width = self._resized(photo.size)
        if height * width > MEGAPIXELS * 1e6:
            raise InputError(
                f"{photo.name} ({_times(photo.size)}) would grow to {height}x{width} pixels",
                f"at most {MEGAPIXELS} megapixels",
                "a picture that is less narrow",
            )
        top, left, h, w = self._window((height, width), photo)
        if isinstance(photo.content, Tensor):
            x = _resize_tensor(photo.content, (height, width), self.interpolation)
            return x[:, :, top : top + h, left : left + w].contiguous()
        box = (left, top, left + w, top + h)
        filter_ = Image.Resampling[self.interpolation.upper()]
        parts = []
        for image in photo.content:
            resized = image if image.size == (width, height) else image.resize((width, height), filter_)
            parts.append(to_tensor(resized.crop(box)))
        return torch.cat(parts)

    def normalise(self, x: Tensor) -> Tensor:
        """The network's input for pixels in [0, 1]; differentiable, in the tensor's own type and device.

        (N, 3, h, w) RGB becomes (N, 3, h, w) in the network's order; for "L" (N, 1, h, w), from either.
        """
        if self.channels == "L" and x.shape[1] == 3:
            x = luma(x)
        if x.ndim != 4 or x.shape[1] != self.pixel_channels:
            raise InputError(
                f"pixels of shape {_times(tuple(x.shape))}", f"N x {self.pixel_channels} x H x W"
            )
        if self.channels == "BGR":
            x = x.flip(1)
        if self.range != 1:
            x = x * self.range
        mean, std = self._statistics(x)
        return (x - mean) / std

    def denormalise(self, x: Tensor) -> Tensor:
        """Pixels for a network input: the inverse of `normalise`, RGB (or grey), not clipped."""
        mean, std = self._statistics(x)
        x = (x * std + mean) / self.range
        return x.flip(1) if self.channels == "BGR" else x

    def to_original(self, size: tuple[int, int]) -> tuple[float, float, int, int]:
        """(scale_y, scale_x, top, left) from the network's pixels to a picture of `size` (height, width).

        A point at height y of the network's input, in pixel edges (0 is the upper edge of the first row, 0.5
        its centre), lies at (y + top) * scale_y in the picture; the width likewise.

        >>> Preprocess(resize=256, crop=224).to_original((512, 1024))
        (2.0, 2.0, 16, 144)
        """
        height, width = self._resized(size)
        top, left, _, _ = self._window((height, width), None)
        return size[0] / height, size[1] / width, top, left

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_tensor(self.mean).view(1, -1, 1, 1), x.new_tensor(self.std).view(1, -1, 1, 1)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = size
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple) or self.resize_mode == "warp":
            return _pair(self.resize)
        # torchvision's Resize: the long side is rounded down.
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)

    def _window(self, size: tuple[int, int], photo: Photo | None) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop; torchvision's CenterCrop rounds halves to even."""
        if self.crop is None:
            return 0, 0, *size
        h, w = _pair(self.crop)
        if photo is not None and (h > size[0] or w > size[1]):
            raise InputError(
                f"{photo.name} is {_times(size)} pixels, smaller than the crop {h}x{w}",
                f"at least {h}x{w} pixels",
                f'a preprocessing with "resize": {max(h, w)}',
            )
        return round((size[0] - h) / 2), round((size[1] - w) / 2), h, w


def _resize_tensor(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize (N, C, H, W) with the filters Pillow uses; overshoot is clipped to [0, 1]."""
    if tuple(x.shape[-2:]) == size:
        return x
    if interpolation in ("bilinear", "bicubic"):
        y = torch.nn.functional.interpolate(x, size, mode=interpolation, align_corners=False, antialias=True)
        return y.clamp(0, 1)
    planes = x.reshape(-1, *x.shape[-2:]).float().cpu().numpy()
    filter_ = Image.Resampling[interpolation.upper()]
    resized = [Image.fromarray(p).resize((size[1], size[0]), filter_) for p in planes]
    stacked = torch.stack([torch.from_numpy(np.array(r)) for r in resized])
    return stacked.view(*x.shape[:2], *size).to(x).clamp(0, 1)


def _side(name: str, value: Any) -> int | tuple[int, int] | None:
    """A size in its one form: None, a number, or (height, width)."""
    sides = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    whole = all(isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= 16384 for s in sides)
    if value is None:
        return None
    if not whole or len(sides) not in (1, 2):
        raise UsageError(f"{name}={value!r}", "whole pixels from 1 to 16384: one number or [height, width]")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    """One finite number per channel; a single one stands for all."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    real = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if not real or len(values) not in (1, count):
        raise UsageError(f"{name}={value!r}", f"one finite number, or {count}, one per channel")
    values = tuple(float(v) for v in values)
    return values * count if len(values) == 1 else values


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return side if isinstance(side, tuple) else (side, side)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
