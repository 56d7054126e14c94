"""The four classes that grow: tree, fish, flower, bird."""

import numpy as np

from cutaway.data.scenes_objects import Part, Random
from cutaway.data.scenes_palette import oval, polygon, ribbon, smooth


def tree(random: Random) -> list[Part]:
    """Trunk, crown (round or in tiers), fruit."""
    width = random.uniform(0.06, 0.09)
    trunk = polygon((-width * 1.3, 0), (-width * 0.8, -0.5), (width * 0.8, -0.5), (width * 1.3, 0))
    parts = [Part("trunk", (trunk,), "brown")]
    if random.random() < 0.5:
        half = random.uniform(0.3, 0.36)
        tiers = [(-0.24, half, -0.62), (-0.46, half * 0.82, -0.82), (-0.67, half * 0.62, -1.02)]
        crown = tuple(polygon((-w, y), (0, top), (w, y)) for y, w, top in tiers)
        spots = [(0.13, -0.31), (-0.14, -0.33), (0.0, -0.45), (0.1, -0.56), (-0.09, -0.58), (0.02, -0.74)]
    else:
        clumps = [
            (0, -0.62, 0.3),
            (-0.21, -0.54, 0.2),
            (0.22, -0.56, 0.2),
            (-0.12, -0.8, 0.19),
            (0.14, -0.8, 0.18),
        ]
        wobble = random.uniform(-0.025, 0.025, (5, 2))
        crown = tuple(oval(x + dx, y + dy, r) for (x, y, r), (dx, dy) in zip(clumps, wobble, strict=True))
        spots = [(0.2, -0.5), (-0.22, -0.52), (0.03, -0.46), (0.12, -0.74), (-0.13, -0.78), (-0.02, -0.62)]
    parts.append(Part("crown", crown, "main", textured=True, round=True))
    if random.random() < 0.6:
        parts.append(Part("fruit", tuple(oval(x, y, 0.036) for x, y in spots), "accent", round=True))
    return parts


def fish(random: Random) -> list[Part]:
    """Fish body, tail fin, fins, eye."""
    deep = random.uniform(0.22, 0.29)
    y = -deep - 0.1
    body = smooth(
        (0.48, y + 0.02),
        (0.34, y - deep * 0.72),
        (0.06, y - deep),
        (-0.2, y - deep * 0.62),
        (-0.34, y),
        (-0.2, y + deep * 0.62),
        (0.06, y + deep),
        (0.34, y + deep * 0.72),
    )
    tail = smooth(
        (-0.28, y), (-0.42, y - 0.17), (-0.56, y - 0.25), (-0.49, y), (-0.56, y + 0.25), (-0.42, y + 0.17)
    )
    back = smooth(
        (-0.16, y - deep * 0.6),
        (-0.06, y - deep - 0.13),
        (0.12, y - deep - 0.13),
        (0.22, y - deep * 0.8),
        (0.02, y - deep * 0.7),
    )
    belly = smooth(
        (-0.06, y + deep * 0.75), (-0.1, y + deep + 0.1), (0.06, y + deep + 0.06), (0.14, y + deep * 0.8)
    )
    side = smooth((0.08, y + 0.02), (-0.08, y - 0.03), (-0.12, y + 0.07), (0.0, y + 0.12))
    return [
        Part("tail fin", (tail,), "accent", textured=True),
        Part("fin", (back, belly), "accent"),
        Part("fish body", (body,), "main", textured=True, round=True),
        Part("fin", (side,), "accent"),
        Part("eye", (oval(0.3, y - 0.06, 0.058),), "white"),
        Part("eye", (oval(0.315, y - 0.055, 0.03),), "black"),
    ]


def flower(random: Random) -> list[Part]:
    """Stem, leaves, petals, flower centre."""
    count, bend = int(random.integers(5, 9)), random.uniform(-0.07, 0.07)
    y, radius = -0.7, random.uniform(0.2, 0.235)
    turn = random.uniform(0, 2 * np.pi)
    angles = turn + np.arange(count) * 2 * np.pi / count
    fat = 0.92 * np.pi * radius / count
    petals = tuple(
        oval(radius * np.cos(a), y + radius * np.sin(a), 0.135, min(fat, 0.12), turn=a) for a in angles
    )
    leaf = smooth((0.0, -0.12), (0.12, -0.27), (0.29, -0.32), (0.24, -0.17), (0.1, -0.08))
    stem = ribbon([(0, 0), (bend, -0.2), (bend, -0.42), (0, y)], 0.05)
    return [
        Part("stem", (stem,), "green"),
        Part("leaf", (leaf, leaf * [-1, 1.0] + [0, -0.05]), "green"),
        Part("petal", petals, "main", textured=True),
        Part("flower centre", (oval(0, y, 0.115),), "accent", round=True),
    ]


def bird(random: Random) -> list[Part]:
    """Bird body with head, wing, tail, beak, eye, legs."""
    plump, head = random.uniform(0.2, 0.25), random.uniform(0.125, 0.15)
    y = -0.18 - plump
    body = smooth(
        (0.3, y - 0.1),
        (0.22, y + plump * 0.65),
        (0.0, y + plump),
        (-0.24, y + plump * 0.4),
        (-0.36, y - 0.06),
        (-0.12, y - plump * 0.6),
        (0.12, y - plump * 0.85),
    )
    hx, hy = 0.22, y - plump * 0.85 - 0.02
    tail = smooth((-0.26, y + 0.03), (-0.52, y - 0.2), (-0.6, y - 0.1), (-0.54, y - 0.02), (-0.28, y + 0.12))
    lift = random.uniform(-0.14, 0.02)
    wing = smooth((0.13, y - 0.07), (-0.06, y - 0.1), (-0.36, y + lift), (-0.16, y + 0.12), (0.06, y + 0.1))
    legs = tuple(
        ribbon([(x, y + plump * 0.8), (x + 0.01, -0.03), (x + 0.03, 0)], 0.03) for x in (-0.04, 0.09)
    )
    return [
        Part("leg", legs, "orange"),
        Part("tail", (tail,), "accent"),
        Part(
            "beak",
            (
                polygon(
                    (hx + head * 0.75, hy - 0.05),
                    (hx + head + 0.15, hy + 0.02),
                    (hx + head * 0.75, hy + 0.07),
                ),
            ),
            "orange",
        ),
        Part("bird body", (body, oval(hx, hy, head)), "main", textured=True, round=True),
        Part("wing", (wing,), "accent"),
        Part("eye", (oval(hx + 0.045, hy - 0.03, 0.036),), "white"),
        Part("eye", (oval(hx + 0.052, hy - 0.028, 0.021),), "black"),
    ]
