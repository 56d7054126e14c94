"""What every kind of model spec comes down to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from cutaway.core.preprocess import Preprocess


@dataclass
class Opened:
    """A network with what its origin knows about it."""

    network: nn.Module
    name: str
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    weights: str = "as built"
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Random:
    """Weights drawn afresh, on purpose, from a seed."""

    seed: int


@dataclass(frozen=True)
class File:
    """Weights read from a file, not yet in a network."""

    name: str
    state: Mapping[str, Tensor]


Weights: TypeAlias = Random | File | None
