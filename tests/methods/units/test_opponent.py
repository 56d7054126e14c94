"""Opponent colour against the worked hues, planted modes and axes, and the red-cyan edge filter."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from cutaway.core.errors import InputError, UsageError
from cutaway.methods.units.hues import hue_modes, modes
from cutaway.methods.units.opponent import (
    axis_name,
    chroma,
    edge_orientation,
    hue,
    hue_histogram,
    hue_name,
    opponent,
    opponent_axes,
)
from cutaway.methods.units.profile import profile

from ..nets import wrap

RED = ["111111", "111110", "111100", "111100", "111000", "110000", "110000", "100000"]
GREEN = ["0000001", "0000011", "0000111", "0001111", "0001111", "0001111", "0001111", "0011111"]
BLUE = ["0000001", "0000111", "0001111", "0011111", "0011111", "0011111", "0011111", "0111111"]

HUES = {
    "red": ((1, 0, 0), 26.6),
    "cyan": ((0, 1, 1), 206.6),
    "yellow": ((1, 1, 0), 90.0),
    "blue": ((0, 0, 1), 270.0),
    "magenta": ((1, 0, 1), 333.4),
    "green": ((0, 1, 0), 153.4),
}


def colour(*rgb: float) -> Tensor:
    return torch.tensor(rgb, dtype=torch.float64)[:, None, None]


def edge_filter() -> Tensor:
    """The red-cyan edge of the worked example, (3, 8, 7)."""
    planes = [[[float(c) for c in row.ljust(7, "0")] for row in plane] for plane in (RED, GREEN, BLUE)]
    return torch.tensor(planes, dtype=torch.float64)


@pytest.mark.parametrize("name", HUES)
def test_the_hues_of_the_primaries(name: str) -> None:
    rgb, angle = HUES[name]
    assert float(hue(colour(*rgb))) == pytest.approx(angle, abs=0.05)
    assert hue_name(angle) == name
    # the complement is opposite, whatever the brightness
    other = colour(*(0.2 + 0.5 * (1 - c) for c in rgb))
    assert float((hue(other) - angle) % 360) == pytest.approx(180, abs=0.05)


def test_grey_has_no_chroma_and_the_ends_of_the_axes_are_at_one() -> None:
    for level in (0.0, 0.3, 1.0):
        assert float(chroma(colour(level, level, level))) == 0
    assert opponent(colour(1, 1, 1)).flatten().tolist() == [1, 0, 0]
    assert opponent(colour(0, 0, 0)).flatten().tolist() == [-1, 0, 0]
    assert float(opponent(colour(1, 0, 1))[1]) == 1
    assert float(opponent(colour(0, 0, 1))[2]) == -1


def test_the_histogram_counts_each_hue_and_drops_the_colourless() -> None:
    red, faint, dark, light = colour(1, 0, 0), colour(0.5, 0.55, 0.5), colour(0.2, 0, 0), colour(1, 1, 0.8)
    row = torch.cat([red, red, faint, dark, light, colour(0, 0, 1)], 2)
    found = hue_histogram(row)
    assert found.total == 6
    assert found.coloured == 5 / 6
    assert found.counts[int(26.565 / 3.6)] == 3
    assert found.counts[25] == 1  # the upper bound of 90 degrees belongs to the next bin
    assert found.counts[75] == 1
    # dark has |O1| = .867, light .867, red and blue .333
    assert hue_histogram(row, brightness=0.8).counts.nonzero().flatten().tolist() == [7, 75]
    x = torch.rand(4, 3, 9, 9, dtype=torch.float64)
    whole, parts = hue_histogram(x), hue_histogram(x[:1]) + hue_histogram(x[1:])
    assert torch.equal(whole.counts, parts.counts)
    assert whole.total == parts.total == 4 * 81
    by_hand = torch.zeros(100, dtype=torch.long)
    for r, g, b in x.movedim(1, -1).reshape(-1, 3).tolist():
        o1, o2, o3 = (r + g + b - 1.5) / 1.5, r - g, (r + g - 2 * b) / 2
        if math.hypot(o2, o3) >= 0.1 and abs(o1) <= 0.95:
            by_hand[int(math.degrees(math.atan2(o3, o2)) % 360 / 3.6) % 100] += 1
    assert torch.equal(whole.counts, by_hand)


@pytest.mark.parametrize("offset", [0, 97, 245, 350])
@pytest.mark.parametrize(
    ("planted", "counts"),
    [((40,), (100,)), ((40, 220), (50, 50)), ((0, 90), (70, 30)), ((10, 130, 250), (40, 30, 30))],
)
def test_planted_modes_are_found_all_round_the_circle(
    planted: tuple[int, ...], counts: tuple[int, ...], offset: int
) -> None:
    generator = torch.Generator().manual_seed(offset)
    angles = torch.cat(
        [
            (offset + angle + 8 * torch.randn(10 * n, generator=generator)) % 360
            for angle, n in zip(planted, counts, strict=True)
        ]
    )
    found = modes(angles, torch.ones(len(angles)))
    assert len(found) == len(planted)
    for angle, n in zip(planted, counts, strict=True):
        mode = min(found, key=lambda m: abs((m.angle - angle - offset + 180) % 360 - 180))
        assert abs((mode.angle - angle - offset + 180) % 360 - 180) < 2
        assert mode.share == pytest.approx(n / 100, abs=0.02)


def test_a_small_second_hue_and_a_near_one_are_no_modes() -> None:
    many = torch.cat([torch.full((95,), 30.0), torch.full((5,), 210.0)])
    assert len(modes(many, torch.ones(100))) == 1
    near = torch.cat([torch.full((50,), 30.0), torch.full((50,), 60.0)])
    assert len(modes(near, torch.ones(100))) == 1
    assert len(modes(torch.tensor([10.9, 11.1]), torch.ones(2))) == 1  # two equal bins, one peak
    broad = 20 + 200 * torch.rand(2000, generator=torch.Generator().manual_seed(1))
    assert len(modes(broad, torch.ones(2000))) == 1  # broad, without a valley
    minor = torch.cat([torch.full((86,), 30.0), torch.full((14,), 210.0)])
    assert len(modes(minor, torch.ones(100))) == 1
    assert len(modes(minor, torch.ones(100), least=0.1)) == 2
    assert modes(torch.linspace(0, 359, 360), torch.ones(360)) == []  # every hue alike
    assert modes(torch.zeros(0), torch.zeros(0)) == []
    assert hue_modes(torch.full((3, 4, 4), 0.3)) == []


@pytest.mark.parametrize("degrees", [3.0, 26.6, 90.0, 153.4, 177.0])
def test_a_planted_opponent_axis_is_found(degrees: float) -> None:
    angle = math.radians(degrees)
    along = torch.linspace(-0.3, 0.3, 50, dtype=torch.float64)
    across = 0.1 * torch.randn(50, dtype=torch.float64) * along.flip(0)
    o2 = along * math.cos(angle) - across * math.sin(angle)
    o3 = along * math.sin(angle) + across * math.cos(angle)
    # back from (O2, O3) at R + G + B = 1.5: R + G = 1 + 2 O3 / 3, R - G = O2
    both = 1 + 2 * o3 / 3
    rgb = torch.stack([(both + o2) / 2, (both - o2) / 2, 1.5 - both])[:, None]
    axes = opponent_axes(rgb)
    assert axes is not None
    assert abs((axes[0].angle - degrees + 90) % 180 - 90) < 3
    assert axes[0].share > 0.95
    assert axes[0].share + axes[1].share == pytest.approx(1)
    assert abs(abs(axes[0].angle - axes[1].angle) - 90) < 1e-6
    assert opponent_axes(torch.full((3, 2, 2), 0.4)) is None


def test_axes_have_one_name_from_either_end() -> None:
    assert axis_name(90) == axis_name(270) == "yellow-blue"
    assert axis_name(153.4) == axis_name(333.4) == "green-magenta"
    assert len({axis_name(angle) for angle in range(360)}) == 6
    assert axis_name(26.6) == axis_name(206.6) == "red-cyan"


def test_the_red_cyan_edge_has_two_opposite_hues_and_one_axis() -> None:
    first, second = hue_modes(edge_filter())
    assert {hue_name(first.angle), hue_name(second.angle)} == {"red", "cyan"}
    assert abs(first.angle - second.angle) == pytest.approx(180, abs=3)
    axes = opponent_axes(edge_filter())
    assert axes is not None
    assert axes[0].name == "red-cyan"
    assert axes[0].share > 0.9


def test_the_red_cyan_edge_runs_from_the_lower_left_to_the_upper_right() -> None:
    angle, clear = edge_orientation(edge_filter())
    assert round(angle / 45) * 45 == 45
    assert clear > 0.5
    assert edge_orientation(edge_filter().flip(2))[0] == pytest.approx(180 - angle)
    assert edge_orientation(torch.full((3, 4, 4), 0.2)) == (0.0, 0.0)


def stimulus(degrees: float, one: str = "red", two: str = "cyan") -> Tensor:
    """A straight colour edge (3, 30, 30) whose first colour lies towards `degrees` anticlockwise from the right."""
    steps = torch.arange(30.0) - 14.5
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    side = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees)) > 1e-9
    return torch.where(side, colour(*HUES[one][0]), colour(*HUES[two][0]))


def test_the_red_cyan_edge_answers_red_upper_left_and_cyan_lower_right_best() -> None:
    """The unit itself: its filter balanced, a ReLU, and stimuli of eight directions and all pairs of colours."""
    weight = edge_filter() - edge_filter().mean((1, 2), keepdim=True)
    conv = nn.Conv2d(3, 1, (8, 7), bias=False).double()
    conv.weight = nn.Parameter(weight[None])
    model = wrap(nn.Sequential(conv, nn.ReLU()))
    pairs = [
        (direction, one, two) for direction in range(0, 360, 45) for one, two in itertools.product(HUES, HUES)
    ]
    x = torch.stack([stimulus(*pair) for pair in pairs])
    model.pixels(x)
    with torch.no_grad():
        maps = model.network(model.preprocess.normalise(x))[:, 0]
    at = int(maps.flatten(1).amax(1).argmax())
    assert pairs[at] == (135, "red", "cyan")
    place = int(maps[at].argmax())
    row, col = torch.tensor([place // maps.shape[2]]), torch.tensor([place % maps.shape[2]])
    found = profile(model, "0", 0, x[at][None], row, col, angles=(180.0,), wanted=1)
    field = x[at][:, row : row + 8, col : col + 7]
    grey = (torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None] * field).sum(0)
    assert found.colour == pytest.approx(1 - float((weight * grey).sum()) / float(maps[at].max()))
    assert 0.8 < found.colour < 1
    assert found.turns == (1.0,)
    assert len(found.hues) == 2
    assert found.axes is not None
    assert found.axes[0].name == "red-cyan"


def test_what_is_no_colour_is_refused() -> None:
    with pytest.raises(UsageError, match="3, h, w"):
        opponent(torch.zeros(4, 4))
    with pytest.raises(UsageError, match="3, h, w"):
        opponent(torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match="NaN"):
        hue_histogram(torch.full((3, 2, 2), torch.nan))
    with pytest.raises(UsageError, match="bins"):
        hue_histogram(torch.zeros(3, 2, 2), 0)
    with pytest.raises(UsageError, match="2 x 2"):
        edge_orientation(torch.zeros(3, 1, 4))
