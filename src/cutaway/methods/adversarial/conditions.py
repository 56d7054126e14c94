"""What may happen to a patch in the world: turned, larger or smaller, elsewhere, in other light, on folded cloth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .thin_plate import thin_plate

GRID = 3  # control points of the cloth along each side of the patch


@dataclass(frozen=True)
class Drawn:
    """S conditions that were drawn.

    `turn` (S, 2, 2) and `shift` (S, 2), in pixels (rows, columns), move a point q of the picture about a centre:
    turn (q - centre) + centre + shift; `gain` (S,) multiplies the light; `fold` (S, 9, 2) says by how many pixels
    each control point of the cloth lies off its place.
    """

    turn: Tensor
    shift: Tensor
    gain: Tensor
    fold: Tensor


@dataclass(frozen=True)
class Conditions:
    """How far each may go: degrees, shares of the size, of the picture's sides, of the light, of the patch's side."""

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    light: float = 0.0
    fold: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether anything is turned, scaled or shifted."""
        return self.rotation > 0 or self.scale > 0 or self.shift > 0

    def draw(self, count: int, size: tuple[int, int], side: tuple[float, float]) -> Drawn:
        """`count` conditions for pictures of this size (H, W) and a patch of these sides, each even in its range.

        Folds are normal, with `fold` times the side as their standard deviation.
        """
        even = 2 * torch.rand(count, 5, dtype=torch.float64) - 1
        fold = torch.randn(count, GRID * GRID, 2, dtype=torch.float64)
        angle = torch.deg2rad(self.rotation * even[:, 0])
        scale = 1 + self.scale * even[:, 1]
        cos, sin = scale * angle.cos(), scale * angle.sin()
        turn = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
        shift = self.shift * even[:, 2:4] * torch.tensor(size, dtype=torch.float64)
        return Drawn(
            turn,
            shift,
            1 + self.light * even[:, 4],
            self.fold * fold * torch.tensor(side, dtype=torch.float64),
        )


def places(size: tuple[int, int]) -> Tensor:
    """Centres of the pixels, (H W, 2), rows and columns from 0."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    return torch.stack([rows.reshape(-1), columns.reshape(-1)], 1)


def moved_from(drawn: Drawn, size: tuple[int, int], centre: tuple[float, float]) -> Tensor:
    """Where each pixel of the moved picture comes from, (S, H W, 2): the way back through turn and shift."""
    middle = torch.tensor(centre, dtype=torch.float64)
    off = places(size)[None] - middle - drawn.shift[:, None]
    origin: Tensor = torch.linalg.solve(drawn.turn, off.mT).mT + middle
    return origin


def folded_from(drawn: Drawn, points: Tensor, box: tuple[float, float, float, float]) -> Tensor:
    """Where the cloth of a patch in a box (top, left, bottom, right) carries points (S, m, 2) from, (S, m, 2)."""
    top, left, bottom, right = box
    line = torch.linspace(0, 1, GRID, dtype=torch.float64)
    rows, columns = torch.meshgrid(top + (bottom - top) * line, left + (right - left) * line, indexing="ij")
    controls = torch.stack([rows.reshape(-1), columns.reshape(-1)], 1)
    return torch.stack([q + thin_plate(controls, off, q) for q, off in zip(points, drawn.fold, strict=True)])


def taken(picture: Tensor, origin: Tensor, beyond: str) -> Tensor:
    """Pictures (S, C, H, W) read at places (S, H W, 2), bilinear; `beyond` their edge "zeros" or "border"."""
    high, wide = picture.shape[2:]
    share = (2 * origin + 1) / torch.tensor([high, wide], dtype=torch.float64) - 1
    # half precision would round the places
    exact = picture.to(torch.promote_types(picture.dtype, torch.float32))
    grid = share.flip(2).view(-1, high, wide, 2).to(exact)
    return F.grid_sample(exact, grid, padding_mode=beyond, align_corners=False).to(picture)
