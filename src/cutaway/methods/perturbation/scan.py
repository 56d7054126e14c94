"""What a window moved over one picture does to the target and to everything else that is watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.target import Target
from cutaway.core.windows import Precision, Report, evaluate

from .grid import Grid

Activity = Literal["sum", "mean", "max"]
"""How a map becomes one number."""


@dataclass(frozen=True)
class Watch:
    """What to read besides the target: a layer's strongest map, and the class probabilities."""

    layer: str | None = None
    activity: Activity = "sum"
    classes: bool = True


@dataclass(frozen=True)
class Clean:
    """The picture as it is: the target's value, the strongest map and its activity, the class that is followed."""

    score: Tensor
    channel: int | None = None
    activity: Tensor | None = None
    label: int | None = None


@dataclass(frozen=True)
class Scan:
    """A number for each window, (down, across) in float64, beside the clean picture's, and how they were computed."""

    clean: Clean
    drop: Tensor
    activity: Tensor
    probability: Tensor
    winner: Tensor
    report: Report


def look(
    model: VisionModel, x: Tensor, target: Target, watch: Watch, precision: Precision = "exact"
) -> tuple[Clean, Watch, tuple[str, ...]]:
    """The clean picture (1, C, H, W), what can be watched on this network, and notes on what cannot.

    Its precision is that of the windows, so that a window which changes nothing is a drop of 0.
    """
    nothing = torch.zeros(1, 4, dtype=torch.int64)
    notes: tuple[str, ...] = ()
    layers, output = _layers(target, watch), _output(target, watch)
    ((_, values),) = evaluate(model, x, nothing, x[0], layers=layers, output=output, precision=precision)
    score = _numbers(target.read(values))[0]
    if watch.classes and (values[None].ndim != 2 or values[None].shape[1] < 2):
        shape = tuple(values[None].shape[1:])
        notes = (
            f"no panels of class probabilities: the network gives {shape} per picture, not one score per class",
        )
        watch = Watch(watch.layer, watch.activity, classes=False)
    label = target.class_number
    if watch.classes and label is None:
        label = int(values[None][0].argmax())
    channel = strength = None
    if watch.layer is not None:
        maps = values[watch.layer]
        if maps.ndim != 4:
            raise UsageError(
                f"layer {watch.layer!r} has no rows and columns", "a layer with maps", "another layer"
            )
        strengths = _activity(maps, watch.activity)[0]
        channel = int(strengths.argmax())
        strength = strengths[channel]
    return Clean(score, channel, strength, label), watch, notes


def scan(
    model: VisionModel,
    x: Tensor,
    target: Target,
    grid: Grid,
    fill: Tensor,
    clean: Clean,
    watch: Watch,
    *,
    before: int,
    total: int,
    precision: Precision = "exact",
) -> Steps[Scan]:
    """Move the window over the picture (1, C, H, W); yields `Progress` with the map of drops so far.

    `before` windows of `total` were done for earlier pictures.
    """
    n = len(grid.boxes)
    drop, activity, probability = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
    winner = torch.zeros(n, dtype=torch.int64)
    seen = torch.zeros(n, dtype=torch.bool)
    layers, report = _layers(target, watch), Report()
    for numbers, values in evaluate(
        model,
        x,
        grid.boxes,
        fill,
        layers=layers,
        output=_output(target, watch),
        report=report,
        precision=precision,
    ):
        drop[numbers] = clean.score - _numbers(target.read(values))
        if watch.layer is not None and clean.channel is not None:
            kept = values[watch.layer][:, clean.channel : clean.channel + 1]
            activity[numbers] = _activity(kept, watch.activity)[:, 0]
        if watch.classes and clean.label is not None:
            probabilities = _numbers(values[None]).softmax(1)
            probability[numbers] = probabilities[:, clean.label]
            winner[numbers] = probabilities.argmax(1)
        seen[numbers] = True
        preview = grid.spread(drop.view(grid.shape), seen.view(grid.shape)).float().numpy()
        yield Progress(before + int(seen.sum()), total, preview, "windows")
    drop, activity, probability, winner = (t.view(grid.shape) for t in (drop, activity, probability, winner))
    return Scan(clean, drop, activity, probability, winner, report)


def _layers(target: Target, watch: Watch) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*target.layers, *((watch.layer,) if watch.layer is not None else ()))))


def _output(target: Target, watch: Watch) -> bool:
    return target.reads_output or watch.classes


def _numbers(values: Tensor) -> Tensor:
    """Differences and sums are taken in double precision, so that they add nothing to the network's own rounding."""
    return values.detach().cpu().double()


def _activity(maps: Tensor, how: Activity) -> Tensor:
    """One number per map, (N, C), from (N, C, h, w)."""
    flat = _numbers(maps).flatten(2)
    if how == "sum":
        return flat.sum(2)
    return flat.mean(2) if how == "mean" else flat.amax(2)
