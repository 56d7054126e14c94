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
        self._met = torch.zeros(0, dtype=torch.int64)  # in the order in which they came
        self._place = torch.full((classes,), -1)
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
        self._pictures += torch.bincount(rows, minlength=len(self._pictures))

    @property
    def met(self) -> Tensor:
        """The classes that were met (m,) int64, by number."""
        return self._met.sort().values

    @property
    def pictures(self) -> Tensor:
        """Pictures of each class, (classes,) int64."""
        own = self._pictures[: len(self._met)]
        return torch.zeros(self.count, dtype=torch.int64).index_put_((self._met,), own)

    def means(self) -> Means:
        """Both means, NaN for classes without pictures."""
        both = (t.taken(self._place[self._met]).value() for t in (self._peaks, self._means))
        none, pictures = torch.full((self.count, self.units), torch.nan, dtype=torch.float64), self.pictures
        return Means(*(none.index_put((self._met,), t / pictures[self._met, None]) for t in both))

    def merge(self, other: ClassMeans) -> None:
        """Add the sums over other pictures."""
        _alike("classes", self.count, other.count)
        _alike("units", self.units, other.units)
        rows, theirs = self._rows(other._met), other._place[other._met]
        self._peaks.merge(other._peaks.taken(theirs), rows)
        self._means.merge(other._means.taken(theirs), rows)
        self._pictures[rows] += other._pictures[theirs]

    def state(self) -> dict[str, Tensor]:
        """`size` (units, classes), the classes that were `met`, their `pictures`, and the digits of both sums."""
        size = torch.tensor([self.units, self.count])
        rows = self._place[self.met]
        own = {"size": size, "met": self.met, "pictures": self._pictures[rows]}
        return own | _named("peaks", self._peaks.taken(rows)) | _named("means", self._means.taken(rows))

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ClassMeans:
        """The reducer that `state` described."""
        made = cls(*state["size"].tolist())
        made._met, made._pictures = state["met"].clone(), state["pictures"].clone()
        made._place[made._met] = torch.arange(len(made._met))
        made._peaks, made._means = _sum_of("peaks", state), _sum_of("means", state)
        return made

    def _rows(self, labels: Tensor) -> Tensor:
        """Where the sums of these classes stand; those that are new get theirs, in tables that double when full."""
        new = torch.tensor(sorted({*labels[self._place[labels] < 0].tolist()}), dtype=torch.int64)
        if len(new):
            held, room = len(self._met), len(self._pictures)
            self._met = torch.cat([self._met, new])
            self._place[new] = torch.arange(held, len(self._met))
            if len(self._met) > room:
                more, at = min(self.count, max(len(self._met), 2 * room)), torch.arange(room)
                self._peaks, self._means = (t.placed(more, at) for t in (self._peaks, self._means))
                self._pictures = torch.nn.functional.pad(self._pictures, (0, more - room))
        return self._place[labels]


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
