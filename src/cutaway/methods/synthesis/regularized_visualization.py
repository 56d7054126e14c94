"""The picture a unit or class answers to most, kept quiet by decay, blur and two kinds of clipping."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from torch import Tensor

from cutaway.core.method import TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target

from .ascent import Ascent, Stride
from .canvas import Levels
from .drawn import drawing
from .regularizers import blurred, without_small
from .wanted import Wanted, neurons

NOISE = 10.0
"""Standard deviation of the start around the mean colour, of 0 to 255."""
WEAK = 0.3
"""Below this radius a blur does next to nothing."""


@dataclass(frozen=True)
class Quiet:
    """One combination: decay, blur (radius in pixels, every so many steps), percentiles, rate, and steps.

    With `progress` above 0 the rate is that which would raise the target by it if it were linear, `rate` at most.
    """

    decay: float = 0.0
    blur_radius: float = 0.0
    blur_every: int = 0
    norm_percentile: float = 0.0
    contribution_percentile: float = 0.0
    progress: float = 0.0
    rate: float = 100.0
    steps: int = 500

    def kept(self, canvas: Levels, numbers: Tensor, gradient: Tensor, step: int) -> Tensor:
        """The numbers after a step, as the next one starts from them."""
        x = numbers * (1 - self.decay)
        if self.blur_every and step % self.blur_every == 0:
            x = blurred(x, self.blur_radius)
        x = without_small(x, x.square().sum(1).sqrt(), self.norm_percentile)
        x = without_small(x, (x * gradient).sum(1).abs(), self.contribution_percentile)
        return canvas.kept(x)


PUBLISHED = {
    "blur_and_norm": Quiet(blur_radius=0.5, blur_every=4, norm_percentile=50, progress=2),
    "decay_and_norm": Quiet(decay=0.3, norm_percentile=20, steps=750),
    "blur_and_decay": Quiet(decay=1e-4, blur_radius=1.0, blur_every=4, steps=1000),
    "blur_and_contribution": Quiet(
        blur_radius=0.5, blur_every=4, contribution_percentile=90, progress=2, steps=1000
    ),
}


@method(
    title="Regularized visualization",
    chapter="synthesis",
    needs={TARGET},
    gives=Picture,
    paper="Yosinski, Clune, Nguyen, Fuchs & Lipson 2015, arXiv:1506.06579",
    tags=Tags(family="synthesis", focus="model", level="any"),
    caveat="The four settings draw the same unit very differently: what is smooth or sparse in it was put there.",
    random=True,
    command="dream",
)
def regularized_visualization(
    model: VisionModel,
    target: Target,
    *,
    settings: Annotated[
        Literal["blur_and_norm", "decay_and_norm", "blur_and_decay", "blur_and_contribution"],
        "one of the four published combinations; the numbers below replace its own",
    ] = "blur_and_decay",
    decay: Annotated[float | None, Range(0, 1), "share that every number loses in a step"] = None,
    blur_radius: Annotated[
        float | None, Range(0, 100), "standard deviation of the blur in pixels, 0 or at least 0.3"
    ] = None,
    blur_every: Annotated[int | None, Range(0, 10000), "steps from one blur to the next, 0 for none"] = None,
    norm_percentile: Annotated[
        float | None, Range(0, 100), "pixels whose norm over the colours is below it become the mean colour"
    ] = None,
    contribution_percentile: Annotated[
        float | None,
        Range(0, 100),
        "pixels whose |colours times gradient| is below it become the mean colour",
    ] = None,
    progress: Annotated[
        float | None, Range(0, 1e6), "wished rise of the target in a step, 0 for a constant rate"
    ] = None,
    rate: Annotated[float | None, Range(0, 1e9, open_low=True), "step size, or the largest one"] = None,
    steps: Annotated[int | None, Range(1, 100000), "steps of the ascent"] = None,
) -> Steps[Raw]:
    """Climb the target from the mean colour and noise: pictures (3, H, W) in [0, 1], quietened behind every step.

    x are pixels of 0 to 255 less the network's mean colour. A step is x <- x + rate da/dx, where a is the target, and
    then in this order x <- (1 - decay) x; a Gaussian blur; zeros where the norm of a pixel over its colours is below
    a percentile of the picture; zeros where |sum over colours of x da/dx| is; x clipped to the range of pixels. It
    starts from N(0, 10). The published rates are for CaffeNet; where the picture stays grey, a larger `rate` is needed
    (1e5 with "blur_and_decay" for the logits of SqueezeNet). With `progress` the rate is
    progress / |da/dx|^2, `rate` at most. A hidden channel is read at one neuron, on a canvas that is just what it
    sees.

    Raises `MethodRefusedError` where the gradient is exactly zero at the start, as of a dead unit.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(crop=24, mean=(0.5,) * 3), name="two layers")
    >>> drawn = model.explain(None, "regularized_visualization", cutaway.channel("2", 1), steps=9)
    >>> drawn.values.shape, drawn.evidence["steps"]
    ((3, 5, 5), 9)
    """
    given = {
        "decay": decay,
        "blur_radius": blur_radius,
        "blur_every": blur_every,
        "norm_percentile": norm_percentile,
        "contribution_percentile": contribution_percentile,
        "progress": progress,
        "rate": rate,
        "steps": steps,
    }
    quiet = replace(PUBLISHED[settings], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    wanted = neurons(model, target)
    canvas = Levels(model, wanted.size)
    if quiet.blur_every and 0 < quiet.blur_radius < WEAK:
        weak = f"a blur of radius {quiet.blur_radius:g} does next to nothing: 0, or at least {WEAK:g}"
        wanted = replace(wanted, notes=(*wanted.notes, weak))
    rule: Literal["progress", "gradient"] = "progress" if quiet.progress else "gradient"

    def ascent(part: Wanted) -> Ascent:
        return Ascent(
            part.values,
            canvas,
            Stride(rule, quiet.rate, progress=quiet.progress),
            quiet.steps,
            after=[lambda numbers, gradient, step: quiet.kept(canvas, numbers, gradient, step)],
            revive=part.leaking,
        )

    return (yield from drawing(wanted, canvas, ascent, spread=NOISE))
