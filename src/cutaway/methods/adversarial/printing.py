"""The part of a picture that is printed, and whether a printer can."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError

INKS, GREYS = (0.1, 0.5, 0.9), (0.2, 0.35, 0.7)
HIGH, WIDE = (
    0.25,
    2.0,
)  # of two stickers: height of each, and area of their box, in shares of one bar and of both


@dataclass(frozen=True)
class Mask:
    """Where the patch is: `where` (1, 1, H, W) of bool, and its box (top, left, bottom, right), ends excluded."""

    where: Tensor
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of its middle."""
        top, left, bottom, right = self.box
        return (top + bottom - 1) / 2, (left + right - 1) / 2

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width."""
        top, left, bottom, right = self.box
        return float(bottom - top), float(right - left)

    def cut(self, x: Tensor) -> Tensor:
        """The box out of pictures (N, C, H, W), white where the patch is not."""
        top, left, bottom, right = self.box
        paper = torch.where(self.where.to(x.device), x, 1)
        return paper[..., top:bottom, left:right]


def mask_of(size: tuple[int, int], shape: str, row: float, column: float, share: float) -> Mask:
    """A square, or two bars one above the other, of `share` of the area of a picture (H, W), its middle at shares.

    Each bar is as wide as their square box and a quarter as high. Raises `UsageError` where it reaches beyond the
    picture or is less than a pixel.

    >>> mask = mask_of((8, 8), "rectangle", 0.5, 0.5, 0.25)
    >>> mask.box, int(mask.where.sum())
    ((2, 2, 6, 6), 16)
    """
    high, wide = size
    area = share * high * wide * (1 if shape == "rectangle" else WIDE)
    side = round(math.sqrt(area))
    top, left = (math.floor(p * n - side / 2 + 0.5) for p, n in ((row, high), (column, wide)))
    if side < 1 or top < 0 or left < 0 or top + side > high or left + side > wide:
        raise UsageError(
            f"a patch of {side} x {side} pixels with its middle at row {row * high:.3g} and column {column * wide:.3g} "
            f"of a picture of {high} x {wide}",
            "a patch of a pixel or more that lies within the picture",
            "a smaller share, or row=0.5 and column=0.5",
        )
    where = torch.zeros(1, 1, high, wide, dtype=torch.bool)
    bar = side if shape == "rectangle" else max(1, round(HIGH * side))
    where[..., top : top + bar, left : left + side] = True
    where[..., top + side - bar : top + side, left : left + side] = True
    return Mask(where, (top, left, top + side, left + side))


def non_printability(p: Tensor, where: Tensor, palette: Tensor) -> Tensor:
    """Sum over the patch's pixels of the product of their distances to all printable colours, (N,).

    `p` (N, C, H, W), grey counting as three equal colours; `palette` (k, 3). Sharif et al. 2016,
    doi:10.1145/2976749.2978392, eq. 5, and Eykholt 2018, eq. 2. Zero where every pixel has a printable colour.

    >>> palette = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> p = torch.tensor([0.5, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> non_printability(p, torch.ones(1, 1, 1, 1, dtype=torch.bool), palette)
    tensor([0.2500])
    """
    return _distances(p, where, palette).prod(2).sum(1)


def off_palette(p: Tensor, where: Tensor, palette: Tensor) -> Tensor:
    """Mean distance of the patch's pixels to the nearest printable colour, (N,)."""
    return _distances(p, where, palette).amin(2).mean(1)


def _distances(p: Tensor, where: Tensor, palette: Tensor) -> Tensor:
    """(N, pixels of the patch, k)."""
    pixels = p.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)[:, where[0, 0].to(p.device)]
    off: Tensor = torch.linalg.vector_norm(pixels[:, :, None] - palette.to(p), dim=3)
    return off


def printable(palette: str | None) -> Tensor:
    """Printable colours (k, 3) in [0, 1]: those of a text file, or the package's 30.

    Those are made by rule, not measured: every mixture of three amounts, 0.1, 0.5 and 0.9, of red, green and blue,
    and the greys 0.2, 0.35 and 0.7; a print reaches neither black nor full light. A file has three numbers a line,
    apart by commas or spaces. Raises `InputError` for a file that has anything else.

    >>> printable(None).shape
    torch.Size([30, 3])
    """
    if palette is None:
        return torch.tensor([*product(INKS, repeat=3), *([g] * 3 for g in GREYS)], dtype=torch.float64)
    try:
        text = Path(palette).read_text(encoding="utf-8")
        rows = [
            [float(n) for n in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()
        ]
    except (OSError, ValueError) as error:
        raise _unread(palette, str(error)) from error
    if not rows or any(len(row) != 3 or not all(0 <= n <= 1 for n in row) for row in rows):
        raise _unread(palette, "not three numbers from 0 to 1 in every line")
    return torch.tensor(rows, dtype=torch.float64)


def _unread(palette: str, why: str) -> InputError:
    return InputError(
        f"cannot read printable colours from {palette}: {why.splitlines()[0]}",
        "a text file with red, green and blue from 0 to 1 in each line",
        "palette=none for colours made by rule",
    )
