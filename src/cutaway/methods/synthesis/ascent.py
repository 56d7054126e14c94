"""The one engine that draws: a value per picture is followed uphill, whatever the picture is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.errors import InputError, MethodRefusedError
from cutaway.core.progress import Enough, Progress, Steps
from cutaway.core.target import slopes

from .canvas import Canvas
from .shaking import STILL, Movement, Shake

Goal = Callable[[Tensor], Tensor]
"""Pixels (n, C, H, W) to one value per picture (n,), differentiable; no picture's value depends on another's."""


@dataclass
class Leaks:
    """For which pictures (n,) shut gates let a little gradient pass; None for none. Read when a gradient is taken."""

    rows: Tensor | None = None


Revive = Callable[[Leaks], AbstractContextManager[object]]
"""Gates of what runs inside leak as told."""

After = Callable[[Tensor, Tensor, int], Tensor]
"""(numbers, their gradient, step from 0) to the numbers that the next step starts from."""

Rate = float | Callable[[int], float]

EVERY = 8
"""Steps from one preview to the next."""


@dataclass(frozen=True)
class Stride:
    """How far one step goes.

    rule : "adam" (Kingma & Ba 2015; in units of each picture's first gradient, so that no score is too small or too
        large for it), "momentum" (v <- mass v + rate g), "gradient" (rate g), "mean" (rate
        g / mean |g|, the mean over one picture's numbers), or "progress" (g times `progress` / ||g||^2, which would
        raise a linear goal by `progress`, but at most rate g; Yosinski et al. 2015, arXiv:1506.06579).
    rate : a number, or one for each step.
    """

    rule: Literal["adam", "momentum", "gradient", "mean", "progress"] = "adam"
    rate: Rate = 0.05
    mass: float = 0.9
    progress: float = 2.0

    def at(self, step: int) -> float:
        """The rate of a step."""
        return self.rate(step) if callable(self.rate) else self.rate


@dataclass
class Drawn:
    """Where an ascent ended.

    numbers : of the canvas, (n, ...).
    values : of the goal at each step, (steps, n), before the step was taken.
    steps : taken; fewer than asked when told to stop.
    dead : how many first steps each picture's gradient was zero everywhere, (n,).
    """

    numbers: Tensor
    values: Tensor
    steps: int
    dead: Tensor


@dataclass(frozen=True)
class Ascent:
    """Steps uphill.

    goal : what is followed, of pixels.
    canvas : what is moved.
    stride : how far.
    steps : how often.
    shake : how the pictures are moved at each step before the goal sees them, or that for each step from 0.
    after : what is done to the numbers behind each step.
    revive : opens shut gates a little for pictures whose gradient is zero everywhere, until it is not.
    penalty : of the numbers, one value for each picture, taken off the goal; it cannot revive a picture.
    """

    goal: Goal
    canvas: Canvas
    stride: Stride = field(default_factory=Stride)
    steps: int = 256
    shake: Shake | Callable[[int], Shake] = STILL
    after: Sequence[After] = ()
    revive: Revive | None = None
    penalty: Goal | None = None

    def run(
        self, start: Tensor, random: torch.Generator, note: str = "", *, refuse: bool = True
    ) -> Steps[Drawn]:
        """From those numbers (n, ...) uphill; told `Enough` at a step, it ends there.

        All pictures see the movements that `random` gives, so that a picture does not depend on the others.

        Raises `InputError` when the values are not finite, and `MethodRefusedError` when the goal has no gradient at
        all, or, unless `refuse` is False, no picture of the batch has one at the start; then the start is what it ends
        with.
        """
        numbers = start.detach().clone()
        first = torch.zeros_like(numbers)
        second = torch.zeros_like(numbers) if self.stride.rule == "adam" else first
        unit = torch.zeros(len(numbers), device=numbers.device, dtype=numbers.dtype)
        dead = torch.zeros(len(numbers), dtype=torch.long)
        shut = torch.zeros(len(numbers), dtype=torch.bool, device=numbers.device)
        values: list[Tensor] = []
        for step in range(self.steps):
            try:
                shown = None if step % EVERY else self.canvas.pixels(numbers).detach()
                yield Progress(step, self.steps, shown, note)
            except Enough:
                break
            value, gradient, shut = self._slope(numbers, self._shaking(step).draw(random), shut)
            if step == 0:
                with torch.no_grad():
                    self.canvas.model.check_finite(value, self.canvas.pixels(numbers))
            if not bool(value.isfinite().all()):
                raise InputError(
                    f"step {step + 1} of the ascent reached {value[~value.isfinite()][0].item()}",
                    "finite values",
                    "a smaller rate",
                )
            if step == 0 and not bool(gradient.any()):
                if refuse:
                    raise unmoved(note)
                return Drawn(numbers, value.cpu().expand(self.steps, -1), self.steps, dead + self.steps)
            if self.penalty is not None:
                with torch.enable_grad():
                    moved = numbers.detach().requires_grad_()
                    cost = self.penalty(moved)
                value, gradient = value - cost.detach(), gradient - _gradient(cost, moved, keep=False)
            values.append(value.cpu())
            dead += shut.cpu() & (dead == step)
            rate = self.stride.at(step)
            if self.stride.rule == "adam":
                unit = torch.where(unit > 0, unit, _largest(gradient))
                own = gradient / _per_row(torch.where(unit > 0, unit, 1), gradient)
                first = 0.9 * first + 0.1 * own
                second = 0.999 * second + 0.001 * own.square()
                way = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            elif self.stride.rule == "momentum":
                # a step keeps the rate it was taken with, as its definition says
                first = self.stride.mass * first + rate * gradient
                way, rate = first, 1.0
            elif self.stride.rule == "mean":
                most = _largest(gradient)  # without it the mean of large numbers overflows
                own = gradient / _per_row(torch.where(most > 0, most, 1), gradient)
                mean = own.abs().flatten(1).mean(1)
                way = own / _per_row(torch.where(mean > 0, mean, 1), gradient)
            elif self.stride.rule == "progress":
                wished = self.stride.progress / gradient.square().flatten(1).sum(1)
                way = gradient * _per_row((wished / rate).clamp(max=1), gradient)
            else:
                way = gradient
            numbers = numbers + rate * way
            for change in self.after:
                numbers = change(numbers, gradient, step)
        done = len(values)
        history = torch.stack(values) if values else torch.zeros(0, len(numbers))
        return Drawn(numbers, history, done, dead)

    def _shaking(self, step: int) -> Shake:
        return self.shake(step) if callable(self.shake) else self.shake

    def _slope(self, numbers: Tensor, move: Movement, shut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The values, their gradient, and which pictures are dead: gradient zero by the goal itself.

        `shut` says which were dead at the last step: then gates that can leak are there from the start, and what they
        let pass takes another pass backward, but not forward.
        """

        def read(leaks: Leaks | None) -> tuple[Tensor, Tensor]:
            moved = numbers.detach().requires_grad_()
            opened = nullcontext() if leaks is None or self.revive is None else self.revive(leaks)
            with torch.enable_grad(), opened:
                return moved, self.goal(_laid(move(self.canvas.pixels(moved))))

        leaks = Leaks() if self.revive is not None and bool(shut.any()) else None
        moved, value = read(leaks)
        gradient = _gradient(value, moved, keep=leaks is not None)
        dead = (gradient.flatten(1) == 0).all(1)
        if self.revive is None or not bool(dead.any()):
            return value.detach(), gradient, dead
        if leaks is None:
            leaks = Leaks()
            moved, value = read(leaks)
        leaks.rows = dead
        leaked = _gradient(value, moved, keep=False)
        return value.detach(), torch.where(_per_row(dead, gradient), leaked, gradient), dead


def _gradient(value: Tensor, numbers: Tensor, *, keep: bool) -> Tensor:
    (gradient,) = slopes(value, numbers, keep=keep)
    return torch.zeros_like(numbers) if gradient is None else gradient


def _laid(pixels: Tensor) -> Tensor:
    """The pictures in the layout of memory in which a processor's convolutions and pooling are about twice as fast."""
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.device.type == "cpu" else pixels


def _largest(gradient: Tensor) -> Tensor:
    """(n,): the largest size of each picture's numbers."""
    return gradient.abs().flatten(1).amax(1)


def _per_row(row: Tensor, like: Tensor) -> Tensor:
    """(n,) shaped to go along with (n, ...)."""
    return row.to(like.device).reshape(-1, *(1,) * (like.ndim - 1))


def unmoved(what: str) -> MethodRefusedError:
    """The refusal where no picture leads uphill."""
    return MethodRefusedError(
        f"the gradient is exactly zero at the start{f', {what}' if what else ''}: nothing leads uphill",
        "a unit that answers to some start, or a score that is not saturated",
        "a logit instead of a probability (its softmax may be saturated), another seed, or another unit (a dead one "
        "has no gradient)",
    )
