"""What a sweep computes, and in which parts: everything that decides its bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.layers import Layer
from cutaway.core.model import VisionModel
from cutaway.core.windows import suggested_batch

STATISTICS = ("top", "extremes", "moments", "sketch", "classes")
"""What can be kept of every unit, by the names of the reducers."""
LOGITS, PROBABILITIES = "logits", "probabilities"
"""What a network gives of each class: numbers that softmax makes probabilities of, or these."""
_LEAST, _SHARDS = 64, 256
_BYTES = {"extremes": 24, "moments": 320, "sketch": 8232}
"""What a unit takes."""


@dataclass(frozen=True)
class Plan:
    """A sweep: its layers and statistics, and the shards it falls into.

    Parameters
    ----------
    layers : names; layers that read one activation stand under the first of them, the rest in `same`.
    units : how many units each layer has.
    same : further names of an activation, by the name that stands in `layers`.
    k : pictures kept for each unit.
    statistics : of `STATISTICS`.
    embeddings : layers whose mean over places is kept for every picture.
    batch, shard, threads : pictures at a time, pictures to a shard, processor threads. The same numbers give the
        same bits on one kind of machine, whoever runs the shards and in whatever order.
    size : (height, width) of the network's pictures.
    scores : LOGITS, PROBABILITIES, or in words what else the network gives, of which no probabilities are made.
    left_out : layers with weights of their own, and blocks, that cannot be watched, and why.
    """

    layers: tuple[str, ...]
    units: Mapping[str, int]
    same: Mapping[str, tuple[str, ...]]
    k: int
    statistics: tuple[str, ...]
    embeddings: tuple[str, ...]
    batch: int
    shard: int
    threads: int
    size: tuple[int, int]
    scores: str
    left_out: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, own: Mapping[str, Any]) -> Plan:
        """Back from `to_dict`."""
        lists = ("layers", "statistics", "embeddings", "size")
        same = {name: tuple(others) for name, others in own["same"].items()}
        return cls(**{**own, **{n: tuple(own[n]) for n in lists}, "same": same})

    def shards(self, count: int) -> list[range]:
        """The picture numbers of each shard of `count` pictures."""
        return [range(first, min(first + self.shard, count)) for first in range(0, count, self.shard)]


def plan(
    model: VisionModel,
    count: int,
    *,
    layers: Sequence[str] = (),
    k: int = 100,
    statistics: Sequence[str] = STATISTICS,
    embeddings: Sequence[str] = (),
    batch: int | None = None,
    shard: int | None = None,
    threads: int | None = None,
    classes: int = 0,
    memory: float = 8.0,
) -> Plan:
    """The plan of a sweep over `count` pictures, labelled in so many `classes`.

    Without `layers`: all convolutional and linear layers, and the blocks down to two names deep (`layer3`,
    `layer3.0`, `features.10`). Raises `UnknownNameError` for a layer that does not exist, `UsageError` for one that
    has no activation of its own, for fewer pictures than `k`, and where the reducers, which do not grow with the
    pictures, would take more than `memory` gigabytes.
    """
    if count < 1:
        raise UsageError("a sweep over no pictures", "at least one")
    if not 1 <= k <= count:
        raise UsageError(f"k={k} of {count} pictures", f"1 to {count}", f"k={min(100, count)}")
    wrong = [name for name in statistics if name not in STATISTICS]
    if wrong:
        raise UsageError(f"statistics {', '.join(wrong)}", ", ".join(STATISTICS))
    for name, value in (("batch", batch), ("shard", shard), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value}", "at least 1")
    kept = tuple(s for s in STATISTICS if s in statistics)
    chosen, same = _distinct(model, [_asked(model, n) for n in layers] or _usual(model))
    shape = model.layers.trace.shape
    size = model.preprocess.size or (shape[2], shape[3])
    batch = batch or suggested_batch(torch.empty(1, 1, *size, device="meta")) * 2
    shard = shard or max(_LEAST, math.ceil(count / _SHARDS))
    units = {name: model.layers.find(name).units for name in chosen}
    each = {**_BYTES, "top": 20 * k + 36 * max(k, 64), "classes": 64 * min(classes, count)}
    needed = sum(units.values()) * sum(each[name] for name in kept) / 1e9
    if needed > memory:
        raise UsageError(
            f"statistics of {sum(units.values())} units, which take {needed:.3g} gigabytes",
            f"at most {memory:g}",
            "fewer layers, a smaller k, fewer statistics, or memory=...",
        )
    return Plan(
        tuple(chosen),
        units,
        same,
        k,
        kept,
        tuple(_asked(model, name).name for name in embeddings),
        min(batch, shard),
        math.ceil(shard / batch) * batch if shard > batch else shard,
        threads or torch.get_num_threads(),
        size,
        _scores(model, size),
        {} if layers else _left_out(model),
    )


def _wanted(model: VisionModel) -> list[Layer]:
    blocks = {n for n, m in model.network.named_modules() if n and any(True for _ in m.children())}
    return [
        row
        for row in model.layers
        if row.weights_per_unit is not None or (row.name in blocks and row.name.count(".") < 2)
    ]


def _left_out(model: VisionModel) -> dict[str, str]:
    """What a person might look for among `_usual` and not find, with the reason."""
    found = {row.name: _why(model, row) for row in _wanted(model) if not _readable(model, row)}
    for name, module in model.network.named_modules():
        weight = getattr(module, "weight", None)
        if name and isinstance(weight, Tensor) and weight.ndim > 1 and name not in model.layers:
            found[name] = "never ran by itself: the layer above takes its weights, if anything does"
    return found


def _scores(model: VisionModel, size: tuple[int, int]) -> str:
    """What the network gives, seen on two pictures of noise."""
    noise = torch.rand(2, model.preprocess.pixel_channels, *size, generator=torch.Generator().manual_seed(0))
    with model.guard(), torch.inference_mode():
        given = model(noise.to(model.device, model.dtype)).float()
    if given.ndim != 2 or given.shape[1] < 2:
        return f"an output of shape {tuple(given.shape[1:])} for each picture"
    if bool(((given >= 0) & (given <= 1)).all()) and _ends_in_sigmoid(model):
        return "a yes or no of its own for each class (sigmoid)"
    share = bool((given >= 0).all()) and bool(((given.sum(1) - 1).abs() < 1e-3).all())
    return PROBABILITIES if share else LOGITS


def _ends_in_sigmoid(model: VisionModel) -> bool:
    """Whether a sigmoid comes last, but for operators without weights that read one value: views, bounds."""
    trace, left = model.layers.trace, list(model.layers.trace.output)
    while left:
        node = trace.nodes[left.pop().node]
        if "sigmoid" in node.name:
            return True
        if node.owner is None and len(node.parents) == 1:
            left += node.parents
    return False


def _usual(model: VisionModel) -> list[Layer]:
    """Convolutional and linear layers, and blocks."""
    found = [row for row in _wanted(model) if _readable(model, row)]
    if not found:
        raise MethodRefusedError(
            "no layer of this network gives one map or vector", "a convolutional network"
        )
    return found


def _asked(model: VisionModel, name: str) -> Layer:
    row = model.layers.find(name)
    if not _readable(model, row):
        raise UsageError(
            f"layer {name!r}, which {_why(model, row)}", "a layer that runs once and gives maps or a vector"
        )
    return row


def _why(model: VisionModel, row: Layer) -> str:
    if row.runs != 1:
        return f"ran {row.runs} times for one picture"
    if row.layout == "other":
        return f"gives numbers of shape {tuple(row.shape)}, which is no map and no vector"
    return "gives several tensors, or one inside something else"


def _readable(model: VisionModel, row: Layer) -> bool:
    return row.runs == 1 and row.layout != "other" and model.layers.trace.modules[row.name].bare


def _distinct(model: VisionModel, rows: Sequence[Layer]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Each activation under the first of its names, and the further names of those that have some."""
    by_value: dict[object, list[str]] = {}
    further: dict[str, list[str]] = {}
    for alias, name in model.layers.trace.aliases.items():
        further.setdefault(name, []).append(alias)
    for row in rows:
        names = by_value.setdefault(model.layers.read_as(row.name), [])
        names += [name for name in (row.name, *further.get(row.name, ())) if name not in names]
    return [n[0] for n in by_value.values()], {n[0]: tuple(n[1:]) for n in by_value.values() if n[1:]}
