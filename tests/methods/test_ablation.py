"""Ablation of regions and of channels against closed forms, loops over pictures built by hand, and plain hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.method import get
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.core.target import channel, logit, probability
from cutaway.methods.perturbation.players import divide

from .nets import GapNet, Plain, picture, wrap


def run(model: Any, x: Tensor, method: str, target: Any = 1, **options: Any) -> list[Any]:
    return finish(explain(model, get(method), x, target, options))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 9 * 7, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


LEVELS = {"grey": 0.5, "black": 0.0, "white": 1.0}


@pytest.mark.parametrize("fill", ["grey", "black", "white", "mean", "region"])
def test_on_a_linear_network_a_cell_gives_the_sum_of_w_times_what_is_lost(fill: str) -> None:
    net = Linear()
    model, x = wrap(net), picture(1, 3, 9, 7)
    (found,) = run(model, x, "ablation", grid=3, fill=fill)
    w = net.fc.weight[1].detach().view(3, 9, 7).numpy()
    u = x[0].numpy()
    right = np.zeros((9, 7))
    for rows in (slice(0, 3), slice(3, 6), slice(6, 9)):
        for columns in (slice(0, 3), slice(3, 5), slice(5, 7)):
            cell = (slice(None), rows, columns)
            of = {"mean": u, "region": u[cell]}.get(fill)
            level = LEVELS[fill] if of is None else of.mean((1, 2), keepdims=True)
            right[rows, columns] = (w[cell] * (u[cell] - level)).sum()
    np.testing.assert_allclose(found.values, right, atol=1e-12)
    assert abs(found.evidence["interaction"]) < 1e-12
    assert found.evidence["regions"] == 9


@pytest.mark.parametrize("players", ["slic", "quickshift"])
def test_superpixels_are_taken_away_one_by_one(players: str) -> None:
    torch.manual_seed(0)
    net = GapNet().double().eval()
    x = nn.functional.interpolate(picture(1, 3, 3, 3), (48, 40))  # nine flat fields
    x = x * 0.9 + 0.02 * picture(1, 3, 48, 40)
    (found,) = run(wrap(net), x, "ablation", 2, players=players, pieces=6, fill="black")
    regions = divide(x[0], players, 0, 6, 0).labels
    assert 2 <= found.evidence["regions"] == len(regions.unique())
    with torch.no_grad():
        for k in regions.unique():
            hidden = x.clone()
            hidden[0, :, regions == k] = 0
            drop = float(net(x)[0, 2] - net(hidden)[0, 2])
            np.testing.assert_allclose(found.values[regions == k], drop, rtol=1e-10)
    assert found.panels["regions"].values.shape == (3, 48, 40)


def test_interaction_is_what_the_drops_do_not_account_for() -> None:
    net = GapNet().double().eval()
    x = picture(1, 3, 8, 8)
    (found,) = run(wrap(net), x, "ablation", 0, grid=2)
    drops = sum(found.values[r, c] for r in (0, 7) for c in (0, 7))
    with torch.no_grad():
        whole = float(net(x)[0, 0] - net(torch.full_like(x, 0.5))[0, 0])
    assert found.evidence["interaction"] == pytest.approx(whole - drops, abs=1e-12)


def test_more_cells_than_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="grid"):
        run(wrap(GapNet()), picture(1, 3, 8, 8), "ablation", grid=9)
    with pytest.raises(MethodRefusedError, match="one superpixel"):
        run(wrap(GapNet()), torch.zeros(1, 3, 8, 8, dtype=torch.float64), "ablation", players="quickshift")


@pytest.mark.parametrize("instead", ["zero", "mean"])
def test_each_channel_by_a_hook_of_ones_own(instead: str) -> None:
    torch.manual_seed(1)
    net = Plain().double().eval()
    model, x = wrap(net), picture(1, 3, 12, 10)
    (found,) = run(model, x, "unit_ablation", 2, layer="conv1", instead=instead)
    drops = {}
    for k in range(6):

        def silence(module: Any, args: Any, out: Tensor, k: int = k) -> Tensor:
            answered = out.clamp(min=0)  # ablated after the nonlinearity; what comes next keeps it as it is
            answered[:, k] = 0.0 if instead == "zero" else answered[:, k].mean()
            return answered

        handle = net.conv1.register_forward_hook(silence)
        with torch.no_grad():
            without = float(net(x)[0, 2])
        handle.remove()
        with torch.no_grad():
            drops[f"conv1:{k}"] = float(net(x)[0, 2]) - without
    assert set(found.rows) == set(drops)
    np.testing.assert_allclose(found.values[:, 0], [drops[name] for name in found.rows], atol=1e-12)
    sizes = np.abs(found.values[:, 0])
    assert (np.diff(sizes) <= 0).all()
    assert found.columns == ("drop of the target",)


def test_before_mean_pooling_and_a_linear_layer_the_drop_is_the_weight_times_the_mean() -> None:
    torch.manual_seed(2)
    net = GapNet().double().eval()
    x = picture(2, 3, 8, 8)
    found = run(wrap(net), x, "unit_ablation", logit(3), layer="features.4", show=2)
    with torch.no_grad():
        maps = net.features(x)
    for one, own in zip(found, maps, strict=True):
        drops = (net.fc.weight[3] * own.mean((1, 2))).detach().numpy()
        order = np.argsort(-np.abs(drops), kind="stable")
        np.testing.assert_allclose(one.values[:, 0], drops[order], atol=1e-12)
        assert list(one.rows) == [f"features.4:{k}" for k in order]
        assert one.evidence["channels"] == order.tolist()
        np.testing.assert_allclose(one.panels["maps"].values, own[order[:2].tolist()].numpy(), atol=1e-12)
        assert one.panels["maps"].labels[0].startswith(f"{order[0]}: ")


def test_a_mean_in_place_of_a_map_changes_nothing_before_mean_pooling() -> None:
    (found,) = run(wrap(GapNet()), picture(1, 3, 8, 8), "unit_ablation", layer="features.4", instead="mean")
    assert np.abs(found.values).max() < 1e-12


class Tokens(nn.Module):
    """Channels last, as in a transformer: (N, places, C), and (N, h, w, C) before."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix, self.norm = nn.Conv2d(3, 6, 2, stride=2), nn.Linear(6, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mix(self.patch(x).permute(0, 2, 3, 1))
        out: Tensor = self.head(self.norm(h.flatten(1, 2)).mean(1))
        return out


@pytest.mark.parametrize("layer", ["mix", "norm"])
def test_channels_that_come_last(layer: str) -> None:
    torch.manual_seed(3)
    net = Tokens().double().eval()
    x = picture(1, 3, 8, 8)
    (found,) = run(wrap(net), x, "unit_ablation", layer=layer)
    for name, drop in zip(found.rows, found.values[:, 0], strict=True):
        k = int(name.split(":")[1])

        def silence(module: Any, args: Any, out: Tensor, k: int = k) -> Tensor:
            return out * (torch.arange(6) != k)

        handle = net.get_submodule(layer).register_forward_hook(silence)
        with torch.no_grad():
            without = float(net(x)[0, 1])
        handle.remove()
        with torch.no_grad():
            assert drop == pytest.approx(float(net(x)[0, 1]) - without, abs=1e-12)


def test_a_channel_that_is_silent_already_is_not_evaluated_and_drops_nothing() -> None:
    net = GapNet()
    with torch.no_grad():
        net.features[4].bias[2] = -1e3
    seen: list[Progress] = []
    steps = explain(wrap(net), get("unit_ablation"), picture(1, 3, 8, 8), 1, {"layer": "features.4"})
    (found,) = finish(steps, seen.append)
    assert found.evidence["channels without effect"] == 1
    assert found.rows[-1] == "features.4:2"
    assert found.values[-1, 0] == 0


def test_a_hidden_unit_is_a_target_too_and_one_above_the_target_has_no_effect() -> None:
    model, x = wrap(Plain()), picture(1, 3, 12, 12)
    (same,) = run(model, x, "unit_ablation", channel("conv2", 1), layer="conv2")
    assert same.rows[0] == "conv2:1"
    assert same.values[0, 0] == pytest.approx(same.evidence["score"])
    assert (same.values[1:] == 0).all()
    (above,) = run(model, x, "unit_ablation", channel("conv1", 1), layer="conv2")
    assert (above.values == 0).all()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x)).mean((2, 3))


def test_what_cannot_be_ablated_is_refused() -> None:
    model, x = wrap(Plain()), picture(1, 3, 12, 12)
    with pytest.raises(UsageError, match="no positions"):
        run(model, x, "unit_ablation", layer="fc", instead="mean")
    with pytest.raises(UsageError, match="ran 2 times"):
        run(wrap(Twice()), x, "unit_ablation", layer="conv")
    with pytest.raises(UnknownNameError, match="conv9"):
        run(model, x, "unit_ablation", layer="conv9")


def test_probability_and_drawing() -> None:
    (found,) = run(wrap(GapNet()), picture(1, 3, 8, 8), "unit_ablation", probability(1))
    assert found.png()[:4] == b"\x89PNG"
    assert "features" in found.layer
