"""Options of a method, read from its signature: types, ranges, choices, help."""

from __future__ import annotations

import math
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from .errors import UsageError
from .image import Photo, read


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included unless `open_low` or `open_high`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value lies inside; NaN never does."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        left, right = ("above " if self.open_low else ""), ("below " if self.open_high else "")
        if self.high == math.inf:
            return f"{left or 'at least '}{self.low:g}"
        if self.low == -math.inf:
            return f"{right or 'at most '}{self.high:g}"
        return f"{left}{self.low:g} to {right}{self.high:g}"


@dataclass(frozen=True)
class OrPicture:
    """Marks an option that takes one of these names, or a picture: its path, or anything `image.read` takes."""

    names: tuple[str, ...]


LayerName = Annotated[str | None, "layer to read; chosen and said when not given"]
"""Type of a `layer` option: None lets the method choose, aloud."""


@dataclass(frozen=True)
class Parameter:
    """One option of a method, as its signature declares it."""

    name: str
    type: str
    default: Any
    choices: tuple[str, ...] = ()
    range: Range | None = None
    optional: bool = False
    help: str = ""

    @property
    def accepted(self) -> str:
        """What values the option takes, in words."""
        kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a name"}
        text = " or ".join(map(repr, self.choices)) if self.choices else kinds[self.type]
        text += " or the path of a picture" if self.type == "picture" else ""
        text += f", {self.range}" if self.range else ""
        return text + (" or none" if self.optional else "")

    def check(self, value: Any) -> Any:
        """The value in the declared type (text is read); raises `UsageError` naming value and range."""
        bad = UsageError(f"{self.name}={value!r}", self.accepted, f"{self.name}={self.default!r}")
        if value is None or (isinstance(value, str) and value.casefold() == "none" and self.optional):
            if self.optional:
                return None
            raise bad
        if self.type == "picture":
            return self._picture(value, bad)
        if self.choices:
            if value not in self.choices:
                raise bad
            return value
        value = self._read(value, bad)
        if self.range is not None and not self.range.holds(value):
            raise bad
        return value

    def _picture(self, value: Any, bad: UsageError) -> Any:
        if isinstance(value, str) and value in self.choices:
            return value
        if isinstance(value, (str, os.PathLike)):
            if Path(value).is_file():
                return read(value)
            raise bad
        if isinstance(value, Photo):
            return value
        if hasattr(value, "shape") or hasattr(value, "getbands"):  # an array, a tensor, a PIL image
            return read(value)
        raise bad

    def _read(self, value: Any, bad: UsageError) -> Any:
        if self.type == "bool":
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if isinstance(value, str) and value.casefold() in words:
                return words[value.casefold()]
            if isinstance(value, bool):
                return value
            raise bad
        if self.type == "str":
            if isinstance(value, str):
                return value
            raise bad
        if isinstance(value, bool):
            raise bad
        try:
            number = float(value)
            if self.type == "int":
                if number != int(number):
                    raise bad
                return int(number)
        except (TypeError, ValueError, OverflowError):
            raise bad from None
        return number


def parameter(name: str, hint: Any, default: Any) -> Parameter:
    """The option that a keyword with this annotation and default declares."""
    help_text, span = "", None
    names: tuple[str, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        for extra in extras:
            if isinstance(extra, Range):
                span = extra
            elif isinstance(extra, OrPicture):
                names = extra.names
            else:
                help_text = str(extra)
    if names:
        return Parameter(name, "picture", default, names, None, False, help_text)
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kept = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = len(kept) < len(typing.get_args(hint))
        if len(kept) != 1:
            raise ValueError(f"option {name!r}: a union of several types has no form")
        hint = kept[0]
        if typing.get_origin(hint) is Annotated:
            hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return Parameter(name, "choice", default, typing.get_args(hint), None, optional, help_text)
    if hint not in (int, float, bool, str):
        raise ValueError(f"option {name!r} has type {hint}; int, float, bool, str and Literal have forms")
    return Parameter(name, hint.__name__, default, (), span, optional, help_text)


def finite(value: float | None) -> float | None:
    """The number, or None when JSON has no word for it."""
    return value if value is not None and math.isfinite(value) else None
