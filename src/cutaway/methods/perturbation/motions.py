"""Pictures shifted, magnified and turned, without interpolation wherever pixels fall on pixels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .fills import filler

Motion = Literal["translation", "scale", "rotation"]
Beyond = Literal["grey", "black", "white", "mean", "edge", "wrap"]
"""What comes in from beyond the picture: a colour, its border repeated, or the picture from its other side."""

_FINE = 2.0**20
"""Places are rounded to this part of a pixel, so that a quarter turn's cosine of 6e-17 is none."""


def moved(x: Tensor, motion: Motion, amounts: Tensor, beyond: Beyond) -> Tensor:
    """The picture (1, C, H, W) moved by each of the amounts (n,), bilinear: (n, C, H, W).

    "translation" moves it down by that many pixels, "scale" magnifies it about its centre, "rotation" turns it
    anticlockwise about its centre by degrees. Whole shifts, scale 1 and quarter turns of a square are exact.

    >>> moved(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), "rotation", torch.tensor([90.0]), "black").tolist()
    [[[[2.0, 4.0], [1.0, 3.0]]]]
    """
    _, channels, height, width = x.shape
    down, across = _sources(motion, amounts.double(), height, width)
    first, left = down.floor(), across.floor()
    part_down, part_across = (down - first).to(x), (across - left).to(x)
    outside = x.new_zeros(channels)
    if beyond != "edge" and beyond != "wrap":
        outside = filler(x, beyond, 1)[0, :, 0, 0]
    total = x.new_zeros(len(amounts), channels, height, width)
    for step_down in (0, 1):
        for step_across in (0, 1):
            weight = (part_down if step_down else 1 - part_down) * (
                part_across if step_across else 1 - part_across
            )
            rows, columns = first.long() + step_down, left.long() + step_across
            total += weight[:, None] * _pixels(x, rows, columns, beyond, outside)
    return total


def described(beyond: Beyond) -> str:
    """What comes in from beyond the picture, in words."""
    return {
        "grey": "middle grey (0.5)",
        "black": "black",
        "white": "white",
        "mean": "the picture's mean colour",
        "edge": "its border, repeated",
        "wrap": "the picture itself, from its other side",
    }[beyond]


def _sources(motion: Motion, amounts: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where in the picture each pixel of each moved picture comes from: rows and columns, (n, H, W) each."""
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64)[None] - (width - 1) / 2
    amount = amounts[:, None, None]
    if motion == "translation":
        down, across = y - amount, x + 0 * amount
    elif motion == "scale":
        down, across = y / amount, x / amount
    else:
        angle = amount * math.pi / 180
        down, across = angle.cos() * y + angle.sin() * x, angle.cos() * x - angle.sin() * y
    shape = len(amounts), height, width
    down, across = (down + (height - 1) / 2).expand(shape), (across + (width - 1) / 2).expand(shape)
    return (down * _FINE).round() / _FINE, (across * _FINE).round() / _FINE


def _pixels(x: Tensor, rows: Tensor, columns: Tensor, beyond: Beyond, outside: Tensor) -> Tensor:
    """The colours (n, C, H, W) of the picture at whole places (n, H, W), some of them beyond it."""
    height, width = x.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if beyond == "wrap":
        rows, columns = rows % height, columns % width
    rows, columns = rows.clamp(0, height - 1).to(x.device), columns.clamp(0, width - 1).to(x.device)
    found = x[0][:, rows, columns].transpose(0, 1)
    if beyond in ("edge", "wrap"):
        return found
    return torch.where(inside[:, None].to(x.device), found, outside[None, :, None, None])
