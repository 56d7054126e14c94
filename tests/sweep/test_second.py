"""Mean patches of large fields: whole-number blocks of the picture, grey beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.sweep import second
from cutaway.sweep.second import _Cells, _Shrunk


@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(1, 40),
    jump=st.integers(1, 9),
    offset=st.integers(-20, 5),
    most=st.integers(3, 16),
    seed=st.integers(0, 1000),
)
def test_patches_are_rounded_means_of_the_blocks_that_cover_the_field(
    side: int, jump: int, offset: int, most: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(second, "SIDE", most)
        first = torch.arange(5) * jump + offset
        field = torch.stack([first, first + side - 1], 1)
        cells = _Cells.of((field, field))
    assert max(cells.size) <= most
    assert cells.step * cells.size[0] >= side > cells.step * (cells.size[0] - 1)
    covered = (cells.tops <= field[:, 0]) & (cells.tops + cells.step * cells.size[0] > field[:, 1])
    assert bool(covered.all())
    picture = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(seed))
    shrunk = _Shrunk(picture, 120)
    rows, cols = torch.tensor([0, 2, 4, 1]), torch.tensor([3, 0, 4, 1])
    found = shrunk.cut(cells.step, cells.size, cells.tops[rows], cells.lefts[cols])
    wide = np.full((3, 17 + 240, 23 + 240), 128.0)
    wide[:, 120:137, 120:143] = (picture * 255).round().numpy()
    for patch, top, left in zip(found, cells.tops[rows].tolist(), cells.lefts[cols].tolist(), strict=True):
        for i in range(cells.size[0]):
            for j in range(cells.size[1]):
                y, x = 120 + top + i * cells.step, 120 + left + j * cells.step
                block = wide[:, y : y + cells.step, x : x + cells.step].mean((1, 2))
                assert np.abs(patch[:, i, j].numpy() - block).max() <= 0.5 + 1e-9
