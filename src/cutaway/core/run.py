"""One way to run a method on pictures, used by library, command line and studio alike."""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UsageError
from .image import Photo, read
from .method import DATA, GENERATOR, IMAGE, TARGET, Method, Need, Raw, RawPanel
from .model import VisionModel
from .progress import Enough, Progress, Steps
from .readers import Predicted
from .result import Attribution, Panel, Provenance, Result
from .target import Target, as_target, score

FURTHER = {DATA: "a set of pictures", GENERATOR: "a generator of pictures"}
"""What a method may need beside a picture and a target, in words."""


def explain(
    model: VisionModel,
    method: Method,
    image: Any = None,
    target: Any = None,
    options: Mapping[str, Any] | None = None,
    *,
    given: Mapping[Need, Any] | None = None,
    seed: int = 0,
) -> Steps[list[Result]]:
    """Run `method`; yields `Progress` and returns one result per picture of the batch.

    `image` is anything `image.read` takes (a tensor of N pictures gives N results). A method that looks at the
    network alone takes none; a picture given to it only sets the size. `given` holds what else the method needs, such
    as `DATA`. Work that is told `Enough` at a step ends with what it has, where it can. Everything about the model is
    put back on every way out. Raises the errors of `errors.py`.
    """
    chosen = method.options(options or {})
    photo, x = _picture(model, method, image)
    further = _further(method, given or {})
    goal = as_target(target).resolve(model)
    if x is None and TARGET in method.needs and any(isinstance(r, Predicted) for _, r in goal.terms):
        raise UsageError(
            f"{method.name} without a target",
            "a class, or a unit such as layer3:41",
            "target=243, --target 243",
        )
    start = time.perf_counter()
    if not inspect.isgeneratorfunction(method.function):
        yield Progress(0, 1, note=method.title)
    raw = yield from _apart(model, _work(model, method, x, goal, further, chosen), seed)
    seconds = (time.perf_counter() - start) / max(len(raw.values), 1)
    provenance = Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        preprocess=model.preprocess.to_dict(),
        image=photo.name if photo else "",
        seed=seed,
        device=str(model.device),
        precision=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
        versions=versions(),
    )
    asked = _chosen_target(target, goal) if TARGET in method.needs and raw.targeted else ()
    notes = (*(photo.notices if photo else ()), *asked, *raw.notes)
    return [_result(method, raw, i, x, goal, chosen, notes, provenance) for i in range(len(raw.values))]


def _picture(model: VisionModel, method: Method, image: Any) -> tuple[Photo | None, Tensor | None]:
    """The picture a method is given, with its pixels."""
    if image is None:
        if IMAGE in method.needs:
            raise UsageError(f"{method.name} without a picture", "a path, a PIL image, an array or a tensor")
        return None, None
    photo = image if isinstance(image, Photo) else read(image)
    with torch.inference_mode(False):
        x = model.pixels(photo)
        x = x.clone() if x.is_inference() else x
    if IMAGE not in method.needs:
        return None, None
    return photo, x


def _further(method: Method, given: Mapping[Need, Any]) -> list[Any]:
    """What the method needs beside picture and target, in the order it takes them; raises where something lacks."""
    wanted = [need for need in method.needs if need in FURTHER]
    for need in wanted:
        if given.get(need) is None:
            raise UsageError(
                f"{method.name} without {FURTHER[need]}",
                FURTHER[need],
                f"given={{{need.name}: ...}}, --{need.value}",
            )
    return [given[need] for need in wanted]


def _work(
    model: VisionModel,
    method: Method,
    x: Tensor | None,
    goal: Target,
    further: list[Any],
    options: Mapping[str, Any],
) -> Steps[Raw]:
    """The method itself, from its first step to finite raw values."""
    arguments: list[Any] = [model]
    if IMAGE in method.needs:
        arguments.append(x)
    if TARGET in method.needs:
        arguments.append(goal if method.single_pass or x is None else settle(model, x, goal))
    arguments += further
    raw: Raw
    if inspect.isgeneratorfunction(method.function):
        raw = yield from method.function(*arguments, **options)
    else:
        raw = method.function(*arguments, **options)
    model.check_finite(raw.values.detach(), x)
    return raw


def _apart(model: VisionModel, work: Steps[Raw], seed: int) -> Steps[Raw]:
    """Advance the work with the model guarded and random numbers of its own; between steps all is the caller's."""
    cuda = model.random_devices
    kept: tuple[Tensor, list[Tensor]] | None = None
    wish: Enough | None = None
    while True:
        with ExitStack() as stack:
            for context in (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.autocast(model.device.type, enabled=False),
                model.guard(),
                torch.random.fork_rng(devices=cuda),
            ):
                stack.enter_context(context)
            if kept is None:
                torch.default_generator.manual_seed(
                    seed
                )  # torch.manual_seed also queues calls for absent devices
                for device in cuda:
                    with torch.cuda.device(device):
                        torch.cuda.manual_seed(seed)
            else:
                torch.set_rng_state(kept[0])
                for device, state in zip(cuda, kept[1], strict=True):
                    torch.cuda.set_rng_state(state, device)
            try:
                step = next(work) if wish is None else work.throw(wish)
            except StopIteration as end:
                raw: Raw = end.value
                return raw
            kept = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in cuda]
        try:
            wish = None
            yield step
        except Enough as enough:
            wish = enough


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


def _chosen_target(asked: Any, goal: Target) -> tuple[str, ...]:
    if asked is not None:
        return ()
    return (f"no target given: the predicted class, {goal.label()}",)


def _result(
    method: Method,
    raw: Raw,
    i: int,
    x: Tensor | None,
    goal: Target,
    options: Mapping[str, Any],
    notes: tuple[str, ...],
    provenance: Provenance,
) -> Result:
    count = len(raw.values)
    common: dict[str, Any] = {
        "method": method.name,
        "target": goal.label(i) if TARGET in method.needs and raw.targeted else "",
        "layer": raw.layer,
        "options": dict(options),
        "evidence": {k: _one(v, i, count) for k, v in raw.evidence.items()},
        "notes": notes,
        "provenance": provenance,
        "values": _array(raw.values[i]),
        "signed": raw.signed,
        "unit": raw.unit,
        "panels": {k: _panel(p, i) for k, p in raw.panels.items()},
    }
    if method.gives is Attribution and x is not None:
        seen = x[i].expand(3, -1, -1) if x.shape[1] == 1 else x[i]
        common["image"] = _array(seen.permute(1, 2, 0).float())
    return method.gives(**common, **{k: _one(v, i, count) for k, v in raw.extra.items()})


def _panel(panel: RawPanel, i: int) -> Panel:
    return Panel(
        panel.title if isinstance(panel.title, str) else panel.title[i],
        _array(panel.values[i]),
        panel.scale,
        panel.unit,
        dict(panel.labels if isinstance(panel.labels, Mapping) else panel.labels[i]),
        columns=panel.columns,
        each=panel.each,
        boxes=tuple(panel.boxes[i]) if panel.boxes else (),
        mark=panel.mark,
        framed=panel.framed,
        before=panel.before,
    )


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
    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy().copy()
