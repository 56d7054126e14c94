"""Long work is a generator of Progress; one source for notebooks, command line and studio."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is: `done` of `total` steps, an optional preview and a short note."""

    done: int
    total: int
    preview: Any = None
    note: str = ""

    @property
    def fraction(self) -> float:
        """Share of the work done, 0 to 1."""
        return self.done / self.total if self.total else 1.0


class Enough(Exception):  # noqa: N818 - a wish, not a failure
    """Thrown into a piece of work at one of its steps: stop here and return what there is."""


Steps = Generator[Progress, None, T]
"""Work that yields `Progress` and returns its result."""


def finish(steps: Steps[T], watch: Callable[[Progress], None] | None = None) -> T:
    """Run a piece of work to its end and return its result, showing each `Progress` to `watch`.

    Where `watch` raises `Enough`, the work is told so; work that cannot stop early lets it out again.

    >>> def count():
    ...     for i in range(3):
    ...         yield Progress(i + 1, 3)
    ...     return "done"
    >>> seen = []
    >>> finish(count(), seen.append), len(seen)
    ('done', 3)
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
            if watch is not None:
                watch(step)
        except Enough as enough:
            wish = enough
