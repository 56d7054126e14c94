"""Projected gradient descent: many small steps, each brought back into the ball."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target

from .balls import Ball, NormName
from .goal import Attention, Goal, Loss, Survival, Toward, goal_of, refuse_flat
from .judged import judged
from .levels import Epsilon, too_small


@method(
    title="Projected gradient descent",
    chapter="adversarial",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Madry et al. 2018, arXiv:1706.06083, sec. 2.1 (steps of 2.5 epsilon / steps: app. A)",
    tags=Tags(family="sensitivity", level="low"),
    caveat="A picture that it does not turn may still be turned by more steps, restarts or another attack.",
    random=True,
    command="attack",
    leads=True,
)
def pgd(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    norm: Annotated[
        NormName, "what is bounded: the largest change of a pixel, or the Euclidean length"
    ] = "linf",
    epsilon: Epsilon = 8 / 255,
    radius: Annotated[
        float | None,
        Range(0, 1e4, open_low=True),
        "length allowed by norm='l2'; none: 3 at 3 x 224 x 224, in proportion to the root of the numbers elsewhere",
    ] = None,
    steps: Annotated[int, Range(1, 10_000), "gradient steps"] = 10,
    step: Annotated[
        float | None,
        Range(0, 1e4, open_low=True),
        "length of a step; none: 2.5 bound / steps, 2/255 by default",
    ] = None,
    random_start: Annotated[bool, "start at a random point of the ball rather than at the picture"] = True,
    restarts: Annotated[
        int, Range(1, 1000), "starts; of several the first that succeeds, else the largest loss"
    ] = 1,
    toward: Toward = None,
    loss: Loss = "cross_entropy",
    survival: Survival = True,
    attention: Attention = False,
) -> Steps[Raw]:
    """The picture after repeated steps up the loss, each projected: x <- P(x + step sign(dL/dx)).

    Gives the adversarial picture (3, H, W) in [0, 1], in pixel space, where P cuts to the ball around the original
    and to [0, 1]; with norm="l2" the step is along the gradient itself, of fixed length. L as in `fgsm`. No early
    stop: all steps are taken. The random starts are the same displacement for every picture of a batch. Success is
    judged on the 8-bit picture, which obeys the bound to the last bit.
    Cost: `steps` backward passes a start. Raises `MethodRefusedError` where the gradient at the start is zero.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.arange(12.0))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> options = {"norm": "l2", "radius": 0.1, "random_start": False}
    >>> found = model.explain(torch.full((3, 2, 2), 0.5), "pgd", target=0, **options)
    >>> round(found.evidence["score before"] - found.evidence["score after"], 4)  # radius |w|_2
    2.2494
    """
    goal = goal_of(model, x, target, toward)
    length = radius if radius is not None else 3 * (x[0].numel() / (3 * 224 * 224)) ** 0.5
    ball = Ball(norm, epsilon if norm == "linf" else length)
    size = step if step is not None else 2.5 * ball.radius / steps
    best, reached, raised = x, torch.zeros(len(x), dtype=torch.bool), torch.full((len(x),), -torch.inf)
    for start in range(restarts):
        moved = ball.random(x) if random_start else x
        for i in range(steps):
            moved = climb(goal, x, moved, ball, size, loss, check=start == i == 0)
            yield Progress(start * steps + i + 1, restarts * steps, note="steps up the loss")
        if restarts == 1:
            best = moved
            break
        with torch.no_grad():
            read = goal.read(moved)
            there, now = goal.reached(read).cpu(), goal.loss(read, loss).cpu()
        better = ~reached & (there | (now > raised))
        best = torch.where(better.to(x.device).view(-1, 1, 1, 1), moved, best)
        reached, raised = reached | there, torch.where(better, now, raised)
    return judged(
        goal,
        x,
        best,
        ball=ball,
        survival=survival,
        attention=attention,
        evidence={"bound": ball.radius, "step": size, "backward passes": steps * restarts},
        notes=too_small(ball.radius, "epsilon" if norm == "linf" else "radius"),
    )


def climb(
    goal: Goal, x: Tensor, moved: Tensor, ball: Ball, size: float, loss: str, *, check: bool = False
) -> Tensor:
    """One projected step; with `check`, a gradient that is zero everywhere raises `MethodRefusedError`."""
    g, _ = goal.gradient(moved, loss)
    if check:
        refuse_flat(g, goal)
    return ball.project(moved + ball.step(g, size), x)
