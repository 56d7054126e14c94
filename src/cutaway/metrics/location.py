"""Where a map says the evidence is, against where it truly is."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.options import Range
from cutaway.methods.gradient.boxes import Box, box_of, overlap

from .metric import Mask, UndefinedError, laid, metric, refuse_constant


@metric(
    title="pointing game",
    asks="Does the largest value lie on the evidence?",
    low=0,
    high=1,
    better="higher",
    paper="Zhang et al. 2016, arXiv:1608.00507, sec. 4.2",
)
def pointing_game(
    heat: Tensor,
    truth: Mask,
    *,
    tolerance: Annotated[
        int, Range(0, 1000), "pixels a hit may lie off the evidence; the paper takes 15"
    ] = 0,
) -> float:
    """1 for a hit, 0 for a miss; where several places share the largest value, the share of them that hit.

    The mean over pictures is the hit rate; a map that points at random hits as often as the truth's share of the
    area. Raises `UndefinedError` for a constant map and for a truth without pixels.

    >>> pointing_game(torch.tensor([[0.0, 2.0]]), np.array([[False, True]]))
    1.0
    """
    whole = _seen(truth)
    refuse_constant(heat, "it points nowhere")
    if tolerance:
        whole = _grown(whole, tolerance)
    values = laid(heat, truth.shape)
    return float(whole[values == values.max()].double().mean())


@metric(
    title="box IoU",
    asks="Does the box round the strong values fit the box round the evidence?",
    low=0,
    high=1,
    better="higher",
    paper="Zhou et al. 2016, arXiv:1512.04150, sec. 3.2",
)
def box_iou(
    heat: Tensor,
    truth: Mask,
    *,
    threshold: Annotated[
        float, Range(0, 1, open_high=True), "share of the largest value from which on a place counts"
    ] = 0.2,
) -> float:
    """Intersection over union of two boxes, around the map's largest connected piece and around the truth.

    The piece is of places above `threshold` times the largest value, diagonal neighbours included. Raises
    `UndefinedError` for a constant map, one without positive values, and a truth without pixels.

    >>> box_iou(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), np.array([[False, True], [False, False]]))
    0.5
    """
    _seen(truth)
    return overlap(box_above(laid(heat, truth.shape), threshold), box_of(truth))


@metric(
    title="inside the evidence",
    asks="Which share of the positive values lies on the evidence?",
    low=0,
    high=1,
    better="higher",
    passes=0.95,
    paper="Arras et al. 2022, arXiv:2003.07258, sec. 3 (relevance mass accuracy)",
)
def share_inside(heat: Tensor, truth: Mask) -> float:
    """sum of max(v, 0) over the truth / sum of max(v, 0).

    Evidence strewn evenly reaches the truth's share of the area. A coarse map is laid over the picture first, and
    what its cells then spill over the edge counts as outside. Raises `UndefinedError` for a map without positive
    values and a truth without pixels.

    >>> share_inside(torch.tensor([[3.0, 1.0], [-5.0, 0.0]]), np.array([[True, False], [True, False]]))
    0.75
    """
    inside = _seen(truth)
    positive = laid(heat, truth.shape).clamp(min=0)
    whole = positive.sum()
    if not whole > 0:
        raise UndefinedError("the map has no positive values, so none lies anywhere")
    return float(positive[inside].sum() / whole)


def box_above(heat: Tensor, threshold: float) -> Box:
    """The box round the largest connected piece above a share of the largest value (Zhou 2016, sec. 3.2)."""
    refuse_constant(heat, "no box is round anything")
    if not heat.max() > 0:
        raise UndefinedError("the map has no positive values, so no box is round them")
    return box_of(largest_piece((heat > threshold * heat.max()).numpy()))


def largest_piece(mask: Mask) -> Mask:
    """The connected piece with the most pixels, diagonal neighbours included; the first of equals.

    >>> largest_piece(np.array([[True, False, True], [False, False, True]])).astype(int).tolist()
    [[0, 0, 1], [0, 0, 1]]
    """
    inside = torch.from_numpy(mask).double()
    names = (torch.arange(mask.size, 0, -1).double().view(mask.shape)) * inside
    while True:  # the largest name of a piece spreads over it
        spread = F.max_pool2d(names[None, None], 3, 1, 1)[0, 0] * inside
        if torch.equal(spread, names):
            break
        names = spread
    found, counts = np.unique(names.numpy()[mask], return_counts=True)
    largest = found[counts == counts.max()].max()
    chosen: Mask = names.numpy() == largest
    return chosen


def _seen(truth: Mask) -> Tensor:
    if not truth.any():
        raise UndefinedError("the truth covers no pixel, so nothing can lie on it")
    return torch.from_numpy(np.ascontiguousarray(truth))


def _grown(truth: Tensor, pixels: int) -> Tensor:
    """Every place no farther than `pixels` from one that is true."""
    rows, columns = (torch.arange(n)[:, None] for n in truth.shape)
    places = truth.nonzero()
    near = torch.zeros_like(truth)
    for part in torch.split(places, 512):
        down = (rows - part[:, 0]).double() ** 2  # (H, m)
        across = (columns - part[:, 1]).double() ** 2
        near |= (down[:, None] + across[None] <= pixels**2).any(2)
    return near
