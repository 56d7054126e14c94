"""The counting of network dissection: maps of many pictures, in a basis of their channels, against labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.model import VisionModel
from cutaway.data.batches import Batch, Unread, batches
from cutaway.data.folder import PictureSource
from cutaway.data.pixel_labels import Annotation, PixelLabels
from cutaway.methods.features.capture import capture
from cutaway.methods.features.enlarge import enlarge
from cutaway.sweep.seen import Seen
from cutaway.sweep.sketch import Sketch
from cutaway.sweep.tallies import Tallies
from cutaway.sweep.topk import TopK

from .dissection_found import DissectedLayer

_NUMBERS = 1 << 22
"""Numbers of enlarged maps held at a time, 16 megabytes."""
KEPT = 16
"""Pictures kept of each unit."""


def rotation(units: int, seed: int) -> Tensor:
    """A random orthogonal matrix (u, u) float32, even over all of them: Q of a Gaussian's QR with R's diagonal positive.

    >>> turn = rotation(5, 0)
    >>> torch.allclose(turn @ turn.T, torch.eye(5), atol=1e-6)
    True
    """
    chance = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(units, units, generator=chance, dtype=torch.float64))
    turn: Tensor = q * r.diagonal().sign()
    return turn.float()


@dataclass(frozen=True, eq=False)
class Basis:
    """A layer's channels, or directions among them."""

    layer: str
    turn: Tensor | None

    def of(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The maps (n, u, h, w) of the layer in this basis, float32."""
        own = maps[self.layer].float()
        return own if self.turn is None else torch.einsum("kc,nchw->nkhw", self.turn, own)


@dataclass(frozen=True)
class Source:
    """Where maps come from: a network and its pictures, so many at a time."""

    model: VisionModel
    pictures: PictureSource
    batch: int
    workers: int

    def maps(
        self, layers: Collection[str], unread: list[Unread] | None, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Every batch with the maps of some layers."""
        asked = range(len(self.pictures)) if numbers is None else numbers
        names = sorted(layers)
        some = batches(self.model, self.pictures, asked, self.batch, workers=self.workers, unread=unread)
        for batch in some:
            with torch.inference_mode(False), self.model.guard():
                maps = capture(self.model, batch.pixels, names)
            yield batch, maps


class Counting:
    """The tallies and top pictures of one basis."""

    def __init__(self, basis: Basis, sketch: Sketch, q: float, labels: PixelLabels) -> None:
        self.basis, self.labels = basis, labels
        self.names = tuple(dict.fromkeys(labels.categories))
        number = torch.tensor([self.names.index(c) for c in labels.categories], dtype=torch.int64)
        self.thresholds = sketch.threshold(q)
        tied = self.thresholds.share == 0
        below = sketch.tail((self.thresholds.edge - 1).clamp(min=0))
        self.ties = below.masked_fill(~tied, math.nan)
        self.tallies = Tallies(len(tied), number)
        self.top = TopK(len(tied), KEPT)

    def update(self, model: VisionModel, batch: Batch, maps: Tensor, notes: Sequence[Annotation]) -> None:
        """Count a batch: maps (n, u, h, w), and the annotation of each picture."""
        self.top.update(Seen(maps, batch.ids))
        least = self.thresholds.value.to(maps.device, torch.float32)  # edges are numbers of float32
        for own, note in zip(maps, notes, strict=True):
            if note.categories:
                self._count(model, own, least, note)

    def _count(self, model: VisionModel, maps: Tensor, least: Tensor, note: Annotation) -> None:
        high, wide = note.masks.shape[1:]
        known = torch.tensor([[c in note.categories for c in self.names]])
        where = torch.zeros(1, len(self.labels.names), high, wide, dtype=torch.bool)
        where[0, note.labels] = note.masks
        nobody = Tallies(0, self.tallies.categories)
        nobody.update(where.new_zeros(1, 0, high, wide), where, known)
        self.tallies.label_areas += nobody.label_areas
        # bilinear numbers lie between those of the map: of a unit that never exceeds T there, the mask is empty
        active = (maps.amax((1, 2)) > least).nonzero()[:, 0]
        for units in torch.split(active, max(1, _NUMBERS // (high * wide))):
            heat, _ = enlarge(model, self.basis.layer, maps[units], high, wide)
            part = Tallies(len(units), self.tallies.categories)
            part.update((heat > least[units, None, None]).cpu()[None], where, known)
            self.tallies.intersections[units.cpu()] += part.intersections
            self.tallies.unit_areas[units.cpu()] += part.unit_areas

    def layer(self, least: float, seed: int | None) -> DissectedLayer:
        """What was found."""
        return DissectedLayer(
            self.basis.layer,
            tuple(self.labels.names),
            tuple(self.labels.categories),
            self.thresholds,
            self.ties,
            self.tallies,
            self.top,
            least,
            seed,
        )
