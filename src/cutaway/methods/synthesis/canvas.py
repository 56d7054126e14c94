"""What an ascent moves: pixels, their spectrum, or the code of a generator, each with the picture it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from cutaway.core.model import VisionModel

_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of the colours of ImageNet's pixels, as published with Olah et al. 2017."""


class Canvas(Protocol):
    """Numbers an ascent may change, and the pixels they stand for.

    Both are at least float32, whatever the network's type: steps would be lost in fewer digits.
    """

    model: VisionModel

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """Numbers of `draws` different beginnings, (draws, ...), of that spread."""

    def pixels(self, numbers: Tensor) -> Tensor:
        """The pictures (n, C, H, W) of numbers (n, ...), differentiable; a picture depends on its own row alone."""


class Input:
    """The network's own input: (pixels times the range - mean) / std, without limits.

    Zero is the mean colour, which is therefore added when the picture is shown.
    """

    def __init__(self, model: VisionModel, size: tuple[int, int]) -> None:
        self.model, self.shape = model, (model.preprocess.pixel_channels, *size)

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """Independent normal numbers."""
        return spread * _normal((draws, *self.shape), self.model, random)

    def pixels(self, numbers: Tensor) -> Tensor:
        """The mean added, in [0, 1] where the numbers are a picture's, and beyond where they are not."""
        return self.model.preprocess.denormalise(numbers)


class Pixels:
    """Pixels as they are; who moves them keeps them in [0, 1]."""

    def __init__(self, model: VisionModel, size: tuple[int, int]) -> None:
        self.model, self.shape = model, (model.preprocess.pixel_channels, *size)

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """Middle grey with independent normal numbers added."""
        return (0.5 + spread * _normal((draws, *self.shape), self.model, random)).clamp(0, 1)

    def pixels(self, numbers: Tensor) -> Tensor:
        """The numbers themselves."""
        return numbers


class Levels:
    """Pixels on the scale of 0 to 255 with the network's mean colour taken off, kept in that range.

    They are in the order red, green, blue, whatever the network's own is.
    """

    def __init__(self, model: VisionModel, size: tuple[int, int]) -> None:
        self.model, self.shape = model, (model.preprocess.pixel_channels, *size)
        nothing = torch.zeros(1, self.shape[0], 1, 1, device=model.device, dtype=canvas_type(model))
        self.mean = 255 * model.preprocess.denormalise(nothing)

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """The mean colour with independent normal numbers added."""
        return self.kept(spread * _normal((draws, *self.shape), self.model, random))

    def pixels(self, numbers: Tensor) -> Tensor:
        """In [0, 1]."""
        return (numbers + self.mean) / 255

    def kept(self, numbers: Tensor) -> Tensor:
        """The numbers clipped so that their pixels are in [0, 1]."""
        return (numbers + self.mean).clamp(0, 255) - self.mean


class Fourier:
    """The spectrum of a picture: amplitudes fall as 1/f where steps are equal, and colours move as photographs' do.

    pixels = sigmoid(M irfft2(z / max(f, 1 / longest side))), with z the numbers, f the frequency in cycles per pixel
    and M the square root of the colours' covariance in photographs (Olah, Mordvintsev & Schubert 2017, Feature
    Visualization, doi:10.23915/distill.00007). With `decorrelated=False`, or one colour, M is the identity. Sides
    with a large prime factor are made at the next quick size and cropped.

    >>> from cutaway import Preprocess
    >>> model = VisionModel(torch.nn.Conv2d(3, 1, 3), Preprocess(), name="one layer")
    >>> canvas = Fourier(model, (6, 5))
    >>> pixels = canvas.pixels(canvas.start(2, 0.01, torch.Generator().manual_seed(0)))
    >>> pixels.shape, bool(((pixels > 0) & (pixels < 1)).all())
    (torch.Size([2, 3, 6, 5]), True)
    """

    def __init__(self, model: VisionModel, size: tuple[int, int], *, decorrelated: bool = True) -> None:
        self.model, self.size = model, size
        self.channels = model.preprocess.pixel_channels
        self.made = high, wide = _fast(size[0]), _fast(size[1])
        down = torch.fft.fftfreq(high, dtype=torch.float64)[:, None]
        across = torch.fft.rfftfreq(wide, dtype=torch.float64)[None]
        frequency = (down.square() + across.square()).sqrt().clamp_min(1 / max(high, wide))
        # the orthonormal transform, and the published factor of 1/4
        self.scale = ((high * wide) ** 0.5 / frequency / 4).to(model.device, canvas_type(model))
        colours = torch.tensor(_COLOURS, dtype=torch.float64)
        colours = colours / colours.norm(dim=0).max()
        self.colours = (
            colours.to(model.device, canvas_type(model)) if decorrelated and self.channels == 3 else None
        )

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """Independent normal numbers (draws, C, H, W // 2 + 1, 2), real and imaginary parts last."""
        shape = (draws, self.channels, *self.scale.shape, 2)
        return spread * _normal(shape, self.model, random)

    def pixels(self, numbers: Tensor) -> Tensor:
        """The pictures of the spectra, in (0, 1)."""
        spectrum = torch.view_as_complex(numbers.contiguous()) * self.scale
        plane = torch.fft.irfft2(spectrum, s=self.made)[..., : self.size[0], : self.size[1]]
        if self.colours is not None:
            plane = torch.einsum("kc,nchw->nkhw", self.colours, plane)
        pixels: Tensor = plane.sigmoid()
        return pixels


class Code:
    """The code of a generator: what is drawn is always a picture that the generator can make.

    `generator` takes codes (n, size) to pixels (n, C, h, w) in [0, 1].
    """

    def __init__(self, model: VisionModel, size: int, generator: Callable[[Tensor], Tensor]) -> None:
        self.model, self.size, self.generator = model, size, generator

    def start(self, draws: int, spread: float, random: torch.Generator) -> Tensor:
        """Independent normal numbers."""
        return spread * _normal((draws, self.size), self.model, random)

    def pixels(self, numbers: Tensor) -> Tensor:
        """What the generator makes of the codes."""
        return self.generator(numbers)


def _fast(length: int) -> int:
    """The smallest length from this one on whose transform is quick: all its prime factors are at most 7.

    >>> _fast(224), _fast(227)
    (224, 240)
    """
    for made in range(length, 2 * length + 1):
        rest = made
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            break
    return made


def canvas_type(model: VisionModel) -> torch.dtype:
    """The type pictures are moved in: the network's, at least float32."""
    return torch.promote_types(model.dtype, torch.float32)


def _normal(shape: tuple[int, ...], model: VisionModel, random: torch.Generator) -> Tensor:
    """Normal numbers that do not depend on the machine's device or the network's type."""
    return torch.randn(shape, generator=random, dtype=torch.float64).to(model.device, canvas_type(model))
