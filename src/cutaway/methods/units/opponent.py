"""Opponent colour: brightness, red against green, yellow against blue; hue, chroma and the axes of a colour cell.

Rafegas, Vanrell, Alexandre and Arias 2020, arXiv:1702.00382, with the opponent transform of van de Sande, Gevers and
Snoek 2010 (DOI 10.1109/TPAMI.2009.154) scaled to [-1, 1]. Hue is an angle in degrees, red 26.6, yellow 90, green
153.4, cyan 206.6, blue 270, magenta 333.4: each colour opposite its complement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError

BINS = 100
CHROMA = 0.1
"""Pixels with less chroma have no hue worth counting."""
BRIGHTNESS = 0.95
"""Nor have those with a brightness |O1| beyond this: nearly black or white."""

_NAMES = (
    "rose",
    "red",
    "orange",
    "yellow",
    "chartreuse",
    "green",
    "spring green",
    "cyan",
    "azure",
    "blue",
    "violet",
    "magenta",
)
"""The twelve hues of the RGB colour circle, from O2's end on."""
_ANGLES = (0.0, 26.565, 56.310, 90.0, 123.690, 153.435, 180.0, 206.565, 236.310, 270.0, 303.690, 333.435)


def opponent(rgb: Tensor) -> Tensor:
    """Opponent coordinates (..., 3, h, w) of RGB in [0, 1].

    O1 = (R + G + B - 1.5) / 1.5, O2 = R - G, O3 = (R + G - 2 B) / 2, all in [-1, 1]; grey has O2 = O3 = 0.
    Raises `UsageError` for anything without three channels.

    >>> opponent(torch.tensor([1.0, 0.0, 0.0])[:, None, None]).flatten().tolist()
    [-0.3333333432674408, 1.0, 0.5]
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise UsageError(f"colours of shape {tuple(rgb.shape)}", "(..., 3, h, w)")
    if not bool(torch.isfinite(rgb).all()):
        raise InputError("colours with NaN or infinity", "RGB in [0, 1]", "another picture")
    red, green, blue = rgb.unbind(-3)
    return torch.stack(((red + green + blue - 1.5) / 1.5, red - green, (red + green - 2 * blue) / 2), dim=-3)


def hue(rgb: Tensor) -> Tensor:
    """Hue atan2(O3, O2) in degrees [0, 360), (..., h, w); of a grey pixel it means nothing.

    >>> round(float(hue(torch.tensor([0.0, 1.0, 1.0])[:, None, None])), 1)
    206.6
    """
    o = opponent(rgb)
    return torch.atan2(o[..., 2, :, :], o[..., 1, :, :]).rad2deg().remainder(360)


def chroma(rgb: Tensor) -> Tensor:
    """Chroma sqrt(O2^2 + O3^2), (..., h, w), from 0 for grey to 1.118 for a pure red, green, cyan or magenta.

    >>> float(chroma(torch.full((3, 1, 1), 0.3)))
    0.0
    """
    o = opponent(rgb)
    return torch.hypot(o[..., 1, :, :], o[..., 2, :, :])


def coloured(rgb: Tensor, least: float = CHROMA, brightness: float = BRIGHTNESS) -> Tensor:
    """Where a hue is worth counting, (..., h, w) bool: chroma >= least and |O1| <= brightness."""
    return (chroma(rgb) >= least) & (opponent(rgb)[..., 0, :, :].abs() <= brightness)


@dataclass(frozen=True)
class HueHistogram:
    """How often each hue occurs: `counts` (bins,) int64 over [0, 360), of `total` pixels; the rest had no hue.

    Histograms of parts add up to that of the whole, in any order.
    """

    counts: Tensor
    total: int

    def __add__(self, other: HueHistogram) -> HueHistogram:
        return HueHistogram(self.counts + other.counts, self.total + other.total)

    @property
    def shares(self) -> Tensor:
        """Shares (bins,) of the coloured pixels, float64; all 0 where there are none."""
        return self.counts.double() / max(int(self.counts.sum()), 1)

    @property
    def coloured(self) -> float:
        """Share of the pixels that had a hue."""
        return int(self.counts.sum()) / max(self.total, 1)


def hue_histogram(
    rgb: Tensor, bins: int = BINS, *, least: float = CHROMA, brightness: float = BRIGHTNESS
) -> HueHistogram:
    """Hues of all pixels of (..., 3, h, w), without those of chroma < least or |O1| > brightness.

    >>> picture = torch.tensor([[[1.0, 0.5]], [[0.0, 0.5]], [[0.0, 0.5]]])  # a red pixel and a grey one
    >>> found = hue_histogram(picture, 4)
    >>> found.counts.tolist(), found.total, found.coloured
    ([1, 0, 0, 0], 2, 0.5)
    """
    if bins < 1:
        raise UsageError(f"bins={bins}", "1 or more", f"bins={BINS}")
    keep = coloured(rgb, least, brightness)
    at = (hue(rgb)[keep].double() / 360 * bins).long().remainder(bins)
    return HueHistogram(torch.bincount(at, minlength=bins), keep.numel())


class OpponentAxis(NamedTuple):
    """A line through grey in the chroma plane: its angle in [0, 180) degrees, and its share of the energy."""

    angle: float
    share: float

    @property
    def name(self) -> str:
        """Its two ends, such as "red-cyan"."""
        return axis_name(self.angle)


def opponent_axes(rgb: Tensor) -> tuple[OpponentAxis, OpponentAxis] | None:
    """The principal axes of the chroma (O2, O3) of colours (..., 3, h, w) about grey; None when all are grey.

    Eigenvectors of the mean of (O2, O3)(O2, O3)^T, not centred: an axis is opposition about grey. The shares of the
    energy sum to 1; the first is 1 for a feature of one hue or of one pair of opposite hues, 1/2 for no preference.

    >>> halves = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None]  # yellow beside blue
    >>> first, second = opponent_axes(halves)
    >>> first.name, first.share, round(second.angle)
    ('yellow-blue', 1.0, 0)
    """
    return axes_of(chroma_moment(rgb))


def chroma_moment(rgb: Tensor) -> Tensor:
    """The mean of (O2, O3)(O2, O3)^T over all pixels of (..., 3, h, w): (2, 2), float64; its trace is the energy."""
    plane = opponent(rgb).double().movedim(-3, 0)[1:].flatten(1)
    return plane @ plane.T / max(plane.shape[1], 1)


def axes_of(moment: Tensor) -> tuple[OpponentAxis, OpponentAxis] | None:
    """The principal axes of a chroma moment (2, 2), the one with more energy first; None without energy."""
    energy, vectors = torch.linalg.eigh(moment)
    total = float(energy.sum())
    if total <= 1e-12:
        return None
    angles = torch.atan2(vectors[1], vectors[0]).rad2deg().remainder(180)
    angles = torch.where(180 - angles < 1e-9, torch.zeros_like(angles), angles)
    second, first = (
        OpponentAxis(float(a), max(float(e), 0.0) / total) for a, e in zip(angles, energy, strict=True)
    )
    return first, second


def hue_name(angle: float) -> str:
    """The nearest of the twelve hues of the RGB colour circle.

    >>> [hue_name(a) for a in (26.6, 50, 90, 240, 359)]
    ['red', 'orange', 'yellow', 'azure', 'rose']
    """
    return min(zip(_ANGLES, _NAMES, strict=True), key=lambda n: abs((angle - n[0] + 180) % 360 - 180))[1]


def axis_name(angle: float) -> str:
    """The two ends of an axis, the one from rose to green first: angles 180 degrees apart have one name.

    >>> axis_name(26.6), axis_name(206.6), axis_name(3), axis_name(177)
    ('red-cyan', 'red-cyan', 'rose-spring green', 'rose-spring green')
    """
    first = _NAMES.index(hue_name(angle)) % 6
    return f"{_NAMES[first]}-{_NAMES[first + 6]}"


def edge_orientation(rgb: Tensor) -> tuple[float, float]:
    """The direction along which the colours of a feature (3, h, w) change least, and how clear it is.

    In degrees [0, 180) anticlockwise from horizontal, so that an edge from the lower left to the upper right has
    45; from the structure tensor J = sum of (gradient)(gradient)^T over pixels and opponent channels (Bigun and
    Granlund 1987, Di Zenzo 1986). The clearness (l1 - l2) / (l1 + l2) is 1 for one straight edge, 0 for none.

    >>> upright = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 4, 4)
    >>> edge_orientation(upright)
    (90.0, 1.0)
    """
    if min(rgb.shape[-2:]) < 2:
        raise UsageError(f"a feature of {rgb.shape[-2]} x {rgb.shape[-1]} pixels", "2 x 2 or larger")
    o = opponent(rgb).double()
    across = (o[:, 1:, 1:] + o[:, :-1, 1:] - o[:, 1:, :-1] - o[:, :-1, :-1]) / 2
    up = (o[:, :-1, 1:] + o[:, :-1, :-1] - o[:, 1:, 1:] - o[:, 1:, :-1]) / 2
    xx, yy, xy = (float(v.sum()) for v in (across * across, up * up, across * up))
    if xx + yy <= 1e-12:
        return 0.0, 0.0
    gradient = 0.5 * math.degrees(math.atan2(2 * xy, xx - yy))
    return (gradient + 90) % 180, math.hypot(xx - yy, 2 * xy) / (xx + yy)
