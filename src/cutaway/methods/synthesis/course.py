"""The progress of a piece of work as part of a longer one."""

from __future__ import annotations

from typing import TypeVar

from cutaway.core.progress import Enough, Progress, Steps

T = TypeVar("T")


def part(steps: Steps[T], number: int, count: int) -> Steps[T]:
    """The same work as the `number`-th, from 0, of `count` pieces of equal length.

    What is thrown in at a step reaches the piece, which may end early.

    >>> def piece():
    ...     yield Progress(1, 2, note="half")
    ...     return "done"
    >>> work = part(piece(), 3, 4)
    >>> next(work).fraction
    0.875
    """
    wish: Enough | None = None
    while True:
        try:
            step = next(steps) if wish is None else steps.throw(wish)
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            wish = None
            yield Progress(
                number * step.total + step.done, max(count * step.total, 1), step.preview, step.note
            )
        except Enough as enough:
            wish = enough
