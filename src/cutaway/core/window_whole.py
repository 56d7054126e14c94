"""Inference on whole pictures, and two ways to one answer compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError, MethodRefusedError
from .window_asked import Asked, Values
from .window_order import even
from .window_tensor import WritesIntoWindow


@dataclass
class Report:
    """How the answers were computed.

    `engine` is "incremental", "plain", or both joined by a plus; `why` the reason where something ran plainly;
    `limit` how many times fewer multiply-adds the windows hold than whole pictures; `dense` the operators from
    which on whole maps were computed; `deviation` the largest difference to whole pictures that was met on the
    sample compared, as a share of the largest number there.
    """

    engine: str = "plain"
    why: str = ""
    limit: float | None = None
    dense: tuple[str, ...] = ()
    deviation: float | None = None


def compare(ask: Asked, whole: Values, values: Values, told: Report) -> None:
    """The answer for a whole picture beside another way to it, which is not gone where the numbers differ."""
    worst = told.deviation = apart(values, whole)
    if ask.packed.dtype is None and not worst < rounding(ask):
        raise WritesIntoWindow(f"they differ from whole pictures by {worst:.1e}")


def apart(values: Values, known: Values) -> float:
    """The largest difference of the first answers to known ones, as a share of the largest number there."""
    shares = [0.0]
    for key, value in known.items():
        off = (values[key][: len(value)] - value).abs().max()
        shares.append(float(off / value.abs().max().clamp(min=1e-12)))
    return max(shares, key=lambda share: math.inf if math.isnan(share) else share)


def rounding(ask: Asked) -> float:
    """How far rounding may set two ways to one answer apart."""
    return 1e4 * torch.finfo(ask.x.dtype).eps


def plain(
    ask: Asked, left: Tensor, size: int, told: Report, known: dict[int, Values]
) -> Iterator[tuple[Tensor, Values]]:
    """Whole pictures, batch by batch; `known` are answers that were computed one by one."""
    exact, first = ask.packed.dtype is None, True
    left = torch.tensor(sorted(left.tolist(), key=lambda number: number not in known))
    # channels last or not, packed or not: packing lets `view` pass and costs a little for every operator
    ways = [(True, False), (True, True), (False, False)] if exact else [(True, True), (False, False)]
    for numbers in even(left, size):
        pictures, whole = ask.pictures(numbers), known.get(int(numbers[0]))
        if exact and whole and len(left) == 1:
            yield left, whole
            return
        values = _first_of(ways, ask, pictures)
        if first and told.deviation is None and not exact:
            compare(ask, whole or ask.run(pictures[:1], packed=False), values, told)
        if first and len(numbers) > 1:
            alone = whole if exact and whole else ask.run(pictures[:1], packed=not exact)
            if exact and ways[0][0] and not apart(values, alone) < rounding(ask):
                del ways[:-1]  # what writes into views may write into copies with channels last
                values = _first_of(ways, ask, pictures)
            independent(ask, alone, values)
        first = False
        yield numbers, values
        del pictures, values  # gone before the next batch is made


def _first_of(ways: list[tuple[bool, bool]], ask: Asked, pictures: Tensor) -> Values:
    """The answers by the first way that the network takes; those before it are dropped."""
    while True:
        last, packed = ways[0]
        try:
            laid = pictures.contiguous(memory_format=torch.channels_last) if last else pictures
            return ask.run(laid, packed=packed)
        except InputError:
            if len(ways) == 1:
                raise
            del ways[0]


def independent(ask: Asked, alone: Values, together: Values) -> None:
    """Refuse a network whose answer for one picture depends on the others of its batch."""
    most = 1e-2 if ask.packed.dtype is not None else min(1e-2, rounding(ask))
    if apart(together, {key: value[:1] for key, value in alone.items()}) > most:
        raise MethodRefusedError(
            "the network's answer for a picture depends on the other pictures of the batch",
            "networks that treat each picture of a batch alone",
            "batch norm with running statistics (track_running_stats=True), layer or group norm",
        )
