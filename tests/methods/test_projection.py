"""Backprop, deconvnet and guided backprop: by hand, by closed form, beside Captum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import Deconvolution, GuidedBackprop
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError

from .nets import GapNet, Plain, picture, wrap


def deconvnet_by_hand(net: Plain, x: Tensor, channel: int, keep: str, pool: str) -> Tensor:
    """Unpool, rectify, filter (Zeiler & Fergus 2014, sec. 2.1), from one map of conv2."""
    h1 = F.conv2d(x, net.conv1.weight, net.conv1.bias, padding=1).clamp(min=0)
    p, at = F.max_pool2d(h1, net.pool.kernel_size, net.pool.stride, return_indices=True)
    a = F.conv2d(p, net.conv2.weight, net.conv2.bias).clamp(min=0)
    r = torch.zeros_like(a)
    r[:, channel] = a[:, channel]
    if keep == "maximum":
        r[r < r.max()] = 0
    r = F.conv_transpose2d(r.clamp(min=0), net.conv2.weight)
    if pool == "overwrite":
        up = F.max_unpool2d(r, at, net.pool.kernel_size, net.pool.stride, output_size=h1.shape)
    else:
        up = torch.zeros_like(h1).flatten(2).scatter_add(2, at.flatten(2), r.flatten(2)).view_as(h1)
    return F.conv_transpose2d(up.clamp(min=0), net.conv1.weight, padding=1)


@pytest.mark.parametrize("pool", ["sum", "overwrite"])
@pytest.mark.parametrize("keep", ["map", "maximum"])
@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
def test_deconvnet_equals_unpool_rectify_filter(window: tuple[int, int], keep: str, pool: str) -> None:
    net = Plain(*window).double()
    x = picture(1, 3, 15, 14)
    got = wrap(net).explain(x, "deconvnet", cutaway.channel("conv2", 2), keep=keep, pool=pool).values
    want = deconvnet_by_hand(net, x, 2, keep, pool)[0].detach()
    assert want.abs().max() > 0
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_overlapping_pools_differ_between_sum_and_overwrite() -> None:
    model, x = wrap(Plain(3, 2)), picture(1, 3, 15, 14)
    both = [
        model.explain(x, "deconvnet", cutaway.channel("conv2", 2), pool=p).values
        for p in ("sum", "overwrite")
    ]
    assert np.abs(both[0] - both[1]).max() > 1e-6


def test_deconvnet_of_one_unit_stays_in_its_receptive_field() -> None:
    net = Plain().double()
    got = wrap(net).explain(picture(1, 3, 16, 16), "deconvnet", cutaway.unit("conv2", 1, 2, 3)).values
    # conv1 3x3, pool 2x2 stride 2, conv2 3x3: rows 2*2-1 .. 2*(2+2)+2, columns 2*3-1 .. 2*(3+2)+2
    outside = got.copy()
    outside[:, 3:11, 5:13] = 0
    assert np.abs(outside).max() == 0
    assert np.abs(got).max() > 0


def test_deconvnet_scales_with_its_seed() -> None:
    model, x = wrap(Plain()), picture(1, 3, 12, 12)
    one = model.explain(x, "deconvnet", cutaway.channel("conv2", 0)).values
    three = model.explain(x, "deconvnet", 3 * cutaway.channel("conv2", 0)).values
    np.testing.assert_allclose(three, 3 * one, rtol=1e-12)


def test_all_rules_agree_where_everything_is_positive() -> None:
    net = Plain().double()
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    model, x = wrap(net), picture(1, 3, 12, 12)
    maps = [
        model.explain(x, m, cutaway.channel("conv2", 0), start="gradient").values
        for m in ("backprop", "deconvnet", "guided_backprop")
    ]
    assert np.abs(maps[0]).max() > 0
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-12)
    np.testing.assert_allclose(maps[2], maps[0], rtol=1e-12)


def test_backprop_is_the_gradient() -> None:
    net, x = GapNet().double().eval(), picture(1, 3, 10, 10).requires_grad_()
    (want,) = torch.autograd.grad(net(x)[0, 2], x)
    got = wrap(net).explain(x.detach(), "backprop", 2).values
    np.testing.assert_allclose(got, want[0], rtol=1e-12)


@pytest.mark.filterwarnings("ignore")  # Captum warns that it sets hooks
@pytest.mark.parametrize(
    ("name", "peer"), [("guided_backprop", GuidedBackprop), ("deconvnet", Deconvolution)]
)
def test_equals_captum_on_alexnet(name: str, peer: type) -> None:
    # no module is called twice and nothing is functional: Captum is right here
    net = torchvision.models.alexnet(weights=None).eval()
    for m in net.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    x = picture(1, 3, 80, 80).float()
    want = peer(net).attribute(x.clone().requires_grad_(), target=5)[0].detach().numpy()
    got = wrap(net, double=False).explain(x, name, 5).values
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("keep", ["map", "maximum"])
def test_a_gradient_start_is_the_mean_maps_own(keep: str) -> None:
    net, x = Plain().double(), picture(1, 3, 12, 12).requires_grad_()
    p = net.pool(F.relu(net.conv1(x)))
    a = F.relu(net.conv2(p))[0, 2]
    value = a.mean() if keep == "map" else a.max()
    (want,) = torch.autograd.grad(value, x)
    got = wrap(net).explain(x.detach(), "backprop", cutaway.channel("conv2", 2), keep=keep).values
    np.testing.assert_allclose(got, want[0], rtol=1e-10, atol=1e-14)


def test_comparison_figure_holds_the_three_rules() -> None:
    model, x = wrap(Plain()), picture(1, 3, 12, 12)
    result = model.explain(x, "guided_backprop", 1, compare=True)
    assert isinstance(result, cutaway.Attribution)
    assert list(result.panels) == ["backprop", "deconvnet", "guided"]
    for name, method in (("backprop", "backprop"), ("deconvnet", "deconvnet"), ("guided", "guided_backprop")):
        alone = model.explain(x, method, 1, start="gradient").values
        np.testing.assert_array_equal(result.panels[name].values, alone)


def test_notes_say_what_passed_and_what_is_missing() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LocalResponseNorm(3), nn.Flatten(), nn.Linear(4 * 36, 2)
    )
    deconv = wrap(net).explain(picture(3, 8, 8), "deconvnet", 1)
    assert any("skipped" in n for n in deconv.notes)
    assert any("no switches" in n for n in deconv.notes)


def test_contrast_normalisation_is_skipped_by_deconvnet_alone() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LocalResponseNorm(3, alpha=5.0), nn.Flatten(), nn.Linear(144, 2)
    )
    net.double()
    x = picture(1, 3, 8, 8)
    got = wrap(net).explain(x, "deconvnet", 1).values
    want = F.conv_transpose2d(net[4].weight[1].view(1, 4, 6, 6).clamp(min=0), net[0].weight)[0].detach()
    np.testing.assert_allclose(got, want, rtol=1e-12)
    guided = wrap(net).explain(x, "guided_backprop", 1).values
    h = F.conv2d(x, net[0].weight, net[0].bias).clamp(min=0).detach().requires_grad_()
    (r,) = torch.autograd.grad(F.local_response_norm(h, 3, alpha=5.0).flatten(1) @ net[4].weight[1], h)
    want = F.conv_transpose2d(r.clamp(min=0) * (h > 0), net[0].weight)[0].detach()
    np.testing.assert_allclose(guided, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop", "guided_grad_cam"])
def test_networks_out_of_reach_are_refused_by_name(method: str) -> None:
    for name in ("mobilenet_v3_small", "efficientnet_b0"):
        net = torchvision.models.get_model(name, weights=None).eval()
        with pytest.raises(MethodRefusedError, match="hardswish|silu"):
            wrap(net, double=False).explain(picture(3, 64, 64).float(), method, 3)
    linear = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(MethodRefusedError, match="no ReLU"):
        wrap(linear).explain(picture(3, 8, 8), "guided_backprop", 1)
