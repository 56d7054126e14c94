"""Mean patches of large fields: whole-number blocks of the picture, grey beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from cutaway.core.geometry import receptive_field
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import finish
from cutaway.core.tap import Tap
from cutaway.data.folder import Pictures
from cutaway.sweep import second
from cutaway.sweep.atlas import build
from cutaway.sweep.fields import Fields, fields_of
from cutaway.sweep.second import Cells, _Shrunk


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
        cells = Cells.of(Fields(torch.zeros(1, dtype=torch.int64), field[None], field[None]))
    tops, lefts = cells.tops[0], cells.lefts[0]
    assert max(cells.size) <= most
    assert cells.step * cells.size[0] >= side > cells.step * (cells.size[0] - 1)
    covered = (tops <= field[:, 0]) & (tops + cells.step * cells.size[0] > field[:, 1])
    assert bool(covered.all())
    picture = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(seed))
    shrunk = _Shrunk(picture, 120)
    rows, cols = torch.tensor([0, 2, 4, 1]), torch.tensor([3, 0, 4, 1])
    found = shrunk.cut(cells.step, cells.size, tops[rows], lefts[cols])
    wide = np.full((3, 17 + 240, 23 + 240), 128.0)
    wide[:, 120:137, 120:143] = (picture * 255).round().numpy()
    for patch, top, left in zip(found, tops[rows].tolist(), lefts[cols].tolist(), strict=True):
        for i in range(cells.size[0]):
            for j in range(cells.size[1]):
                y, x = 120 + top + i * cells.step, 120 + left + j * cells.step
                block = wide[:, y : y + cells.step, x : x + cells.step].mean((1, 2))
                assert np.abs(patch[:, i, j].numpy() - block).max() <= 0.5 + 1e-9


class Fire(nn.Module):
    """Paths of different fields, joined, mixed up, and joined again behind a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = (
            nn.Conv2d(3, 2, 1),
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.Conv2d(3, 2, 5, 2, 2),
        )
        self.pool, self.joined, self.again = nn.AvgPool2d(1, 2), nn.Identity(), nn.ReLU()
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.pool(self.one(x)), self.five(x)], 1)
        mixed = self.joined(F.channel_shuffle(both, 2))
        out: Tensor = self.again(torch.cat([mixed, self.deep(self.three(x))], 1))
        return out.mean((2, 3))


SIDE = 19


@pytest.fixture(scope="module")
def fire() -> VisionModel:
    torch.manual_seed(3)
    model = VisionModel(Fire().eval(), Preprocess(resize=SIDE, crop=SIDE), name="fire")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.abs_()  # so that every unit answers
    model.pixels(torch.zeros(1, 3, SIDE, SIDE))
    return model


def test_every_channel_has_the_field_that_its_gradient_shows(fire: VisionModel) -> None:
    for layer, count in (("joined", 4), ("again", 8)):
        own = fields_of(fire, [layer])[layer]
        assert own.group.shape == (count,)
        x = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
        with Tap(fire, layer) as tap:
            fire(x)
        maps, sizes = tap[layer], set()
        for channel in range(count):
            row, col = 4, 5  # far from the border
            (slope,) = torch.autograd.grad(maps[0, channel, row, col], x, retain_graph=True)
            places = slope[0].abs().sum(0).nonzero()
            want = [*places.amin(0).tolist(), *places.amax(0).tolist()]
            at = (torch.tensor([channel]), torch.tensor([row]), torch.tensor([col]))
            assert own.boxes(*at)[0].tolist() == want
            sizes.add(want[2] - want[0])
        assert len(sizes) == (2 if layer == "joined" else 3) == len(own.rows)


def test_boxes_and_mean_patches_of_joined_paths_are_each_channels_own(
    fire: VisionModel, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(6):
        cells = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(cells).save(tmp_path / "photos" / f"{i}.png")
    pictures = Pictures(tmp_path / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(second, "SIDE", 3)  # so that the larger fields are shrunk, by one step for all
        atlas = finish(build(fire, pictures, tmp_path / "atlas", layers=["again"], k=4, threads=1))
        step, table = 3, pd.read_parquet(tmp_path / "atlas" / "units.parquet")
        for channel in range(8):
            top, total = atlas.top("again", channel), 0.0
            shown = table[table.channel == channel].sort_values("rank")
            for i in range(4):
                at = (int(top.rows[i]), int(top.cols[i]))
                box = receptive_field(fire.layers.trace, "again", *at, channel=channel).unclipped
                assert shown[["top", "left", "bottom", "right"]].iloc[i].tolist() == list(box)
                wide = np.full((3, SIDE + 60, SIDE + 60), 128.0)
                wide[:, 30:-30, 30:-30] = (fire.pixels(pictures.path(int(top.pictures[i])))[0] * 255).round()
                cells = -(-box.height // step)
                spare = (cells * step - box.height) // 2
                y, x = box.top - spare + 30, box.left - spare + 30
                cut = wide[:, y : y + cells * step, x : x + cells * step]
                total = total + float(top.values[i]) * cut.reshape(3, cells, step, cells, step).mean((2, 4))
            found = atlas.neuron_feature("again", channel)
            assert found is not None
            assert found.shape == (3, cells, cells)
            assert np.abs(found.numpy() - total / float(top.values.sum())).max() <= 1.01
        sheet = atlas.neuron_features("again")
        assert sheet is not None
        small = [c for c in range(8) if atlas.neuron_feature("again", c).shape[1] < sheet.shape[2]]  # type: ignore[union-attr]
        assert small == [0, 1, 2, 3]
        assert bool((sheet[small][:, :, -1] == 128).all())
