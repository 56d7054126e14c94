"""One change that turns most pictures: learned on some, judged on others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.method import DATA, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Enough, Progress, Steps, finish
from cutaway.core.result import Picture
from cutaway.data.batches import Unread, batches, left_out, none_read
from cutaway.data.folder import PictureSource

from .balls import Ball, NormName, eight_bit, within
from .deepfool import nearest
from .goal import Goal, class_scores, named, refuse_flat
from .judged import seen
from .levels import Epsilon, too_small

SHOWN = 4
CEILING = 9.0  # of the loss of one picture, Shafahi 2020, sec. 5.1


@method(
    title="Universal perturbation",
    chapter="adversarial",
    needs={DATA},
    gives=Picture,
    paper="Moosavi-Dezfooli et al. 2017, arXiv:1610.08401, alg. 1; Shafahi et al. 2020, arXiv:1811.11304, alg. 2",
    tags=Tags(family="data", focus="both", level="low"),
    caveat="Few pictures give a change that fools these and few others: only the held-out share counts.",
    random=True,
    command="attack",
)
def universal_perturbation(
    model: VisionModel,
    data: PictureSource,
    *,
    rule: Annotated[
        Literal["gradient", "deepfool"],
        "learned by steps of the batch's gradient, or by DeepFool picture by picture",
    ] = "gradient",
    norm: Annotated[
        NormName, "what is bounded: the largest change of a pixel, or the Euclidean length"
    ] = "linf",
    epsilon: Epsilon = 10 / 255,
    radius: Annotated[float, Range(0, 1e4, open_low=True), "length allowed by norm='l2'"] = 2000 / 255,
    delta: Annotated[
        float, Range(0, 1), "stop when all but this share of the pictures learned from are fooled"
    ] = 0.2,
    overshoot: Annotated[
        float, Range(0, 100), "of DeepFool beyond the boundary, as a share of the way; more survives rounding"
    ] = 0.02,
    epochs: Annotated[int, Range(1, 1000), "passes over the pictures at most"] = 10,
    batch: Annotated[int, Range(1, 4096), "pictures in a batch"] = 16,
    held_out: Annotated[float, Range(0, 0.9), "share of the pictures kept for judging, evenly spread"] = 0.25,
) -> Steps[Raw]:
    """One change v of the pixels, the same for every picture, that makes the network answer most of them otherwise.

    Gives v (1, 3, H, W), signed, in pixel space, ||v|| <= xi. "deepfool" (Moosavi-Dezfooli 2017, arXiv:1610.08401,
    alg. 1): for each picture in turn that x + v does not fool, v <- P(v + DeepFool(x + v)), 10 linearisations each.
    With few pictures that ends where each is turned by a hair, which rounding to 8 bits undoes: a larger overshoot.
    "gradient" (Shafahi 2020, arXiv:1811.11304, alg. 2): v <- P(v + step sign(sum of d min(loss, 9) / dv)) over a
    batch, in an order drawn anew each pass, steps of xi / 10 that shrink to xi / 40.
    Fooled means: the 8-bit picture of x + v has another class than x itself, whatever its true class; told for the
    pictures learned from and for the held-out ones, which the stop does not look at. The drawing amplifies v: its
    largest change is black or white. Told to stop, it is judged as it stands.
    Cost: a backward pass a picture and pass, or those of DeepFool, and two forward passes a picture for each judging.
    Raises `UsageError` for no pictures or pictures of several sizes, and for a network without classes, and
    `MethodRefusedError` where the gradient of every picture is zero everywhere.
    """
    if not len(data):
        raise UsageError("no pictures", "pictures to learn from", "another folder")
    ball = Ball(norm, epsilon if norm == "linf" else radius)
    learn, judge = split(len(data), held_out)
    v = None
    rates: list[float] = []
    unread: list[Unread] = []
    try:
        for epoch in range(epochs):
            order = [learn[i] for i in torch.randperm(len(learn)).tolist()] if rule == "gradient" else learn
            fooled = done = 0
            for part in batches(
                model, data, order, batch if rule == "gradient" else 1, workers=0, unread=unread
            ):
                x = part.pixels
                v = torch.zeros_like(x[:1]) if v is None else v
                _one_size(x, v)
                clean = _answers(model, x)
                if rule == "gradient":
                    v, hit = _climb(model, x, clean, v, ball, epoch / epochs)
                else:
                    v, hit = _follow(model, x, clean, v, ball, overshoot)
                fooled, done = fooled + hit, done + len(x)
                yield Progress(
                    epoch * len(learn) + done, epochs * len(learn), note=f"fooled {fooled} of {done}"
                )
            if v is None:
                raise none_read(unread)
            learn, judge = ([k for k in some if k not in _numbers(unread)] for some in (learn, judge))
            refuse_flat(v, Goal(model, clean), "another network, or rule='deepfool'")
            rates.append((yield from fooled_share(model, data, learn, v, ball, batch, unread)))
            if rates[-1] >= 1 - delta:
                break
        stopped = False
    except Enough:
        stopped = True
    assert v is not None
    apart = None
    if judge and not stopped:
        with suppress(Enough):
            apart = yield from fooled_share(model, data, judge, v, ball, batch, unread)
    if judge and apart is None:  # told to stop: judged without a further step
        apart = finish(fooled_share(model, data, judge, v, ball, batch, unread))
    learn, judge = ([k for k in some if k not in _numbers(unread)] for some in (learn, judge))
    apart = apart if judge else None
    shown, said = _examples(model, data, (judge or learn)[:SHOWN], v, ball)
    notes = left_out(unread) + too_small(ball.radius, "epsilon" if norm == "linf" else "radius")
    if not judge:
        notes += ("no pictures are kept for judging: the rate is of those it learned from",)
    return Raw(
        v[None].expand(-1, -1, 3, -1, -1),
        unit="change of the pixel",
        evidence={
            "fooled, learned from": rates[-1] if rates else None,
            "fooled, held out": apart,
            "pictures learned from": len(learn),
            "pictures held out": len(judge),
            "passes": len(rates),
            "fooled after each pass": tuple(rates),
            "linf": float(v.abs().max()),
            "l2": float(v.double().norm()),
            "bound": ball.radius,
            "examples": tuple(said),
        },
        notes=notes,
        panels={"examples": shown},
        extra={"scale": "tiles", "title": "the change, the same for every picture"},
    )


def split(count: int, held_out: float) -> tuple[list[int], list[int]]:
    """Numbers to learn from and to judge by, evenly spread and disjoint.

    >>> split(8, 0.25)
    ([0, 1, 2, 4, 5, 6], [3, 7])
    """
    judge = [i for i in range(count) if int((i + 1) * held_out + 1e-9) > int(i * held_out + 1e-9)]
    return [i for i in range(count) if i not in set(judge)], judge


def fooled_share(
    model: VisionModel,
    data: PictureSource,
    numbers: Sequence[int],
    v: Tensor,
    ball: Ball,
    batch: int = 16,
    unread: list[Unread] | None = None,
) -> Steps[float]:
    """Share of the pictures whose 8-bit x + v has another class than x; two forward passes each."""
    fooled = done = 0
    for part in batches(model, data, numbers, batch, workers=0, unread=unread):
        _one_size(part.pixels, v)
        now = _answers(model, eight_bit(part.pixels, (part.pixels + v).clamp(0, 1), ball))
        fooled, done = fooled + int((now != _answers(model, part.pixels)).sum()), done + len(now)
        yield Progress(done, len(numbers), note=f"judging: fooled {fooled} of {done}")
    return fooled / max(done, 1)


def _numbers(unread: Sequence[Unread]) -> set[int]:
    return {one.number for one in unread}


def _answers(model: VisionModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores = class_scores(model, x)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise UsageError("a network without two classes", "one that tells classes apart", "another network")
    return scores.argmax(1)


def _climb(
    model: VisionModel, x: Tensor, clean: Tensor, v: Tensor, ball: Ball, passed: float
) -> tuple[Tensor, int]:
    """One step of the batch's gradient, and how many pictures were fooled before it."""
    goal = Goal(model, clean)
    shared = v.detach().requires_grad_()
    read = goal.read(within(x + shared))
    loss = goal.loss(read).clamp(max=CEILING).sum()
    (g,) = torch.autograd.grad(loss, shared)
    size = ball.radius / 10 * 0.25**passed
    return ball_only(v + ball.step(g, size), ball), int(goal.reached(read.detach()).sum())


def _follow(
    model: VisionModel, x: Tensor, clean: Tensor, v: Tensor, ball: Ball, overshoot: float
) -> tuple[Tensor, int]:
    """DeepFool from x + v where that does not fool yet."""
    goal = Goal(model, clean)
    with torch.no_grad():
        there = bool(goal.reached(goal.read((x + v).clamp(0, 1)))[0])
    if there:
        return v, 1
    change, _ = finish(nearest(goal, (x + v).clamp(0, 1), overshoot, steps=10, refuse=False))
    return ball_only(v + change, ball), 0


def ball_only(v: Tensor, ball: Ball) -> Tensor:
    """The nearest change within the ball around no change at all."""
    if ball.norm == "linf":
        return v.clamp(-ball.radius, ball.radius)
    return v * min(1.0, ball.radius / max(float(v.norm()), 1e-30))


def _one_size(x: Tensor, v: Tensor) -> None:
    if x.shape[1:] != v.shape[1:]:
        raise UsageError(
            f"pictures of {tuple(v.shape[2:])} and {tuple(x.shape[2:])} pixels",
            "pictures of one size",
            'a preprocessing with "resize" and "crop"',
        )


def _examples(
    model: VisionModel, data: PictureSource, numbers: Sequence[int], v: Tensor, ball: Ball
) -> tuple[RawPanel, list[str]]:
    """The first few pictures above the same with the change, framed where it fools; and what was said of each."""
    (part,) = batches(model, data, numbers, SHOWN, workers=0)
    whole = eight_bit(part.pixels, (part.pixels + v).clamp(0, 1), ball)
    before, after = _answers(model, part.pixels).tolist(), _answers(model, whole).tolist()
    names = [named(model, k) for k in (*before, *after)]
    count = len(before)
    strip = RawPanel(
        "pictures without the change and, below, with it; framed where that fools",
        seen(torch.cat([part.pixels, whole]))[None],
        "picture",
        labels=dict(enumerate(names)),
        columns=count,
        framed=tuple(count + i for i in range(count) if before[i] != after[i]),
    )
    return strip, [f"{a} -> {b}" for a, b in zip(names[:count], names[count:], strict=True)]
