"""Inference on pictures that differ from one picture in a window.

Occlusion, Shapley values, LIME and ablation ask for the network's answer with one box of the picture replaced by
something else, hundreds of times. They say which boxes and what fills them, and never build those pictures
themselves: how the answers are computed is the business of this module alone.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .errors import InputError, MethodRefusedError, UsageError
from .packed import Packed
from .window_asked import Asked, Values, check
from .window_asked import replaced as replaced
from .window_cost import Cost, dispatch
from .window_order import Batch, Scouts, bounds, even
from .window_order import suggested_batch as suggested_batch
from .window_tensor import Clean, WritesIntoWindow

if TYPE_CHECKING:
    from .model import VisionModel

Precision = Literal["exact", "fast"]
_TYPES = {"exact": None, "fast": torch.bfloat16}
BUDGET = 1 << 30
"""Bytes of the activations of one batch; those of the picture itself, kept once, come on top."""
WORTH = 1.2
"""How many times fewer multiply-adds pay for cutting and pasting."""
MOSTLY = 0.5
"""Where whole maps hold so much of the work, batches are small: they stay in the cache."""
SAMPLED = 32
"""From so many boxes on, one of them is also computed as a whole picture and compared."""


def evaluate(
    model: VisionModel,
    x: Tensor,
    boxes: Tensor,
    fill: Tensor,
    *,
    layers: Sequence[str] = (),
    output: bool = True,
    batch: int | None = None,
    engine: Literal["auto", "plain"] = "auto",
    report: Report | None = None,
    memory: Memory | None = None,
    precision: Precision = "exact",
) -> Iterator[tuple[Tensor, Values]]:
    """The network's answers with one box of a picture replaced, batch by batch.

    Yields (numbers, values): the numbers (m,) of boxes, each box once and in no promised order, and for each
    what was asked, (m, ...). An empty box is the picture as it is. Values are those of the network run on each
    whole picture, within rounding (1e-5 relative in float32), whatever the batch and the order. At most one
    batch is in memory. No gradient is kept.

    Parameters
    ----------
    x : the picture, (1, C, H, W) pixels in [0, 1].
    boxes : (n, 4) whole numbers: top, left, bottom, right; the last two excluded. Or (n, H, W) booleans, true for
        the pixels that are replaced: the work is that of the box around them.
    fill : (C, H, W) pixels in [0, 1]; the part inside a box replaces it.
    layers : activations to read as well, as `Tap.maps` gives them.
    output : whether the network's output is wanted; without it the pass ends at the last of `layers`.
    batch : boxes at a time; when None chosen by the network, so that activations hold at most `BUDGET` bytes.
    engine : "plain" runs whole pictures; "auto" recomputes only what changes, where that is less work.
    report : filled in with how the answers were computed.
    memory : of this precision; keeps the clean activations, so that the next call about the same picture and
        network costs what its windows cost.
    precision : "fast" runs convolutions and linear layers in bfloat16; `report.deviation` says what that does.

    Raises `UsageError` for boxes that leave the picture and shapes that do not fit, `MethodRefusedError` for a
    network whose answer for one picture depends on the rest of its batch.

    >>> from torch import nn
    >>> from cutaway.core.model import VisionModel
    >>> from cutaway.core.preprocess import Preprocess
    >>> net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    >>> model = VisionModel(net, Preprocess(), name="mean of each colour")
    >>> boxes = torch.tensor([[0, 0, 0, 0], [0, 0, 2, 4]])
    >>> answers = evaluate(model, torch.ones(1, 3, 4, 4), boxes, torch.zeros(3, 4, 4))
    >>> sorted((n, v) for numbers, values in answers for n, v in zip(numbers.tolist(), values[None][:, 0].tolist()))
    [(0, 1.0), (1, 0.5)]
    """
    masks = None
    if boxes.dtype == torch.bool:
        if boxes.shape[1:] != x.shape[-2:]:
            raise UsageError(f"masks of shape {tuple(boxes.shape)}", f"(n, H, W) of {tuple(x.shape[-2:])}")
        masks, boxes = boxes, bounds(boxes)
    check(x, boxes, fill, layers, output, batch)
    packed = memory.packed if memory is not None else Packed(_TYPES[precision])
    ask = Asked(model, x, fill, tuple(layers), output, boxes, masks, packed)
    told = report if report is not None else Report()
    left = torch.arange(len(boxes))
    if engine == "auto" and len(boxes):
        clean = memory.of(model, x) if memory is not None else Clean(x.detach(), 2, 3)
        left = yield from _changing(ask, batch, told, clean, memory)
    if len(left):
        yield from _plain(ask, left, batch or suggested_batch(x), told)


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


class Memory:
    """Clean activations of one picture in one network; weights changed since are noticed by their numbers.

    `worth` is whether one window alone is worth following through the network; None until one was.
    """

    def __init__(self, precision: Precision = "exact") -> None:
        self.worth: bool | None = None
        self._key: tuple[object, ...] = ()
        self._clean: Clean | None = None
        self.packed = Packed(_TYPES[precision])

    def of(self, model: VisionModel, x: Tensor) -> Clean:
        """What is known of this picture; nothing, where it is another one."""
        key = (model.fingerprint, model.preprocess, x.shape, x.dtype)
        known = self._clean
        if known is None or key != self._key or not torch.equal(known.value, x):
            self._key, self._clean, self.worth = key, Clean(x.detach().clone(), 2, 3), None
        assert self._clean is not None
        return self._clean


def _changing(
    ask: Asked, batch: int | None, told: Report, clean: Clean, memory: Memory | None
) -> Generator[tuple[Tensor, Values], None, Tensor]:
    """Answers that recompute only what a window changes; returns the numbers of the boxes that are left.

    One window goes ahead and takes the intervals of all others with it, which tells how large each becomes.
    """
    everything = torch.arange(len(ask.boxes))
    first, scouts, cost = _outermost(ask.boxes, clean.size), Scouts(ask.boxes), Cost()
    try:
        if len(everything) == 1 and memory is not None and memory.worth is not None:
            told.why = "" if memory.worth else "one window would save too little"
            if memory.worth:
                values = ask.run(ask.windows(clean, everything))
                told.engine = "incremental"
                yield everything, values
            return everything[int(memory.worth) :]
        # twice: of one picture alone, what differs from picture to picture looks constant
        alone = ask.run(ask.windows(clean, first.expand(2), scouts), cost=cost)
        if len(everything) >= SAMPLED:
            _compare(ask, first, alone, told)
    except MethodRefusedError:
        raise
    except Exception as error:
        told.why = _fault(error)
        return everything
    todo, left = _divided(ask, scouts, cost, batch, told)
    if len(everything) == 1:
        if memory is not None:
            memory.worth = bool(todo)
        if todo:
            values = ask.run(ask.windows(clean, everything))
            _independent(ask, values, alone)
            told.engine = "incremental"
            yield everything, values
        return everything[len(todo) :]
    while todo:
        part = todo.pop(0)
        try:
            place, numbers = (part.numbers == first).nonzero(), part.filled
            # two again would hide what depends on their number
            if len(place) and batch != 1 and part.size < 3:
                numbers = torch.cat([numbers, numbers[-1:].expand(3 - part.size)])
            values = ask.run(ask.windows(clean, numbers))
            values = {key: value[: len(part.numbers)] for key, value in values.items()}
            if len(place) and len(numbers) > 1:
                _independent(ask, alone, {key: value[int(place[0]) :] for key, value in values.items()})
        except MethodRefusedError:
            raise
        except Exception as error:
            told.why = told.why or _fault(error)
            left += [part, *todo]
            break
        yield part.numbers, values
        told.engine = "incremental"
    if left and told.engine == "incremental":
        told.engine = "incremental + plain"
    return torch.cat([part.numbers for part in left]) if left else everything[:0]


def _divided(
    ask: Asked, scouts: Scouts, cost: Cost, batch: int | None, told: Report
) -> tuple[list[Batch], list[Batch]]:
    """Batches worth the cutting and pasting, and those that are not."""
    tail = suggested_batch(ask.x) * 2 if cost.after_price > MOSTLY * cost.picture.price else 64
    room = BUDGET / ask.x.element_size()
    each, picture = dispatch(ask.x.device, alone=len(ask.boxes) == 1), cost.picture
    planned = scouts.batches(cost, batch or min(tail, 64), each, math.inf if batch else room)
    todo = [part for part in planned if part.price(each) * WORTH <= picture.price]
    left = [part for part in planned if part.price(each) * WORTH > picture.price]
    spent = sum(len(p.numbers) * min(p.work.multiplied, picture.multiplied) for p in planned)
    told.limit = picture.multiplied * len(ask.boxes) / spent if spent else 1.0
    told.dense = cost.dense
    if left:
        told.why = f"windows would save too little (limit {told.limit:.2f})"
    return todo, left


def _outermost(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The number (1,) of the box that leaves most of the picture alone: it and the corner nearest to it."""
    top, left, bottom, right = boxes.unbind(1)
    rows = torch.minimum(bottom, size[0] - top)
    return (rows * torch.minimum(right, size[1] - left)).argmin()[None]


def _fault(error: Exception) -> str:
    return f"the windows cannot be followed ({str(error).splitlines()[0][:100]})"


def _compare(ask: Asked, numbers: Tensor, values: Values, told: Report) -> None:
    """Whole pictures for a few of the boxes, and the plain way for all where the numbers differ."""
    worst = told.deviation = _apart(values, ask.run(ask.pictures(numbers), packed=False))
    if ask.packed.dtype is None and not worst < _rounding(ask):
        raise WritesIntoWindow(f"they differ from whole pictures by {worst:.1e}")


def _apart(values: Values, known: Values) -> float:
    """The largest difference of the first answers to known ones, as a share of the largest number there."""
    shares = [0.0]
    for key, value in known.items():
        off = (values[key][: len(value)] - value).abs().max()
        shares.append(float(off / value.abs().max().clamp(min=1e-12)))
    return max(shares, key=lambda share: math.inf if math.isnan(share) else share)


def _rounding(ask: Asked) -> float:
    """How far rounding may set two ways to one answer apart."""
    return 1e4 * torch.finfo(ask.x.dtype).eps


def _plain(ask: Asked, left: Tensor, size: int, told: Report) -> Iterator[tuple[Tensor, Values]]:
    """Whole pictures, batch by batch."""
    exact, first = ask.packed.dtype is None, True
    # channels last or not, packed or not: packing lets `view` pass and costs a little for every operator
    ways = [(True, False), (True, True), (False, False)] if exact else [(True, True), (False, False)]
    for numbers in even(left, size):
        pictures = ask.pictures(numbers)
        values = _first_of(ways, ask, pictures)
        if first and told.deviation is None and not exact:
            _compare(ask, numbers[:1], values, told)
        if first and len(numbers) > 1:
            alone = ask.run(pictures[:1], packed=not exact)
            if exact and ways[0][0] and not _apart(values, alone) < _rounding(ask):
                del ways[:-1]  # what writes into views may write into copies with channels last
                values = _first_of(ways, ask, pictures)
            _independent(ask, alone, values)
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


def _independent(ask: Asked, alone: Values, together: Values) -> None:
    """Refuse a network whose answer for one picture depends on the others of its batch."""
    most = 1e-2 if ask.packed.dtype is not None else min(1e-2, _rounding(ask))
    if _apart(together, {key: value[:1] for key, value in alone.items()}) > most:
        raise MethodRefusedError(
            "the network's answer for a picture depends on the other pictures of the batch",
            "networks that treat each picture of a batch alone",
            "batch norm with running statistics (track_running_stats=True), layer or group norm",
        )
