"""Any picture into any class: the class score is climbed until the network says so."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target, gradient, logit

from .balls import along, eight_bit, length
from .goal import Attention, Goal, Survival, class_scores, goal_of, named, refuse_flat
from .judged import judged


@method(
    title="Iterative fooling",
    chapter="adversarial",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Nguyen, Yosinski & Clune 2015, arXiv:1412.1897, sec. 2.3; Kurakin et al. 2017, arXiv:1607.02533, sec. 2.3",
    tags=Tags(family="sensitivity", level="low"),
    caveat="It shows what the network takes for a class, not what the class looks like; the change has no bound.",
    random=True,
    command="attack",
)
def iterative_fooling(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    toward: Annotated[
        str | None, "class wanted, by name or number; none: the least likely of the others"
    ] = None,
    start: Annotated[
        Literal["picture", "noise", "grey"], "what is changed: the picture, noise, or mid-grey"
    ] = "picture",
    climbs: Annotated[
        Literal["score", "log_probability"],
        "what rises: the class score, or its log-probability, which rivals lower",
    ] = "score",
    step: Annotated[
        float, Range(0, 1, open_low=True), "root mean square change of a pixel in a step; 1/255 is one level"
    ] = 0.5 / 255,
    confidence: Annotated[
        float, Range(0, 1, open_high=True), "go on until the class has this probability"
    ] = 0.0,
    steps: Annotated[int, Range(1, 10_000), "gradient steps at most"] = 200,
    survival: Survival = True,
    attention: Attention = False,
) -> Steps[Raw]:
    """The picture climbed up the score of a wanted class until its 8-bit picture is predicted as that class.

    Gives the adversarial picture (3, H, W) in [0, 1], in pixel space: x <- clip(x + step dS/dx / rms(dS/dx)), S the
    score before softmax or its log-probability. Without `toward`, of the classes but the
    target's the one that is least likely at the start.
    "noise" is even over [0, 1], the same for every picture of a batch, "grey" is 0.5; both are rounded to 8 bits, and
    the original of the result is that start. A target that is no class is lowered until it is no longer above zero.
    Cost: a backward pass a step, and a forward pass more where the class is reached. Raises `MethodRefusedError`
    where the gradient at the start is zero everywhere.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.stack([torch.full((12,), 0.6), torch.arange(12.0) / 10]))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> found = model.explain(torch.full((3, 2, 2), 0.5), "iterative_fooling", toward="1", step=0.05)
    >>> found.evidence["fooled"], found.evidence["steps"]
    (True, 4)
    """
    x = _start(x, start)
    goal = _goal(model, x, target, toward, start)
    moved, taken = x.clone(), torch.zeros(len(x), dtype=torch.int64)
    active = torch.arange(len(x), device=x.device)
    for i in range(steps):
        now = moved[active]
        now = now.detach().requires_grad_()
        own = goal.only(active)
        read = own.read(now)
        (g,) = gradient(_climbed(own, read, climbs), now)
        waiting = ~_arrived(own, x[active], now.detach(), read.detach(), confidence)
        active, g = active[waiting], g[waiting]
        if not len(active):
            break
        if i == 0:
            refuse_flat(g, goal.only(active), "climbs='log_probability'")
        rms = length(g) / g[0].numel() ** 0.5
        moved[active] = (now.detach()[waiting] + step * g / along(torch.where(rms > 0, rms, 1), g)).clamp(
            0, 1
        )
        taken[active.cpu()] += 1
        yield Progress(i + 1, steps, note=f"steps, {len(active)} of {len(x)} pictures on the way")
    return judged(
        goal,
        x,
        moved,
        survival=survival,
        attention=attention,
        evidence={"steps": taken} | _wanted(goal),
        notes=() if start == "picture" else (f"the original is {start}, not the photograph",),
    )


def _start(x: Tensor, start: str) -> Tensor:
    if start == "noise":
        noise = torch.rand(x.shape[1:], dtype=torch.float64)
        return ((255 * noise).round() / 255).to(x).expand_as(x).contiguous()
    return torch.full_like(x, 128 / 255) if start == "grey" else x


def _goal(model: VisionModel, x: Tensor, target: Target, toward: str | None, start: str) -> Goal:
    """The wanted class, given or the least likely of the others; for a start of its own the class seen there is left."""
    if start != "picture":
        with torch.no_grad():
            scores = class_scores(model, x)
        if target.alone(0).class_number is not None and scores.shape[1] > 1:
            target = logit(scores.argmax(1)).resolve(model)
    goal = goal_of(model, x, target, toward)
    if goal.toward is not None or not goal.of_classes:
        return goal
    assert goal.leave is not None
    with torch.no_grad():
        least = goal.read(x).scatter(1, goal.leave[:, None], torch.inf).argmin(1)
    return Goal(model, goal.leave, least)


def _climbed(goal: Goal, read: Tensor, climbs: str) -> Tensor:
    if goal.toward is None or climbs == "log_probability":
        return goal.loss(read)
    return read.gather(1, goal.toward[:, None])[:, 0]


def _arrived(goal: Goal, x: Tensor, moved: Tensor, read: Tensor, confidence: float) -> Tensor:
    """Which pictures may stop: the network says so, surely enough, of the 8-bit picture too."""

    def there(read: Tensor) -> Tensor:
        if goal.toward is None:
            return goal.reached(read)
        sure = read.softmax(1).gather(1, goal.toward[:, None])[:, 0] >= confidence
        return goal.reached(read) & sure

    found = there(read)
    if bool(found.any()):
        with torch.no_grad():
            found = found & there(goal.read(eight_bit(x, moved)))
    return found


def _wanted(goal: Goal) -> dict[str, Any]:
    if goal.toward is None:
        return {}
    return {"wanted": [named(goal.model, k) for k in goal.toward.tolist()]}
