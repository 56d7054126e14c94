"""Statistics of every unit that merge to the bit: any order and any partition of the pictures gives the same state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from ..core.errors import UsageError
from .exact import ExactSum
from .sketch import BUCKETS, Sketch
from .tallies import Confusion, Tallies
from .topk import TopK

if TYPE_CHECKING:
    from .seen import Seen


_LAST = torch.iinfo(torch.int64).max  # no picture comes after every picture


class Reducer(Protocol):
    """A statistic that takes in batches, joins with others and is stored as plain tensors."""

    def update(self, *batch: Any, **more: Any) -> None:
        """Take in one batch: a `Seen`, or what the reducer says."""

    def merge(self, other: Self) -> None:
        """Take in what another saw, in place."""

    def state(self) -> dict[str, Tensor]:
        """Everything there is to know, as tensors; equal statistics have equal ones."""

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Self:
        """The reducer that `state` described."""


class Extremes:
    """The lowest and highest activation of each unit, and the picture of each; ties go to the lowest picture.

    Takes `lows` and `peaks` of a `Seen`, which must be finite; 24 bytes a unit.
    """

    def __init__(self, units: int) -> None:
        self._best = torch.full((2, units), -torch.inf)  # highs, and lows with their sign turned
        self._pictures = torch.full((2, units), -1, dtype=torch.int64)

    @property
    def highs(self) -> Tensor:
        """Highest activation (u,) float32, -inf before anything was seen."""
        return self._best[0]

    @property
    def lows(self) -> Tensor:
        """Lowest activation (u,) float32, inf before anything was seen."""
        return 0.0 - self._best[1]

    @property
    def high_pictures(self) -> Tensor:
        """Picture of the highest activation (u,) int64, -1 before anything was seen."""
        return self._pictures[0]

    @property
    def low_pictures(self) -> Tensor:
        """Picture of the lowest activation (u,) int64, -1 before anything was seen."""
        return self._pictures[1]

    def update(self, seen: Seen) -> None:
        """Take in a batch."""
        if not len(seen.ids):
            return
        values = torch.stack([seen.peaks, -seen.lows], 1) + 0.0  # no -0, whose bits would tell the order
        best = values.amax(0)
        self._take(best, torch.where(values == best, seen.ids[:, None, None], _LAST).amin(0))

    def merge(self, other: Extremes) -> None:
        """Take in the extremes of other pictures."""
        _alike("units", self._best.shape[1], other._best.shape[1])
        self._take(other._best, other._pictures)

    def state(self) -> dict[str, Tensor]:
        """`best` (2, u), the highs and the lows with their sign turned, and `pictures` (2, u)."""
        return {"best": self._best, "pictures": self._pictures}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Extremes:
        """The reducer that `state` described."""
        made = cls(0)
        made._best, made._pictures = state["best"].clone(), state["pictures"].clone()
        return made

    def _take(self, best: Tensor, pictures: Tensor) -> None:
        better = (best > self._best) | ((best == self._best) & (pictures < self._pictures))
        self._best = torch.where(better, best, self._best)
        self._pictures = torch.where(better, pictures, self._pictures)


class Moments:
    """Mean, root mean square and standard deviation of each unit over all places of all pictures.

    Takes `sums`, `squares` and `places` of a `Seen` and adds them exactly; 320 bytes a unit. Squares summed over a
    batch were rounded in that batch, so the same batches are needed for the same bits; given as (n, u), one row a
    picture, any batches do.
    """

    def __init__(self, units: int) -> None:
        self.places = 0
        self._sums, self._squares = ExactSum(units), ExactSum(units)

    def update(self, seen: Seen) -> None:
        """Take in a batch."""
        self._sums.add(seen.sums)
        self._squares.add(seen.squares)
        self.places += len(seen.ids) * seen.places

    def mean(self) -> Tensor:
        """Mean activation (u,) float64, NaN before anything was seen."""
        return self._sums.value() / self._count()

    def rms(self) -> Tensor:
        """Root mean square (u,) float64."""
        return (self._squares.value() / self._count()).sqrt()

    def std(self) -> Tensor:
        """Standard deviation (u,) float64, of the whole population; 0 below 1e-7 of the rms, where rounding begins."""
        power = self._squares.value() / self._count()
        variance = power - self.mean().square()
        return torch.where(variance <= 1e-14 * power, 0.0, variance).sqrt()

    def merge(self, other: Moments) -> None:
        """Add the sums over other pictures."""
        self._sums.merge(other._sums)
        self._squares.merge(other._squares)
        self.places += other.places

    def state(self) -> dict[str, Tensor]:
        """`places`, and the digits of both sums."""
        return {
            "places": torch.tensor(self.places),
            **_named("sums", self._sums),
            **_named("squares", self._squares),
        }

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Moments:
        """The reducer that `state` described."""
        made = cls(0)
        made.places = int(state["places"])
        made._sums, made._squares = _sum_of("sums", state), _sum_of("squares", state)
        return made

    def _count(self) -> float:
        return self.places or float("nan")


class Sketched:
    """The distribution of each unit's activation; takes `counts` of a `Seen`, gives a `Sketch`; 8 kilobytes a unit."""

    def __init__(self, units: int) -> None:
        self.sketch = Sketch(torch.zeros(units, BUCKETS, dtype=torch.int64))

    def update(self, seen: Seen) -> None:
        """Take in a batch."""
        self.sketch.merge(Sketch(seen.counts))

    def merge(self, other: Sketched) -> None:
        """Add the counts of other pictures."""
        self.sketch.merge(other.sketch)

    def state(self) -> dict[str, Tensor]:
        """`counts`."""
        return {"counts": self.sketch.counts}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Sketched:
        """The reducer that `state` described."""
        made = cls(0)
        made.sketch = Sketch(state["counts"].clone())
        return made


class Means(NamedTuple):
    """Means over the pictures of each class, (classes, u) float64: of the highest activation and of the mean one."""

    peak: Tensor
    mean: Tensor


class ClassMeans:
    """How strongly each unit answers each class.

    Takes `labels`, `peaks`, `sums` and `places` of a `Seen`; pictures labelled -1 are left out. Values are added to a
    multiple of 2^-64 and must stay below 2^64 in magnitude. Only classes that were met are held: 64 bytes for each
    pair of such a class and a unit, 320 megabytes for 5000 units and 1000 classes.

    Parameters
    ----------
    units, classes : how many there are of each.
    """

    def __init__(self, units: int, classes: int) -> None:
        self.units, self.count = units, classes
        self.met = torch.zeros(0, dtype=torch.int64)
        self._pictures = torch.zeros(0, dtype=torch.int64)
        self._peaks = ExactSum(0, units, low=-64, high=64)
        self._means = ExactSum(0, units, low=-64, high=64)

    def update(self, seen: Seen) -> None:
        """Take in a batch. Raises `UsageError` without labels and for a class that does not exist."""
        if seen.labels is None:
            raise UsageError(
                "pictures without labels", "a class number for each, -1 where it is not known", ""
            )
        known = seen.labels >= 0
        labels = seen.labels[known].long()
        if len(labels) and int(labels.max()) >= self.count:
            raise UsageError(f"a picture of class {int(labels.max())}", f"0 to {self.count - 1}", "")
        rows = self._rows(labels)
        self._peaks.add(seen.peaks[known], rows)
        self._means.add(seen.sums[known] / seen.places, rows)
        self._pictures += torch.bincount(rows, minlength=len(self.met))

    @property
    def pictures(self) -> Tensor:
        """Pictures of each class, (classes,) int64."""
        return torch.zeros(self.count, dtype=torch.int64).index_put_((self.met,), self._pictures)

    def means(self) -> Means:
        """Both means, NaN for classes without pictures."""
        both = (self._peaks.value(), self._means.value())
        none = torch.full((self.count, self.units), torch.nan, dtype=torch.float64)
        return Means(*(none.index_put((self.met,), t / self._pictures[:, None]) for t in both))

    def merge(self, other: ClassMeans) -> None:
        """Add the sums over other pictures."""
        _alike("classes", self.count, other.count)
        _alike("units", self.units, other.units)
        rows = self._rows(other.met)
        self._peaks.merge(other._peaks.placed(len(self.met), rows))
        self._means.merge(other._means.placed(len(self.met), rows))
        self._pictures[rows] += other._pictures

    def state(self) -> dict[str, Tensor]:
        """`size` (units, classes), the classes that were `met`, their `pictures`, and the digits of both sums."""
        size = torch.tensor([self.units, self.count])
        own = {"size": size, "met": self.met, "pictures": self._pictures}
        return own | _named("peaks", self._peaks) | _named("means", self._means)

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ClassMeans:
        """The reducer that `state` described."""
        made = cls(*state["size"].tolist())
        made.met, made._pictures = state["met"].clone(), state["pictures"].clone()
        made._peaks, made._means = _sum_of("peaks", state), _sum_of("means", state)
        return made

    def _rows(self, labels: Tensor) -> Tensor:
        """Where the sums of these classes stand; those that are new get theirs, by number."""
        both = torch.tensor(sorted({*self.met.tolist(), *labels.tolist()}), dtype=torch.int64)
        if len(both) > len(self.met):
            at = torch.searchsorted(both, self.met)
            self._peaks, self._means = (t.placed(len(both), at) for t in (self._peaks, self._means))
            self._pictures = torch.zeros_like(both).index_put_((at,), self._pictures)
            self.met = both
        return torch.searchsorted(self.met, labels)


REDUCERS: dict[str, type[Reducer]] = {
    "top": TopK,
    "extremes": Extremes,
    "moments": Moments,
    "sketch": Sketched,
    "classes": ClassMeans,
    "tallies": Tallies,
    "confusion": Confusion,
}
"""Every reducer by the name it is stored under."""


def _named(name: str, total: ExactSum) -> dict[str, Tensor]:
    return {f"{name}_{key}": tensor for key, tensor in total.state().items()}


def _sum_of(name: str, state: dict[str, Tensor]) -> ExactSum:
    return ExactSum.of({key: state[f"{name}_{key}"] for key in ("digits", "range")})


def _alike(what: str, mine: int, theirs: int) -> None:
    if mine != theirs:
        raise UsageError(f"a statistic of {theirs} {what}", f"{mine} {what}", "")
