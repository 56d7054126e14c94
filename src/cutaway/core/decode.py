"""Picture files: opened safely, decoded whole, upright, in RGB or grey."""

from __future__ import annotations

import difflib
import io
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .arrays import array_to_content
from .errors import InputError

MEGAPIXELS = 100
"""Pictures with more pixels than this many million are refused before they are decoded."""

Content: TypeAlias = tuple[Image.Image, ...] | Tensor

ACCEPTED = (
    "a picture file, a Pillow image, or an array or tensor of shape HxW, HxWx3, 3xHxW or Nx3xHxW "
    "(uint8 0-255, or floating point 0-1)"
)
# What Pillow's decoders raise on damaged files, from a zip error to a wrong table index.
_DECODER_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
# Warning filters belong to the whole process, so only one thread at a time listens to Pillow's warnings.
# The decoders of these formats do not warn and run in parallel.
_OPENING = threading.Lock()
_SILENT = (None, "JPEG", "PNG", "WEBP", "BMP")


def decode_path(source: str | os.PathLike[str]) -> tuple[Content, tuple[str, ...]]:
    """The picture in a file, and what to tell the person. Raises `InputError` for anything but a picture."""
    text = os.fspath(source)
    if re.match(r"[a-z][a-z0-9+.-]+://|data:", text, re.IGNORECASE):
        raise InputError(
            f"{text[:80]} is an address on a network, and nothing is fetched",
            "a file on this machine",
            "download the picture first and give its path",
        )
    path = Path(text).expanduser()
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise InputError(f"{path} cannot be read: permission denied", "a readable file") from error
        raise InputError(f"there is no file {path}", "a picture file", _nearest(path)) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder", "a picture file", f"a file in it, such as {path}/*.jpg")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is neither a file nor a folder", "a picture file")
    return decode_file(path, path.name, status.st_size)


def _nearest(path: Path) -> str:
    """The most similar file name in the same folder, if any."""
    if not path.parent.is_dir():
        return f"check the folder: {path.parent} does not exist either"
    try:
        near = difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)  # noqa: PTH208
    except OSError:
        return ""
    return str(path.parent / near[0]) if near else ""


def decode_file(file: Path | io.BytesIO, name: str, length: int) -> tuple[Content, tuple[str, ...]]:
    """The picture in an existing file or in memory, of `length` bytes."""
    if length == 0:
        raise InputError(f"{name} is empty (0 bytes)", ACCEPTED)
    said: list[str] = []
    with _listening(said):
        try:
            opened = Image.open(file)
        except UnidentifiedImageError as error:
            raise InputError(
                f"{name} is not a picture that Pillow can read",
                "JPEG, PNG, WebP, TIFF, BMP, GIF and others",
                "open it in a picture editor and export it as PNG",
            ) from error
        except Image.DecompressionBombError as error:
            found = re.search(r"\d+", str(error))
            raise _too_large(name, int(found.group()) if found else 0) from error
        except _DECODER_FAILURES as error:
            raise InputError(f"{name} cannot be opened: {_reason(error)}", ACCEPTED) from error
    with opened:
        return decode_pillow(opened, name, tuple(said))


@contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """Collect what Pillow warns of, instead of printing it; our own limit replaces its one on size."""
    with _OPENING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            said.extend(str(w.message) for w in caught if w.category is not Image.DecompressionBombWarning)


def _too_large(name: str, pixels: int, size: tuple[int, int] | None = None) -> InputError:
    shape = f" ({size[0]}x{size[1]})" if size else ""
    return InputError(
        f"{name} has {pixels / 1e6:.0f} megapixels{shape}; it was not decoded",
        f"at most {MEGAPIXELS} megapixels",
        "a smaller copy: networks look at a few hundred pixels a side",
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def decode_pillow(
    image: Image.Image, name: str, notices: tuple[str, ...] = ()
) -> tuple[Content, tuple[str, ...]]:
    """An opened picture, decoded whole, turned upright, as RGB or grey; never changed in place."""
    if image.width * image.height > MEGAPIXELS * 1e6:
        raise _too_large(name, image.width * image.height, image.size)
    if image.width == 0 or image.height == 0:
        raise InputError(f"{name} has no pixels ({image.width}x{image.height})", "a picture with pixels")
    said = list(notices)
    try:
        with _listening(said):
            frames = int(getattr(image, "n_frames", 1))
        frame = image.tell() if frames > 1 else 0
        if frames > 1:
            said.append(f"{frames} frames; frame {frame + 1} is used")
        if _deep_png(image):
            said.append("16 bits a channel; Pillow reads colour at 8 bits")
        if image.format in _SILENT:
            image.load()
        else:
            with _listening(said):
                image.load()
    except _DECODER_FAILURES as error:
        raise InputError(
            f"{name} is damaged or incomplete: {_reason(error)}",
            "a whole picture file",
            "copy or download the file again",
        ) from error
    image = _upright(image, said)
    content = _plain(image, name, said)
    return content, tuple(said)


def _deep_png(image: Image.Image) -> bool:
    """Whether this is a PNG of 16 bits a channel that Pillow hands out at 8."""
    if image.format != "PNG" or image.mode not in ("RGB", "RGBA", "LA"):
        return False
    rawmodes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return any("16" in raw for raw in rawmodes)


def _upright(image: Image.Image, said: list[str]) -> Image.Image:
    try:
        with _listening(said):
            orientation = image.getexif().get(0x0112, 1)
            turned = ImageOps.exif_transpose(image)
    except _DECODER_FAILURES as error:
        said.append(f"EXIF data unreadable ({_reason(error)}); orientation not applied")
        return image
    if orientation in range(2, 9):
        said.append(f"turned upright (EXIF orientation {orientation})")
        return turned
    return image


def _plain(image: Image.Image, name: str, said: list[str]) -> Content:
    """The picture as 8-bit RGB or L, or as a tensor where 8 bits would lose depth."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        content, notices = array_to_content(_deep_array(image, name))
        said.extend(notices)
        return content
    if mode in ("RGB", "L") and "transparency" not in image.info:
        return (image.copy(),)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBa").convert("RGBA") if mode == "La" else image.convert("RGBA")
        clear = image.getchannel("A").getextrema() != (255, 255)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        said.append("transparency laid over white" if clear else "opaque alpha channel dropped")
        return (Image.alpha_composite(white, image).convert("RGB"),)
    if mode == "1":
        said.append("black-and-white picture read as grey 0 and 255")
        return (image.convert("L"),)
    if mode not in ("P", "RGBX", "CMYK", "YCbCr", "HSV"):
        raise InputError(f"{name} has colour mode {mode}", "RGB, grey, palette or CMYK", "export it as RGB")
    words = {"P": "palette", "CMYK": "CMYK picture (no colour profile used)", "RGBX": "padded RGB"}
    said.append(f"{words.get(mode, mode)} converted to RGB")
    return (image.convert("RGB"),)


def _deep_array(image: Image.Image, name: str) -> np.ndarray[Any, Any]:
    """Pixels of a picture with more than 8 bits: uint16, or floating point as stored."""
    array = np.array(image)
    if image.mode == "F":
        return array
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"{name} has 32-bit whole numbers from {low} to {high}",
            "8 or 16 bits a channel",
            "scale the values to 0-1 and give a floating-point array",
        )
    return array.astype(np.uint16)
