"""Colour maps, made here without matplotlib, and the scale that turns numbers into colours.

Defaults follow measured distances between -v and +v under colour-vision deficiency: coolwarm has the best worst
case of the smooth diverging maps, inferno and magma step evenly in lightness, cividis and PuOr are the option for
colour-blind readers. Jet is not monotone in lightness and exists only to redraw a figure as a paper drew it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cutaway.core.errors import InputError, unknown

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Limits = Literal["percentile", "range"]
Theme = Literal["default", "colour-blind", "paper"]

# Evenly spaced samples, RRGGBB. coolwarm: Moreland 2009, "Diverging color maps for scientific visualization";
# inferno, magma: Smith & van der Walt 2015 (CC0); cividis: Nunez, Anderton & Renslow 2018;
# PuOr: Brewer 2003, the eleven-class scheme.
_SAMPLES = {
    "coolwarm": (
        "3b4cc0445acc4d68d75775e16282ea6c8ef1779af782a5fb8db0fe98b9ffa3c2feaec9fcb8d0f9c2d5f4ccd9ee"
        "d5dbe6dddddde5d8d1ecd3c5f1ccb9f4c4adf7bba0f7b194f7a687f49a7bf18d6fec7f63e57058de604dd55042"
        "cb3e38c0282fb40426"
    ),
    "PuOr": ("7f3b08b35806e08214fdb863fee0b6f7f6f6d8daebb2abd28073ac5427882d004b"),
    "inferno": (
        "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c59106e61136e"
        "69166e71196e781c6d801f6c88226a902568982766a02a63a82e5fb0315bb73557bf3952c63d4dcc4248d34743"
        "d94d3ddf5337e45a31e9612bed6925f1711ff47918f78212f98b0bfa9407fb9d07fca60cfcb014fbba1ffac42a"
        "f8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
    ),
    "magma": (
        "00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f754a107952137c5a167e"
        "6219806a1c81721f81792282812581892881912b81992d80a1307eaa337db2357bba3878c23b75ca3e72d2426f"
        "d9466be04c67e75263ec5860f1605df4695cf7725cf97b5dfb8560fc8e64fd9869fea16efeaa74feb47bfebd82"
        "fec68afecf92fed89afde2a3fdebacfcf4b6fcfdbf"
    ),
    "cividis": (
        "00224e00245200265600285a002a5f002b63002d68002f6c0030700032710833701035701637701b396f203a6f"
        "243c6e273e6e2b406d2e416d31436d34456c37476c3a486c3c4a6c3f4c6c424d6c444f6c47516c49536c4c546c"
        "4e566c50586c535a6d555b6d575d6d5a5f6e5c616e5e626e60646f62666f656870676970696b716b6d726d6f72"
        "6f70737272747474757676767878777a7a787c7b787e7d78817f788381798583798885788a87788d88788f8a78"
        "928c78948e779690779992779b94769e9676a09875a39a75a59c74a89e73aaa073ada272afa471b2a670b5a86f"
        "b7aa6ebaac6dbcae6cbfb06bc2b269c4b468c7b667c9b965ccbb64cfbd62d2bf60d4c15fd7c45ddac65bdcc859"
        "dfca57e2cd54e5cf52e7d14fead34cedd64af0d846f3da43f6dd3ff9df3bfce236fee434fee838"
    ),
}
# Jet as Matlab drew it: corner points of each channel.
_JET = (
    ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
    ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
    ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
)
NAMES = (*_SAMPLES, "grey", "jet")
"""Every colour map by name."""

THEMES: dict[Theme, dict[str, str]] = {
    "default": {"signed": "coolwarm", "unsigned": "inferno", "activation": "magma"},
    "colour-blind": {"signed": "PuOr", "unsigned": "cividis", "activation": "cividis"},
    "paper": {"signed": "jet", "unsigned": "jet", "activation": "jet"},
}
"""Which map draws what: signed evidence, unsigned evidence, activations."""

OKABE_ITO = np.array(
    [
        [0xE6, 0x9F, 0x00],
        [0x56, 0xB4, 0xE9],
        [0x00, 0x9E, 0x73],
        [0xF0, 0xE4, 0x42],
        [0x00, 0x72, 0xB2],
        [0xD5, 0x5E, 0x00],
        [0xCC, 0x79, 0xA7],
        [0x00, 0x00, 0x00],
    ],
    dtype=np.uint8,
)
"""Eight colours for categories that stay apart under colour-vision deficiency (Okabe & Ito 2008)."""


@cache
def table(name: str, levels: int = 256) -> Floats:
    """The colour map as (levels, 3) numbers in [0, 1], evenly spaced from its low to its high end.

    An odd number of levels gives the middle a colour of its own. Raises `UnknownNameError` for another name.

    >>> table("grey", 3).tolist()
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]
    """
    at = np.linspace(0, 1, levels)
    if name == "jet":
        channels = [np.interp(at, x, y) for x, y in _JET]
    elif name == "grey":
        channels = [at, at, at]
    elif name in _SAMPLES:
        points = np.frombuffer(bytes.fromhex(_SAMPLES[name]), dtype=np.uint8).reshape(-1, 3) / 255
        where = np.linspace(0, 1, len(points))
        channels = [np.interp(at, where, points[:, c]) for c in range(3)]
    else:
        raise unknown("colour map", name, NAMES)
    made = np.stack(channels, axis=1)
    made.setflags(write=False)
    return made


@dataclass(frozen=True)
class Scale:
    """How numbers become colours: `low` and `high` are the ends of the bar, `colors` the name of the map.

    On a signed scale `low == -high`, zero is the middle and there are 255 levels, so that zero has one colour.
    """

    low: float
    high: float
    colors: str
    signed: bool

    @property
    def levels(self) -> int:
        """How many colours the scale tells apart."""
        return 255 if self.signed else 256

    @property
    def flat(self) -> bool:
        """Whether the map holds one number only, so that there is nothing to tell apart."""
        return self.low == self.high

    @property
    def marks(self) -> tuple[float, ...]:
        """The numbers printed on the bar, from left to right."""
        if self.flat:
            return (self.low,)
        return (self.low, 0.0, self.high) if self.signed else (self.low, self.high)

    def position(self, values: Array) -> Floats:
        """Where each number lies between the ends, in [0, 1]; numbers beyond the ends take the end."""
        if self.flat:
            return np.full(np.shape(values), 0.5 if self.signed else 0.0)
        # Ends are brought to at most 1 before subtracting, so that neither the largest nor the smallest floats break.
        far = max(abs(self.low), abs(self.high))
        low, width = self.low / far, self.high / far - self.low / far
        inside = np.clip(np.asarray(values, np.float64), self.low, self.high) / far
        return np.clip((inside - low) / width, 0.0, 1.0) if width else np.zeros(np.shape(values))

    def index(self, values: Array) -> npt.NDArray[np.uint8]:
        """Each number's place in `table(colors, levels)`; a signed zero is exactly 127."""
        if self.signed and not self.flat:
            # Counted from zero, so that v and -v are the same number of steps away from it.
            share = np.clip(np.asarray(values, np.float64), self.low, self.high) / self.high
            return (np.rint(share * 127) + 127).astype(np.uint8)
        return np.rint(self.position(values) * (self.levels - 1)).astype(np.uint8)

    def rgb(self, values: Array) -> Floats:
        """Each number's colour: one axis of three, in [0, 1], is added at the end."""
        return table(self.colors, self.levels)[self.index(values)]

    def strength(self, values: Array) -> Floats:
        """|value| as a share of the far end, in [0, 1]; exactly 0 where the value is 0."""
        far = max(abs(self.low), abs(self.high))
        if far == 0:
            return np.zeros(np.shape(values))
        return np.minimum(np.abs(np.asarray(values, np.float64)), far) / far


def scale(
    values: Array, *, signed: bool, limits: Limits = "percentile", colors: str = "", theme: Theme = "default"
) -> Scale:
    """The scale of a map: its far end is the 99.9th percentile of |v|, or the largest |v| under `limits="range"`.

    The percentile is a number of the map, never one between two, so a map of fewer than a thousand values ends at
    its largest; where it is zero though the map is not, the largest is taken. An unsigned scale starts at zero.
    Numbers of both signs are drawn signed whatever is said. Raises `InputError` for NaN or infinite numbers.

    >>> scale(np.array([[-1.0, 0.0, 4.0]]), signed=True).marks
    (-4.0, 0.0, 4.0)
    """
    values = finite(values)
    signed = signed or bool((values < 0).any())
    far = far_end(values, limits)
    name = colors or THEMES[theme]["signed" if signed else "unsigned"]
    return Scale(-far if signed else 0.0, far, name, signed)


def span(values: Array, *, colors: str = "", theme: Theme = "default") -> Scale:
    """The scale of a measurement whose zero means nothing special: from the smallest number to the largest."""
    values = finite(values)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return Scale(low, high, colors or THEMES[theme]["unsigned"], False)


def far_end(values: Array, limits: Limits = "percentile") -> float:
    """The largest |v| that the colours reach."""
    size = np.abs(np.asarray(values, np.float64)).ravel()
    if not size.size:
        return 0.0
    largest = float(size.max())
    if limits == "range":
        return largest
    return float(np.quantile(size, 0.999, method="higher")) or largest


def finite(values: Array, name: str = "a map") -> Array:
    """`values` unchanged; raises `InputError` saying where the first NaN or infinity is.

    >>> finite(np.array([[0.0, np.nan]]))
    Traceback (most recent call last):
    ...
    cutaway.core.errors.InputError: a map holds nan at (0, 1). Accepted: finite numbers.
    """
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(f"{name} holds {values[at]} at {at}", "finite numbers")
    return values


def number(value: float) -> str:
    """A number short enough for a colour bar, with a true minus sign.

    >>> number(-1.6243), number(0.0), number(12345.6), number(0.000123)
    ('−1.62', '0', '12300', '0.000123')
    """
    if value == 0:
        return "0"
    text = f"{value:.3g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{float(text):.0f}" if abs(value) >= 1 else f"{float(text):f}".rstrip("0")
    return text.replace("-", "−")
