"""The colour case study in words: what was measured, and beside it, kept apart, what is known of seeing."""

from __future__ import annotations

from collections.abc import Sequence

from cutaway.core.errors import UsageError

from .colour_study import LayerColour, Palette, apart, overlap
from .opponent import OpponentAxis

EARLY = (
    "In primates, too, signals of the three cone types are compared with one another before they reach the cortex: "
    "cells of the thalamus respond along two axes of colour and one of brightness (Derrington, Krauskopf and Lennie "
    "1984, in macaques). In the primary visual cortex, V1, some cells respond to one colour, others to a border "
    "between two (Shapley and Hawken 2011)."
)
EARLY_LIMIT = (
    "The likeness is one of form. The axes above are axes of RGB pictures, not of cones, and a neuron feature is a mean "
    "of pictures, not a wiring."
)
MIDDLE = (
    "In V2 of macaques, neighbouring places prefer neighbouring hues (Xiao, Wang and Felleman 2003): hue is coded more "
    "finely than by two opponent pairs."
)
LATE = (
    "Farther on, in V4 and beside it, macaques have patches of cells that prefer colour and are tuned to shape as well "
    "(Conway, Moeller and Tsao 2007)."
)
LIMIT = (
    "None of these numbers says that a layer is an area of the brain; they compare what is coded, not how. They depend "
    "on the pictures that the network was asked with."
)


def parallel(layers: Sequence[LayerColour], pictures: Palette) -> str:
    """The measured numbers of layers, shallow first, beside what is known of primate vision; paragraphs of English.

    Every number comes from the measurement, except years and the names of brain areas; knowledge from elsewhere
    stands in sentences of its own, with its source.
    """
    if not layers:
        raise UsageError("no layer", "one or more, shallow first", "the layers of an atlas")
    parts = [_rule(layers[0]), _layer(layers[0]), f"{EARLY} {EARLY_LIMIT}"]
    for layer in layers[1:]:
        parts.append(_layer(layer))
    parts.append(_data(layers, pictures))
    if len(layers) > 1:
        parts += [MIDDLE, _depth(layers)]
        if any(layer.shapes is not None for layer in layers):
            parts.append(_shape(layers))
        parts.append(LATE)
    return "\n\n".join([*parts, LIMIT])


def _rule(layer: LayerColour) -> str:
    return (
        "A colour unit is one that loses at least "
        f"{layer.threshold:.0%} of its activity when its best pictures are made grey. A neuron feature is the mean of a "
        "unit's best patches, weighted by its activity."
    )


def _layer(layer: LayerColour) -> str:
    count, total = int(layer.colour.sum()), len(layer.alphas)
    said = [f"{layer.name}: {count} of {_many(total, 'living unit')} ({layer.share:.0%}) {_are(count)}."]
    if count:
        none, single, double = layer.split()
        opposite = f" ({layer.opposite()} of them two opposite hues)" if double else ""
        said.append(
            f"Of their features, {single} {_have(single)} one hue, {double} {_have(double)} two or more{opposite}, and "
            f"{none} {_have(none)} none that stands out."
        )
    named = layer.named_axes()
    if named:
        said.append(
            f"Of six axes, these are nearest to their main axes of chroma: "
            f"{_list([f'{name} {number}' for name, number in named])}."
        )
    rest = total - count
    if rest:
        said.append(
            f"The other {_many(rest, 'unit')} {'keeps' if rest == 1 else 'keep'} more than "
            f"{1 - layer.threshold:.0%} of {'its' if rest == 1 else 'their'} activity without colour."
        )
    return " ".join(said)


def _data(layers: Sequence[LayerColour], pictures: Palette) -> str:
    said = []
    if pictures.axes is None:
        return "The pictures asked hold no colour, so a bias towards their colours cannot be told."
    first = pictures.axes[0]
    said.append(
        f"The pictures themselves vary most along {_axis(first)}, which holds {first.share:.0%} of their chroma."
    )
    for layer in layers:
        if layer.palette.axes is None:
            said.append(f"The neuron features of {layer.name} are grey.")
            continue
        own = layer.palette.axes[0]
        said.append(
            f"The features of {layer.name} vary most along {_axis(own)} ({own.share:.0%}), "
            f"{_many(round(apart(own, first)), 'degree')} from it; their hues and those of the pictures have "
            f"{overlap(layer.palette.hues, pictures.hues):.0%} in common."
        )
    return " ".join(said)


def _depth(layers: Sequence[LayerColour]) -> str:
    first, last = layers[0], layers[-1]
    change = last.share - first.share
    if abs(change) < 0.005:
        trend = f"The share of colour units is the same in {first.name} and {last.name}, {first.share:.0%}."
    else:
        verb = "rises" if change > 0 else "falls"
        trend = (
            f"From {first.name} to {last.name} the share of colour units {verb} from {first.share:.0%} to "
            f"{last.share:.0%}."
        )
    shares = [layer.share for layer in layers]
    if shares in (sorted(shares), sorted(shares, reverse=True)):
        return trend
    return f"{trend} It does not go one way in between."


def _shape(layers: Sequence[LayerColour]) -> str:
    said = []
    for layer in layers:
        if layer.shapes is None or not bool(layer.colour.any()):
            continue
        lost = float(layer.shapes[layer.colour].double().mean())
        said.append(f"{lost:.0%} in {layer.name}")
    if not said:
        return "No layer has a colour unit whose shape index was measured."
    return (
        "When the pixels of a patch are shuffled, its colours stay and its shape goes. Colour units then lose, on "
        f"average, {_list(said)}: what is lost depends on shape as well as on colour."
    )


def _axis(axis: OpponentAxis) -> str:
    return f"{axis.name} (at {axis.angle:.0f} degrees)"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _are(count: int) -> str:
    return "is a colour unit" if count == 1 else "are colour units"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
