"""What is where in a picture: masks of named concepts in the frame the network sees."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.core.preprocess import Preprocess

from .folder import Pictures, PictureSource, existing, picture_files
from .labels import Classes, ClassSource
from .scene_pictures import ScenePictures
from .scenes import CONCEPTS

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, eq=False)
class Annotation:
    """The labels of one picture.

    `labels` (l,) int64 are the numbers of those that occur, ascending; `masks` (l, H, W) bool where, in the network's
    frame; a pixel may be in several. `categories` names those in which the picture was annotated at all: a label of
    these that is not listed is known to be absent, of any other category nothing is known.
    """

    labels: Tensor
    masks: Tensor
    categories: frozenset[str]


class PixelLabels(Protocol):
    """Labels of numbered pictures: `names` and `categories` hold one entry for each label."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every label."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Category of every label, such as "object", "texture" or "colour"."""

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        """What picture `number` shows, where the network sees it.

        `size` is the picture's height and width, upright, where known (`Batch.sizes`); else the picture is read.
        Raises `InputError` when labels cannot be read or are of another size than the picture.
        """


def into_frame(labels: NDArray[Any], preprocess: Preprocess) -> NDArray[Any]:
    """A label map (..., H, W) of a picture, resized and cropped as the picture is, by the nearest neighbour.

    The label of a network pixel is that of the picture's pixel in which its centre lies, as in Pillow's NEAREST
    resizing; of two equally near, the lower or right one, in whole numbers, so that no rounding decides.
    Raises `InputError` when the picture is smaller than the crop.

    >>> into_frame(np.arange(16).reshape(4, 4), Preprocess(resize=2))
    array([[ 5,  7],
           [13, 15]])
    """
    height, width = labels.shape[-2:]
    scale_y, scale_x, top, left = preprocess.to_original((height, width))
    resized = round(height / scale_y), round(width / scale_x)
    rows, columns = preprocess.size or resized
    if top < 0 or left < 0:
        raise InputError(
            f"labels of {height}x{width} pixels, smaller than the crop {rows}x{columns}", "larger pictures"
        )
    y = (2 * (np.arange(rows) + top) + 1) * height // (2 * resized[0])
    x = (2 * (np.arange(columns) + left) + 1) * width // (2 * resized[1])
    return labels[..., y[:, None], x]


class LabelMaps:
    """Pictures with a label map each: a picture file of equal stem whose pixels are label numbers.

    Parameters
    ----------
    pictures : the pictures.
    folder : of the maps (8-bit or 16-bit grey or palette, such as PNG), searched to any depth. A map belongs to the
        pictures whose relative path, without its ending, ends in the map's.
    names : names of labels 0, 1 ..., or a JSON file with them.
    unlabelled : number or numbers that mean nothing, such as 255; a name they may have is no label.
    categories : of each label by name, or one for all.

    A picture without a map is annotated in no category. Raises `InputError` when no picture has a map, and
    `UnknownNameError` for a category of a name that is no label.
    """

    def __init__(
        self,
        pictures: Pictures,
        folder: str | os.PathLike[str],
        names: ClassSource,
        *,
        unlabelled: int | Collection[int] = (),
        categories: Mapping[str, str] | str = "object",
    ) -> None:
        nameless = frozenset([unlabelled] if isinstance(unlabelled, int) else unlabelled)
        self.pictures = pictures
        table = Classes.of(names)
        if isinstance(categories, Mapping):
            categories = {table.names[table.number(name)]: category for name, category in categories.items()}
        kept = [k for k in range(len(table)) if k not in nameless]
        self.names = tuple(table.names[k] for k in kept)
        missing = [n for n in self.names if not isinstance(categories, str) and n not in categories]
        if missing:
            raise UsageError(f"no category for {missing[0]}", "one for every label", "categories='object'")
        self.categories = tuple(
            categories if isinstance(categories, str) else categories[n] for n in self.names
        )
        # label number of every value of a map; -1 for values that mean nothing
        self._label = dict(zip(kept, range(len(kept)), strict=True)) | dict.fromkeys(nameless, -1)
        top = existing(folder)
        if not top.is_dir():
            raise InputError(f"{top} is a file", "a folder of label maps")
        maps = {_stem(Path(file).relative_to(top).as_posix()): Path(file) for file in picture_files(top)}
        self._map = {k: found for k, name in enumerate(pictures.names) if (found := _belonging(name, maps))}
        if not self._map:
            raise InputError(
                f"none of the {len(pictures)} pictures has a label map in {top}",
                f"maps named as the pictures, such as {_stem(pictures.names[0])}.png",
            )

    def __len__(self) -> int:
        """Pictures that have a map."""
        return len(self._map)

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        """The labels of picture `number`; see `PixelLabels`."""
        size = size or self.pictures.photo(number).size
        if number not in self._map:
            return _nothing(preprocess, size)
        values = into_frame(_values(self._map[number], size, self.pictures.names[number]), preprocess)
        found = np.unique(values).tolist()
        strange = [v for v in found if v not in self._label]
        if strange:
            raise InputError(
                f"{self._map[number]} holds the label {strange[0]}",
                f"0 to {max(self._label)}",
                f"unlabelled={strange[0]}",
            )
        kept = sorted((self._label[v], v) for v in found if self._label[v] >= 0)
        masks = np.array([values == v for _, v in kept], bool).reshape(-1, *values.shape)
        return _annotated([label for label, _ in kept], masks, self.categories)


class WholeLabels:
    """Pictures that show one concept all over: the class of a picture is the label of every pixel.

    A picture without a class number is not annotated. Raises `UsageError` when the pictures have no named classes.
    """

    def __init__(
        self, pictures: PictureSource, classes: Sequence[str] = (), *, category: str = "texture"
    ) -> None:
        self.pictures = pictures
        self.names = tuple(classes or getattr(pictures, "classes", ()))
        self.categories = (category,) * len(self.names)
        if pictures.labels is None or not self.names:
            raise UsageError("pictures without named classes", "labelled pictures", "labels='folder'")

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        """The label of picture `number` on every pixel; see `PixelLabels`."""
        size = size or self.pictures.photo(number).size
        assert self.pictures.labels is not None
        label = int(self.pictures.labels[number])
        if label < 0:
            return _nothing(preprocess, size)
        return _annotated([label], into_frame(np.ones((1, *size), bool), preprocess), self.categories)


class SceneLabels:
    """Everything that is known of generated scenes: objects, parts, colours, textures, regions, backgrounds."""

    names: tuple[str, ...] = tuple(name for names in CONCEPTS.values() for name in names)
    categories: tuple[str, ...] = tuple(c for c, names in CONCEPTS.items() for _ in names)

    def __init__(self, pictures: ScenePictures) -> None:
        self.scenes = pictures.scenes

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        """The concepts of scene `number`; see `PixelLabels`."""
        found = self.scenes[number].masks
        labels = [k for k, name in enumerate(self.names) if name in found]
        masks = into_frame(np.stack([found[self.names[k]] for k in labels]), preprocess)
        seen = np.flatnonzero(masks.any((1, 2)))  # some may lie outside the crop
        return _annotated([labels[k] for k in seen.tolist()], masks[seen], self.categories)


class JoinedLabels:
    """Several labellings of the same pictures as one; what each says of a picture is laid together.

    A label of equal name and category in two of them is one label. Pictures of several data sets, each labelled
    in its own way, make one data set so (Broden, Bau 2017, arXiv:1704.05796).
    """

    def __init__(self, *parts: PixelLabels) -> None:
        if not parts:
            raise UsageError("no labels to join", "at least one labelling")
        pairs = [list(zip(p.categories, p.names, strict=True)) for p in parts]
        number = {pair: k for k, pair in enumerate(dict.fromkeys(pair for part in pairs for pair in part))}
        self.parts, self._number = parts, [[number[pair] for pair in part] for part in pairs]
        self.categories = tuple(category for category, _ in number)
        self.names = tuple(name for _, name in number)

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        """What any part says of picture `number`; see `PixelLabels`."""
        said = [part.annotation(number, preprocess, size) for part in self.parts]
        masks: dict[int, Tensor] = {}
        for one, numbers in zip(said, self._number, strict=True):
            for label, mask in zip(one.labels.tolist(), one.masks, strict=True):
                k = numbers[label]
                masks[k] = masks[k] | mask if k in masks else mask
        labels = sorted(masks)
        stacked = torch.stack([masks[k] for k in labels]) if labels else said[0].masks[:0]
        categories = frozenset().union(*(one.categories for one in said))
        return Annotation(torch.tensor(labels, dtype=torch.int64), stacked, categories)


def _annotated(labels: list[int], masks: NDArray[Any], categories: Sequence[str]) -> Annotation:
    return Annotation(
        torch.tensor(labels, dtype=torch.int64), torch.from_numpy(masks.copy()), frozenset(categories)
    )


def _nothing(preprocess: Preprocess, size: tuple[int, int]) -> Annotation:
    return _annotated([], into_frame(np.zeros((0, *size), bool), preprocess), ())


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _belonging(name: str, maps: Mapping[str, Path]) -> Path | None:
    """The map whose relative path is the longest end of the picture's, endings aside."""
    parts = _stem(name).split("/")
    return next((maps[end] for k in range(len(parts)) if (end := "/".join(parts[k:])) in maps), None)


def _values(file: Path, size: tuple[int, int], name: str) -> NDArray[Any]:
    """Label numbers (H, W) of a map, palettes read as numbers; checked against the picture before decoding."""
    try:
        with Image.open(file) as image:
            if (image.height, image.width) != size:
                raise InputError(
                    f"{file} labels {image.height}x{image.width} pixels, but {name} has {size[0]}x{size[1]}",
                    "labels of the picture's own size",
                )
            if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                raise InputError(
                    f"{file} holds colours (mode {image.mode})",
                    "one label number for each pixel: a grey or palette PNG",
                )
            return np.array(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, *_BOMBS) as error:
        raise InputError(f"{file} cannot be read: {error}", "a label map such as a PNG") from error
