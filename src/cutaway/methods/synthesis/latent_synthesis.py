"""The picture a unit or class answers to most among those that a generator can make."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import UsageError
from cutaway.core.method import GENERATOR, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target
from cutaway.nn.generators import Generator

from .ascent import Ascent, Stride
from .canvas import Code, canvas_type
from .drawn import drawing
from .wanted import Wanted, whole

RATE = 8.0
"""The published first step, for codes that are features of the sixth layer of CaffeNet."""


@method(
    title="Latent synthesis",
    chapter="synthesis",
    needs={TARGET, GENERATOR},
    gives=Picture,
    paper="Nguyen, Dosovitskiy, Yosinski, Brox & Clune 2016, arXiv:1605.09304",
    tags=Tags(family="synthesis", focus="both", level="any"),
    caveat="It shows nothing that the generator was not trained to draw, whatever the network answers to.",
    random=True,
    command="dream",
)
def latent_synthesis(
    model: VisionModel,
    target: Target,
    generator: Generator,
    *,
    steps: Annotated[int, Range(1, 10000), "steps of the ascent"] = 200,
    rate: Annotated[
        float | None,
        Range(0, 1e6, open_low=True),
        "size of the first step, falling to zero linearly; by default a fifth of the mean width of the generator's range, "
        "or the published 8 where it has none",
    ] = None,
    decay: Annotated[float, Range(0, 1), "share that every number of the code loses in a step"] = 0.01,
    penalty: Annotated[
        float, Range(0, 1e6), "weight of the squared size of the code (lambda of the paper's formula)"
    ] = 0.0,
    clip: Annotated[bool, "keep each number of the code in the generator's range"] = True,
) -> Steps[Raw]:
    """Climb the target by the code of a generator (DGN-AM): pictures (3, H, W) in [0, 1].

    The goal is S(G(y)) - penalty |y|^2, with y the code and G the generator; a step is y <- y + rate g / mean |g|,
    then y <- (1 - decay) y, then each number of y is clipped to the generator's range (for codes that are features:
    from 0 to the mean and three standard deviations). The last code is drawn, not the highest. Pictures of another
    size than the network's are resized, bilinearly. A step does not grow with the gradient, so `rate` belongs to the
    scale of the code. A hidden channel is read as the mean of its map.

    Raises `UsageError` for what is no generator, `MethodRefusedError` where nothing leads uphill.

    >>> import cutaway
    >>> from cutaway.core.method import METHODS
    >>> from cutaway.core.progress import finish
    >>> from cutaway.core.run import explain
    >>> from cutaway.zoo.generators import load_generator
    >>> given = {GENERATOR: load_generator("cutaway:scenes")}
    >>> model = cutaway.load("cutaway:scenes")
    >>> (drawn,) = finish(explain(model, METHODS["latent_synthesis"], None, "boat", {"steps": 2}, given=given))
    >>> drawn.values.shape
    (3, 112, 112)
    """
    wanted = whole(model, target)
    made = _fitted(generator, model)
    shape = _checked(made, model)
    notes = [f"drawn by {made.name}, whose code has {made.code_size} numbers"]
    if shape != wanted.size:
        notes.append(
            f"its pictures of {shape[0]} x {shape[1]} pixels were resized to {wanted.size[0]} x {wanted.size[1]}"
        )
    canvas = _Latent(model, made, wanted.size)
    low, high = (
        b.to(model.device, canvas_type(model)) for b in made.clip or (torch.zeros(0), torch.zeros(0))
    )

    first = float((high - low).mean()) / 5 if rate is None and len(low) else RATE if rate is None else rate
    wanted = replace(wanted, notes=(*wanted.notes, *notes, f"the first step is of size {first:.3g}"))

    def kept(codes: Tensor, gradient: Tensor, step: int) -> Tensor:
        codes = codes * (1 - decay)
        return codes.clamp(low, high) if clip and len(low) else codes

    def ascent(part: Wanted) -> Ascent:
        return Ascent(
            part.values,
            canvas,
            Stride("mean", lambda step: first * (1 - step / steps)),
            steps,
            after=[kept],
            revive=part.leaking,
            penalty=(lambda codes: penalty * codes.square().flatten(1).sum(1)) if penalty else None,
        )

    return (yield from drawing(wanted, canvas, ascent, spread=1))


class _Latent(Code):
    """The codes of a generator, begun where it wants, its pictures at the network's size."""

    def __init__(self, model: VisionModel, generator: Generator, size: tuple[int, int]) -> None:
        def pixels(codes: Tensor) -> Tensor:
            drawn = generator(codes)
            if tuple(drawn.shape[-2:]) != size:
                drawn = F.interpolate(drawn, size, mode="bilinear", align_corners=False, antialias=True)
            return drawn.expand(-1, model.preprocess.pixel_channels, -1, -1) if drawn.shape[1] == 1 else drawn

        super().__init__(model, generator.code_size, pixels)
        self.begin = generator.start

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """The generator's own beginnings."""
        return spread * self.begin(draws, random).to(self.model.device, canvas_type(self.model))


def _fitted(generator: Generator, model: VisionModel) -> Generator:
    """A network as a copy on the model's device, of its type (at least float32), frozen and in evaluation mode; else as it is."""
    if isinstance(generator, nn.Module):
        own = deepcopy(generator).to(model.device, canvas_type(model)).eval()
        return own.requires_grad_(False)
    return generator


def _checked(generator: Generator, model: VisionModel) -> tuple[int, int]:
    """Height and width of its pictures; raises `UsageError` where it does not keep its word."""
    accepted = (
        "name, code_size, clip, start(draws, random), and codes (n, code_size) to pixels (n, 1 or 3, h, w)"
    )
    hint = "cutaway.zoo.generators.load_generator('cutaway:scenes')"
    lacking = [n for n in ("name", "code_size", "clip", "start") if not hasattr(generator, n)]
    if lacking or not callable(generator):
        raise UsageError(
            f"a {type(generator).__name__} without {', '.join(lacking) or 'a call'} as a generator",
            accepted,
            hint,
        )
    codes = generator.start(1, torch.Generator().manual_seed(0)).to(model.device, canvas_type(model))
    if codes.shape != (1, generator.code_size):
        raise UsageError(f"the generator starts from codes {tuple(codes.shape)}", accepted, hint)
    if generator.clip is not None and any(b.shape != (generator.code_size,) for b in generator.clip):
        raise UsageError(
            f"the generator's range has shapes {[tuple(b.shape) for b in generator.clip]}", accepted, hint
        )
    with torch.no_grad():
        pixels = generator(codes)
    if pixels.ndim != 4 or len(pixels) != 1 or pixels.shape[1] not in (1, 3):
        raise UsageError(f"the generator gives {tuple(pixels.shape)} for one code", accepted, hint)
    if not bool(((pixels >= -1e-3) & (pixels <= 1 + 1e-3)).all()):
        raise UsageError(
            f"the generator's pixels reach from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}",
            "pixels in [0, 1]",
            "(pixels + 1) / 2 of a generator that ends in tanh",
        )
    return int(pixels.shape[2]), int(pixels.shape[3])
