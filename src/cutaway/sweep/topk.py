"""The strongest activations of every unit and where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError

if TYPE_CHECKING:
    from .seen import Seen


class TopK:
    """The k highest activations of each unit over all pictures, one of a picture, with their places.

    Order is by value, highest first; equal values by picture, row and column, lowest first: a total order, so every
    partition and order of the pictures gives the same table. Values must be finite. Memory: units · k · 20 bytes.

    Parameters
    ----------
    units, k : size of the table, k at least 1.

    Attributes
    ----------
    values (u, k) float32, pictures (u, k) int64, rows and cols (u, k) int32 : -inf and -1 where fewer than k pictures
        were seen.
    """

    def __init__(self, units: int, k: int = 9) -> None:
        if k < 1:
            raise UsageError(f"k={k}", "at least 1", "k=9")
        self.values = torch.full((units, k), -torch.inf)
        self.pictures = torch.full((units, k), -1, dtype=torch.int64)
        self.rows = torch.full((units, k), -1, dtype=torch.int32)
        self.cols = torch.full((units, k), -1, dtype=torch.int32)

    @property
    def k(self) -> int:
        """Slots of each unit."""
        return self.values.shape[1]

    def update(self, seen: Seen) -> None:
        """Take in the peaks of a batch; costs two comparisons where none is among the k highest."""
        if not len(seen.ids):
            return
        last, picture = self.values[:, -1], self.pictures[:, -1]
        enters = (seen.peaks > last) | ((seen.peaks == last) & (seen.ids[:, None] <= picture))
        units = enters.any(0).nonzero()[:, 0]
        if not len(units):
            return
        # of each unit as many pictures as the busiest takes in; those that are too many lose like any other
        enters = enters[:, units].T
        most = int(enters.sum(1).max())
        batch = enters.to(torch.uint8).argsort(dim=1, descending=True)[:, :most]
        across = units[:, None]
        self._keep(
            units,
            seen.peaks[batch, across],
            seen.ids[batch],
            seen.rows[batch, across].to(torch.int32),
            seen.cols[batch, across].to(torch.int32),
        )

    def merge(self, other: TopK) -> None:
        """Take in the table of other pictures."""
        if self.values.shape != other.values.shape:
            raise UsageError(
                f"a table of (units, k) {tuple(other.values.shape)}", f"{tuple(self.values.shape)}", "equal k"
            )
        self._keep(torch.arange(len(self.values)), other.values, other.pictures, other.rows, other.cols)

    def state(self) -> dict[str, Tensor]:
        """The four tables."""
        return {"values": self.values, "pictures": self.pictures, "rows": self.rows, "cols": self.cols}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> TopK:
        """The reducer that `state` described."""
        made = cls(*state["values"].shape)
        for name, table in state.items():
            setattr(made, name, table.clone())
        return made

    def _keep(self, units: Tensor, values: Tensor, pictures: Tensor, rows: Tensor, cols: Tensor) -> None:
        """The k first of what units (m,) have and what comes to them (m, c)."""
        have = (self.values, self.pictures, self.rows, self.cols)
        both = [
            torch.cat([a[units], b], 1) for a, b in zip(have, (values, pictures, rows, cols), strict=True)
        ]
        value, picture, row, col = (t.numpy() for t in both)
        place = (row.astype(np.int64) << 32) | col
        order = np.argsort(-value, axis=1, kind="stable")
        v, p, q = (np.take_along_axis(t, order, 1) for t in (value, picture, place))
        after = (p[:, 1:] < p[:, :-1]) | ((p[:, 1:] == p[:, :-1]) & (q[:, 1:] < q[:, :-1]))
        tied = (after & (v[:, 1:] == v[:, :-1])).any(1)  # few: only these need the slower sort by all three
        order[tied] = np.lexsort((place[tied], picture[tied], -value[tied]), axis=1)
        first = torch.from_numpy(order[:, : self.k])
        for table, entries in zip(have, both, strict=True):
            table[units] = entries.gather(1, first)
