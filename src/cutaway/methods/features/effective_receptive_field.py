"""How much each pixel really moves a unit, beside the field of pixels that could."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.geometry import ReceptiveField, receptive_field
from cutaway.core.method import IMAGE, LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.tap import Tap
from cutaway.core.target import slopes

from .capture import named

PORTION = 4
"""Noise pictures in one pass."""
FLOOR = -60.0
"""Decibels below the largest value at which the logarithmic panel ends."""
EDGE = 1 - 0.9545
"""Share of the peak above which a pixel counts: beyond two standard deviations of a Gaussian lies 4.55 %."""


@method(
    title="Effective receptive field",
    chapter="features",
    needs={IMAGE, LAYER},
    gives=Attribution,
    paper="Luo, Li, Urtasun & Zemel 2016, arXiv:1701.04128, sec. 3",
    tags=Tags(family="sensitivity", focus="model", level="any"),
    caveat="It is a mean over inputs of one kind: on other pictures other gates are open, and the field is another.",
    laws={"weights sensitive"},
    random=True,
)
def effective_receptive_field(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    channel: Annotated[int | None, Range(0), "one channel; the mean over all when not given"] = None,
    row: Annotated[int | None, Range(0), "of the unit on its map; the middle when not given"] = None,
    column: Annotated[int | None, Range(0), "of the unit on its map; the middle when not given"] = None,
    inputs: Annotated[
        Literal["noise", "picture"], "random pixels, the mean over `draws`; or this one picture"
    ] = "noise",
    draws: Annotated[int, Range(1, 10000), "pictures of noise, uniform from 0 to 1"] = 16,
    power: Annotated[Literal["squared", "absolute"], "mean |gradient|^2, or mean |gradient|"] = "squared",
    raw: Annotated[bool, "the layer's own output, before the nonlinearity that follows it"] = False,
) -> Steps[Raw]:
    """The mean over inputs of sum_c |da / du_c|^2 for the unit in the middle of a layer, (H, W), a per pixel value u.

    a is one channel there, or the mean over all of them. Beside it stands the box of pixels that could move the
    unit, by the layers' geometry. `side_above_edge` in the evidence is the paper's size, the square root of the
    number of pixels above 4.55 % of the largest value; `side_participation` is the square root of
    (sum v)^2 / sum v^2, the pixels an even field of the same spread would have. `share_of_field` compares areas.
    Raises `UnknownNameError` for a channel, `UsageError` for a position that the layer does not have,
    `MethodRefusedError` where no gradient leads to the pixels.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="two layers")
    >>> found = model.explain(torch.rand(3, 11, 11), "effective_receptive_field", layer="1")
    >>> found.evidence["field"], bool((found.values[:3] == 0).all())
    ((3, 3, 7, 7), True)
    """
    names, notes = named(model, layer)
    name = names[0]
    height, width, channels = _grid(model, name)
    if channel is not None and channel >= channels:
        raise UnknownNameError(
            f"channel {channel} of {name}", f"0 to {channels - 1}", f"channel={channels - 1}"
        )
    row = _place("row", name, row, height)
    column = _place("column", name, column, width)
    field, why = _field(model, name, row, column, channel)
    total = x.new_zeros(x.shape if inputs == "picture" else (1, *x.shape[1:]))
    if inputs == "picture":
        yield Progress(0, 1, note=f"{len(x)} pictures")
        total = _slopes(model, x, name, channel, row, column, raw, power)
    else:
        for done in range(0, draws, PORTION):
            yield Progress(done, draws, note=f"picture of noise {done + 1}")
            noise = torch.rand(min(PORTION, draws - done), *x.shape[1:], device=x.device, dtype=x.dtype)
            total = total + _slopes(model, noise, name, channel, row, column, raw, power).sum(0, keepdim=True)
        total = total / draws
        notes += (f"mean over {draws} pictures of uniform noise; the picture only lies underneath",)
    heat = total.sum(1)
    if bool((heat.flatten(1) == 0).all(1).any()):
        notes += ("all zero: the unit is shut on every input; raw=true reads it before its nonlinearity",)
    heat = heat.expand(len(x), -1, -1)
    seen = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
    evidence, said = _evidence(heat, field)
    mark = None
    if field is not None and field.clipped is not None:
        top, left, bottom, right = field.clipped
        mark = (float(top), float(left), float(bottom + 1), float(right + 1))
    who = f"channel {channel}" if channel is not None else "mean of all channels"
    size = f"{field.unclipped.height} x {field.unclipped.width}" if field is not None else "not known"
    return Raw(
        heat,
        signed=False,
        unit=f"mean |d activation / d pixel|{'^2' if power == 'squared' else ''}",
        layer=name,
        evidence={"row": row, "column": column, **evidence},
        notes=(
            *notes,
            f"the unit is at row {row}, column {column} of {height} x {width}, {who}",
            *why,
            *said,
        ),
        panels={
            "field": RawPanel(f"what could move it: {size}", seen, "picture", mark=mark),
            "decibels": RawPanel(
                "what does, on a logarithmic scale",
                _decibels(heat),
                "unsigned",
                "decibels from the largest",
                mark=mark,
            ),
        },
    )


def _grid(model: VisionModel, name: str) -> tuple[int, int, int]:
    found = model.layers.find(name)
    if found.grid is None or found.layout not in ("map", "nhwc", "tokens"):
        raise UsageError(
            f"layer {name!r} has no rows and columns",
            "a layer whose output is maps",
            repr(model.layers.suggest()[0]),
        )
    return *found.grid, found.units


def _place(what: str, name: str, asked: int | None, count: int) -> int:
    if asked is not None and asked >= count:
        raise UsageError(f"{what}={asked} of layer {name!r}", f"0 to {count - 1}", f"{what}={count // 2}")
    return count // 2 if asked is None else asked


def _field(
    model: VisionModel, name: str, row: int, column: int, channel: int | None
) -> tuple[ReceptiveField | None, tuple[str, ...]]:
    try:
        found = receptive_field(
            model.layers.trace, model.layers.find(name).name, row, column, channel=channel
        )
    except MethodRefusedError as error:
        return None, (error.found,)
    return found, (f"the whole picture could move it: {found.reason}",) if found.whole else ()


def _slopes(
    model: VisionModel,
    pictures: Tensor,
    name: str,
    channel: int | None,
    row: int,
    column: int,
    raw: bool,
    power: str,
) -> Tensor:
    """|da / du|, squared or not, for each picture and colour, (N, C, H, W)."""
    pictures = pictures.detach().requires_grad_()
    with Tap(model, name, stop=True, raw=raw) as tap:
        model(pictures)
    maps = tap.maps(name)
    here = maps[:, :, row, column]
    value = here.mean(1) if channel is None else here[:, channel]
    (found,) = slopes(value, pictures, keep=False)
    g = torch.zeros_like(pictures) if found is None else found
    return g.square() if power == "squared" else g.abs()  # Luo 2016, sec. 2: the spread of the gradient


def _evidence(heat: Tensor, field: ReceptiveField | None) -> tuple[dict[str, object], tuple[str, ...]]:
    flat = heat.double().flatten(1)
    peak = flat.amax(1, keepdim=True)
    above = ((flat > EDGE * peak) & (flat > 0)).sum(1).double()
    tiny = torch.finfo(torch.float64).tiny
    share = flat / flat.sum(1, keepdim=True).clamp_min(tiny)
    even = 1 / share.square().sum(1).clamp_min(tiny) * (peak[:, 0] > 0)
    evidence: dict[str, object] = {
        "side_above_edge": above.sqrt(),
        "side_participation": even.sqrt(),
    }
    if field is None or field.clipped is None:
        return evidence, ()
    box = field.clipped
    area = box.height * box.width
    evidence |= {
        "field_height": field.unclipped.height,
        "field_width": field.unclipped.width,
        "share_of_field": above / area,
        "field": tuple(box),
    }
    cut = box != field.unclipped and not field.whole
    return evidence, ("the field goes on beyond the picture, into the padding",) if cut else ()


def _decibels(heat: Tensor) -> Tensor:
    """10 log10(v / largest v) of each map, from `FLOOR` to 0."""
    peak = heat.flatten(1).amax(1).view(-1, 1, 1)
    tiny = torch.finfo(heat.dtype).tiny
    return (10 * (heat / peak.clamp_min(tiny)).clamp_min(tiny).log10()).clamp_min(FLOOR)
