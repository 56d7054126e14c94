"""The progress of a piece of work as part of a longer one."""

from __future__ import annotations

from typing import TypeVar

from cutaway.core.progress import Enough, Progress, Steps

T = TypeVar("T")


def part(steps: Steps[T], before: int, own: int, total: int) -> Steps[T]:
    """The same work as a piece of `own` units of a work of `total`, of which `before` came before it.

    What is thrown in at a step reaches the piece, which may end early.

    >>> def piece():
    ...     yield Progress(1, 2, note="half")
    ...     return "done"
    >>> work = part(piece(), 3, 1, 4)
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
                before * step.total + own * step.done, max(total * step.total, 1), step.preview, step.note
            )
        except Enough as enough:
            wish = enough
