"""Layer-wise relevance propagation: the score handed down, layer by layer, to the pixels."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.operators import Family
from cutaway.core.result import Attribution
from cutaway.core.target import Target, flat, gradient, not_differentiable, observe

from .lrp_pass import PASSES, Composite, RelevanceRules, reach
from .lrp_rules import Strengths

COMPOSITES: Mapping[str, Composite] = {
    "epsilon_gamma_box": Composite("box", "gamma", "epsilon"),
    "epsilon_plus": Composite(None, "z_plus", "epsilon"),
    "epsilon_plus_flat": Composite("flat", "z_plus", "epsilon"),
    "epsilon_alpha_beta": Composite(None, "alpha_beta", "epsilon"),
    # Montavon 2019, sec. 10.3, on VGG-16: gamma in the lower 7 of 16 layers, epsilon in 6, LRP-0 in the upper 3
    "zero_epsilon_gamma_box": Composite("box", "zero", "zero", ((7 / 16, "gamma"), (13 / 16, "epsilon"))),
    "plus_box": Composite("box", "z_plus", "z_plus"),
    "zero": Composite(None, "zero", "zero"),
    "epsilon": Composite(None, "epsilon", "epsilon"),
    "gamma": Composite(None, "gamma", "gamma"),
    "plus": Composite(None, "z_plus", "z_plus"),
    "alpha_beta": Composite(None, "alpha_beta", "alpha_beta"),
}


@method(
    title="Layer-wise relevance propagation",
    chapter="decomposition",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Bach et al. 2015, doi:10.1371/journal.pone.0130140; Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10",
    tags=Tags(family="decomposition", level="high"),
    caveat="The shares add up under any rule, so adding up does not prove the rule right; z+ rules depend little on the class.",
    passes=PASSES,
    laws={"conservation", "class sensitive", "weights sensitive"},
    single_pass=True,
)
def lrp(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    composite: Annotated[
        Literal[
            "epsilon_gamma_box",
            "epsilon_plus",
            "epsilon_plus_flat",
            "epsilon_alpha_beta",
            "zero_epsilon_gamma_box",
            "plus_box",
            "zero",
            "epsilon",
            "gamma",
            "plus",
            "alpha_beta",
        ],
        "which rule where: dense layers, convolutions, pixels (one name: the same everywhere)",
    ] = "epsilon_gamma_box",
    pixels: Annotated[
        Literal["composite", "box", "flat", "w_square"], "the rule of layers that see the pixels"
    ] = "composite",
    epsilon: Annotated[
        float, Range(0, 1e6), "stabiliser of the epsilon rule, in units of a layer's output"
    ] = 1e-6,
    gamma: Annotated[float, Range(0, 1e6), "how much the gamma rule favours the output's own sign"] = 0.25,
    alpha: Annotated[float, Range(1, 1e6), "weight of positive parts; beta is alpha - 1"] = 2.0,
    reduce: Annotated[Literal["sum", "rgb"], "sum over colours, or keep them"] = "sum",
) -> Raw:
    """How the target's value is shared among the pixels: R_j = sum_k z_jk / sum_j z_jk R_k, from layer to layer.

    Signed, (N, H, W), or (N, 3, H, W) with `reduce="rgb"`; one number is a share of the target, at the network's
    normalised input. Rules: zero, epsilon (sign-matched), gamma, z+ and alpha-beta; at the pixels also flat, w^2 and
    z^B with the bounds that pixels in [0, 1] have after normalisation. Batch norm is merged into the layer before
    it; additions and averages share by contribution; max pooling gives all to its winner; a sigmoid gate is a
    constant. Starts from what the target reads, z dS/dz, which is the target's own value for logits and units.

    Evidence: sum + biases + stabilisers + nowhere = start, per picture. "biases" is what offsets absorbed,
    "stabilisers" what epsilon did, "nowhere" what units without contributions could not hand on; "unaccounted" is
    what is missing in that sum, and "residual" is start - sum.
    Cost: two forward passes, and a forward and a backward pass of each layer for every sum its rule divides by.
    Raises `MethodRefusedError` for what has no rule: softmax, attention, GELU, SiLU, layer norm.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> u = torch.rand(3, 2, 2)
    >>> result = model.explain(u, "lrp", target=1, composite="zero", reduce="rgb")
    >>> torch.allclose(torch.tensor(result.values), net[1].weight[1].detach().view(3, 2, 2) * u)
    True
    """
    chosen = COMPOSITES[composite]
    if pixels != "composite":
        chosen = Composite(pixels, chosen.conv, chosen.dense, chosen.bands)
    entry, values, mode = _forward(model, x, target, chosen, Strengths(epsilon, gamma, alpha))
    read: dict[str | None, Tensor] = {k: v.detach().requires_grad_() for k, v in values.items()}
    value = target.read(read)
    used = [k for k in read if k in {r.layer for _, r in target.terms}]
    slopes = gradient(value, *(read[k] for k in used))
    if not all(values[k].requires_grad for k in used):
        raise not_differentiable()
    reach(mode, [values[k] for k in used])
    shares = [read[k].detach() * g for k, g in zip(used, slopes, strict=True)]
    start = torch.stack([s.flatten(1).sum(1) for s in shares]).sum(0)
    total = torch.stack([(values[k] * s).sum() for k, s in zip(used, shares, strict=True)]).sum()
    (found,) = torch.autograd.grad(total, entry)
    if model.preprocess.channels == "BGR":
        found = found.flip(1)
    score = value.detach()
    return Raw(
        found if reduce == "rgb" else found.sum(1),
        signed=True,
        unit="share of the target",
        evidence={"score": score, **_account(mode, start, found)},
        notes=_notes(mode, start, score) + flat(found, target),
    )


def _forward(
    model: VisionModel, x: Tensor, target: Target, composite: Composite, strengths: Strengths
) -> tuple[Tensor, dict[str | None, Tensor], RelevanceRules]:
    """(the network's input, what the target reads, the rules in force); the graph begins after preprocessing."""
    x = x.detach()
    with torch.no_grad():
        ends = [model.preprocess.normalise(torch.full_like(x, v)) for v in (0.0, 1.0)]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    mode = RelevanceRules(composite, strengths, len(x), model.network)
    entries: list[Tensor] = []

    def enter(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        with torch._C.DisableTorchFunction():  # no operator of the network
            entries.append(args[0].detach().requires_grad_())
            entrance = entries[0].clone()  # a network may change its input in place
        mode.start(entrance, low, high)
        return (entrance, *args[1:])

    handle = model.network.register_forward_pre_hook(enter)
    try:
        with mode:
            values = observe(model, x, target)
    finally:
        handle.remove()
    return entries[0], values, mode


def _account(mode: RelevanceRules, start: Tensor, found: Tensor) -> dict[str, Tensor]:
    """Where the relevance went, per picture."""
    reached = found.flatten(1).sum(1).double()
    residual = start.double() - reached
    entries = {
        name: mode.ledger.entries.get(name, torch.zeros_like(residual))
        for name in ("biases", "stabilisers", "nowhere")
    }
    missing = residual - torch.stack(list(entries.values())).sum(0)
    return {"start": start, "sum": reached, "residual": residual, **entries, "unaccounted": missing}


def _notes(mode: RelevanceRules, start: Tensor, score: Tensor) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if mode.merged:
        notes += (f"batch norm merged into the layer before it: {mode.merged}",)
    if mode.alone:
        notes += (f"batch norm without such a layer, shared by the epsilon rule: {mode.alone}",)
    if Family.MAX_POOL in mode.families:
        notes += ("max pooling gives all relevance to its winner",)
    if mode.gated:
        notes += (f"gates held constant, their signals take all: {mode.gated}",)
    if not torch.allclose(start, score, rtol=1e-4, atol=1e-6):
        notes += (
            "the target is no linear function of what it reads: the shares start from z dS/dz, not from its value",
        )
    return notes
