"""Projections of single activations: equal to the methods on the whole picture, by crops wherever that is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.geometry import Box
from cutaway.methods.units.cropping import Cropping
from cutaway.methods.units.projected import Projections, projections

from ..nets import picture

NAMES = {"deconvnet": "deconvnet", "guided": "guided_backprop", "backprop": "backprop"}
SIZE = 47


class Fires(nn.Module):
    """Strides, overlapping pools that round up, padding, concatenations: SqueezeNet in small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 6, 3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.squeeze, self.one, self.three = (
            nn.Conv2d(6, 4, 1),
            nn.Conv2d(4, 5, 1),
            nn.Conv2d(4, 5, 3, padding=1),
        )
        self.down, self.last = nn.AvgPool2d(2), nn.Conv2d(10, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(F.relu(self.stem(x)))
        s = F.relu(self.squeeze(h))
        h = self.down(torch.cat([F.relu(self.one(s)), F.relu(self.three(s))], 1))
        return F.relu(self.last(h)).mean((2, 3))


class Residual(nn.Module):
    """Batch norm, an addition, contrast normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.b, self.c = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, 2, 1)
        self.contrast, self.short = nn.LocalResponseNorm(3), nn.Conv2d(6, 6, 1, 2)
        self.end = nn.ReLU()
        self.norm.running_mean, self.norm.running_var = torch.rand(6) / 5, 0.5 + torch.rand(6)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        h = self.contrast(F.relu(self.norm(self.a(x))))
        return self.end(self.c(F.relu(self.b(h))) + self.short(h)).mean((2, 3))


class Whole(nn.Module):
    """One convolution behind something that a crop would see otherwise."""

    def __init__(self, how: str) -> None:
        super().__init__()
        mode = "circular" if how == "wraps" else "zeros"
        padding = 0 if how == "adaptive" else 1
        self.how, self.conv = how, nn.Conv2d(3, 5, 3, padding=padding, padding_mode=mode)
        self.second = nn.Conv2d(5, 4, 3)
        self.place = nn.Parameter(torch.rand(1, 1, SIZE, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        if self.how == "constant":
            h = h + self.place
        elif self.how == "statistics":
            h = h * h.mean((2, 3), keepdim=True)
        elif self.how == "resized":
            h = F.interpolate(h, (40, 40), mode="nearest")
        elif self.how == "adaptive":
            h = F.adaptive_avg_pool2d(h, 15)  # three by three of 45, which a crop would cut otherwise
        elif self.how == "axes":
            h = h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return F.relu(self.second(h)).mean((2, 3))


def model_of(net: nn.Module, **prep: Any) -> cutaway.VisionModel:
    given = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "channels": "BGR"} | prep
    return cutaway.VisionModel(net.double().eval(), cutaway.Preprocess(**given), name="small")


def positions(model: cutaway.VisionModel, layer: str, x: Tensor) -> list[tuple[int, int]]:
    model.pixels(x)
    grid = model.layers.find(layer).grid
    assert grid is not None
    return [(r, c) for r in range(grid[0]) for c in range(0, grid[1], 3)]


def strongest(model: cutaway.VisionModel, layer: str, x: Tensor, position: str | None = None) -> int:
    """A channel that answers, so that no projection is right by being zero."""
    found = model.explain(x, "building_blocks", layer=layer, position=position, channels=1, groups=0)
    assert found.values[0, 0] > 0
    return int(found.rows[0].rpartition(":")[2])


def cut(picture: Tensor, box: Box) -> Tensor:
    """The box by a loop over its pixels, zero where there is none."""
    out = torch.zeros(3, box.height, box.width, dtype=picture.dtype)
    for r in range(box.height):
        for c in range(box.width):
            y, x = box.top + r, box.left + c
            if 0 <= y < picture.shape[1] and 0 <= x < picture.shape[2]:
                out[:, r, c] = picture[:, y, x]
    return out


def same_as_the_method(
    model: cutaway.VisionModel, layer: str, channel: int, x: Tensor, at: list[tuple[int, int]], rule: Any
) -> Projections:
    found = projections(model, layer, channel, x, [p[0] for p in at], [p[1] for p in at], rule)
    for i, place in enumerate(at):
        target = cutaway.unit(layer, channel, *place)
        want = model.explain(x[i], NAMES[rule], target, start="activation")
        heat, tile = torch.from_numpy(want.values), found.tiles[i]
        assert found.values[i].item() == pytest.approx(want.evidence["score"], rel=1e-10)
        torch.testing.assert_close(
            tile, cut(heat, found.boxes[i]), rtol=0, atol=1e-10 * float(heat.abs().max())
        )
        torch.testing.assert_close(tile.abs().sum(), heat.abs().sum())  # nothing lies outside the box
    return found


@pytest.mark.parametrize("rule", NAMES)
@pytest.mark.parametrize(
    ("net", "layer"),
    [(Fires, "stem"), (Fires, "pool"), (Fires, "three"), (Fires, "down"), (Fires, "last"), (Residual, "end")],
)
def test_every_position_equals_the_method_on_the_whole_picture(
    net: type[nn.Module], layer: str, rule: str
) -> None:
    torch.manual_seed(3)
    model = model_of(net())
    at = positions(model, layer, picture(1, 3, SIZE, SIZE))
    at = at[:: 1 + len(at) // 24]
    x = picture(len(at), 3, SIZE, SIZE)
    channel = strongest(model, layer, x[0])
    found = same_as_the_method(model, layer, channel, x, at, rule)
    assert float(found.values.max()) > 0
    assert set(found.routes) == {"crop"}


@pytest.mark.parametrize("how", ["wraps", "constant", "statistics", "resized", "adaptive", "axes"])
def test_what_a_crop_would_see_otherwise_takes_the_whole_picture(how: str) -> None:
    torch.manual_seed(1)
    model = model_of(Whole(how), crop=SIZE)
    at = [(4, 5), (10, 9), (0, 0)]
    found = same_as_the_method(model, "second", 2, picture(3, 3, SIZE, SIZE), at, "backprop")
    assert found.routes == ("whole",) * 3


def test_padding_that_depends_on_the_size_takes_the_whole_picture() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
    model = model_of(net, padding="tensorflow_same")
    found = same_as_the_method(model, "3", 2, picture(2, 3, SIZE, SIZE), [(5, 5), (6, 4)], "guided")
    assert found.routes == ("whole", "whole")


@pytest.mark.parametrize("way", ["out of phase", "short of the border"])
def test_a_wrong_crop_is_seen(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle fails where crops begin beside a multiple of the stride, and where they end before the padding."""
    torch.manual_seed(3)
    right = Cropping.crop

    def wrong(self: Cropping, row: int, column: int, size: tuple[int, int]) -> Box:
        if way == "out of phase":
            box = right(self, row, column, size)
            return Box(box.top + 1, box.left, box.bottom + 1, box.right)
        return right(self, row - 2, column, size)  # of the unit two places above

    model, x = model_of(Fires()), picture(1, 3, SIZE, SIZE)
    at = (2, 2) if way == "out of phase" else (11, 5)
    layer = "last" if way == "out of phase" else "three"
    channel = strongest(model, layer, x[0], f"{at[0]},{at[1]}")
    assert same_as_the_method(model, layer, channel, x, [at], "deconvnet").routes == ("crop",)
    monkeypatch.setattr(Cropping, "crop", wrong)
    with pytest.raises((AssertionError, IndexError)):
        same_as_the_method(model, layer, channel, x, [at], "deconvnet")


@pytest.mark.parametrize("size", range(40, 49))
def test_every_border_and_every_remainder_of_the_strides(size: int) -> None:
    torch.manual_seed(3)
    model, x = model_of(Fires()), picture(1, 3, size, size + 3)
    model.pixels(x)
    high, wide = model.layers.find("three").grid or (0, 0)
    at = [(0, 0), (0, wide - 1), (high - 1, 0), (high - 1, wide - 1), (1, wide - 2), (high - 2, 1)]
    channel = strongest(model, "three", x[0])
    found = same_as_the_method(model, "three", channel, x.expand(len(at), -1, -1, -1), at, "backprop")
    assert set(found.routes) == {"crop"}
    assert int((found.values > 0).sum()) >= 2


def test_only_crops_are_run_where_they_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model, x = model_of(Fires()), picture(3, 3, SIZE, SIZE)
    model.pixels(x)
    _ = model.layers
    seen: list[tuple[int, ...]] = []
    model.network.stem.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    projections(model, "pool", 0, x, [4, 5, 0], [6, 2, 0])
    assert len(seen) == 1  # one shape for all three
    assert seen[0][0] == 3
    assert max(seen[0][2:]) <= 12


def test_a_silent_unit_gives_a_zero_projection() -> None:
    model = model_of(Fires())
    with torch.no_grad():
        model.network.stem.bias.fill_(-100)
    found = projections(model, "stem", 0, picture(1, 3, SIZE, SIZE), [4], [4])
    assert float(found.values[0]) == 0
    assert not bool(found.tiles.any())


def test_pictures_of_another_size_than_the_last_have_a_table_of_their_own() -> None:
    torch.manual_seed(3)
    model = model_of(Fires())
    model.pixels(picture(1, 3, 20, 20))
    found = projections(model, "last", 0, picture(1, 3, SIZE, SIZE), [5], [5])
    want = model.explain(
        picture(1, 3, SIZE, SIZE), "deconvnet", cutaway.unit("last", 0, 5, 5), start="activation"
    )
    torch.testing.assert_close(found.tiles[0], cut(torch.from_numpy(want.values), found.boxes[0]))


def test_nothing_of_the_network_is_touched() -> None:
    model = model_of(Fires())
    model.network.train()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    x = picture(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        projections(model, "last", 0, x.clone(), [3], [3])
    assert all(m.training for m in model.network.modules())
    assert all(p.requires_grad and p.grad is None for p in model.network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())


def test_wrong_questions_are_answered_with_what_is_right() -> None:
    model, x = model_of(Fires()), picture(2, 3, SIZE, SIZE)
    with pytest.raises(UnknownNameError, match="nearest"):
        projections(model, "stemm", 0, x, [0, 0], [0, 0])
    with pytest.raises(UnknownNameError, match="0 to 5"):
        projections(model, "stem", 6, x, [0, 0], [0, 0])
    with pytest.raises(UnknownNameError, match="rows 0 to 23"):
        projections(model, "stem", 0, x, [0, 24], [0, 0])
    with pytest.raises(UsageError, match="2 pictures"):
        projections(model, "stem", 0, x, [0], [0])
    with pytest.raises(UsageError, match="rule"):
        projections(model, "stem", 0, x, [0, 0], [0, 0], "rect_grad")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="floating"):
        projections(model, "stem", 0, (x * 255).byte(), [0, 0], [0, 0])
    smooth = model_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()))
    with pytest.raises(MethodRefusedError, match="deconvnet"):
        projections(smooth, "1", 0, x, [3, 3], [3, 3])


def test_a_channel_of_joined_paths_is_cut_to_its_own_field() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large, self.both = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 5), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.both(torch.cat([self.small(x)[:, :, 2:-2, 2:-2], self.large(x)], 1)).mean((2, 3))

    torch.manual_seed(0)
    model, x = model_of(Beside()), picture(1, 3, 12, 12)
    model.pixels(x)
    found = [projections(model, "both", c, x, [3], [4], "backprop") for c in (0, 1)]
    assert [f.boxes for f in found] == [(Box(5, 6, 5, 6),), (Box(3, 4, 7, 8),)]
    assert [tuple(f.tiles.shape) for f in found] == [(1, 3, 1, 1), (1, 3, 5, 5)]
