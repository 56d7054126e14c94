"""A unit's page and a layer's sheet, against the pictures themselves; what cannot be drawn is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cutaway
from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.progress import finish
from cutaway.core.result import Curves, Patches, Table, load_result
from cutaway.core.tap import Tap
from cutaway.data.folder import Pictures
from cutaway.methods.units.layer_sheet import layer_sheet
from cutaway.methods.units.profile import profile
from cutaway.methods.units.projected import projections
from cutaway.methods.units.selectivity import class_selectivity, colour_selectivity
from cutaway.methods.units.unit_numbers import indexes
from cutaway.methods.units.unit_page import unit_page
from cutaway.sweep.atlas import Atlas, build
from tests.sweep.test_atlas import built, network, paint


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def atlas(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return built(photos, tmp_path_factory.mktemp("atlases") / "small", k=8)


def test_patches_are_the_pixels_of_the_fields_and_projections_those_of_the_method(
    atlas: Atlas, photos: Path
) -> None:
    model = network()
    page = unit_page(model, atlas, "stem", 1, k=4)
    patches, curve, classes = page
    assert isinstance(patches, Patches)
    assert isinstance(curve, Curves)
    assert isinstance(classes, Table)
    top = atlas.top("stem", 1)
    assert patches.values.shape == (4, 3, 3, 3)
    for i in range(4):
        x = model.pixels(photos / top.names[i])[0]
        row, col = int(top.rows[i]), int(top.cols[i])
        wide = torch.full((3, x.shape[1] + 2, x.shape[2] + 2), 0.5)
        wide[:, 1:-1, 1:-1] = x
        torch.testing.assert_close(torch.from_numpy(patches.values[i]), wide[:, row : row + 3, col : col + 3])
    pixels = torch.cat([model.pixels(photos / n) for n in top.names[:4]])
    want = projections(model, "stem", 1, pixels, top.rows[:4], top.cols[:4], "deconvnet")
    np.testing.assert_allclose(patches.panels["projection"].values, want.tiles, rtol=1e-5, atol=1e-7)
    assert patches.panels["pictures"].values.shape == (4, 3, *model.pixels(photos / top.names[0]).shape[2:])
    above = atlas.reducer("stem", "sketch").sketch.threshold(0.005)
    assert float(above.share[1]) <= 0.005
    with model.guard(), torch.no_grad(), Tap(model, "stem") as tap:
        model(pixels)
    over = tap["stem"][:, 1] > float(above.value[1])
    lit = (torch.from_numpy(patches.panels["masks"].values) == pixels).all(1) & (pixels.amin(1) > 0)
    assert torch.equal(lit, over & (pixels.amin(1) > 0))
    assert bool(over[0].any())
    mean = atlas.neuron_features("stem")
    assert mean is not None
    np.testing.assert_allclose(patches.panels["feature"].values, mean[1].float() / 255)


def test_the_indexes_are_those_of_the_kept_patches(atlas: Atlas) -> None:
    top, grey = atlas.top("block", 3), atlas.grey("block")[3, :8]
    found, _ = indexes(atlas, "block", 3)
    assert found["colour selectivity"] == pytest.approx(colour_selectivity(top.values, grey))
    assert found["class selectivity"] == pytest.approx(class_selectivity(top.values, top.labels).index)
    assert found["largest"] == float(top.values[0])
    assert 0 <= found["zero share"] < 1
    dead, notes = indexes(atlas, "stem", 4)
    assert dead["dead"]
    assert any("constant" in n for n in notes)


def test_the_histogram_holds_every_activation_that_is_not_zero(atlas: Atlas) -> None:
    page = unit_page(network(), atlas, "block", 3, projection="none")
    zero = float(atlas.reducer("block", "sketch").sketch.zero_share[3])
    assert float(page[1].values.sum()) == pytest.approx(1 - zero, abs=1e-6)
    assert f"{zero:.1%}" in page[1].notes[0]


def test_a_dead_unit_and_a_unit_without_a_field_say_so(atlas: Atlas) -> None:
    page = unit_page(network(), atlas, "stem", 4)
    assert "dead on these pictures" in page[0].notes[0]
    assert "projection" not in page[0].panels
    page = unit_page(network(), atlas, "fc", 1, k=3)
    assert page[0].values.shape[0] == 3
    assert any("no deconvnet projection" in n for n in page[0].notes)


def test_pictures_that_are_gone_or_changed_and_other_networks_are_refused(
    photos: Path, tmp_path: Path
) -> None:
    own = paint(tmp_path / "own" if (tmp_path / "own").mkdir() is None else tmp_path)
    atlas = built(own, tmp_path / "atlas", k=8)
    best = atlas.top("stem", 1).names[0]
    Image.new("RGB", (24, 20)).save(own / best)
    with pytest.raises(InputError, match="gave"):
        unit_page(network(), atlas, "stem", 1)
    (own / best).unlink()
    with pytest.raises(InputError, match="is gone"):
        unit_page(network(), atlas, "stem", 1)
    assert unit_page(network(), atlas, "stem", 1, photos=photos)
    other = network()
    with torch.no_grad():
        other.network.fc.weight.mul_(2)
    with pytest.raises(InputError, match="another network"):
        unit_page(other, atlas, "stem", 1, photos=photos)
    for layer, channel, k in (("stem", 6, 3), ("stem", 0, 0), ("stem", 0, 9)):
        with pytest.raises(UsageError):
            unit_page(network(), atlas, layer, channel, k=k, photos=photos)
    with pytest.raises(UnknownNameError, match="stem"):
        unit_page(network(), atlas, "stam", 0, photos=photos)


def test_a_sheet_shows_each_unit_by_its_patches_or_its_mean(atlas: Atlas, photos: Path) -> None:
    sheet = finish(layer_sheet(network(), atlas, "stem", k=4))
    assert sheet.names == [str(i) for i in range(6)]
    assert sheet.values.shape[0] == 6
    page = unit_page(network(), atlas, "stem", 1, k=4)[0]
    cell = sheet.values.shape[-1] // 2
    corner = sheet.values[1][:, :cell, :cell]
    want = page.values[0][:, np.arange(cell) * 3 // cell][:, :, np.arange(cell) * 3 // cell]
    np.testing.assert_allclose(corner, want, atol=1e-6)
    assert (sheet.values[4] == 0.5).all()
    assert "dead on these pictures, and grey: 0, 3, 4" in sheet.notes[0]
    means = finish(layer_sheet(network(), atlas, "stem", what="features", units=[2, 0]))
    assert means.names == ["2", "0"]
    for wrong in ([6], [-1], []):
        with pytest.raises(UsageError):
            finish(layer_sheet(network(), atlas, "stem", units=wrong))


def test_pages_are_written_in_every_form(atlas: Atlas, tmp_path: Path) -> None:
    from cutaway.view.figure import stacked
    from cutaway.view.report import report

    page = unit_page(network(), atlas, "block", 3, k=4)
    (tmp_path / "page.png").write_bytes(stacked(page))
    with Image.open(tmp_path / "page.png") as image:
        held = json.loads(image.text["cutaway"])
        assert [h["kind"] for h in held] == ["patches", "curves", "table"]
        assert image.width > 400
    text = report(page, title="unit")
    assert "neuron feature" in text
    back = load_result(page[0].save(tmp_path / "page.npz"))
    np.testing.assert_array_equal(back.values, page[0].values)
    finish(layer_sheet(network(), atlas, "block")).save(tmp_path / "sheet.html")


def test_the_concept_of_a_dissected_unit_is_on_its_page(atlas: Atlas, photos: Path) -> None:
    from cutaway.core.result import Table

    page = unit_page(network(), atlas, "block", 3, k=2)
    made = {"method": "dissection", "target": "", "provenance": page[0].provenance}
    table = Table(
        values=np.array([[0.2, 1, 0, 0, 1], [0.01, 0, 0, 0, 0]]),
        rows=["block:3 wheel", "block:0"],
        columns=["IoU", "concept", "T", "share above T", "detector"],
        layer="block",
        evidence={"units": [3, 0]},
        **made,
    )
    found = unit_page(network(), atlas, "block", 3, k=2, dissection=table)[0].evidence
    assert (found["concept"], found["IoU"], found["detector"]) == ("wheel", 0.2, True)
    found = unit_page(network(), atlas, "block", 0, k=2, dissection=table)[0].evidence
    assert (found["concept"], found["detector"]) == ("none", False)
    with pytest.raises(InputError, match="a dissection of block"):
        unit_page(network(), atlas, "stem", 1, k=2, dissection=table)
    other = replace(table, provenance=replace(page[0].provenance, fingerprint="0"))
    with pytest.raises(InputError, match="another network"):
        unit_page(network(), atlas, "block", 3, k=2, dissection=other)


def test_a_network_that_sees_grey_and_one_in_bfloat16_have_pages(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    grey = cutaway.VisionModel(net, cutaway.Preprocess(resize=18, crop=18, channels="L"), name="grey")
    half = network()
    half.network.to(torch.bfloat16)
    for model, layer in ((grey, "0"), (half, "stem")):
        atlas = finish(build(model, Pictures(photos), tmp_path / model.name, k=3, threads=1))
        alive = int(atlas.reducer(layer, "top").values[:, 0].argmax())
        page = unit_page(model, atlas, layer, alive, profile=True)
        assert page[0].panels["pictures"].values.shape[1] == 3
        assert any("no orientation" in note for note in page[0].notes) == (model is grey)
        page[0].save(tmp_path / f"{model.name}.png")


def test_the_profile_is_there_when_asked_for_and_of_all_kept_patches(atlas: Atlas, photos: Path) -> None:
    model, top = network(), atlas.top("block", 3)
    pixels = torch.cat([model.pixels(photos / name) for name in top.names])
    want = profile(model, "block", 3, pixels, top.rows, top.cols)
    plain, asked = (
        unit_page(model, atlas, "block", 3, k=2, profile=asks)[0].evidence for asks in (False, True)
    )
    assert "orientation index" not in plain
    assert asked["orientation index"] == pytest.approx(want.orientation)
    assert asked["symmetry index"] == pytest.approx(
        (asked["upside down"] + asked["left and right exchanged"]) / 2
    )
    assert (asked["turned 180"], asked["upside down"]) == pytest.approx((want.turns[1], want.mirrors[0]))
    assert asked["shape index"] == pytest.approx(want.shape)
    assert want.shape != want.orientation
    dead = unit_page(model, atlas, "stem", 4, k=2, profile=True)[0]
    assert any("no orientation" in note for note in dead.notes)
