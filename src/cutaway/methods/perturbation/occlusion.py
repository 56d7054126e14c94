"""Occlusion: hide a window of the picture, ask again, move on."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from cutaway.core.errors import CutawayError, MethodRefusedError
from cutaway.core.image import Photo
from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, OrPicture, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps, finish
from cutaway.core.result import Attribution
from cutaway.core.target import Target, channel
from cutaway.core.windows import Precision

from ..gradient.baselines import baseline_of
from ..projection.deconvnet import deconvnet
from .fills import described, filler
from .grid import Edges, Grid, lay
from .scan import Activity, Clean, Scan, Watch, look, scan

COARSE = 0.05
"""Share of the largest number from which on what bfloat16 does is warned of."""


@method(
    title="Occlusion",
    chapter="perturbation",
    needs={IMAGE, TARGET, LAYER},
    gives=Attribution,
    paper="Zeiler & Fergus 2014, arXiv:1311.2901, sec. 4.2 and fig. 7",
    tags=Tags(family="perturbation", level="high"),
    caveat="A window hides what it covers and also draws edges no training picture had; its size and fill matter.",
    laws={"linearity", "class sensitive", "weights sensitive"},
)
def occlusion(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    window: Annotated[int | None, Range(1), "side in pixels; none: a 14th of the picture, at least 4"] = None,
    stride: Annotated[int | None, Range(1), "pixels between windows; none: half a window"] = None,
    fill: Annotated[
        Any,
        OrPicture(("grey", "mean", "blur", "noise", "black", "white")),
        "what replaces the pixels, in pixel space",
    ] = "grey",
    edges: Annotated[Edges, "the last window is moved inside the border, or cut off there"] = "clamp",
    panels: Annotated[bool, "also follow the strongest map and the class probabilities"] = True,
    layer: LayerName = None,
    activity: Annotated[Activity, "how a map becomes one number"] = "sum",
    precision: Annotated[
        Precision,
        "exact, or fast: convolutions in bfloat16, with what that does to one window in the evidence",
    ] = "exact",
) -> Steps[Raw]:
    """How much the target falls when a window hides part of the picture.

    Gives (H, W): per pixel the mean over the windows that cover it of S(x) - S(x with the window filled), signed,
    positive where the picture speaks for the target. Nothing is differentiated, so any target of any network
    goes. On a linear network the drop of a window is the sum of w (x - fill) inside it.
    Panels, one number per window position: "activity" of the map k* of `layer` that is strongest on the clean
    picture, "probability" of the class asked about (else of the predicted one), "most_probable" class; and
    "projection", the deconvnet projection of map k*.
    Cost: one forward pass per window at most; where that is less work, only what a window changes is computed, with
    the same numbers (one window is always compared with a whole picture).
    Raises `UsageError` when the window is larger than the picture, or the fill a picture of another size.
    """
    height, width = x.shape[-2:]
    window = window or default_window(height, width)
    stride = stride or max(1, window // 2)
    grid = lay((height, width), window, stride, edges)
    own = isinstance(fill, Photo)
    fills = baseline_of(model, x, fill) if own else filler(x, fill, window)
    notes = (
        f"window {window}, stride {stride}, filled with {f'the picture {fill}' if own else described(fill, window)}",
        *_gaps(grid, window, stride),
    )
    watch, more = _watch(model, layer, activity) if panels else (Watch(classes=False), ())
    notes += more
    scans: list[Scan] = []
    goals = [target.alone(i) for i in range(len(x))]
    total = len(x) * len(grid.boxes)
    for i, goal in enumerate(goals):
        one = x[i : i + 1]
        clean, watch, more = look(model, one, goal, watch, precision)
        notes += more
        done = i * len(grid.boxes)
        scans.append(
            (
                yield from scan(
                    model,
                    one,
                    goal,
                    grid,
                    fills[i],
                    clean,
                    watch,
                    before=done,
                    total=total,
                    precision=precision,
                )
            )
        )
    pictures, more = _panels(model, x, scans, watch)
    notes += tuple(dict.fromkeys(n for s in scans for n in _computed(s, precision)))
    heat = torch.stack([grid.spread(s.drop) for s in scans]).to(x)
    evidence = _evidence(model, grid, scans, watch) | {"window": window, "stride": stride}
    unit = "drop of the target"
    return Raw(heat, signed=True, unit=unit, evidence=evidence, notes=notes + more, panels=pictures)


def default_window(height: int, width: int) -> int:
    """A 14th of the short side (16 pixels of 224), but four pixels where the picture has them.

    >>> default_window(224, 224), default_window(32, 32), default_window(3, 8)
    (16, 4, 3)
    """
    side = min(height, width)
    return max(round(side / 14), min(4, side))


def _gaps(grid: Grid, window: int, stride: int) -> tuple[str, ...]:
    if not grid.uncovered:
        return ()
    return (
        f"warning: stride {stride} is larger than window {window}, so {grid.uncovered} of "
        f"{grid.size[0] * grid.size[1]} pixels lie under no window; their value is 0 and says nothing",
    )


def _computed(scan: Scan, precision: Precision) -> tuple[str, ...]:
    """How the answers came about, where a person should know."""
    report = scan.report
    if precision == "fast" and report.deviation is not None:
        text = (
            f"one window compared with a whole picture is off by {report.deviation:.1%} of the largest number"
        )
        if report.deviation <= COARSE:
            return (f"computed in bfloat16: {text}",)
        return (f"warning: bfloat16 is too coarse for this network: {text}; precision='exact'",)
    if report.engine == "incremental" and report.limit:
        return (f"only what each window changes was computed: {report.limit:.2g} times fewer multiply-adds",)
    some = "for some windows " if "+" in report.engine else ""
    return (f"{some}whole pictures were computed: {report.why}",) if report.why else ()


def _watch(model: VisionModel, layer: str | None, activity: Activity) -> tuple[Watch, tuple[str, ...]]:
    """Which layer's strongest map to follow."""
    if layer is not None:
        return Watch(model.layers.find(layer).name, activity), ()
    try:
        layer, why = model.layers.suggest()
    except CutawayError as error:
        return Watch(None, activity), (f"no panel of a map's activity: {error.found}",)
    return Watch(layer, activity), (f"layer {layer}: {why}",)


def _evidence(model: VisionModel, grid: Grid, scans: list[Scan], watch: Watch) -> dict[str, object]:
    largest = [int(s.drop.argmax()) for s in scans]
    evidence: dict[str, object] = {
        "score": torch.stack([s.clean.score for s in scans]),
        "windows": len(grid.boxes),
        "largest drop": torch.stack([s.drop.flatten()[k] for s, k in zip(scans, largest, strict=True)]),
        "largest drop box": [grid.boxes[k].tolist() for k in largest],
        "engine": [s.report.engine for s in scans],
        "times fewer multiply-adds": [s.report.limit for s in scans],
        "deviation from whole pictures": [s.report.deviation for s in scans],
    }
    if watch.classes:
        evidence["class"] = [model.class_name(s.clean.label or 0) for s in scans]
    if watch.layer is not None:
        evidence["map"] = [f"{watch.layer}:{s.clean.channel}" for s in scans]
        evidence["map activity"] = torch.stack(
            [s.clean.activity for s in scans if s.clean.activity is not None]
        )
    return evidence


def _panels(
    model: VisionModel, x: Tensor, scans: list[Scan], watch: Watch
) -> tuple[dict[str, RawPanel], tuple[str, ...]]:
    """The panels of Zeiler & Fergus 2014, fig. 7 (b) to (e)."""
    panels: dict[str, RawPanel] = {}
    notes: tuple[str, ...] = ()
    if watch.layer is not None:
        values = torch.stack([s.activity for s in scans]).to(x)
        scale = "signed" if bool((values < 0).any()) else "unsigned"
        title = f"activity of the strongest map of {watch.layer}"
        panels["activity"] = RawPanel(title, values, scale, f"{watch.activity} over positions")  # type: ignore[arg-type]
        projection, notes = _projection(model, x, watch.layer, [s.clean for s in scans])
        if projection is not None:
            title = "that map projected to pixels by deconvnet"
            panels["projection"] = RawPanel(title, projection, "signed", "projected signal")
    if watch.classes:
        values = torch.stack([s.probability for s in scans]).to(x)
        panels["probability"] = RawPanel("probability of the class", values, "unsigned", "probability")
        winners = torch.stack([s.winner for s in scans])
        labels = {k: model.class_name(k) for k in sorted(set(winners.flatten().tolist()))}
        panels["most_probable"] = RawPanel("most probable class", winners, "categorical", "class", labels)
    return panels, notes


def _projection(
    model: VisionModel, x: Tensor, layer: str, cleans: list[Clean]
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Each picture's strongest map, projected; None and a note where deconvnet refuses the network."""
    parts = []
    for i, clean in enumerate(cleans):
        goal = channel(layer, clean.channel or 0)
        try:
            parts.append(
                finish(
                    deconvnet(model, x[i : i + 1], goal, reduce="rgb", start="activation", keep="map")
                ).values
            )
        except MethodRefusedError as error:
            return None, (f"no deconvnet projection: {error.found}",)
    return torch.cat(parts), ()
