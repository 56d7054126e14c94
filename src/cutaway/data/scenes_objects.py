"""What a drawing is, and the four classes that people build: house, boat, car, rocket.

Every drawing stands on y = 0, is about one unit wide or high, and lists its parts from back to front.
Colours are roles (``main``, ``accent``, ``third``) that the scene fills in the same way for all classes,
or fixed names where a thing has only one colour (a tyre is black).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cutaway.data.scenes_palette import Points, box, oval, polygon, smooth


@dataclass(frozen=True)
class Part:
    """One surface: part name, outlines (drawn as one), colour role, whether a texture may cover it."""

    name: str
    outlines: tuple[Points, ...]
    colour: str
    textured: bool = False
    round: bool = False


Random = np.random.Generator
Drawing = Callable[[Random], list[Part]]


def _window(left: float, top: float, right: float, bottom: float, pane: str) -> list[Part]:
    x, y, line = (left + right) / 2, (top + bottom) / 2, 0.014
    bars = (box(x - line, top, x + line, bottom), box(left, y - line, right, y + line))
    return [
        Part("window", (box(left - 0.025, top - 0.025, right + 0.025, bottom + 0.025),), "white"),
        Part("window", (box(left, top, right, bottom),), pane),
        Part("window", bars, "white"),
    ]


def house(random: Random) -> list[Part]:
    """Wall, roof, door, windows, chimney."""
    half, eaves, pane = (
        random.uniform(0.34, 0.42),
        -random.uniform(0.5, 0.58),
        random.choice(["blue", "yellow"]),
    )
    ridge = 0.0 if random.random() < 0.6 else half * 0.55
    side = random.choice([-1, 1])
    door, other = side * random.uniform(0.14, 0.2), -side * half * 0.5
    chimney = -side * random.uniform(0.2, 0.26)
    parts = [
        Part("chimney", (box(chimney - 0.055, -0.98, chimney + 0.055, -0.6),), "brown"),
        Part("wall", (box(-half, eaves, half, 0),), "main", textured=True),
        Part(
            "roof",
            (
                polygon(
                    (-half - 0.1, eaves + 0.03), (-ridge, -0.97), (ridge, -0.97), (half + 0.1, eaves + 0.03)
                ),
            ),
            "accent",
            textured=True,
        ),
        Part("door", (box(door - 0.085, -0.32, door + 0.085, 0), oval(door, -0.32, 0.085, 0.05)), "third"),
        Part("door", (oval(door + 0.05, -0.17, 0.018),), "yellow"),
        *_window(other - 0.09, eaves + 0.12, other + 0.09, eaves + 0.31, pane),
    ]
    if ridge == 0 and random.random() < 0.6:
        parts += [
            Part("window", (oval(0, -0.7, 0.085),), "white"),
            Part("window", (oval(0, -0.7, 0.06),), pane),
        ]
    return parts


def boat(random: Random) -> list[Part]:
    """Hull, mast, two sails, flag."""
    mast, depth = random.uniform(-0.08, 0.06), random.uniform(0.19, 0.26)
    flag = random.uniform(0.1, 0.16)
    hull = smooth(
        (-0.52, -depth),
        (-0.3, -depth + 0.02),
        (0.3, -depth + 0.02),
        (0.54, -depth - 0.02),
        (0.4, -0.03),
        (0.2, 0),
        (-0.3, 0),
        (-0.42, -0.04),
    )
    return [
        Part("mast", (box(mast - 0.018, -0.99, mast + 0.018, -depth),), "brown"),
        Part("flag", (polygon((mast, -1.0), (mast - flag, -0.95), (mast, -0.9)),), "third"),
        Part(
            "sail",
            (
                smooth(
                    (mast + 0.035, -0.9),
                    (mast + 0.2, -0.62),
                    (mast + 0.43, -depth - 0.1),
                    (mast + 0.035, -depth - 0.08),
                ),
            ),
            "accent",
            textured=True,
        ),
        Part(
            "sail",
            (
                smooth(
                    (mast - 0.035, -0.82),
                    (mast - 0.04, -depth - 0.1),
                    (mast - 0.34, -depth - 0.1),
                    (mast - 0.16, -0.5),
                ),
            ),
            "third",
        ),
        Part("hull", (hull,), "main", textured=True),
        Part("hull", (box(-0.46, -depth + 0.015, 0.49, -depth + 0.045),), "white"),
    ]


def car(random: Random) -> list[Part]:
    """Chassis, cabin, windows, wheels, lamp."""
    roof, rear, front = -random.uniform(0.56, 0.66), -random.uniform(0.26, 0.42), random.uniform(0.2, 0.3)
    wheel = random.uniform(0.115, 0.14)
    cabin = smooth(
        (rear, -0.33),
        (rear + 0.07, roof + 0.03),
        (rear + 0.14, roof),
        (front - 0.12, roof),
        (front - 0.05, roof + 0.04),
        (front + 0.09, -0.33),
    )
    body = smooth(
        (-0.5, -0.12),
        (-0.51, -0.3),
        (-0.44, -0.37),
        (0.34, -0.36),
        (0.48, -0.3),
        (0.53, -0.2),
        (0.5, -0.11),
        (0, -0.1),
    )
    post, top = (rear + front) / 2 + 0.02, roof + 0.07
    hubs = (-0.29, 0.29)
    return [
        Part("cabin", (cabin,), "accent"),
        Part("chassis", (body,), "main", textured=True),
        Part(
            "window",
            (
                polygon((rear + 0.08, -0.38), (rear + 0.13, top), (post - 0.02, top), (post - 0.02, -0.38)),
                polygon((post + 0.02, -0.38), (post + 0.02, top), (front - 0.09, top), (front + 0.01, -0.38)),
            ),
            "blue",
        ),
        Part("lamp", (oval(0.47, -0.26, 0.04, 0.045),), "yellow"),
        Part("bumper", (box(-0.53, -0.16, -0.4, -0.11), box(0.42, -0.16, 0.55, -0.11)), "grey"),
        Part("wheel", tuple(oval(x, -wheel, wheel) for x in hubs), "black"),
        Part("wheel", tuple(oval(x, -wheel, wheel * 0.5) for x in hubs), "grey", round=True),
    ]


def rocket(random: Random) -> list[Part]:
    """Fuselage, nose, fins, window, flame."""
    half, flame = random.uniform(0.15, 0.185), random.uniform(0.14, 0.2)
    base = -0.2
    hull = smooth(
        (-half * 0.7, base),
        (-half, -0.42),
        (-half, -0.6),
        (-half * 0.62, -0.82),
        (half * 0.62, -0.82),
        (half, -0.6),
        (half, -0.42),
        (half * 0.7, base),
    )
    nose = smooth(
        (-half * 0.74, -0.77),
        (-half * 0.4, -0.92),
        (0, -1.04),
        (half * 0.4, -0.92),
        (half * 0.74, -0.77),
        (0, -0.75),
    )
    fin = smooth(
        (half * 0.8, -0.46),
        (half + 0.15, -0.27),
        (half + 0.16, -0.1),
        (half + 0.05, -0.17),
        (half * 0.6, base),
    )
    return [
        Part(
            "flame",
            (
                smooth(
                    (-half * 0.55, base),
                    (-half * 0.5, base + 0.1),
                    (0, base + flame + 0.05),
                    (half * 0.5, base + 0.1),
                    (half * 0.55, base),
                ),
            ),
            "orange",
        ),
        Part(
            "flame",
            (
                smooth(
                    (-half * 0.3, base),
                    (-half * 0.25, base + 0.06),
                    (0, base + flame * 0.6),
                    (half * 0.25, base + 0.06),
                    (half * 0.3, base),
                ),
            ),
            "yellow",
        ),
        Part("fin", (fin, fin * [-1, 1]), "accent"),
        Part("fuselage", (hull,), "main", textured=True),
        Part("nose", (nose,), "accent"),
        Part("window", (oval(0, -0.6, half * 0.56),), "white"),
        Part("window", (oval(0, -0.6, half * 0.38),), "blue", round=True),
    ]
