"""Salient objects: planted ones, scores and suppression by brute force."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from cutaway.core.errors import InputError, MethodRefusedError
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.methods.gradient.boxes import overlap, suppress
from cutaway.methods.gradient.salient_objects import contrast, proposed

from .nets import GapNet, picture, wrap

NAME = "salient_objects"


class Weighed(nn.Module):
    """S(x) = sum w x, whose saliency is |w|."""

    def __init__(self, heat: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(heat)[None].expand(3, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1, keepdim=True)


def random_boxes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corner, size = random.integers(0, 30, (n, 2)), random.integers(1, 25, (n, 2))
    return np.concatenate([corner, corner + size], 1), random.permutation(n) / n


def pixels(box: np.ndarray) -> set[tuple[int, int]]:
    return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [0.0, 0.3, 0.5, 1.0])
def test_suppression_equals_the_greedy_loop_over_pixels_and_torchvision(seed: int, most: float) -> None:
    boxes, scores = random_boxes(40, seed)
    left, want = sorted(range(40), key=lambda i: -scores[i]), []
    sets = [pixels(b) for b in boxes]
    while left:
        best = left.pop(0)
        want.append(best)
        left = [i for i in left if len(sets[i] & sets[best]) <= most * len(sets[i] | sets[best])]
    assert suppress(boxes.tolist(), scores.tolist(), most) == want
    theirs = nms(torch.tensor(boxes[:, [1, 0, 3, 2]]).double(), torch.tensor(scores), most)
    assert theirs.tolist() == want
    assert overlap(boxes[0], boxes[1]) == len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("weaker", [1.0, 0.7])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_two_planted_objects_are_two_boxes(weaker: float, noise: float) -> None:
    heat = noise * np.random.default_rng(1).random((80, 100))
    first, second = (10, 12, 40, 40), (48, 55, 70, 92)
    heat[10:40, 12:40] += 1
    heat[48:70, 55:92] += weaker
    result = wrap(Weighed(heat)).explain(picture(1, 3, 80, 100), NAME, 0)
    boxes = result.evidence["boxes"]
    assert len(boxes) == result.evidence["objects"] == 2
    if weaker == 1:
        boxes = sorted(boxes)
    assert overlap(boxes[0], first) > 0.8
    assert overlap(boxes[1], second) > 0.8
    assert result.evidence["proposals"] >= 2


def test_every_object_has_its_pixels_its_box_and_its_score() -> None:
    model, x = wrap(GapNet()), picture(2, 3, 40, 40)
    for result in finish(explain(model, METHODS[NAME], x, 1, {"minimum_score": 0, "iou": 1})):
        instances, scores = result.panels["instances"].values, result.evidence["scores"]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0
        assert result.evidence["objects"] == len(scores) == instances.max() > 1
        for number, (box, score) in enumerate(zip(result.evidence["boxes"], scores, strict=True), 1):
            rows, columns = np.nonzero(instances == number)
            assert box == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            np.testing.assert_allclose(result.values[instances == number], score, rtol=1e-12)
        assert (result.values[instances == 0] == 0).all()
        labels = result.panels["instances"].labels
        assert set(labels) == {0, *range(1, len(scores) + 1)}
        assert labels[1].endswith(f"(score {scores[0]:.2f})")


def test_no_kept_object_holds_another_and_each_is_a_level_set() -> None:
    heat = np.random.default_rng(4).random((30, 30))
    result = wrap(Weighed(heat)).explain(
        picture(1, 3, 30, 30), NAME, 0, smoothing=0.05, minimum_score=0, iou=1, minimum_area=0.002
    )
    smooth, instances = result.panels["saliency"].values, result.panels["instances"].values
    assert instances.max() > 3
    for number in range(1, instances.max() + 1):
        own = instances == number
        border = np.zeros_like(own)
        for y, x in np.argwhere(own):
            border[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        assert smooth[border & ~own].max() < smooth[own].min()


def test_the_score_is_the_mean_inside_less_the_mean_around() -> None:
    heat = np.random.default_rng(0).random((20, 24))
    mask = np.zeros((20, 24), bool)
    mask[6:10, 2:8] = True
    mask[6, 2] = False
    inside, around = [], []
    for y in range(20):
        for x in range(24):
            if mask[y, x]:
                inside.append(heat[y, x])
            elif 6 - 2 <= y < 10 + 2 and 2 - 3 <= x < 8 + 3:
                around.append(heat[y, x])
    want = sum(inside) / len(inside) - sum(around) / len(around)
    np.testing.assert_allclose(contrast(heat, mask, (6, 2, 10, 8)), want, rtol=1e-12)
    most = np.ones((20, 24), bool)
    most[0, :5] = False
    want = (heat[most].mean() - heat[0, :5].mean()) * 5 / (20 * 24 - 5)
    np.testing.assert_allclose(contrast(heat, most, (0, 0, 20, 24)), want, rtol=1e-12)
    assert contrast(heat, most | True, (0, 0, 20, 24)) == 0


def test_proposals_are_pieces_of_level_sets_each_once() -> None:
    heat = np.zeros((12, 12))
    heat[1:5, 1:5], heat[2:4, 2:4] = 0.4, 1.0
    heat[8:11, 7:11] = 0.7
    heat[6, 0] = 0.9  # one pixel, below the smallest area
    found = proposed(heat, 20, 2 / 144)
    assert sorted(p.box for p in found) == [(1, 1, 5, 5), (2, 2, 4, 4), (8, 7, 11, 11)]
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert len(proposed(heat, 20, 1 / 144)) == 4


def test_options_limit_what_is_kept() -> None:
    heat = 0.02 * np.random.default_rng(2).random((60, 60))
    for k, place in enumerate([np.s_[4:20, 4:20], np.s_[4:14, 34:44], np.s_[36:56, 20:40]]):
        heat[place] += (1.0, 0.8, 0.4)[k]
    model, x = wrap(Weighed(heat)), picture(1, 3, 60, 60)

    def count(**options: float) -> int:
        return int(model.explain(x, NAME, 0, smoothing=0, **options).evidence["objects"])

    assert count(minimum_score=0.2) == 3
    assert count(minimum_score=0.6) == 2
    assert count(minimum_score=0.2, minimum_area=0.05) == 2
    assert count(minimum_score=0.2, proposals=1) == 1


def test_a_batch_in_another_order_gives_the_same_bits() -> None:
    model, x = wrap(GapNet()), picture(3, 3, 24, 24)
    several = finish(explain(model, METHODS[NAME], x[[2, 0, 1]], 1))
    for got, i in zip(several, (2, 0, 1), strict=True):
        want = model.explain(x[i : i + 1], NAME, 1)
        np.testing.assert_array_equal(got.panels["instances"].values, want.panels["instances"].values)
        assert got.evidence["boxes"] == want.evidence["boxes"]


def test_what_holds_no_object_is_said() -> None:
    x = picture(1, 3, 20, 20)
    with pytest.raises(MethodRefusedError, match="is 2 everywhere"):
        wrap(Weighed(np.full((20, 20), 2.0))).explain(x, NAME, 0)
    with pytest.raises(InputError, match="3x3"):
        wrap(Weighed(np.random.default_rng(0).random((3, 3)))).explain(picture(1, 3, 3, 3), NAME, 0)
    spot = np.zeros((20, 20))
    spot[5, 5] = 1
    none = wrap(Weighed(spot)).explain(x, NAME, 0, smoothing=0, minimum_area=0.1)
    assert none.evidence["objects"] == 0
    assert (none.values == 0).all()
    assert any("no object" in n for n in none.notes)
    assert none.png()
