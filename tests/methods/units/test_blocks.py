"""building_blocks against planted activations: channels by hand, groups that put the activation together again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError

from ..nets import picture, wrap


class Planted(nn.Module):
    """Six channels: weights times colours, then a sum over 3 x 3, so that a place sees 3 x 3 pixels."""

    def __init__(self, weight: Tensor, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, len(weight), 3, padding=1, bias=False)
        self.conv.weight.data = weight.view(-1, 3, 1, 1).expand(-1, 3, 3, 3).clone()
        self.act: nn.Module = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.conv(x)).mean((2, 3))
        return out


WEIGHT = torch.tensor(
    [[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0.5, 0, 0], [0, 0, 0.25], [-1, -1, -1]], dtype=torch.float64
)


def planted(**options: object) -> tuple[cutaway.VisionModel, Tensor]:
    """A dark picture with one pixel of each colour, all apart."""
    x = torch.zeros(1, 3, 9, 12, dtype=torch.float64)
    x[0, 0, 2, 2], x[0, 1, 5, 5], x[0, 2, 6, 9] = 1.0, 0.5, 1.0
    return wrap(Planted(WEIGHT, **options)), x  # type: ignore[arg-type]


def test_the_strongest_channels_of_a_place_with_value_and_share() -> None:
    model, x = planted()
    found = model.explain(x, "building_blocks", layer="conv", position="6,8", channels=3, groups=0)
    # around (6, 8) lies the blue pixel alone: channels 2 (3 x 1) and 4 (0.25 x 1)
    assert found.rows == ["conv:2", "conv:4", "conv:0"]
    np.testing.assert_allclose(found.values, [[3, 3 / 3.25], [0.25, 0.25 / 3.25], [0, 0]], atol=1e-6)
    assert found.evidence["together"] == pytest.approx(1)
    assert found.evidence["length"] == pytest.approx((9 + 0.0625) ** 0.5)
    assert list(found.columns) == ["activation", "share"]


def test_the_place_is_where_the_activation_is_longest() -> None:
    model, x = planted()
    found = model.explain(x, "building_blocks", layer="conv", groups=0)
    assert found.evidence["place"] == (5, 8)  # the first that sees the blue pixel
    assert found.rows[0] == "conv:2"


def test_what_the_place_sees_is_outlined() -> None:
    model, grey = planted()[0], torch.full((1, 3, 9, 12), 0.5, dtype=torch.float64)
    found = model.explain(grey, "building_blocks", layer="conv", position="4,6", groups=0)
    seen = found.panels["place"].values
    changed = np.argwhere((seen != grey[0].numpy()).any(0))
    assert changed.min(0).tolist() == [2, 4]  # the field is rows 3 to 5, columns 5 to 7; a black line around
    assert changed.max(0).tolist() == [6, 8]
    assert (seen[:, 3, 5:8] == 1).all()


def test_groups_put_the_activation_together_again() -> None:
    """Three colours, three groups: the place's activation is weights times directions, with nothing left over."""
    model, x = planted()
    found = model.explain(x, "building_blocks", layer="conv", position="6,8", channels=6, groups=3)
    directions, weights = np.array(found.evidence["directions"]), np.array(found.evidence["groups"])
    want = torch.einsum("oc,c->o", WEIGHT, torch.tensor([0.0, 0, 1], dtype=torch.float64)).clamp(min=0)
    np.testing.assert_allclose(weights @ directions, want.numpy(), atol=1e-3)
    assert found.evidence["left over"] < 1e-3
    assert set(found.evidence["strongest channels"][0][:2]) == {2, 4}
    one = model.explain(x, "building_blocks", layer="conv", position="6,8", groups=1)
    # a single group follows the strongest colours of the whole map and cannot say more than its own direction
    there, way = want.numpy(), np.array(one.evidence["directions"])[0]
    rest = there - one.evidence["groups"][0] * way
    assert one.evidence["left over"] == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(there))


def test_each_channels_map_lies_over_the_picture() -> None:
    model, x = planted()
    found = model.explain(x, "building_blocks", layer="conv", position="6,8", channels=2)
    panel = found.panels["channels"]
    assert panel.values.shape == (2, 3, 9, 12)
    assert panel.labels == {0: "2: 3", 1: "4: 0.25"}
    lit = panel.values[0].sum(0)
    assert np.unravel_index(lit.argmax(), lit.shape) in {(r, c) for r in (5, 6, 7) for c in (8, 9, 10)}
    assert found.panels["groups"].values.shape[1:] == (3, 9, 12)
    assert found.png()[:4] == b"\x89PNG"


def test_negative_layers_have_channels_but_no_groups() -> None:
    model, x = planted(relu=False)
    found = model.explain(x, "building_blocks", layer="conv", position="6,8", channels=2)
    assert found.rows == ["conv:2", "conv:5"]
    np.testing.assert_allclose(found.values[:, 0], [3, -1])
    assert found.values[1, 1] == pytest.approx(1 / 4.25)
    assert found.signed
    assert any("no channel groups" in note for note in found.notes)
    with pytest.raises(MethodRefusedError, match="negative"):
        model.explain(x, "building_blocks", layer="conv", groups=2)


def test_a_silent_place_says_so_and_a_silent_map_is_refused() -> None:
    model, x = planted()
    found = model.explain(x, "building_blocks", layer="conv", position="0,11")
    assert not found.values.any()
    assert any("every channel is zero" in note for note in found.notes)
    with pytest.raises(MethodRefusedError, match="zero everywhere"):
        model.explain(torch.zeros_like(x), "building_blocks", layer="conv")


def test_wrong_places_are_answered_with_the_right_ones() -> None:
    model, x = planted()
    with pytest.raises(UnknownNameError, match="rows 0 to 8, columns 0 to 11"):
        model.explain(x, "building_blocks", layer="conv", position="9,0")
    for text in ("3", "3,4,5", "a,b", ""):
        with pytest.raises(UsageError, match="position"):
            model.explain(x, "building_blocks", layer="conv", position=text)
    with pytest.raises(UsageError, match="no maps"):
        model_of_vectors().explain(picture(1, 3, 8, 8), "building_blocks", layer="2")


def model_of_vectors() -> cutaway.VisionModel:
    return wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)))
