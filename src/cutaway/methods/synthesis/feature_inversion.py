"""What a layer keeps of a picture: the picture drawn again from its features alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Picture
from cutaway.core.target import custom

from .ascent import Ascent, Rate, Stride
from .canvas import Canvas, Fourier, canvas_type
from .course import part
from .inverted import TYPICAL, WHITE, Features, Prior, chosen, depth, features, placed
from .wanted import Wanted

SPREAD = 0.1
"""Standard deviation of the spectrum's numbers at the start: pixels within a tenth of middle grey."""
STEPS = {"spectrum": 200, "authors": 400}
RATE = {"spectrum": 0.05, "authors": 0.004}
SMOOTH = {
    "spectrum": {"shallow": 1.0, "middle": 10.0, "deep": 30.0},
    "authors": {"shallow": 1.0, "middle": 10.0, "deep": 100.0},
}
"""Weight of the total variation by a layer's depth; 100 hides what the spectrum finds in deep layers."""
SIDE = 227
"""Side of the pictures for which these are: in smaller ones neighbours differ more, in proportion."""


@method(
    title="Feature inversion",
    chapter="synthesis",
    needs={IMAGE},
    gives=Picture,
    paper="Mahendran & Vedaldi 2015, arXiv:1412.0035",
    tags=Tags(family="synthesis", focus="both", level="any"),
    caveat="What comes out wrong was free to: the layer does not hold it, and the prior chose. See several starts.",
    laws={"weights sensitive"},
    random=True,
    command="invert",
    leads=True,
)
def feature_inversion(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    layers: Annotated[
        str | None, "several layers at once: names joined by commas, or 'stages' for the last of each stage"
    ] = None,
    place: Annotated[
        str | None, "invert only these rows and columns of the maps: 3,5 or, ends included, 3-5,6-8"
    ] = None,
    draws: Annotated[int, Range(1, 16), "different starts for each layer"] = 1,
    by: Annotated[
        Literal["spectrum", "authors"],
        "how the picture is moved: its spectrum by Adam, or its pixels by momentum on the authors' schedule",
    ] = "spectrum",
    steps: Annotated[
        int | None, Range(1, 10000), "steps for each layer; none: 200, or the authors' 400"
    ] = None,
    rate: Annotated[
        float | None, Range(0, 10, open_low=True), "rate at the start; none: 0.05, or the authors' 0.004"
    ] = None,
    alpha: Annotated[float, Range(1, 12), "exponent of the norm that keeps pixels in range"] = 6.0,
    alpha_weight: Annotated[float, Range(0), "weight of that norm, for pixels in 0 to 255"] = 8e-10,
    beta: Annotated[float, Range(1, 4), "exponent of the total variation that keeps pictures smooth"] = 2.0,
    beta_weight: Annotated[
        float | None,
        Range(0),
        "weight of the total variation; none: by depth 1, 10 or 30 (authors: 100), less for small pictures",
    ] = None,
) -> Steps[Raw]:
    """A picture (3, H, W) in [0, 1] with nearly the features that the photograph has in a layer.

    Downhill from noise on
    s^2 |Phi(x) - Phi_0|^2 / |Phi_0|^2 + alpha_weight / 2 |z|_alpha^alpha + beta_weight / 2 sum (dx^2 + dy^2)^(beta/2),
    with z the pixels in levels (0 to 255) from middle grey, dx and dy their differences, and s the norm of a typical
    photograph of that size. "spectrum" starts near grey and moves the amplitudes of frequencies, so that large forms
    come first; "authors" starts from noise with norm s and takes steps of 0.004, after 100 steps a tenth, after 300 a
    hundredth of it, with momentum 0.9; where its rate is too large for a layer it says so and stops. Without
    `beta_weight`, the weight for the layer's depth in a picture of 227 pixels is scaled by (side / 227)^beta.

    `values` is the inversion of the shallowest layer; the panels are those of the deeper ones, of further starts, and
    the original. What differs between starts is what the layer does not hold. In the evidence, for each layer:
    `feature error`, |Phi(x) - Phi_0| / |Phi_0| of the picture shown (a list for several starts), beside that of plain
    grey, and `pixel error`, the root mean square difference from the photograph.

    Raises `UsageError` for a place outside a layer's maps, `MethodRefusedError` for features that are all zero,
    `InputError` when the values overflow.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="two layers")
    >>> found = model.explain(torch.rand(3, 12, 12), "feature_inversion", layer="1", steps=50)
    >>> found.evidence["feature error 1"] < found.evidence["feature error of grey"]["1"]
    True
    """
    names, notes = chosen(model, layer, layers)
    x = x.to(canvas_type(model))
    where = None if place is None else placed(place)
    with torch.no_grad():
        own = features(model, x, *names)
    wanted = [
        Features(model, name, own[name] if where is None else where.of(own[name], name), where)
        for name in names
    ]
    canvas: Canvas = Fourier(model, _size(x)) if by == "spectrum" else Levels(model, x)
    count, first = steps or STEPS[by], rate or RATE[by]
    stride = (
        Stride("adam", _cosine(first, count)) if by == "spectrum" else Stride("momentum", _schedule(first))
    )
    priors, said = [], []
    for name in names:
        word = depth(model, name)
        weight = SMOOTH[by][word] * (min(_size(x)) / SIDE) ** beta if beta_weight is None else beta_weight
        said.append(f"{weight:.3g} at {name} ({word})")
        priors.append(Prior(alpha, alpha_weight, beta, weight))
    if where is not None:
        notes += (f"of the maps only rows and columns {where} are inverted",)
    if beta_weight is None:
        notes += (f"the total variation weighs {', '.join(said)}",)
    seed = int(torch.randint(2**62, ()))
    per = max(1, min(_together(model, name, _size(x)) for name in names) // draws)
    parts = torch.split(torch.arange(len(x)), per)
    done: list[
        list[Tensor]
    ] = []  # for each part of the pictures, each layer's inversions (n, draws, C, H, W)
    stopped = ""
    for p, rows in enumerate(parts):
        inversions: list[Tensor] = []
        for k, (sought, prior) in enumerate(zip(wanted, priors, strict=True)):
            random = torch.Generator().manual_seed(seed)
            start = canvas.start(draws, SPREAD, random)
            start = start.repeat(len(rows), *(1,) * (start.ndim - 1))
            mine = sought.take(rows.repeat_interleave(draws).to(x.device))
            work = Ascent(_uphill(mine, prior), canvas, stride, count)
            ended = yield from part(
                work.run(start, random, sought.layer), p * len(names) + k, 1, len(parts) * len(names)
            )
            with torch.no_grad():
                pixels = canvas.pixels(ended.numbers).clamp(0, 1)
            inversions.append(pixels.view(len(rows), draws, *x.shape[1:]))
            if ended.steps < count:
                stopped = f"stopped after {ended.steps} of {count} steps of {sought.layer}"
                break
        if not done or len(inversions) == len(names):
            done.append(inversions)
        if stopped:
            notes += (stopped,)
            break
    pictures = [torch.cat(column) for column in zip(*done, strict=True)]
    return _shown(x, wanted, pictures, notes)


class Levels:
    """Pixels in levels from middle grey, without limits."""

    def __init__(self, model: VisionModel, x: Tensor) -> None:
        self.model, self.shape = model, x.shape[1:]

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """Independent normal numbers, each picture with the norm of a typical photograph."""
        noise = torch.randn((draws, *self.shape), generator=random, dtype=torch.float64)
        noise = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * TYPICAL * self.shape.numel() ** 0.5
        start: Tensor = noise.to(self.model.device, canvas_type(self.model))
        return start

    def pixels(self, numbers: Tensor) -> Tensor:
        """In [0, 1] where the numbers are a picture's, and beyond where they are not."""
        pixels: Tensor = numbers / WHITE + 0.5
        return pixels


def _uphill(sought: Features, prior: Prior) -> Any:
    def goal(pixels: Tensor) -> Tensor:
        scale = TYPICAL**2 * pixels[0].numel()
        return -scale * sought.error(pixels) - prior(WHITE * (pixels - 0.5))

    return goal


def _cosine(first: float, steps: int) -> Rate:
    """From the rate at the start smoothly to none."""
    return lambda step: first * (1 + math.cos(math.pi * step / steps)) / 2


def _schedule(first: float) -> Rate:
    """The authors': the rate for 100 steps, a tenth for 200, then a hundredth."""
    return lambda step: first * (1 if step < 100 else 0.1 if step < 300 else 0.01)


def _together(model: VisionModel, layer: str, size: tuple[int, int]) -> int:
    """How many pictures to move together."""
    return Wanted(model, custom(lambda maps: maps.flatten(1).sum(1), layer), size).together()


def _size(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])


def _shown(x: Tensor, wanted: Sequence[Features], pictures: Sequence[Tensor], notes: tuple[str, ...]) -> Raw:
    """Every inversion with its errors; fewer pictures and layers than asked where the work was told to stop."""
    made, draws = pictures[0].shape[:2]
    panels: dict[str, RawPanel] = {}
    evidence: dict[str, Any] = {}
    grey: list[dict[str, float]] = [{} for _ in range(made)]
    for sought, inversions in zip(wanted, pictures, strict=False):
        name, rows = sought.layer, torch.arange(made, device=x.device)
        mine = sought.take(rows)
        with torch.no_grad():
            errors = torch.stack([mine.error(inversions[:, d]).sqrt() for d in range(draws)], 1)
            evidence[f"feature error {name}"] = errors[:, 0] if draws == 1 else errors.tolist()
            plain = mine.error(torch.full_like(x[:made], 0.5)).sqrt().tolist()
        for own, error in zip(grey, plain, strict=True):
            own[name] = error
        apart = (inversions[:, 0] - x[:made]).flatten(1)
        evidence[f"pixel error {name}"] = apart.square().mean(1).sqrt()
        for d in range(draws):
            title = name + (f", start {d + 1}" if draws > 1 else "")
            panels[title] = RawPanel(title, inversions[:, d].expand(-1, 3, -1, -1), "picture")
    first, *_ = panels
    top = panels.pop(first)
    panels["original"] = RawPanel("original", x[:made].expand(-1, 3, -1, -1), "picture")
    shown = [sought.layer for sought, _ in zip(wanted, pictures, strict=False)]
    return Raw(
        top.values,
        signed=False,
        unit="pixels in [0, 1]",
        layer=", ".join(shown),
        evidence=evidence | {"feature error of grey": grey},
        notes=notes,
        panels=panels,
        extra={"scale": "picture", "title": top.title},
    )
