"""Small networks on which attacks have closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import cutaway
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.data.folder import Pictures
from cutaway.methods import get

from ..nets import wrap


class Linear(nn.Module):
    """Scores W x + b of pictures with `size` numbers, times a factor that may saturate a softmax."""

    def __init__(self, classes: int = 4, size: int = 60, factor: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.fc = nn.Linear(size, classes)
        self.fc.weight.data = factor * torch.randn(classes, size, generator=generator) / size**0.5
        self.fc.bias.data = factor * 0.1 * torch.randn(classes, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


class Curved(nn.Module):
    """Convolution, tanh, mean and a linear layer: smooth, with no dead gradients."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, classes)
        generator = torch.Generator().manual_seed(1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) * (
                3 / p[0].numel() ** 0.5 if p.ndim > 1 else 0.1
            )
        with torch.no_grad():  # every class is somebody's: scores average zero over pictures
            self.fc.bias -= self(torch.rand(64, 3, 8, 8, generator=generator)).mean(0) / 4

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.tanh(2 * self.conv(x) - 1)
        out: Tensor = 4 * self.fc(maps.mean((2, 3)))
        return out


NAMES = ("ant", "bee", "cat", "dog", "elk")


def linear(**options: Any) -> cutaway.VisionModel:
    return wrap(Linear(**options))


def curved() -> cutaway.VisionModel:
    return wrap(Curved(), NAMES)


def middle(n: int = 1, h: int = 5, w: int = 4, seed: int = 3) -> Tensor:
    """Pictures of whole 8-bit levels between 0.4 and 0.6, far from black and white, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(102, 154, (n, 3, h, w), generator=generator).double() / 255


def attack(
    model: cutaway.VisionModel, method: str, x: Tensor, target: Any = None, **options: Any
) -> list[Any]:
    return list(finish(explain(model, get(method), x, target, options)))


def rows(model: cutaway.VisionModel) -> tuple[Tensor, Tensor]:
    """W and b of a linear model."""
    fc = model.network.fc
    assert isinstance(fc, nn.Linear)
    return fc.weight.detach(), fc.bias.detach()


def folder(path: Path, x: Tensor) -> Pictures:
    """The pictures as files."""
    for i, picture in enumerate(x):
        levels = (255 * picture).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(path / f"{i}.png")
    return Pictures(path)
