"""What a unit answers at the same position when the pixels of its receptive field are changed.

Rafegas, Vanrell, Alexandre and Arias 2020, arXiv:1702.00382. A change takes pictures (k, 3, H, W) in [0, 1] and the
unclipped receptive field of a unit in each, and returns new pictures. Only pixels change: where a field reaches
beyond the picture, the network's own padding stays as it is, and mid-grey comes in from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.core.geometry import Box
from cutaway.core.image import luma
from cutaway.core.model import VisionModel
from cutaway.core.tap import Tap

from ..perturbation.motions import moved
from .fields import clipped, crops, grown, put
from .opponent import opponent

Change: TypeAlias = Callable[[Tensor, Sequence[Box]], Tensor]


def answers(
    model: VisionModel,
    layer: str,
    channel: int | Tensor,
    pictures: Tensor,
    rows: Tensor,
    cols: Tensor,
    boxes: Sequence[Box] = (),
    change: Change | None = None,
    *,
    batch: int = 32,
) -> Tensor:
    """The activations (k,) of a layer's units at given positions of given pictures, changed before if asked.

    Parameters
    ----------
    channel : one for all, or (k,) one for each picture, so that many units of a layer share a pass.
    pictures : (k, 3, H, W) in [0, 1].
    rows, cols : (k,) positions of the layer's map; (0, 0) for a layer without one.
    boxes, change : receptive fields and what happens to them; nothing without a change.
    batch : pictures in one pass, which ends at the layer.

    The activation is the layer's map after the nonlinearity that directly follows. Raises `UnknownNameError` for a
    layer or channel that does not exist, `UsageError` for a position it does not have.

    >>> from cutaway import Preprocess
    >>> net = torch.nn.Conv2d(3, 1, 1, bias=False)
    >>> _ = torch.nn.init.ones_(net.weight)
    >>> model = VisionModel(torch.nn.Sequential(net), Preprocess(), name="sum")
    >>> one = torch.tensor([0])
    >>> answers(model, "0", 0, torch.full((1, 3, 4, 4), 0.25), one, one).tolist()
    [0.75]
    """
    count = len(pictures)
    channels = torch.full((count,), channel) if isinstance(channel, int) else channel
    if not count == len(channels) == len(rows) == len(cols) or (change is not None and len(boxes) != count):
        raise UsageError(
            f"{len(channels)} channels, {len(rows)} rows, {len(cols)} columns, {len(boxes)} fields "
            f"for {count} pictures",
            "one of each a picture",
        )
    found = [torch.zeros(0, dtype=model.dtype)]
    with model.guard(), torch.no_grad():
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            x = pictures[part].to(model.device, model.dtype)
            if change is not None:
                x = change(x, boxes[part])
            with Tap(model, layer, stop=True) as tap:
                model(x)
            maps = tap.maps(layer)
            maps = maps[:, :, None, None] if maps.ndim == 2 else maps
            if maps.ndim != 4:
                raise UsageError(f"layer {layer!r} gives {tuple(maps.shape)}", "maps or one number a unit")
            at = [t[part].long().to(maps.device) for t in (channels, rows, cols)]
            _within(layer, at, maps)
            values = maps[torch.arange(len(x), device=maps.device), at[0], at[1], at[2]]
            model.check_finite(values, x)
            found.append(values.cpu())
    return torch.cat(found)


def _within(layer: str, at: Sequence[Tensor], maps: Tensor) -> None:
    for what, index, count in zip(("channel", "row", "column"), at, maps.shape[1:], strict=True):
        wrong = index[(index < 0) | (index >= count)]
        if len(wrong):
            kind = UnknownNameError if what == "channel" else UsageError
            raise kind(f"{what} {int(wrong[0])} of layer {layer!r}", f"0 to {count - 1}")


def grey(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The whole picture in grey, all three channels at its luminance 0.299 R + 0.587 G + 0.114 B.

    Raises `UsageError` for pictures without colour channels.
    """
    return luma(_rgb(pictures)).expand_as(pictures).clone()


def brightness_grey(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The whole picture in the grey of its opponent brightness O1: all three channels at (R + G + B) / 3.

    A filter that weighs R, G and B alike answers it as it answers the picture. Raises as `grey` does.
    """
    return _rgb(pictures).mean(1, keepdim=True).expand_as(pictures).clone()


def principal_grey(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Each field in the grey that keeps most of its contrast: its first principal component in opponent space.

    For a field with colours o = (O1, O2, O3), mean m and first axis v (signed so that brighter stays brighter), a
    pixel becomes the grey level of brightness O1 = m_1 + (o - m) . v, clipped to [0, 1]. So two hues of equal
    brightness stay apart, which luminance would merge. A grey field stays as it is; the authors stretch the result to
    the full range, which this does not.
    """
    patches = []
    for patch, box in zip(_parts(pictures, boxes), boxes, strict=True):
        inside = clipped(box, pictures)
        if inside is None:
            patches.append(patch)
            continue
        top, left = inside.top - box.top, inside.left - box.left
        seen = patch[:, top : top + inside.height, left : left + inside.width]
        o = opponent(seen).double().flatten(1)
        mean = o.mean(1, keepdim=True)
        spread = o - mean
        energy, vectors = torch.linalg.eigh(spread @ spread.T)
        axis = vectors[:, -1] if float(energy[-1]) > 1e-12 else o.new_tensor([1.0, 0.0, 0.0])
        lead = axis[0] if float(axis[0].abs()) > 1e-9 else axis[axis.abs().argmax()]
        level = (mean[0] + (axis * lead.sign()) @ spread + 1) / 2
        patch = patch.clone()
        patch[:, top : top + inside.height, left : left + inside.width] = (
            level.clamp(0, 1).reshape(1, *seen.shape[1:]).to(patch)
        )
        patches.append(patch)
    return put(pictures, boxes, patches)


def turned(degrees: float) -> Change:
    """The field turned anticlockwise about its centre; quarter turns of a square field are exact.

    Its corners are filled with the pixels of the picture that turn into them, mid-grey beyond the picture.

    >>> x = torch.arange(4.0).reshape(1, 1, 2, 2) / 4
    >>> turned(90)(x, [Box(0, 0, 1, 1)]).tolist()
    [[[[0.25, 0.75], [0.0, 0.5]]]]
    """

    def change(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
        patches = []
        for picture, box in zip(pictures, boxes, strict=True):
            margin = math.ceil((math.hypot(box.height, box.width) - min(box.height, box.width)) / 2)
            wide = crops(picture[None], [grown(box, margin)])
            round_ = moved(wide, "rotation", torch.tensor([degrees]), "grey")[0]
            patches.append(round_[:, margin : margin + box.height, margin : margin + box.width])
        return put(pictures, boxes, patches)

    return change


def mirrored(axis: Literal["horizontal", "vertical"]) -> Change:
    """The field mirrored at its horizontal axis (upside down) or its vertical axis (left and right exchanged).

    >>> x = torch.arange(4.0).reshape(1, 1, 2, 2) / 4
    >>> mirrored("vertical")(x, [Box(0, 0, 1, 1)]).tolist()
    [[[[0.25, 0.0], [0.75, 0.5]]]]
    """

    def change(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
        dim = 1 if axis == "horizontal" else 2
        return put(pictures, boxes, [patch.flip(dim) for patch in _parts(pictures, boxes)])

    return change


def shuffled(seed: int = 0) -> Change:
    """The pixels of the field, colours kept, in another order; what the picture lacks takes no part.

    The order depends on the seed and the number of pixels alone, not on the batch.
    """

    def change(pictures: Tensor, boxes: Sequence[Box]) -> Tensor:
        inside = [clipped(box, pictures) for box in boxes]
        patches, places = [], []
        for picture, box in zip(pictures, inside, strict=True):
            place = box or Box(0, 0, 0, 0)
            patch = crops(picture[None], [place])[0]
            count = place.height * place.width
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
            patches.append(patch.flatten(1)[:, order.to(patch.device)].reshape(patch.shape))
            places.append(place)
        return put(pictures, places, patches)

    return change


def _parts(pictures: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
    """The field of each picture at its own size, mid-grey beyond the picture."""
    return [crops(picture[None], [box])[0] for picture, box in zip(pictures, boxes, strict=True)]


def _rgb(pictures: Tensor) -> Tensor:
    if pictures.shape[1] != 3:
        raise UsageError(f"pictures with {pictures.shape[1]} channel", "RGB", "a network that sees colour")
    return pictures
