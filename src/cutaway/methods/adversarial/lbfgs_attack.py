"""The attack that started it: box-constrained L-BFGS on length and loss together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import missing
from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target, gradient

from .goal import Attention, Goal, Survival, Toward, goal_of, refuse_flat
from .judged import judged

Vector = npt.NDArray[np.float64]
FALLS, HIGHEST = 12, 1e4


@method(
    title="L-BFGS attack",
    chapter="adversarial",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Szegedy et al. 2014, arXiv:1312.6199, sec. 4.1",
    tags=Tags(family="sensitivity", level="low"),
    caveat="Slow, and a local answer: a smaller change may exist; most are smaller than the rounding to 8 bits.",
    command="attack",
)
def lbfgs_attack(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    toward: Toward = None,
    c: Annotated[float, Range(0, HIGHEST, open_low=True), "weight of the length that is tried first"] = 1.0,
    searches: Annotated[int, Range(0, 60), "bisections of the weight once one succeeded and one failed"] = 4,
    steps: Annotated[int, Range(1, 10_000), "iterations of L-BFGS for each weight, at most"] = 20,
    survival: Survival = True,
    attention: Attention = False,
) -> Steps[Raw]:
    """The picture x + r with the least c ||r||^2 + loss(x + r) within [0, 1], for the largest c that still fools.

    Gives the adversarial picture (3, H, W) in [0, 1], in pixel space. With `toward` the loss is the cross-entropy of
    that class, as in the paper; without, -log(1 - p) of the class that is left, the cross-entropy of all the others
    together; of a target that is no class, log(1 + e^value). The length is squared, so that it is smooth at r = 0.
    The search: c falls tenfold until the attack succeeds, or rises tenfold while it does, and is then bisected on a
    logarithmic scale; of all pictures that fool the nearest is kept. Each picture is searched alone.
    Cost: up to `steps` backward passes for each weight, 5 to 10 weights. Raises `MethodRefusedError` where the gradient
    is zero everywhere, and `MissingDependencyError` without SciPy.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False)).double()
    >>> _ = net[1].weight.data.copy_(torch.stack([torch.full((12,), 0.6), torch.arange(12.0) / 10]))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> found = model.explain(torch.full((3, 2, 2), 0.5), "lbfgs_attack", target=0, searches=12)
    >>> found.evidence["fooled before rounding"], round(found.evidence["l2"], 2)  # 0.3 / ||w_1 - w_0||
    (True, 0.25)
    """
    goal = goal_of(model, x, target, toward)
    found: list[Search] = []
    most = len(x) * (FALLS + searches)
    yield Progress(0, most, note="weights of the length")
    for i in range(len(x)):
        search = Search(goal.only(torch.tensor([i], device=x.device)), x[i : i + 1], steps, c, searches)
        while search.once():
            yield Progress(min(i * most // len(x) + search.tried, most), most, note="weights of the length")
        found.append(search)
    return judged(
        goal,
        x,
        torch.cat([s.best for s in found]),
        survival=survival,
        attention=attention,
        evidence={
            "c": torch.tensor([s.weight for s in found], dtype=torch.float64),
            "backward passes": torch.tensor([s.passes for s in found]),
        },
    )


@dataclass
class Search:
    """The search for the weight of one picture (1, C, H, W); `best` is the nearest picture that fools."""

    goal: Goal
    x: Tensor
    steps: int
    c: float
    left: int

    def __post_init__(self) -> None:
        self.best, self.length, self.weight = self.x, np.inf, float("nan")
        self.tried = self.passes = 0
        self.works: float | None = None
        self.fails: float | None = None
        g, _ = self._loss(self.x)
        with torch.no_grad():
            self.done = bool(self.goal.reached(self.goal.read(self.x))[0])
        if not self.done:
            refuse_flat(g, self.goal, "pgd with loss='margin'")

    def once(self) -> bool:
        """Minimise for the present weight and choose the next; False when the search was over."""
        if self.done:
            return False
        self.tried += 1
        moved = self._minimum()
        with torch.no_grad():
            there = bool(self.goal.reached(self.goal.read(moved))[0])
        if there:
            self.works = self.c
            distance = float((moved - self.x).double().norm())
            if distance < self.length:
                self.best, self.length, self.weight = moved, distance, self.c
        else:
            self.fails = self.c
        self._next()
        return True

    def _next(self) -> None:
        if self.works is not None and self.fails is not None:
            self.done, self.left = self.left <= 0, self.left - 1
            self.c = (self.works * self.fails) ** 0.5
        else:
            self.c *= 10 if self.fails is None else 0.1
            self.done = self.tried >= FALLS

    def _minimum(self) -> Tensor:
        try:
            from scipy.optimize import minimize
        except ImportError as error:
            raise missing("scipy", "attack", "lbfgs_attack") from error
        start = self.x.double().cpu().numpy().ravel()

        def both(u: Vector) -> tuple[float, Vector]:
            moved = torch.from_numpy(u).view(self.x.shape).to(self.x)
            g, loss = self._loss(moved)
            r = u - start
            slope = g.double().cpu().numpy().ravel()
            return self.c * float(r @ r) + loss, 2 * self.c * r + slope

        limits: Any = [(0.0, 1.0)] * len(start)
        result = minimize(
            both, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": self.steps}
        )
        return torch.from_numpy(result.x).view(self.x.shape).to(self.x).clamp(0, 1)

    def _loss(self, moved: Tensor) -> tuple[Tensor, float]:
        """Gradient and value of the loss that is made small."""
        self.passes += 1
        moved = moved.detach().requires_grad_()
        read = self.goal.read(moved)
        if not self.goal.of_classes:
            value = F.softplus(read)
        elif self.goal.toward is not None:
            value = F.cross_entropy(read, self.goal.toward, reduction="none")
        else:
            assert self.goal.leave is not None
            others = read.scatter(1, self.goal.leave[:, None], -torch.inf)
            value = read.logsumexp(1) - others.logsumexp(1)
        (g,) = gradient(value, moved)
        return g, float(value.detach())
