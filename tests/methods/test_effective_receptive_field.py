"""Effective receptive fields against closed forms on linear chains and the geometry's own boxes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError

from .nets import GapNet, picture, wrap

ERF = "effective_receptive_field"


def chain(*kernels: int, prep: cutaway.Preprocess | None = None) -> cutaway.VisionModel:
    """Averaging convolutions one after another; the first takes the mean over colours too."""
    layers = []
    for i, k in enumerate(kernels):
        conv = nn.Conv2d(1 if i else 3, 1, k, bias=False).double()
        nn.init.constant_(conv.weight, 1 / (k * k * (1 if i else 3)))
        layers.append(conv)
    return cutaway.VisionModel(nn.Sequential(*layers).double(), prep or cutaway.Preprocess(), name="averages")


def profile(*kernels: int) -> np.ndarray:
    """The convolution of averaging windows with each other, by counting: binomial coefficients for windows of 2."""
    out = np.ones(1)
    for k in kernels:
        out = np.convolve(out, np.ones(k) / k)
    return out


@pytest.mark.parametrize("inputs", ["noise", "picture"])
@pytest.mark.parametrize("kernels", [(2,) * 5, (3,) * 4, (5, 3, 2)])
def test_a_chain_of_averages_has_the_auto_convolution_of_a_box(inputs: str, kernels: tuple[int, ...]) -> None:
    one = profile(*kernels)
    n = len(one)
    size = n + 4
    x = picture(1, 3, size, size + 2)
    last = str(len(kernels) - 1)
    for power in ("squared", "absolute"):
        found = chain(*kernels).explain(x, ERF, layer=last, inputs=inputs, power=power, draws=3)
        top, left = found.evidence["row"], found.evidence["column"]
        assert (top, left) == ((size - n + 1) // 2, (size + 2 - n + 1) // 2)
        slope = np.outer(one, one) / 3  # for each of the three colours
        want = np.zeros((size, size + 2))
        want[top : top + n, left : left + n] = 3 * slope**2 if power == "squared" else 3 * slope
        np.testing.assert_allclose(found.values, want, rtol=1e-12, atol=1e-18)
        assert found.evidence["field"] == (top, left, top + n - 1, left + n - 1)
        above = (want > 0.0455 * want.max()).sum()
        assert found.evidence["side_above_edge"] == pytest.approx(np.sqrt(above), rel=1e-12)
        even = want.sum() ** 2 / (want**2).sum()
        assert found.evidence["side_participation"] == pytest.approx(np.sqrt(even), rel=1e-12)
        assert found.evidence["share_of_field"] == pytest.approx(above / n**2, rel=1e-12)
    if kernels == (2,) * 5:
        np.testing.assert_allclose(one * 32, [1, 5, 10, 10, 5, 1])


def test_one_convolution_has_its_own_weights_squared_in_pixel_space() -> None:
    prep = cutaway.Preprocess(channels="BGR", range=255, mean=(104, 117, 123), std=(1.0, 2.0, 3.0))
    conv = nn.Conv2d(3, 4, 3, stride=2).double()
    model = cutaway.VisionModel(nn.Sequential(conv, nn.ReLU()), prep, name="one")
    on_pixels = (conv.weight.detach() * 255 / torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)).flip(1).numpy()
    x = picture(1, 3, 9, 11)
    for channel in (None, 2):
        own = on_pixels.mean(0) if channel is None else on_pixels[channel]
        found = model.explain(x, ERF, layer="0", channel=channel, raw=True, row=1, column=3)
        want = np.zeros((9, 11))
        want[2:5, 6:9] = (own**2).sum(0)
        np.testing.assert_allclose(found.values, want, rtol=1e-12)
        assert found.evidence["field"] == (2, 6, 4, 8)


def test_open_gates_alone_count_and_their_share_is_the_mean() -> None:
    """relu(w u + b) of one pixel of noise, uniform from 0 to 1, is open for a share 1 - (-b / w): so is the mean slope."""
    conv = nn.Conv2d(3, 1, 1).double()
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0], conv.bias[0] = 2.0, -1.5
    model = cutaway.VisionModel(nn.Sequential(conv, nn.ReLU()), cutaway.Preprocess(), name="gate")
    x = picture(1, 3, 5, 5)
    draws = 2000
    found = model.explain(x, ERF, layer="0", draws=draws)
    assert found.values[2, 2] / 4 == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / draws))
    assert found.values.sum() == found.values[2, 2]
    assert model.explain(x, ERF, layer="0", raw=True).values[2, 2] == 4
    dark = model.explain(torch.zeros(1, 3, 5, 5, dtype=torch.float64), ERF, layer="0", inputs="picture")
    assert dark.values.max() == 0
    assert dark.evidence["side_above_edge"] == 0
    assert dark.evidence["side_participation"] == 0
    assert any("raw=true" in n for n in dark.notes)
    assert np.isfinite(dark.panels["decibels"].values).all()


@pytest.mark.parametrize("layer", ["features.0", "features.3", "features.5"])
def test_nothing_lies_outside_the_theoretical_field(layer: str) -> None:
    model = wrap(GapNet().eval())
    found = model.explain(picture(1, 3, 16, 18), ERF, layer=layer)
    top, left, bottom, right = found.evidence["field"]
    outside = found.values.copy()
    outside[top : bottom + 1, left : right + 1] = 0
    assert outside.max() == 0
    assert (found.values[[top, bottom]] > 0).any(1).all()  # and the box is no larger than need be
    assert (found.values[:, [left, right]] > 0).any(0).all()
    for panel in found.panels.values():
        assert panel.mark == (top, left, bottom + 1, right + 1)
    again = cutaway.VisionModel(model.network, model.preprocess, name="again")
    np.testing.assert_array_equal(again.explain(picture(1, 3, 16, 18), ERF, layer=layer).values, found.values)


def test_the_logarithmic_panel_is_in_decibels_and_the_figure_is_drawn() -> None:
    found = chain(2, 2).explain(picture(1, 3, 7, 7), ERF, layer="1")
    inside = found.values > 0
    want = np.full(found.values.shape, -60.0)
    want[inside] = 10 * np.log10(found.values[inside] / found.values.max())
    np.testing.assert_allclose(found.panels["decibels"].values, want, atol=1e-12)
    assert found.png()[:4] == b"\x89PNG"


class Mixed(nn.Module):
    """The first map times its own mean: every pixel can move every unit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.fc = nn.Conv2d(3, 2, 3), nn.Identity(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        scores: Tensor = self.fc(self.out(h * h.mean((2, 3), keepdim=True)).mean((2, 3)))
        return scores


def test_a_unit_that_sees_everything_says_why() -> None:
    found = wrap(Mixed()).explain(picture(1, 3, 8, 8), ERF, layer="out")
    assert (found.values > 0).all()
    assert any("whole picture" in n for n in found.notes)
    assert found.evidence["field"] == (0, 0, 7, 7)


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.conv(x.detach()).mean((2, 3)))
        return scores


def test_places_and_channels_that_do_not_exist_are_refused_in_words() -> None:
    model = wrap(GapNet().eval())
    x = picture(1, 3, 12, 14)
    with pytest.raises(UnknownNameError, match="channel 8 of features.0"):
        model.explain(x, ERF, layer="features.0", channel=8)
    with pytest.raises(UsageError, match="row=12") as caught:
        model.explain(x, ERF, layer="features.0", row=12)
    assert caught.value.accepted == "0 to 11"
    with pytest.raises(UsageError, match="column=7"):
        model.explain(x, ERF, layer="features.3", column=7)
    with pytest.raises(UsageError, match="no rows and columns"):
        model.explain(x, ERF, layer="fc")
    with pytest.raises(MethodRefusedError, match="differentiable"):
        wrap(Cut()).explain(x, ERF, layer="conv")
