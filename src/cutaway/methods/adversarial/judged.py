"""An adversarial picture judged as the 8-bit picture a file holds: answers, norms, what it survives, the figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cutaway.core.method import Raw, RawPanel

from .attention import moved_attention
from .balls import Ball, eight_bit, length
from .goal import Goal, class_scores, named
from .survival import survives

CHANGED = 1e-6  # a pixel that moved less, a part in four thousand of a level, counts as unmoved
FACTOR, FACTORS = 1.25, 24


def judged(
    goal: Goal,
    x: Tensor,
    adversarial: Tensor,
    *,
    ball: Ball | None = None,
    survival: bool = True,
    attention: bool = False,
    evidence: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Raw:
    """The result of an attack on pictures x (N, C, H, W).

    `values` is the adversarial picture in the attack's own numbers; what counts is its 8-bit picture, which keeps to
    the ball. Where rounding undoes the change of an attack without a ball, the change is enlarged by the least
    1.25^k that survives it, and the evidence says how much. A picture that was where the attack wants it before, such
    as one that had another class than the one to be left, is already wrong, and not counted as fooled. Three forward
    passes, a batch each, six more with `survival`, and up to 24 for the factor.
    """
    with torch.no_grad():
        before, after = goal.read(x), goal.read(adversarial)
        whole, factor = eight_bit(x, adversarial, ball), torch.ones(len(x), dtype=torch.float64)
        if ball is None:
            whole, factor = _enlarged(goal, x, adversarial, goal.reached(after), whole)
        rounded = goal.read(whole)
        already = goal.reached(before)
        levels = (255 * (whole.double() - eight_bit(x, x).double())).round()
        facts: dict[str, Any] = {
            "fooled": _unless(goal.reached(rounded), already),
            "fooled before rounding": _unless(goal.reached(after), already),
            "already wrong": already.tolist(),
            **_answers(goal, x, adversarial, whole, (before, after, rounded)),
            **_norms("", adversarial.double() - x.double()),
            **_norms(" as 8-bit", levels / 255),
            "levels": levels.abs().flatten(1).amax(1).long(),
        }
        if ball is None:
            facts["times for 8 bits"] = factor
        if survival:
            facts["survives"] = survives(goal, x, whole)
    said = (*notes, *_warnings(goal, facts))
    panels = _panels(x, whole, levels / 255, facts)
    if attention:
        shown, numbers = moved_attention(goal, x, whole)
        panels, facts = panels | shown, facts | numbers
    return Raw(
        seen(adversarial),
        signed=False,
        unit="pixel in [0, 1]",
        evidence=facts | dict(evidence or {}),
        notes=said,
        panels=panels,
        extra={"title": [f"adversarial: {answer}" for answer in facts["after"]]},
    )


def seen(x: Tensor) -> Tensor:
    """(N, 3, H, W), grey pictures in three equal colours."""
    return x.detach().expand(-1, 3, -1, -1)


def _enlarged(
    goal: Goal, x: Tensor, adversarial: Tensor, reached: Tensor, whole: Tensor
) -> tuple[Tensor, Tensor]:
    """8-bit pictures with the change enlarged until rounding no longer undoes it; the factor, NaN where none did."""
    factor = torch.ones(len(x), dtype=torch.float64)
    waiting = (reached & ~goal.reached(goal.read(whole))).nonzero()[:, 0]
    whole = whole.clone()
    for k in range(1, FACTORS + 1):
        if not len(waiting):
            break
        moved = x[waiting] + FACTOR**k * (adversarial[waiting] - x[waiting])
        tried = eight_bit(x[waiting], moved.clamp(0, 1))
        there = _reached(goal.only(waiting), tried)
        whole[waiting[there]] = tried[there]
        factor[waiting[there].cpu()] = FACTOR**k
        waiting = waiting[~there]
    factor[waiting.cpu()] = torch.nan
    return whole, factor


def _reached(goal: Goal, x: Tensor) -> Tensor:
    return goal.reached(goal.read(x))


def _answers(
    goal: Goal, x: Tensor, adversarial: Tensor, whole: Tensor, read: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Any]:
    """Class and confidence, or the target's value, of the original, the adversarial and its 8-bit picture."""
    names = ("before", "after", "as 8-bit")
    found: dict[str, Any] = {}
    if not goal.of_classes:
        for name, values in zip(names, read, strict=True):
            found[f"score {name}"] = values
        read = tuple(class_scores(goal.model, u) for u in (x, adversarial, whole))  # type: ignore[assignment]
    for name, scores in zip(names, read, strict=True):
        if scores.ndim != 2 or scores.shape[1] < 2:
            values = found[f"score {name}"].tolist()
            found[name] = [f"score {v:.4g}" for v in values]
            continue
        confidence, k = scores.softmax(1).max(1)
        found[f"confidence {name}"] = confidence
        pairs = zip(k.tolist(), confidence.tolist(), strict=True)
        found[name] = [f"{named(goal.model, i)} {100 * p:.1f} %" for i, p in pairs]
    return found


def _norms(which: str, d: Tensor) -> dict[str, Tensor]:
    flat = d.flatten(1)
    changed = (d.abs().amax(1) > CHANGED).flatten(1)
    return {
        f"linf{which}": flat.abs().amax(1),
        f"l2{which}": length(flat),
        f"l0 share{which}": changed.double().mean(1),
    }


def _unless(reached: Tensor, already: Tensor) -> list[bool | None]:
    """Fooled or not; None where the picture was wrong before anything was done."""
    return [None if a else bool(r) for r, a in zip(reached.tolist(), already.tolist(), strict=True)]


def _warnings(goal: Goal, facts: Mapping[str, Any]) -> tuple[str, ...]:
    said = []
    count = len(facts["fooled"])
    wrong = sum(facts["already wrong"])
    which = "it" if count == 1 else f"{wrong} of {count}"
    if wrong and goal.of_classes:
        said.append(
            f"already misclassified: the network did not see the target's class in {which}; not counted as fooled"
        )
    elif wrong:
        said.append(f"{goal.targets[0].label()} was not above zero in {which} already; not counted as fooled")
    lost = sum(
        f is False and b is True
        for f, b in zip(facts["fooled"], facts["fooled before rounding"], strict=True)
    )
    if lost:
        said.append(f"rounding to 8 bits undoes {lost} of {count}")
    enlarged = facts.get("times for 8 bits")
    if enlarged is not None and bool((enlarged > 1).any()):
        least, most = enlarged[enlarged > 1].min(), enlarged[enlarged > 1].max()
        times = f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
        said.append(
            f"rounding to 8 bits undoes a change this small: the 8-bit picture has it {times} times as large"
        )
    rows = facts.get("survives", [{}] * count)
    fooled = [row for row, f in zip(rows, facts["fooled"], strict=True) if f and row]
    if fooled:
        said.append(
            _survival(
                {name: sum(row[name]["still fooled"] for row in fooled) for name in fooled[0]}, len(fooled)
            )
        )
    return tuple(said)


def _survival(kept: Mapping[str, int], fooled: int) -> str:
    """How many of the fooled pictures still fool after each treatment, in a sentence.

    >>> _survival({"JPEG at quality 75": 0, "a blur of 1 px": 1}, 1)
    'still fools after a blur of 1 px; no longer fools after JPEG at quality 75'
    >>> _survival({"JPEG at quality 75": 0, "a blur of 1 px": 3}, 4)
    'of 4 that fool as 8-bit pictures, 0 still fool after JPEG at quality 75, 3 after a blur of 1 px'
    """
    if fooled > 1:
        counts = [f"{n} {'' if i else 'still fool '}after {name}" for i, (name, n) in enumerate(kept.items())]
        return f"of {fooled} that fool as 8-bit pictures, {', '.join(counts)}"
    words = {
        "still fools": [k for k, n in kept.items() if n],
        "no longer fools": [k for k, n in kept.items() if not n],
    }
    return "; ".join(f"{how} after {', '.join(names)}" for how, names in words.items() if names)


def _panels(x: Tensor, whole: Tensor, change: Tensor, facts: Mapping[str, Any]) -> dict[str, RawPanel]:
    """Original, 8-bit picture, difference and ten times it, the pictures with the answers they get."""
    d = seen(change.to(x))
    was = [f"original: {answer}" for answer in facts["before"]]
    now = [f"as an 8-bit picture: {answer}" for answer in facts["as 8-bit"]]
    return {
        "original": RawPanel(was, seen(x), "picture", before=True),
        "eight_bit": RawPanel(now, seen(whole), "picture"),
        "difference": RawPanel("difference + 0.5", (0.5 + d).clamp(0, 1), "picture"),
        "difference_x10": RawPanel("10 x difference + 0.5", (0.5 + 10 * d).clamp(0, 1), "picture"),
    }
