"""Things that keep the object company and are never the class: sun, cloud, bush, ball, rock, crate."""

import numpy as np

from cutaway.data.scenes_objects import Drawing, Part, Random
from cutaway.data.scenes_palette import box, oval, polygon, smooth


def sun(random: Random) -> list[Part]:
    """A disc with rays."""
    angles = random.uniform(0, 1) + np.arange(12) * np.pi / 6
    rays = tuple(
        polygon(
            (0.33 * np.cos(a - 0.13), -0.5 + 0.33 * np.sin(a - 0.13)),
            (0.5 * np.cos(a), -0.5 + 0.5 * np.sin(a)),
            (0.33 * np.cos(a + 0.13), -0.5 + 0.33 * np.sin(a + 0.13)),
        )
        for a in angles
    )
    return [Part("", rays, "yellow"), Part("", (oval(0, -0.5, 0.29),), "yellow", round=True)]


def moon(random: Random) -> list[Part]:
    """A full moon with craters."""
    craters = tuple(
        oval(x + random.uniform(-0.04, 0.04), y, r)
        for x, y, r in ((-0.12, -0.6, 0.08), (0.14, -0.42, 0.1), (0.05, -0.7, 0.05), (-0.1, -0.33, 0.05))
    )
    return [Part("", (oval(0, -0.5, 0.36),), "white", round=True), Part("", craters, "pale")]


def cloud(random: Random) -> list[Part]:
    """Overlapping puffs on a flat base."""
    puffs = ((-0.32, -0.16, 0.15), (-0.1, -0.27, 0.22), (0.15, -0.22, 0.19), (0.35, -0.14, 0.13))
    wobble = random.uniform(-0.03, 0.03, (4, 2))
    outlines = [oval(x + dx, y + dy, r) for (x, y, r), (dx, dy) in zip(puffs, wobble, strict=True)]
    return [Part("", (*outlines, box(-0.34, -0.16, 0.37, -0.02)), "white", round=True)]


def bush(random: Random) -> list[Part]:
    """A low green clump."""
    puffs = (
        (-0.3, -0.16, 0.19),
        (0.0, -0.28, 0.25),
        (0.29, -0.17, 0.2),
        (0.1, -0.1, 0.2),
        (-0.14, -0.1, 0.2),
    )
    wobble = random.uniform(-0.03, 0.03, (5, 2))
    outlines = [oval(x + dx, y + dy, r) for (x, y, r), (dx, dy) in zip(puffs, wobble, strict=True)]
    return [Part("", (*outlines, box(-0.4, -0.14, 0.4, 0)), "green", round=True)]


def ball(random: Random) -> list[Part]:
    """A toy ball."""
    return [Part("", (oval(0, -0.4, 0.4),), "own", textured=True, round=True)]


def rock(random: Random) -> list[Part]:
    """A boulder with a lit facet."""
    d = random.uniform(-0.06, 0.06, 4)
    outline = smooth(
        (-0.48, 0),
        (-0.42, -0.24 + d[0]),
        (-0.14 + d[1], -0.46),
        (0.2, -0.42 + d[2]),
        (0.44, -0.2 + d[3]),
        (0.5, 0),
        steps=3,
    )
    facet = polygon((-0.3, -0.26), (-0.12 + d[1], -0.4), (0.12, -0.36 + d[2]), (0.02, -0.2))
    return [Part("", (outline,), "grey"), Part("", (facet,), "pale")]


def crate(random: Random) -> list[Part]:
    """A wooden box with a frame."""
    frame = (
        box(-0.4, -0.74, 0.4, -0.65),
        box(-0.4, -0.09, 0.4, 0),
        box(-0.4, -0.74, -0.31, 0),
        box(0.31, -0.74, 0.4, 0),
    )
    return [Part("", (box(-0.38, -0.72, 0.38, -0.02),), "brown", textured=True), Part("", frame, "dark")]


COMPANY: dict[str, Drawing] = {
    "sun": sun,
    "moon": moon,
    "cloud": cloud,
    "bush": bush,
    "ball": ball,
    "rock": rock,
    "crate": crate,
}
