"""How many pictures an attack turns, against the strength it is allowed."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.method import DATA, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Enough, Progress, Steps
from cutaway.core.result import Curves
from cutaway.data.batches import Unread, batches, left_out, none_read
from cutaway.data.folder import PictureSource

from .balls import Ball, eight_bit
from .goal import Goal, class_scores

MOST = 255.0


@method(
    title="Attack strength",
    chapter="adversarial",
    needs={DATA},
    gives=Curves,
    paper="Madry et al. 2018, arXiv:1706.06083, fig. 6 (accuracy against the bound, by PGD)",
    tags=Tags(family="data", focus="both", level="low"),
    caveat="A lower bound: what these attacks do not turn another may. Shares of few pictures are coarse.",
    command="attack",
)
def attack_strength(
    model: VisionModel,
    data: PictureSource,
    *,
    attacks: Annotated[
        Literal["both", "fgsm", "pgd"], "one step of the gradient's sign, many, or both"
    ] = "both",
    levels: Annotated[
        str, "bounds on the change of a pixel in 8-bit levels, rising, joined by commas"
    ] = "1,2,4,8,16",
    steps: Annotated[int, Range(1, 10_000), "gradient steps of PGD"] = 10,
    batch: Annotated[int, Range(1, 4096), "pictures in a batch"] = 16,
) -> Steps[Raw]:
    """Share of the pictures that an attack turns within each bound on the largest change of a pixel.

    Gives one line an attack, (attacks, 1 + bounds), over 0 and the bounds. The class to be left is the picture's label
    where the data has one, else the class predicted; pictures that are wrong from the start are left out and counted
    apart.
    FGSM takes one step of the bound, PGD `steps` of 2.5 bound / steps from the picture itself, without a random start,
    both up the cross-entropy; fooled means the 8-bit picture, which keeps the bound. A picture whose gradient is zero
    stays as it is and counts as not fooled; how many did is told. Told to stop, it counts the batches done so far.
    Cost: 1 + `steps` backward passes a picture and bound, and one a picture. Raises `UsageError` for bounds that are
    no rising numbers above 0 up to 255, for a network without classes, and where no picture is right from the start.
    """
    bounds = [0.0, *_bounds(levels)]
    kinds: tuple[str, ...] = ("fgsm", "pgd") if attacks == "both" else (attacks,)
    fooled = np.zeros((len(kinds), len(bounds)))
    counted = wrong = flat = 0
    points = len(bounds) * len(kinds)
    unread: list[Unread] = []
    try:
        for part in batches(model, data, range(len(data)), batch, workers=0, unread=unread):
            x, goal = _right(model, part.pixels, part.labels)
            untouched = int((goal.gradient(x)[0].flatten(1) == 0).all(1).sum()) if len(x) else 0
            turned, before = np.zeros_like(fooled), counted + wrong
            for (a, kind), (i, bound) in product(enumerate(kinds), enumerate(bounds)):
                if len(x):
                    turned[a, i] = _fooled(goal, x, bound / 255, 1 if kind == "fgsm" else steps)
                done = before * points + (a * len(bounds) + i + 1) * len(part.pixels)
                yield Progress(done, len(data) * points, note=f"{kind}, bound {bound:g}/255")
            fooled, counted = fooled + turned, counted + len(x)
            flat += untouched
            wrong += len(part.pixels) - len(x)
    except Enough:
        if not counted + wrong:
            raise
    if not counted + wrong:
        raise none_read(unread)
    if not counted:
        raise UsageError(
            f"none of {wrong} pictures that the network gets right",
            "pictures of its classes",
            "other labels",
        )
    seen = counted + wrong
    notes = left_out(unread)
    if seen + len(unread) < len(data):
        notes += (f"stopped after {seen} of {len(data)} pictures",)
    if wrong:
        notes += (f"{wrong} of {seen} pictures were wrong from the start and are left out",)
    if flat:
        notes += (
            f"the gradient is zero everywhere in {flat} of {counted} pictures (saturated softmax?): they were not "
            "attacked at all, and count as not fooled",
        )
    return Raw(
        torch.from_numpy(fooled / counted)[None],
        signed=False,
        unit="share of pictures fooled",
        evidence={
            "pictures counted": counted,
            "pictures wrong from the start": wrong,
            "pictures without a gradient": flat,
        },
        notes=notes,
        extra={
            "x": np.array(bounds),
            "names": tuple({"fgsm": "FGSM", "pgd": f"PGD, {steps} steps"}[kind] for kind in kinds),
            "x_label": "largest change of a pixel, in 8-bit levels",
            "y_label": f"share fooled of {counted} pictures",
        },
    )


def _bounds(levels: str) -> list[float]:
    try:
        found = [float(part) for part in levels.split(",")]
    except ValueError:
        found = []
    if not found or not all(a < b for a, b in pairwise([0.0, *found])) or found[-1] > MOST:
        raise UsageError(
            f"levels={levels!r}", "rising numbers above 0, at most 255, joined by commas", "levels=1,2,4"
        )
    return found


def _right(model: VisionModel, x: Tensor, labels: Tensor) -> tuple[Tensor, Goal]:
    """The pictures whose class is right, and the goal to leave it."""
    with torch.no_grad():
        scores = class_scores(model, x)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise UsageError("a network without two classes", "one that tells classes apart", "another network")
    now = scores.argmax(1)
    labels = labels.to(now.device)
    right = (labels == now) | (labels < 0)
    return x[right], Goal(model, now[right])


def _fooled(goal: Goal, x: Tensor, epsilon: float, steps: int) -> int:
    ball = Ball("linf", epsilon)
    size = epsilon if steps == 1 else 2.5 * epsilon / steps
    moved = x
    for _ in range(steps if epsilon > 0 else 0):
        g, _ = goal.gradient(moved)
        moved = ball.project(moved + ball.step(g, size), x)
    with torch.no_grad():
        return int(goal.reached(goal.read(eight_bit(x, moved, ball))).sum())
