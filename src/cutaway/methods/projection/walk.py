"""Walking down a network: of every stage its strongest maps, each projected to pixels beside what it saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.geometry import Box, receptive_field
from cutaway.core.method import Range, Raw, RawPanel
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.progress import Progress, Steps
from cutaway.core.readers import Predicted
from cutaway.core.rules import Rule
from cutaway.core.tap import Tap
from cutaway.core.target import Target, not_differentiable, slopes

from .rules import Keep, Start, reach, under

STAGES = "stages"

Layers = Annotated[
    str | None,
    "walk through these layers instead of the target: names joined by commas, or 'stages' for the last of each stage",
]
Maps = Annotated[int, Range(1, 64), "strongest maps of each of `layers`, by their largest activation"]
"""Types of the options `layers` and `maps`."""


@dataclass(frozen=True)
class Walk:
    """What a walk is asked for: the options of the method, and those that must keep their `plain` value."""

    layers: str
    maps: int
    start: Start
    keep: Keep
    unit: str
    plain: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """The strongest maps of one layer: for N pictures and n maps, (N, n) each; `count` is how many maps there are.

    `silent` marks maps that are zero everywhere: their position means nothing.
    """

    layer: str
    maps: Tensor
    channels: Tensor
    rows: Tensor
    columns: Tensor
    peaks: Tensor
    silent: Tensor

    @property
    def count(self) -> int:
        """Maps of the layer."""
        return int(self.maps.shape[1])


def walk(
    model: VisionModel,
    x: Tensor,
    target: Target,
    rules: Mapping[Family, Rule],
    asked: Walk,
    *,
    name: str,
    remarks: Callable[[Collection[Family]], tuple[str, ...]] = lambda families: (),
) -> Steps[Raw]:
    """Of every layer its strongest maps, each projected to pixels alone (Zeiler & Fergus 2014, fig. 2).

    Maps are ranked by their largest activation, ties by channel. Each is projected from its strongest position
    (`keep="map"`: from all of it), with every other activation of the layer zero, exactly as its unit would be as a
    target. Two panels per layer, shallow first, one tile per map: the projections (n, 3, h, w), and the patches of
    the picture (n, 3, h, w) in [0, 1] that the positions see. Both are cropped to the receptive field where that is
    smaller than the picture; beyond the picture's edge projections are zero and patches white. `values` is the
    uncropped projection of the deepest layer's strongest map. A map that is zero everywhere gives a zero projection
    and a white patch. Cost: one forward pass, and one backward pass from the layer down per map.

    Raises `UnknownNameError` for a layer that does not exist, `UsageError` for one without maps or for an option
    that a walk cannot keep, `MethodRefusedError` when an operator is out of the rules' reach.
    """
    for option, (given, only) in asked.plain.items():
        if given != only:
            raise UsageError(f"{option}={given!r} together with layers", f"{option}={only!r}", "no layers")
    layers, notes = named(model, asked.layers)
    if not all(isinstance(reader, Predicted) for _, reader in target.terms):
        notes += (
            f"the target {target.label()} is not used: the walk explains the strongest maps of each layer",
        )
    x = x.detach().requires_grad_()
    with under(rules, model) as mode, Tap(model, *layers, stop=True) as tap:
        model(x)
    found = {layer: tap.maps(layer) for layer in layers}
    if rules:
        notes += reach(mode, list(found.values()), " or ".join(layers), name)
    notes += remarks(mode.families)
    stages = [strongest(layer, maps, asked.maps) for layer, maps in found.items()]
    total, done = sum(stage.channels.shape[1] for stage in stages), 0
    panels: dict[str, RawPanel] = {}
    evidence: dict[str, Any] = {}
    picture = torch.zeros_like(x)
    for stage in stages:
        pictures = []
        for rank in range(stage.channels.shape[1]):
            yield Progress(done, total, note=f"{stage.layer}:{int(stage.channels[0, rank])}")
            pictures.append(_down(stage, rank, x, asked))
            done += 1
        picture = pictures[0]  # the strongest of the deepest so far
        fields = _fields(model, stage, (int(x.shape[-2]), int(x.shape[-1])))
        panels |= _panels(stage, x.detach(), torch.stack(pictures, 1), fields, asked)
        evidence |= _evidence(stage)
        notes += _said(stage, torch.stack(pictures, 1), asked)
    return Raw(
        picture,
        unit=asked.unit,
        layer=layers[-1],
        evidence=evidence,
        notes=notes,
        panels=panels,
        targeted=False,
    )


def named(model: VisionModel, layers: str) -> tuple[list[str], tuple[str, ...]]:
    """The layers a person wrote, each once, shallow first; for "stages" one per stage, said in a note.

    Raises `UnknownNameError` for a layer that does not exist, `UsageError` for none or one without maps.
    """
    table = model.layers
    wanted = [part.strip() for part in layers.split(",") if part.strip()]
    if not wanted:
        raise UsageError(
            f"layers={layers!r}", "names of layers joined by commas, or 'stages'", "layers=stages"
        )
    if wanted == [STAGES] and STAGES not in table.names:
        chosen = list(table.stages())
        return chosen, (f"layers: the last of each stage of the network, {', '.join(chosen)}",)
    for name in wanted:
        row = table.find(name)
        if row.layout not in ("map", "nhwc", "tokens") or row.runs != 1:
            shape = " x ".join(map(str, row.shape[1:])) or "one number"
            why = f"ran {row.runs} times" if row.runs != 1 else f"gives {shape} per picture, no maps"
            raise UsageError(
                f"layer {name!r} {why}",
                "a layer with rows and columns that runs once",
                ",".join(table.stages()),
            )
    order = {name: table.trace.value(name) for name in wanted}
    return sorted(order, key=lambda name: order[name]), ()


def strongest(layer: str, maps: Tensor, count: int) -> Stage:
    """The `count` maps of (N, C, h, w) with the largest activation, strongest first; all where there are fewer.

    >>> strongest("conv", torch.tensor([[[[0.0, 1.0]], [[3.0, 2.0]], [[0.0, 0.0]]]]), 2).channels
    tensor([[1, 0]])
    """
    values = maps.detach().flatten(2)
    peaks = values.amax(2)
    channels = peaks.argsort(dim=1, descending=True, stable=True)[:, :count]
    at = values.argmax(2).gather(1, channels)
    silent = (values == 0).all(2).gather(1, channels)
    width = maps.shape[3]
    rows = at.div(width, rounding_mode="floor")
    return Stage(layer, maps, channels, rows, at % width, peaks.gather(1, channels), silent)


def _down(stage: Stage, rank: int, x: Tensor, asked: Walk) -> Tensor:
    """Every picture's map of that rank projected to pixels, (N, 3, H, W)."""
    each, channel = torch.arange(len(x), device=x.device), stage.channels[:, rank]
    if asked.keep == "map":
        picked = stage.maps[each, channel]
        seed = torch.full_like(picked, 1 / picked[0].numel())  # the target is the map's mean
    else:
        picked = stage.maps[each, channel, stage.rows[:, rank], stage.columns[:, rank]]
        seed = torch.ones_like(picked)
    if not picked.requires_grad:
        raise not_differentiable()
    if asked.start == "activation":
        seed = picked.detach()
    (picture,) = slopes((picked * seed).sum(), x, keep=True)
    if picture is None:
        return torch.zeros_like(x)
    return picture * ~stage.silent[:, rank].view(-1, 1, 1, 1)


@dataclass(frozen=True)
class _Fields:
    """For every picture and map the pixels that its strongest position sees, all boxes of one size; None if silent."""

    boxes: list[list[Box | None]]
    size: tuple[int, int]
    words: str


def _fields(model: VisionModel, stage: Stage, size: tuple[int, int]) -> _Fields:
    """The fields of one layer's maps; the whole picture where they are as large, rows and columns apart."""
    found: dict[tuple[int, int], Box] = {}
    positions = torch.stack([stage.rows, stage.columns], 2).tolist()
    try:
        for row, column in {tuple(p) for one in positions for p in one}:
            found[row, column] = receptive_field(model.layers.trace, stage.layer, row, column).unclipped
    except MethodRefusedError:
        found = {}
    high = min(max((box.height for box in found.values()), default=size[0]), size[0])
    wide = min(max((box.width for box in found.values()), default=size[1]), size[1])

    def window(row: int, column: int) -> Box:
        box = found.get((row, column), Box(0, 0, 0, 0))
        top = box.top if high < size[0] else 0
        left = box.left if wide < size[1] else 0
        return Box(top, left, top + high - 1, left + wide - 1)

    boxes = [
        [None if silent else window(*at) for at, silent in zip(*one, strict=True)]
        for one in zip(positions, stage.silent.tolist(), strict=True)
    ]
    if not found:
        return _Fields(boxes, (high, wide), "an unknown part of the picture")
    full = max(box.height for box in found.values()), max(box.width for box in found.values())
    words = f"{full[0]} × {full[1]} pixels" + (", shown whole" if (high, wide) == size else "")
    return _Fields(boxes, (high, wide), "the whole picture" if full == size else words)


def _panels(stage: Stage, x: Tensor, pictures: Tensor, fields: _Fields, asked: Walk) -> dict[str, RawPanel]:
    """The projections (N, n, 3, h, w) and the patches of one layer."""
    seen = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    several = seen[:, None].expand(-1, pictures.shape[1], -1, -1, -1)
    tiles, boxes = _crops(pictures, fields, 0.0), fields.boxes
    if asked.keep == "map":
        whole = Box(0, 0, int(x.shape[-2]) - 1, int(x.shape[-1]) - 1)
        tiles, boxes = pictures, [[box and whole for box in one] for one in fields.boxes]
    labels = [
        {i: f"{c} silent" if box is None else f"{c}: {peak:.3g}" for i, (c, peak, box) in enumerate(drawn)}
        for drawn in (
            zip(*one, strict=True)
            for one in zip(stage.channels.tolist(), stage.peaks.tolist(), fields.boxes, strict=True)
        )
    ]
    name, shown, grid = stage.layer, stage.channels.shape[1], " × ".join(map(str, stage.maps.shape[2:]))
    kept = f"{shown} strongest of {stage.count} maps" if shown < stage.count else f"all {shown} maps"
    title = f"{name}: {kept} of {grid}, each position sees {fields.words}"
    patches = _crops(several, fields, 1.0)
    said = f"{name}: what the strongest position of each map sees"
    return {
        name: RawPanel(title, tiles, "tiles", asked.unit, labels, each=True, boxes=boxes),
        f"{name} patches": RawPanel(said, patches, "picture", "", labels, boxes=fields.boxes),
    }


def _crops(pictures: Tensor, fields: _Fields, beyond: float) -> Tensor:
    """(N, n, C, H, W) to (N, n, C, h, w): the pixels of each box; `beyond` outside the picture and where silent."""
    out = pictures.new_full((*pictures.shape[:3], *fields.size), beyond)
    for i, boxes in enumerate(fields.boxes):
        for k, box in enumerate(boxes):
            if box is not None:
                top, left = max(box.top, 0), max(box.left, 0)
                inside = pictures[i, k, :, top : box.bottom + 1, left : box.right + 1]
                down, across = top - box.top, left - box.left
                out[i, k, :, down : down + inside.shape[1], across : across + inside.shape[2]] = inside
    return out


def _evidence(stage: Stage) -> dict[str, Any]:
    """Channels, activations and positions of the maps drawn."""
    positions = torch.stack([stage.rows, stage.columns], 2)
    return {
        f"channels {stage.layer}": stage.channels,
        f"activations {stage.layer}": stage.peaks,
        f"positions {stage.layer}": positions,
    }


def _said(stage: Stage, pictures: Tensor, asked: Walk) -> tuple[str, ...]:
    """What a reader must know of one layer: fewer maps than asked, maps that are silent, projections of nothing."""
    notes: tuple[str, ...] = ()
    if asked.maps > stage.count:
        notes += (f"{stage.layer} has {stage.count} maps, fewer than {asked.maps}: all are shown",)
    silent = sorted(set(stage.channels[stage.silent].tolist()))
    if silent:
        notes += (
            f"zero everywhere, so without projection and patch: {stage.layer}:{', '.join(map(str, silent))}",
        )
    flat = (pictures == 0).flatten(2).all(2) & ~stage.silent
    if bool(flat.any()):
        channels = ", ".join(map(str, sorted(set(stage.channels[flat].tolist()))))
        notes += (
            f"the projection is zero though the map answers (a unit at the ceiling of its ReLU6 has no slope, "
            f"or the rules let nothing through): {stage.layer}:{channels}",
        )
    return notes
