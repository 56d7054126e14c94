"""Every method on every architecture: it agrees with an independent answer, or refuses in one clear sentence.

What came out is kept in `outcomes/`, one file for each architecture, and shown in docs/matrix.md. With
CUTAWAY_RECORD=1 the tests write those files instead of comparing with them.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.methods import METHODS

from . import (
    oracles,
    oracles_adversarial,
    oracles_dreams,
    oracles_perturbation,
    oracles_synthesis,
    oracles_weights,
    page,
)
from .case import ORACLES, Case, Refused
from .networks import CLASSES, NETWORKS, Network

RECORD = os.environ.get("CUTAWAY_RECORD") == "1"
assert oracles
assert oracles_adversarial
assert oracles_dreams
assert oracles_perturbation
assert oracles_synthesis
assert oracles_weights


def test_every_method_has_an_oracle() -> None:
    assert sorted(ORACLES) == sorted(METHODS)


def test_every_architecture_has_a_record_and_no_other() -> None:
    assert sorted(f.stem for f in page.OUTCOMES.glob("*.json")) == sorted(NETWORKS) or RECORD


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield Case(NETWORKS[request.param])
    gc.collect()  # the largest weighs a gigabyte


@pytest.mark.parametrize("case", NETWORKS, indirect=True)
def test_every_method_agrees_or_refuses_clearly(case: Case) -> None:
    seen, wrong = {}, []
    for method in sorted(set(METHODS) & set(ORACLES)):
        try:
            ORACLES[method](case)
        except Refused as outcome:
            seen[method] = str(outcome)
            if not clear(outcome):
                wrong.append(f"{method} refuses without saying what is accepted and what to try: {outcome}")
        except Exception as error:  # a crash or wrong numbers, gathered so that one does not hide another
            wrong.append(f"{method}: {type(error).__name__}: {error}")
        else:
            seen[method] = page.AGREES
    assert not wrong, "\n".join(wrong)
    file = page.OUTCOMES / f"{case.network.name}.json"
    if RECORD:
        record = {"network": case.network.title, "pixels": case.network.size, "outcomes": seen}
        file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert seen == json.loads(file.read_text(encoding="utf-8"))["outcomes"]


def test_the_oracle_that_no_architecture_lets_run_tells_right_from_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, len(CLASSES)))

    case = Case(Network("linear", "linear", build, "1", "1", None, size=8))
    ORACLES["linear_templates"](case)
    right = METHODS["linear_templates"]

    def doubled(*args: Any, **options: Any) -> Any:
        raw = right.function(*args, **options)
        return replace(raw, values=2 * raw.values)

    monkeypatch.setitem(METHODS, "linear_templates", replace(right, function=doubled))
    with pytest.raises(AssertionError):
        ORACLES["linear_templates"](case)


def clear(outcome: Refused) -> bool:
    """Whether the refusal is of a kind a person can mend, in one sentence each for what, accepted and try."""
    error = outcome.error
    parts = (error.found, error.accepted, error.hint)
    return isinstance(error, MethodRefusedError | UsageError) and all(p and "\n" not in p for p in parts)


def test_the_page_shows_the_records() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), "run make docs"
