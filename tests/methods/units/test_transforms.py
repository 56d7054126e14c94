"""Changed receptive fields against a unit written out as a dot product with its filter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.geometry import Box
from cutaway.methods.units.fields import crops, fields, put
from cutaway.methods.units.transforms import (
    Change,
    answers,
    brightness_grey,
    grey,
    mirrored,
    principal_grey,
    shuffled,
    turned,
)

from ..nets import GapNet, picture, wrap

ROWS, COLS = torch.tensor([0, 3, 5, 2, 6]), torch.tensor([1, 4, 0, 6, 6])
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def one_layer(padding: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(4)
    conv = nn.Conv2d(3, 4, 5, padding=padding).double()
    return nn.Sequential(conv, nn.ReLU()), conv.weight.detach(), conv.bias.detach()  # type: ignore[union-attr]


CHANGES: dict[str, tuple[Change, Callable[[Tensor], Tensor]]] = {
    "grey": (grey, lambda p: torch.einsum("c,chw->hw", LUMA, p).expand(3, -1, -1)),
    "brightness": (brightness_grey, lambda p: p.mean(0).expand(3, -1, -1)),
    "quarter": (turned(90), lambda p: torch.rot90(p, 1, (1, 2))),
    "half": (turned(180), lambda p: torch.rot90(p, 2, (1, 2))),
    "three quarters": (turned(-90), lambda p: torch.rot90(p, 3, (1, 2))),
    "upside down": (mirrored("horizontal"), lambda p: p.flip(1)),
    "left and right": (mirrored("vertical"), lambda p: p.flip(2)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_unit_is_its_filter_applied_to_the_changed_field(name: str, batch: int) -> None:
    net, weight, bias = one_layer()
    model, x = wrap(net), picture(5, 3, 11, 11)
    model.pixels(x)
    change, by_hand = CHANGES[name]
    boxes = fields(model, "0", 2, x, ROWS, COLS)
    found = answers(model, "0", 2, x, ROWS, COLS, boxes, change, batch=batch)
    for value, one, row, col in zip(found, x, ROWS, COLS, strict=True):
        field = one[:, row : row + 5, col : col + 5]
        expected = (weight[2] * by_hand(field)).sum() + bias[2]
        torch.testing.assert_close(value, expected.clamp(min=0), rtol=1e-10, atol=1e-12)
    assert len({round(v, 9) for v in found.tolist()}) > 1


def test_a_field_beyond_the_border_turns_mid_grey_in_and_keeps_the_padding() -> None:
    net, weight, bias = one_layer(padding=2)
    model, x = wrap(net), picture(1, 3, 9, 9)
    model.pixels(x)
    row, col = torch.tensor([0]), torch.tensor([4])
    boxes = fields(model, "0", 1, x, row, col)
    assert boxes == [Box(-2, 2, 2, 6)]
    found = answers(model, "0", 1, x, row, col, boxes, turned(180))
    field = torch.full((3, 5, 5), 0.5, dtype=torch.float64)
    field[:, 2:] = x[0, :, :3, 2:7]
    field = torch.rot90(field, 2, (1, 2))
    field[:, :2] = 0  # the network's own padding
    expected = ((weight[1] * field).sum() + bias[1]).clamp(min=0)
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)


def test_turning_by_any_angle_brings_in_the_picture_around_the_field() -> None:
    """A picture of rings round the field's centre looks the same at every angle, corners too."""
    y, x = torch.meshgrid(torch.arange(41.0) - 18, torch.arange(41.0) - 22, indexing="ij")
    rings = (0.5 + 0.4 * torch.cos(torch.hypot(y, x) / 6)).expand(1, 3, 41, 41).contiguous()
    box = Box(8, 12, 28, 32)
    for degrees in (10, 33, 45, 70):
        after = turned(degrees)(rings, [box])
        inside = crops(after, [box]) - crops(rings, [box])
        assert inside.abs().max() < 0.02
    slope = (torch.arange(41.0) / 41).expand(1, 3, 41, 41).contiguous()
    middle = turned(90)(slope, [box])[0, 0, 8:29, 12:33]
    # what grew to the right grows upwards after a quarter turn anticlockwise
    torch.testing.assert_close(middle.flip(0).T, slope[0, 0, 8:29, 12:33])
    half = turned(45)(slope, [box])[0, 0]
    assert half[10, 22] > half[18, 22] > half[26, 22]


def test_only_the_field_changes() -> None:
    x, box = picture(1, 3, 12, 12), Box(3, 2, 7, 6)
    outside = torch.ones(12, 12, dtype=torch.bool)
    outside[3:8, 2:7] = False
    for change in (turned(90), turned(30), mirrored("vertical"), shuffled(1), principal_grey):
        before = x.clone()
        after = change(x, [box])
        assert torch.equal(x, before)
        assert torch.equal(after[..., outside], x[..., outside])
        assert not torch.equal(after[..., ~outside], x[..., ~outside])


def test_shuffling_keeps_the_colours_and_depends_on_the_seed_alone() -> None:
    x, box = picture(3, 3, 8, 8), Box(-1, 2, 3, 6)
    state = torch.random.get_rng_state()
    after = shuffled(5)(x, [box] * 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(after, torch.cat([shuffled(5)(one[None], [box]) for one in x]))
    assert not torch.equal(after, shuffled(6)(x, [box] * 3))

    def pixels(t: Tensor) -> list[list[float]]:
        return sorted(t[0, :, :4, 2:7].flatten(1).T.tolist())

    assert pixels(after) == pixels(x)


def test_the_principal_grey_of_a_grey_field_is_itself_and_of_two_colours_their_line() -> None:
    x, box = picture(1, 1, 6, 6).expand(1, 3, 6, 6).contiguous(), [Box(0, 0, 5, 5)]
    torch.testing.assert_close(principal_grey(x, box), x, rtol=1e-12, atol=1e-12)
    flat = torch.tensor([0.7, 0.2, 0.3], dtype=torch.float64)[:, None, None].expand(1, 3, 4, 4).clone()
    torch.testing.assert_close(principal_grey(flat, [Box(0, 0, 3, 3)]), torch.full_like(flat, 0.4))
    two = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    two[0, :, :, 0] = torch.tensor([0.6, 0.4, 0.4], dtype=torch.float64)[:, None]
    two[0, :, :, 1] = torch.tensor([0.4, 0.5, 0.5], dtype=torch.float64)[:, None]
    found = principal_grey(two, [Box(0, 0, 1, 1)])[0]
    # opponent (-.067, .2, .1) and (-.067, -.1, -.05): the step is their distance, the mean brightness stays
    step = torch.hypot(torch.tensor(0.3), torch.tensor(0.15)) / 2
    assert (found[0] == found[1]).all()
    assert (found[0, 0, 0] - found[0, 0, 1]).abs() == pytest.approx(float(step), rel=1e-6)
    assert found.mean() == pytest.approx((1.4 / 3 + 1.4 / 3) / 2)


def test_answers_read_every_kind_of_layer_as_a_plain_forward_does() -> None:
    torch.manual_seed(2)
    net = GapNet()
    model, x = wrap(net), picture(3, 3, 12, 12)
    model.pixels(x)
    net.train()
    zero = torch.zeros(3, dtype=torch.long)
    channels = torch.tensor([4, 0, 2])
    found = answers(model, "fc", channels, x, zero, zero)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(found, net(x)[torch.arange(3), channels])
        first = F.relu(net.features[1](net.features[0](x)))
    rows, cols = torch.tensor([0, 11, 5]), torch.tensor([3, 3, 9])
    got = answers(model, "features.0", channels, x, rows, cols, batch=2)
    torch.testing.assert_close(got, first[torch.arange(3), channels, rows, cols])
    assert fields(model, "fc", 0, x, zero, zero) == [Box(0, 0, 11, 11)] * 3
    assert fields(model, "features.4", 0, x, zero, zero + 2) == [Box(-3, 1, 4, 8)] * 3


class Beside(nn.Module):
    """One channel that sees a pixel and one that sees nine."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 3, padding=1)
        self.both = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.both(torch.cat([self.small(x), self.large(x)], 1))
        return out


def test_each_channel_has_its_own_field() -> None:
    model, x, one = wrap(Beside()), picture(1, 3, 8, 8), torch.tensor([4])
    model.pixels(x)
    assert fields(model, "both", 0, x, one, one) == [Box(4, 4, 4, 4)]
    assert fields(model, "both", 1, x, one, one) == [Box(3, 3, 5, 5)]
    with pytest.raises(UsageError, match="channel 2"):
        fields(model, "both", 2, x, one, one)


class Unread(nn.Module):
    """A layer behind an operator that is not understood, and one of numbers that were maps."""

    def __init__(self) -> None:
        super().__init__()
        self.behind, self.flat, self.last = nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.flat(self.behind(torch.fft.ifft2(torch.fft.fft2(x)).real)))
        return out


def test_places_that_are_not_known_are_refused_as_such() -> None:
    model, x, one = wrap(Unread()), picture(1, 3, 8, 8), torch.tensor([1])
    model.pixels(x)
    with pytest.raises(MethodRefusedError, match="fft_fft2"):
        fields(model, "behind", 0, x, one, one)
    net = wrap(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten()))
    net.pixels(x)
    with pytest.raises(MethodRefusedError, match="not told apart"):
        fields(net, "1", 5, x, one * 0, one * 0)
    with pytest.raises(UsageError, match="row 9"):
        fields(net, "0", 1, x, one * 9, one)


def test_wrong_places_are_refused() -> None:
    net, _, _ = one_layer()
    model, x = wrap(net), picture(2, 3, 11, 11)
    model.pixels(x)
    zero = torch.zeros(2, dtype=torch.long)
    with pytest.raises(UnknownNameError, match="channel 4"):
        answers(model, "0", 4, x, zero, zero)
    with pytest.raises(UsageError, match="row 7"):
        answers(model, "0", 0, x, zero + 7, zero)
    with pytest.raises(UsageError, match="2 pictures"):
        answers(model, "0", 0, x, zero[:1], zero)
    with pytest.raises(UsageError, match="0 fields"):
        answers(model, "0", 0, x, zero, zero, [], grey)
    with pytest.raises(UnknownNameError):
        answers(model, "nowhere", 0, x, zero, zero)
    with pytest.raises(UsageError, match="layer table"):
        fields(model, "0", 0, picture(2, 3, 12, 12), zero, zero)
    with pytest.raises(UsageError, match="boxes"):
        crops(x, [Box(0, 0, 1, 1)])
    with pytest.raises(UsageError, match="RGB"):
        grey(x[:, :1], [])
    assert torch.equal(put(x, [Box(-9, 0, -5, 4)] * 2, [torch.zeros(3, 5, 5)] * 2), x)
