"""What one layer answered to one batch of pictures, boiled down; whole maps are never kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from cutaway.core.errors import InputError

from .sketch import counts

_CHUNK = 1 << 20
"""Values squared at a time: few calls, and their squares stay in the processor's cache."""
_MOST = 1 << 22
"""Values for which memory is kept: 32 megabytes of each thread."""

_held = threading.local()


class Seen:
    """The activations of a layer, maps (n, u, h, w), for pictures `ids` (n,) with class numbers `labels` (n,).

    Everything is computed when first asked for, and once. Maps may lie in memory in any order; with channels last,
    each pass over them is one read.

    >>> seen = Seen(torch.tensor([[[[1.0, 5.0], [5.0, 2.0]]]]), torch.tensor([7]))
    >>> seen.peaks, seen.rows, seen.cols, seen.sums
    (tensor([[5.]]), tensor([[0]]), tensor([[1]]), tensor([[13.]], dtype=torch.float64))
    """

    def __init__(
        self, maps: Tensor, ids: Tensor, labels: Tensor | None = None, names: Sequence[str] | None = None
    ) -> None:
        self.maps = maps.detach().float()
        self.ids, self.labels, self._names = ids, labels, names

    @property
    def places(self) -> int:
        """Positions of one map."""
        return self.maps.shape[2] * self.maps.shape[3]

    def _lines(self, maps: Tensor, reduced: Callable[[Tensor, int], Tensor]) -> Tensor:
        """The rows of all maps reduced to a number each, (n, u, h), reading memory in its own order."""
        n, u, h, w = maps.shape
        if maps.is_contiguous():
            return reduced(maps, 3)
        return reduced(maps.permute(0, 2, 3, 1).reshape(n * h, w, u), 1).view(n, h, u).transpose(1, 2)

    @cached_property
    def _across(self) -> Tensor:
        """The largest value of each row of a map, (n, u, h)."""
        return self._lines(self.maps, Tensor.amax)

    @cached_property
    def peaks(self) -> Tensor:
        """The largest value of each map, (n, u). Raises `InputError` where it is not finite."""
        return self._finite(self._across.amax(2).cpu())

    def _finite(self, values: Tensor) -> Tensor:
        if not bool(values.isfinite().all()):
            n, u = (~values.isfinite()).nonzero()[0].tolist()
            own, number = self.maps[n, u].flatten(), int(self.ids[n])
            value = float([*own[~own.isfinite()], values[n, u]][0])
            which = (
                f"picture {number}" if self._names is None else f"{self._names[number]} (picture {number})"
            )
            raise InputError(
                f"channel {u} answers {which} with {value}",
                "finite activations",
                "weights without NaN and inf, and float32, which overflows last",
            )
        return values

    def located(self, pictures: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column, (m,) each, of the first place that holds the largest value of these maps.

        Parameters
        ----------
        pictures, units : (m,) places in the batch and channels; the cost is theirs, not that of all maps.
        """
        rows = self._across[pictures, units].argmax(1)
        cols = self.maps[pictures, units, rows.to(pictures.device)].argmax(1)
        return rows.cpu(), cols.cpu()

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        n, u = self.maps.shape[:2]
        rows, cols = self.located(torch.arange(n).repeat_interleave(u), torch.arange(u).repeat(n))
        return rows.view(n, u), cols.view(n, u)

    @property
    def rows(self) -> Tensor:
        """The row of the first place that holds the largest value, (n, u)."""
        return self._places[0]

    @property
    def cols(self) -> Tensor:
        """Its column, (n, u)."""
        return self._places[1]

    @cached_property
    def lows(self) -> Tensor:
        """The smallest value of each map, (n, u). Raises `InputError` where it is not finite."""
        return self._finite(self._lines(self.maps, Tensor.amin).amin(2).cpu())

    @cached_property
    def _added(self) -> tuple[Tensor, Tensor]:
        """The sums of each map and of its squares, in float64 piece by piece, so that they stay in the cache."""
        few = max(1, _CHUNK // max(1, self.maps[:1].numel()))
        sums, squares = list[Tensor](), list[Tensor]()
        for maps in torch.split(self.maps, few):
            n, u, h, w = maps.shape
            last = not maps.is_contiguous()
            lines = maps.permute(0, 2, 3, 1).reshape(n, h * w, u) if last else maps.reshape(n, u, h * w)
            wide = _room(lines).copy_(lines)
            sums.append(_summed(wide, 1 if last else 2).cpu().double())
            squares.append(_summed(wide.square_(), 1 if last else 2).cpu().double())
        return torch.cat(sums), torch.cat(squares)

    @cached_property
    def sums(self) -> Tensor:
        """The sum of each map, (n, u), float64. Raises `InputError` where a value is not finite."""
        return self._finite(self._added[0])

    @cached_property
    def squares(self) -> Tensor:
        """The sum of squares of each map, (n, u), float64."""
        return self._added[1]

    @cached_property
    def counts(self) -> Tensor:
        """How many values of each unit fall into each bucket of the sketch, (u, buckets); raises as `lows` does."""
        _ = self.peaks, self.lows
        return counts(self.maps).cpu()


def _room(lines: Tensor) -> Tensor:
    """Memory for these lines in float64 (float32 on MPS), used again by the next: taking it anew is most of the time."""
    kind = torch.float32 if lines.device.type == "mps" else torch.float64
    held: Tensor | None = getattr(_held, "room", None)
    if lines.numel() > _MOST:
        return torch.empty(lines.shape, dtype=kind, device=lines.device)
    if held is None or held.device != lines.device or held.dtype != kind or held.numel() < lines.numel():
        with torch.inference_mode(mode=False):  # a tensor made inside could not be written to outside
            held = _held.room = torch.empty(max(_CHUNK, lines.numel()), dtype=kind, device=lines.device)
    return held[: lines.numel()].view(lines.shape)


def _summed(lines: Tensor, axis: int) -> Tensor:
    """Sums of three-dimensional lines; a lone one stands twice, as threads would share it and add in another order."""
    lone = lines.numel() == lines.shape[axis]
    return lines.expand(2, -1, -1).sum(axis)[:1] if lone else lines.sum(axis)
