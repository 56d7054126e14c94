"""Inference on whole pictures, and windows put beside one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .window_alone import Alone, lined_up
from .window_asked import Asked, Values
from .window_order import even
from .window_tensor import WritesIntoWindow

ROUNDING = 2000
"""Machine epsilons that windows, or another layout in memory, may lie from whole pictures.

Real networks need 25, and one whose score is a small difference of large numbers that many times more.
"""


@dataclass
class Report:
    """How the answers were computed.

    `engine` is "incremental", "plain", or both joined by a plus; `why` the reason where something ran plainly;
    `limit` how many times fewer multiply-adds the windows hold than whole pictures; `dense` the operators from
    which on whole maps were computed; `deviation` the largest difference to whole pictures that was met on the
    sample compared, as a share of the largest number met.
    """

    engine: str = "plain"
    why: str = ""
    limit: float | None = None
    dense: tuple[str, ...] = ()
    deviation: float | None = None


def alone(ask: Asked) -> Alone:
    """Pictures with a box filled, asked about one at a time as the network is: neither packed nor laid out anew."""
    return Alone(
        lambda pictures: ask.run(pictures, packed=False),
        lambda number: ask.pictures(torch.tensor([number])),
    )


def company(ask: Asked, by: Alone) -> Alone:
    """What answers in other company are put beside: in bfloat16 where they are."""
    return by if ask.packed.dtype is None else Alone(ask.run, by.picture)


def compare(ask: Asked, by: Alone, number: int, values: Values, told: Report) -> None:
    """A window beside its whole picture; windows are not gone on with where the numbers differ."""
    told.deviation = by.apart(number, 0, values)
    if ask.packed.dtype is None and not told.deviation < rounding(ask):
        left = areas(ask.boxes)
        left[number] = -1
        other = int(left.argmax())
        by.apart(
            other, 0, by.answer(other)
        )  # a score near 0 says little: another tells how large numbers are
        told.deviation = by.apart(number, 0, values)
        if not told.deviation < rounding(ask):
            raise WritesIntoWindow(f"they differ from whole pictures by {told.deviation:.1e}")


def rounding(ask: Asked) -> float:
    """How far rounding may set two ways to one answer apart."""
    return ROUNDING * torch.finfo(ask.x.dtype).eps


def areas(boxes: Tensor) -> Tensor:
    """Pixels inside each box (n, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def plain(ask: Asked, left: Tensor, size: int, told: Report, by: Alone) -> Iterator[tuple[Tensor, Values]]:
    """Whole pictures, batch by batch; one picture of the first batch and of a later one is put beside itself alone."""
    exact = ask.packed.dtype is None
    if exact and len(left) == 1:
        yield left, by.answer(int(left))
        return
    # channels last or not, packed or not: packing lets `view` pass and costs a little for every operator
    ways = [(True, False), (True, True), (False, False)] if exact else [(True, True), (False, False)]
    left, like = (
        torch.tensor(sorted(left.tolist(), key=lambda number: number not in by.known)),
        company(ask, by),
    )
    for turn, (_, numbers, place) in enumerate(lined_up(even(left, size), by.known, areas(ask.boxes))):
        pictures, lead = ask.pictures(numbers), 0
        if place is not None and len(numbers) == 2:
            pictures, lead = accompanied(pictures, place)
        values = _first_of(ways, ask, pictures)
        if place is not None:
            number, at = int(numbers[place]), place + lead
            if told.deviation is None and not exact:
                told.deviation = by.apart(number, at, values)
            if exact and not turn and ways[0][0] and not by.apart(number, at, values) < rounding(ask):
                del ways[:-1]  # what writes into views may write into copies with channels last
                values = _first_of(ways, ask, pictures)
            like.check(number, at, values, fast=not exact)
        yield numbers, {key: value[lead : lead + len(numbers)] for key, value in values.items()}
        del pictures, values  # gone before the next batch is made


def accompanied(pictures: Tensor, place: int) -> tuple[Tensor, int]:
    """Two pictures and a negative, the one at `place` in the middle.

    With it comes the place of the first of the two. A network that looks at one picture of its batch, or at how they
    differ, sees another one than that at `place`.
    """
    stranger = 1 - pictures[:1]
    return (torch.cat([pictures, stranger]), 0) if place else (torch.cat([stranger, pictures]), 1)


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
