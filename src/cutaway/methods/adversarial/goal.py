"""What an attack is after: another class, one class, or a target driven below zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.target import Target, as_target, gradient, score

Loss = Annotated[
    Literal["cross_entropy", "margin"],
    "what is raised: cross-entropy, or the margin of the scores, which no softmax saturates",
]
Toward = Annotated[str | None, "class wanted, by name or number, every picture's; none: any but the target's"]
Survival = Annotated[bool, "also ask what JPEG, a blur and a shift leave of it: six forward passes"]
Attention = Annotated[bool, "also show where Grad-CAM looks before and after"]


@dataclass(frozen=True)
class Goal:
    """What an attack on N pictures wants, and how far it is.

    `leave` and `toward` are class numbers (N,), or None. A target that is no class (a unit, a difference, a function)
    has neither: it counts as a binary classifier whose answer is the sign of its value, and `targets` holds each
    picture's own; `shared` says that all are the same.
    """

    model: VisionModel
    leave: Tensor | None = None
    toward: Tensor | None = None
    targets: tuple[Target, ...] = ()
    shared: bool = True

    @property
    def of_classes(self) -> bool:
        """Whether it is about class scores."""
        return self.leave is not None or self.toward is not None

    def only(self, chosen: Tensor) -> Goal:
        """The goal of some pictures, by their numbers (n,)."""
        own = tuple(self.targets[int(i)] for i in chosen) if self.targets else ()
        leave, toward = (None if c is None else c[chosen] for c in (self.leave, self.toward))
        return replace(self, leave=leave, toward=toward, targets=own)

    def read(self, x: Tensor) -> Tensor:
        """Class scores (N, K), or the target's values (N,) where it is no class; one forward pass."""
        if self.of_classes:
            return class_scores(self.model, x)
        if self.shared:
            return score(self.model, x, self.targets[0])
        return torch.cat([score(self.model, x[i : i + 1], t) for i, t in enumerate(self.targets)])

    def loss(self, read: Tensor, kind: str = "cross_entropy") -> Tensor:
        """(N,), what an attack raises; of a target that is no class, its value with the sign turned."""
        if not self.of_classes:
            return -read
        wanted = self.leave if self.toward is None else self.toward
        assert wanted is not None
        away = 1 if self.toward is None else -1
        if kind == "cross_entropy":
            return away * F.cross_entropy(read, wanted, reduction="none")
        return away * (_strongest_other(read, wanted) - read.gather(1, wanted[:, None])[:, 0])

    def reached(self, read: Tensor) -> Tensor:
        """Which pictures are where the attack wants them, (N,) of bool."""
        if not self.of_classes:
            return read <= 0
        answer = read.argmax(1)
        if self.toward is not None:
            return answer == self.toward
        assert self.leave is not None
        return answer != self.leave

    def gradient(self, x: Tensor, kind: str = "cross_entropy") -> tuple[Tensor, Tensor]:
        """d loss / d pixel (N, C, H, W) and what was read; one forward and one backward pass."""
        x = x.detach().requires_grad_()
        read = self.read(x)
        (g,) = gradient(self.loss(read, kind), x)
        return g, read.detach()


def class_scores(model: VisionModel, x: Tensor) -> Tensor:
    """(N, K); maps of scores are summed over positions, as a logit reads them."""
    out = model(x)
    return out.flatten(2).sum(2) if out.ndim > 2 else out


def goal_of(model: VisionModel, x: Tensor, target: Target, toward: str | None = None) -> Goal:
    """What the target and `toward` ask for these pictures; one forward pass.

    Raises `UsageError` for `toward` beside a target that is no class, `UnknownNameError` for a class that does not
    exist, and `MethodRefusedError` for a picture that is there already.
    """
    with torch.no_grad():
        scores = class_scores(model, x)
    single = scores.ndim != 2 or scores.shape[1] < 2
    own = tuple(target.alone(i) for i in range(len(x)))
    classes = [t.class_number if t.terms[0][0] > 0 else None for t in own]
    if single or None in classes:
        if toward is not None:
            raise UsageError(
                f"toward={toward!r} with {target.label()}, which is no class",
                "toward beside a class as the target",
                "toward=None: the target's value is lowered through zero",
            )
        return Goal(model, targets=own, shared=target.count is None)
    leave = torch.tensor(classes, device=x.device)
    _in_range(int(leave.max()), scores)
    if toward is None:
        return Goal(model, leave)
    wanted = as_target(toward).resolve(model).class_number
    assert wanted is not None
    _in_range(wanted, scores)
    there = [
        i
        for i, (k, now) in enumerate(zip(classes, scores.argmax(1).tolist(), strict=True))
        if wanted in (k, now)
    ]
    if there:
        raise MethodRefusedError(
            f"picture {there[0] + 1} is {named(model, wanted)} already: toward is its present class or the target",
            "another class than the picture has and the target names",
            f"toward={_second(scores[there[0]], wanted)}",
        )
    return Goal(model, leave, torch.full_like(leave, wanted))


def refuse_flat(g: Tensor, goal: Goal, hint: str = "loss='margin'") -> None:
    """Raise `MethodRefusedError` where the gradient of a picture is zero everywhere."""
    flat = (g.flatten(1) == 0).all(1)
    if bool(flat.any()):
        raise MethodRefusedError(
            f"the gradient is zero everywhere at picture {int(flat.nonzero()[0]) + 1}: saturated softmax, or a unit that is off?",
            "a loss that moves with the pixels",
            hint if goal.of_classes else "a target that is active",
        )


def named(model: VisionModel, k: int) -> str:
    """A class as a person reads it: its number, and its name where it has one."""
    return f"{k} {model.classes[k]!r}" if k < len(model.classes) else f"class {k}"


def _strongest_other(scores: Tensor, k: Tensor) -> Tensor:
    return scores.scatter(1, k[:, None], -torch.inf).amax(1)


def _second(scores: Tensor, k: int) -> int:
    first, second = scores.topk(2).indices.tolist()
    return int(second if first == k else first)


def _in_range(k: int, scores: Tensor) -> None:
    if not 0 <= k < scores.shape[1]:
        raise UsageError(f"class {k}", f"0 to {scores.shape[1] - 1}", f"{scores.shape[1] - 1}")
