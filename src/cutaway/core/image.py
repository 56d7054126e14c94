"""Every accepted picture becomes one `Photo`: from a file, a Pillow image, an array or a tensor.

Whole numbers stay Pillow images, so that resizing gives torchvision's bits; real numbers stay tensors.
Whatever had to be changed on the way (orientation, transparency, colour model, depth) is said in a notice.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .arrays import array_to_content
from .decode import ACCEPTED, Content, decode_file, decode_path, decode_pillow
from .errors import InputError, UsageError

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | Tensor | Photo"


@dataclass(frozen=True, eq=False)
class Photo:
    """One picture, or a batch of equal size, as the person gave it: upright, RGB or grey, not yet resized.

    `content` is a tuple of 8-bit Pillow images of mode RGB or L, or a floating-point tensor (N, C, H, W) in
    [0, 1]. `notices` says what was changed while reading.

    >>> photo = read(np.zeros((48, 64, 3), np.uint8))
    >>> photo.size, tuple(photo.pixels().shape), photo.notices
    ((48, 64), (1, 3, 48, 64), ())
    """

    name: str
    content: Content = field(repr=False)
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.content, Tensor):
            return int(self.content.shape[-2]), int(self.content.shape[-1])
        return self.content[0].height, self.content[0].width

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        if isinstance(self.content, Tensor):
            return int(self.content.shape[1])
        return len(self.content[0].getbands())

    def __len__(self) -> int:
        return len(self.content)

    def __str__(self) -> str:
        return self.name

    def pixels(self) -> Tensor:
        """The picture at its own size: (N, C, H, W), float32 in [0, 1], RGB."""
        if isinstance(self.content, Tensor):
            return self.content.float()
        return torch.cat([to_tensor(image) for image in self.content])


def to_tensor(image: Image.Image) -> Tensor:
    """An 8-bit Pillow image as (1, C, H, W), float32 in [0, 1]."""
    array = np.array(image, dtype=np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous().float() / 255


def read(source: Source, channels: int = 3) -> Photo:
    """Read one picture, or a batch of equal size, from whatever a person hands over.

    Files may be anything Pillow reads: the orientation in the EXIF data is applied, transparency is laid over
    white, 16-bit depth is scaled, CMYK and palettes become RGB, of an animation the first frame is taken.
    `channels` is what the network wants: with 3 a grey picture is repeated three times, with 1 a colour
    picture becomes grey (ITU-R 601 luma). A `Photo` passes through.

    Raises `InputError` for what is no picture, saying what was found and what is accepted.

    >>> read(torch.rand(5, 3, 8, 8)).pixels().shape
    torch.Size([5, 3, 8, 8])
    >>> read(np.zeros((2, 2, 2, 2, 2)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    cutaway.core.errors.InputError: image must have 2, 3 or 4 dimensions, got 5. ...
    """
    if channels not in (1, 3):
        raise UsageError(f"channels={channels!r}", "1 (grey) or 3 (RGB)")
    if isinstance(source, Photo):
        return _match_channels(source, channels)
    if isinstance(source, Image.Image):
        name = Path(str(getattr(source, "filename", "") or "picture")).name
        photo = Photo(name, *decode_pillow(source, name))
    elif isinstance(source, np.ndarray | Tensor):
        name = "array" if isinstance(source, np.ndarray) else "tensor"
        photo = Photo(name, *array_to_content(source))
        if not isinstance(photo.content, Tensor):
            photo = _plain_batch(photo)
    elif isinstance(source, bytes):
        photo = Photo("picture", *decode_file(io.BytesIO(source), "picture", len(source)))
    elif isinstance(source, str | os.PathLike):
        photo = Photo(Path(source).name, *decode_path(source))
    else:
        raise InputError(f"a {type(source).__name__} is no picture", ACCEPTED, "one picture at a time")
    return _match_channels(photo, channels)


def _plain_batch(photo: Photo) -> Photo:
    """The 8-bit pictures of an array as RGB or L, transparency laid over white."""
    decoded = [decode_pillow(image, photo.name) for image in photo.content if isinstance(image, Image.Image)]
    images = tuple(i for content, _ in decoded for i in content if isinstance(i, Image.Image))
    return Photo(photo.name, images, (*photo.notices, *decoded[0][1]))


def _match_channels(photo: Photo, channels: int) -> Photo:
    if photo.channels == channels:
        return photo
    notice = "grey picture repeated in three channels" if channels == 3 else "colour picture turned grey"
    content: Content
    if not isinstance(photo.content, Tensor):
        content = tuple(image.convert("RGB" if channels == 3 else "L") for image in photo.content)
    elif channels == 3:
        content = photo.content.expand(-1, 3, -1, -1)
    else:
        content = luma(photo.content)
    return replace(photo, content=content, notices=(*photo.notices, notice))


def luma(x: Tensor) -> Tensor:
    """Grey (N, 1, H, W) from RGB (N, 3, H, W): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
