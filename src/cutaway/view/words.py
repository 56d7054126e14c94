"""What a map says in one sentence, and in a small table: for readers who do not see it, and for those who do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutaway.core.errors import InputError
from cutaway.core.result import Attribution, Panel

from .colors import Array, Floats, finite, number
from .raster import shrink, upsample

# The first of equals is named, and the centre says more than the corner it shares a point with.
_QUARTERS = {
    "central quarter": (slice(1, 3), slice(1, 3)),
    "upper left quarter": (slice(0, 2), slice(0, 2)),
    "upper right quarter": (slice(0, 2), slice(2, 4)),
    "lower left quarter": (slice(2, 4), slice(0, 2)),
    "lower right quarter": (slice(2, 4), slice(2, 4)),
}
_HALVES = {
    "upper half": (slice(0, 2), slice(0, 4)),
    "lower half": (slice(2, 4), slice(0, 4)),
    "left half": (slice(0, 4), slice(0, 2)),
    "right half": (slice(0, 4), slice(2, 4)),
}


@dataclass(frozen=True)
class Inside:
    """How much positive evidence lies inside a mask, and how much of the picture the mask covers.

    `evidence` is a share in [0, 1], or None where the map holds no positive evidence; `area` is the share that
    evidence spread evenly would reach.
    """

    evidence: float | None
    area: float


def share_inside(heat: Array, mask: Array) -> Inside:
    """The share of positive evidence inside a mask: sum of max(v, 0) over the mask / sum of max(v, 0).

    `heat` (h, w) is brought to the mask's size (bilinear) before its positive part is taken. `mask` is boolean (H, W).
    Raises `InputError` for a mask that is not boolean or not two-dimensional, and for NaN in the map.

    >>> share_inside(np.array([[3.0, 1.0], [-5.0, 0.0]]), np.array([[True, False], [True, False]]))
    Inside(evidence=0.75, area=0.5)
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InputError(
            f"a truth mask of type {mask.dtype} and {mask.ndim} dimensions",
            "a boolean array (H, W)",
            "mask > 0",
        )
    positive = np.clip(upsample(finite(heat), *mask.shape), 0, None)
    whole = float(positive.sum())
    return Inside(float(positive[mask].sum()) / whole if whole > 0 else None, float(mask.mean()))


def where(heat: Array, *, brief: bool = False) -> str:
    """Where the positive mass of a map lies, in words: a clause, or a few words with `brief`.

    >>> where(np.array([[0.0, 0.0], [1.0, 3.0]]))
    'three quarters of the positive mass lies in the lower right quarter'
    >>> where(np.zeros((7, 7)))
    'it is zero everywhere'
    >>> where(-np.ones((7, 7))), where(np.ones((7, 7)), brief=True)
    ('there is no positive mass', 'spread over the whole picture')
    """
    if not heat.any():
        return "zero everywhere" if brief else "it is zero everywhere"
    # Sixteen fields of equal area; each holds the mean, so its share is its mass.
    fields = shrink(np.clip(finite(heat), 0, None), 4, 4)
    whole = fields.sum()
    if whole == 0:
        return "none" if brief else "there is no positive mass"
    for regions, enough in ((_QUARTERS, 0.45), (_HALVES, 0.6)):
        name, most = max(
            ((n, float(fields[r].sum() / whole)) for n, r in regions.items()), key=lambda p: p[1]
        )
        if most >= enough:
            return f"{share(most)} {'' if brief else 'of the positive mass lies '}in the {name}"
    return f"{'' if brief else 'the positive mass is '}spread over the whole picture"


def share(part: float) -> str:
    """A share in [0, 1] in words a person would use.

    >>> share(0.5), share(0.66), share(0.314), share(1.0)
    ('half', 'two thirds', '31 %', 'all')
    """
    for value, word in ((0.5, "half"), (2 / 3, "two thirds"), (0.75, "three quarters"), (1.0, "all")):
        if abs(part - value) < 0.01:
            return word
    return f"{100 * part:.0f} %"


def duration(seconds: float) -> str:
    """A measured time in two digits.

    >>> duration(0.0043), duration(0.199), duration(3.05), duration(75.2)
    ('4.3 ms', '199 ms', '3 s', '75 s')
    """
    value, unit = (seconds * 1000, "ms") if seconds < 1 else (seconds, "s")
    return f"{float(f'{value:.2g}'):g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def sentence(result: Attribution, title: str) -> str:
    """An attribution in one sentence: method, target, layer, where its positive mass lies, how much is negative."""
    at = f" at {result.layer}" if result.layer else ""
    heat = result.heat
    text = f"{title} for {result.target}{at}: {where(heat)}"
    size = float(np.abs(heat).sum())
    negative = float(-heat[heat < 0].sum()) / size if size else 0.0
    return f"{text}; {share(negative)} of all evidence is negative." if negative >= 0.005 else f"{text}."


def panel_sentence(panel: Panel) -> str:
    """A panel in one sentence: its range and where it peaks, or the share of each category."""
    values = panel.values
    if values.ndim == 3:
        return f"{panel.title}: a colour picture of {values.shape[2]} × {values.shape[1]} pixels."
    if panel.scale == "categorical":
        numbers, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:4]
        parts = [
            f"{panel.labels.get(int(numbers[i]), numbers[i])} on {share(counts[i] / values.size)}"
            for i in order
        ]
        more = f", and {len(numbers) - 4} more" if len(numbers) > 4 else ""
        return f"{panel.title}: {', '.join(parts)}{more}."
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"{panel.title}: {number(low)} everywhere."
    unit = f" ({panel.unit})" if panel.unit else ""
    return (
        f"{panel.title}{unit}: from {number(low)} in the {_place(values, values.argmin())} "
        f"to {number(high)} in the {_place(values, values.argmax())}."
    )


def _place(values: Array, at: np.intp) -> str:
    row, column = np.unravel_index(at, values.shape)
    across = min(2, int(3 * (column + 0.5) / values.shape[1]))
    down = min(2, int(3 * (row + 0.5) / values.shape[0]))
    words = f"{('upper', 'middle', 'lower')[down]} {('left', 'centre', 'right')[across]}"
    return "centre" if words == "middle centre" else words


def coarse(heat: Array, most: int = 7) -> Floats:
    """The map as at most `most` × `most` numbers: its own where it is that small, else means over equal areas.

    >>> coarse(np.arange(16.0).reshape(4, 4), 2).tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    return shrink(finite(heat), min(most, heat.shape[0]), min(most, heat.shape[1]))
