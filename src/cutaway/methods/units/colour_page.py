"""The colour case study of an atlas: its layers' colour, in numbers, curves and words."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError
from cutaway.core.model import VisionModel
from cutaway.core.result import Curves, Result, Table
from cutaway.sweep.atlas import Atlas

from .colour_study import LayerColour, Palette, overlap, study
from .colour_words import parallel
from .opponent import BINS
from .selectivity import colour_selectivity
from .unit_numbers import made_by

SAMPLE = 200
"""Pictures that the data set's hues are measured on, evenly spaced over it."""
_ALPHA_BINS = 20


def colour_page(
    model: VisionModel,
    atlas: Atlas,
    layers: Sequence[str],
    *,
    photos: str | Path | None = None,
    threshold: float = 0.25,
    again: str = "",
) -> list[Result]:
    """How layers code colour (Rafegas & Vanrell 2018), shallow first: a table, two charts, and the text in its notes.

    The table has a row for each layer: living units, the share of colour units (alpha of at least `threshold`), those
    whose neuron feature has no hue, one or two, the main axis of all features and its share of their chroma, and how
    much the hues have in common with the pictures'. The charts are the histograms of alpha and of hue. `photos` is
    where the pictures are, when they have moved.

    Raises `MethodRefusedError` for an atlas without neuron features or without colour, `InputError` for another network.
    """
    start = time.perf_counter()
    atlas.check(model)
    found = [layer_colour(atlas, layer, threshold) for layer in layers]
    pictures = Palette.of(_sample(model, atlas, photos))
    rows = []
    for layer in found:
        none, single, double = layer.split()
        axis = layer.palette.axes
        rows.append(
            [len(layer.alphas), layer.share, none, single, double]
            + ([axis[0].angle, axis[0].share] if axis else [np.nan, np.nan])
            + [overlap(layer.palette.hues, pictures.hues)]
        )
    provenance = made_by(model, atlas, time.perf_counter() - start, again)
    names = tuple(layer.name for layer in found)
    table = Table(
        values=np.array(rows, float),
        rows=names,
        columns=(
            "living units",
            "share of colour units",
            "no hue",
            "one hue",
            "two hues",
            "main axis (degrees)",
            "its share of chroma",
            "hues in common with the pictures",
        ),
        method="colour_study",
        target="colour",
        options={"threshold": threshold},
        notes=tuple(parallel(found, pictures).split("\n\n")),
        provenance=provenance,
    )
    steps = (torch.arange(_ALPHA_BINS) + 0.5) / _ALPHA_BINS
    alphas = Curves(
        values=np.stack([(c.histogram(_ALPHA_BINS) / len(c.alphas)).numpy() for c in found]),
        x=steps.numpy(),
        names=names,
        x_label="colour selectivity alpha",
        y_label="share of units",
        method="colour_selectivity",
        target="colour",
        provenance=provenance,
    )
    degrees = (torch.arange(BINS) + 0.5) * 360 / BINS
    hues = Curves(
        values=np.stack([p.hues.shares.numpy() for p in (pictures, *(c.palette for c in found))]),
        x=degrees.numpy(),
        names=("pictures", *names),
        x_label="hue (degrees: red 27, yellow 90, green 153, cyan 207, blue 270, magenta 333)",
        y_label="share of coloured pixels",
        method="hues",
        target="colour",
        provenance=provenance,
    )
    return [table, alphas, hues]


def layer_colour(atlas: Atlas, layer: str, threshold: float) -> LayerColour:
    """The colour of one layer's living units."""
    features = atlas.neuron_features(layer)
    if features is None:
        raise MethodRefusedError(
            f"the atlas holds no neuron features of {layer!r}",
            "a layer whose receptive field is known, of an atlas that was built, not joined",
        )
    grey, table = atlas.grey(layer), atlas.reducer(layer, "top")
    alphas, kept = list[float](), list[Tensor]()
    for unit in range(len(features)):
        held = table.pictures[unit] >= 0
        if float(table.values[unit, 0]) > 0:
            if bool(grey[unit, held].isnan().any()):
                raise MethodRefusedError("the network sees no colour", "a network of three channels")
            alphas.append(colour_selectivity(table.values[unit, held], grey[unit, held]))
            own = atlas.neuron_feature(layer, unit)
            kept.append((features[unit] if own is None else own).float() / 255)
    return study(layer, torch.tensor(alphas, dtype=torch.float64), kept, threshold=threshold)


def _sample(model: VisionModel, atlas: Atlas, photos: str | Path | None) -> Iterator[Tensor]:
    unread = {number for number, _, _ in atlas.done["unread"]}
    numbers = [n for n in range(len(atlas.names)) if n not in unread]
    for number in numbers[:: max(1, len(numbers) // SAMPLE)]:
        path = atlas.path(number, photos)
        if not path.is_file():
            raise InputError(f"{path} is gone", "the pictures the atlas was built over", "--photos")
        yield model.pixels(path)
