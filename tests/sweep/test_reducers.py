"""Every reducer against brute force over all pictures, for every partition and order of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutaway.core.errors import UsageError
from cutaway.sweep import tallies as tallies_module
from cutaway.sweep.exact import ExactSum
from cutaway.sweep.reducers import REDUCERS, ClassMeans, Extremes, Moments, Reducer, Sketched
from cutaway.sweep.seen import Seen
from cutaway.sweep.sketch import counts
from cutaway.sweep.tallies import Confusion, Tallies
from cutaway.sweep.topk import TopK

UNITS, CLASSES = 3, 4
PER_UNIT: dict[str, tuple[Any, ...]] = {
    "top": (UNITS, 3),
    "extremes": (UNITS,),
    "moments": (UNITS,),
    "sketch": (UNITS,),
    "classes": (UNITS, CLASSES),
}


@dataclass
class Data:
    """A data set: maps (N, u, h, w) with picture numbers and classes."""

    maps: Tensor
    ids: Tensor
    labels: Tensor

    def seen(self, pictures: list[int]) -> Seen:
        return Seen(self.maps[pictures], self.ids[pictures], self.labels[pictures])


@st.composite
def data_sets(draw: st.DrawFn) -> Data:
    """Small whole numbers, so that ties are everywhere; numbers of pictures are not in order."""
    chance = draw(st.randoms(use_true_random=False))
    n = chance.randint(1, 12)
    spread = chance.choice([0, 1, 3])
    maps = [chance.randint(-spread, spread) for _ in range(n * UNITS * 6)]
    ids = chance.sample(range(1000), n)
    labels = [chance.randint(-1, CLASSES - 1) for _ in range(n)]
    return Data(
        torch.tensor(maps, dtype=torch.float32).view(n, UNITS, 2, 3), torch.tensor(ids), torch.tensor(labels)
    )


def swept(name: str, data: Data, chance: random.Random) -> Reducer:
    """A reducer over all pictures, parted into shards and batches and merged as chance will have it."""
    pictures = list(range(len(data.ids)))
    chance.shuffle(pictures)
    shards: list[list[int]] = [[] for _ in range(chance.randint(1, 4))]
    for picture in pictures:
        chance.choice(shards).append(picture)
    parts = []
    for shard in shards:
        part = REDUCERS[name](*PER_UNIT[name])
        while shard:
            size = chance.randint(1, len(shard))
            part.update(data.seen(shard[:size]))
            shard = shard[size:]
        parts.append(part)
    while len(parts) > 1:
        other = parts.pop(chance.randrange(len(parts)))
        chance.choice(parts).merge(type(other).of(other.state()))
    return parts[0]


def same(one: Reducer, other: Reducer) -> bool:
    a, b = one.state(), other.state()
    return a.keys() == b.keys() and all(a[k].numpy().tobytes() == b[k].numpy().tobytes() for k in a)


@pytest.mark.parametrize("name", PER_UNIT)
@given(data=data_sets(), chance=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_partition_and_order_gives_the_same_bits(name: str, data: Data, chance: random.Random) -> None:
    whole = REDUCERS[name](*PER_UNIT[name])
    whole.update(data.seen(list(range(len(data.ids)))))
    assert same(swept(name, data, chance), whole)


@given(data=data_sets(), chance=st.randoms(use_true_random=False), k=st.integers(1, 14))
@settings(max_examples=100, deadline=None)
def test_top_is_the_head_of_the_full_sort(data: Data, chance: random.Random, k: int) -> None:
    top = TopK(UNITS, k)
    pictures = list(range(len(data.ids)))
    chance.shuffle(pictures)
    while pictures:
        size = chance.randint(1, len(pictures))
        top.update(data.seen(pictures[:size]))
        pictures = pictures[size:]
    for unit in range(UNITS):
        entries = []
        for picture, number in enumerate(data.ids.tolist()):
            values = [
                (-data.maps[picture, unit, r, c].item(), number, r, c) for r in range(2) for c in range(3)
            ]
            entries.append(min(values))
        expected = sorted(entries)[:k] + [(float("inf"), -1, -1, -1)] * (k - len(entries))
        held = zip(top.values[unit], top.pictures[unit], top.rows[unit], top.cols[unit], strict=True)
        assert [(-v.item(), p.item(), r.item(), c.item()) for v, p, r, c in held] == expected


def test_equal_values_of_one_picture_go_by_row_and_column() -> None:
    """Not what a `Seen` gives, but the order is said to be total."""
    held = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        top = TopK(1, 2)
        rows, cols = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 2, 1, 1])
        for i in order:
            part = TopK(1, 2)
            part.values[0, 0], part.pictures[0, 0], part.rows[0, 0], part.cols[0, 0] = (
                5.0,
                8,
                rows[i],
                cols[i],
            )
            top.merge(part)
        held.append(list(zip(top.rows[0].tolist(), top.cols[0].tolist(), strict=True)))
    assert held == [[(0, 1), (0, 2)]] * 3


def test_top_of_many_real_values_equals_numpy() -> None:
    peaks = torch.randn(500, 20).relu()
    ids = torch.randperm(500)
    top = TopK(20, 9)
    for part in torch.arange(500).split(16):
        top.update(Seen(peaks[part][:, :, None, None], ids[part]))
    order = np.lexsort((np.broadcast_to(ids[:, None], peaks.shape), -peaks.numpy()), axis=0)[:9]
    assert torch.equal(top.pictures.T, ids[torch.from_numpy(order)])
    assert torch.equal(top.values.T, peaks.gather(0, torch.from_numpy(order)))


@given(data=data_sets(), chance=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_extremes_and_moments_are_those_of_all_values(data: Data, chance: random.Random) -> None:
    extremes, moments = swept("extremes", data, chance), swept("moments", data, chance)
    assert isinstance(extremes, Extremes)
    assert isinstance(moments, Moments)
    values = data.maps.transpose(0, 1).reshape(UNITS, -1).double().numpy()
    assert extremes.highs.tolist() == values.max(1).tolist()
    assert extremes.lows.tolist() == values.min(1).tolist()
    for unit in range(UNITS):
        of_picture = data.maps[:, unit].flatten(1)
        high = data.ids[of_picture.amax(1) == values[unit].max()].min()
        low = data.ids[of_picture.amin(1) == values[unit].min()].min()
        assert (extremes.high_pictures[unit], extremes.low_pictures[unit]) == (high, low)
    assert moments.places == values.shape[1]
    assert moments.mean().tolist() == pytest.approx(values.mean(1).tolist(), rel=1e-14)
    assert moments.rms().tolist() == pytest.approx(np.sqrt((values**2).mean(1)).tolist(), rel=1e-14)
    assert moments.std().tolist() == pytest.approx(values.std(1).tolist(), rel=1e-12)


def test_a_constant_unit_has_no_spread_and_no_minus_zero_is_left() -> None:
    levels = torch.cat([torch.linspace(0.1, 9.7, 40), torch.tensor([-0.0])])
    maps = levels[None, :, None, None].repeat(3, 1, 7, 7)
    moments, extremes = Moments(41), Extremes(41)
    for i in range(10):
        seen = Seen(maps, torch.arange(3) + 3 * i)
        extremes.update(seen)
        # squares and sums in float64, so that only what the moments make of them is seen
        seen.sums, seen.squares = maps.double().sum((2, 3)), maps.double().square().sum((0, 2, 3))
        moments.update(seen)
    assert (moments.std() == 0).all()
    assert not torch.signbit(torch.cat([extremes.highs, extremes.lows])).any()


@given(data=data_sets(), chance=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_class_means_are_the_means_over_each_class(data: Data, chance: random.Random) -> None:
    held = swept("classes", data, chance)
    assert isinstance(held, ClassMeans)
    means = held.means()
    for number in range(CLASSES):
        maps = data.maps[data.labels == number].double()
        assert held.pictures[number] == len(maps)
        if not len(maps):
            assert means.peak[number].isnan().all()
            continue
        assert torch.allclose(means.peak[number], maps.amax((2, 3)).mean(0), rtol=1e-14)
        assert torch.allclose(means.mean[number], maps.mean((0, 2, 3)), rtol=1e-14)


@given(data=data_sets(), chance=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_sketch_counts_every_value(data: Data, chance: random.Random) -> None:
    held = swept("sketch", data, chance)
    assert isinstance(held, Sketched)
    assert torch.equal(held.sketch.counts, counts(data.maps))


def test_tables_of_classes_grow_seldom_and_hold_no_more_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    copied, placed = [], ExactSum.placed

    def counted(self: ExactSum, count: int, at: Tensor) -> ExactSum:
        copied.append(count)
        return placed(self, count, at)

    monkeypatch.setattr(ExactSum, "placed", counted)
    held, order = ClassMeans(2, 300), random.Random(4).sample(range(300), 300)
    for n, label in enumerate(order):
        seen = Seen(torch.full((1, 2, 1, 1), float(label)), torch.tensor([n]), torch.tensor([label]))
        held.update(seen)
    assert len(copied) <= 2 * 10  # both sums, each time they double: 1, 2, 4 ... 256, 300
    assert max(copied) == 300
    assert held.met.tolist() == list(range(300))
    assert held.means().peak[:, 1].tolist() == [float(label) for label in range(300)]
    assert held.state()["peaks_digits"].shape[0] == 300


def test_pictures_without_classes_and_unknown_classes_are_refused() -> None:
    held = ClassMeans(1, 2)
    with pytest.raises(UsageError, match="without labels"):
        held.update(Seen(torch.zeros(1, 1, 1, 1), torch.tensor([0])))
    with pytest.raises(UsageError, match="class 2"):
        held.update(Seen(torch.zeros(1, 1, 1, 1), torch.tensor([0]), torch.tensor([2])))
    assert held.pictures.tolist() == [0, 0]


@pytest.mark.parametrize("name", PER_UNIT)
def test_statistics_of_other_units_are_not_merged(name: str) -> None:
    one = REDUCERS[name](*PER_UNIT[name])
    other = REDUCERS[name](UNITS + 1, *PER_UNIT[name][1:])
    with pytest.raises(UsageError):
        one.merge(other)
    with pytest.raises(UsageError, match="k=0"):
        TopK(1, 0)


# ---- tallies ------------------------------------------------------------------------------------------------------


def masks(n: int, count: int) -> Tensor:
    return torch.rand(n, count, 4, 5) < torch.rand(count, 1, 1)


@pytest.mark.parametrize("piece", [1, 7, 1 << 22])
def test_tallies_are_sums_over_the_pictures_annotated_for_the_category(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies_module, "_PLACES", piece)
    units, labels = masks(9, 3), masks(9, 4)
    categories, known = torch.tensor([0, 1, 1, 2]), torch.rand(9, 3) < 0.6
    parts = [Tallies(3, categories) for _ in range(2)]
    for i, pictures in enumerate(torch.randperm(9).split(2)):
        parts[i % 2].update(units[pictures], labels[pictures], known[pictures])
    held = Tallies.of(parts[1].state())
    held.merge(parts[0])
    for u in range(3):
        for c, category in enumerate(categories.tolist()):
            inside = union = 0
            for n in range(9):
                if known[n, category]:
                    inside += int((units[n, u] & labels[n, c]).sum())
                    union += int((units[n, u] | labels[n, c]).sum())
            assert held.intersections[u, c] == inside
            assert held.iou()[u, c].item() == inside / union


def test_a_planted_unit_scores_one_and_half_a_width_beside_it_a_third() -> None:
    concept = torch.zeros(1, 1, 8, 16, dtype=torch.bool)
    concept[..., 2:6, 4:8] = True
    held = Tallies(3, torch.tensor([0]))
    held.update(torch.cat([concept, concept.roll(2, 3), torch.zeros_like(concept)], 1), concept)
    assert held.iou()[:, 0].tolist() == [1.0, 1 / 3, 0.0]


def test_tallies_refuse_what_does_not_fit() -> None:
    held = Tallies(3, torch.tensor([0, 1]))
    for units, labels, known in (
        (masks(2, 2), masks(2, 2), None),
        (masks(2, 3), masks(2, 3), None),
        (masks(2, 3), masks(3, 2), None),
        (masks(2, 3)[..., :2], masks(2, 2), None),
        (masks(2, 3).float(), masks(2, 2), None),
        (masks(2, 3), masks(2, 2), torch.ones(2, 3)),
    ):
        with pytest.raises(UsageError):
            held.update(units, labels, known)
    assert held.unit_areas.sum() == held.label_areas.sum() == 0
    with pytest.raises(UsageError, match="same units"):
        held.merge(Tallies(3, torch.tensor([1, 0])))
    with pytest.raises(UsageError, match="whole number"):
        Tallies(3, torch.tensor([-1]))


# ---- confusion ----------------------------------------------------------------------------------------------------


def test_confusion_counts_pairs_in_any_partition() -> None:
    truth, predicted = torch.randint(-1, 4, (300,)), torch.randint(0, 4, (300,))
    parts = [Confusion(4) for _ in range(3)]
    for i, pictures in enumerate(torch.randperm(300).split(40)):
        parts[i % 3].update(truth[pictures], predicted[pictures])
    held = Confusion.of(parts[2].state())
    held.merge(parts[0])
    held.merge(parts[1])
    pairs = list(zip(truth.tolist(), predicted.tolist(), strict=True))
    expected = [[pairs.count((t, p)) for p in range(4)] for t in range(4)]
    assert held.counts.tolist() == expected
    known = [p for p in pairs if p[0] >= 0]
    assert held.accuracy() == sum(t == p for t, p in known) / len(known)
    assert held.recalls()[1].item() == expected[1][1] / sum(expected[1])
    wrong = sorted((-expected[t][p], t, p) for t in range(4) for p in range(4) if t != p)
    assert held.pairs(5) == [(t, p, -n) for n, t, p in wrong[:5]]


def test_confusion_refuses_classes_that_do_not_exist() -> None:
    held = Confusion(2)
    for truth, predicted in (([2], [0]), ([0], [2]), ([0], [-1]), ([0, 1], [0])):
        with pytest.raises(UsageError):
            held.update(torch.tensor(truth), torch.tensor(predicted))
    assert held.counts.sum() == 0
    assert np.isnan(held.accuracy())


def test_the_registry_names_every_reducer_once() -> None:
    assert set(REDUCERS) == {*PER_UNIT, "tallies", "confusion"}
    assert len(set(REDUCERS.values())) == len(REDUCERS)
