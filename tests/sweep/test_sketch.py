"""Bucket counts against sorting all values."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.core.errors import UsageError
from cutaway.sweep.sketch import BITS, BUCKETS, HIGH, LOW, ZERO, Sketch, codes, counts, edges

ANY = st.floats(width=32, allow_nan=False)
NEAR = st.floats(-(2.0**20), 2.0**20, width=32)
WHOLE = st.integers(-3, 3).map(float)
HARD = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, 1.0, -1.0, 3e38, -3e38, math.inf, -math.inf]
HARD += [s * 2.0**e * f for s in (1, -1) for e in (LOW, HIGH) for f in (1.0, 1 - 2.0**-24, 1 + 2.0**-23)]
VALUES = st.lists(ANY | NEAR | WHOLE | st.sampled_from(HARD), min_size=1, max_size=40)
SHARES = st.sampled_from([0.0, 0.005, 0.1, 0.25, 0.5, 0.9, 0.995, 1.0]) | st.floats(0, 1)


def sketch(values: list[float]) -> Sketch:
    return Sketch(counts(torch.tensor(values).view(-1, 1)))


def bucket(value: float) -> int:
    """The bucket by its definition: the edge below and not the one above is exceeded."""
    return int((edges().numpy() < np.float64(np.float32(value))).sum()) - 1


def test_edges_ascend_and_are_sixteen_to_a_doubling() -> None:
    limits = edges().tolist()
    assert len(limits) == BUCKETS + 1
    assert all(a < b for a, b in itertools.pairwise(limits))
    assert limits[: ZERO + 1] == [*[-e for e in limits[ZERO + 2 :]][::-1], -(2.0 ** (-149))]
    inside = limits[ZERO + 2 : -1]
    assert inside == [2.0**e * (1 + i / 16) for e in range(LOW, HIGH) for i in range(16)] + [2.0**HIGH]
    assert limits[ZERO + 1] == 0


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_a_value_lies_in_its_bucket(values: list[float]) -> None:
    expected = [max(0, bucket(v)) for v in values]
    assert codes(torch.tensor(values)).tolist() == expected
    assert (
        counts(torch.tensor(values).view(-1, 1))[0].tolist()
        == np.bincount(expected, minlength=BUCKETS).tolist()
    )


def test_every_edge_and_its_neighbours() -> None:
    limits = edges()[1:-1].float()
    values = torch.cat([limits, *(torch.nextafter(limits, torch.tensor(s * math.inf)) for s in (1, -1))])
    assert codes(values).tolist() == [bucket(v) for v in values.tolist()]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape", [(5, 3), (5, 3, 1, 1), (2, 700, 2, 1), (4, 3, 40, 50), (9, 2, 300, 310), (0, 2, 3, 3)]
)
@pytest.mark.parametrize("kind", ["relu", "signed", "one negative"])
def test_counts_of_any_layout_are_those_of_each_unit(shape: tuple[int, ...], kind: str, threads: int) -> None:
    maps = torch.randn(shape) * 3
    if kind != "signed":
        maps = maps.relu()
    if kind == "one negative" and maps.numel():
        maps[-1, -1] -= 0.5
    rows = maps.transpose(0, 1).reshape(shape[1], -1)
    expected = torch.stack([torch.bincount(codes(row).long(), minlength=BUCKETS) for row in rows])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            layouts = [maps, maps.clone()]
            if maps.ndim == 4:
                layouts += [maps.contiguous(memory_format=torch.channels_last), maps.transpose(2, 3)]
            for layout in layouts:
                assert torch.equal(counts(layout), expected)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(counts(maps.double()), expected)


@given(VALUES, SHARES)
@settings(max_examples=400, deadline=None)
def test_a_quantile_is_within_its_bound_of_the_sorted_value(values: list[float], q: float) -> None:
    true = np.sort(np.array(values, dtype=np.float32))[
        max(1, math.ceil(Fraction(str(q)) * len(values))) - 1
    ].item()
    value, bound = (t.item() for t in sketch(values).quantile(q))
    assert abs(true - value) <= bound or (math.isinf(bound) and abs(value) == 2.0**HIGH)
    if 2.0**LOW < abs(true) < 2.0**HIGH:
        assert bound <= abs(true) * 2.0 ** -(BITS + 1)
    elif abs(true) <= 2.0**LOW:
        assert bound <= (2.0 ** (LOW - 1) if true else 0) * (1 + 2.0**-BITS)
    else:
        assert abs(true) >= 2.0**HIGH


@pytest.mark.parametrize("q", [0.0, 1 / 256, 0.5, 255 / 256, 1.0])
def test_quantiles_of_many_values_agree_with_numpy(q: float) -> None:
    normal = torch.randn(4000)
    units = torch.stack([normal, normal.relu(), normal.exp(), 0 * normal, 0 * normal + 7, normal * 1e-6], 1)
    value, bound = Sketch(counts(units)).quantile(q)
    true = np.quantile(units.numpy(), q, axis=0, method="inverted_cdf")
    assert (np.abs(value.numpy() - true) <= bound.numpy()).all()
    assert bound[3] == 0
    assert bound.isfinite().all()


@given(VALUES, SHARES)
@settings(max_examples=200, deadline=None)
def test_shares_above_edges_are_exact(values: list[float], q: float) -> None:
    held, limits = sketch(values), edges().numpy()
    own = np.array(values, dtype=np.float64)
    above = (own[None] > limits[:, None]).sum(1)
    above[0] = len(values)  # -inf stands in the lowest bucket
    assert held.above()[0].tolist() == above.tolist()
    assert held.zero_share.item() == (own == 0).sum() / len(own)

    value, share, edge = held.threshold(q)
    assert (value.item(), share.item()) == (limits[edge.item()], above[edge.item()] / len(values))
    assert held.tail(edge).item() == held.tail(int(edge)).item() == share.item()
    allowed = Fraction(str(q)) * len(values)
    assert above[edge.item()] <= allowed
    assert edge.item() == 0 or above[edge.item() - 1] > allowed


def test_the_half_percent_threshold_of_a_known_distribution() -> None:
    value, share, _ = sketch([float(i) for i in range(1, 2001)]).threshold(0.005)
    assert 1990 <= value.item() <= 1990 * 17 / 16
    assert share.item() == max(0, 2000 - math.floor(value.item())) / 2000
    assert sketch([4.0] * 100).threshold(0.005).share.item() == 0


def test_a_histogram_is_exact_at_edges_and_even_between() -> None:
    values = torch.randn(3000) * 2
    held, own = Sketch(counts(values.view(-1, 1))), edges()
    limits = own[[0, 100, 400, ZERO, ZERO + 1, 700, 800, BUCKETS]]
    expected = [((values > a) & (values <= b)).sum().item() for a, b in itertools.pairwise(limits)]
    assert held.histogram(limits)[0].tolist() == expected

    ones = sketch([1.0] * 8)  # bucket (31/32, 1]
    assert ones.histogram(torch.tensor([0.5, 31 / 32, 63 / 64, 1.0, 2.0]))[0].tolist() == [0, 4, 4, 0]
    extreme = sketch([3e38, -3e38, 0.0])
    assert extreme.histogram(torch.tensor([-math.inf, -1.0, 1.0, math.inf]))[0].tolist() == [1, 1, 1]
    assert extreme.histogram(torch.tensor([-1e9, -1.0, 1.0, 1e9]))[0].tolist() == [0, 1, 0]


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_merging_any_partition_gives_the_same_counts(values: list[float], chance: random.Random) -> None:
    expected = sketch(values).counts
    parts: list[list[float]] = [[] for _ in range(4)]
    for value in values:
        chance.choice(parts).append(value)
    chance.shuffle(parts)
    held = Sketch(torch.zeros(1, BUCKETS, dtype=torch.int64))
    for part in parts:
        held.merge(sketch(part))
    assert torch.equal(held.counts, expected)


@pytest.mark.parametrize("nan", [math.nan, -math.nan])
@pytest.mark.parametrize("company", [1.0, -1.0])
def test_nan_is_refused(nan: float, company: float) -> None:
    values = torch.full((3, 2, 4, 4), company)
    values[1, 1, 2, 2] = nan
    for layout in (values, values.contiguous(memory_format=torch.channels_last)):
        with pytest.raises(UsageError, match="NaN"):
            counts(layout)
    with pytest.raises(UsageError, match="NaN"):
        codes(values)


def test_what_has_no_answer_is_refused() -> None:
    empty = Sketch(torch.zeros(2, BUCKETS, dtype=torch.int64))
    for ask in (lambda: empty.quantile(0.5), lambda: empty.zero_share, lambda: empty.threshold(0.1)):
        with pytest.raises(UsageError, match="no values"):
            ask()
    full = sketch([1.0, 2.0])
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="a share"):
            full.quantile(q)
    for edge in (-1, BUCKETS + 1):
        with pytest.raises(UsageError, match="edge"):
            full.tail(edge)
    for limits in ([1.0], [2.0, 1.0], [1.0, 1.0]):
        with pytest.raises(UsageError, match="limits"):
            full.histogram(torch.tensor(limits))
    with pytest.raises(UsageError, match="units"):
        full.merge(empty)
    with pytest.raises(UsageError, match="int64"):
        Sketch(torch.zeros(2, BUCKETS))
