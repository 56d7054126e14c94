"""Candidates that wait to be sorted in: the table is the head of the full sort whenever it is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.sweep import seen as seen_module
from cutaway.sweep import topk as topk_module
from cutaway.sweep.seen import Seen
from cutaway.sweep.topk import TopK

UNITS = 3


@given(
    chance=st.randoms(use_true_random=False),
    together=st.sampled_from([1, 4, 9]),
    k=st.sampled_from([1, 2, 5]),
    spread=st.sampled_from([1, 6]),
)
@settings(max_examples=80, deadline=None)
def test_whenever_the_table_is_read_it_is_the_head_of_the_full_sort(
    chance: object, together: int, k: int, spread: int
) -> None:
    generator = torch.Generator().manual_seed(chance.randint(0, 10**6))  # type: ignore[attr-defined]
    maps = torch.randint(0, spread + 1, (40, UNITS, 2, 3), generator=generator).float()
    ids = torch.randperm(1000, generator=generator)[:40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk_module, "_TOGETHER", together)
        top, shown = TopK(UNITS, k), 0
        while shown < 40:
            size = chance.randint(1, 7)  # type: ignore[attr-defined]
            part = slice(shown, shown + size)
            top.update(Seen(maps[part], ids[part]))
            shown = min(shown + size, 40)
            if chance.random() < 0.3:  # type: ignore[attr-defined]
                assert held(top) == head(maps[:shown], ids[:shown], k)
    assert held(top) == head(maps, ids, k)
    assert held(TopK.of(top.state())) == held(top)


Entry = tuple[float, int, int, int]


def held(top: TopK) -> list[list[Entry]]:
    tables = (-top.values, top.pictures, top.rows, top.cols)
    return [list(zip(*(t[u].tolist() for t in tables), strict=True)) for u in range(UNITS)]


def head(maps: torch.Tensor, ids: torch.Tensor, k: int) -> list[list[Entry]]:
    found = []
    for unit in range(UNITS):
        best = [
            min((-float(m[unit, r, c]), number, r, c) for r in range(2) for c in range(3))
            for m, number in zip(maps, ids.tolist(), strict=True)
        ]
        found.append((sorted(best) + [(float("inf"), -1, -1, -1)] * k)[:k])
    return found


def test_a_table_of_other_pictures_joins_what_waits_on_both_sides() -> None:
    peaks = torch.rand(30, UNITS, 1, 1)
    one, other, whole = TopK(UNITS, 4), TopK(UNITS, 4), TopK(UNITS, 4)
    one.update(Seen(peaks[:10], torch.arange(10)))
    other.update(Seen(peaks[10:], torch.arange(10, 30)))
    whole.update(Seen(peaks, torch.arange(30)))
    one.merge(other)
    assert held(one) == held(whole)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_seen_of_maps_in_any_layout_is_what_numpy_says(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = torch.randint(-3, 4, (5, 7, 6, 4)).float()
    monkeypatch.setattr(seen_module, "_CHUNK", 2 * 7 * 6 * 4)
    seen = Seen(maps.contiguous(memory_format=layout), torch.arange(5))
    flat = maps.flatten(2).numpy()
    first = flat.argmax(2)
    np.testing.assert_array_equal(seen.peaks, flat.max(2))
    np.testing.assert_array_equal(seen.lows, flat.min(2))
    np.testing.assert_array_equal(seen.rows, first // 4)
    np.testing.assert_array_equal(seen.cols, first % 4)
    np.testing.assert_array_equal(seen.sums, flat.sum(2))
    np.testing.assert_array_equal(seen.squares, (flat**2).sum(2))
    pictures, units = torch.tensor([4, 0, 4]), torch.tensor([1, 6, 0])
    for found, places in zip(seen.located(pictures, units), (first // 4, first % 4), strict=True):
        np.testing.assert_array_equal(found, places[pictures, units])
