"""The picture that a unit, a direction or a class answers to most, drawn from its spectrum."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor

from cutaway.core.method import TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target

from .ascent import Ascent, Stride
from .canvas import Canvas, Fourier, Pixels
from .drawn import drawing
from .shaking import STILL, Shake
from .variety import likeness
from .wanted import Wanted, neurons, whole

SPREAD = {"fourier": 0.01, "pixels": 0.05}
"""Standard deviation of the numbers at the start."""

FEW = 12
"""Pixels of a canvas below which a spectrum has too few numbers to make the best picture."""
SMALL = 64
"""Pixels of a canvas below which movements shrink with its side: few pixels, interpolated, are others."""


@method(
    title="Feature visualization",
    chapter="synthesis",
    needs={TARGET},
    gives=Picture,
    paper="Olah, Mordvintsev & Schubert 2017, Feature Visualization, doi:10.23915/distill.00007",
    tags=Tags(family="synthesis", focus="model", level="any"),
    caveat="It shows what raises the value most, not what the network meets in photographs; see the best patches too.",
    random=True,
    command="dream",
    leads=True,
)
def feature_visualization(
    model: VisionModel,
    target: Target,
    *,
    read: Annotated[
        Literal["neuron", "channel"],
        "of a whole channel: the neuron in the middle of its map, or the mean over the map",
    ] = "neuron",
    steps: Annotated[
        int | None, Range(1, 10000), "steps of the ascent; none: 128, or 256 on canvases below 64 pixels"
    ] = None,
    rate: Annotated[float, Range(0, 10, open_low=True), "step size of Adam"] = 0.05,
    space: Annotated[
        Literal["auto", "fourier", "pixels"],
        "what is moved: the picture's spectrum, its pixels; auto: pixels below 12 x 12, the spectrum beyond",
    ] = "auto",
    decorrelated: Annotated[bool, "colours move together as in photographs (spectrum only)"] = True,
    jitter: Annotated[float, Range(0, 0.5), "farthest shift in a step, as a share of the side"] = 0.08,
    scale: Annotated[float, Range(0, 0.5), "farthest change of size in a step, as a share"] = 0.2,
    rotate: Annotated[float, Range(0, 180), "farthest turn in a step, in degrees"] = 15.0,
    calm: Annotated[float, Range(0, 1), "share of the steps, the last ones, in which nothing is moved"] = 0.1,
    draws: Annotated[int, Range(1, 16), "different pictures for each target"] = 1,
    diversity: Annotated[
        float, Range(0, 1e6), "weight of how alike the pictures of one target are (their Gram matrices)"
    ] = 1.0,
) -> Steps[Raw]:
    """Climb the target from noise: pictures (3, H, W) in [0, 1], one for each target that is asked together.

    At every step all pictures are shifted, sized and turned alike by a random amount (less on canvases below 64
    pixels), and Adam moves the spectrum (`Fourier`), or few pixels themselves, towards a larger value of the target;
    the last steps are taken on the picture as it lies. A channel is read at one neuron, on a canvas that is just what
    the neuron sees. Several targets asked together, such as `channel(layer, torch.arange(64))`, are moved in batches;
    each picture is that of its target asked alone with the same seed. A target whose gradient is zero (a unit that a
    ReLU shuts) is revived: shut ReLUs leak a little gradient, above all that of the number before the unit's own ReLU,
    until it answers; a note says so.

    With `draws` above 1 the panels hold further pictures of each target, kept apart by `diversity` times the mean
    cosine between the Gram matrices of their activations in the target's layer, or in the layer a class activation
    map would read. `value` in the evidence is the target on the finished picture, unmoved.

    Raises `MethodRefusedError` where nothing leads uphill.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(crop=24), name="two layers")
    >>> drawn = model.explain(None, "feature_visualization", cutaway.channel("1", 2), steps=30)
    >>> drawn.values.shape, drawn.evidence["steps"]
    ((3, 3, 3), 30)
    """
    wanted = neurons(model, target) if read == "neuron" else whole(model, target)
    small = min(wanted.size) < SMALL
    steps = steps or (256 if small else 128)
    canvas: Canvas
    if space == "auto":
        space = "pixels" if min(wanted.size) < FEW else "fourier"
    if space == "fourier":
        canvas = Fourier(model, wanted.size, decorrelated=decorrelated)
    else:
        canvas = Pixels(model, wanted.size)
    after = [lambda numbers, gradient, step: numbers.clamp(0, 1)] if space == "pixels" else []
    layer = (
        wanted.target.layers[0] if wanted.target.layers else model.layers.suggest()[0] if draws > 1 else ""
    )

    part_of = min(1.0, min(wanted.size) / SMALL)
    shake = Shake(jitter * part_of, scale * part_of, rotate * part_of)

    def shaking(step: int) -> Shake:
        return shake if step < (1 - calm) * steps else STILL

    def ascent(part: Wanted) -> Ascent:
        def goal(pixels: Tensor) -> Tensor:
            if draws == 1 or not diversity:
                return part.values(pixels)
            value, maps = part.values_and_maps(pixels, layer)
            return value - diversity * likeness(maps, draws)

        return Ascent(goal, canvas, Stride("adam", rate), steps, shaking, after, part.leaking)

    return (yield from drawing(wanted, canvas, ascent, spread=SPREAD[space], draws=draws))
