"""Inference on pictures that differ from one picture in a window.

Occlusion, Shapley values, LIME and ablation ask for the network's answer with one box of the picture replaced by
something else, hundreds of times. They say which boxes and what fills them, and never build those pictures
themselves: how the answers are computed is the business of this module alone.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .errors import MethodRefusedError, UsageError
from .packed import Packed
from .window_alone import Alone, lined_up
from .window_asked import Asked, Values, check
from .window_asked import replaced as replaced
from .window_cost import Cost, dispatch
from .window_order import Batch, Scouts, bounds
from .window_order import suggested_batch as suggested_batch
from .window_tensor import Clean
from .window_whole import Report as Report
from .window_whole import alone, areas, company, compare, plain

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
LITTLE = 5.0
"""Setting up an operator on windows so often is what it costs to find out whether windows pay."""


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

    Raises `UsageError` for boxes that leave the picture, shapes that do not fit and a memory of another precision,
    `MethodRefusedError` for a network whose answer for one picture depends on the rest of its batch, or on chance:
    one picture of the first batch and one of a later batch are put beside themselves alone.

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
    if memory is not None and memory.packed.dtype is not _TYPES[precision]:
        raise UsageError(
            f"precision={precision!r} with a memory of another precision",
            "one precision for both",
            f"Memory({precision!r})",
        )
    masks = None
    if boxes.dtype == torch.bool:
        if boxes.shape[1:] != x.shape[-2:]:
            raise UsageError(f"masks of shape {tuple(boxes.shape)}", f"(n, H, W) of {tuple(x.shape[-2:])}")
        masks, boxes = boxes, bounds(boxes)
    if not boxes.is_floating_point():
        boxes = boxes.long()  # small integers cannot hold the size of a picture
    check(x, boxes, fill, layers, output, batch)
    boxes, fill = boxes.to("cpu", torch.int64), fill.to(x)
    packed = memory.packed if memory is not None else Packed(_TYPES[precision])
    ask = Asked(model, x, fill, tuple(layers), output, boxes, masks, packed)
    told = report if report is not None else Report()
    left, by = torch.arange(len(boxes)), alone(ask)
    if engine == "auto" and len(boxes):
        clean = memory.of(model, x) if memory is not None else Clean(x.detach(), 2, 3)
        if memory is not None and len(boxes) == 1:
            left = yield from _stroke(ask, told, clean, memory, by)
        else:
            left = yield from _changing(ask, batch, told, clean, by)
    if len(left):
        yield from plain(ask, left, batch or suggested_batch(x), told, by)


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


def _stroke(
    ask: Asked, told: Report, clean: Clean, memory: Memory, by: Alone
) -> Generator[tuple[Tensor, Values], None, Tensor]:
    """The answer for one window, where following it is worth it; returns the numbers of the boxes that are left."""
    only = torch.tensor([0])
    try:
        if memory.worth is None:
            scouts, cost = Scouts(ask.boxes), Cost()
            pair = ask.run(ask.windows(clean, only.expand(2), scouts), cost=cost)
            memory.worth = bool(_divided(ask, scouts, cost, None, told)[0])
            values = ask.run(ask.windows(clean, only)) if memory.worth else {}
            if memory.worth:
                memory.worth = False  # unless they agree with a whole picture
                compare(ask, by, 0, pair, told)
                company(ask, by).check(0, 0, values, fast=ask.packed.dtype is not None)
                memory.worth = True
        else:
            values = ask.run(ask.windows(clean, only)) if memory.worth else {}
    except MethodRefusedError:
        raise
    except Exception as error:
        told.why = _fault(error)
        return only
    if not memory.worth:
        told.why = "one window would save too little"
        return only
    told.engine = "incremental"
    yield only, values
    return only[:0]


def _changing(
    ask: Asked, batch: int | None, told: Report, clean: Clean, by: Alone
) -> Generator[tuple[Tensor, Values], None, Tensor]:
    """Answers that recompute only what a window changes; returns the numbers of the boxes that are left.

    One window goes ahead and takes the intervals of all others with it, which tells how large each becomes. Before
    it goes a whole picture, known to `by` from then on: it tells whether there is work to save, and is compared.
    """
    everything = torch.arange(len(ask.boxes))
    first, scouts, cost = _outermost(ask.boxes, clean.size), Scouts(ask.boxes), Cost()
    number, fast = int(first), ask.packed.dtype is not None
    try:
        by.known[number] = ask.run(ask.pictures(first), packed=False, cost=cost)
        if len(everything) == 1 or _little(ask, cost):
            told.why = "they are too little work for windows to save any"
            return everything
        # twice: of one picture alone, what differs from picture to picture looks constant
        cost = Cost()
        pair = ask.run(ask.windows(clean, first.expand(2), scouts), cost=cost)
        compare(ask, by, number, pair, told)
    except MethodRefusedError:
        raise
    except Exception as error:
        told.why = _fault(error)
        return everything
    like = company(ask, by)
    like.known.setdefault(number, {key: value[:1] for key, value in pair.items()})
    todo, left = _divided(ask, scouts, cost, batch, told)
    parts = lined_up([part.numbers for part in todo], like.known, areas(ask.boxes)) if todo else []
    for turn, (which, numbers, place) in enumerate(parts):
        filled = replace(todo[which], numbers=numbers).filled
        if place is not None and len(filled) == 2:  # a third: the one checked is neither first nor last
            filled = torch.cat([filled, filled[:1]])
        try:
            values = ask.run(ask.windows(clean, filled))
            if place is not None:
                like.check(int(numbers[place]), place, values, fast=fast)
        except MethodRefusedError:
            raise
        except Exception as error:
            told.why = told.why or _fault(error)
            left += [todo[i] for i, _, _ in parts[turn:]]
            break
        yield numbers, {key: value[: len(numbers)] for key, value in values.items()}
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
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return f"the windows cannot be followed ({said[:100]})"


def _little(ask: Asked, cost: Cost) -> bool:
    """Whether whole pictures are so little work that a window going ahead costs more than windows could save."""
    top, left, bottom, right = ask.boxes.unbind(1)
    shares = (bottom - top) * (right - left) / ask.x[0, 0].numel()
    saved = cost.picture.price * float((1 - WORTH * shares).clamp(min=0).sum())
    return saved < LITTLE * cost.operators * dispatch(ask.x.device)
