"""A metric is one function with one declaration: what it asks, its range, which direction is better."""

from __future__ import annotations

import hashlib
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.errors import InputError, unknown
from cutaway.core.model import VisionModel
from cutaway.core.options import Parameter, parameter
from cutaway.core.result import Attribution
from cutaway.core.target import Target

Mask = npt.NDArray[np.bool_]


class UndefinedError(InputError):
    """A metric that has no value here, such as a rank correlation with a constant map."""

    title = "metric undefined"


class Again(Protocol):
    """The explainer under judgement, asked once more: the same method, options and target."""

    def __call__(self, model: VisionModel, x: Tensor, seed: int | None = None) -> Tensor:
        """The map of another network, picture or explainer seed (None: its own), float64 on the CPU.

        (h, w) for one picture; (n, h, w) for n pictures, each explained as it would be alone.
        """


@dataclass(frozen=True, eq=False)
class Case:
    """One explanation and everything it can be judged by.

    Parameters
    ----------
    model, x : the network and the picture (1, C, H, W) as it saw it, pixels in [0, 1].
    target : what was explained, decided: it reads one number from any batch.
    result : the explanation.
    heat : its map, (h, w), float64 on the CPU.
    again : the explainer, to be asked once more.
    truth : where the evidence truly is, boolean (H, W); None when that is not known.
    twin : a network of the same architecture that learned permuted labels; None when there is none.
    """

    model: VisionModel
    x: Tensor
    target: Target
    result: Attribution
    heat: Tensor
    again: Again
    truth: Mask | None = None
    twin: VisionModel | None = None


@dataclass(frozen=True)
class Metric:
    """A registered metric. `passes` is the value from which on the question counts as answered well, if there is one."""

    name: str
    title: str
    asks: str
    low: float
    high: float
    better: Literal["higher", "lower"]
    passes: float | None
    paper: str
    function: Callable[..., float]
    needs: tuple[str, ...]
    random: bool
    parameters: Mapping[str, Parameter]

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value; raises `UnknownNameError` or `UsageError` for one that is wrong."""
        for name in given:
            if name not in self.parameters:
                raise unknown(f"option of {self.name}", name, self.parameters)
        out = {n: p.default for n, p in self.parameters.items()}
        return out | {n: self.parameters[n].check(v) for n, v in given.items()}

    def fits(self, case: Case) -> bool:
        """Whether the case holds everything the metric needs."""
        return all(getattr(case, name) is not None for name in self.needs)

    def __call__(self, case: Case, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> float:
        """The value for one case. Raises `UndefinedError` where it has none."""
        chosen = self.options(options or {}) | ({"seed": seed} if self.random else {})
        value = float(self.function(*(getattr(case, name) for name in self.needs), **chosen))
        if not math.isfinite(value):
            raise UndefinedError(f"it comes out as {value}")
        return value

    def holds(self, value: float) -> bool:
        """Whether a value reaches `passes`."""
        assert self.passes is not None
        return value >= self.passes if self.better == "higher" else value <= self.passes

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain JSON values; an end of the range that is infinite is None."""
        ends = {"low": self.low, "high": self.high}
        own = {k: getattr(self, k) for k in ("name", "title", "asks", "better", "passes", "paper")}
        return own | {k: v if np.isfinite(v) else None for k, v in ends.items()}


METRICS: dict[str, Metric] = {}
"""Every registered metric by name. `cutaway.metrics` fills it when imported."""

M = TypeVar("M", bound=Callable[..., float])


def metric(
    *,
    title: str,
    asks: str,
    low: float,
    high: float,
    better: Literal["higher", "lower"],
    paper: str,
    passes: float | None = None,
) -> Callable[[M], M]:
    """Register a function as a metric.

    Its positional parameters are fields of `Case`; its keyword-only parameters are its options, annotated as those
    of a method. One called `seed` marks a metric that draws random numbers, through `generator`.
    """

    def register(function: M) -> M:
        signature = inspect.signature(function)
        needs = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        known = {f.name for f in fields(Case)}
        if not set(needs) <= known:
            raise ValueError(f"metric {function.__name__!r} needs {needs}, a case has {sorted(known)}")
        hints = typing.get_type_hints(function, include_extras=True)
        keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        parameters = {
            p.name: parameter(p.name, hints[p.name], p.default) for p in keywords if p.name != "seed"
        }
        name, random = function.__name__, "seed" in signature.parameters
        METRICS[name] = Metric(
            name, title, asks, low, high, better, passes, paper, function, tuple(needs), random, parameters
        )
        return function

    return register


def get(name: str) -> Metric:
    """The metric of that name; raises `UnknownNameError` with the nearest names."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


def generator(purpose: str, seed: int) -> torch.Generator:
    """Random numbers of a metric's own: no seed of an explainer ever gives the same stream.

    >>> torch.equal(torch.rand(2, generator=generator("deletion", 0)), torch.rand(2, generator=generator("deletion", 0)))
    True
    """
    digest = hashlib.sha256(f"cutaway metric {purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def laid(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (h, w) laid over a picture of `size`: bilinear, corners not aligned, float64 on the CPU.

    >>> laid(torch.tensor([[0.0, 4.0]]), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    heat = heat.detach().double().cpu()
    if tuple(heat.shape) == tuple(size):
        return heat
    return F.interpolate(heat[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def refuse_constant(heat: Tensor, what: str) -> None:
    """Raise `UndefinedError` for a map that has the same value everywhere."""
    if bool((heat == heat.flatten()[0]).all()):
        raise UndefinedError(f"the map is {float(heat.flatten()[0]):.3g} everywhere, so {what}")
