"""Whether a picture among others gets the answer that it gets alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from .errors import MethodRefusedError
from .window_asked import Values

SAME = 100
"""Machine epsilons that one picture's answers lie apart at most; real networks need up to 25."""
CRUDE = 10_000
"""Machine epsilons that no rounding sets answers apart, but where far fewer in the picture do so as well."""

Way = Callable[[Tensor], Values]
"""From pictures (n, C, H, W) to their answers, (n, ...) each."""


class Alone:
    """Answers for single pictures, one at a time, which those in other company are put beside.

    `run` is the plain way, `picture` gives one by its number, (1, C, H, W). Distances are shares of the largest number
    met so far, so that one score near 0 does not magnify rounding.
    """

    def __init__(self, run: Way, picture: Callable[[int], Tensor]) -> None:
        self._run, self.picture = run, picture
        self._largest: dict[str | None, float] = {}
        self._sure = False
        self.known: dict[int, Values] = {}

    def answer(self, number: int) -> Values:
        """That for one picture, (1, ...); computed when first asked for."""
        if number not in self.known:
            self.known[number] = self._run(self.picture(number))
        return self.known[number]

    def apart(self, number: int, place: int, values: Values) -> float:
        """How far the answer at `place` of a batch lies from that for the picture alone; infinite where only one is NaN."""
        alone = self.answer(number)
        shares = []
        for key, value in values.items():
            for numbers in (value, alone[key]):
                known = self._largest.get(key, 0.0)
                self._largest[key] = max(known, float(numbers.nan_to_num(0, 0, 0).abs().max()))
            shares.append(_apart(value[place : place + 1], alone[key][:1]) / max(self._largest[key], 1e-12))
        return max(shares)

    def check(self, number: int, place: int, values: Values, *, fast: bool = False) -> None:
        """Refuse a network whose answer for the picture differs from that for it alone by more than rounding.

        Where the two are further apart than usual, the same picture goes once more between others and once between
        copies of itself: batches of one shape, which are rounded alike. What is far apart only passes where the picture's
        own last digits move the answer about as far. `fast` says that `values` hold bfloat16's
        rounding.
        """
        alone = self.answer(number)
        eps = torch.finfo(next(iter(alone.values())).dtype).eps
        off = self.apart(number, place, values)
        if off <= (1e-2 if fast else SAME * eps):
            return
        picture = self.picture(number)
        if off <= (3e-2 if fast else CRUDE * eps) or off <= self._usual(picture, alone, eps):
            self._sure = self._sure or self._among(picture) <= SAME * eps
            if self._sure:
                return
        if self._off(self._run(picture), alone) > SAME * eps:
            raise MethodRefusedError(
                "the network answers one picture differently when asked twice",
                "networks without chance or memory in evaluation mode",
                "dropout that ends with training: nn.Dropout, or F.dropout(x, p, self.training)",
            )
        raise MethodRefusedError(
            "the network's answer for a picture depends on the other pictures of the batch",
            "networks that treat each picture of a batch alone",
            "batch norm with running statistics (track_running_stats=True), layer or group norm",
        )

    def _among(self, picture: Tensor) -> float:
        """How far others, as different as can be, move the answer for a picture."""
        others = self._run(torch.cat([1 - picture, picture, picture / 2]))
        copies = self._run(picture.repeat(3, 1, 1, 1))
        return self._off(*({key: value[1:2] for key, value in found.items()} for found in (others, copies)))

    def _usual(self, picture: Tensor, alone: Values, eps: float) -> float:
        """How far rounding may move the answer, by what the picture's last digits do; coarser ones where those do nothing."""
        moved = SAME * self._stirred(picture, alone, 8 * eps)
        return moved or self._stirred(picture, alone, 2**-8)  # a network that computes in bfloat16

    def _stirred(self, picture: Tensor, alone: Values, share: float) -> float:
        """How far the answer moves with pixels larger by a share as small as rounding."""
        return self._off(self._run(picture * (1 + share)), alone)

    def _off(self, some: Values, others: Values) -> float:
        return max(_apart(v, others[key]) / max(self._largest[key], 1e-12) for key, v in some.items())


def _apart(some: Tensor, others: Tensor) -> float:
    """The largest difference; equal infinities, and NaN twice, are 0 apart."""
    same = (some == others) | (some.isnan() & others.isnan())
    off = float(torch.where(same, 0, some - others).abs().max())
    return math.inf if math.isnan(off) else off


def lined_up(
    batches: Sequence[Tensor], known: Collection[int], areas: Tensor
) -> list[tuple[int, Tensor, int | None]]:
    """The order in which to evaluate batches of boxes' numbers: (which one, its numbers, the place to check or None).

    First comes the batch that holds a known answer, which moves to its middle: a network may look at the first or
    the last picture. In one other batch the picture of the largest box, or a second known one, is checked as well:
    the first may hold pictures that are all alike.

    >>> lined_up([torch.tensor([0, 1, 2]), torch.tensor([3, 4])], {0}, torch.tensor([1, 1, 1, 2, 4]))
    [(0, tensor([1, 0, 2]), 1), (1, tensor([4, 3]), 0)]
    """
    which = [next((n for n in part.tolist() if n in known), None) for part in batches]
    first = next((i for i, number in enumerate(which) if number is not None), 0)
    later = [i for i, part in enumerate(batches) if i != first and len(part) > 1]
    second = [i for i in later if which[i] is not None][:1]
    if len(known) < 2 and later and not second:
        second = [max(later, key=lambda i: float(areas[batches[i]].max()))]
    order: list[tuple[int, Tensor, int | None]] = []
    for i, place in ((first, len(batches[first]) // 2), *((i, (len(batches[i]) - 1) // 2) for i in second)):
        part, number = batches[i], which[i]
        largest = int(part[areas[part].argmax()])
        order.append((i, _moved(part, largest if number is None else number, place), place))
    return order + [(i, part, None) for i, part in enumerate(batches) if i not in (first, *second)]


def _moved(numbers: Tensor, number: int, place: int) -> Tensor:
    """The same numbers, one of them exchanged with the one at a place."""
    out = numbers.clone()
    out[numbers == number], out[place] = numbers[place], number
    return out
