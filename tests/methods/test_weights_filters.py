"""Filters, planes, templates and optimal stimuli against crops, plain products and projected ascent."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.view.grids import tile_colors
from cutaway.view.raster import mosaic

PREP = cutaway.Preprocess(crop=(6, 5), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), range=1)
BGR = cutaway.Preprocess(crop=(6, 5), channels="BGR", range=255, mean=(104, 117, 123), std=(1.0, 2.0, 3.0))


def conv_net(prep: cutaway.Preprocess = PREP, width: int = 7) -> cutaway.VisionModel:
    net = nn.Sequential(nn.Conv2d(3, width, (3, 2)), nn.ReLU(), nn.Conv2d(width, 9, 2, groups=1)).double()
    return cutaway.VisionModel(net, prep, name="filters")


class Rearranged(nn.Module):
    """A linear classifier that lays the picture out with colours last."""

    def __init__(self, before: nn.Module | None = None) -> None:
        super().__init__()
        self.before, self.fc = before or nn.Identity(), nn.Linear(6 * 5 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.before(x).permute(0, 2, 3, 1).flatten(1))
        return out


def linear_net(prep: cutaway.Preprocess = PREP) -> cutaway.VisionModel:
    return cutaway.VisionModel(Rearranged().double(), prep, name="linear")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 11, 64, 96, 200])
@pytest.mark.parametrize("each", [True, False])
def test_a_filter_cropped_back_is_bit_exact_and_occurs_once(n: int, each: bool) -> None:
    values = np.random.default_rng(n).normal(size=(n, 3, 4, 5)) * np.arange(1, n + 1)[:, None, None, None]
    colors, _ = tile_colors(values, each=each)
    far = (
        np.abs(values).reshape(n, -1).max(1)
        if each
        else np.full(n, np.quantile(np.abs(values), 0.999, method="higher"))
    )
    sheet = mosaic(colors)
    columns = int(np.ceil(np.sqrt(n)))
    for i in range(n):
        top, left = i // columns * 5, i % columns * 6
        crop = sheet[top : top + 4, left : left + 5]
        want = np.clip(np.moveaxis(values[i], 0, -1) / far[i] / 2 + 0.5, 0, 1)
        np.testing.assert_array_equal(crop, want)  # one scale for the three colours, zero at one half


def test_zero_is_mid_grey_and_an_empty_filter_is_flat() -> None:
    values = np.zeros((2, 3, 2, 2))
    values[0, 0, 0, 0] = -2.0
    for each in (True, False):
        colors, _ = tile_colors(values, each=each)
        assert colors[0, 0, 0].tolist() == [0.0, 0.5, 0.5]
        assert (colors[1] == 0.5).all()


def test_filters_are_the_weights_and_on_pixels_they_act_as_the_layer_does() -> None:
    for prep in (PREP, BGR):
        model = conv_net(prep)
        weight, bias = model.network[0].weight.detach(), model.network[0].bias.detach()
        own = model.inspect("filters").values
        np.testing.assert_array_equal(own, (weight.flip(1) if prep is BGR else weight).numpy())
        on_pixels = torch.as_tensor(model.inspect("filters", space="pixels").values)
        pixels = torch.rand(1, 3, 6, 5, dtype=torch.float64)
        want = model.network[0](prep.normalise(pixels)) - model.network[0](prep.normalise(pixels * 0))
        torch.testing.assert_close(F.conv2d(pixels, on_pixels), want, rtol=1e-10, atol=1e-10)
        assert bias.shape == (7,)
    assert any("blue, green, red" in note for note in conv_net(BGR).inspect("filters").notes)


def test_filters_come_in_pages() -> None:
    model = conv_net(width=1030)
    first, second = model.inspect("filters"), model.inspect("filters", page=2)
    joined = np.concatenate([first.values, second.values])
    np.testing.assert_array_equal(joined, model.network[0].weight.detach().numpy())
    assert len(second.values) == 6
    assert "filters 1024 to 1029 of 1030, page 2 of 2" in second.notes
    with pytest.raises(UsageError, match="page=3"):
        model.inspect("filters", page=3)


def test_filters_refuse_what_is_no_picture() -> None:
    model = conv_net(width=16)
    with pytest.raises(MethodRefusedError, match="16 input channels") as caught:
        model.inspect("filters", layer="2")
    assert "filter_planes" in caught.value.hint
    with pytest.raises(MethodRefusedError, match="ReLU"):
        model.inspect("filters", layer="1")
    with pytest.raises(UnknownNameError):
        model.inspect("filters", layer="9")
    with pytest.raises(MethodRefusedError, match="no convolution"):
        linear_net().inspect("filters")


def test_filter_planes_stand_in_rows_of_units_and_columns_of_inputs() -> None:
    model = conv_net()
    weight = model.network[2].weight.detach().numpy()
    result = model.inspect("filter_planes")
    assert result.columns == 7
    for unit in range(9):
        for channel in range(7):
            np.testing.assert_array_equal(result.values[unit * 7 + channel], weight[unit, channel])


def test_filter_planes_keep_the_heaviest_inputs() -> None:
    model = conv_net()
    weight = model.network[2].weight.detach().numpy()
    sizes = np.abs(weight[4:8]).sum((0, 2, 3))
    heaviest = np.argsort(-sizes)[:3]
    by_size = model.inspect("filter_planes", layer="2", columns=3, rows=4, page=2, order="size")
    assert by_size.evidence["inputs"] == tuple(heaviest.tolist())
    np.testing.assert_array_equal(by_size.values[3 * 2 + 1], weight[4 + 2, heaviest[1]])
    stored = model.inspect("filter_planes", layer="2", columns=3, rows=4, page=2)
    assert stored.evidence["inputs"] == tuple(sorted(heaviest.tolist()))


@pytest.mark.parametrize("prep", [PREP, BGR], ids=["rgb", "bgr"])
@pytest.mark.parametrize("space", ["network", "pixels"])
def test_template_times_picture_plus_bias_is_the_score(prep: cutaway.Preprocess, space: str) -> None:
    model = linear_net(prep)
    result = model.inspect("linear_templates", space=space)
    pixels = torch.rand(5, 3, 6, 5, dtype=torch.float64)
    seen = pixels
    if space == "network":
        seen = prep.normalise(pixels)
        seen = seen.flip(1) if prep is BGR else seen
    score = torch.einsum("kchw,nchw->nk", torch.as_tensor(result.values), seen)
    score = score + torch.tensor(result.evidence["bias"], dtype=torch.float64)
    torch.testing.assert_close(score, model(pixels), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "before", [nn.ReLU(), nn.AvgPool2d(1, divisor_override=2), nn.Softmax(1), nn.BatchNorm2d(3, eps=1.0)]
)
def test_templates_refuse_a_layer_that_reads_something_computed(before: nn.Module) -> None:
    model = cutaway.VisionModel(Rearranged(before).double(), PREP, name="bent")
    with pytest.raises(MethodRefusedError, match="does not read the picture as it is"):
        model.inspect("linear_templates")


def test_templates_refuse_a_layer_of_another_size() -> None:
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    with pytest.raises(MethodRefusedError, match="reads 18 numbers, a picture has 3 x 6 x 5 = 90"):
        cutaway.VisionModel(net, PREP, name="pooled").inspect("linear_templates")


@pytest.mark.parametrize("build", [conv_net, linear_net])
@pytest.mark.parametrize("space", ["network", "pixels"])
def test_projected_ascent_reaches_the_optimal_stimulus(build: object, space: str) -> None:
    model = build(BGR)  # type: ignore[operator]
    result = model.inspect("optimal_stimulus", energy=10.0, space=space)
    name = "filters" if build is conv_net else "linear_templates"
    w = torch.as_tensor(model.inspect(name, space=space).values).flatten(1)
    best = torch.as_tensor(result.values).flatten(1)
    x = torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(4000):  # f = tanh rises; its gradient is a positive factor times w
        x = x + w / w.norm(dim=1, keepdim=True) * 0.05
        x = x / (x.norm(dim=1, keepdim=True) / 10**0.5).clamp_min(1)
    torch.testing.assert_close(best, x, rtol=1e-8, atol=1e-8)
    response = torch.tensor(result.evidence["response"], dtype=torch.float64)
    torch.testing.assert_close((best * w).sum(1), response)
    others = torch.randn(1000, w.shape[1], dtype=torch.float64)
    others = others / others.norm(dim=1, keepdim=True) * 10**0.5
    assert bool((others @ w.T < response).all())


def test_a_unit_without_weights_has_no_optimal_stimulus() -> None:
    model = conv_net()
    with torch.no_grad():
        model.network[0].weight[3] = 0
    with pytest.raises(MethodRefusedError, match="zero weights; every stimulus is optimal"):
        model.inspect("optimal_stimulus", unit=3)
    whole = model.inspect("optimal_stimulus")
    assert not whole.values[3].any()
    assert any("units 3" in note for note in whole.notes)
    assert model.inspect("optimal_stimulus", unit=2).values.shape == (1, 3, 3, 2)
    with pytest.raises(UnknownNameError, match="unit 7"):
        model.inspect("optimal_stimulus", unit=7)


def test_a_grid_survives_save_and_load_and_is_drawn(tmp_path: object) -> None:
    result = conv_net().inspect("filters", scale="layer")
    again = cutaway.load_result(result.save(f"{tmp_path}/f.npz"))
    np.testing.assert_array_equal(again.arrays()["values"], result.values)
    assert again.to_dict() == result.to_dict()
    assert result.png()[:4] == b"\x89PNG"
    assert "first-layer" not in result.provenance.image
