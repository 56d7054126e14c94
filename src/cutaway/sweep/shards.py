"""One shard of a sweep: its pictures through the network once, everything asked about every unit kept small."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.tap import Tap
from cutaway.data.batches import Batch, Unread, batches
from cutaway.data.folder import PictureSource

from .plan import LOGITS, PROBABILITIES, Plan
from .reducers import REDUCERS, Reducer
from .seen import Seen

SHOWN = 5
"""Predicted classes kept of every picture."""

Kept = dict[str, dict[str, Reducer]]
"""Reducers by layer and statistic."""


@dataclass(frozen=True)
class Swept:
    """What a shard leaves: reducers, and rows of tensors for the pictures that could be read, in order.

    `rows` holds "id" (m,), "label" (m,), "height" and "width" (m,) of the file, and where the network gives one
    score per class "class" and "probability" (m, 5); each embedding's rows (m, u) stand under "embedding/layer".
    """

    kept: Kept
    rows: Mapping[str, Tensor]
    unread: Sequence[Unread]


def fresh(plan: Plan, classes: int) -> Kept:
    """Empty reducers for every layer of a plan."""

    def made(name: str, count: int) -> Reducer:
        more = {"top": (plan.k,), "classes": (classes,)}.get(name, ())
        kind: Any = REDUCERS[name]
        reducer: Reducer = kind(count, *more)
        return reducer

    wanted = [s for s in plan.statistics if s != "classes" or classes]
    return {layer: {name: made(name, plan.units[layer]) for name in wanted} for layer in plan.layers}


def sweep(
    model: VisionModel, pictures: PictureSource, plan: Plan, numbers: range, classes: int, *, workers: int = 2
) -> Steps[Swept]:
    """Run the pictures of these numbers through the network; yields `Progress` after each batch.

    Raises `MethodRefusedError` for a network whose answer depends on the other pictures of a batch, `InputError` for
    activations that are not finite. A picture that cannot be read is listed and left out.
    """
    kept, unread = fresh(plan, classes), list[Unread]()
    rows: dict[str, list[Tensor]] = {}
    pooled: dict[str, Tensor] = {}
    watched = list(dict.fromkeys([*plan.layers, *plan.embeddings]))
    last: bool | None = None
    start = time.perf_counter()
    for batch in batches(model, pictures, numbers, plan.batch, workers=workers, unread=unread):

        def look(layer: str, maps: Tensor) -> None:
            maps = maps if maps.ndim == 4 else maps[:, :, None, None]
            seen = Seen(maps, batch.ids, batch.labels, pictures.names)  # noqa: B023
            try:
                for reducer in kept.get(layer, {}).values():
                    reducer.update(seen)
            except (InputError, UsageError) as error:
                raise InputError(f"layer {layer!r}: {error.found}", error.accepted, error.hint) from error
            if layer in plan.embeddings:
                pooled[layer] = (seen.sums / seen.places).float()

        with model.guard(), threads(plan.threads), torch.inference_mode():
            if last is None:
                last = _channels_last(model, batch.pixels)
            pixels = batch.pixels.contiguous(memory_format=torch.channels_last) if last else batch.pixels
            with Tap(model, *watched, look=look):
                scores = model(pixels)
            for name, values in _rows(batch, scores, plan.scores, pooled):
                rows.setdefault(name, []).append(values.cpu())
        done = int(batch.ids[-1]) + 1 - numbers.start
        rate = done / (time.perf_counter() - start)
        yield Progress(done, len(numbers), note=f"{rate:.3g} pictures/s")
    return Swept(kept, {name: torch.cat(parts) for name, parts in rows.items()}, unread)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block on so many processor threads: sums depend on their number."""
    before = torch.get_num_threads()
    try:
        if before != count:
            torch.set_num_threads(count)
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def _rows(
    batch: Batch, scores: Tensor, kind: str, pooled: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    yield from (("id", batch.ids), ("label", batch.labels))
    yield from (("height", batch.sizes[:, 0]), ("width", batch.sizes[:, 1]))
    if kind in (LOGITS, PROBABILITIES):
        shares = scores.float().softmax(1) if kind == LOGITS else scores.float()
        probability, number = shares.topk(min(SHOWN, scores.shape[1]))
        yield from (("class", number), ("probability", probability))
    for layer, values in pooled.items():
        yield f"embedding/{layer}", values


def _channels_last(model: VisionModel, pixels: Tensor) -> bool:
    """Whether the network takes pictures with channels last, which are faster, and answers them as it should.

    Raises `MethodRefusedError` where even plain pictures answer differently alone and in company, and `InputError`
    for a network whose answer is not finite, saying where that was first seen.
    """
    # a lone picture stands beside its own mirror image
    alone, first = model(pixels[:1]), pixels[:1]
    model.check_finite(alone, first)
    pixels = torch.cat([pixels[:2], first.flip(3)])
    for last in (True, False):
        try:
            laid = pixels.contiguous(memory_format=torch.channels_last) if last else pixels
            together = model(laid)[:1]
        except InputError:
            if not last:
                raise
            continue
        apart = float((together - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
        if apart <= min(1e-2, 1e4 * torch.finfo(alone.dtype).eps):
            return last
    raise MethodRefusedError(
        "the network's answer for a picture depends on the other pictures of the batch",
        "networks that treat each picture of a batch alone",
        "batch=1, or batch norm with running statistics",
    )
