"""Integrated gradients: every gradient between a picture without the answer and the picture itself, added up."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .baselines import Baseline, baseline_of
from .gates import CURVED, KINKED
from .portions import portion
from .refine import Cut, adaptive, exact
from .segments import Line, Node

SMALL = 4096
"""Numbers in a picture (colours x height x width) up to which `rule="auto"` looks for every kink."""
SMOOTH = 32
"""Gauss-Legendre nodes that `rule="auto"` gives a smooth network."""
AT_ONCE = 1
"""Segments the adaptive rule halves before it looks again; more would spend evaluations it may not need."""


@method(
    title="Integrated gradients",
    chapter="gradient",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Sundararajan, Taly & Yan 2017, arXiv:1703.01365, eq. 1",
    tags=Tags(family="decomposition", level="high"),
    caveat="It answers compared with what: pixels that equal the baseline get nothing, whatever they mean.",
    laws={"class sensitive", "weights sensitive"},
)
def integrated_gradients(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    baseline: Baseline = "black",
    rule: Annotated[
        Literal["auto", "exact", "adaptive", "gauss"],
        "find every kink, halve where the residual is largest, or Gauss-Legendre; auto says which it took",
    ] = "auto",
    steps: Annotated[int, Range(2, 5000), "evaluations (forward and backward) per picture at most"] = 200,
    tolerance: Annotated[
        float, Range(0, 1), "completeness residual that is good enough, as a share of the score difference"
    ] = 0.01,
    reduce: Annotated[Literal["sum", "rgb"], "sum the colours, or keep them"] = "sum",
) -> Steps[Raw]:
    """How much each pixel contributes to the score's rise from the baseline to the picture.

    Pixel space: phi_i = (u_i - u'_i) int_0^1 dS/du_i (u' + a (u - u')) da (Sundararajan 2017, eq. 1), signed, in
    units of the target; the sum over pixels is S(u) - S(u') (completeness). (N, H, W), or (N, 3, H, W) with
    `reduce="rgb"`. The baseline is a name or a picture, made like the one explained: "blur" is the picture under a
    Gaussian of standard deviation a 14th of its short side, "mean" its mean colour, "network" the colour that
    preprocessing turns into 0.

    The gradient of a ReLU network is constant between kinks along the line. `rule="exact"` finds the kinks where
    end tangents cross and knows by the state of every gate when none is left; residual: rounding. "adaptive"
    (trapezoids) halves the segment with the largest local residual until the residuals add up to `tolerance` of
    the score difference, or `steps` evaluations are spent. "gauss" takes `steps` Gauss-Legendre
    nodes, for smooth networks.
    A small residual does not make every pixel right: errors of opposite sign cancel in the sum. More steps and a
    smaller tolerance make the map itself more exact.
    The evidence holds score, baseline score, completeness residual (absolute, and relative to the score
    difference) and evaluations used; a residual above `tolerance` is said in the notes.
    Raises `MethodRefusedError` when the target cannot be differentiated, `UsageError` for a baseline of another
    shape.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> u = torch.rand(3, 2, 2)
    >>> result = model.explain(u, "integrated_gradients", target=1, baseline="white")
    >>> w = net[1].weight[1].detach().view(3, 2, 2)
    >>> torch.allclose(torch.tensor(result.values), (w * (u - 1)).sum(0), atol=1e-6)
    True
    """
    x = x.detach()
    start = baseline_of(model, x, baseline)
    parts: list[_Part] = []
    for i in range(len(x)):  # one after the other, so that the cuts of one picture depend on it alone
        line = Line(model, start[i : i + 1], x[i : i + 1], target.alone(i))
        work = _integrate(line, rule, steps, tolerance)
        while True:
            try:
                done, heat = next(work)
            except StopIteration as end:
                parts.append(end.value)
                break
            preview = torch.stack([*(p.heat for p in parts), heat])
            total = steps * len(x)
            yield Progress(min(i * steps + done, total), total, _reduced(preview, reduce), "evaluations")
    heat = torch.stack([p.heat for p in parts]).to(x)
    evidence = {key: [p.evidence[key] for p in parts] for key in parts[0].evidence}
    notes = tuple(dict.fromkeys(note for p in parts for note in p.notes))
    return Raw(
        _reduced(heat, reduce), signed=True, unit="share of the target", evidence=evidence, notes=notes
    )


@dataclass(frozen=True)
class _Part:
    """What was found for one picture: attributions (C, H, W), evidence, notes."""

    heat: Tensor
    evidence: dict[str, float | str]
    notes: tuple[str, ...]


def _integrate(
    line: Line, rule: str, steps: int, tolerance: float
) -> Generator[tuple[int, Tensor], None, _Part]:
    """Follow one line by one rule; yields the evaluations so far and the attributions they give."""
    difference = line.difference[0].double()
    ends = line.nodes([0.0, 1.0])
    taken, why = _choose(line) if rule == "auto" else (rule, "")
    size = portion(line.difference)
    note = ""
    if taken == "gauss":
        nodes = steps if rule == "gauss" else min(steps, SMOOTH)
        total = torch.zeros_like(difference)
        for total in gauss(line, nodes, size):
            yield line.evaluations, total * difference
        _, missed = _residual(total * difference, ends, line)
        if rule == "auto" and missed > tolerance and line.evaluations < steps:
            taken = "adaptive"
            why = f"rule adaptive: {nodes} Gauss-Legendre nodes left {missed:.2%}"
    if taken != "gauss":
        if taken == "exact":
            cuts = exact(line, ends, steps=steps, size=size)
        else:
            cuts = adaptive(line, ends, tolerance=tolerance, steps=steps, size=min(size, AT_ONCE))
        cut = Cut()
        for cut in cuts:
            yield line.evaluations, cut.integral(difference) * difference
        total = cut.integral(difference)
        if taken == "exact" and cut.open:
            note = f"{len(cut.open)} segments may still hold kinks after {line.evaluations} evaluations"
    return _part(total * difference, ends, line, taken, tolerance, tuple(n for n in (why, note) if n))


def gauss(line: Line, nodes: int, size: int) -> Generator[Tensor, None, None]:
    """Gauss-Legendre over the whole line; yields the integral of the gradient so far, in float64."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    total = torch.zeros_like(line.difference[0], dtype=torch.float64)
    for k in range(0, nodes, size):
        found = line.nodes(((places[k : k + size] + 1) / 2).tolist(), gates=False)
        for node, weight in zip(found, weights[k : k + size] / 2, strict=True):
            total = total + float(weight) * node.gradient
        yield total


def _choose(line: Line) -> tuple[str, str]:
    """The rule for this network and picture, and why."""
    if not line.families & KINKED:
        return "gauss", f"rule gauss, {SMOOTH} nodes at most: no ReLU or max pooling was met on the way"
    if line.families & CURVED or line.difference[0].numel() > SMALL:
        return "adaptive", ""
    return "exact", ""


def _part(
    heat: Tensor, ends: list[Node], line: Line, rule: str, tolerance: float, notes: tuple[str, ...]
) -> _Part:
    """The attributions with what is known about their truth."""
    low, high = ends[0].score, ends[1].score
    rise = high - low
    residual, relative = _residual(heat, ends, line)
    if relative > tolerance:
        notes += (
            f"completeness residual {residual:.3g} is {relative:.2%} of the score difference {rise:.4g}, above "
            f"the tolerance {tolerance:.2%}, after {line.evaluations} evaluations",
        )
    if not bool(line.difference.any()):
        notes += ("the picture equals the baseline, so every attribution is zero",)
    evidence: dict[str, float | str] = {
        "score": high,
        "baseline score": low,
        "completeness residual": residual,
        "relative residual": relative,
        "evaluations": line.evaluations,
        "rule": rule,
    }
    return _Part(heat, evidence, notes)


def _residual(heat: Tensor, ends: list[Node], line: Line) -> tuple[float, float]:
    """What the attributions miss of the rise of the score, and as a share of it."""
    low, high = ends[0].score, ends[1].score
    residual = abs(float(heat.sum()) - (high - low))
    # a rise that is rounding says nothing; the score's own rounding is then the yardstick
    floor = torch.finfo(line.difference.dtype).eps * max(abs(low), abs(high))
    return residual, residual / max(abs(high - low), floor) if residual else 0.0


def _reduced(heat: Tensor, reduce: str) -> Tensor:
    return heat if reduce == "rgb" else heat.sum(1)
