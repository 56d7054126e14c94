"""Segmentation from saliency: planted objects, quantiles and pieces by hand, and what must stay as it was."""

from collections import deque
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import InputError, MethodRefusedError, MissingDependencyError, UsageError
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.data.scenes import Scenes
from cutaway.methods import METHODS
from cutaway.methods.gradient import grab_cut
from cutaway.methods.gradient.boxes import box_of

from .nets import GapNet, picture, wrap

NAME = "saliency_segmentation"


class Weighed(nn.Module):
    """S(x) = sum w x, whose saliency is |w|, largest over colours."""

    def __init__(self, heat: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(heat)[None].expand(3, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1, keepdim=True)


def planted(seed: int = 0, size: int = 64) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """A noisy orange ellipse on noisy blue, a small orange distractor, and a map that is strong on the ellipse."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    y, x = random.uniform(0.4, 0.6, 2)
    mask = ((rows - y) / 0.21) ** 2 + ((columns - x) / 0.29) ** 2 < 1
    colour = np.where(mask[..., None], (0.9, 0.5, 0.1), (0.1, 0.3, 0.7))
    colour[1:5, 1:5] = (0.9, 0.5, 0.1)
    pixels = np.clip(colour + 0.04 * random.standard_normal(colour.shape), 0, 1)
    # of the object only its middle is salient, and the least salient pixels are all outside
    middle = np.exp(-8 * ((rows - y) ** 2 + (columns - x) ** 2))
    heat = 0.3 * random.random(mask.shape) + mask + middle
    return torch.from_numpy(pixels).permute(2, 0, 1)[None], mask, heat


def pieces_by_hand(mask: np.ndarray) -> list[np.ndarray]:
    """Flood fill over eight neighbours."""
    seen, out = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        piece, queue = np.zeros_like(mask), deque([start])
        seen[start] = piece[start] = True
        while queue:
            y, x = queue.popleft()
            for a in range(max(y - 1, 0), min(y + 2, len(mask))):
                for b in range(max(x - 1, 0), min(x + 2, mask.shape[1])):
                    if mask[a, b] and not seen[a, b]:
                        seen[a, b] = piece[a, b] = True
                        queue.append((a, b))
        out.append(piece)
    return out


def iou(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("seeds", ["fixed", "free"])
def test_a_planted_object_of_two_colours_is_found(seed: int, seeds: str) -> None:
    x, mask, heat = planted(seed)
    result = wrap(Weighed(heat)).explain(x, NAME, 0, seeds=seeds)
    assert iou(result.values == 1, mask) > 0.95
    assert set(np.unique(result.values)) == {0, 1}
    rows, columns = np.nonzero(result.values)
    assert result.evidence["box"] == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    np.testing.assert_allclose(result.evidence["area share"], result.values.mean(), rtol=1e-12)
    smooth = result.panels["saliency"].values
    np.testing.assert_allclose(
        result.evidence["saliency inside"], smooth[result.values == 1].sum() / smooth.sum(), rtol=1e-10
    )


def test_the_colours_decide_between_the_seeds() -> None:
    """The salient middle is a twentieth of the picture; the mask is the whole object, so it comes from GrabCut."""
    x, mask, heat = planted(1)
    result = wrap(Weighed(heat)).explain(x, NAME, 0)
    assert (result.panels["seeds"].values == 2).sum() < 0.4 * mask.sum()
    grey = wrap(Weighed(heat)).explain(torch.full_like(x, 0.5), NAME, 0)
    assert iou(grey.values == 1, mask) < 0.9


@pytest.mark.parametrize(("high", "low"), [(0.95, 0.3), (0.8, 0.1), (0.6, 0.5)])
def test_seeds_are_the_quantiles(high: float, low: float) -> None:
    heat = np.random.default_rng(3).standard_normal((23, 31))
    result = wrap(Weighed(heat)).explain(
        picture(1, 3, 23, 31), NAME, 0, smoothing=0, foreground=high, background=low
    )
    rank = np.sort(np.abs(heat).ravel())

    def quantile(q: float) -> float:
        at = q * (len(rank) - 1)
        below = int(at)
        return float(rank[below] + (at - below) * (rank[min(below + 1, len(rank) - 1)] - rank[below]))

    want = np.where(np.abs(heat) >= quantile(high), 2, np.where(np.abs(heat) <= quantile(low), 1, 0))
    np.testing.assert_array_equal(result.panels["seeds"].values, want)
    assert result.evidence["foreground seeds"] == (want == 2).sum()
    assert result.evidence["background seeds"] == (want == 1).sum()
    values = result.values == 1
    assert not (values & (want == 1)).any()  # fixed seeds hold


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_piece_and_its_box(seed: int) -> None:
    mask = np.random.default_rng(seed).random((17, 19)) < 0.3
    every = pieces_by_hand(mask)
    labels, sizes = grab_cut.pieces(mask)
    assert sorted(sizes[1:]) == sorted(int(p.sum()) for p in every)
    for piece in every:
        assert len(np.unique(labels[piece])) == 1
    want = max(every, key=lambda p: int(p.sum()))
    got = grab_cut.largest_piece(mask)
    np.testing.assert_array_equal(got, want)
    inside = [(y, x) for y in range(17) for x in range(19) if want[y, x]]
    ys, xs = zip(*inside, strict=True)
    assert box_of(got) == (min(ys), min(xs), max(ys) + 1, max(xs) + 1)


def test_of_two_objects_the_larger_one_is_boxed() -> None:
    colour = np.full((48, 48, 3), (0.1, 0.2, 0.6))
    heat = np.random.default_rng(0).random((48, 48)) * 0.1
    for place in (np.s_[4:20, 4:24], np.s_[30:40, 30:40]):
        colour[place], heat[place] = (0.9, 0.8, 0.1), heat[place] + 1
    result = wrap(Weighed(heat)).explain(
        torch.from_numpy(colour).permute(2, 0, 1)[None], NAME, 0, smoothing=0, foreground=0.8
    )
    assert result.evidence["box"] == [4, 4, 20, 24]
    assert result.evidence["area share"] == pytest.approx(16 * 20 / 48**2)


def test_the_same_bits_twice_alone_or_in_a_batch_of_any_order() -> None:
    model = wrap(GapNet())
    scenes = [
        torch.from_numpy(s.image.astype(np.float64) / 255).permute(2, 0, 1)
        for s in Scenes(3, seed=5, size=48)
    ]
    x = torch.stack(scenes)
    one = model.explain(x[2:], NAME, 1)
    cv2.setRNGSeed(99)
    cv2.randu(np.zeros(1000), 0, 1)
    several = finish(explain(model, METHODS[NAME], x[[2, 0, 1]], 1))
    np.testing.assert_array_equal(several[0].values, one.values)
    assert several[0].evidence["box"] == one.evidence["box"]


def test_the_random_centres_of_the_colour_models_are_the_same_every_time() -> None:
    random = np.random.default_rng(8)  # noise: the mixtures depend on where the clusters start
    noise, heat = random.integers(0, 256, (40, 40, 3), np.uint8), random.random((40, 40))
    cuts = [grab_cut.grab_cut(noise, heat > 0.9, heat < 0.1, keep="free") for _ in range(5)]
    assert all((cut == cuts[0]).all() for cut in cuts)


def test_opencvs_random_numbers_and_threads_stay_the_callers() -> None:
    def drawn() -> np.ndarray:
        return np.asarray(cv2.randu(np.zeros(4), 0, 1)).copy()

    cv2.setRNGSeed(7)
    want = drawn()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        cv2.setRNGSeed(7)
        x, _, heat = planted(2, 32)
        wrap(Weighed(heat)).explain(x, NAME, 0)
        np.testing.assert_array_equal(drawn(), want)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize(
    "source", ["saliency", "smooth_grad", "guided_backprop", "integrated_gradients", "grad_cam"]
)
def test_the_map_is_that_of_the_named_method(source: str) -> None:
    model, x = wrap(GapNet()), picture(1, 3, 16, 16)
    result = model.explain(x, NAME, 1, source=source, smoothing=0)
    own = model.explain(x, source, 1)
    want = np.abs(own.values).max(0) if own.values.ndim == 3 else np.clip(own.values, 0, None)
    if want.shape != (16, 16):
        want = cv2.resize(
            want, (16, 16), interpolation=cv2.INTER_LINEAR
        )  # half-pixel centres, borders repeated
    np.testing.assert_allclose(result.panels["saliency"].values, want, rtol=1e-6, atol=1e-9)
    assert result.layer == own.layer
    assert result.panels["saliency"].unit == own.unit


def test_smoothing_is_a_gaussian_in_shares_of_the_shorter_side() -> None:
    heat = np.zeros((41, 61))
    heat[20, 30] = 1
    heat[5, 5] = 0.5
    x = picture(1, 3, 41, 61)
    got = wrap(Weighed(heat)).explain(x, NAME, 0, smoothing=0.1).panels["saliency"].values
    y, z = np.mgrid[:41, :61]
    want = np.exp(-((y - 20) ** 2 + (z - 30) ** 2) / (2 * 4.1**2))
    near = np.s_[14:27, 24:37]
    np.testing.assert_allclose(got[near] / got[20, 30], want[near], atol=2e-3)


def test_what_cannot_be_cut_is_refused() -> None:
    x = picture(1, 3, 20, 20)
    with pytest.raises(MethodRefusedError, match="is 1 everywhere"):
        wrap(Weighed(np.ones((20, 20)))).explain(x, NAME, 0)
    spot = np.zeros((20, 20))
    spot[3, 3] = 1
    with pytest.raises(MethodRefusedError, match="one set of seeds is empty"):
        wrap(Weighed(spot)).explain(x, NAME, 0, smoothing=0)
    with pytest.raises(InputError, match="9x9"):
        wrap(Weighed(np.random.default_rng(0).random((9, 9)))).explain(picture(1, 3, 9, 9), NAME, 0)
    with pytest.raises(UsageError, match="foreground=0.5"):
        wrap(Weighed(spot)).explain(x, NAME, 0, foreground=0.5, background=0.5)
    flat = wrap(Weighed(np.random.default_rng(0).random((20, 20))))
    assert flat.explain(torch.zeros(1, 3, 20, 20), NAME, 0).values.any()  # one colour: the seeds alone speak


def test_without_opencv_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    for name in (NAME, "salient_objects"):
        with pytest.raises(MissingDependencyError, match=r"cutaway\[segment\]"):
            wrap(GapNet()).explain(picture(1, 3, 16, 16), name, 1)


@pytest.mark.parametrize(("prep", "known"), [({}, True), ({"resize": 40, "crop": 32}, False)])
def test_boxes_of_the_original_are_given_where_its_pixels_are_the_networks(prep: Any, known: bool) -> None:
    model = cutaway.VisionModel(GapNet(), cutaway.Preprocess(**prep), name="gap")
    result = model.explain(picture(3, 48, 64).float(), NAME, 1)
    assert ("box in the original" in result.evidence) == known
    assert any("to_original" in n for n in result.notes) != known


def test_grey_pictures_are_cut_too() -> None:
    class Grey(Weighed):
        def __init__(self, heat: np.ndarray) -> None:
            super().__init__(heat)
            self.weight = nn.Parameter(self.weight[:1].detach().clone())

    x, mask, heat = planted(0)
    model = cutaway.VisionModel(Grey(heat).double(), cutaway.Preprocess(channels="L"), name="grey")
    result = model.explain(x[:, :1], NAME, 0)
    assert iou(result.values == 1, mask) > 0.95
    assert result.panels["cut-out"].values.shape == (3, 64, 64)
