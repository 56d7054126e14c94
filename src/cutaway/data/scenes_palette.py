"""Colours, textures and outlines from which scenes are drawn; lengths in shares of the picture."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Points = NDArray[np.float64]

#: Name of a colour -> its two tones, 0..255. The second is what a texture weaves into the first.
TONES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((216, 62, 58), (166, 34, 44)),
    "orange": ((240, 138, 44), (252, 184, 104)),
    "yellow": ((248, 208, 66), (255, 234, 150)),
    "green": ((92, 172, 88), (54, 126, 68)),
    "blue": ((58, 118, 204), (122, 178, 238)),
    "purple": ((138, 86, 182), (182, 142, 218)),
    "pink": ((240, 136, 178), (251, 190, 213)),
    "white": ((245, 243, 238), (206, 208, 216)),
    "brown": ((140, 93, 58), (106, 68, 42)),
    "grey": ((132, 138, 145), (102, 108, 116)),
    "black": ((40, 40, 46), (54, 54, 62)),
}
COLOURS = tuple(TONES)
#: Colours that any object may wear, whatever its class.
FREE_COLOURS = COLOURS[:8]
#: Textures of a surface beside plain.
TEXTURES = ("striped", "checked", "dotted", "wood")


@cache
def _naming() -> NDArray[np.uint8]:
    """Index into COLOURS for every RGB colour of 6 bits a channel, shape ``(64, 64, 64)``."""
    rgb = (np.moveaxis(np.indices((64, 64, 64)), 0, -1) + 0.5) / 64
    value, least = rgb.max(-1), rgb.min(-1)
    chroma = np.maximum(value - least, 1e-9)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    sector = np.select(
        [value == red, value == green],
        [((green - blue) / chroma) % 6, (blue - red) / chroma + 2],
        (red - green) / chroma + 4,
    )
    hue, saturation = 60 * sector, (value - least) / value
    rules = {
        "black": value < 0.26,
        "white": (saturation < 0.13) & (value > 0.7),
        "grey": saturation < 0.13,
        "brown": (hue > 8) & (hue < 48) & (value < 0.66),
        "pink": ((hue >= 300) & (hue < 345))
        | ((saturation < 0.5) & (value > 0.7) & ((hue < 15) | (hue >= 345))),
        "red": (hue < 15) | (hue >= 345),
        "orange": hue < 40,
        "yellow": hue < 66,
        "green": hue < 165,
        "blue": hue < 256,
        "purple": hue < 300,
    }
    numbers = [COLOURS.index(name) for name in rules]
    return np.select(list(rules.values()), numbers).astype(np.uint8)


def colour_names(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour of every pixel of ``(H, W, 3)`` as an index into COLOURS, by hue, saturation and value.

    >>> picture = np.array([[[216, 62, 58], [245, 243, 238]]], np.uint8)
    >>> [COLOURS[k] for k in colour_names(picture)[0]]
    ['red', 'white']
    """
    coarse = image >> 2
    names: NDArray[np.uint8] = _naming()[coarse[..., 0], coarse[..., 1], coarse[..., 2]]
    return names


def tones(colour: str, jitter: Floats) -> Floats:
    """Both tones of a colour in [0, 1], shape ``(2, 3)``, moved by ``jitter`` ``(3,)``."""
    both: Floats = np.clip(np.array(TONES[colour], np.float32) / 255 + jitter, 0, 1)
    return both


# --- textures: how much of the second tone there is at (u, v), lengths in texture periods ---------------


def _edge(wave: Floats, sharpness: float) -> Floats:
    share: Floats = np.clip(wave * sharpness + 0.5, 0, 1)
    return share


def _striped(u: Floats, v: Floats, sharpness: float) -> Floats:
    return _edge(np.sin(2 * np.pi * u), sharpness)


def _checked(u: Floats, v: Floats, sharpness: float) -> Floats:
    return _edge(np.sin(np.pi * u) * np.sin(np.pi * v), sharpness)


def _dotted(u: Floats, v: Floats, sharpness: float) -> Floats:
    v = v * 1.15
    shifted = u + 0.5 * (np.floor(v) % 2)
    distance = np.hypot(shifted - np.floor(shifted) - 0.5, v - np.floor(v) - 0.5)
    return _edge(0.3 - distance, 2 * np.pi * sharpness / 2)


def _wood(u: Floats, v: Floats, sharpness: float) -> Floats:
    grain = np.sin(2 * np.pi * (1.1 * v + 0.16 * np.sin(2.1 * u) + 0.1 * np.sin(5.3 * u + 2)))
    plank = np.abs((v / 2.2) % 1.0 - 0.5) < 0.045
    share: Floats = np.maximum(0.55 * (0.5 + 0.5 * grain), plank)
    return share


_PATTERNS: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "wood": _wood,
}


def weave(texture: str, u: Floats, v: Floats, period_pixels: float) -> Floats:
    """Share of the second tone in [0, 1] at texture coordinates ``u``, ``v``, edges about one pixel wide."""
    return _PATTERNS[texture](u, v, max(period_pixels / (2 * np.pi), 0.6))


# --- outlines: closed polygons (n, 2) as x, y with y pointing down ---------------------------------------


def polygon(*corners: tuple[float, float]) -> Points:
    """The straight-edged outline through ``corners``."""
    return np.array(corners, np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def oval(x: float, y: float, rx: float, ry: float | None = None, *, turn: float = 0.0) -> Points:
    """An ellipse with centre and radii, turned by ``turn`` radians."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    px, py = rx * np.cos(angle), (rx if ry is None else ry) * np.sin(angle)
    return np.stack([x + px * np.cos(turn) - py * np.sin(turn), y + px * np.sin(turn) + py * np.cos(turn)], 1)


def smooth(*corners: tuple[float, float], steps: int = 6) -> Points:
    """A round outline through ``corners`` (closed Catmull-Rom spline, 1974)."""
    p1 = np.array(corners, np.float64)[:, None]
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return np.asarray(curve.reshape(-1, 2))


def ribbon(path: Sequence[tuple[float, float]], width: float) -> Points:
    """A line of constant ``width`` along ``path``."""
    line = np.array(path, np.float64)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.hypot(*along.T)[:, None] * width / 2
    return np.concatenate([line + normal, (line - normal)[::-1]])
