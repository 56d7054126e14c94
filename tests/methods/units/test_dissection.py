"""Network dissection against planted units and against counting every pixel of every picture by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import finish
from cutaway.core.tap import Tap
from cutaway.data.folder import Pictures
from cutaway.data.pixel_labels import Annotation, JoinedLabels, LabelMaps, WholeLabels
from cutaway.methods.units.dissection import dissect
from cutaway.methods.units.dissection_counts import rotation
from cutaway.methods.units.dissection_shown import show_units
from cutaway.sweep.sketch import Sketch, counts

SIDE, SQUARE, COUNT = 64, 4, 6
"""A square of 4 x 4 in 64 x 64 pixels covers 0.39 %, less than q = 0.5 %."""


def squares(folder: Path, *, size: int = SIDE) -> Pictures:
    """Black pictures with a red square each, and maps that say 1 there."""
    chance = np.random.default_rng(4)
    for place in ("images", "maps"):
        (folder / place).mkdir()
    for k in range(COUNT):
        top, left = (int(v) for v in chance.integers(4, size - 8, 2))
        rgb, labels = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
        where = slice(top, top + SQUARE), slice(left, left + SQUARE)
        rgb[where], labels[where] = (255, 0, 0), 1
        Image.fromarray(rgb).save(folder / "images" / f"{k}.png")
        Image.fromarray(labels).save(folder / "maps" / f"{k}.png")
    return Pictures(folder / "images")


def finder(kernel: Tensor, stride: int = 1) -> VisionModel:
    """Units that read the red of a picture through kernels (u, k, k)."""
    size = kernel.shape[-1]
    conv = nn.Conv2d(3, len(kernel), size, stride=stride, padding=size // 2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, 0] = kernel
    return VisionModel(nn.Sequential(conv, nn.ReLU()).eval(), Preprocess(), name="finder")


def at(row: int, column: int, size: int = 5) -> Tensor:
    kernel = torch.zeros(size, size)
    kernel[row, column] = 1
    return kernel


def test_a_planted_unit_has_iou_1_and_shifted_by_half_its_width_a_third(tmp_path: Path) -> None:
    pictures = squares(tmp_path)
    maps = LabelMaps(pictures, tmp_path / "maps", ["nothing", "square"], unlabelled=0)
    model = finder(torch.stack([at(2, 2), at(2, 4), at(4, 2), at(2, 2) * 0]))
    found = finish(dissect(model, pictures, maps, ["0"]))["0"]
    assert found.iou[:, 0].tolist() == [1.0, 1 / 3, 1 / 3, 0.0]
    assert found.labels.tolist() == [0, 0, 0, -1]
    assert found.detectors.tolist() == [True, True, True, False]
    assert found.unique == (0,)
    area = COUNT * SQUARE**2
    assert found.tallies.intersections[:, 0].tolist() == [area, area // 2, area // 2, 0]
    assert found.thresholds.share[:3].tolist() == [SQUARE**2 / SIDE**2] * 3


def test_a_constant_unit_has_no_threshold(tmp_path: Path) -> None:
    pictures = squares(tmp_path)
    maps = LabelMaps(pictures, tmp_path / "maps", ["nothing", "square"], unlabelled=0)
    found = finish(dissect(finder(torch.stack([at(2, 2), at(2, 2) * 0])), pictures, maps, ["0"]))
    assert found["0"].tied.tolist() == [1]
    table = found.table("0")
    assert "1 unit has no threshold at 0, and so no mask: 1: 100 % ties" in table.notes
    assert table.rows == ["0:0 square (object)", "0:1"]
    assert np.isnan(table.values[1, 2:4]).all()


def noisy(folder: Path, sizes: Sequence[tuple[int, int]]) -> Pictures:
    """Pictures of noise, coarse enough to excite, with maps of four labels in blocks."""
    chance = np.random.default_rng(8)
    for place in ("photos/a", "photos/b", "maps/a"):
        (folder / place).mkdir(parents=True)
    for k, (height, width) in enumerate(sizes):
        part = "ab"[k % 2]
        rgb = chance.integers(0, 256, (7, 6, 3), dtype=np.uint8)
        Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC).save(
            folder / "photos" / part / f"{k}.png"
        )
        blocks = chance.integers(0, 4, (3, 4), dtype=np.uint8)
        if part == "a":
            big = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
            big.save(folder / "maps" / "a" / f"{k}.png")
    return Pictures(folder / "photos", labels="folder")


class Dotted:
    """Labels of two categories: a dot in every third picture, others of its category nothing."""

    names, categories = ("dot", "bar"), ("mark", "other")

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        masks = torch.zeros(2, *(preprocess.size or size or (0, 0)), dtype=torch.bool)
        masks[0, 5:12, 3:9], masks[1, :, 4:6] = True, True
        kept = [k for k, every in ((0, 3), (1, 2)) if number % every == 0]
        known = {"mark"} | ({"other"} if number % 2 == 0 else set())
        return Annotation(torch.tensor(kept, dtype=torch.int64), masks[kept], frozenset(known))


def deep() -> VisionModel:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 9, 2), nn.ReLU()
    )
    return VisionModel(net.eval(), Preprocess(resize=(40, 36)), name="deep")


def centred(values: Tensor, jump: int, first: float, height: int, width: int) -> Tensor:
    """One map enlarged by NumPy's own interpolation between centres first, first + jump ..."""
    rows = first + jump * np.arange(values.shape[0])
    columns = first + jump * np.arange(values.shape[1])
    wide = np.stack([np.interp(np.arange(width), columns, row) for row in values.double().numpy()])
    return torch.from_numpy(np.stack([np.interp(np.arange(height), rows, c) for c in wide.T]).T)


@pytest.mark.parametrize(("layer", "jump", "first"), [("0", 2, 1.0), ("3", 4, 3.0)])
def test_every_count_by_hand(tmp_path: Path, layer: str, jump: int, first: float) -> None:
    """IoU, thresholds and shares over a data set in which no category is annotated everywhere."""
    pictures = noisy(tmp_path, [(40, 36), (52, 60), (40, 36), (37, 36), (80, 44), (40, 36), (41, 33)])
    known = JoinedLabels(
        LabelMaps(pictures, tmp_path / "maps", ["sky", "sea", "void", "sand"], unlabelled=2),
        WholeLabels(pictures),
        Dotted(),
    )
    model, q = deep(), 0.03
    found = finish(dissect(model, pictures, known, [layer], q=q, batch=3))[layer]
    raw = []
    for number in range(len(pictures)):
        with torch.no_grad(), Tap(model, layer) as tap:
            model(model.pixels(pictures.photo(number)))
        raw.append(tap.maps(layer)[0])
    values = torch.stack(raw).transpose(0, 1).flatten(1)
    shares = (values > found.thresholds.value[:, None]).double().mean(1)
    assert torch.equal(found.thresholds.share, shares)
    assert bool((shares <= q).all())
    for unit, edge in enumerate(found.thresholds.edge.tolist()):  # one edge lower is too low
        assert float(Sketch(counts(values[unit][:, None])).tail(edge - 1)) > q

    labels = len(known.names)
    both, either = torch.zeros(len(values), labels), torch.zeros(len(values), labels)
    for number, maps in enumerate(raw):
        note = known.annotation(number, model.preprocess)
        for unit, least in enumerate(found.thresholds.value.tolist()):
            mask = centred(maps[unit], jump, first, 40, 36) > least
            for k in range(labels):
                if known.categories[k] not in note.categories:
                    continue
                here = note.masks[note.labels == k]
                where = here[0] if len(here) else torch.zeros_like(mask)
                both[unit, k] += int((mask & where).sum())
                either[unit, k] += int((mask | where).sum())
    assert torch.equal(found.tallies.intersections, both.long())
    assert torch.equal(found.iou, both.double() / either.clamp(min=1))
    assert int(found.tallies.intersections.sum()) > 100  # or nothing was compared


def test_the_counts_are_the_same_whatever_the_batches_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = noisy(tmp_path, [(40, 36)] * 5)
    known = WholeLabels(pictures)
    one = finish(dissect(deep(), pictures, known, ["3"], batch=5))["3"]
    monkeypatch.setattr("cutaway.methods.units.dissection_counts._NUMBERS", 40 * 36 * 2)
    other = finish(dissect(deep(), pictures, known, ["3"], batch=1, workers=0))["3"]
    for name, counted in one.tallies.state().items():
        assert torch.equal(counted, other.tallies.state()[name])
    assert int(one.tallies.intersections.sum()) > 0


def test_sketches_save_a_pass(tmp_path: Path) -> None:
    pictures = noisy(tmp_path, [(40, 36)] * 5)
    known, model = WholeLabels(pictures), deep()
    x = torch.cat([model.pixels(pictures.photo(n)) for n in range(5)])
    with torch.no_grad():
        sketches = {"4": Sketch(counts(model.network(x)))}  # the ReLU after it: the same activation
    steps: list[float] = []
    found = finish(dissect(model, pictures, known, ["3"], sketches=sketches), lambda s: steps.append(s.total))
    fresh = finish(dissect(model, pictures, known, ["3"]))
    assert set(steps) == {5}
    assert torch.equal(found["3"].thresholds.edge, fresh["3"].thresholds.edge)
    assert torch.equal(found["3"].tallies.intersections, fresh["3"].tallies.intersections)
    with pytest.raises(UsageError, match="sketches of 3 units"):
        finish(dissect(model, pictures, known, ["3"], sketches={"3": Sketch(torch.ones(3, 1029).long())}))


class Three:
    """Pictures with a red spot, stripes and a solid block, each labelled in its category."""

    names, categories = ("red", "striped", "block"), ("colour", "texture", "object")

    def __init__(self, count: int) -> None:
        chance = np.random.default_rng(11)
        self.places = chance.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
        self.shift = chance.integers(0, 10, (count, 3))

    def _where(self, number: int, what: int) -> tuple[slice, slice]:
        top, left = 4 + int(self.shift[number, what]), 20 * int(self.places[number, what]) + 2
        return slice(top, top + 9), slice(left, left + 9)

    def draw(self, folder: Path) -> Pictures:
        folder.mkdir()
        bars = np.zeros((9, 9), np.uint8)
        bars[:, ::3] = 1
        for number in range(len(self.places)):
            rgb = np.full((24, 64, 3), 60, np.uint8)
            rgb[(*self._where(number, 0), 0)] = 250
            for what, shape in ((1, bars), (2, np.ones((9, 9), np.uint8))):
                rgb[self._where(number, what)] = 60 + 150 * shape[..., None]
            Image.fromarray(rgb).save(folder / f"{number:02d}.png")
        return Pictures(folder)

    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        masks = torch.zeros(3, 24, 64, dtype=torch.bool)
        for what in range(3):
            masks[(what, *self._where(number, what))] = True
        return Annotation(torch.arange(3), masks, frozenset(self.categories))


def seer() -> VisionModel:
    """Units that were made to see each of the three, and five that say nothing but brightness."""
    first = nn.Conv2d(3, 3, 3, padding=1)
    second = nn.Conv2d(3, 8, 5, padding=2)
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.zero_()
            layer.bias.zero_()  # type: ignore[union-attr]
        first.weight[0, :, 1, 1] = torch.tensor([1.0, -0.5, -0.5])  # red
        first.weight[1, 1] = torch.tensor([[-1.0, 2, -1]] * 3) / 6  # upright lines
        first.weight[2, 1, 1, 1] = 1.0  # brightness
        for unit in range(3):
            second.weight[unit, unit] = 1 / 25
        second.weight[3:, 2] = torch.linspace(0.5, 1.5, 5).view(5, 1, 1) / 25
        second.weight[3:, 1] = -1.0
    return VisionModel(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).eval(), Preprocess(), name="seer")


def test_planted_units_are_named_and_a_rotation_leaves_fewer(tmp_path: Path) -> None:
    made = Three(12)
    pictures = made.draw(tmp_path / "pictures")
    uniques = []
    for seed in range(4):
        found = finish(dissect(seer(), pictures, made, ["2"], q=0.04, threshold=0.3, rotate=seed))
        layer, control = found["2"], found.control("2")
        assert control is not None
        uniques.append(len(control.unique))
        said = "lowers the unique" if uniques[-1] < 3 else "does NOT lower the unique"
        assert said in found.sentences()[0]
    assert [layer.concept(u) for u in range(3)] == ["red (colour)", "striped (texture)", "block (object)"]
    assert layer.detectors.tolist() == [True] * 3 + [False] * 5
    assert layer.by_category() == {"colour": (1, 1), "texture": (1, 1), "object": (1, 1)}
    assert found.summary().values[-1, :2].tolist() == [3, 3]
    assert max(uniques) <= 3
    assert sum(uniques) / 4 < 2.5
    found = finish(dissect(seer(), pictures, made, ["2"], q=0.04, threshold=0.99, rotate=0))
    assert "neither has a detector" in found.sentences()[0]
    assert "no better" not in found.sentences()[0]


def test_a_rotation_keeps_lengths_and_is_dissected_as_one(tmp_path: Path) -> None:
    pictures = noisy(tmp_path, [(40, 36)] * 4)
    known, model = WholeLabels(pictures), deep()
    turned = finish(dissect(model, pictures, known, ["3"], rotate=7)).control("3")
    assert turned is not None
    turn = rotation(9, 7)
    assert torch.allclose(turn @ turn.T, torch.eye(9), atol=1e-5)
    own = nn.Conv2d(9, 9, 1, bias=False)
    with torch.no_grad():
        own.weight[:] = turn[:, :, None, None]
    net = nn.Sequential(*model.network, own)
    by_hand = finish(dissect(VisionModel(net, model.preprocess, name="turned"), pictures, known, ["5"]))["5"]
    assert torch.equal(by_hand.thresholds.edge, turned.thresholds.edge)
    assert torch.allclose(by_hand.iou, turned.iou, atol=1e-3)
    assert float(turned.iou.max()) > 0


def test_rotations_are_even_over_all_directions() -> None:
    """Without the signs of R the first entry of every Q would lean to one side."""
    firsts = torch.stack([rotation(3, seed)[0, 0] for seed in range(400)])
    assert abs(float(firsts.mean())) < 4 * math.sqrt(1 / 3 / 400)
    assert abs(float(firsts.square().mean()) - 1 / 3) < 0.06


def test_what_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    pictures = noisy(tmp_path, [(40, 36)] * 3)
    known = WholeLabels(pictures)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    model = VisionModel(net, Preprocess(resize=(40, 36)), name="small")
    for options, error, words in [
        ({"layers": ["9"]}, UnknownNameError, "no layer named '9'"),
        ({"layers": ["3"]}, UsageError, "no map of several positions"),
        ({"layers": ["1"]}, UsageError, "no map of several positions"),
        ({"layers": []}, UsageError, "no layer"),
        ({"q": 0.0}, UsageError, "q=0.0"),
        ({"q": math.nan}, UsageError, "q=nan"),
        ({"threshold": 1.0}, UsageError, "threshold=1.0"),
        ({"rotate": -1}, UsageError, "rotate=-1"),
    ]:
        with pytest.raises(error, match=words):
            finish(dissect(model, pictures, known, **({"layers": ["0"]} | options)))  # type: ignore[arg-type]
    found = finish(dissect(model, pictures, known, ["0"]))
    with pytest.raises(UnknownNameError, match="dissected layer"):
        found.table("1")
    with pytest.raises(UsageError, match="rotation"):
        found.table("0", rotated=True)
    with pytest.raises(UsageError, match="count=99"):
        finish(show_units(model, pictures, found, count=99))


class Nothing(Dotted):
    def annotation(
        self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> Annotation:
        return Annotation(torch.zeros(0).long(), torch.zeros(0, 40, 36).bool(), frozenset())


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    pictures = noisy(tmp_path, [(40, 36)] * 3)
    with pytest.raises(InputError, match="none of 3 pictures is labelled"):
        finish(dissect(deep(), pictures, Nothing(), ["0"]))
    (tmp_path / "maps" / "a" / "2.png").unlink()
    Image.new("L", (30, 20)).save(tmp_path / "maps" / "a" / "2.png")
    with pytest.raises(InputError, match="labels 20x30 pixels, but a/2.png has 40x36"):
        finish(dissect(deep(), pictures, LabelMaps(pictures, tmp_path / "maps", list("abcd")), ["0"]))

    class Wrong(Dotted):
        def annotation(
            self, number: int, preprocess: Preprocess, size: tuple[int, int] | None = None
        ) -> Annotation:
            return super().annotation(number, Preprocess(), (20, 30))

    with pytest.raises(InputError, match="labels of 20x30 pixels, a picture of 40x36"):
        finish(dissect(deep(), pictures, Wrong(), ["0"]))


def test_a_picture_that_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    pictures = noisy(tmp_path, [(40, 36)] * 4)
    (tmp_path / "photos" / "b" / "1.png").write_bytes(b"no picture")
    found = finish(dissect(deep(), pictures, WholeLabels(pictures), ["0"]))
    assert found.pictures == 3
    assert any("left out: b/1.png" in note for note in found.notes)
    assert any("left out: b/1.png" in note for note in found.table("0").notes)
