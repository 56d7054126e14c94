"""From an ascent to the pictures people get: portion by portion, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cutaway.core.method import Raw, RawPanel
from cutaway.core.model import VisionModel
from cutaway.core.progress import Steps
from cutaway.core.readers import Logit, Probability
from cutaway.core.target import Target

from .ascent import Ascent, Drawn
from .canvas import Canvas, Input
from .course import part as part_of
from .shaking import Shake
from .wanted import Wanted

TRIED = Shake(jitter=0.05, scale=0.1, rotate=0.0)
"""The movements under which a class's picture must stay one of its class."""
TRIES = 8


def drawing(
    wanted: Wanted,
    canvas: Canvas,
    ascent: Callable[[Wanted], Ascent],
    *,
    spread: float,
    draws: int = 1,
    beside: Callable[[Tensor], dict[str, RawPanel]] | None = None,
) -> Steps[Raw]:
    """Each target's picture from the same start, in portions; told `Enough`, the pictures begun so far.

    Of a canvas without limits the pictures are clipped to be seen, and the evidence says how much was. `beside` makes
    panels of the first numbers of each target.
    """
    seed = int(torch.randint(2**62, ()))
    count, model = wanted.rows, wanted.model
    pictures: list[Tensor] = []
    found: list[Drawn] = []
    starts: list[Tensor] = []
    values: list[Tensor] = []
    sure: list[Tensor] = []
    clipped: list[Tensor] = []
    done, moved = 0, False
    parts = list(wanted.portions(count, draws))
    for part in parts:
        random = torch.Generator().manual_seed(seed)
        begin = canvas.start(draws, spread, random)
        numbers = begin.repeat(part.rows // draws, *(1,) * (begin.ndim - 1))
        work = ascent(part)
        last_hope = part is parts[-1] and not moved
        steps = work.run(numbers, random, note=_named(part.named, part.rows), refuse=last_hope)
        drawn = yield from part_of(steps, done, part.rows, count * draws)
        moved = moved or not torch.equal(drawn.numbers, numbers)
        if not drawn.steps and found:
            break
        done += part.rows
        with torch.no_grad():
            starts.append(part.values(canvas.pixels(numbers)))
            free = canvas.pixels(drawn.numbers)
            pixels = free.clamp(0, 1)
            clipped.append((free != pixels).any(1).flatten(1).to(free).mean(1).cpu())
            values.append(part.values(free))
            sure.append(_sureness(model, part.target, pixels))
        pictures.append(pixels)
        found.append(drawn)
        if drawn.steps < work.steps:
            break
    every = _seen(torch.cat(pictures))
    every = every.view(-1, draws, *every.shape[1:])
    value, dead = torch.cat(values).view(-1, draws), torch.cat([d.dead for d in found]).view(-1, draws)
    taken = torch.cat([torch.full_like(d.dead, d.steps) for d in found]).view(-1, draws)
    evidence: dict[str, Any] = {
        "value": value[:, 0],
        "value at the start": torch.cat(starts).view(-1, draws)[:, 0],
        "steps": taken[:, 0],
        "dead steps": dead[:, 0],
    }
    if all(len(s) for s in sure):
        evidence["probability when moved"] = torch.cat(sure).view(-1, draws)[:, 0]
    if isinstance(canvas, Input):
        evidence["share clipped"] = torch.cat(clipped).view(-1, draws)[:, 0]
    if draws > 1:
        evidence["values"] = [row.tolist() for row in value]
    notes = (*wanted.notes, *_said(dead, taken, wanted.named, len(every), count))
    if found[-1].steps < work.steps:
        which = f"the last {len(found[-1].dead) // draws} " if len(found) > 1 else ""
        notes += (f"{which}stopped after {found[-1].steps} of {work.steps} steps",)
    panels = beside(torch.cat([d.numbers for d in found])[::draws]) if beside else {}
    if draws > 1:
        panels["draws"] = RawPanel("further pictures of the same target", every[:, 1:], "picture")
    return Raw(
        every[:, 0],
        signed=False,
        unit="pixels in [0, 1]",
        layer=", ".join(wanted.target.layers) or None,
        evidence=evidence,
        notes=notes,
        panels=panels,
        extra={"scale": "picture"},
    )


def _sureness(model: VisionModel, target: Target, pixels: Tensor) -> Tensor:
    """The mean probability of each picture's class under small movements; nothing for other targets."""
    (_, reader), *more = target.terms
    if more or not isinstance(reader, Logit | Probability):
        return pixels.new_zeros(0)
    asked, random = Target(((1.0, Probability(reader.index)),)), torch.Generator().manual_seed(0)
    scores = [model(TRIED.draw(random)(pixels).to(model.dtype)) for _ in range(TRIES)]
    if scores[0].ndim != 2:  # on maps of scores a class has no one probability
        return pixels.new_zeros(0)
    return torch.stack([asked.read({None: s}) for s in scores]).mean(0)


def _seen(pixels: Tensor) -> Tensor:
    return pixels if pixels.shape[1] == 3 else pixels.expand(-1, 3, -1, -1)


def _named(target: Target, rows: int) -> str:
    return target.label() + (f" and {rows - 1} more" if rows > 1 else "")


def _said(dead: Tensor, taken: Tensor, target: Target, made: int, asked: int) -> tuple[str, ...]:
    """What a reader must know of pictures that were dead, or never begun."""
    notes = []
    first, steps = dead.amax(1), taken[:, 0]
    for rows, what in (
        (
            (first > 0) & (first < steps),
            "shut at the start: ReLUs leaked a little gradient until it answered",
        ),
        (
            (first > 0) & (first >= steps),
            "without a gradient to the end: the picture follows at most what shut ReLUs leaked",
        ),
    ):
        if bool(rows.any()):
            names = [target.label(int(i)) for i in rows.nonzero()[:, 0]]
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            notes.append(f"{', '.join(names[:4])}{more} {'were' if len(names) > 1 else 'was'} {what}")
    if made < asked:
        notes.append(f"stopped after {made} of {asked} pictures")
    return tuple(notes)
