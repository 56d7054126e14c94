"""Generated scenes with known truth: pictures whose every pixel is accounted for.

A scene shows one object of eight classes, made of parts, in some colour and texture, on one of five
backgrounds, with things around it that never decide the class. Beside the picture comes everything an
explanation can be checked against: where the evidence for the class is, where every part, colour, texture
and region is, what a sentence about it should say. Colour, texture and background are independent of the
class unless a bias is planted; labels are right unless errors are planted, and then the truth is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from cutaway.core.errors import UsageError, unknown
from cutaway.data.scenes_background import BACKGROUNDS, REGIONS
from cutaway.data.scenes_company import COMPANY
from cutaway.data.scenes_compose import CLASSES, DRAWINGS, caption, compose, main_piece
from cutaway.data.scenes_palette import COLOURS, TEXTURES, colour_names
from cutaway.data.scenes_render import Composition, Rendering, render

__all__ = ["BACKGROUNDS", "CLASSES", "CONCEPTS", "SIZE", "Bias", "Scene", "Scenes", "scene"]

#: Side of a picture in pixels unless asked otherwise.
SIZE = 112
#: A concept counts as present where it covers at least this many pixels of a 112-pixel picture.
_VISIBLE = 12

Mask = NDArray[np.bool_]


def _part_names() -> tuple[str, ...]:
    names: dict[str, None] = {}
    for drawing in DRAWINGS.values():
        for seed in range(8):  # some parts (fruit, chimney) are not in every drawing
            names.update(dict.fromkeys(part.name for part in drawing(np.random.default_rng(seed))))
    return tuple(names)


#: Every name a mask can have, by category.
CONCEPTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "object": (*CLASSES, *COMPANY),
        "part": _part_names(),
        "colour": COLOURS,
        "texture": TEXTURES,
        "region": REGIONS,
        "background": BACKGROUNDS,
    }
)


@dataclass(frozen=True)
class Bias:
    """A planted shortcut: some classes nearly always appear on one background, and others rarely do.

    A class named in ``backgrounds`` is placed on its background with probability ``strength`` (0 to 1)
    and else evenly on the others. Every other class shares the claimed backgrounds with probability
    ``1 - strength`` and is else placed evenly on those nobody claims, so that the background tells the
    class, as snow told wolf from husky (Ribeiro 2016, arXiv:1602.04938).

    >>> Bias({"bird": "winter"}, strength=0.9).shares("bird")["winter"]
    0.9
    """

    backgrounds: Mapping[str, str]
    strength: float = 0.95

    def __post_init__(self) -> None:
        for name, background in self.backgrounds.items():
            if name not in CLASSES:
                raise unknown("class", name, CLASSES)
            if background not in BACKGROUNDS:
                raise unknown("background", background, BACKGROUNDS)
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength={self.strength}", "a share from 0 to 1", "strength=0.95")

    def shares(self, name: str) -> dict[str, float]:
        """Probability of each background for the class ``name``."""
        claimed = {self.backgrounds[name]} if name in self.backgrounds else set(self.backgrounds.values())
        rest = len(BACKGROUNDS) - len(claimed)
        if not claimed or not rest:
            return dict.fromkeys(BACKGROUNDS, 1 / len(BACKGROUNDS))
        inside = self.strength if name in self.backgrounds else 1 - self.strength
        return {b: inside / len(claimed) if b in claimed else (1 - inside) / rest for b in BACKGROUNDS}


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and the whole truth about it.

    ``image`` is ``(size, size, 3)`` uint8 RGB. ``label`` is the class as a data set would state it, ``truth``
    the class that is drawn; they differ only where label errors are planted. ``colour`` and ``texture`` are
    those of the object's main surface ("" where plain).
    """

    index: int
    seed: int
    image: NDArray[np.uint8]
    label: int
    truth: int
    background: str
    colour: str
    texture: str
    caption: str
    composition: Composition = field(repr=False)
    rendering: Rendering = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the class that is drawn."""
        return CLASSES[self.truth]

    @cached_property
    def object_mask(self) -> Mask:
        """Where the object is visible: the only true evidence for its class, ``(size, size)``."""
        return self._owned([piece.main for piece in self.composition.pieces])

    @cached_property
    def without_object(self) -> NDArray[np.uint8]:
        """The same picture where the object was never drawn, ``(size, size, 3)``; its shadow stays.

        It differs from ``image`` on the object and on the blended pixels of its outline alone.
        """
        rest = tuple(piece for piece in self.composition.pieces if not piece.main)
        return render(replace(self.composition, pieces=rest), len(self.image)).image

    @cached_property
    def masks(self) -> Mapping[str, Mask]:
        """Mask ``(size, size)`` of every concept that is present, by name; a pixel may be in several.

        Objects and parts own the pixels where they are the topmost surface; regions and the background
        own what no object covers; a texture owns the surfaces it covers; colours are read off the pixels
        of the whole picture, as in Broden (Bau 2017, arXiv:1704.05796).
        """
        pieces, found = self.composition.pieces, {}
        for name in dict.fromkeys(piece.thing for piece in pieces):
            found[name] = self._owned([piece.thing == name for piece in pieces])
        for name in dict.fromkeys(piece.part for piece in pieces if piece.part):
            found[name] = self._owned([piece.part == name for piece in pieces])
        for name in dict.fromkeys(piece.texture for piece in pieces if piece.texture):
            found[name] = self._owned([piece.texture == name for piece in pieces])
        empty = self.rendering.owner < 0
        found |= {name: mask & empty for name, mask in self.rendering.regions.items()}
        found[self.background] = empty
        colours = colour_names(self.image)
        for number in np.flatnonzero(np.bincount(colours.ravel(), minlength=len(COLOURS))):
            found[COLOURS[number]] = colours == number
        least = _VISIBLE * (len(self.image) / SIZE) ** 2
        return {name: mask for name, mask in found.items() if mask.sum() >= least}

    def _owned(self, chosen: list[bool]) -> Mask:
        return np.array([*chosen, False])[self.rendering.owner]  # owner -1 reads the last, False


def scene(
    index: int,
    *,
    seed: int = 0,
    size: int = SIZE,
    bias: Bias | None = None,
    label_errors: float = 0.0,
    label: int | None = None,
    background: str | None = None,
) -> Scene:
    """The scene number ``index`` of the world ``seed``: the same bits for the same arguments.

    ``label`` or ``background`` force what is drawn; everything else about the scene stays as it was, so
    the same object can be seen in another place. ``label_errors`` is the share of scenes whose ``label``
    is a wrong class. Raises UsageError or UnknownNameError for arguments outside their range.

    >>> scene(100).caption
    'A blue wooden bird with a pink wing by the sea under the sun.'
    """
    _check(index, seed, size, label_errors, label, background)
    chance = np.random.default_rng([seed, index, 0])
    drawn, shift = int(chance.integers(len(CLASSES))), int(chance.integers(1, len(CLASSES)))
    where, error = chance.random(2)
    truth = drawn if label is None else label
    if background is None:
        shares = (bias or Bias({})).shares(CLASSES[truth])
        edges = np.cumsum([shares[name] for name in BACKGROUNDS])
        background = BACKGROUNDS[min(int(np.searchsorted(edges, where, side="right")), len(BACKGROUNDS) - 1)]
    stated = (truth + shift) % len(CLASSES) if error < label_errors else truth
    composition = compose(index, seed=seed, label=truth, background=background)
    rendering = render(composition, size)
    main = main_piece(composition)
    areas = np.bincount(rendering.owner.ravel() + 1, minlength=len(composition.pieces) + 1)[1:]
    least = _VISIBLE * (size / SIZE) ** 2
    seen = {
        name
        for piece, area in zip(composition.pieces, areas, strict=True)
        if area >= least
        for name in (piece.thing, piece.part)
    }
    sentence = caption(composition, seen)
    return Scene(
        index,
        seed,
        rendering.image,
        stated,
        truth,
        background,
        main.colour,
        main.texture,
        sentence,
        composition,
        rendering,
    )


def _check(
    index: int, seed: int, size: int, label_errors: float, label: int | None, background: str | None
) -> None:
    if index < 0 or seed < 0:
        raise UsageError(f"index={index}, seed={seed}", "whole numbers from 0", "index=0, seed=0")
    if not 32 <= size <= 512:
        raise UsageError(f"size={size}", "32 to 512 pixels", f"size={SIZE}")
    if not 0 <= label_errors <= 1:
        raise UsageError(f"label_errors={label_errors}", "a share from 0 to 1", "label_errors=0.1")
    if label is not None and not 0 <= label < len(CLASSES):
        raise unknown("class", label, [f"{k} ({name})" for k, name in enumerate(CLASSES)], hint="label=0")
    if background is not None and background not in BACKGROUNDS:
        raise unknown("background", background, BACKGROUNDS)


@dataclass(frozen=True)
class Scenes(Sequence[Scene]):
    """``n`` scenes of the world ``seed`` as a sequence; each is drawn when it is asked for.

    >>> data = Scenes(4, bias=Bias({"bird": "winter"}), label_errors=0.1)
    >>> len(data), data[0].image.shape
    (4, (112, 112, 3))
    """

    n: int
    seed: int = 0
    size: int = SIZE
    bias: Bias | None = None
    label_errors: float = 0.0

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scene]: ...
    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self.n))]
        if not -self.n <= index < self.n:
            raise IndexError(f"scene {index} of {self.n}")
        return scene(
            index % self.n, seed=self.seed, size=self.size, bias=self.bias, label_errors=self.label_errors
        )

    def __iter__(self) -> Iterator[Scene]:
        return (self[k] for k in range(self.n))
