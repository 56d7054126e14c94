"""The maps of several layers from one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.core.model import VisionModel
from cutaway.core.tap import Tap


def capture(model: VisionModel, x: Tensor, layers: list[str], *, raw: bool = False) -> dict[str, Tensor]:
    """The maps (N, C, h, w) of named layers, all from one pass that ends at the last of them.

    `raw` gives the layers' own output, before the nonlinearity that follows.
    Raises `UnknownNameError` for a layer that does not exist, `UsageError` for one whose output is a tuple (a
    recurrent layer) or has no rows and columns.
    """
    for name in layers:
        if model.layers.find(name).layout not in ("map", "nhwc", "tokens"):
            raise _no_maps(model, name)
    with torch.no_grad(), Tap(model, *layers, stop=True, raw=raw) as tap:
        model(x)
    found = {name: tap.maps(name) for name in layers}
    for name, maps in found.items():
        if maps.ndim != 4:
            raise _no_maps(model, name)
    return found


def named(model: VisionModel, layers: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The layers a person wrote, joined by commas; the suggested one, with the reason, when None."""
    if layers is None:
        layer, why = model.layers.suggest()
        return [layer], (f"layer {layer}: {why}",)
    names = [part.strip() for part in layers.split(",") if part.strip()]
    if not names:
        raise UsageError(f"layers={layers!r}", "names of layers joined by commas", "layers=conv1")
    return list(dict.fromkeys(names)), ()


def _no_maps(model: VisionModel, name: str) -> UsageError:
    shape = model.layers.find(name).shape[1:]
    return UsageError(
        f"layer {name!r} gives {' x '.join(map(str, shape)) or 'one number'} per picture, no maps",
        "a layer whose output has rows and columns",
        repr(model.layers.suggest()[0]),
    )
