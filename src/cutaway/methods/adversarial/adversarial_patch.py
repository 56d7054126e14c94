"""A patch or stickers that turn the answer wherever the world puts them: turned, moved, lit, folded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Enough, Progress, Steps
from cutaway.core.result import Picture
from cutaway.core.target import Target

from .balls import Ball, eight_bit, within
from .conditions import Conditions, Drawn, folded_from, moved_from, places, taken
from .goal import Attention, Goal, Loss, Survival, Toward, goal_of, named, refuse_flat
from .judged import judged, seen
from .levels import too_small
from .printing import Mask, mask_of, non_printability, off_palette, printable

SHOWN = 8
BETAS, ROOM = (0.9, 0.999), 1e-8  # Adam's own, Kingma & Ba 2015, arXiv:1412.6980, alg. 1


@method(
    title="Adversarial patch",
    chapter="adversarial",
    needs={IMAGE, TARGET},
    gives=Picture,
    paper="Eykholt et al. 2018, arXiv:1707.08945, eq. 3 (RP2); Brown et al. 2017, arXiv:1712.09665, sec. 2.1; "
    "Xu et al. 2020, arXiv:1910.11099, sec. 3 (cloth); Athalye et al. 2018, arXiv:1707.07397, sec. 2.1 (EOT)",
    tags=Tags(family="sensitivity", level="low"),
    caveat="Simulated conditions, one picture: a print before a camera meets others. A large patch may just hide things.",
    random=True,
    command="attack",
)
def adversarial_patch(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    toward: Toward = None,
    shape: Annotated[
        Literal["rectangle", "stickers"], "a square, or two bars one above the other"
    ] = "rectangle",
    share: Annotated[float, Range(0, 1, open_low=True), "share of the picture's area that it covers"] = 0.08,
    row: Annotated[float, Range(0, 1), "its middle, as a share of the height"] = 0.7,
    column: Annotated[float, Range(0, 1), "its middle, as a share of the width"] = 0.7,
    start: Annotated[
        Literal["picture", "grey"], "what is there at first: the picture itself, or mid-grey"
    ] = "picture",
    moves: Annotated[
        Literal["patch", "picture"],
        "what is turned, scaled, shifted and lit: the patch, or all that a camera sees",
    ] = "patch",
    rotation: Annotated[float, Range(0, 180), "degrees either way"] = 15.0,
    scale: Annotated[float, Range(0, 1, open_high=True), "share by which it grows or shrinks"] = 0.15,
    shift: Annotated[float, Range(0, 1), "share of the picture's sides by which it moves"] = 0.05,
    light: Annotated[float, Range(0, 1), "share by which it gets lighter or darker"] = 0.2,
    fold: Annotated[
        float, Range(0, 1), "cloth: standard deviation of its control points, in sides of the patch; 0: stiff"
    ] = 0.0,
    steps: Annotated[int, Range(1, 10_000), "gradient steps"] = 100,
    samples: Annotated[int, Range(1, 1000), "conditions drawn for each step"] = 4,
    rate: Annotated[float, Range(0, 10, open_low=True), "rate of Adam"] = 0.1,
    bound: Annotated[float, Range(0, 1, open_low=True), "largest change of a pixel of the patch"] = 0.5,
    size_weight: Annotated[float, Range(0, 1e6), "weight lambda of the length of the change"] = 0.02,
    print_weight: Annotated[float, Range(0, 1e12), "weight of the non-printability score"] = 1.0,
    palette: Annotated[
        str | None,
        "text file of printable colours, red, green and blue from 0 to 1 a line; none: 30 made by rule",
    ] = None,
    loss: Loss = "cross_entropy",
    trials: Annotated[int, Range(1, 10_000), "fresh conditions by which it is judged"] = 50,
    survival: Survival = True,
    attention: Attention = False,
) -> Steps[Raw]:
    """A change d under a mask M that turns the answer under random conditions T, learned by Adam.

    Minimises lambda ||M d|| + NPS(x + M d) - mean over T of L(T(x + M d)), L as `pgd` raises it: the cross-entropy of
    the class that is left, or of `toward` with the sign turned; NPS is the sum over the patch's pixels of the product
    of their distances to all printable colours. Gives the picture with the patch at rest (3, H, W) in [0, 1]; outside M
    it is the original to the bit. After each step d is clipped to `bound` and x + d to [0, 1]. T turns, scales and
    shifts either the patch alone about its middle, pasted over the picture (Brown), or the whole picture about its own
    (RP2), by bilinear reading, and multiplies its light; `fold` bends the patch before that by a thin-plate spline. The
    defaults of lambda, rate and bound are RP2's; bound=1 and start="grey" give a patch of any colour. All pictures of
    a batch meet the same conditions, which are drawn evenly.
    Judged on fresh conditions with the patch in whole 8-bit levels within `bound`, and the scene too: the share that is fooled, and
    beside it the share that the same conditions turn without any patch. Told to stop, it is judged as it stands.
    Cost: steps x samples backward passes, and 2 trials forward passes. Raises `UsageError` for a patch that reaches
    beyond the picture, `InputError` for a palette that cannot be read, and `MethodRefusedError` where the gradient is
    zero everywhere under the patch.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.stack([torch.full((48,), 0.1), torch.arange(48.0) / 250]))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> still = {"rotation": 0, "scale": 0, "shift": 0, "light": 0, "trials": 1, "steps": 5, "row": 0.5, "column": 0.5}
    >>> found = model.explain(torch.full((3, 4, 4), 0.5), "adversarial_patch", target=0, share=0.25, **still)
    >>> found.evidence["fooled"], round(found.evidence["l0 share"], 2)
    (True, 0.25)
    """
    colours = printable(palette)
    conditions = Conditions(rotation, scale, shift, light, fold)
    mask = mask_of((x.shape[2], x.shape[3]), shape, row, column, share)
    goal = goal_of(model, x, target, toward)
    scene, ball = Scene(x, mask, conditions, moves == "picture"), Ball("linf", bound)
    where = mask.where.to(x.device)
    d = torch.zeros_like(x) if start == "picture" else where * (128 / 255 - x)
    d = d.clamp(-bound, bound)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    taken_steps = 0
    for i in range(steps):
        p = (x + d).detach().requires_grad_()
        g = _climb(goal, scene, p, samples, loss)
        if i == 0:
            refuse_flat(where * g, goal)
        cost = size_weight * torch.linalg.vector_norm((where * (p - x)).flatten(1), dim=1)
        cost = cost + print_weight * non_printability(p, mask.where, colours)
        g = torch.autograd.grad(cost.sum(), p)[0] - g  # beyond the patch of no account, d is masked
        first = BETAS[0] * first + (1 - BETAS[0]) * g
        second = BETAS[1] * second + (1 - BETAS[1]) * g.square()
        ahead = (first / (1 - BETAS[0] ** (i + 1))) / ((second / (1 - BETAS[1] ** (i + 1))).sqrt() + ROOM)
        d = (d - rate * ahead).clamp(-bound, bound)
        d = where * ((x + d).clamp(0, 1) - x)
        taken_steps = i + 1
        try:
            yield Progress(i + 1, steps, scene.worn(x + d)[:SHOWN], note="steps of the patch")
        except Enough:
            break
    worn = scene.worn(x + d)
    with torch.no_grad():
        whole = eight_bit(x, worn, ball)
        facts, strip = _trials(goal, scene, whole, trials)
    facts |= {
        "steps": taken_steps,
        "pixels of the patch": int(mask.where.sum()),
        "mean distance to a printable colour": off_palette(worn, mask.where, colours),
    }
    raw = judged(
        goal,
        x,
        worn,
        ball=ball,
        survival=survival,
        attention=attention,
        evidence=facts,
        notes=too_small(bound, "bound"),
    )
    patch = RawPanel("the patch, to be printed", seen(mask.cut(whole)), "picture")
    return replace(raw, panels={**raw.panels, "patch": patch, "scenes": strip})


@dataclass(frozen=True)
class Scene:
    """Pictures x (N, C, H, W) and what may happen to a patch on them; `whole`: to the picture with it."""

    x: Tensor
    mask: Mask
    conditions: Conditions
    whole: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.x.shape[2]), int(self.x.shape[3])

    def worn(self, p: Tensor) -> Tensor:
        """The pictures with the patch of p at rest; outside the patch x to the bit."""
        return torch.where(self.mask.where.to(p.device), p.clamp(0, 1), self.x).detach()

    def draw(self, count: int) -> Drawn:
        """Conditions for `count` scenes of every picture."""
        return self.conditions.draw(count, self.size, self.mask.sides)

    def seen(self, p: Tensor, drawn: Drawn, patched: bool = True) -> Tensor:
        """The pictures (N, C, H, W) under one condition (S = 1), with the patch of p or, to compare, without."""
        where, gain = self.mask.where.to(p), drawn.gain.to(p)
        folded, moved = self.conditions.fold > 0, self.conditions.moves
        count = (len(p), -1, -1)
        there = p
        cover = where.expand(len(p), -1, -1, -1)
        if folded or (moved and not self.whole):
            origin = places(self.size)[None]
            if moved and not self.whole:
                origin = moved_from(drawn, self.size, self.mask.centre)
            if folded:
                origin = folded_from(drawn, origin, tuple(float(v) for v in self.mask.box))  # type: ignore[arg-type]
            there = taken(torch.where(where > 0, p, self.x), origin.expand(*count), "border")
            cover = taken(cover, origin.expand(*count), "zeros")
        if not self.whole:
            there = within(gain * there)
        scene = torch.lerp(self.x, there, cover) if patched else self.x
        if self.whole:
            if moved:
                middle = ((self.size[0] - 1) / 2, (self.size[1] - 1) / 2)
                scene = taken(scene, moved_from(drawn, self.size, middle).expand(*count), "border")
            scene = within(gain * scene)
        return scene


def one(drawn: Drawn, i: int) -> Drawn:
    """The i-th of some conditions."""
    return Drawn(*(v[i : i + 1] for v in (drawn.turn, drawn.shift, drawn.gain, drawn.fold)))


def _climb(goal: Goal, scene: Scene, p: Tensor, samples: int, loss: str) -> Tensor:
    """The gradient of the mean loss over fresh conditions (N, C, H, W)."""
    drawn = scene.draw(samples)
    total = torch.zeros_like(p)
    for i in range(samples):
        picture = scene.seen(p, one(drawn, i))
        at = picture.detach()
        g, _ = goal.gradient(at, loss)
        total = total + torch.autograd.grad(picture, p, g / samples)[0]
    return total


def _trials(goal: Goal, scene: Scene, whole: Tensor, trials: int) -> tuple[dict[str, Any], RawPanel]:
    """How many of fresh conditions are fooled, with the patch and without, and the first of them to look at."""
    drawn = scene.draw(trials)
    with_it, without = (torch.zeros(len(whole), dtype=torch.float64) for _ in range(2))
    shown, said = [], []
    for i in range(trials):
        pictures = [eight_bit(u, u) for u in (scene.seen(whole, one(drawn, i), b) for b in (True, False))]
        reads = [goal.read(u) for u in pictures]
        hits = [goal.reached(r).cpu() for r in reads]
        with_it, without = with_it + hits[0], without + hits[1]
        if i < SHOWN:
            shown.append(seen(pictures[0]))
            said.append((hits[0].tolist(), _labels(goal, reads[0])))
    count = len(whole)
    strip = RawPanel(
        f"under {min(SHOWN, trials)} of the conditions",
        torch.stack(shown, 1),
        "picture",
        labels=[
            {k: f"{'fooled: ' if hit[i] else ''}{labels[i]}" for k, (hit, labels) in enumerate(said)}
            for i in range(count)
        ],
        columns=4,
    )
    return {
        "fooled under fresh conditions": with_it / trials,
        "turned by the conditions alone": without / trials,
        "trials": trials,
    }, strip


def _labels(goal: Goal, read: Tensor) -> list[str]:
    if not goal.of_classes:
        return [f"{v:.3g}" for v in read.tolist()]
    return [named(goal.model, k) for k in read.argmax(1).tolist()]
