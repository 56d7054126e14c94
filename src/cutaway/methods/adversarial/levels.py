"""Sizes of a change in 8-bit levels."""

from __future__ import annotations

from typing import Annotated

from cutaway.core.method import Range

Epsilon = Annotated[
    float, Range(0, 1, open_low=True), "largest change of a pixel, in [0, 1]; 1/255 is one level of 8 bits"
]


def too_small(epsilon: float, name: str = "epsilon") -> tuple[str, ...]:
    """The note for a bound, on the largest change or on its length, that no 8-bit picture can use.

    >>> too_small(1 / 255), too_small(0.003)
    ((), ('epsilon is 0.765 of one 8-bit level: rounded to whole levels within it, nothing is changed',))
    """
    levels = 255 * epsilon
    if levels > 1 - 1e-9:
        return ()
    return (
        f"{name} is {levels:.3g} of one 8-bit level: rounded to whole levels within it, nothing is changed",
    )
