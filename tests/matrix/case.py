"""One architecture under test: the package's model of it beside the bare network, and how numbers are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cutaway.core.errors import CutawayError
from cutaway.core.progress import finish
from cutaway.core.result import Result
from cutaway.core.run import explain
from cutaway.methods import METHODS

from .networks import Network, built
from .plain import Plain


class Refused(Exception):  # noqa: N818 - an outcome
    """The package declined; `error` is what it said."""

    def __init__(self, error: CutawayError) -> None:
        super().__init__(str(error))
        self.error = error


class Case:
    """What an oracle is given."""

    def __init__(self, network: Network) -> None:
        net, self.model = built(network)
        self.network, self.plain = network, Plain(network, net)

    def run(self, method: str, *, given: Any = None, **options: Any) -> Any:
        """The method's result for the picture; raises `Refused` with the package's own words."""
        try:
            work = explain(self.model, METHODS[method], self.plain.u, self.plain.target, options, given=given)
            (found,) = finish(work)
        except CutawayError as error:
            raise Refused(error) from error
        assert isinstance(found, Result)
        return found


Oracle = Callable[[Case], None]
ORACLES: dict[str, Oracle] = {}
"""Every method's independent check: it runs the method, and raises `AssertionError` where the numbers differ."""


def oracle(*methods: str) -> Callable[[Oracle], Oracle]:
    def keep(function: Oracle) -> Oracle:
        for method in methods:
            assert method not in ORACLES, method
            ORACLES[method] = function
        return function

    return keep


def agree(got: Any, want: Any, tolerance: float = 1e-9) -> None:
    """Equal within `tolerance` of the largest size; a right answer of zeros or nothing is no test."""
    got, want = array(got), array(want)
    assert got.shape == want.shape, f"{got.shape}, right is {want.shape}"
    size = float(np.abs(want).max())
    assert np.isfinite(size), "the oracle's own answer is not finite"
    assert size > 0, "the oracle's own answer is zero everywhere"
    apart = float(np.abs(got - want).max())
    assert apart <= tolerance * size, f"off by {apart:.3g} where the largest is {size:.3g}"


def array(t: Any) -> np.ndarray:
    return np.asarray(t.detach().numpy() if isinstance(t, torch.Tensor) else t, dtype=np.float64)


def close(got: float, want: float, tolerance: float = 1e-9) -> None:
    """One number, within `tolerance` of 1 or of its size, whichever is more."""
    assert abs(got - want) <= tolerance * max(1.0, abs(want)), f"{got!r}, right is {want!r}"
