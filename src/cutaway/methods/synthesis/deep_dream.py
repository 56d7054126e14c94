"""What a layer sees in a photograph, made stronger until a person sees it too."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.image import Photo
from cutaway.core.method import IMAGE, TARGET, LayerName, OrPicture, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.readers import Predicted
from cutaway.core.result import Picture
from cutaway.core.run import settle
from cutaway.core.target import Target, custom, score

from .ascent import Ascent, Stride
from .canvas import Pixels, canvas_type
from .course import part
from .inverted import features
from .octaves import Rolling, resized, sizes, usable
from .shaking import Movement
from .wanted import Wanted

OCTAVES = 4


@method(
    title="DeepDream",
    chapter="synthesis",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Mordvintsev, Olah & Tyka 2015, Inceptionism: Going Deeper into Neural Networks",
    tags=Tags(family="synthesis", focus="both", level="any"),
    caveat="It shows what the network could see there, exaggerated, not what it used for its answer.",
    random=True,
    single_pass=True,
    command="dream",
    leads=True,
)
def deep_dream(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    layer: LayerName = None,
    guide: Annotated[
        Any,
        OrPicture(("none",)),
        "a picture whose features in the layer are dreamt instead of the layer's own",
    ] = "none",
    octaves: Annotated[
        int | None, Range(1, 16), "sizes worked on; none: 4, or as many as the network takes"
    ] = None,
    ratio: Annotated[float, Range(1, 4, open_low=True), "from one size to the next"] = 1.4,
    steps: Annotated[int, Range(1, 1000), "steps at each size"] = 10,
    rate: Annotated[
        float, Range(0, 1, open_low=True), "mean change of a pixel in a step; 1/255 is one level"
    ] = 1.5 / 255,
    jitter: Annotated[int, Range(0, 1024), "farthest shift in a step, in pixels"] = 32,
    frames: Annotated[int, Range(1, 1000), "dreams in a row, each of the one before, enlarged"] = 1,
    zoom: Annotated[float, Range(1, 2), "enlargement from one frame to the next"] = 1.05,
) -> Steps[Raw]:
    """Climb a layer's own answer to the photograph: a picture (3, H, W) in [0, 1], in pixel space.

    x <- clip(x + rate g / mean |g|), with g the gradient of |A|^2 / 2, A the activation of `layer`: whatever the
    layer answers to becomes stronger. The picture is first worked on at its smallest size; what the steps added
    there is enlarged and added to the next size. At each step the picture is shifted around its edges. With a
    `guide`, every position of the layer is drawn to the feature vector of the guide with which it has the largest
    product: g is that of sum_i max_j a_i . g_j. With a target other than the predicted class the picture climbs that
    instead: a class, whose dreams may hold what only goes along with it in photographs (arms with dumbbells), or a
    channel.

    Without `octaves`, sizes that the network cannot take are left out, and a note says so. The panels hold the
    original and, for several `frames`, all of them. `value` in the evidence is what was climbed, on the finished
    picture at its full size.

    Raises `UsageError` for more octaves than the network takes, with the usable number, or for a guide or a layer
    together with a target; `MethodRefusedError` where nothing leads uphill.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="two layers")
    >>> dreamt = model.explain(torch.rand(3, 32, 32), "deep_dream", layer="1")
    >>> dreamt.evidence["value"] > dreamt.evidence["value at the start"], dreamt.evidence["octaves"]
    (True, ('32 x 32', '23 x 23', '16 x 16', '12 x 12'))
    """
    goal, notes = _climbed(model, x, target, layer, guide)
    x = x.to(canvas_type(model))
    here = int(x.shape[-2]), int(x.shape[-1])
    asked = sizes(here, octaves or OCTAVES, ratio)
    found = usable(model, goal, asked)
    if found < len(asked):
        least, below = _by(asked[found - 1]), _by(asked[found])
        if octaves is not None:
            raise UsageError(
                f"octaves={octaves}: the network takes {least}, but not {below} pixels",
                f"at most {found} with ratio={ratio:g}",
                f"octaves={found}",
            )
        notes += (f"{found} of {OCTAVES} octaves: the network takes {least}, but not {below} pixels",)
        asked = asked[:found]
    shake = Rolling(pixels=jitter)
    seed = int(torch.randint(2**62, ()))
    parts = torch.split(torch.arange(len(x)), Wanted(model, goal, here).together())
    total, done = len(parts) * frames * len(asked), 0
    dreams: list[Tensor] = []  # (n, frames, C, H, W) for each part of the pictures
    values: list[tuple[Tensor, Tensor]] = []
    stopped = False
    for rows in parts:
        mine, random = goal.take(rows), torch.Generator().manual_seed(seed)

        def value(pixels: Tensor, own: Target = mine) -> Tensor:
            return score(model, pixels.to(model.dtype), own)

        before = x[rows]
        with torch.no_grad():
            start = value(before)
        shown: list[Tensor] = []
        for frame in range(frames):
            photo = before if not shown else Movement(size=zoom)(shown[-1])
            detail = torch.zeros_like(resized(photo, asked[-1]))
            for size in reversed(asked):
                base = resized(photo, size)
                now = base + resized(detail, size)
                if not stopped:
                    work = Ascent(value, Pixels(model, size), Stride("mean", rate), steps, shake, (_clipped,))
                    note = f"{_by(size)} pixels" + (f", frame {frame + 1}" if frames > 1 else "")
                    try:
                        ended = yield from part(work.run(now, random, note), done, 1, total)
                        now, stopped = ended.numbers, ended.steps < steps
                        notes += _unmoved(ended.dead, rows, size)
                    except MethodRefusedError:
                        if size == asked[0]:
                            raise
                        notes += (f"at {_by(size)} pixels nothing leads uphill: left as it was",)
                    done += 1
                detail = now - base
            shown.append(now.clamp(0, 1))
            if stopped:
                break
        dreams.append(torch.stack(shown, 1))
        with torch.no_grad():
            values.append((start, value(shown[0])))
        if stopped:
            notes += (f"stopped in frame {len(shown)} of {frames}",)
            break
    if not stopped and any(bool((b - a <= 1e-6 * a.abs()).any()) for a, b in values):
        notes += (
            "a value did not rise: its signal is kept at one size, as by a normalisation, or the steps were too large",
        )
    return _shown(x, dreams, values, tuple(map(_by, asked)), goal, notes, targeted=_asked(target))


def _unmoved(dead: Tensor, rows: Tensor, size: tuple[int, int]) -> tuple[str, ...]:
    """The note for pictures of a batch whose gradient was zero at one size and that stayed as they were."""
    still = rows[dead > 0].tolist()
    if not still:
        return ()
    which = f"picture{'s' if len(still) > 1 else ''} {', '.join(map(str, still))}"
    return (f"at {_by(size)} pixels nothing leads uphill for {which}, counted from 0: left as it was",)


def _clipped(numbers: Tensor, gradient: Tensor, step: int) -> Tensor:
    return numbers.clamp(0, 1)


def _asked(target: Target) -> bool:
    """Whether a person asked for a target; the predicted class is what stands there when nobody did."""
    return not all(isinstance(reader, Predicted) for _, reader in target.terms)


def _climbed(
    model: VisionModel, x: Tensor, target: Target, layer: str | None, guide: Any
) -> tuple[Target, tuple[str, ...]]:
    """What is climbed, as a target: the one asked for, or a layer's own signal, or its likeness to a guide."""
    if _asked(target):
        with torch.no_grad():
            settle(model, x, target)
        if layer is not None or isinstance(guide, Photo):
            what = f"layer={layer!r}" if layer is not None else "a guide"
            raise UsageError(f"{what} together with the target {target.label()}", "one of them", "no target")
        return target, ()
    notes: tuple[str, ...] = ()
    if layer is None:
        stages = model.layers.stages()
        layer = stages[-2] if len(stages) > 1 else stages[-1]
        notes = (f"layer {layer}: the last of the last stage but one",)
    if not isinstance(guide, Photo):
        return custom(lambda maps: maps.flatten(1).square().sum(1) / 2, layer).resolve(model), notes
    if len(guide) != 1:
        raise UsageError(f"{len(guide)} guides", "one picture", "a guide for all pictures")
    with torch.no_grad():
        seen = features(model, model.preprocess.fit(guide).to(x), layer)[layer]
    if seen.ndim != 4:
        raise UsageError(
            f"a guide at layer {layer!r}, which has no positions", "a layer with maps", "another layer"
        )
    vectors = seen[0].flatten(1)
    return (
        custom(lambda maps: (maps.flatten(2).transpose(1, 2) @ vectors).amax(2).sum(1), layer).resolve(model),
        (*notes, f"guided by {guide}"),
    )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _shown(
    x: Tensor,
    dreams: list[Tensor],
    values: list[tuple[Tensor, Tensor]],
    octaves: tuple[str, ...],
    goal: Target,
    notes: tuple[str, ...],
    *,
    targeted: bool,
) -> Raw:
    most = min(d.shape[1] for d in dreams)
    every = torch.cat([d[:, :most] for d in dreams])
    every = every.expand(-1, -1, 3, -1, -1)
    panels = {"original": RawPanel("original", x[: len(every)].expand(-1, 3, -1, -1), "picture")}
    if most > 1:
        panels["frames"] = RawPanel("frames, each a dream of the one before, enlarged", every, "picture")
    return Raw(
        every[:, 0],
        signed=False,
        unit="pixels in [0, 1]",
        layer=", ".join(goal.layers) or None,
        evidence={
            "value": torch.cat([after for _, after in values]),
            "value at the start": torch.cat([before for before, _ in values]),
            "octaves": octaves,
        },
        notes=tuple(dict.fromkeys(notes)),
        panels=panels,
        extra={"scale": "picture", "title": "dream"},
        targeted=targeted,
    )
