"""The bundled network dissected on drawn scenes: what is found, shown and saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
from cutaway.core.progress import finish
from cutaway.core.result import Table, load_result
from cutaway.data.pixel_labels import SceneLabels
from cutaway.data.scene_pictures import ScenePictures
from cutaway.data.scenes import Scenes
from cutaway.methods.units.dissection import dissect
from cutaway.methods.units.dissection_found import Dissection, masked
from cutaway.methods.units.dissection_shown import show_units


@pytest.fixture(scope="module")
def scenes() -> Dissection:
    """The bundled network on scenes, its last layer of middling depth."""
    pictures = ScenePictures(Scenes(24, seed=2026))
    model = cutaway.load("cutaway:scenes")
    found = finish(dissect(model, pictures, SceneLabels(pictures), ["stem.conv", "block3.conv2"]))
    return finish(show_units(model, pictures, found, most=3, count=4))


def test_the_bundled_network_on_scenes(scenes: Dissection) -> None:
    """Units of shape deep down, units of colour at the first layer."""
    deep_down = scenes["block3.conv2"]
    named = {deep_down.names[k] for k in deep_down.unique}
    assert {"trunk", "wheel", "leg"} <= named
    assert float(deep_down.best.max()) > 0.3
    first = scenes["stem.conv"]
    assert any(first.categories[k] == "colour" for k in first.unique)


def test_unit_pictures_show_the_peaks(scenes: Dissection) -> None:
    layer = scenes["block3.conv2"]
    shown = scenes.shown["block3.conv2"]
    assert shown[0].unit == layer.ranked()[0]
    for one in shown:
        assert one.pixels.shape == (4, 3, 112, 112)
        assert bool(one.masks.flatten(1).any(1).all())  # a top picture exceeds T
        assert one.names == tuple(f"scene {n}" for n in layer.top.pictures[one.unit, :4].tolist())
    dimmed = masked(shown[0].pixels, shown[0].masks)
    inside = shown[0].masks[:, None].expand_as(dimmed)
    assert torch.equal(dimmed[inside], shown[0].pixels[inside])
    assert float(dimmed[~inside].mean()) < 0.7 * float(shown[0].pixels[~inside].mean())


@pytest.mark.parametrize("ending", ["npz", "json", "png", "html"])
def test_tables_are_saved_in_every_form(scenes: Dissection, tmp_path: Path, ending: str) -> None:
    for number, table in enumerate((scenes.table("block3.conv2"), scenes.summary())):
        path = table.save(tmp_path / f"{number}.{ending}")
        assert path.stat().st_size > 500
        if ending == "npz":
            back = load_result(path)
            assert isinstance(back, Table)
            assert np.array_equal(back.values, table.values, equal_nan=True)
            assert list(back.rows) == list(table.rows)
