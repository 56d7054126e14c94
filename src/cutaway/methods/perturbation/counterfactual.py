"""Counterfactual: the cheapest change of the picture that gives the score one asks for."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.image import Photo
from cutaway.core.method import IMAGE, TARGET, OrPicture, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.readers import Probability
from cutaway.core.result import Attribution
from cutaway.core.target import Target, observe

from .cheapest import Search, spreads


@method(
    title="Counterfactual",
    chapter="perturbation",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Wachter et al. 2017, arXiv:1711.00399, sec. III and IV, eq. 1-4",
    tags=Tags(family="perturbation", level="high"),
    caveat="The cheapest change is seldom a likely picture: a few loud pixels may do what no photograph would.",
    laws={"class sensitive", "weights sensitive"},
)
def counterfactual(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    wanted: Annotated[
        float | None,
        Range(-1e12, 1e12),
        "value the target is to have; none: of a class, that of its strongest rival; else 0",
    ] = None,
    spread: Annotated[
        Any,
        OrPicture(("picture", "one")),
        "what prices a change: MAD of the picture's colours, 1, or MAD over pictures",
    ] = "picture",
    tolerance: Annotated[
        float, Range(0, 1, open_low=True), "what counts as reached, as a share of the way to go"
    ] = 0.01,
    steps: Annotated[int, Range(1, 10_000), "linearisations at most"] = 40,
) -> Steps[Raw]:
    """The change x' - x of least cost that brings the target f to a wanted value y'.

    Wachter 2017, eq. 2: argmin over x' of max over lambda of lambda (f(x') - y')^2 + sum_k |x'_k - x_k| / MAD_k,
    that is, the cheapest x' with f(x') = y', within [0, 1]. MAD_k is the median absolute deviation: of all pixels of
    colour k in this picture ("picture"), or of feature k over the pictures given; "one" prices all alike. Gives
    (3, H, W), signed, in pixel space; the panel shows x'.
    Each step solves the linearised problem exactly (the features with the largest |df/dx_k| MAD_k go first, each to
    the end of its range), within eight distances a pixel may move, and keeps what the network bears out best. So on a
    linear network one step is exact: one feature moves, at cost |y' - f| / (|w_k| MAD_k). Elsewhere the change is a
    local answer. What cannot be reached is said, and the nearest that was found is shown.
    Cost: one backward and up to 25 forward passes per step.
    Raises `UsageError` for pictures in `spread` of another shape, too few, or without any spread, and
    `MethodRefusedError` when the target cannot be differentiated.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.arange(12.0))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> result = model.explain(torch.full((3, 2, 2), 0.5), "counterfactual", target=0, wanted=38.5, spread="one")
    >>> result.values.flatten().round(4).tolist()  # from 33 up by 5.5, all by the feature that weighs 11
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    """
    size, said = _spread(model, x, spread)
    found: list[Search] = []
    for i in range(len(x)):
        goal = target.alone(i)
        with torch.no_grad():
            wish = _rival(model, x[i : i + 1], goal) if wanted is None else wanted
        search = Search(model, x[i : i + 1].detach(), goal, wish, size[i], tolerance)
        for step in range(steps):
            if not search.step():
                break
            yield Progress(
                i * steps + step + 1, len(x) * steps, search.change.float().cpu().numpy(), "linearisations"
            )
        found.append(search)
    after = torch.cat([s.picture for s in found])
    evidence: dict[str, Any] = {
        "score": torch.tensor([s.clean for s in found], dtype=torch.float64),
        "wanted": torch.tensor([s.wanted for s in found], dtype=torch.float64),
        "score of the counterfactual": torch.tensor([s.score for s in found], dtype=torch.float64),
        "reached": [s.reached for s in found],
        "cost": torch.tensor([s.cost for s in found], dtype=torch.float64),
        "features changed": torch.tensor([s.changed for s in found]),
        "linearisations": torch.tensor([s.taken for s in found]),
    }
    return Raw(
        torch.stack([s.change for s in found]).to(x),
        unit="change of the pixel",
        evidence=evidence | _classes(model, x, after),
        notes=(*said, *_warnings(found)),
        panels={"counterfactual": RawPanel("counterfactual", after, "picture")},
    )


def _rival(model: VisionModel, x: Tensor, target: Target) -> float:
    """What the strongest other class has now, read as the target reads its own; 0 for what is not one class."""
    label = target.class_number
    if label is None:
        return 0.0
    output = observe(model, x, target)[None]
    scores = output.softmax(1) if isinstance(target.terms[0][1], Probability) else output
    scores = (scores.flatten(2).sum(2) if scores.ndim > 2 else scores)[0].clone()
    if len(scores) < 2:
        return 0.0
    scores[label] = -torch.inf
    return float(scores.max()) * target.terms[0][0]


def _spread(model: VisionModel, x: Tensor, spread: Any) -> tuple[Tensor, tuple[str, ...]]:
    """MAD of every feature, (N, C, H, W) in float64, zero for one that must not move; and what to say about it."""
    if spread == "one":
        return torch.ones(x.shape, dtype=torch.float64), ("every pixel priced alike (MAD 1)",)
    if not isinstance(spread, Photo):
        colours = spreads(x.detach().cpu().double().flatten(2), 2)
        said = "priced by the median absolute deviation of the picture's own pixels, colour by colour"
        if not bool((colours > 0).all()):
            values = x.detach().cpu().double().flatten(2)
            mean = (values - values.mean(2, keepdim=True)).abs().mean(2)
            colours = torch.where(colours > 0, colours, torch.where(mean > 0, mean, 1.0))
            said += "; that is 0 for a colour that most pixels share, so its mean absolute deviation (or 1) stands in"
        return colours[..., None, None].expand(x.shape), (said,)
    pictures = model.preprocess.fit(spread).double().cpu()
    if pictures.shape[1:] != x.shape[1:] or len(pictures) < 2:
        raise UsageError(
            f"{len(pictures)} pictures of {'x'.join(map(str, pictures.shape[1:]))} to take the spread from",
            f"two or more of {'x'.join(map(str, x.shape[1:]))}",
            "spread='picture'",
        )
    size = spreads(pictures, 0)
    still = int((size == 0).sum())
    if still == size.numel():
        raise UsageError(
            "pictures that do not differ: every MAD is 0", "pictures that differ", "spread='picture'"
        )
    said = f"priced by the median absolute deviation over {len(pictures)} pictures, feature by feature"
    if still:
        said += f"; {still} of {size.numel()} features have MAD 0 and stay as they are"
    return size.expand(x.shape), (said,)


def _classes(model: VisionModel, x: Tensor, after: Tensor) -> dict[str, list[str]]:
    """The predicted class of each picture before and after, where the network gives one score per class."""
    with torch.no_grad():
        scores = [model(torch.stack(pair)) for pair in zip(x, after, strict=True)]
    if scores[0].ndim != 2 or scores[0].shape[1] < 2:
        return {}
    names = [[model.class_name(int(k)) for k in pair.argmax(1)] for pair in scores]
    return {"class": [n[0] for n in names], "class of the counterfactual": [n[1] for n in names]}


def _warnings(found: list[Search]) -> tuple[str, ...]:
    said = []
    for i, s in enumerate(found):
        which = f"picture {i + 1}: " if len(found) > 1 else ""
        if s.clean == s.wanted:
            said.append(f"{which}the target has the wanted value already, nothing is changed")
        elif not s.reached:
            said.append(
                f"warning: {which}not reached: the nearest found to {s.wanted:.4g} is {s.score:.4g}, "
                f"from {s.clean:.4g} ({s.why})"
            )
    return tuple(said)
