"""The planted shortcut: what the background says of the animal, and that nothing else moves with it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from cutaway.data.scenes_shortcut import KINDS, SNOW, Placing, animal

COUNT = 240


def places(placing: Placing) -> tuple[np.ndarray, np.ndarray]:
    """Which scenes show a fish, and which lie in the snow."""
    drawn = [animal(k, seed=5, placing=placing, size=32) for k in range(COUNT)]
    return np.array([s.name == KINDS[1] for s in drawn]), np.array([s.background == SNOW for s in drawn])


def test_the_background_tells_the_animal_wholly_inversely_or_not_at_all() -> None:
    fish, snow = places("matched")
    np.testing.assert_array_equal(fish, snow)
    assert fish.mean() == 0.5
    fish, snow = places("swapped")
    np.testing.assert_array_equal(fish, ~snow)
    fish, snow = places("independent")
    table = [[(fish & snow).sum(), (fish & ~snow).sum()], [(~fish & snow).sum(), (~fish & ~snow).sum()]]
    assert scipy.stats.fisher_exact(table).pvalue > 0.01
    assert abs(snow.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize("index", [0, 1, 6, 9])
def test_another_background_leaves_the_animal_as_it_was(index: int) -> None:
    one, other = (animal(index, seed=5, placing=p) for p in ("matched", "swapped"))
    assert one.background != other.background
    np.testing.assert_array_equal(one.object_mask, other.object_mask)
    inside = one.object_mask.copy()
    for _ in range(2):  # away from the outline, whose pixels are blended with what lies behind
        near = np.pad(inside, 1)
        inside &= near[:-2, 1:-1] & near[2:, 1:-1] & near[1:-1, :-2] & near[1:-1, 2:]
    assert inside.sum() > 50
    if "night" not in (one.background, other.background):  # the night darkens what stands in it
        np.testing.assert_array_equal(one.image[inside], other.image[inside])
