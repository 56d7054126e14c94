"""Walks down from the strongest maps: each tile is its unit explained alone, each patch the field by formula."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import cutaway
from cutaway.cli import app
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.method import get
from cutaway.core.progress import finish
from cutaway.core.result import Attribution, load_result
from cutaway.core.run import explain
from cutaway.view.charts import parts
from cutaway.view.report import report
from cutaway.view.walk import stage_image, stages, walk_drawing

from .nets import GapNet, Plain, picture, wrap

METHODS = ("deconvnet", "guided_backprop", "backprop")
# jump, first and last pixel seen by position 0, worked out by hand from kernels, strides and paddings
FIELDS = {"conv1": (1, -1, 1), "pool": (2, -1, 2), "conv2": (2, -1, 6)}


def walked(net: nn.Module, x: Tensor, method: str = "deconvnet", **options: Any) -> Attribution:
    result = wrap(net).explain(x, method, **options)
    assert isinstance(result, Attribution)
    return result


def maps_of(net: Plain, x: Tensor) -> dict[str, Tensor]:
    h1 = F.relu(net.conv1(x))
    p = net.pool(h1)
    return {"conv1": h1[0].detach(), "pool": p[0].detach(), "conv2": F.relu(net.conv2(p))[0].detach()}


def by_sorting(maps: Tensor, count: int) -> list[tuple[int, int, int, float]]:
    """Every channel's first largest position, written as a loop over all numbers, then sorted."""
    found = []
    for c, one in enumerate(maps.tolist()):
        best = max((v, -r, -k) for r, row in enumerate(one) for k, v in enumerate(row))
        found.append((c, -best[1], -best[2], best[0]))
    return sorted(found, key=lambda f: (-f[3], f[0]))[:count]


def crop(image: np.ndarray, layer: str, row: int, column: int, beyond: float) -> np.ndarray:
    jump, low, high = FIELDS[layer]
    out = np.full((3, high - low + 1, high - low + 1), beyond)
    for r in range(out.shape[1]):
        for c in range(out.shape[2]):
            y, x = row * jump + low + r, column * jump + low + c
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                out[:, r, c] = image[:, y, x]
    return out


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", ["activation", "gradient"])
def test_every_tile_is_its_unit_alone_and_every_patch_its_field(method: str, start: str) -> None:
    net, x = Plain().double(), picture(1, 3, 18, 16)
    got = walked(net, x, method, layers="conv2,conv1,pool", maps=4, start=start)
    assert list(got.panels) == ["conv1", "conv1 patches", "pool", "pool patches", "conv2", "conv2 patches"]
    for layer, maps in maps_of(net, x).items():
        wanted = by_sorting(maps, 4)
        assert got.evidence[f"channels {layer}"] == [c for c, *_ in wanted]
        assert got.evidence[f"positions {layer}"] == [[r, k] for _, r, k, _ in wanted]
        np.testing.assert_allclose(got.evidence[f"activations {layer}"], [v for *_, v in wanted], rtol=1e-12)
        for i, (channel, row, column, _) in enumerate(wanted):
            alone = (
                wrap(net).explain(x, method, cutaway.unit(layer, channel, row, column), start=start).values
            )
            assert np.abs(alone).max() > 0
            tile, patch = got.panels[layer].values[i], got.panels[f"{layer} patches"].values[i]
            np.testing.assert_allclose(tile, crop(alone, layer, row, column, 0.0), rtol=0, atol=1e-12)
            np.testing.assert_array_equal(patch, crop(x[0].numpy(), layer, row, column, 1.0))
            # nothing of the projection was cropped away
            assert np.count_nonzero(np.abs(tile) > 1e-14) == np.count_nonzero(np.abs(alone) > 1e-14)
            jump, low, high = FIELDS[layer]
            box = (row * jump + low, column * jump + low, row * jump + high, column * jump + high)
            assert tuple(got.panels[layer].boxes[i]) == box
            assert got.panels[layer].labels[i].startswith(f"{channel}: ")
    channel, row, column, _ = by_sorting(maps_of(net, x)["conv2"], 1)[0]
    alone = wrap(net).explain(x, method, cutaway.unit("conv2", channel, row, column), start=start).values
    np.testing.assert_allclose(got.values, alone, rtol=0, atol=1e-12)


def test_a_whole_map_is_its_channel_alone() -> None:
    net, x = Plain().double(), picture(1, 3, 18, 16)
    got = walked(net, x, layers="conv2", maps=3, keep="map")
    for i, channel in enumerate(got.evidence["channels conv2"]):
        alone = wrap(net).explain(x, "deconvnet", cutaway.channel("conv2", channel)).values
        np.testing.assert_allclose(got.panels["conv2"].values[i], alone, rtol=0, atol=1e-12)
    assert got.panels["conv2 patches"].values.shape == (3, 3, 8, 8)


def test_a_batch_is_its_pictures_one_by_one() -> None:
    model, x = (
        wrap(Plain()),
        torch.rand(3, 3, 14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
    )
    together = finish(explain(model, get("deconvnet"), x, None, {"layers": "conv1,conv2", "maps": 5}))
    for i, got in enumerate(together):
        alone = finish(
            explain(model, get("deconvnet"), x[i : i + 1], None, {"layers": "conv1,conv2", "maps": 5})
        )[0]
        assert isinstance(got, Attribution)
        assert isinstance(alone, Attribution)
        assert got.evidence["channels conv2"] == alone.evidence["channels conv2"]
        for key, panel in alone.panels.items():
            np.testing.assert_allclose(got.panels[key].values, panel.values, rtol=0, atol=1e-12)
            assert (got.panels[key].labels, got.panels[key].boxes) == (panel.labels, panel.boxes)


def test_the_picture_is_shown_whole_where_the_field_is_as_large() -> None:
    x = picture(1, 3, 7, 12)  # conv2 sees 8 x 8: more rows than there are, fewer columns
    got = walked(Plain().double(), x, layers="conv2", maps=2)
    assert got.panels["conv2"].values.shape == (2, 3, 7, 8)
    (_, left, _, right) = got.panels["conv2"].boxes[0]
    assert got.panels["conv2"].boxes[0] == (0, left, 6, left + 7)
    assert right == left + 7
    alone = wrap(GapNet().double()).explain(x, "deconvnet", layers="features.2", maps=1)
    assert isinstance(alone, Attribution)
    assert alone.panels["features.2"].values.shape == (1, 3, 3, 3)


class Dead(nn.Module):
    """Six maps, of which channels 1 and 4 never fire."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)
        with torch.no_grad():
            self.conv.bias.fill_(0.5)
            self.conv.bias[[1, 4]] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.conv(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize("keep", ["maximum", "map"])
@pytest.mark.parametrize("start", ["activation", "gradient"])
def test_a_dead_map_is_said_and_gets_no_patch(start: str, keep: str) -> None:
    got = walked(Dead(), picture(1, 3, 10, 10), layers="conv", maps=9, start=start, keep=keep)
    tiles, patches = got.panels["conv"], got.panels["conv patches"]
    assert len(tiles.values) == 6
    assert sorted(got.evidence["channels conv"][4:]) == [1, 4]
    assert tiles.boxes[4:] == patches.boxes[4:] == (None, None)
    assert not tiles.values[4:].any()
    assert (patches.values[4:] == 1).all()
    assert tiles.values[:4].any((1, 2, 3)).all()
    assert None not in tiles.boxes[:4]
    assert [tiles.labels[4], tiles.labels[5]] == ["1 silent", "4 silent"]
    assert "conv has 6 maps, fewer than 9: all are shown" in got.notes
    assert "zero everywhere, so without projection and patch: conv:1, 4" in got.notes


def test_a_projection_of_nothing_is_said() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(4 * 64, 2))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([0.5, 100.0, 0.5, 0.5]))  # channel 1 is at the ceiling everywhere
    got = walked(net, picture(1, 3, 10, 10), "guided_backprop", layers="1", maps=2)
    assert got.evidence["channels 1"][0] == 1
    assert not got.panels["1"].values[0].any()
    assert got.panels["1"].values[1].any()
    assert [note.endswith("): 1:1") for note in got.notes if "zero though" in note] == [True]


def test_stages_are_the_last_layers_before_positions_move_apart() -> None:
    import torchvision

    wanted = {
        "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
        "alexnet": ("features.1", "features.4", "features.11"),
        "resnet50": ("relu", "layer1", "layer2", "layer3", "layer4"),
        "squeezenet1_1": ("features.1", "features.4", "features.7", "features"),
    }
    for name, layers in wanted.items():
        with torch.device("meta"):
            net = torchvision.models.get_model(name, weights=None).eval()
        table = cutaway.core.layers.LayerTable.of(net, torch.zeros(1, 3, 224, 224, device="meta"))
        assert table.stages() == layers, name
    got = walked(GapNet(), picture(1, 3, 12, 12), layers="stages", maps=1)
    assert got.layer == "features"
    assert any("features.2, features" in note for note in got.notes)


@pytest.mark.parametrize(
    ("layers", "options", "error", "said"),
    [
        ("conv9", {}, UnknownNameError, "conv1"),
        ("fc", {}, UsageError, "no maps"),
        (" , ", {}, UsageError, "stages"),
        ("conv1", {"maps": 0}, UsageError, "maps=0"),
        ("conv1", {"reduce": "sum"}, UsageError, "reduce"),
        ("conv1", {"compare": True}, UsageError, "compare"),
    ],
)
def test_what_cannot_be_walked_is_refused(
    layers: str, options: dict[str, Any], error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        walked(Plain(), picture(1, 3, 12, 12), "guided_backprop", layers=layers, **options)


def test_a_layer_that_runs_twice_and_rules_without_relu_are_refused() -> None:
    twice = nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 2))
    with pytest.raises(UsageError, match="2 times"):
        walked(net, picture(1, 3, 6, 6), layers="0")
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 16, 2))
    with pytest.raises(MethodRefusedError, match="gelu"):
        walked(smooth, picture(1, 3, 6, 6), layers="1")


def test_the_target_is_neither_named_nor_silently_ignored() -> None:
    model, x = wrap(Plain()), picture(1, 3, 12, 12)
    default, given = (
        model.explain(x, layers="conv2", method="deconvnet"),
        model.explain(x, "deconvnet", 1, layers="conv2"),
    )
    assert default.target == given.target == ""
    assert not any("target" in note for note in default.notes)
    assert any("logit 1 is not used" in note for note in given.notes)


def test_it_survives_saving_and_is_drawn_whole(tmp_path: Path) -> None:
    got = walked(Dead(), picture(1, 3, 10, 10), layers="conv", maps=9)
    back = load_result(got.save(tmp_path / "walk.npz"))
    assert isinstance(back, Attribution)
    assert back.to_dict() == got.to_dict()
    assert back.panels["conv"].boxes == got.panels["conv"].boxes
    (drawn,) = parts(back)
    stage = stages(back)[0]
    sheet = np.asarray(stage_image(stage, (10, 10), tile=60), int)
    # 3 x 3 fields in tiles of 60 pixels: the middle of the first patch is the pixel its position stands on
    top, left, _, _ = got.panels["conv"].boxes[0] or (0, 0, 0, 0)
    wanted = np.rint(got.image[top + 1, left + 1] * 255)
    assert np.abs(sheet[16 + 30, 6 * 64 + 24 + 30] - wanted).max() <= 1
    assert drawn.picture.width > sheet.shape[1]
    page = report([got])
    assert "conv: all 6 maps of 8 × 8" in page
    assert "4 silent" in page
    assert got.png()[:4] == b"\x89PNG"


def test_beyond_the_picture_is_white_in_both_blocks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].weight[..., 2, 2] = 0.5
    x = torch.zeros(1, 3, 6, 6, dtype=torch.float64)
    x[..., 0, 0] = 1.0  # the strongest position is a corner: ties go to the first
    got = walked(net, x, layers="1", maps=1)
    assert got.panels["1"].boxes[0] == (-1, -1, 1, 1)
    sheet = np.asarray(stage_image(stages(got)[0], (6, 6), tile=60), int)
    for x0 in (0, 64 + 24):
        assert (sheet[16 + 10, x0 + 10] == 255).all()
        assert (sheet[16 + 30, x0 + 10] == 255).all()
        assert not (sheet[16 + 50, x0 + 50] == 255).all()


def test_the_command_writes_every_panel(tmp_path: Path) -> None:
    photo, arrays = tmp_path / "a.png", tmp_path / "a.npz"
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    asked = ["explain", str(photo), "--model", "cutaway:cifar", "--method", "deconvnet", "--json"]
    settings = ["--set", "deconvnet.layers=block2,block1", "--set", "deconvnet.maps=2"]
    done = CliRunner().invoke(
        app, [*asked, *settings, "--arrays", str(arrays), "-o", str(tmp_path / "a.html")]
    )
    assert done.exit_code == 0, done.stderr
    (result,) = json.loads(done.stdout)["images"][0]["results"]
    assert list(result["panels"]) == ["block1", "block1 patches", "block2", "block2 patches"]
    with np.load(arrays) as file:
        for panel in result["panels"].values():
            assert list(file[panel["array"]].shape) == panel["shape"]
            assert len(panel["labels"]) == len(panel["boxes"]) == 2
    assert "block1: 2 strongest of" in (tmp_path / "a.html").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, [*asked, "--set", "deconvnet.layers=block1,blokc2"])
    assert (wrong.exit_code, wrong.stdout) == (4, "")
    assert "block2" in wrong.stderr


def test_headings_have_room_over_a_single_map() -> None:
    got = walked(Dead(), picture(1, 3, 10, 10), layers="conv", maps=1)
    sheet = walk_drawing(got).picture
    # the photograph, the projections and the patches
    assert sheet.width >= 224 + 24 + 2 * 340
