"""How far a picture may be moved: balls around it, and steps, random starts and whole levels within them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NormName = Literal["linf", "l2"]
TINY = 1e-9  # levels that a bound written as a decimal may lack


def along(v: Tensor, like: Tensor) -> Tensor:
    """One number per picture (N,), ready to multiply (N, C, H, W)."""
    return v.view(-1, *[1] * (like.ndim - 1))


def within(u: Tensor) -> Tensor:
    """Clipped to [0, 1], with the gradient passed wherever nothing is cut, the ends included.

    >>> u = torch.tensor([-0.1, 0.0, 1.0], requires_grad=True)
    >>> torch.autograd.grad(within(u).sum(), u)[0]  # torch's clamp may give 0 at an end, where black pixels would stay
    tensor([0., 1., 1.])
    """
    return torch.where((u >= 0) & (u <= 1), u, u.detach().clamp(0, 1))


def length(v: Tensor) -> Tensor:
    """Euclidean norm of each picture, (N,)."""
    norms: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return norms


@dataclass(frozen=True)
class Ball:
    """All pictures within `radius` of the original in one norm, in pixel space, cut by [0, 1]."""

    norm: NormName
    radius: float

    def project(self, moved: Tensor, x: Tensor) -> Tensor:
        """The nearest picture of the ball (for the Euclidean one: nearest in the ball, then clipped)."""
        d = moved - x
        if self.norm == "linf":
            d = d.clamp(-self.radius, self.radius)
        else:
            d = d * along((self.radius / length(d).clamp(min=1e-30)).clamp(max=1), d)
        return (x + d).clamp(0, 1)

    def step(self, g: Tensor, size: float) -> Tensor:
        """The step of this length that raises a loss of gradient g most; none where g is zero."""
        if self.norm == "linf":
            return size * g.sign()
        norms = length(g)
        return size * g / along(torch.where(norms > 0, norms, 1), g)

    def random(self, x: Tensor) -> Tensor:
        """A point drawn evenly from the ball, the same displacement for every picture of the batch, clipped."""
        shape = x.shape[1:]
        if self.norm == "linf":
            d = (2 * torch.rand(shape, dtype=torch.float64) - 1) * self.radius
        else:
            d = torch.randn(shape, dtype=torch.float64)
            d = d / d.norm() * self.radius * torch.rand((), dtype=torch.float64) ** (1 / d.numel())
        return (x + d.to(x)).clamp(0, 1)


def eight_bit(x: Tensor, moved: Tensor, ball: Ball | None = None) -> Tensor:
    """The picture of whole 8-bit levels nearest to `moved` that is no further from the rounded original than allowed.

    (N, C, H, W) in [0, 1], each number k / 255. The change is rounded, and in whole levels it obeys the ball to the
    last bit: |k - k_0| <= floor(255 radius), or sum (k - k_0)^2 <= (255 radius)^2, where as many of the numbers that
    were rounded away from the original as necessary, those that cost most first, are rounded towards it instead.

    >>> x = torch.tensor([[100.0, 250.0, 3.0]]) / 255
    >>> (255 * eight_bit(x, x + torch.tensor([[7.65, 3.4, -3.0]]) / 255, Ball("linf", 0.03))).round().tolist()
    [[107.0, 253.0, 0.0]]
    """
    original = (255 * x.double()).round().clamp(0, 255)
    wish = 255 * (moved.double() - x.double())
    change = wish.round()
    if ball is not None and ball.norm == "linf":
        most = int(255 * ball.radius + TINY)
        change = change.clamp(-most, most)
    change = (original + change).clamp(0, 255) - original
    if ball is not None and ball.norm == "l2":
        change = _shortened(change, wish, 255 * ball.radius + TINY)
    return ((original + change) / 255).to(x.dtype)


def _shortened(change: Tensor, wish: Tensor, radius: float) -> Tensor:
    """Whole numbers within a Euclidean ball: the roundings away from zero that cost most are taken back first."""
    flat, wished = change.flatten(1), wish.flatten(1)
    excess = flat.square().sum(1) - radius**2
    gain = torch.where(flat.abs() > wished.abs(), 2 * flat.abs() - 1, 0)  # c^2 - (c - 1)^2
    for row in (excess > 0).nonzero()[:, 0].tolist():
        order = gain[row].argsort(descending=True, stable=True)
        before = gain[row][order].cumsum(0) - gain[row][order]
        back = order[(before < excess[row]) & (gain[row][order] > 0)]
        flat[row, back] -= flat[row, back].sign()
        if bool(flat[row].square().sum() > radius**2):  # the wish itself lay outside
            flat[row] = wished[row].trunc()
    return flat.view_as(change)
