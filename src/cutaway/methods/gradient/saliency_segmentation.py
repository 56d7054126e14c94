"""An object's mask and box from the saliency of its class: GrabCut between salient and least salient pixels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import IMAGE, TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .boxes import Box, box_of, original, outlined
from .evidence_map import Smoothing, Source, colours, evidence_map, large_enough
from .grab_cut import COMPONENTS, grab_cut, largest_piece, opencv

Mask = npt.NDArray[np.bool_]
LOST = ("GrabCut left no foreground in a picture: its largest piece of foreground seeds is shown instead",)
SEEDS = {0: "unknown", 1: "background", 2: "foreground"}


@method(
    title="Segmentation from saliency",
    chapter="gradient",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, sec. 3.2; Rother et al. 2004, doi:10.1145/1015706.1015720",
    tags=Tags(family="sensitivity", focus="both", level="high"),
    caveat="GrabCut follows the picture's own colours: a clean outline says that the picture has one, "
    "not that the network saw it.",
    random=True,
)
def saliency_segmentation(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    source: Source = "saliency",
    smoothing: Smoothing = 0.02,
    foreground: Annotated[float, Range(0.5, 0.99), "quantile of the map from which pixels are object"] = 0.95,
    background: Annotated[float, Range(0.01, 0.5), "quantile up to which pixels are background"] = 0.3,
    seeds: Annotated[
        Literal["fixed", "free"], "hold the seeds' labels, or let them only give the first colours"
    ] = "fixed",
    iterations: Annotated[int, Range(1, 50), "rounds of GrabCut"] = 5,
) -> Steps[Raw]:
    """The object's mask (1 inside, 0 outside) and its box.

    Seeds: foreground where the map M is at or above its 95 % quantile, background where it is at or below its 30 %
    quantile (linear between ranks, over the picture); the rest is unknown (Simonyan 2014, sec. 3.2, where the seeds
    give the colours only, `seeds="free"`, and the map is not smoothed, `smoothing=0`; fixed seeds want a map without
    holes). GrabCut divides the picture, and its largest connected foreground is the
    object, (N, H, W). The box is (top, left, bottom, right) in edges of the network's pixels. Cost: the map's own,
    then some tenths of a second for each picture, on the processor. Raises `MethodRefusedError` where both
    quantiles are one number, so that no seeds can be told apart, `InputError` for a picture too small to fit five
    Gaussians to the seeds, and `MissingDependencyError` without OpenCV.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 400, 1))
    >>> weight = torch.rand(3, 20, 20) * 0.1
    >>> weight[:, 5:11, 4:16] += 1
    >>> _ = net[1].weight.data.copy_(weight.view(1, -1))
    >>> picture = torch.zeros(3, 20, 20)
    >>> picture[0, 5:11, 4:16] = 1
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> model.explain(picture, "saliency_segmentation", target=0).evidence["box"]
    [5, 4, 11, 16]
    """
    opencv("saliency_segmentation")
    if foreground <= background:
        raise UsageError(
            f"foreground={foreground}, background={background}", "foreground above background", "0.95 and 0.3"
        )
    least = int(np.ceil(COMPONENTS / min(1 - foreground, background)))
    large_enough(x, least, f"so that each colour model has {COMPONENTS} seeds")
    heat, read = yield from evidence_map(model, x, target, source, smoothing)
    pictures = colours(x)
    masks, marks, boxes = [], [], []
    lost: tuple[str, ...] = ()
    for i, (one, picture) in enumerate(zip(heat.numpy(), pictures, strict=True)):
        above, below = sown(one, foreground, background, source)
        pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        mask = largest_piece(grab_cut(pixels, above, below, iterations=iterations, keep=seeds))
        if not mask.any():
            mask, lost = largest_piece(above), LOST
        masks.append(torch.from_numpy(mask))
        marks.append(torch.from_numpy(below + 2 * above.astype(np.uint8)))
        boxes.append(box_of(mask))
        yield Progress(i + 1, len(heat), masks[-1].float(), "pictures cut")
    inside, sides = torch.stack(masks), torch.stack(marks)
    same, notes = original(model)
    evidence: dict[str, Any] = {
        "score": read.evidence.get("score"),
        "area share": inside.double().mean((1, 2)),
        "foreground seeds": (sides == 2).sum((1, 2)),
        "background seeds": (sides == 1).sum((1, 2)),
        "saliency inside": (heat * inside).sum((1, 2)) / heat.sum((1, 2)),
        "box": [list(box) for box in boxes],
    }
    if same:
        evidence["box in the original"] = evidence["box"]
    panels = {
        "cut-out": RawPanel("cut out, box in orange", cut_out(pictures, inside, boxes), "picture"),
        "seeds": RawPanel("seeds", sides, "categorical", labels=SEEDS),
        "saliency": RawPanel(
            f"map of {source}" + ", smoothed" * (smoothing > 0), heat, "unsigned", read.unit
        ),
    }
    return Raw(
        inside.to(x.dtype).cpu(),
        signed=False,
        unit="1 inside the object",
        layer=read.layer,
        evidence=evidence,
        notes=read.notes + notes + lost,
        panels=panels,
    )


def sown(
    heat: npt.NDArray[np.float64], foreground: float, background: float, source: str
) -> tuple[Mask, Mask]:
    """Foreground and background seeds of one map; raises `MethodRefusedError` where the quantiles coincide."""
    low, high = np.quantile(heat, [background, foreground])
    if low >= high:
        raise MethodRefusedError(
            f"the map of {source} is {high:g} at its {100 * background:g} % and at its {100 * foreground:g} % quantile: "
            "one set of seeds is empty",
            "a map with at least three levels of evidence",
            "smoothing=0.02, or another source",
        )
    return heat >= high, heat <= low


def cut_out(pictures: Tensor, inside: Tensor, boxes: list[Box]) -> Tensor:
    """The pictures with all but the object faded towards white, its box orange."""
    faded = torch.where(inside[:, None], pictures, 0.75 + 0.25 * pictures)
    orange = (0.9, 0.38, 0.0)
    return torch.stack([outlined(p, [box], [orange]) for p, box in zip(faded, boxes, strict=True)])
