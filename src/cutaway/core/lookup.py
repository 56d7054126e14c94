"""Classes and channels looked up in a model, by name and by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import UnknownNameError, unknown

if TYPE_CHECKING:
    from .model import VisionModel


def class_index(name: str, classes: Sequence[str]) -> int:
    """The number of a class by its name, ignoring case; raises with the nearest or the several that fit.

    >>> class_index("tabby", ["tabby, tabby cat", "tiger cat"])
    0
    """
    if not classes:
        raise UnknownNameError(
            f"class {name!r}: the model has no class names", "a class number", "--classes FILE"
        )
    wanted = _fold(name)
    hits = [i for i, c in enumerate(classes) if _fold(c) == wanted]
    hits = hits or [i for i, c in enumerate(classes) if wanted in map(_fold, c.split(","))]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise UnknownNameError(
            f"class name {name!r} is ambiguous",
            " or ".join(f"{i} ({classes[i]!r})" for i in hits),
            f"{hits[0]}",
        )
    parts = {p.strip(): i for i, c in enumerate(classes) for p in [c, *c.split(",")]}
    containing = [p for p in parts if wanted in _fold(p)]
    if len(containing) > 1 and len(containing) <= 8:
        raise UnknownNameError(
            f"no class named {name!r}", "containing it: " + ", ".join(containing), repr(containing[0])
        )
    raise unknown("class", name, parts)


def _fold(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def channel_in_range(model: VisionModel, layer: str, index: int) -> None:
    """Raise `UnknownNameError` for a channel that the layer does not have."""
    width = model.layers.find(layer).units
    if not 0 <= index < width:
        raise UnknownNameError(
            f"channel {index} of {layer!r} is out of range", f"0 to {width - 1}", f"{layer}:{width - 1}"
        )
