"""DeepLIFT: the score's change from a reference, handed down by what each unit changed."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.audit import audit
from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target, flat, gradient, observe
from cutaway.methods.gradient.baselines import Baseline, baseline_of

from .deeplift_pass import Multipliers
from .reveal_cancel import RevealCancel


@method(
    title="DeepLIFT",
    chapter="decomposition",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Shrikumar, Greenside & Kundaje 2017, arXiv:1704.02685, sec. 3",
    tags=Tags(family="decomposition", level="high"),
    caveat="It answers compared with what: another reference, another map; that the shares add up does not make each right.",
    laws={"completeness", "class sensitive", "weights sensitive"},
    single_pass=True,
)
def deeplift(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    baseline: Baseline = "black",
    rule: Annotated[
        Literal["rescale", "reveal_cancel"],
        "one multiplier per unit, or one each for what raises and what lowers it",
    ] = "rescale",
    reduce: Annotated[Literal["sum", "rgb"], "sum the colours, or keep them"] = "sum",
) -> Raw:
    """How much each pixel contributes to the score's rise from the reference to the picture: C_i = m_i (u_i - u'_i).

    Pixel space, signed, in units of the target; (N, H, W), or (N, 3, H, W) with `reduce="rgb"`. The multipliers m
    come down from the score by the chain rule, with (f(h) - f(h')) / (h - h') for a function of one number
    (Rescale), the gradient half way for a product, and for max pooling the change given to the winners of picture
    and reference. Normalisation by the picture's statistics, softmax and attention are written out in these. The
    sum over pixels is S(u) - S(u') (summation to delta); the evidence holds both scores and what is missing, which
    is rounding. Where h and h' agree in half their digits the gradient half way is taken.
    `rule="reveal_cancel"` treats what raises a unit and what lowers it as two players and shares by their Shapley
    values, so that a cancelled input still shows (sec. 3.5.3).
    Cost: two forward passes and a backward pass; RevealCancel adds a pass of |w| each way.
    Raises `MethodRefusedError` for operators without a rule, `UsageError` for a baseline of another shape.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1), torch.nn.ReLU())
    >>> model = cutaway.VisionModel(net.double(), cutaway.Preprocess(), name="one unit")
    >>> result = model.explain(torch.rand(3, 2, 2), "deeplift", target=0, baseline="white")
    >>> rise = result.evidence["score"] - result.evidence["baseline score"]
    >>> bool(abs(result.values.sum() - rise) < 1e-12)
    True
    """
    watch = RevealCancel if rule == "reveal_cancel" else Multipliers
    start = baseline_of(model, x, baseline)
    x = x.detach().requires_grad_()
    drawn = torch.get_rng_state()
    with watch(model.network) as mode:
        values = observe(model, x, target)
        score = target.read(values)
    torch.set_rng_state(drawn)  # a network that draws random numbers draws the same for both
    with watch(model.network) as other:
        reference = target.read(observe(model, start.detach().clone().requires_grad_(), target))
    audit(score, mode, passes=frozenset(), method="deeplift")
    mode.against(other)
    (multipliers,) = gradient(score, x)
    heat = multipliers * (x.detach() - start)
    rise = (score - reference).detach()
    left = rise.double() - heat.double().flatten(1).sum(1)
    evidence = {
        "score": score.detach(),
        "baseline score": reference.detach(),
        "completeness residual": left.abs(),
    }
    return Raw(
        heat if reduce == "rgb" else heat.sum(1),
        signed=True,
        unit="share of the target",
        evidence=evidence,
        notes=_notes(x.detach(), start, rise, left) + flat(multipliers, target),
    )


def _notes(x: Tensor, start: Tensor, rise: Tensor, left: Tensor) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if bool((x == start).flatten(1).all(1).any()):
        notes += ("the picture equals the baseline, so every attribution is zero",)
    worst = float((left.abs() / rise.double().abs().clamp(min=1e-12)).max())
    if worst > 1e-3 and not torch.allclose(left.abs(), torch.zeros_like(left), atol=1e-6):
        notes += (
            f"the shares miss {worst:.2%} of the score difference: rounding, samples that see each other, random "
            "numbers, or numbers read out of the picture in Python, as by item()",
        )
    return notes
