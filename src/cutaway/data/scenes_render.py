"""From a composition (which surface lies where, in which colour) to pixels and masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cutaway.data.scenes_background import Terrain, paint
from cutaway.data.scenes_palette import Floats, Points, weave

_OVERSAMPLING = 4
_LIGHT = (-0.55, -0.83)  # direction the light comes from, as x, y


@dataclass(frozen=True, eq=False)
class Piece:
    """One surface in the picture, lengths in shares of its width.

    ``thing`` and ``part`` are its concepts (an empty part has no name of its own); ``colour`` names the
    tones ``(2, 3)`` in [0, 1]; ``frame`` maps picture to texture coordinates, in periods.
    """

    thing: str
    part: str
    outlines: tuple[Points, ...]
    colour: str
    tones: Floats
    texture: str
    frame: NDArray[np.float64]
    round: bool
    main: bool


@dataclass(frozen=True, eq=False)
class Composition:
    """Everything that decides a picture: the place, the land, the pieces from back to front, the shadows."""

    background: str
    land: Terrain
    pieces: tuple[Piece, ...]
    shadows: tuple[tuple[float, float, float], ...]  # x, y, half width of the ellipse under a thing
    grain: int


@dataclass(frozen=True, eq=False)
class Rendering:
    """The picture ``(H, W, 3)`` uint8, the piece visible at each pixel (-1: none), the land's regions."""

    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
    regions: dict[str, NDArray[np.bool_]]


def render(composition: Composition, size: int) -> Rendering:
    """Paint a composition; a pixel belongs to the last piece that covers at least half of it."""
    canvas, regions = paint(composition.background, composition.land, size)
    dark = 0.88 if composition.background == "night" else 1.0
    _shade_ground(canvas, composition.shadows, size)
    owner = np.full((size, size), -1, np.int16)
    for number, piece in enumerate(composition.pieces):
        found = _coverage(piece.outlines, size)
        if found is None:
            continue
        cover, top, left = found
        window = (slice(top, top + cover.shape[0]), slice(left, left + cover.shape[1]))
        colour = _surface(piece, cover.shape, top, left, size, dark)
        canvas[window] += cover[..., None] * (colour - canvas[window])
        owner[window][cover >= 0.5] = number
    grain = np.random.Generator(np.random.PCG64(composition.grain)).random((size, size, 1), np.float32)
    image = np.clip(canvas * 255 + 6 * grain - 2.5, 0, 255).astype(np.uint8)
    return Rendering(image, owner, regions)


def _coverage(outlines: Sequence[Points], size: int) -> tuple[Floats, int, int] | None:
    """Share of each pixel that the outlines cover, with the top left corner of the window; None outside."""
    every = np.concatenate(outlines) * size
    left, top = np.maximum(np.floor(every.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(every.max(0)).astype(int) + 1, size)
    if right <= left or bottom <= top:
        return None
    scale = _OVERSAMPLING
    fine = Image.new("L", (int(right - left) * scale, int(bottom - top) * scale))
    pen = ImageDraw.Draw(fine)
    for outline in outlines:
        # Pillow fills through the centre of a corner's pixel, so half a fine pixel is taken off
        corners = (outline * size - (left, top)) * scale - 0.5
        pen.polygon(corners.ravel().tolist(), fill=255)
    return np.asarray(fine.reduce(scale), np.float32) / 255, int(top), int(left)


def _surface(piece: Piece, shape: tuple[int, ...], top: int, left: int, size: int, dark: float) -> Floats:
    """Colour of a piece over its window: tones, woven by its texture, lit from the upper left."""
    y = ((np.arange(shape[0], dtype=np.float32) + (top + 0.5)) / size)[:, None]
    x = ((np.arange(shape[1], dtype=np.float32) + (left + 0.5)) / size)[None]
    first, second = piece.tones
    if piece.texture:
        (a, b, c), (d, e, f) = piece.frame.astype(np.float32)
        period = size / float(np.hypot(a, b))
        share = weave(piece.texture, a * x + b * y + c, d * x + e * y + f, period)[..., None]
        colour = first + (second - first) * share
    else:
        colour = np.broadcast_to(first, (*shape, 3))
    every = np.concatenate(piece.outlines)
    low, high = every.min(0), every.max(0)
    middle, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-3)
    dx, dy = (x - np.float32(middle[0])) / reach, (y - np.float32(middle[1])) / reach
    lit = _LIGHT[0] * dx + _LIGHT[1] * dy
    strength = 0.15 if piece.round else 0.09
    light = 1 + strength * lit
    if piece.round:
        light = light - 0.05 * (dx * dx + dy * dy) + 0.02
    return np.asarray(np.clip(colour * (dark * light)[..., None], 0, 1), np.float32)


def _shade_ground(canvas: Floats, shadows: Sequence[tuple[float, float, float]], size: int) -> None:
    """Darken the ground softly under every thing that stands on it or floats above it."""
    half = size // 2
    soft = Image.new("L", (half, half))
    pen = ImageDraw.Draw(soft)
    for x, y, radius in shadows:
        ry = radius * 0.24
        pen.ellipse([(x - radius) * half, (y - ry) * half, (x + radius) * half, (y + ry) * half], fill=120)
    soft = soft.filter(ImageFilter.GaussianBlur(size / 90))
    shade = np.asarray(soft.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
    canvas *= (1 - shade)[..., None]
