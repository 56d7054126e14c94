"""The strongest activations of every unit and where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError

if TYPE_CHECKING:
    from .seen import Seen


_TOGETHER = 64
"""Pictures whose candidates are sorted in at once, at least; sorting costs about the same for one as for many."""

_Array = np.ndarray[Any, Any]
_Entries = tuple[Tensor, Tensor, Tensor, Tensor]


class TopK:
    """The k highest activations of each unit over all pictures, one of a picture, with their places.

    Order is by value, highest first; equal values by picture, row and column, lowest first: a total order, so every
    partition and order of the pictures gives the same table. Values must be finite. Memory: units · k · 20 bytes, and
    up to units · max(k, 64) · 36 for candidates that wait to be sorted in, which few do once many pictures were seen.

    Parameters
    ----------
    units, k : size of the table, k at least 1.
    """

    def __init__(self, units: int, k: int = 9) -> None:
        if k < 1:
            raise UsageError(f"k={k}", "at least 1", "k=9")
        self._table: _Entries = (
            torch.full((units, k), -torch.inf),
            torch.full((units, k), -1, dtype=torch.int64),
            torch.full((units, k), -1, dtype=torch.int32),
            torch.full((units, k), -1, dtype=torch.int32),
        )
        self._waiting: list[
            tuple[Tensor, Tensor, _Entries]
        ] = []  # units, which candidate of theirs, and what it is
        self._candidates = torch.zeros(units, dtype=torch.int64)
        self._passed = 0  # pictures since the table was last settled

    @property
    def k(self) -> int:
        """Slots of each unit."""
        return self._table[0].shape[1]

    @property
    def values(self) -> Tensor:
        """Activations (u, k) float32, -inf where fewer than k pictures were seen."""
        return self._settled()[0]

    @property
    def pictures(self) -> Tensor:
        """Their pictures (u, k) int64, -1 where there is none."""
        return self._settled()[1]

    @property
    def rows(self) -> Tensor:
        """Their rows on the map (u, k) int32, -1 where there is none."""
        return self._settled()[2]

    @property
    def cols(self) -> Tensor:
        """Their columns (u, k) int32, -1 where there is none."""
        return self._settled()[3]

    def update(self, seen: Seen) -> None:
        """Take in the peaks of a batch; costs two comparisons where none is among the k highest."""
        if not len(seen.ids):
            return
        last, picture = self._table[0][:, -1], self._table[1][:, -1]
        enters = (seen.peaks > last) | ((seen.peaks == last) & (seen.ids[:, None] <= picture))
        at, units = enters.nonzero(as_tuple=True)
        if len(at):
            rows, cols = seen.located(at, units)
            entries = (seen.peaks[at, units], seen.ids[at], rows.to(torch.int32), cols.to(torch.int32))
            nth = self._candidates + enters.cumsum(0) - 1
            self._waiting.append((units, nth[at, units], entries))
            self._candidates += enters.sum(0)
        self._passed += len(seen.ids)
        if self._passed >= max(self.k, _TOGETHER):
            self._settled()

    def merge(self, other: TopK) -> None:
        """Take in the table of other pictures."""
        mine, theirs = self._settled(), other._settled()
        if mine[0].shape != theirs[0].shape:
            raise UsageError(
                f"a table of (units, k) {tuple(theirs[0].shape)}", f"{tuple(mine[0].shape)}", "equal k"
            )
        self._keep(torch.arange(len(mine[0])), theirs)

    def state(self) -> dict[str, Tensor]:
        """The four tables."""
        return {"values": self.values, "pictures": self.pictures, "rows": self.rows, "cols": self.cols}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> TopK:
        """The reducer that `state` described."""
        made = cls(*state["values"].shape)
        values, pictures, rows, cols = (
            state[name].clone() for name in ("values", "pictures", "rows", "cols")
        )
        made._table = (values, pictures, rows, cols)
        return made

    def _settled(self) -> _Entries:
        """The table with all candidates sorted in."""
        if self._waiting:
            units = self._candidates.nonzero()[:, 0]
            line = torch.empty_like(self._candidates)
            line[units] = torch.arange(len(units))
            shape = (len(units), int(self._candidates.max()))
            come = [
                table.new_full(shape, empty)
                for table, empty in zip(self._table, (-torch.inf, -1, -1, -1), strict=True)
            ]
            for owners, nth, entries in self._waiting:
                lines = line[owners]
                for column, entry in zip(come, entries, strict=True):
                    column[lines, nth] = entry
            values, pictures, rows, cols = come
            self._keep(units, (values, pictures, rows, cols))
            self._waiting.clear()
            self._candidates.zero_()
        self._passed = 0
        return self._table

    def _keep(self, units: Tensor, come: _Entries) -> None:
        """The k first of what units (m,) have and what comes to them (m, c)."""
        both = [torch.cat([a[units], b], 1) for a, b in zip(self._table, come, strict=True)]
        value, picture, row, col = (t.numpy() for t in both)
        order = np.argsort(-value, axis=1, kind="stable")
        sorted_ = np.take_along_axis(value, order, 1)
        tied = ((sorted_[:, 1:] == sorted_[:, :-1]) & (sorted_[:, 1:] > -np.inf)).any(1).nonzero()[0]
        if len(tied):
            order[tied] = _in_full(value[tied], picture[tied], row[tied], col[tied], order[tied])
        first = torch.from_numpy(order[:, : self.k])
        for table, entries in zip(self._table, both, strict=True):
            table[units] = entries.gather(1, first)


def _in_full(value: _Array, picture: _Array, row: _Array, col: _Array, order: _Array) -> _Array:
    """The order (m, c) by value alone made one by value, picture, row and column."""
    place = (row.astype(np.int64) << 32) | col
    v, p, q = (np.take_along_axis(t, order, 1) for t in (value, picture, place))
    after = (p[:, 1:] < p[:, :-1]) | ((p[:, 1:] == p[:, :-1]) & (q[:, 1:] < q[:, :-1]))
    wrong = (after & (v[:, 1:] == v[:, :-1])).any(
        1
    )  # few: pictures mostly come in the order of their numbers
    order[wrong] = np.lexsort((place[wrong], picture[wrong], -value[wrong]), axis=1)
    return order
