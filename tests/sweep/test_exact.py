"""Exact sums against `math.fsum` and rational numbers, in every order and grouping."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.core.errors import UsageError
from cutaway.sweep import exact
from cutaway.sweep.exact import ExactSum

BIG = 2.0**300
REAL = st.floats(-BIG, BIG, allow_nan=False).map(lambda v: v if abs(v) >= 2.0**-260 else 0.0)
"""Numbers every bit of which the default range holds."""
NEAR = st.integers(-(2**53), 2**53).flatmap(lambda m: st.integers(-90, 90).map(lambda e: math.ldexp(m, e)))
"""Numbers of like size and full mantissas, whose sums are hard to round."""


def table(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1)


def summed(values: list[float], **range_: int) -> ExactSum:
    total = ExactSum(1, **range_)
    total.add(table(values))
    return total


@given(
    st.lists(REAL | NEAR | st.sampled_from([1.0, 2.0**53, 2.0**-53, -(2.0**54), 1 + 2.0**-52]), max_size=30)
)
@settings(max_examples=300, deadline=None)
def test_the_sum_is_rounded_once(values: list[float]) -> None:
    assert summed(values).value().item() == math.fsum(values)


@given(st.lists(NEAR | st.floats(-(2.0**63), 2.0**63), max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_narrow_range_rounds_each_value_to_its_last_digit(values: list[float]) -> None:
    values = [v for v in values if abs(v) < 2.0**64]
    rounded = sum((Fraction(round(Fraction(v) * 2**64), 2**64) for v in values), Fraction(0))
    assert summed(values, low=-64, high=64).value().item() == float(rounded)


def test_halves_go_to_the_even_neighbour() -> None:
    half = 2.0**-53
    for values in ([1.0, half], [1.0, half, 2.0**-200], [1 + 2.0**-52, half], [-1.0, -half, -(2.0**-200)]):
        assert summed(values).value().item() == float(sum(map(Fraction, values))), values


@given(st.lists(REAL, min_size=1, max_size=25), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_order_and_partition_gives_the_same_bits(values: list[float], chance: random.Random) -> None:
    expected = summed(values).state()["digits"]
    chance.shuffle(values)
    parts = [ExactSum(1) for _ in range(chance.randint(1, 5))]
    for value in values:
        chance.choice(parts).add(table([value]))
    while len(parts) > 1:
        other = parts.pop(chance.randrange(len(parts)))
        chance.choice(parts).merge(ExactSum.of(other.state()))
    assert torch.equal(parts[0].state()["digits"], expected)


def test_a_table_adds_further_axes_and_chosen_rows() -> None:
    values = torch.randn(7, 3, 4, dtype=torch.float64)
    whole = ExactSum(3, 4)
    whole.add(values)
    assert torch.allclose(whole.value(), values.sum(0), rtol=1e-14)

    rows = torch.tensor([4, 0, 4, 2, 4, 0, 2])
    chosen = ExactSum(5, 3, 4)
    chosen.add(values, rows)
    expected = torch.zeros(5, 3, 4, dtype=torch.float64)
    for row, value in zip(rows.tolist(), values, strict=True):
        expected[row] += value
    assert torch.allclose(chosen.value(), expected, rtol=1e-14)
    assert (chosen.value()[[1, 3]] == 0).all()


def test_single_precision_and_its_extremes_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_BLOCK", 2)  # so that reading in blocks is seen too
    info = torch.finfo(torch.float32)
    tiny = 2.0**-149
    values = torch.tensor([info.max, -info.max, tiny, 1.0, 0.1])
    total = ExactSum(5)
    total.add(values)
    assert total.value().tolist() == values.double().tolist()
    squares = ExactSum(5)
    squares.add(values.double().square())
    assert squares.value().tolist() == values.double().square().tolist()


def test_digits_are_carried_before_they_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = (2.0**53 - 1) * torch.exp2(torch.arange(-320, 267, dtype=torch.float64))
    one = ExactSum(len(largest))
    one.add(largest)
    assert int(one._digits.abs().max()) < 2**33
    assert exact._PENDING * 2**33 <= 2**62

    monkeypatch.setattr(exact, "_PENDING", 3)
    values = [math.ldexp((-1) ** i * (2**53 - i), i % 40) for i in range(50)]
    total = ExactSum(1)
    for value in values:
        total.add(table([value]))
        assert total._pending <= 3
    assert total.value().item() == math.fsum(values)


def test_a_sum_too_large_is_said_before_it_wraps() -> None:
    total = summed([2.0**31], low=0, high=32)
    for _ in range(30):
        total.merge(ExactSum.of(total.state()))
    assert total.value().item() == 2.0**61
    with pytest.raises(UsageError, match=r"beyond 2\^62"):
        total.merge(ExactSum.of(total.state()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**64])
def test_what_is_no_number_or_too_large_is_refused(value: float) -> None:
    total = summed([1.0], low=-64, high=64)
    with pytest.raises(UsageError, match="finite values below"):
        total.add(table([1.0, value]))
    assert total.value().item() == 1.0


@pytest.mark.parametrize(("low", "high"), [(-10, 32), (0, 0), (32, 64), (-960, 960), (-32, 31)])
def test_a_range_that_is_none_is_refused(low: int, high: int) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        ExactSum(1, low=low, high=high)


def test_shapes_that_do_not_fit_are_refused() -> None:
    total = ExactSum(2, 3)
    for values, rows in (
        (torch.zeros(3, 2), None),
        (torch.zeros(3), None),
        (torch.zeros(4, 3), torch.tensor([0])),
        (torch.zeros(1, 3), torch.tensor([2])),
        (torch.zeros(1, 3), torch.tensor([-1])),
    ):
        with pytest.raises(UsageError):
            total.add(values, rows)
    for other in (ExactSum(2, 2), ExactSum(2, 3, low=-64)):
        with pytest.raises(UsageError, match="merge"):
            total.merge(other)
    total.add(torch.zeros(0, 2, 3))
    assert (total.value() == 0).all()
