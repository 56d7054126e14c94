"""Inference on pictures that differ from one picture in a window.

Occlusion, Shapley values, LIME and ablation ask for the network's answer with one box of the picture replaced by
something else, hundreds of times. They say which boxes and what fills them, and never build those pictures
themselves: how the answers are computed is the business of this module alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import InputError, MethodRefusedError, UsageError
from .tap import Tap

if TYPE_CHECKING:
    from .model import VisionModel

Values = dict[str | None, Tensor]
"""The network's output under None, activations as maps under the names of their layers."""

_PIXELS = 8 * 224 * 224
"""Pixels of one batch on a processor: a larger one leaves the cache and costs more for each picture."""
_PIXELS_GPU = 64 * 224 * 224
_LARGEST = 256


def evaluate(
    model: VisionModel,
    x: Tensor,
    boxes: Tensor,
    fill: Tensor,
    *,
    layers: Sequence[str] = (),
    output: bool = True,
    batch: int | None = None,
) -> Iterator[tuple[Tensor, Values]]:
    """The network's answers with one box of a picture replaced, batch by batch.

    Yields (numbers, values): the numbers (m,) of boxes, each box once and in no promised order, and for each
    what was asked, (m, ...). An empty box is the picture as it is. Values are those of the network run on each
    whole picture, within rounding (1e-5 relative in float32), whatever the batch and the order. At most one
    batch is in memory. No gradient is kept.

    Parameters
    ----------
    x : the picture, (1, C, H, W) pixels in [0, 1].
    boxes : (n, 4) whole numbers: top, left, bottom, right; the last two excluded.
    fill : (C, H, W) pixels in [0, 1]; the part inside a box replaces it.
    layers : activations to read as well, as `Tap.maps` gives them.
    output : whether the network's output is wanted; without it the pass ends at the last of `layers`.
    batch : boxes at a time; chosen by the picture's size when None.

    Raises `UsageError` for boxes that leave the picture and shapes that do not fit, `MethodRefusedError` for a
    network whose answer for one picture depends on the rest of its batch.

    >>> from torch import nn
    >>> from cutaway.core.model import VisionModel
    >>> from cutaway.core.preprocess import Preprocess
    >>> net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    >>> model = VisionModel(net, Preprocess(), name="mean of each colour")
    >>> boxes = torch.tensor([[0, 0, 0, 0], [0, 0, 2, 4]])
    >>> for numbers, values in evaluate(model, torch.ones(1, 3, 4, 4), boxes, torch.zeros(3, 4, 4)):
    ...     print(numbers.tolist(), values[None][:, 0].tolist())
    [0, 1] [1.0, 0.5]
    """
    _check(x, boxes, fill, layers, output, batch)
    size = batch or suggested_batch(x)
    packed = True
    for first in range(0, len(boxes), size):
        numbers = torch.arange(first, min(first + size, len(boxes)))
        pictures = replaced(x, boxes[numbers], fill)
        if packed:
            # convolutions on a processor run up to three times as fast with channels last
            try:
                values = _run(model, pictures.contiguous(memory_format=torch.channels_last), layers, output)
            except InputError:  # a network that reshapes by `.view` wants rows last; other faults raise again
                packed = False
        if not packed:
            values = _run(model, pictures, layers, output)
        if first == 0 and len(numbers) > 1:
            _independent(_run(model, pictures[:1], layers, output), values)
        yield numbers, values
        del pictures, values  # gone before the next batch is made


def replaced(x: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """One copy of the picture (1, C, H, W) for each box (m, 4), with the pixels of `fill` inside it: (m, C, H, W)."""
    pictures = x.detach().repeat(len(boxes), 1, 1, 1)
    for picture, (top, left, bottom, right) in zip(pictures, boxes.tolist(), strict=True):
        picture[:, top:bottom, left:right] = fill[:, top:bottom, left:right]
    return pictures


def suggested_batch(x: Tensor) -> int:
    """How many pictures of this size to evaluate at a time."""
    pixels = _PIXELS_GPU if x.device.type == "cuda" else _PIXELS
    return max(1, min(_LARGEST, pixels // (x.shape[-1] * x.shape[-2])))


def _run(model: VisionModel, pictures: Tensor, layers: Sequence[str], output: bool) -> Values:
    with torch.no_grad():
        if not layers:
            return {None: model(pictures)}
        values: Values = {}
        with Tap(model, *layers, stop=not output) as tap:
            values[None] = model(pictures)
        return values | {name: tap.maps(name) for name in layers}


def _independent(alone: Values, together: Values) -> None:
    """Refuse a network whose answer for one picture depends on the others of its batch."""
    for key, value in alone.items():
        other = together[key][:1]
        scale = float(value.abs().max().clamp(min=1e-12))
        if float((value - other).abs().max()) > 1e-2 * scale:
            raise MethodRefusedError(
                "the network's answer for a picture depends on the other pictures of the batch",
                "networks that treat each picture of a batch alone",
                "batch norm with running statistics (track_running_stats=True), layer or group norm",
            )


def _check(
    x: Tensor, boxes: Tensor, fill: Tensor, layers: Sequence[str], output: bool, batch: int | None
) -> None:
    if x.ndim != 4 or len(x) != 1:
        raise UsageError(f"a picture of shape {tuple(x.shape)}", "one picture, (1, C, H, W)")
    if fill.shape != x.shape[1:]:
        raise UsageError(f"a fill of shape {tuple(fill.shape)}", f"the picture's {tuple(x.shape[1:])}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_floating_point():
        raise UsageError(f"boxes of shape {tuple(boxes.shape)} and {boxes.dtype}", "(n, 4) whole numbers")
    height, width = x.shape[-2:]
    top, left, bottom, right = boxes.unbind(1)
    inside = (
        (top >= 0) & (top <= bottom) & (bottom <= height) & (left >= 0) & (left <= right) & (right <= width)
    )
    if not bool(inside.all()):
        bad = boxes[~inside][0].tolist()
        raise UsageError(
            f"box {bad} on a picture of {height}x{width}", "0 <= top <= bottom <= height, and across"
        )
    if not (layers or output):
        raise UsageError("neither the output nor a layer is wanted", "output=True, or layers")
    if batch is not None and batch < 1:
        raise UsageError(f"batch={batch}", "at least 1")
