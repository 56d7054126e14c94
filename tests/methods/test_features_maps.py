"""Activation grids, the first layer and high-activation masks against hooks, conv2d and planted maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.view.grids import tile_colors
from cutaway.view.raster import mosaic

from .nets import GapNet, wrap

PREP = cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def photo(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def hooked(model: cutaway.VisionModel, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        model.network.get_submodule(n).register_forward_hook(
            lambda m, a, out, n=n: found.update({n: out.clone()})
        )
        for n in names
    ]
    with torch.no_grad():
        model(x)
    for h in handles:
        h.remove()
    return found


def test_a_grid_of_several_layers_is_what_hooks_see_in_one_pass() -> None:
    net = GapNet().double().eval()
    model = cutaway.VisionModel(net, PREP, name="gap")
    x = photo(1, 3, 12, 14)
    want = hooked(model, x, ["features.2", "features.3", "features.4"])
    passes: list[int] = []
    handle = net.register_forward_pre_hook(lambda m, a: passes.append(1))
    _ = model.pixels(x), model.layers
    passes.clear()
    result = model.explain(x, "activation_grid", layers="features.2, features.3,features.4", raw=True)
    handle.remove()
    assert len(passes) == 1
    np.testing.assert_array_equal(result.values, want["features.2"][0].numpy())
    np.testing.assert_array_equal(result.panels["features.3"].values, want["features.3"][0].numpy())
    np.testing.assert_array_equal(result.panels["features.4"].values, want["features.4"][0].numpy())
    # without raw the activation follows the nonlinearity, here through batch norm
    after = model.explain(x, "activation_grid", layers="features.0").values
    np.testing.assert_array_equal(after, want["features.2"][0].numpy())


@pytest.mark.parametrize("n", [1, 7, 96, 128])
def test_a_map_cropped_back_is_bit_exact(n: int) -> None:
    values = np.random.default_rng(n).random((n, 5, 4))
    colors, ends = tile_colors(values, each=False)
    sheet = mosaic(colors)
    columns, rows = {1: (1, 1), 7: (3, 3), 96: (10, 10), 128: (12, 11)}[n]
    assert sheet.shape[:2] == (rows * 6 - 1, columns * 5 - 1)
    far = np.quantile(values, 0.999, method="higher")
    for i in range(n):
        top, left = i // columns * 6, i % columns * 5
        crop = sheet[top : top + 5, left : left + 4, 1]
        np.testing.assert_array_equal(crop, np.clip(values[i] / far, 0, 1))
    assert ends.low == 0


def test_the_strongest_maps_come_first_and_each_keeps_its_number() -> None:
    model = wrap(GapNet().eval())
    x = photo(2, 3, 12, 12)
    with torch.no_grad():
        maps = model.network.features(x)
    options = {"layers": "features.5", "order": "strongest"}
    results = finish(explain(model, METHODS["activation_grid"], x, None, options))
    for i, result in enumerate(results):
        order = np.argsort(-maps[i].amax((1, 2)).numpy(), kind="stable")
        assert result.evidence["channels features.5"] == order.tolist()
        np.testing.assert_array_equal(result.values, maps[i].numpy()[order])


def test_more_than_1024_maps_come_in_pages() -> None:
    net = nn.Sequential(nn.Conv2d(3, 1500, 1)).double()
    model = cutaway.VisionModel(net, PREP, name="wide")
    x = photo(1, 3, 4, 4)
    with torch.no_grad():
        want = model(x)[0].numpy()
    pages = [model.explain(x, "activation_grid", layers="0", page=p) for p in (1, 2)]
    np.testing.assert_array_equal(np.concatenate([p.values for p in pages]), want)
    assert any("page 2 of 2" in n for n in pages[1].notes)
    with pytest.raises(UsageError, match="page=3"):
        model.explain(x, "activation_grid", layers="0", page=3)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn, self.fc = nn.Conv2d(3, 4, 3), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.rnn(self.conv(x).flatten(2).transpose(1, 2))
        out: Tensor = self.fc(steps[:, -1])
        return out


def test_layers_without_maps_are_refused() -> None:
    model = wrap(Recurrent())
    x = photo(1, 3, 8, 8)
    for layer in ("rnn", "fc"):
        with pytest.raises(UsageError, match=layer) as caught:
            model.explain(x, "activation_grid", layers=layer)
        assert caught.value.accepted
    with pytest.raises(UnknownNameError, match="conf"):
        model.explain(x, "activation_grid", layers="conf")
    with pytest.raises(UsageError, match="layers="):
        model.explain(x, "activation_grid", layers=" , ")


def test_the_first_layer_is_a_plain_conv2d() -> None:
    net = GapNet().double().eval()
    model = cutaway.VisionModel(net, PREP, name="gap")
    x = photo(1, 3, 12, 14)
    result = model.explain(x, "first_layer")
    conv = net.features[0]
    want = F.conv2d(PREP.normalise(x), conv.weight, conv.bias, padding=1)[0].detach().numpy()
    np.testing.assert_allclose(result.values, want, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(result.panels["filters"].values, conv.weight.detach().numpy())
    np.testing.assert_array_equal(result.panels["picture"].values, x[0].numpy())
    # tile i of the filters makes map i
    one = F.conv2d(PREP.normalise(x), torch.as_tensor(result.panels["filters"].values[5:6]), padding=1)[0, 0]
    np.testing.assert_allclose(result.values[5] - conv.bias[5].item(), one.numpy(), rtol=1e-10, atol=1e-12)
    with pytest.raises(MethodRefusedError, match="8 input channels"):
        model.explain(x, "first_layer", layer="features.4")
    assert result.png()[:4] == b"\x89PNG"


class Planted(nn.Module):
    """Map 0 is red, map 1 green, each the mean of 4x4 pixels: what a unit answers is known by eye."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0] = self.conv.weight[1, 1] = 1 / 16

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def test_a_mask_covers_what_was_planted_and_dims_the_rest() -> None:
    model = wrap(Planted())
    x = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    x[0, 0, 8:12, 16:20] = 1.0  # one whole window, row 2, column 4
    x[0, 2] = 0.5
    result = model.explain(x, "activation_mask", layer="conv", threshold=0.5)
    assert result.evidence["unit"] == 0
    lit = result.panels["mask"].values
    inside = lit[2] == 0.5
    assert (lit[2][~inside] == 0.125).all()
    # the number stands at the window's centre (9.5, 17.5) and falls to zero one window on: half of it 2 pixels away
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 11, 16, 19)
    for r, c in np.ndindex(32, 32):
        want = max(0, 1 - abs(r - 9.5) / 4) * max(0, 1 - abs(c - 17.5) / 4)
        assert result.values[r, c] == pytest.approx(want, abs=1e-12)


def test_the_interpolant_stands_at_receptive_field_centres_not_at_the_border() -> None:
    """Unpadded 9x9 windows: the first centre is pixel 4, where spreading evenly would put pixel 0.5."""
    net = nn.Sequential(nn.Conv2d(3, 1, 9, stride=2)).double()
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="valid")
    x = photo(1, 3, 19, 19)
    with torch.no_grad():
        own = model(x)[0, 0].numpy()
    got = model.explain(x, "activation_mask", layer="0", unit=0).values
    np.testing.assert_allclose(got[4:15:2, 4:15:2], own, rtol=1e-12)
    np.testing.assert_allclose(got[0, 0], own[0, 0], rtol=1e-12)


def test_the_share_above_the_threshold_is_the_one_asked() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)).double()
    model = cutaway.VisionModel(net, PREP, name="same size")
    x = photo(1, 3, 40, 40)
    for share in (0.005, 0.05, 0.5):
        result = model.explain(x, "activation_mask", layer="0", unit=1, share=share)
        with torch.no_grad():
            own = model(x)[0, 1]
        above = result.evidence["threshold"]
        assert float((own > above).double().mean()) == pytest.approx(share, abs=1 / 1600)
        assert result.evidence["positions_above"] == pytest.approx(share, abs=1 / 1600)
        assert result.evidence["area"] == pytest.approx(share, abs=1 / 1600)  # one position per pixel here
    assert any("own map" in n for n in result.notes)


def test_a_constant_map_has_an_empty_mask_and_says_so() -> None:
    result = wrap(Planted()).explain(
        torch.zeros(1, 3, 32, 32, dtype=torch.float64), "activation_mask", layer="conv"
    )
    assert result.evidence["area"] == 0
    assert any("constant" in n for n in result.notes)
    with pytest.raises(UnknownNameError, match="unit 2"):
        wrap(Planted()).explain(torch.zeros(1, 3, 32, 32), "activation_mask", layer="conv", unit=2)
