"""Several pictures of one class or unit, each begun at the mean of photographs that look alike to the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.core.method import DATA, TARGET, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture
from cutaway.core.tap import Tap
from cutaway.core.target import Target
from cutaway.data.batches import Unread, batches, left_out, none_read
from cutaway.data.folder import PictureSource

from .ascent import Ascent, Stride
from .canvas import Pixels, canvas_type
from .course import part
from .facets import facets_of
from .regularizers import tv_denoised
from .shaking import Movement, Shake
from .wanted import Wanted, canvas_size

BEST = 200
"""Pictures that stand for a target without labels: those that raise it most."""
SHOWN = 4
"""Source pictures shown below each facet."""
OCTAVES = 5
GROWTH = 1.1


@method(
    title="Multifaceted visualization",
    chapter="synthesis",
    needs={TARGET, DATA},
    gives=Picture,
    paper="Nguyen, Yosinski & Clune 2016, arXiv:1602.03616",
    tags=Tags(family="synthesis", focus="both", level="high"),
    caveat="The facets are groups of the pictures given: colours and layout of the mean they begin at remain.",
    random=True,
    command="dream",
)
def multifaceted_visualization(
    model: VisionModel,
    target: Target,
    data: PictureSource,
    *,
    layer: LayerName = None,
    facets: Annotated[int, Range(1, 50), "groups of pictures; fewer where there are few pictures"] = 10,
    nearest: Annotated[int, Range(1, 1000), "pictures nearest a group's centre whose mean is the start"] = 15,
    components: Annotated[int, Range(1, 1000), "principal components that t-SNE is given"] = 50,
    steps: Annotated[int, Range(1, 10000), "steps of the ascent in each of the five octaves"] = 20,
    rate: Annotated[
        float,
        Range(0, 1, open_low=True),
        "mean change of a pixel in a step, in [0, 1]; half of it in the last",
    ] = 0.005,
    tv: Annotated[float, Range(0, 10), "weight of the total variation taken out behind each step"] = 0.01,
    spread: Annotated[
        float,
        Range(0, 10),
        "how far the drawing window strays from the centre, as a share of the room it has",
    ] = 0.3,
) -> Steps[Raw]:
    """Climb the target from the mean picture of each of its facets: pictures (3, H, W), the largest group's first.

    The pictures of `data` with the target's class (for other targets, or without labels, those that raise it most)
    are described by a layer's activations, averaged over its places; these go to `components` principal components,
    by t-SNE to the plane and by k-means into groups. From the mean of the pictures nearest each centre the target is
    climbed in five octaves, each 1.1 times the size of the last: a step is x <- x + rate g / mean |g| inside a
    window of the network's size, placed around the centre (centre bias; nearer to it in the last octave), and then
    total variation is taken out. The panel shows each facet above the pictures it began from.

    Raises `InputError` where no picture has the class, `UsageError` for several targets at once,
    `MethodRefusedError` where nothing leads uphill, `MissingDependencyError` without scikit-learn.

    >>> import tempfile, cutaway
    >>> from PIL import Image
    >>> from cutaway.core.progress import finish
    >>> from cutaway.core.run import explain
    >>> from cutaway.data.folder import Pictures
    >>> from cutaway.methods import METHODS
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(crop=8), name="two layers")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("red", "green", "blue"):
    ...         Image.new("RGB", (8, 8), name).save(f"{folder}/{name}.png")
    ...     given, options = {DATA: Pictures(folder)}, {"steps": 1}
    ...     (drawn,) = finish(explain(model, METHODS["multifaceted_visualization"], None, 1, options, given=given))
    >>> drawn.values.shape, drawn.evidence["pictures of each facet"]
    ((3, 8, 8), [3])
    """
    if target.count is not None:
        raise UsageError("several targets at once", "one target, which has several pictures", "one class")
    layer = layer or model.layers.suggest()[0]
    found = yield from _read(model, target, data, layer)
    few = max(1, min(facets, len(found.numbers) // 5))
    seed = int(torch.randint(2**31 - 1, ()))
    groups = facets_of(found.codes, few, nearest, components, seed)
    notes = [*found.notes, f"grouped by {layer}"]
    if len(groups.nearest) < facets:
        notes.append(
            f"{_counted(len(groups.nearest), 'facet')} of {facets}, of {_counted(len(found.numbers), 'picture')}"
        )
    sources = _pictures(model, data, [found.numbers[near] for near in groups.nearest])
    means = torch.stack([own.mean(0) for own in sources])
    drawn, told = yield from _climbed(
        model, target, means, steps=steps, rate=rate, tv=tv, spread=spread, seed=seed
    )
    notes += told
    with torch.no_grad():
        wanted = Wanted(model, target, canvas_size(model))
        values, begun = wanted.values(drawn), wanted.values(means)
    rows = min(SHOWN, min(len(near) for near in groups.nearest))
    below = [torch.stack([own[k] for own in sources]) for k in range(rows)]
    sheet = _seen(torch.cat([drawn, *below]))
    return Raw(
        _seen(drawn[:1]),
        signed=False,
        unit="pixels in [0, 1]",
        layer=layer,
        evidence={
            "value": values[:1],
            "value at the start": begun[:1],
            "values of the facets": [values.tolist()],
            "pictures of each facet": [list(groups.sizes)],
            "pictures": len(found.numbers),
        },
        notes=tuple(notes),
        panels={
            "facets": RawPanel(
                "facets, and below each the pictures it began from",
                sheet[None],
                "picture",
                labels=dict(
                    enumerate(
                        [*(_counted(n, "picture") for n in groups.sizes), *[""] * (len(sheet) - len(drawn))]
                    )
                ),
                columns=len(drawn),
            )
        },
        extra={"scale": "picture"},
    )


@dataclass(frozen=True)
class _Found:
    numbers: Tensor
    codes: Tensor
    notes: tuple[str, ...]


def _read(model: VisionModel, target: Target, data: PictureSource, layer: str) -> Steps[_Found]:
    """The pictures that stand for the target, and what the layer says of each."""
    k, labels = target.class_number, data.labels
    numbers = list(range(len(data)))
    if k is not None and labels is not None:
        numbers = (labels == k).nonzero()[:, 0].tolist()
        if not numbers:
            raise InputError(
                f"none of {len(data)} pictures is of {target.label()}", "pictures with labels of it"
            )
    unread: list[Unread] = []
    read: list[Tensor] = []
    codes: list[Tensor] = []
    values: list[Tensor] = []
    for batch in batches(model, data, numbers, 16, workers=0, unread=unread):
        yield Progress(sum(len(v) for v in values), len(numbers), note="reading pictures")
        with torch.no_grad(), Tap(model, *{layer, *target.layers}, stop=False) as tap:
            output = model(batch.pixels)
            held: dict[str | None, Tensor] = {name: tap.maps(name) for name in target.layers}
            maps = tap.maps(layer)
            codes.append(maps.flatten(2).mean(2) if maps.ndim > 2 else maps)
        model.check_finite(codes[-1], batch.pixels)
        values.append(target.read(held | {None: output}))
        read.append(batch.ids)
    if not read:
        raise none_read(unread)
    notes = list(left_out(unread))
    every, code, value = torch.cat(read), torch.cat(codes), torch.cat(values)
    if k is None or labels is None:
        best = value.argsort(descending=True, stable=True)[:BEST]
        notes.append(f"the {len(best)} of {_counted(len(value), 'picture')} that raise {target.label()} most")
        every, code = every[best.cpu()], code[best]
    else:
        notes.append(f"{_counted(len(every), 'picture')} labelled as the class of {target.label()}")
    return _Found(every, code, tuple(notes))


def _pictures(model: VisionModel, data: PictureSource, groups: list[Tensor]) -> tuple[Tensor, ...]:
    """The pixels of groups of pictures, (n, C, H, W) each; they are read again, so that few are held at a time."""
    numbers = torch.cat(groups).tolist()
    pixels = [batch.pixels for batch in batches(model, data, numbers, 16, workers=0)]
    if len({tuple(p.shape[1:]) for p in pixels}) > 1:
        raise InputError("the pictures have different sizes", "a preprocessing that crops to one size")
    return torch.split(torch.cat(pixels).to(canvas_type(model)), [len(own) for own in groups])


def _climbed(
    model: VisionModel,
    target: Target,
    start: Tensor,
    *,
    steps: int,
    rate: float,
    tv: float,
    spread: float,
    seed: int,
) -> Steps[tuple[Tensor, tuple[str, ...]]]:
    """The pictures at the network's size after all octaves, and what must be said of them."""
    size = (int(start.shape[2]), int(start.shape[3]))
    parts, most = [], Wanted(model, target, size).together()
    still: list[int] = []
    stopped, done, total = "", 0, OCTAVES * -(-len(start) // most)
    for at in range(0, len(start), most):
        x, random = start[at : at + most], torch.Generator().manual_seed(seed)
        wanted = Wanted(model, target, size, len(x))
        for octave, (high, wide) in enumerate(_sizes(size)):
            x = F.interpolate(x, (high, wide), mode="bicubic", align_corners=False).clamp(0, 1)
            last = octave == OCTAVES - 1
            work = Ascent(
                wanted.values,
                Pixels(model, (high, wide)),
                Stride("mean", rate / 2 if last else rate),
                steps,
                Window(spread=spread / 3 if last else spread, size=size),
                [lambda numbers, gradient, step: tv_denoised(numbers, tv).clamp(0, 1)],
                wanted.leaking,
            )
            if not stopped:
                where = f"octave {octave + 1} of {OCTAVES}"
                ended = yield from part(work.run(x, random, f"{target.label()}, {where}"), done, 1, total)
                x, done = ended.numbers, done + 1
                if ended.steps < steps:
                    stopped = f"stopped after {ended.steps} of {steps} steps of {where}"
                elif last:
                    still += (at + (ended.dead >= steps).nonzero()[:, 0]).tolist()
        parts.append(F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1))
    notes: tuple[str, ...] = (stopped,) if stopped else ()
    if still:
        notes += (f"no gradient to the end for facets {', '.join(map(str, still))}, counted from 0",)
    return torch.cat(parts), notes


def _sizes(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for octave in range(OCTAVES):
        yield round(size[0] * GROWTH**octave), round(size[1] * GROWTH**octave)


@dataclass(frozen=True)
class Window(Shake):
    """A window of that size, at a place that strays from the centre by `spread` of the room there is."""

    spread: float = 0.3
    size: tuple[int, int] = (0, 0)

    def draw(self, random: torch.Generator) -> Movement:
        """One place."""
        down, across = torch.randn(2, generator=random, dtype=torch.float64).tolist()
        return Cut(down * self.spread, across * self.spread, window=self.size)


@dataclass(frozen=True)
class Cut(Movement):
    """The window itself; `down` and `across` are shares of the room on both sides together."""

    window: tuple[int, int] = (0, 0)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, *window)."""
        at = []
        for share, side, own in zip((self.down, self.across), pixels.shape[2:], self.window, strict=True):
            room = side - own
            at.append(min(max(round(room / 2 + share * room), 0), room))
        return pixels[:, :, at[0] : at[0] + self.window[0], at[1] : at[1] + self.window[1]]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _seen(pixels: Tensor) -> Tensor:
    return pixels if pixels.shape[1] == 3 else pixels.expand(-1, 3, -1, -1)
