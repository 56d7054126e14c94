"""One way to run a method on pictures, used by library, command line and studio alike."""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .image import Photo, read
from .method import IMAGE, TARGET, Method, Raw
from .model import VisionModel
from .progress import Progress, Steps
from .result import Attribution, Panel, Provenance, Result
from .target import Predicted, Target, as_target, score


def explain(
    model: VisionModel,
    method: Method,
    image: Any,
    target: Any = None,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> Steps[list[Result]]:
    """Run `method`; yields `Progress` and returns one result per picture of the batch.

    `image` is anything `image.read` takes (a tensor of N pictures gives N results). Everything about the model is
    put back on every way out. Raises the errors of `errors.py`.
    """
    chosen = method.options(options or {})
    photo = image if isinstance(image, Photo) else read(image)
    x = model.pixels(photo)
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{photo.name} holds NaN or infinity", "finite pixels in [0, 1]", "another picture")
    goal = as_target(target).resolve(model)
    start = time.perf_counter()
    with model.guard(seed), torch.enable_grad():
        arguments: list[Any] = [model]
        if IMAGE in method.needs:
            arguments.append(x)
        if TARGET in method.needs:
            if not method.single_pass:
                goal = settle(model, x, goal)
            arguments.append(goal)
        raw: Raw
        if inspect.isgeneratorfunction(method.function):
            raw = yield from method.function(*arguments, **chosen)
        else:
            yield Progress(0, 1, note=method.title)
            raw = method.function(*arguments, **chosen)
        model.check_finite(raw.values.detach(), x)
    seconds = time.perf_counter() - start
    provenance = Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        preprocess=model.preprocess.to_dict(),
        image=photo.name,
        seed=seed,
        device=str(model.device),
        precision=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
        versions=versions(),
    )
    notes = (*photo.notices, *_chosen_target(target, goal, model), *raw.notes)
    return [_result(method, raw, i, x, goal, chosen, notes, provenance) for i in range(len(raw.values))]


def settle(model: VisionModel, x: Tensor, target: Target) -> Target:
    """The target with "the predicted class" decided on these pictures, by one forward pass when needed."""
    if any(isinstance(r, Predicted) and not r.found for _, r in target.terms):
        with torch.no_grad():
            score(model, x, target)
    return target


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    from cutaway import __version__

    return {
        "cutaway": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _chosen_target(asked: Any, goal: Target, model: VisionModel) -> tuple[str, ...]:
    if asked is not None:
        return ()
    return (f"no target given: the predicted class, {goal.label()}",)


def _result(
    method: Method,
    raw: Raw,
    i: int,
    x: Tensor,
    goal: Target,
    options: Mapping[str, Any],
    notes: tuple[str, ...],
    provenance: Provenance,
) -> Result:
    count = len(raw.values)
    common: dict[str, Any] = {
        "method": method.name,
        "target": goal.label(i) if TARGET in method.needs else "",
        "layer": raw.layer,
        "options": dict(options),
        "evidence": {k: _one(v, i, count) for k, v in raw.evidence.items()},
        "notes": notes,
        "provenance": provenance,
        "values": _array(raw.values[i]),
    }
    if method.gives is Attribution:
        common |= {
            "image": _array(x[i].permute(1, 2, 0).float()),
            "signed": raw.signed,
            "unit": raw.unit,
            "panels": {
                k: Panel(p.title, _array(p.values[i]), p.scale, p.unit, dict(p.labels))
                for k, p in raw.panels.items()
            },
        }
    return method.gives(**common, **{k: _one(v, i, count) for k, v in raw.extra.items()})


def _one(value: Any, i: int, count: int) -> Any:
    """The i-th entry of what holds one per picture; anything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.ndim and len(value) == count:
            value = value[i]
        return value.item() if value.ndim == 0 else value.tolist()
    if isinstance(value, list) and len(value) == count:
        return value[i]
    return value


def _array(value: Tensor) -> Any:
    return value.detach().cpu().numpy().copy()
