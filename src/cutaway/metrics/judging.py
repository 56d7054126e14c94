"""Methods judged by metrics on pictures, and a result that carries its own card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import CutawayError, MethodRefusedError, UsageError
from cutaway.core.method import IMAGE, Method
from cutaway.core.method import get as get_method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps, finish
from cutaway.core.result import Attribution, Result
from cutaway.core.run import explain, settle
from cutaway.core.target import Target, as_target, logit, probability

from .labels import about_twin, check_twin
from .metric import METRICS, Case, Mask, Metric, get
from .score_card import ScoreCard

Asked = tuple[Method, Mapping[str, Any]]
"""A method with its options."""
Measure = tuple[Metric, Mapping[str, Any]]
"""A metric with its options."""


@dataclass(frozen=True)
class Subject:
    """A picture to judge on.

    `picture` is anything `image.read` takes, `target` anything `as_target` takes, `truth` where the evidence truly is,
    boolean in the frame the network sees. `absent`, when given, is the picture without the evidence: every option of a
    method that takes a picture, such as a baseline or a fill, gets it.
    """

    name: str
    picture: Any
    target: Any = None
    truth: Mask | None = None
    absent: Any = None

    def options(self, method: Method, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options a method is run with on this picture."""
        if self.absent is None:
            return given
        return {**given, **{n: self.absent for n, p in method.parameters.items() if p.type == "picture"}}


def judge(
    into: ScoreCard,
    model: VisionModel,
    asked: Sequence[Asked],
    measures: Sequence[Measure],
    subjects: Sequence[Subject],
    *,
    twin: VisionModel | None = None,
    seed: int = 0,
    metric_seed: int = 0,
) -> Steps[None]:
    """Judge every method by every metric on every picture; yields `Progress`, whatever is found goes `into` at once.

    `twin` is the network that learned permuted labels, for label randomization. `seed` is of the explainers,
    `metric_seed` of the metrics; the two never share random numbers. A picture that cannot be used, a method that
    refuses and a metric without a value are kept in the card with their reasons.
    """
    seen, part = _as_seen(model), len(measures) + 1
    if twin is not None:
        check_twin(model, twin)
        into.about.append(about_twin(twin))
    total = len(subjects) * len(asked) * part
    for number, subject in enumerate(subjects):
        try:
            x = model.pixels(subject.picture)
            target = settle_on(model, x, subject.target)
        except CutawayError as error:
            into.unusable[subject.name] = error
            continue
        into.pictures.append(subject.name)
        for i, (method, options) in enumerate(asked):
            done = (number * len(asked) + i) * part
            about = f"{subject.name}, {method.title}"
            yield Progress(done, total, note=about)
            try:
                case = case_of(
                    seen,
                    method,
                    subject.options(method, options),
                    x,
                    target,
                    truth=subject.truth,
                    twin=twin,
                    seed=seed,
                )
            except CutawayError as error:
                into.refused.setdefault(method.name, []).append(error)
                continue
            for j, (metric, chosen) in enumerate(measures):
                if metric.fits(case):
                    yield Progress(done + j + 1, total, note=f"{about}: {metric.title}")
                    into.take(method, metric, case, chosen, _mixed(metric_seed, number))


def case_of(
    model: VisionModel,
    method: Method,
    options: Mapping[str, Any],
    x: Tensor,
    target: Target,
    *,
    truth: Mask | None = None,
    twin: VisionModel | None = None,
    seed: int = 0,
) -> Case:
    """The method's explanation of the picture (1, C, H, W) the network sees, ready to be judged.

    Raises what the method raises, and `MethodRefusedError` for one that gives no map of the picture.
    """

    if not issubclass(method.gives, Attribution):
        raise MethodRefusedError(
            f"{method.name} gives a {method.gives.kind}, no map that could be judged",
            "methods that give an attribution",
        )

    def ask(model: VisionModel, x: Tensor, number: int) -> list[Attribution]:
        found = finish(explain(model, method, x, target, options, seed=number))
        return cast(list[Attribution], found)

    own = seed

    def again(model: VisionModel, x: Tensor, seed: int | None = None) -> Tensor:
        maps = [_heat(found) for found in ask(model, x, own if seed is None else seed)]
        return torch.stack(maps) if len(maps) > 1 else maps[0]

    model = _as_seen(model)
    result = ask(model, x, own)[0]
    seen = None if twin is None else _as_seen(twin)
    return Case(model, x, target, result, _heat(result), again, truth, seen)


def card(
    model: VisionModel,
    result: Result,
    target: Any = None,
    *,
    truth: Mask | None = None,
    metrics: Sequence[str] = (),
    seed: int = 0,
) -> Attribution:
    """The result with its own score card: `evidence["card"]` holds each metric's value, None where it is undefined.

    `target` is read from the result when it is one logit or probability; `metrics` are all that fit when not named;
    `truth` is where the evidence truly is, boolean (H, W) in the frame of `result.image`. The reasons of undefined
    values join the notes. Raises `UsageError` for a result that is no map of a picture, and for a target that cannot
    be read.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> result = model.explain(torch.rand(3, 2, 2), "integrated_gradients", target=1)
    >>> card(model, result, metrics=["completeness"]).evidence["card"]["completeness"] < 1e-4
    True
    """
    if not isinstance(result, Attribution):
        raise UsageError(f"a card for a {result.kind}", "an attribution: a map of a picture")
    method = get_method(result.method)
    if IMAGE not in method.needs:
        raise UsageError(f"a card for {result.method}", "a method that explains a picture")
    picture = torch.from_numpy(np.ascontiguousarray(result.image)).permute(2, 0, 1)[None]
    x = picture[:, : model.preprocess.pixel_channels].to(model.device, model.dtype)
    goal = settle_on(model, x, _named(result.target) if target is None else target)
    fresh = case_of(model, method, result.options, x, goal, truth=truth, seed=result.provenance.seed)
    case = replace(fresh, result=result, heat=_heat(result))
    values: dict[str, float | None] = {}
    notes = []
    for metric in _chosen(metrics):
        if not metric.fits(case):
            continue
        try:
            values[metric.name] = metric(case, seed=seed)
        except CutawayError as error:
            values[metric.name] = None
            notes.append(f"{metric.title} undefined: {error}")
    return replace(result, evidence={**result.evidence, "card": values}, notes=(*result.notes, *notes))


def settle_on(model: VisionModel, x: Tensor, target: Any) -> Target:
    """The target for this one picture, a predicted class decided."""
    with model.guard():
        return settle(model, x, as_target(target).resolve(model)).alone(0)


def _chosen(names: Sequence[str]) -> list[Metric]:
    return [get(n) for n in names] if names else list(METRICS.values())


def _named(label: str) -> Target:
    """The target a result names, when it is one class."""
    found = re.fullmatch(r"(logit|probability) (\d+)( .*)?", label, re.DOTALL)
    if found is None or " - " in label or " + " in label:
        raise UsageError(
            f"a card for {label or 'no target'!r}", "one class, or the target given again", "target=..."
        )
    return (logit if found[1] == "logit" else probability)(int(found[2]))


def _as_seen(model: VisionModel) -> VisionModel:
    """The same network for pictures that are in its frame already: neither resized nor cropped."""
    if model.preprocess.resize is None and model.preprocess.crop is None:
        return model
    steps = replace(model.preprocess, resize=None, crop=None)
    return VisionModel(model.network, steps, model.classes, name=model.name, card=model.card)


def _heat(result: Attribution) -> Tensor:
    return torch.from_numpy(np.array(result.heat, np.float64))


def _mixed(seed: int, number: int) -> int:
    """A metric seed for each picture, so that no two are judged by the same draws."""
    return seed * 1_000_003 + number
