"""RectGrad: a backward pass by hand, guided backprop's mask, the authors' extras by brute force, worked numbers."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError

from .nets import GapNet, Plain, picture, wrap


def passed(a: Tensor, r: Tensor, q: float | None) -> Tensor:
    """R where a R > tau (Kim 2019, eq. 5), one picture and layer at a time, with NumPy's percentile."""
    out = torch.zeros_like(r)
    for i in range(len(r)):
        product = (a[i] * r[i]).numpy()
        tau = 0.0 if q is None else np.percentile(product, q)
        out[i] = torch.from_numpy(np.where(product > tau, r[i].numpy(), 0.0))
    return out


def shared(a: Tensor, r: Tensor, kernel: int, stride: int) -> Tensor:
    """Proportional redistribution, window by window."""
    out = torch.zeros_like(a)
    for n, c, i, j in itertools.product(*map(range, r.shape)):
        rows, cols = slice(i * stride, i * stride + kernel), slice(j * stride, j * stride + kernel)
        window = a[n, c, rows, cols]
        out[n, c, rows, cols] += window * r[n, c, i, j] / (window.mean() + 1e-10) / window.numel()
    return out


def by_hand(net: Plain, x: Tensor, k: int, q: float | None, *, trick: bool, share: bool) -> Tensor:
    """The whole backward pass of `Plain` written out."""
    kernel, stride = net.pool.kernel_size, net.pool.stride
    h1 = F.conv2d(x, net.conv1.weight, net.conv1.bias, padding=1).clamp(min=0)
    p, at = F.max_pool2d(h1, kernel, stride, return_indices=True)
    a2 = F.conv2d(p, net.conv2.weight, net.conv2.bias).clamp(min=0)
    r = (net.fc.weight[k].view(1, -1, 1, 1) / a2[0, 0].numel()).expand_as(a2).clone()
    r = passed(a2, r, q)
    r = F.conv_transpose2d(r, net.conv2.weight)
    if share:
        r = shared(h1, r, int(kernel), int(stride))
    else:
        r = torch.zeros_like(h1).flatten(2).scatter_add(2, at.flatten(2), r.flatten(2)).view_as(h1)
    r = passed(h1, r, q)
    if trick:
        r[:, :, 0] = r[:, :, -1] = r[:, :, :, 0] = r[:, :, :, -1] = 0
    return x * F.conv_transpose2d(r, net.conv1.weight, padding=1)


@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
@pytest.mark.parametrize("extras", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("q", [None, 0.0, 60.0, 98.0])
def test_equals_a_backward_pass_by_hand(
    window: tuple[int, int], extras: tuple[bool, bool], q: float | None
) -> None:
    torch.manual_seed(1)
    net, x = Plain(*window).double(), picture(2, 3, 15, 15)
    trick, share = extras
    with torch.no_grad():
        want = by_hand(net, x, 1, q, trick=trick, share=share)
    options = {"threshold": "zero"} if q is None else {"q": q}
    for i in range(2):
        got = wrap(net).explain(
            x[i], "rect_grad", 1, reduce="rgb", padding_trick=trick, proportional=share, **options
        )
        assert want[i].abs().max() > 0
        np.testing.assert_allclose(got.values, want[i], rtol=1e-10, atol=1e-14)


def test_zero_threshold_is_guided_backprop_and_percentile_zero_is_not() -> None:
    model, x = wrap(GapNet()), picture(1, 3, 12, 12)
    guided = model.explain(x, "guided_backprop", 2).values
    options = {"times_input": False, "reduce": "rgb"}
    zero = model.explain(x, "rect_grad", 2, threshold="zero", **options).values
    np.testing.assert_allclose(zero, guided, rtol=1e-12)
    lowest = model.explain(x, "rect_grad", 2, q=0, **options).values
    assert np.abs(lowest - guided).max() > 1e-3 * np.abs(guided).max()


def test_zero_threshold_is_guided_backprop_with_a_ceiling_too() -> None:
    net = torchvision.models.mobilenet_v2(weights=None).eval()
    model, x = wrap(net, double=False), picture(1, 3, 64, 64).float()
    guided = model.explain(x, "guided_backprop", 2).values
    zero = model.explain(x, "rect_grad", 2, threshold="zero", times_input=False, reduce="rgb").values
    np.testing.assert_allclose(zero, guided, rtol=1e-6, atol=1e-6 * np.abs(guided).max())


def test_worked_numbers() -> None:
    """h and R of one layer: with tau = 0 only (2, 6) and (4, 3) stay."""

    class Seeded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.Parameter(torch.tensor([[-2.0, 3, -1], [6, -3, 1], [2, -1, 3]]))

        def forward(self, x: Tensor) -> Tensor:
            return (torch.relu(x[:, 0] * 10) * self.r).sum((1, 2)).unsqueeze(1)

    h = torch.tensor([[1.0, -1, 5], [2, -5, -7], [-3, 2, 4]]) / 10
    x = h.expand(1, 3, 3, 3)
    prep = cutaway.Preprocess()
    model = cutaway.VisionModel(Seeded(), prep, name="seeded")
    from cutaway.core.target import logit
    from cutaway.methods.projection.rect_grad import rect_grad

    raw = rect_grad(model, x, logit(0).resolve(model), threshold="zero", times_input=False, reduce="rgb")
    assert (raw.values[0, 0] / 10).tolist() == [[0, 0, 0], [6, 0, 0], [0, 0, 3]]


def test_the_input_is_the_networks_own() -> None:
    prep = cutaway.Preprocess(mean=(104, 117, 123), std=(50, 60, 70), channels="BGR", range=255)
    net = Plain().double()
    x = picture(1, 3, 14, 14)
    inside = prep.normalise(x)
    got = cutaway.VisionModel(net, prep, name="caffe").explain(x, "rect_grad", 1, q=80, reduce="rgb").values
    with torch.no_grad():
        want = by_hand(net, inside, 1, 80, trick=False, share=False)[0].flip(0)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)


def test_a_higher_percentile_keeps_less() -> None:
    model, x = wrap(Plain()), picture(1, 3, 16, 16)
    kept = [np.count_nonzero(model.explain(x, "rect_grad", 1, q=q).values) for q in (50, 90, 99)]
    assert kept[0] > kept[1] > kept[2] > 0


def test_pooling_without_windows_of_its_own_is_refused() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2), nn.Flatten(), nn.Linear(36, 2)
    )
    with pytest.raises(MethodRefusedError, match="dilation"):
        wrap(net).explain(picture(3, 10, 10), "rect_grad", 1, proportional=True)
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 64, 2))
    with pytest.raises(MethodRefusedError, match="gelu"):
        wrap(smooth).explain(picture(3, 10, 10), "rect_grad", 1)
