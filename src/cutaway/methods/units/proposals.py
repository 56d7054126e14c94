"""Region proposals: a picture cut into small segments that are merged, the most alike neighbours first.

After selective search (Uijlings, van de Sande, Gevers & Smeulders 2013, sec. 3): Felzenszwalb & Huttenlocher's
segments, then one by one the two neighbours with the largest s = s_colour + s_texture + s_size + s_fill; the box of
every region that ever was is a proposal.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.geometry import Box
from cutaway.methods.perturbation.superpixels import superpixels

COLOURS, ORIENTATIONS, STEPS = 25, 8, 10
"""Bins of a colour's histogram; directions of the texture, and bins of each."""


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels, box, and the histograms of colour (3 x 25,) and texture (3 x 8 x 10,), each summing to 1."""

    size: int
    box: Box
    colour: Tensor
    texture: Tensor

    def merged(self, other: Region) -> Region:
        """Both together; the histograms are means weighted by size (eq. 3)."""
        size = self.size + other.size
        a, b = self.size / size, other.size / size
        return Region(
            size,
            hull(self.box, other.box),
            a * self.colour + b * other.colour,
            a * self.texture + b * other.texture,
        )


def proposals(picture: Tensor, *, scale: float = 100.0, smallest: int = 16) -> list[Box]:
    """Boxes of regions of a picture (3, H, W) in [0, 1], the largest merged regions first, none twice.

    `scale` is Felzenszwalb's: larger gives larger first segments; `smallest` the least side of a box in pixels.
    Deterministic. Raises `MissingDependencyError` without scikit-image.

    >>> halves = torch.zeros(3, 40, 60)
    >>> halves[:, :, 30:] = 1
    >>> proposals(halves)[0]
    Box(top=0, left=0, bottom=39, right=59)
    """
    labels = superpixels(
        picture, "felzenszwalb", "a division into regions", scale=scale, sigma=0.8, min_size=20
    )
    regions = list(_segments(picture, labels))
    near = _neighbours(labels)
    area = labels.numel()
    waiting = [(-alike(regions[a], regions[b], area), a, b) for a in near for b in near[a] if a < b]
    heapq.heapify(waiting)
    while waiting:
        _, a, b = heapq.heappop(waiting)
        if a not in near or b not in near:  # one of them was merged before
            continue
        new = len(regions)
        regions.append(regions[a].merged(regions[b]))
        around = (near.pop(a) | near.pop(b)) - {a, b}
        near[new] = around
        for other in around:
            near[other] = (near[other] - {a, b}) | {new}
            heapq.heappush(waiting, (-alike(regions[other], regions[new], area), other, new))
    boxes = (region.box for region in reversed(regions))
    return [box for box in dict.fromkeys(boxes) if min(box.height, box.width) >= smallest]


def alike(a: Region, b: Region, area: int) -> float:
    """Likeness of two regions, 0 to 4: histogram intersections of colour and texture, smallness, and how well they fit.

    s_size = 1 - (|a| + |b|) / |picture|, s_fill = 1 - (|box of both| - |a| - |b|) / |picture| (eqs. 2 to 6).
    """
    both = hull(a.box, b.box)
    together = a.size + b.size
    colour = float(torch.minimum(a.colour, b.colour).sum())
    texture = float(torch.minimum(a.texture, b.texture).sum())
    fill = 1 - (both.height * both.width - together) / area
    return colour + texture + 1 - together / area + fill


def hull(a: Box, b: Box) -> Box:
    """The smallest box around two."""
    return Box(min(a.top, b.top), min(a.left, b.left), max(a.bottom, b.bottom), max(a.right, b.right))


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes.

    >>> overlap(Box(0, 0, 3, 3), Box(0, 2, 3, 5))
    0.3333333333333333
    """
    high = min(a.bottom, b.bottom) - max(a.top, b.top) + 1
    wide = min(a.right, b.right) - max(a.left, b.left) + 1
    shared = max(high, 0) * max(wide, 0)
    return shared / (a.height * a.width + b.height * b.width - shared)


def _segments(picture: Tensor, labels: Tensor) -> Iterator[Region]:
    """The segments of a picture as regions, by number."""
    seen = picture.detach().cpu().expand(3, -1, -1).double()
    count = int(labels.max()) + 1
    flat = labels.flatten()
    sizes = torch.bincount(flat, minlength=count)
    colour = _histograms(seen, flat, count, COLOURS)
    texture = _histograms(_directions(seen), flat, count, STEPS)
    rows = torch.arange(labels.shape[0])[:, None].expand_as(labels).flatten()
    columns = torch.arange(labels.shape[1])[None].expand_as(labels).flatten()
    ends = [
        torch.zeros(count, dtype=torch.int64).scatter_reduce(0, flat, v, how, include_self=False).tolist()
        for v, how in ((rows, "amin"), (columns, "amin"), (rows, "amax"), (columns, "amax"))
    ]
    for i, size in enumerate(sizes.tolist()):
        yield Region(size, Box(*(end[i] for end in ends)), colour[i], texture[i])


def _histograms(planes: Tensor, labels: Tensor, count: int, bins: int) -> Tensor:
    """For every label the histograms of planes (p, H, W) in [0, 1], side by side and summing to 1: (count, p bins)."""
    number = planes.shape[0]
    at = (planes.flatten(1) * bins).long().clamp(0, bins - 1)  # (p, H W)
    at = at + bins * torch.arange(number)[:, None] + bins * number * labels
    found = torch.bincount(at.flatten(), minlength=count * number * bins).double().view(count, -1)
    return found / found.sum(1, keepdim=True)


def _directions(picture: Tensor) -> Tensor:
    """Rises of each colour in eight directions, (24, H, W) in [0, 1]: derivatives of a Gaussian of one pixel."""
    x = torch.arange(-4, 5, dtype=torch.float64)
    smooth = torch.exp(-x.square() / 2)
    smooth /= smooth.sum()
    kernels = torch.stack([-x[:, None] * smooth[:, None] * smooth, -x * smooth[:, None] * smooth])
    wide = F.pad(picture[:, None], (4, 4, 4, 4), mode="replicate")
    down, across = F.conv2d(wide, -kernels[:, None]).unbind(1)
    angles = [2 * math.pi * i / ORIENTATIONS for i in range(ORIENTATIONS)]
    rises = torch.cat([(math.sin(a) * down + math.cos(a) * across).clamp(min=0) for a in angles])
    return rises / rises.max().clamp_min(torch.finfo(rises.dtype).tiny)


def _neighbours(labels: Tensor) -> dict[int, set[int]]:
    """For every segment those that share a side of a pixel with it."""
    sides = [
        torch.stack([labels[:-1].flatten(), labels[1:].flatten()]),
        torch.stack([labels[:, :-1].flatten(), labels[:, 1:].flatten()]),
    ]
    pairs = torch.cat(sides, 1)
    pairs = pairs[:, pairs[0] != pairs[1]]
    near: dict[int, set[int]] = {i: set() for i in range(int(labels.max()) + 1)}
    for a, b in set(zip(*pairs.tolist(), strict=True)):
        near[a].add(b)
        near[b].add(a)
    return near
