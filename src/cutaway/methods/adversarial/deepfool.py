"""DeepFool: the nearest boundary between classes, by steps that are exact where scores are linear."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target, slopes

from .balls import along, length
from .goal import Attention, Goal, Survival, goal_of, refuse_flat
from .judged import judged


@method(
    title="DeepFool",
    chapter="adversarial",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Moosavi-Dezfooli, Fawzi & Frossard 2016, arXiv:1511.04599, alg. 1 and 2",
    tags=Tags(family="sensitivity", level="low"),
    caveat="The change is near the smallest, seldom the smallest, and mostly smaller than the rounding to 8 bits.",
    command="attack",
)
def deepfool(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    overshoot: Annotated[float, Range(0, 10), "how far beyond the boundary, as a share of the way"] = 0.02,
    classes: Annotated[int, Range(2, 10_000), "classes in the race, the most probable ones"] = 10,
    steps: Annotated[int, Range(1, 1000), "linearisations at most"] = 50,
    survival: Survival = True,
    attention: Attention = False,
) -> Steps[Raw]:
    """The picture moved to the nearest boundary of its class, the scores taken as linear again at every step.

    Gives the adversarial picture (3, H, W) in [0, 1], in pixel space. With f_k the scores and w_k their gradients, each
    step goes to the class k that minimises |f_k - f_0| / ||w_k - w_0||, by r = |f_k - f_0| (w_k - w_0) /
    ||w_k - w_0||^2 (eq. 8); the picture is clip(x + (1 + overshoot) sum r). A target that is no class is a binary
    classifier by its sign: r = -f w / ||w||^2 (alg. 1). On a linear network one step is exact. `rho` is ||r|| / ||x||
    with the overshoot, as the paper measures robustness. What rounding to 8 bits undoes is said, with the factor that
    survives it.
    Cost: `classes` - 1 backward passes a step, with one forward pass for them all; pictures that are there drop out.
    Raises `MethodRefusedError` where the score differences have no gradient.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.stack([torch.full((12,), 0.6), torch.arange(12.0) / 10]))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> found = model.explain(torch.full((3, 2, 2), 0.5), "deepfool", target=0)
    >>> round(found.evidence["l2"], 4), found.evidence["steps"]  # 1.02 |f| / ||w_1 - w_0||, |f| = 0.3
    (0.2532, 1)
    """
    goal = goal_of(model, x, target)
    change, taken = yield from nearest(goal, x, overshoot, classes, steps)
    moved = (x + change).clamp(0, 1)
    sizes = length(moved - x)
    return judged(
        goal,
        x,
        moved,
        survival=survival,
        attention=attention,
        evidence={"steps": taken, "rho": sizes / length(x).clamp(min=1e-30)},
    )


def nearest(
    goal: Goal, x: Tensor, overshoot: float = 0.02, classes: int = 10, steps: int = 50, *, refuse: bool = True
) -> Steps[tuple[Tensor, Tensor]]:
    """The change (N, C, H, W) with its overshoot, not clipped, and how many steps each picture took (N,).

    Where the score differences have no gradient it raises `MethodRefusedError`, or goes no further unless `refuse`.
    """
    total, taken = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.int64)
    yield Progress(0, steps, note="linearisations")
    rivals = _rivals(goal, x, classes)
    active = torch.arange(len(x), device=x.device)
    for i in range(steps):
        own = goal.only(active)
        now = (x[active] + (1 + overshoot) * total[active]).clamp(0, 1).detach().requires_grad_()
        read = own.read(now)
        waiting = ~own.reached(read.detach())
        if not bool(waiting.any()):
            break
        r = _to_boundary(own, now, read, None if rivals is None else rivals[active], waiting, refuse)
        active = active[waiting]
        total[active] += r[waiting]
        taken[active.cpu()] += 1
        yield Progress(i + 1, steps, note=f"linearisations, {len(active)} of {len(x)} pictures on the way")
    return (1 + overshoot) * total, taken


def _rivals(goal: Goal, x: Tensor, classes: int) -> Tensor | None:
    """The most probable classes but the one that is left (N, K), as they stand before anything is changed."""
    if goal.leave is None:
        return None
    with torch.no_grad():
        scores = goal.read(x).scatter(1, goal.leave[:, None], -torch.inf)
    return scores.topk(min(classes, scores.shape[1]) - 1).indices


def _to_boundary(
    goal: Goal, now: Tensor, read: Tensor, rivals: Tensor | None, waiting: Tensor, refuse: bool
) -> Tensor:
    """The step r to the nearest linearised boundary, (N, C, H, W)."""
    if rivals is None:
        gaps = -read[:, None]
    else:
        assert goal.leave is not None
        gaps = read.gather(1, rivals) - read.gather(1, goal.leave[:, None])
    best, r = torch.full_like(gaps[:, 0], torch.inf).detach(), torch.zeros_like(now)
    for k in range(gaps.shape[1]):
        (w,) = slopes(gaps[:, k], now, keep=k + 1 < gaps.shape[1])
        if w is None:
            continue
        size = length(w)
        distance = torch.where(size > 0, gaps[:, k].detach().abs() / size, torch.inf)
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        step = w * along(gaps[:, k].detach().abs() / torch.where(size > 0, size, 1) ** 2, w)
        r = torch.where(along(nearer, r), step, r)
    if refuse:
        refuse_flat(torch.where(along(waiting & best.isinf(), r), 0, 1 + r.abs()), goal, "another target")
    return r.detach()
