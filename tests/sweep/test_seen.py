"""What is boiled down of a batch of maps: the same to the bit however the pictures come."""

from __future__ import annotations

import pytest
import torch

from cutaway.sweep import seen
from cutaway.sweep.seen import Seen
from cutaway.sweep.shards import threads


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 224, 224), (1, 9, 9), (3, 7, 7), (17, 30, 20), (64, 80, 80), (40, 1, 1)]
)
def test_sums_depend_on_no_batch_and_no_thread(shape: tuple[int, int, int], last: bool) -> None:
    maps = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1)) ** 3
    layout = torch.channels_last if last else torch.contiguous_format
    found = []
    for count in (1, 2):
        with threads(count):
            for size in (1, 3, 8):
                parts = [part.contiguous(memory_format=layout) for part in maps.split(size)]
                each = [Seen(part, torch.arange(len(part))) for part in parts]
                found.append(
                    [torch.cat(both) for both in zip(*((s.sums, s.squares) for s in each), strict=True)]
                )
    for sums, squares in found:
        assert torch.equal(sums, found[0][0])
        assert torch.equal(squares, found[0][1])
    torch.testing.assert_close(found[0][0], maps.double().sum((2, 3)), rtol=1e-9, atol=1e-6)


def test_memory_of_large_maps_is_given_back() -> None:
    maps = torch.rand(1, 8, 800, 800)
    assert maps.numel() > seen._MOST
    got = Seen(maps, torch.tensor([0])).sums
    torch.testing.assert_close(got, maps.double().sum((2, 3)), rtol=1e-13, atol=0)
    Seen(maps[..., :80], torch.tensor([0])).sums  # noqa: B018 - computed when asked for
    assert seen._held.room.numel() <= seen._MOST
