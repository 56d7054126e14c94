"""Invariance curves against pictures moved by PyTorch, and networks whose invariance is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.core.method import get
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.methods.perturbation.motions import moved

from .nets import GapNet, Plain, picture, wrap

MOTIONS = ("translation", "scale", "rotation")


def run(model: Any, x: Tensor, target: Any = 1, **options: Any) -> Any:
    return finish(explain(model, get("invariance"), x, target, options))[0]


class Circular(nn.Module):
    """Nothing but circular padding, strides 2 and 2 and a mean over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="circular")
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode="circular")
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        out: Tensor = self.fc(self.pool(h).flatten(1))
        return out


def test_circular_padding_and_mean_pooling_are_invariant_at_multiples_of_the_stride() -> None:
    found = run(
        wrap(Circular()),
        picture(1, 3, 16, 16),
        motion="translation",
        reach=8,
        points=17,
        fill="wrap",
        last="pool",
    )
    whole = found.x % 4 == 0
    assert found.x[whole].tolist() == [-8, -4, 0, 4, 8]
    assert found.values[1, whole].max() < 1e-14
    assert np.ptp(found.values[2, whole]) < 1e-14
    assert found.values[1, ~whole].min() > 1e-5  # elsewhere the strides show
    assert found.values[0, found.x != 0].min() > 1e-2  # and so does an early layer, which moves along


@pytest.mark.parametrize("fill", ["grey", "black", "white", "mean", "edge", "wrap"])
@pytest.mark.parametrize("motion", MOTIONS)
def test_nothing_moves_at_the_identity(motion: str, fill: str) -> None:
    x = picture(1, 3, 12, 12)
    found = run(wrap(Plain()), x, motion=motion, points=5, fill=fill)
    (at,) = found.panels["strip"].framed
    still = found.evidence["untouched"]
    assert found.x[still] == (1 if motion == "scale" else 0)
    assert (found.values[:2, still] == 0).all()
    np.testing.assert_array_equal(found.panels["strip"].values[at], x[0])


@pytest.mark.parametrize("fill", ["black", "wrap", "edge"])
def test_quarter_turns_are_those_of_rot90(fill: str) -> None:
    x = picture(1, 3, 9, 9)
    turned = moved(x, "rotation", torch.tensor([0.0, 90.0, 180.0, 270.0, 360.0, -90.0]), fill)  # type: ignore[arg-type]
    for got, quarters in zip(turned, (0, 1, 2, 3, 4, -1), strict=True):
        assert torch.equal(got, torch.rot90(x[0], quarters, (1, 2)))


@pytest.mark.parametrize(("fill", "mode"), [("black", "zeros"), ("edge", "border")])
@pytest.mark.parametrize(
    ("motion", "amount"), [("rotation", 33.0), ("rotation", 200.0), ("scale", 1.37), ("translation", 2.5)]
)
def test_moved_pictures_are_those_of_grid_sample(motion: str, amount: float, fill: str, mode: str) -> None:
    x = picture(1, 3, 11, 11)
    a = np.deg2rad(amount)
    matrix = {
        "rotation": [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0]],
        "scale": [[1 / amount, 0, 0], [0, 1 / amount, 0]],
        "translation": [[1, 0, 0], [0, 1, -2 * amount / 11]],
    }[motion]
    grid = F.affine_grid(torch.tensor([matrix], dtype=torch.float64), list(x.shape), align_corners=False)
    right = F.grid_sample(x, grid, mode="bilinear", padding_mode=mode, align_corners=False)
    got = moved(x, motion, torch.tensor([amount]), fill)  # type: ignore[arg-type]
    torch.testing.assert_close(got, right, rtol=0, atol=1e-5)  # places are rounded to 2^-20 pixels


@pytest.mark.parametrize(("fill", "level"), [("grey", 0.5), ("white", 1.0)])
def test_a_shift_lets_the_fill_in_at_the_top(fill: str, level: float) -> None:
    x = picture(1, 3, 8, 6)
    (down,) = moved(x, "translation", torch.tensor([3.0]), fill)  # type: ignore[arg-type]
    assert torch.equal(down[:, 3:], x[0, :, :-3])
    assert (down[:, :3] == level).all()


@pytest.mark.parametrize("relative", [False, True])
def test_distances_and_probability_by_hand(relative: bool) -> None:
    torch.manual_seed(4)
    net = GapNet().double().eval()
    x = picture(1, 3, 12, 12)
    found = run(
        wrap(net), x, 3, motion="translation", reach=4, points=9, fill="black",
        first="features.0", last="features.4", relative=relative,
    )  # fmt: skip
    with torch.no_grad():
        for k, shift in enumerate(range(-4, 5)):
            picture_ = torch.zeros_like(x)
            if shift >= 0:
                picture_[:, :, shift:] = x[:, :, : 12 - shift]
            else:
                picture_[:, :, :shift] = x[:, :, -shift:]
            for line, depth in ((0, 3), (1, 6)):
                clean, now = (net.features[:depth](p).flatten() for p in (x, picture_))
                size = float((now - clean).norm() / (clean.norm() if relative else 1))
                assert found.values[line, k] == pytest.approx(size, rel=1e-10, abs=1e-14)
            assert found.values[2, k] == pytest.approx(float(net(picture_).softmax(1)[0, 3]), rel=1e-10)


def test_a_difference_of_classes_is_followed_by_its_value() -> None:
    import cutaway

    net = GapNet().double().eval()
    x = picture(1, 3, 8, 8)
    found = run(wrap(net), x, cutaway.logit(1) - cutaway.logit(2), points=5)
    with torch.no_grad():
        scores = net(torch.stack([torch.rot90(x[0], k, (1, 2)) for k in range(5)]))
    np.testing.assert_allclose(found.values[2], scores[:, 1] - scores[:, 2], rtol=1e-10)
    assert found.names[2] == "value of the target"


def test_layers_chosen_are_the_first_and_the_last_with_weights_before_the_scores() -> None:
    found = run(wrap(GapNet()), picture(1, 3, 8, 8), points=3)
    assert found.evidence["layers"] == "features.0 and features"
    assert len(found.names) == len(found.values) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"motion": "translation", "points": 4}, "odd"),
        ({"motion": "translation", "reach": 8}, "below 8"),
        ({"motion": "translation", "reach": 0.3, "points": 5}, "round to 0 px"),
        ({"motion": "scale", "reach": 1}, "above 1"),
        ({"motion": "scale", "reach": 1e308}, "reach"),
        ({"motion": "rotation", "reach": 1e308}, "reach"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(wrap(GapNet()), picture(1, 3, 8, 8), **options)


def test_shifts_that_round_to_one_another_are_said() -> None:
    said = run(wrap(GapNet()), picture(1, 3, 8, 8), motion="translation", reach=1, points=5).notes
    assert any("3 different ones at 5 points" in n for n in said)
    said = run(wrap(GapNet()), picture(1, 3, 8, 8), motion="translation", reach=2, points=5).notes
    assert not any("different ones" in n for n in said)


def test_silent_features_have_no_relative_distance_and_unknown_layers_no_features() -> None:
    net = GapNet()
    with torch.no_grad():
        net.features[4].bias.fill_(-1e3)
    with pytest.raises(UsageError, match="all zero"):
        run(wrap(net), picture(1, 3, 8, 8), last="features.4", relative=True)
    with pytest.raises(UnknownNameError):
        run(wrap(net), picture(1, 3, 8, 8), first="conv9")


def test_each_curve_has_its_chart_and_the_strip_its_frame() -> None:
    from cutaway.view.charts import parts

    found = run(wrap(GapNet()), torch.ones(1, 3, 16, 16, dtype=torch.float64), motion="scale", points=5)
    drawn = parts(found)
    assert [d.title for d in drawn[:3]] == list(found.names)
    strip = np.asarray(drawn[3].picture)
    frame = np.asarray([213, 94, 0])  # vermillion of Okabe & Ito
    framed = (strip == frame).all(2)
    assert framed[:, :100].any()
    assert not framed[:, 110:].any()
    assert found.png()[:4] == b"\x89PNG"
