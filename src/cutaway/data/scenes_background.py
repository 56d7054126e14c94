"""Where a scene happens: meadow, sea, desert, winter, night.

A background is a far sky, a line of hills and a near ground. All five use the same horizon and hills,
so that the same scene can be put anywhere without moving a single pixel of its objects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cutaway.data.scenes_palette import Floats


@dataclass(frozen=True)
class Place:
    """Colours in [0, 255] from top to bottom of sky and ground, of the hills, and what the ground is."""

    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    hills: tuple[int, int, int]
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]
    ground_name: str


PLACES: dict[str, Place] = {
    "meadow": Place(
        ((112, 178, 232), (206, 232, 246)), (128, 178, 138), ((142, 196, 96), (84, 150, 66)), "grass"
    ),
    "sea": Place(
        ((134, 196, 238), (232, 242, 240)), (112, 160, 190), ((64, 150, 186), (24, 92, 148)), "water"
    ),
    "desert": Place(
        ((250, 196, 130), (254, 232, 186)), (214, 160, 110), ((238, 204, 140), (216, 168, 100)), "sand"
    ),
    "winter": Place(
        ((176, 200, 224), (228, 236, 244)), (186, 202, 220), ((240, 245, 251), (212, 224, 240)), "snow"
    ),
    "night": Place(((18, 22, 56), (62, 62, 112)), (34, 38, 74), ((44, 56, 74), (26, 34, 50)), "dark ground"),
}
BACKGROUNDS = tuple(PLACES)
REGIONS = ("sky", "hill", *(place.ground_name for place in PLACES.values()))


@dataclass(frozen=True)
class Terrain:
    """Shape of the land, the same for every background; heights in shares of the picture, from the top."""

    horizon: float
    waves: tuple[tuple[float, float, float], ...]  # amplitude, cycles, phase of the hills
    slope: float
    noise_seed: int


def terrain(random: np.random.Generator) -> Terrain:
    """A random horizon between 0.5 and 0.66 of the height, and the hills on it."""
    waves = tuple(
        (
            float(a * random.uniform(0.5, 1)),
            float(c * random.uniform(0.8, 1.25)),
            float(random.uniform(0, 6.3)),
        )
        for a, c in ((0.05, 1.0), (0.03, 2.3), (0.012, 5.0))
    )
    return Terrain(
        float(random.uniform(0.5, 0.66)),
        waves,
        float(random.uniform(-0.03, 0.03)),
        int(random.integers(2**32)),
    )


def paint(place: str, land: Terrain, size: int) -> tuple[Floats, dict[str, np.ndarray]]:
    """The empty background ``(size, size, 3)`` in [0, 1] and the mask of each of its regions."""
    kind = PLACES[place]
    random = np.random.Generator(np.random.PCG64(land.noise_seed))
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    y = x[:, None]
    horizon = land.horizon + (0 if place == "sea" else 1) * land.slope * np.sin(3 * x + land.waves[0][2])
    crest = horizon - 0.06 - sum(a * np.sin(2 * np.pi * c * x + p) for a, c, p in land.waves)
    near = np.clip((y - horizon[None]) * size + 0.5, 0, 1)
    far = np.clip((y - crest[None]) * size + 0.5, 0, 1)

    sky = _ramp(kind.sky, np.clip(y / land.horizon, 0, 1)) + _sky_light(random, x, y)
    hills = _rgb(kind.hills) * (0.94 + 0.12 * _noise(random, size, 9))[..., None]
    haze = np.clip((y - crest[None]) / 0.14, 0, 1)[..., None] * 0.45
    hills = hills + (_rgb(kind.sky[1]) - hills) * haze
    depth = np.clip((y - horizon[None]) / (1 - land.horizon), 0, 1)
    ground = _ramp(kind.ground, depth) * (1 + _GROUNDS[place](random, x, y, depth, size))[..., None]
    if place == "night":
        sky = sky + _stars(random, size, 1)[..., None]
    elif place == "winter":
        sky = sky + 0.4 * _stars(random, size, 2)[..., None]
    image = sky + (hills - sky) * far[..., None]
    image = image + (ground - image) * near[..., None]
    is_ground, is_hill = near >= 0.5, (far >= 0.5) & (near < 0.5)
    masks = {"sky": ~is_ground & ~is_hill, "hill": is_hill, kind.ground_name: is_ground}
    return np.clip(image, 0, 1).astype(np.float32), masks


def _rgb(colour: tuple[int, int, int]) -> Floats:
    return np.array(colour, np.float32) / 255


def _ramp(ends: tuple[tuple[int, int, int], tuple[int, int, int]], share: Floats) -> Floats:
    top, bottom = _rgb(ends[0]), _rgb(ends[1])
    return np.asarray(top + (bottom - top) * share[..., None], np.float32)


def _noise(random: np.random.Generator, size: int, cells: int, high: int | None = None) -> Floats:
    """Smooth noise in [0, 1] with about ``cells`` bumps across and ``high`` bumps down."""
    coarse = random.integers(0, 256, (high or cells, cells), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


def _sky_light(random: np.random.Generator, x: Floats, y: Floats) -> Floats:
    """A soft glow somewhere in the sky."""
    cx, cy = random.uniform(0, 1), random.uniform(0.2, 0.5)
    return np.asarray(0.07 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.09), np.float32)[..., None]


def _stars(random: np.random.Generator, size: int, side: int) -> Floats:
    """Bright points ``side`` pixels wide: stars, or falling snow."""
    field = np.zeros((size, size), np.float32)
    count = 38
    rows, columns = random.integers(0, int(size * 0.6), count), random.integers(0, size - side, count)
    bright = random.uniform(0.25, 0.8, count)
    for down, right in np.ndindex(side, side):
        field[rows + down, columns + right] = bright
    return field


def _grass(random: np.random.Generator, x: Floats, y: Floats, depth: Floats, size: int) -> Floats:
    blades = _noise(random, size, size // 2, size // 5) - 0.5
    return np.asarray(blades * (0.1 + 0.22 * depth) + 0.16 * (_noise(random, size, 6) - 0.5), np.float32)


def _water(random: np.random.Generator, x: Floats, y: Floats, depth: Floats, size: int) -> Floats:
    drift = _noise(random, size, 5)
    swell = np.sin(2 * np.pi * (18 * np.sqrt(depth + 0.01) + 1.6 * drift + 0.4 * np.sin(6 * x)))
    glint = np.clip(_noise(random, size, size // 7, size // 2) - 0.72, 0, 1)
    return np.asarray(0.07 * swell + 1.1 * glint * (1 - 0.5 * depth), np.float32)


def _sand(random: np.random.Generator, x: Floats, y: Floats, depth: Floats, size: int) -> Floats:
    drift = _noise(random, size, 4)
    ripple = np.sin(2 * np.pi * (11 * depth + 2.2 * drift + 1.2 * x))
    return np.asarray(
        0.035 * ripple + 0.07 * (drift - 0.5) + 0.05 * (_noise(random, size, size) - 0.5), np.float32
    )


def _snow(random: np.random.Generator, x: Floats, y: Floats, depth: Floats, size: int) -> Floats:
    drift = np.sin(2 * np.pi * (2.2 * depth + 1.1 * _noise(random, size, 4)))
    return np.asarray(0.025 * drift - 0.05 * _noise(random, size, 12), np.float32)


def _dark(random: np.random.Generator, x: Floats, y: Floats, depth: Floats, size: int) -> Floats:
    return np.asarray(0.35 * (_noise(random, size, 14) - 0.5), np.float32)


_GROUNDS: dict[str, Callable[[np.random.Generator, Floats, Floats, Floats, int], Floats]] = {
    "meadow": _grass,
    "sea": _water,
    "desert": _sand,
    "winter": _snow,
    "night": _dark,
}
