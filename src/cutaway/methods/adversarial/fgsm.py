"""The fast gradient sign method: one step along the sign of the gradient."""

from __future__ import annotations

from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Picture
from cutaway.core.target import Target

from .balls import Ball
from .goal import Attention, Goal, Loss, Survival, Toward, goal_of, refuse_flat
from .judged import judged
from .levels import Epsilon, too_small


@method(
    title="Fast gradient sign",
    chapter="adversarial",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Goodfellow, Shlens & Szegedy 2015, arXiv:1412.6572, sec. 4",
    tags=Tags(family="sensitivity", level="low"),
    caveat="One step: where it fails, a stronger attack may well succeed. It never shows that a network is robust.",
    command="attack",
)
def fgsm(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    epsilon: Epsilon = 8 / 255,
    toward: Toward = None,
    loss: Loss = "cross_entropy",
    survival: Survival = True,
    attention: Attention = False,
) -> Raw:
    """The picture moved by epsilon along the sign of the gradient: x' = clip(x + epsilon sign(dL/dx)).

    Gives the adversarial picture (3, H, W) in [0, 1], in pixel space; L is the cross-entropy of the target's class,
    which is left, or of `toward` with the sign turned. A target that is no class falls by the same step. To first
    order no other step of this size changes L more. Success is judged on the 8-bit picture.
    Cost: one backward pass. Raises `MethodRefusedError` where the gradient is zero everywhere.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.arange(12.0))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> found = model.explain(torch.full((3, 2, 2), 0.5), "fgsm", target=0, epsilon=0.1)
    >>> round(found.evidence["score before"] - found.evidence["score after"], 4)  # epsilon |w|_1
    6.6
    """
    goal = goal_of(model, x, target, toward)
    moved = sign_step(goal, x, epsilon, loss)
    return judged(
        goal,
        x,
        moved,
        ball=Ball("linf", epsilon),
        survival=survival,
        attention=attention,
        notes=too_small(epsilon),
    )


def sign_step(goal: Goal, x: Tensor, epsilon: float, loss: str = "cross_entropy") -> Tensor:
    """x' for pictures (N, C, H, W); raises `MethodRefusedError` where a gradient is zero everywhere."""
    g, _ = goal.gradient(x, loss)
    refuse_flat(g, goal)
    return (x + epsilon * g.sign()).clamp(0, 1)
