"""What a feature inversion looks for: pictures with given features, and among them the most natural ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.tap import Tap

from .canvas import canvas_type

WHITE = 255.0
"""Levels from black to white: the authors' weights are for pictures in levels."""
TYPICAL = 0.226 * WHITE
"""Root mean square of the pixels of ImageNet's photographs about their mean, in levels."""
DEPTHS = ((1 / 3, "shallow"), (2 / 3, "middle"), (1.0, "deep"))
"""Up to this share of the weighted operators a layer is called that."""

_WEIGHTED = (Family.CONV, Family.TRANSPOSED_CONV, Family.LINEAR, Family.MATMUL, Family.ATTENTION)
_STAGES = "stages"


@dataclass(frozen=True)
class Prior:
    """What makes a picture natural: alpha_weight / 2 |z|_alpha^alpha + beta_weight / 2 sum (dx^2 + dy^2)^(beta / 2).

    z are the pixels in levels from middle grey, dx and dy the differences to the next pixel on the right and below.
    """

    alpha: float
    alpha_weight: float
    beta: float
    beta_weight: float

    def __call__(self, levels: Tensor) -> Tensor:
        """(n,) for levels (n, C, H, W)."""
        size = levels.abs().pow(self.alpha).flatten(1).sum(1)
        return self.alpha_weight / 2 * size + self.beta_weight / 2 * variation(levels, self.beta)


def variation(levels: Tensor, beta: float) -> Tensor:
    """Total variation of each picture (n, C, H, W): sum of (dx^2 + dy^2)^(beta / 2).

    >>> variation(torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]]]), 2).item()
    50.0
    """
    across = torch.zeros_like(levels)
    down = torch.zeros_like(levels)
    across[..., :-1] = levels.diff(dim=-1)
    down[..., :-1, :] = levels.diff(dim=-2)
    square = across.square() + down.square()
    if beta != 2:  # the root has no slope at zero
        square = square.clamp_min(1e-12).pow(beta / 2)
    return square.flatten(1).sum(1)


@dataclass(frozen=True)
class Features:
    """The features of one layer that are looked for, (n, ...): all of them, or those of some rows and columns."""

    model: VisionModel
    layer: str
    wanted: Tensor
    where: Place | None = None

    def __post_init__(self) -> None:
        silent = (self.wanted.flatten(1) == 0).all(1)
        if bool(silent.any()):
            raise MethodRefusedError(
                f"the features of {self.layer} are zero everywhere for picture {int(silent.nonzero()[0, 0])}",
                "features that say something",
                "another layer, or another place",
            )

    def error(self, pixels: Tensor) -> Tensor:
        """|Phi(x) - Phi_0|^2 / |Phi_0|^2 for each of the n pictures; differentiable."""
        found = features(self.model, pixels, self.layer)[self.layer]
        if self.where is not None:
            found = self.where.of(found, self.layer)
        if found.shape != self.wanted.shape:
            raise InputError(
                f"layer {self.layer!r} gives {_times(found)} where {_times(self.wanted)} are looked for",
                "a layer whose shape depends on the size of the picture alone",
                "another layer",
            )
        apart = (found - self.wanted).flatten(1).square().sum(1)
        error: Tensor = apart / self.wanted.flatten(1).square().sum(1)
        return error

    def take(self, rows: Tensor) -> Features:
        """The features of the pictures of those numbers."""
        return Features(self.model, self.layer, self.wanted[rows], self.where)


@dataclass(frozen=True)
class Place:
    """Rows and columns of a layer's maps, both ends included."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, maps: Tensor, layer: str) -> Tensor:
        """That part of maps (N, C, h, w)."""
        if maps.ndim != 4:
            raise UsageError(
                f"a place in {layer!r}, which has no rows and columns", "a layer with maps", "no place"
            )
        high, wide = maps.shape[-2:]
        if self.bottom >= high or self.right >= wide:
            raise UsageError(
                f"place {self} in {layer!r}",
                f"rows from 0 to {high - 1} and columns from 0 to {wide - 1}",
                f"place={high // 2},{wide // 2}",
            )
        return maps[:, :, self.top : self.bottom + 1, self.left : self.right + 1]

    def __str__(self) -> str:
        return f"{self.top}-{self.bottom},{self.left}-{self.right}"


def placed(text: str) -> Place:
    """The place a person wrote: "row,column", or ranges of both with their ends.

    >>> placed("3,5-7")
    Place(top=3, left=5, bottom=3, right=7)
    """
    found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*,\s*(\d+)(?:-(\d+))?\s*", text)
    if found is not None:
        top, bottom, left, right = found.groups()
        where = Place(int(top), int(left), int(bottom or top), int(right or left))
        if where.top <= where.bottom and where.left <= where.right:
            return where
    raise UsageError(f"place={text!r}", "row,column or rows,columns as ranges", "place=3-5,6-8")


def features(model: VisionModel, pixels: Tensor, *layers: str) -> dict[str, Tensor]:
    """The activations of the layers from one pass, maps with channels second; at least float32."""
    with Tap(model, *layers, stop=True) as tap:
        model(pixels.to(model.dtype))
    return {name: tap.maps(name).to(canvas_type(model)) for name in layers}


def chosen(model: VisionModel, layer: str | None, layers: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The layers asked for, each once, shallow first; the last of each stage when none is named, said in a note.

    Raises `UsageError` when both options are given, `UnknownNameError` for a layer that does not exist.
    """
    table = model.layers
    if layer is not None and layers is not None:
        raise UsageError(
            f"layer={layer!r} together with layers={layers!r}", "one of them", f"layers={layer},{layers}"
        )
    wanted = [part.strip() for part in (layer or layers or _STAGES).split(",") if part.strip()]
    if not wanted:
        raise UsageError(
            f"layers={layers!r}", "names of layers joined by commas, or 'stages'", "layers=stages"
        )
    if wanted == [_STAGES] and _STAGES not in table.names:
        found = list(table.stages())
        return found, (f"layers: the last of each stage of the network, {', '.join(found)}",)
    order = {table.find(name).name: table.read_as(name).node for name in wanted}
    return sorted(order, key=lambda name: order[name]), ()


def depth(model: VisionModel, layer: str) -> str:
    """How deep a layer is in a word, by the share of the weighted operators that come up to it."""
    weighted = [node.index for node in model.layers.trace.nodes if node.family in _WEIGHTED]
    here = model.layers.read_as(layer).node
    share = sum(index <= here for index in weighted) / max(len(weighted), 1)
    return next(word for end, word in DEPTHS if share <= end + 1e-9)


def _times(t: Tensor) -> str:
    return "x".join(map(str, t.shape[1:]))
