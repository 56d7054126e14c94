"""Ranked regions against planted objects, merging done naively on pixels, and answers computed one by one."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, MissingDependencyError, UnknownNameError, UsageError
from cutaway.core.geometry import Box
from cutaway.core.progress import finish
from cutaway.methods.perturbation.superpixels import superpixels
from cutaway.methods.units import proposals as module
from cutaway.methods.units.outline import outlined
from cutaway.methods.units.proposals import overlap, proposals
from cutaway.methods.units.regions import apart, drawn, labels, rank_regions, warped

PLANTED = Box(20, 30, 49, 79)


class Red(nn.Module):
    """Unit 0 is how red a block of the 32 x 32 input is, unit 1 how dark, unit 2 never answers."""

    def __init__(self, block: int = 8) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 3, 1), nn.AvgPool2d(block)
        weight = torch.tensor([[1.0, -0.5, -0.5], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
        self.conv.weight.data, self.conv.bias.data = weight.view(3, 3, 1, 1), torch.tensor([0.0, 1.0, -1.0])
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(F.relu(self.conv(x))).mean((2, 3)))
        return out


def model(block: int = 8) -> cutaway.VisionModel:
    return cutaway.VisionModel(Red(block).double(), cutaway.Preprocess(crop=32), name="red")


def scene(seed: int, *, box: Box | None = PLANTED) -> Tensor:
    """A grey picture with noise, a blue rectangle, and a red one where `box` says."""
    x = 0.5 + 0.04 * torch.rand(3, 70, 100, generator=torch.Generator().manual_seed(seed))
    x[:, 50:65, 5:25] = torch.tensor([0.1, 0.2, 0.9]).view(3, 1, 1)
    if box is not None:
        x[:, box.top : box.bottom + 1, box.left : box.right + 1] = torch.tensor([0.95, 0.05, 0.05]).view(
            3, 1, 1
        )
    return x


def rank(pictures: list[Any], channel: int = 0, block: int = 8, **options: Any) -> list[Any]:
    return finish(rank_regions(model(block), "pool", channel, pictures, **options))


def test_the_planted_object_comes_first() -> None:
    found = rank([scene(0, box=None), scene(1)], block=32)
    best = found[0]
    assert best.picture == 1
    assert (
        overlap(best.box, PLANTED) > 0.79
    )  # the segment inside the object's soft edge answers as much as all of it
    assert overlap(found[1].box, PLANTED) < 0.3
    assert best.share == 1
    assert best.value == pytest.approx(0.9, abs=0.01)
    assert [r.value for r in found] == sorted((r.value for r in found), reverse=True)
    assert all(r.share == pytest.approx(r.value / best.value) for r in found)
    assert rank([scene(1)], largest=1.8)[0].share == pytest.approx(0.5, abs=0.01)


def test_values_are_those_of_each_region_alone_and_the_strongest_apart_ones_are_kept() -> None:
    pictures = [scene(1), scene(2, box=Box(5, 60, 40, 90))]
    found = rank(pictures, most=1000, shared=0.4)
    net, want = Red(), []
    for number, picture in enumerate(pictures):
        answers = []
        for box in proposals(picture):
            part = picture[None, :, box.top : box.bottom + 1, box.left : box.right + 1].double()
            seen = F.interpolate(part, (32, 32), mode="bilinear", antialias=True)
            maps = net.double().pool(F.relu(net.conv(seen.clamp(0, 1))))[0, 0].detach()
            answers.append((-maps.max().item(), box))
        kept: list[Box] = []
        for value, box in sorted(answers):
            if all(by_pixels(box, other) <= 0.4 for other in kept):
                kept.append(box)
                want.append((value, number, box))
    want.sort()
    assert [(r.picture, r.box) for r in found] == [(n, b) for _, n, b in want]
    np.testing.assert_allclose([r.value for r in found], [-v for v, *_ in want], rtol=1e-5)


def by_pixels(a: Box, b: Box) -> float:
    masks = np.zeros((2, 200, 200), bool)
    for mask, box in zip(masks, (a, b), strict=True):
        mask[box.top : box.bottom + 1, box.left : box.right + 1] = True
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_overlap_is_that_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners, sides = rng.integers(0, 90, (2, 2)), rng.integers(1, 90, (2, 2))
        a, b = (Box(*map(int, (*c, *(c + s)))) for c, s in zip(corners, sides, strict=True))
        assert overlap(a, b) == pytest.approx(by_pixels(a, b))


def test_a_position_is_read_where_it_stands_and_its_field_is_drawn() -> None:
    found = rank([scene(1)], position=(1, 2), most=3)
    assert all((r.row, r.column) == (1, 2) for r in found)
    assert all(r.field == Box(8, 16, 15, 23) for r in found)  # 8 x 8 blocks, by hand
    tiles = drawn(model(), [scene(1)], found)
    assert tiles.shape == (3, 3, 32, 32)
    plain = warped(scene(1).double(), found[0].box, (32, 32))
    assert bool((tiles[0][:, 8, 16:24] == 1).all())
    changed = (tiles[0] != plain).any(0).nonzero()
    assert changed.min(0).values.tolist() == [7, 15]
    assert changed.max(0).values.tolist() == [16, 24]
    assert labels(found)[0] == "1.00"


def test_an_outline_that_leaves_the_picture_is_cut_off() -> None:
    grey = torch.full((3, 10, 12), 0.5)
    drawn = outlined(grey, Box(-3, -3, 5, 20))
    assert bool((drawn[:, 5] == 1).all())
    assert bool((drawn[:, 8:] == 0.5).all())
    assert bool((grey == 0.5).all())


# --- proposals ---------------------------------------------------------------------------------------------


def naive(picture: Tensor, labels: Tensor) -> set[Box]:
    """All boxes of greedy merging, every region a set of pixels and every histogram counted from them anew."""
    seen, area = picture.double(), labels.numel()
    colour = (seen * 25).long().clamp(max=24)
    texture = (module._directions(seen) * 10).long().clamp(max=9)

    def histogram(planes: Tensor, mask: Tensor, bins: int) -> Tensor:
        inside = planes[:, mask]
        counts = torch.stack([(inside == b).sum(1) for b in range(bins)], 1).double()
        return counts / counts.sum()

    def box(mask: Tensor) -> Box:
        rows, columns = mask.nonzero(as_tuple=True)
        return Box(int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max()))

    def touch(a: Tensor, b: Tensor) -> bool:
        wide = F.pad(a[None, None].double(), (1, 1, 1, 1))[0, 0]
        cross = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
        return bool(((cross > 0) & b).any())

    def score(a: Tensor, b: Tensor) -> float:
        both, size = box(a | b), int(a.sum() + b.sum())
        same = sum(
            float(torch.minimum(histogram(p, a, n), histogram(p, b, n)).sum())
            for p, n in ((colour, 25), (texture, 10))
        )
        return same + 1 - size / area + 1 - (both.height * both.width - size) / area

    regions = [labels == i for i in range(int(labels.max()) + 1)]
    boxes = {box(r) for r in regions}
    while len(regions) > 1:
        pairs = [(i, j) for i in range(len(regions)) for j in range(i) if touch(regions[i], regions[j])]
        i, j = max(pairs, key=lambda p: score(regions[p[0]], regions[p[1]]))
        merged = regions[i] | regions[j]
        regions = [r for k, r in enumerate(regions) if k not in (i, j)] + [merged]
        boxes.add(box(merged))
    return boxes


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_those_of_merging_done_naively(seed: int) -> None:
    smooth = F.avg_pool2d(torch.rand(1, 3, 60, 64, generator=torch.Generator().manual_seed(seed)), 9, 1)[0]
    picture = ((smooth - smooth.min()) / (smooth.max() - smooth.min())).double()
    found = superpixels(picture, "felzenszwalb", "", scale=100.0, sigma=0.8, min_size=20)
    assert 8 < int(found.max()) < 60
    assert set(proposals(picture, smallest=1)) == naive(picture, found)


def test_alike_neighbours_are_merged_before_others() -> None:
    x = torch.zeros(3, 40, 90)
    x[0, :, :30], x[0, :, 30:60], x[2, :, 60:] = 0.99, 0.97, 0.9  # two reds in one bin, one blue
    x[1, :, 30:60] = 0.3  # and apart enough to be segments of their own
    found = proposals(x, smallest=1)
    assert Box(0, 0, 39, 59) in found
    assert Box(0, 30, 39, 89) not in found


def test_small_boxes_are_left_out_and_none_comes_twice() -> None:
    found = proposals(scene(3), smallest=18)
    assert all(min(b.height, b.width) >= 18 for b in found)
    assert len(set(found)) == len(found)
    assert found[0] == Box(0, 0, 69, 99)


def test_suppression_keeps_the_strongest_and_breaks_ties_by_place() -> None:
    boxes = [Box(5, 5, 14, 14), Box(0, 0, 9, 9), Box(0, 0, 9, 8)]
    assert apart(boxes, [1.0, 1.0, 1.0], 0.3) == [2, 0]
    assert apart(boxes, [1.0, 1.0, 1.0], 1.0) == [2, 1, 0]


# --- refusals ------------------------------------------------------------------------------------------------


def test_a_unit_that_never_answers_is_refused_and_so_are_wrong_questions() -> None:
    with pytest.raises(MethodRefusedError, match="pool:2 answers to none"):
        rank([scene(1)], 2)
    with pytest.raises(UnknownNameError, match="0 to 2"):
        rank([scene(1)], 3)
    with pytest.raises(UnknownNameError, match="rows 0 to 3"):
        rank([scene(1)], position=(4, 0))
    for options in (
        {"most": 0},
        {"shared": 1.5},
        {"scale": 0.0},
        {"largest": -1.0},
        {"shared": float("nan")},
    ):
        with pytest.raises(UsageError):
            rank([scene(1)], **options)
    with pytest.raises(UsageError, match="at least one"):
        rank([])
    with pytest.raises(UsageError, match="picture 0 is a batch of 2"):
        rank([torch.rand(2, 3, 30, 30)])


def test_without_scikit_image_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingDependencyError, match="segment"):
        rank([scene(1)])
