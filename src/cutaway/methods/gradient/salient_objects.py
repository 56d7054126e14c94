"""Several salient objects, one by one: proposals from the map's level sets, and non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .boxes import Box, box_of, original, outlined, suppress
from .evidence_map import Smoothing, Source, colours, evidence_map, large_enough
from .grab_cut import opencv, pieces

Heat = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ORANGE = (0.9, 0.38, 0.0)


@dataclass(frozen=True, eq=False)
class Proposal:
    """A connected piece {M >= level}, its box and its score."""

    mask: Mask
    box: Box
    score: float


@method(
    title="Salient objects",
    chapter="gradient",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="after Li, Xie, Lin & Yu 2017, arXiv:1704.03604, sec. 3; cf. Zhang et al. 2016, doi:10.1109/CVPR.2016.618",
    tags=Tags(family="sensitivity", focus="both", level="high"),
    caveat="Not the trained networks of the papers named: proposals are plain level sets of one gradient map, chosen "
    "greedily; objects that touch in the map are one, and one object in two bright parts is two.",
    random=True,
)
def salient_objects(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    source: Source = "saliency",
    smoothing: Smoothing = 0.04,
    levels: Annotated[int, Range(2, 200), "thresholds between the map's smallest and largest value"] = 20,
    proposals: Annotated[int, Range(1, 10_000), "best scored pieces that enter the selection"] = 100,
    iou: Annotated[
        float, Range(0, 1), "largest intersection over union of two boxes that are both kept"
    ] = 0.4,
    minimum_area: Annotated[float, Range(0, 1), "smallest piece, as a share of the picture"] = 0.01,
    minimum_score: Annotated[float, Range(0, 1), "smallest score, as a share of the best one"] = 0.5,
) -> Steps[Raw]:
    """The score of the object each pixel belongs to, 0 outside, with a box and a score for every object.

    The papers' order with the simplest parts (Li 2017: a salient map, proposals, a subset of them, instances): the
    proposals are the connected pieces {M >= t} of the map, scaled to [0, 1], at evenly spaced t, 0 and 1 left out.
    A proposal's score is its mean of M minus the mean around it (see `contrast`). In the order
    of the scores a proposal is dropped if it holds, or lies in, one kept before; then boxes whose intersection over
    union with a better one is above `iou` are dropped (non-maximum suppression). What remains is disjoint, because
    level sets are nested or disjoint: (N, H, W). Boxes are (top, left, bottom, right) in edges of the network's
    pixels. The evidence counts the pieces found and those kept. Raises `MethodRefusedError` for a map without
    contrast and `MissingDependencyError` without OpenCV.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 400, 1))
    >>> weight = torch.zeros(3, 20, 20)
    >>> weight[:, 2:8, 3:9] = 1
    >>> weight[:, 12:17, 11:18] = 0.8
    >>> _ = net[1].weight.data.copy_(weight.view(1, -1))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> found = model.explain(torch.rand(3, 20, 20), "salient_objects", target=0, smoothing=0)
    >>> found.evidence["boxes"]
    [[2, 3, 8, 9], [12, 11, 17, 18]]
    """
    opencv("salient_objects")
    large_enough(x, 16, "so that there is an object and something around it")
    heat, read = yield from evidence_map(model, x, target, source, smoothing)
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    scaled = ((heat - low) / (high - low)).numpy()
    pictures = colours(x)
    kept: list[list[Proposal]] = []
    found: list[int] = []
    for i, one in enumerate(scaled):
        every = proposed(one, levels, minimum_area)
        found.append(len(every))
        kept.append(selected(every[:proposals], iou, minimum_score))
        yield Progress(i + 1, len(scaled), None, "pictures searched")
    numbers = np.stack([numbered(objects, one.shape) for objects, one in zip(kept, scaled, strict=True)])
    scores = np.stack(
        [np.array([0.0, *(p.score for p in objects)])[n] for objects, n in zip(kept, numbers, strict=True)]
    )
    boxes = [[list(p.box) for p in objects] for objects in kept]
    same, notes = original(model)
    evidence: dict[str, Any] = {
        "score": read.evidence.get("score"),
        "objects": [len(objects) for objects in kept],
        "proposals": found,
        "area share": [float((n > 0).mean()) for n in numbers],
        "boxes": boxes,
        "scores": [[p.score for p in objects] for objects in kept],
    }
    if same:
        evidence["boxes in the original"] = boxes
    if not all(kept):
        notes += ("a picture has no piece of the smallest area that stands out: no object in it",)
    labels = [
        {0: "outside"} | {k: f"object {k} (score {p.score:.2f})" for k, p in enumerate(objects, 1)}
        for objects in kept
    ]
    panels = {
        "boxes": RawPanel("boxes, the best one orange", drawn(pictures, kept), "picture"),
        "instances": RawPanel("instances", torch.from_numpy(numbers), "categorical", labels=labels),
        "saliency": RawPanel(
            f"map of {source}, smoothed" if smoothing else f"map of {source}", heat, "unsigned", read.unit
        ),
    }
    return Raw(
        torch.from_numpy(scores).to(x.dtype),
        signed=False,
        unit="score: inside less around",
        layer=read.layer,
        evidence=evidence,
        notes=read.notes + notes,
        panels=panels,
    )


def proposed(heat: Heat, levels: int, minimum_area: float) -> list[Proposal]:
    """Every connected piece of the level sets that is large enough and no repetition, the best score first."""
    out: list[Proposal] = []
    seen: set[tuple[int, int]] = set()
    for level in np.arange(1, levels + 1) / (levels + 1):
        labels, sizes = pieces(heat >= level)
        for number in 1 + np.flatnonzero(sizes[1:] >= max(1.0, minimum_area * heat.size)):
            mask: Mask = labels == number
            piece = int(mask.argmax()), int(sizes[number])  # nested pieces of one size are the same piece
            if piece[1] == heat.size or piece in seen:
                continue
            seen.add(piece)
            box = box_of(mask)
            out.append(Proposal(mask, box, contrast(heat, mask, box)))
    return sorted(out, key=lambda p: -p.score)


def contrast(heat: Heat, mask: Mask, box: Box) -> float:
    """Mean inside the mask minus mean around it, within the box grown on each side by half its height and width.

    Multiplied by pixels around / pixels inside where that is below 1: what is left outside a piece that fills nearly
    the whole picture is too little to stand out from.
    """
    top, left, bottom, right = box
    high, wide = max(1, (bottom - top) // 2), max(1, (right - left) // 2)
    near = np.s_[max(top - high, 0) : bottom + high, max(left - wide, 0) : right + wide]
    around, inside = heat[near][~mask[near]], heat[mask]
    if not around.size:
        return 0.0
    return float(inside.mean() - around.mean()) * min(1.0, around.size / inside.size)


def selected(proposals: list[Proposal], iou: float, minimum_score: float) -> list[Proposal]:
    """The proposals, best first, of which none holds another and no two boxes overlap by more than `iou`."""
    apart: list[Proposal] = []
    for p in proposals:
        if p.score <= 0 or p.score < minimum_score * proposals[0].score:
            continue
        if not any((p.mask & q.mask).any() for q in apart):  # level sets that meet are nested
            apart.append(p)
    return [apart[i] for i in suppress([p.box for p in apart], [p.score for p in apart], iou)]


def numbered(objects: list[Proposal], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Each pixel's object from 1 in the order of the scores, 0 outside."""
    out = np.zeros(shape, np.int64)
    for number, p in enumerate(objects, 1):
        out[p.mask] = number
    return out


def drawn(pictures: Tensor, kept: list[list[Proposal]]) -> Tensor:
    """The pictures with every object's box: the best one orange, the others white."""
    return torch.stack(
        [
            outlined(
                p, [q.box for q in objects], [ORANGE if i == 0 else (1, 1, 1) for i in range(len(objects))]
            )
            for p, objects in zip(pictures, kept, strict=True)
        ]
    )
