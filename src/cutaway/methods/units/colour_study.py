"""The colour case study: how a network's layers code colour, measured, beside what is known of seeing.

Rafegas and Vanrell 2018, Color encoding in biologically-inspired convolutional neural networks (DOI
10.1016/j.visres.2018.03.010), with the indexes of Rafegas et al. 2020, arXiv:1702.00382.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError

from .hues import Mode, hue_modes
from .opponent import (
    BINS,
    HueHistogram,
    OpponentAxis,
    axes_of,
    chroma_moment,
    hue_histogram,
    opponent_axes,
)

THRESHOLD = 0.25
"""A unit with at least this alpha is a colour unit. The published value is not known."""

OPPOSITE = 30.0
"""Two hues are opposite when they are within this many degrees of 180 apart."""


@dataclass(frozen=True)
class Palette:
    """The colours of many pixels: their hue histogram and principal opponent axes (None when all are grey)."""

    hues: HueHistogram
    axes: tuple[OpponentAxis, OpponentAxis] | None

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Palette:
        """Of pictures (..., 3, h, w) in [0, 1], batch by batch; sizes may differ.

        Raises `InputError` when there is no picture.

        >>> Palette.of([torch.rand(2, 3, 4, 4), torch.rand(3, 5, 5)]).hues.total
        57
        """
        hues, moment = HueHistogram(torch.zeros(BINS, dtype=torch.int64), 0), torch.zeros(2, 2).double()
        for rgb in batches:
            more = hue_histogram(rgb.cpu())
            hues, moment = hues + more, moment + chroma_moment(rgb.cpu()) * more.total
        if hues.total == 0:
            raise InputError("no picture", "one or more", "a folder with pictures")
        return cls(hues, axes_of(moment / hues.total))


@dataclass(frozen=True)
class LayerColour:
    """How one layer codes colour.

    Parameters
    ----------
    name : of the layer.
    alphas : (u,) colour selectivity of its living units.
    threshold : from which alpha on a unit is a colour unit.
    palette : hues and axes of all its neuron features.
    kinds : hue modes of each colour unit's feature: none, one (single-colour) or two and more (double-colour).
    axes : the main chroma axis of each colour unit's feature, None for one that is grey.
    shapes : (u,) shape indexes, if measured.
    """

    name: str
    alphas: Tensor
    threshold: float
    palette: Palette
    kinds: list[list[Mode]]
    axes: list[OpponentAxis | None]
    shapes: Tensor | None = None

    @property
    def colour(self) -> Tensor:
        """Which units are colour units, (u,) bool."""
        return self.alphas >= self.threshold

    @property
    def share(self) -> float:
        """Share of colour units."""
        return float(self.colour.double().mean())

    def split(self) -> tuple[int, int, int]:
        """(none, single, double): colour units whose feature has no hue, one, or two and more."""
        counts = [min(len(hues), 2) for hues in self.kinds]
        return counts.count(0), counts.count(1), counts.count(2)

    def opposite(self) -> int:
        """Double-colour units whose two main hues are opposite, within 30 degrees."""
        pairs = [abs((hues[0].angle - hues[1].angle) % 360 - 180) for hues in self.kinds if len(hues) > 1]
        return sum(gap <= OPPOSITE for gap in pairs)

    def named_axes(self) -> list[tuple[str, int]]:
        """How many colour units have each of the six named axes as the one nearest to their own, the most first."""
        return Counter(axis.name for axis in self.axes if axis is not None).most_common()

    def histogram(self, bins: int = 20) -> Tensor:
        """Counts (bins,) of alpha over [0, 1]; what lies beyond counts in the outermost bins.

        The bins sum to the number of living units.
        """
        return torch.bincount(
            (self.alphas.double().clamp(0, 1) * bins).long().clamp(max=bins - 1), minlength=bins
        )


def study(
    name: str,
    alphas: Tensor,
    features: Sequence[Tensor],
    *,
    threshold: float = THRESHOLD,
    shapes: Tensor | None = None,
) -> LayerColour:
    """How a layer codes colour, from its living units' alphas (u,) and neuron features (3, h, w).

    Raises `InputError` for a layer without living units, `UsageError` for numbers that do not fit together.

    >>> warm = torch.tensor([1.0, 0.2, 0.2])[:, None, None].expand(3, 2, 2)
    >>> found = study("conv1", torch.tensor([0.9, 0.1]), [warm, torch.full((3, 2, 2), 0.6)])
    >>> found.share, found.split(), found.named_axes()
    (0.5, (0, 1, 0), [('red-cyan', 1)])
    """
    if len(features) == 0:
        raise InputError(f"layer {name!r} has no living unit", "a unit that answers", "more pictures")
    if len(alphas) != len(features) or (shapes is not None and len(shapes) != len(features)):
        raise UsageError(f"{len(alphas)} alphas for {len(features)} neuron features", "one each")
    if not bool(torch.isfinite(alphas).all()):
        raise InputError("alpha with NaN or infinity", "finite numbers", "living units only")
    chosen = [feature for feature, alpha in zip(features, alphas.tolist(), strict=True) if alpha >= threshold]
    axes = [opponent_axes(feature) for feature in chosen]
    kinds = [hue_modes(feature) for feature in chosen]
    main = [None if pair is None else pair[0] for pair in axes]
    return LayerColour(name, alphas, threshold, Palette.of(features), kinds, main, shapes)


def overlap(a: HueHistogram, b: HueHistogram) -> float:
    """How much two hue histograms have in common: sum_i min(p_i, q_i), from 0 to 1.

    >>> one, two = hue_histogram(torch.tensor([1.0, 0, 0])[:, None, None]), hue_histogram(torch.zeros(3, 1, 1))
    >>> overlap(one, one), overlap(one, two)
    (1.0, 0.0)
    """
    return float(torch.minimum(a.shares, b.shares).sum())


def apart(a: OpponentAxis, b: OpponentAxis) -> float:
    """The angle between two axes in degrees, from 0 to 90."""
    return abs((a.angle - b.angle + 90) % 180 - 90)
