"""How a scene is thought up: where things stand, what they wear, and the sentence that says so."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutaway.data import scenes_life as life
from cutaway.data import scenes_objects as made
from cutaway.data.scenes_background import Terrain, terrain
from cutaway.data.scenes_company import COMPANY
from cutaway.data.scenes_objects import Drawing, Part
from cutaway.data.scenes_palette import FREE_COLOURS, TEXTURES, Floats, tones
from cutaway.data.scenes_render import Composition, Piece

DRAWINGS: dict[str, Drawing] = {
    "house": made.house,
    "boat": made.boat,
    "car": made.car,
    "tree": life.tree,
    "fish": life.fish,
    "rocket": made.rocket,
    "flower": life.flower,
    "bird": life.bird,
}
CLASSES = tuple(DRAWINGS)
_FLOATING = {"fish", "rocket"}
_PALE = np.array([[0.71, 0.73, 0.75], [0.66, 0.68, 0.7]], np.float32)
_ALOFT = {"sun", "moon", "cloud"}
#: The part whose colour gives each class its colour.
MAIN_PARTS = frozenset({"wall", "hull", "chassis", "crown", "fish body", "fuselage", "petal", "bird body"})
#: The part of each class that wears the accent, as the caption says it: {0} with an article, {1} without.
_ACCENTS = {
    "roof": "{0} roof",
    "sail": "{0} sail",
    "cabin": "{0} cabin",
    "fruit": "{1} fruit",
    "tail fin": "{1} fins",
    "nose": "{0} nose",
    "flower centre": "{0} centre",
    "wing": "{0} wing",
}
_WHERE = {
    "meadow": "on a meadow",
    "sea": "by the sea",
    "desert": "in the desert",
    "winter": "in the snow",
    "night": "at night",
}


class Outfit(NamedTuple):
    """Colours by role and texture of the object; drawn in the same way for every class."""

    colours: Mapping[str, str]
    tones: Mapping[str, Floats]
    texture: str
    accent_texture: str


class Placement(NamedTuple):
    """Picture coordinates of a drawing: ``x, y + scale * turn(stretch * point)``."""

    x: float
    y: float
    scale: float
    matrix: NDArray[np.float64]


def _outfit(random: np.random.Generator) -> Outfit:
    names = random.choice(FREE_COLOURS, 3, replace=False).tolist()
    textures = ("", "", "", *TEXTURES, *TEXTURES)
    jitter = random.uniform(-0.035, 0.035, (3, 3)).astype(np.float32)
    texture = str(random.choice(textures))
    return Outfit(
        dict(zip(("main", "accent", "third"), names, strict=True)),
        {
            role: tones(name, move)
            for role, name, move in zip(("main", "accent", "third"), names, jitter, strict=True)
        },
        texture,
        str(random.choice(textures)) if random.random() < 0.4 else "",
    )


def _matrix(angle: float, width: float, height: float, mirrored: bool) -> NDArray[np.float64]:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(turn @ np.diag([-width if mirrored else width, height]))


def _placement(random: np.random.Generator, floating: bool) -> Placement:
    scale = random.uniform(0.5, 0.74)
    share, angle = random.uniform(0, 1), random.uniform(-1, 1)
    width, height = random.uniform(0.9, 1.12, 2)
    ground = random.uniform(max(0.76, scale * 1.12 + 0.04), 0.93)
    mirrored = bool(random.random() < 0.5)
    lift = random.uniform(0.03, 0.3)
    x = 0.6 * scale + 0.02 + share * (0.96 - 1.2 * scale)
    matrix = _matrix(np.deg2rad(angle * (20 if floating else 6)), width, height, mirrored)
    y = max(ground - lift, scale * 1.12 + 0.02) if floating else ground
    return Placement(float(x), float(y), float(scale), matrix)


def _pieces(
    thing: str,
    parts: list[Part],
    place: Placement,
    outfit: Outfit,
    random: np.random.Generator,
    *,
    main: bool,
) -> list[Piece]:
    pieces = []
    shift = np.array([place.x, place.y])
    fixed = random.uniform(-0.025, 0.025, 3).astype(np.float32)
    for part in parts:
        outlines = tuple(shift + place.scale * (points @ place.matrix.T) for points in part.outlines)
        colour = outfit.colours.get(part.colour, part.colour)
        if part.colour in outfit.tones:
            shades = outfit.tones[part.colour]
        elif part.colour == "pale":
            colour, shades = "grey", _PALE
        elif part.colour == "dark":
            colour, shades = "brown", tones("brown", fixed)[::-1]
        else:
            shades = tones(colour, fixed)
        texture = outfit.accent_texture if part.colour == "accent" else outfit.texture
        if not part.textured:
            texture = ""
        frame = _frame(random, place, 0.03 * place.scale + 0.05)
        pieces.append(Piece(thing, part.name, outlines, colour, shades, texture, frame, part.round, main))
    return pieces


def _frame(random: np.random.Generator, place: Placement, period: float) -> NDArray[np.float64]:
    """Texture coordinates that turn with the object, at a random angle, ``period`` long."""
    angle, phase = random.uniform(0, np.pi), random.uniform(0, 1, 2)
    across = place.matrix[:, 0] / np.hypot(*place.matrix[:, 0])
    angle += np.arctan2(across[1], across[0])
    rows = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / period
    return np.concatenate([rows, (phase - rows @ [place.x, place.y])[:, None]], 1)


def _companion(name: str, x: float, y: float, scale: float, random: np.random.Generator) -> list[Piece]:
    outfit = _outfit(random)
    own = Outfit({"own": outfit.colours["main"]}, {"own": outfit.tones["main"]}, outfit.texture, "")
    if name == "crate":
        own = own._replace(texture="wood")
    upright = name in _ALOFT
    matrix = _matrix(0.0 if upright else random.uniform(-0.06, 0.06), 1, 1, bool(random.random() < 0.5))
    return _pieces(name, COMPANY[name](random), Placement(x, y, scale, matrix), own, random, main=False)


def _sky(random: np.random.Generator, background: str) -> list[Piece]:
    pieces = []
    light, clouds = random.random() < 0.55, int(random.choice([0, 1, 1, 2]))
    slots = random.permutation([0.14, 0.4, 0.63, 0.87])
    lamp = random.spawn(1)[0]
    if light:
        name = "moon" if background == "night" else "sun"
        pieces += _companion(name, float(slots[0]), lamp.uniform(0.2, 0.26), lamp.uniform(0.17, 0.23), lamp)
    for slot in slots[1 : 1 + clouds]:
        x, y, scale = (
            slot + random.uniform(-0.05, 0.05),
            random.uniform(0.12, 0.33),
            random.uniform(0.2, 0.32),
        )
        pieces += _companion("cloud", float(x), y, scale, random)
    return pieces


def _ground(
    random: np.random.Generator, place: Placement, land: Terrain
) -> tuple[list[Piece], list[Piece], list[tuple[float, float, float]]]:
    """Things behind and before the object, both beside rather than over it, and their shadows."""
    behind: list[Piece] = []
    before: list[Piece] = []
    shadows = []
    left, right = place.x - 0.5 * place.scale, place.x + 0.5 * place.scale
    sides = random.permutation([0, 1])[: int(random.choice([0, 1, 1, 2]))]
    for side in sides:
        name = str(random.choice(["bush", "ball", "rock", "crate"]))
        front = random.random() < 0.4
        y = random.uniform(0.93, 0.98) if front else random.uniform(land.horizon + 0.08, 0.86)
        scale = random.uniform(0.24, 0.32) * (0.35 + 0.75 * y) * (0.72 if name in {"ball", "crate"} else 1.0)
        share = random.uniform(0, 1)
        edge = (0.05 + max(left - 0.08, 0.0) * share) if side == 0 else 0.95 - max(0.92 - right, 0.0) * share
        x = float(edge)
        (before if front else behind).extend(_companion(name, x, y, scale, random))
        shadows.append((x, y - 0.005, scale * 0.5))
    return behind, before, shadows


def compose(index: int, *, seed: int, label: int, background: str) -> Composition:
    """The composition of one scene; land, pose, colours and textures do not depend on ``background``.

    Only the lamp in the sky does (a moon at night, else a sun).
    """
    layout = np.random.default_rng([seed, index, 1])
    land, outfit = terrain(layout), _outfit(layout)
    grain = int(layout.integers(2**32))
    name = CLASSES[label]
    place = _placement(layout, name in _FLOATING)
    behind, before, shadows = _ground(layout, place, land)
    sky = _sky(np.random.default_rng([seed, index, 2]), background)
    drawn = np.random.default_rng([seed, index, 3])
    body = _pieces(name, DRAWINGS[name](drawn), place, outfit, drawn, main=True)
    foot = min(0.95, place.y + (0.1 if name in _FLOATING else 0.0))
    shadows.append(
        (
            place.x,
            foot - 0.005,
            place.scale * (0.34 if name in {"tree", "flower", "bird", "rocket"} else 0.48),
        )
    )
    return Composition(background, land, (*sky, *behind, *body, *before), tuple(shadows), grain)


def main_piece(composition: Composition) -> Piece:
    """The surface that gives the object its colour and texture."""
    return next(piece for piece in composition.pieces if piece.part in MAIN_PARTS)


def caption(composition: Composition, seen: set[str]) -> str:
    """One sentence that names the object, its look, its place and the visible company.

    ``seen`` are the names of things and parts that can be seen in the picture.
    """
    main = main_piece(composition)
    texture = {"wood": "wooden"}.get(main.texture, main.texture)
    sentence = _a(" ".join(word for word in (main.colour, texture, main.thing) if word))
    for piece in composition.pieces:
        if piece.main and piece.part in _ACCENTS and piece.part in seen:
            sentence += " with " + _ACCENTS[piece.part].format(_a(piece.colour), piece.colour)
            break
    sentence += " " + _WHERE[composition.background]
    others = dict.fromkeys(p.thing for p in composition.pieces if not p.main and p.thing in seen)
    beside = [_a(name) for name in others if name not in _ALOFT]
    above = ["a cloud" if name == "cloud" else "the " + name for name in others if name in _ALOFT]
    if beside:
        sentence += " beside " + " and ".join(beside)
    if above:
        sentence += " under " + " and ".join(above)
    return sentence[0].upper() + sentence[1:] + "."


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words
