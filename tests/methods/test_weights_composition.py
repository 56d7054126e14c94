"""Effective kernels, arrangements and matrices against the layers themselves and worked numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.methods.weights.composition import Affine, compose
from cutaway.methods.weights.matrices import convolution_matrix_of

PREP = cutaway.Preprocess(crop=40, channels="BGR", range=255, mean=(104, 117, 123), std=(58.0, 57.0, 57.5))


def shaken(net: nn.Sequential) -> nn.Sequential:
    """In float64, with batch-norm statistics that matter."""
    net = net.double().eval()
    with torch.no_grad():
        for m in net:
            if isinstance(m, nn.BatchNorm2d):
                for t in (m.weight, m.bias, m.running_mean, m.running_var):
                    t.copy_(torch.rand_like(t) + 0.3)
    return net


CHAINS = {
    "stride and dilation": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, dilation=2, padding=2),
        nn.Conv2d(6, 4, (3, 2), stride=(1, 3), dilation=(2, 1), padding=1),
    ),
    "batch norm, groups": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 3, groups=3, stride=2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 2),
    ),
    "mean pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.AvgPool2d(3, 2, 1), nn.Conv2d(5, 4, 3, dilation=2)
    ),
    "padding layer": lambda: nn.Sequential(
        nn.ZeroPad2d(3), nn.Conv2d(3, 5, 5), nn.Identity(), nn.Conv2d(5, 4, 1)
    ),
}


def last_convolution(net: nn.Sequential) -> str:
    return str(max(i for i, m in enumerate(net) if isinstance(m, nn.Conv2d)))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("space", ["network", "pixels"])
def test_the_effective_kernel_does_what_the_layers_do(name: str, space: str) -> None:
    net = shaken(CHAINS[name]())
    model = cutaway.VisionModel(net, PREP, name=name)
    result = model.inspect("effective_filters", layer=last_convolution(net), space=space)
    kernel, bias = torch.as_tensor(result.values), torch.tensor(result.evidence["bias"], dtype=torch.float64)
    stride = tuple(int(s) for s in result.evidence["stride"].split(" x "))
    pixels = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    seen = pixels if space == "pixels" else PREP.normalise(pixels).flip(1)
    want = model(pixels)
    # an output far from the border reads the window that starts at its own place times the stride, less padding
    offset = {
        "stride and dilation": (2 + 2, 2 + 2),
        "batch norm, groups": (1, 1),
        "mean pooling": (1 + 1, 1 + 1),
        "padding layer": (3, 3),
    }[name]
    checked = 0
    for r in range(want.shape[2]):
        for c in range(want.shape[3]):
            top, left = r * stride[0] - offset[0], c * stride[1] - offset[1]
            if top < 0 or left < 0 or top + kernel.shape[2] > 40 or left + kernel.shape[3] > 40:
                continue
            window = seen[0, :, top : top + kernel.shape[2], left : left + kernel.shape[3]]
            got = (kernel * window).flatten(1).sum(1) + bias
            torch.testing.assert_close(got, want[0, :, r, c], rtol=1e-11, atol=1e-11)
            checked += 1
    assert checked >= 30


def test_the_closed_form_of_the_composition() -> None:
    """K[o,i,p] = sum k2[o,m,q] k1[m,i,p - q d2 s1], with the size d1(k1-1)+1 + d2 s1 (k2-1)."""
    g = torch.Generator().manual_seed(3)
    k1 = torch.randn(3, 2, 3, 3, generator=g, dtype=torch.float64)
    k2 = torch.randn(4, 3, 2, 2, generator=g, dtype=torch.float64)
    b1, b2 = (
        torch.randn(3, generator=g, dtype=torch.float64),
        torch.randn(4, generator=g, dtype=torch.float64),
    )
    d1, s1, d2, s2 = 2, 3, 2, 2
    first = torch.zeros(3, 2, 5, 5, dtype=torch.float64)
    first[..., ::d1, ::d1] = k1
    second = torch.zeros(4, 3, 3, 3, dtype=torch.float64)
    second[..., ::d2, ::d2] = k2
    got = compose((Affine(first, b1, (s1, s1)), Affine(second, b2, (s2, s2))))
    size = d1 * (3 - 1) + 1 + d2 * s1 * (2 - 1)
    want = torch.zeros(4, 2, size, size, dtype=torch.float64)
    for q in np.ndindex(2, 2):
        for a in np.ndindex(3, 3):
            p = [a[i] * d1 + q[i] * d2 * s1 for i in (0, 1)]
            want[:, :, p[0], p[1]] += k2[:, :, q[0], q[1]] @ k1[:, :, a[0], a[1]]
    torch.testing.assert_close(got.kernel, want, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(got.bias, b2 + k2.sum((2, 3)) @ b1)
    assert got.stride == (s1 * s2, s1 * s2)
    x = torch.randn(1, 2, 30, 30, generator=g, dtype=torch.float64)
    sequence = F.conv2d(F.conv2d(x, k1, b1, s1, 0, d1), k2, b2, s2, 0, d2)
    whole = F.conv2d(x, got.kernel, got.bias, got.stride)
    assert float((whole - sequence).abs().max()) < 1e-12


def test_where_every_relu_is_open_the_gradient_is_the_effective_filter() -> None:
    net = shaken(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)))
    with torch.no_grad():
        net[0].bias.fill_(1e6)  # far above anything the picture can take away
    model = cutaway.VisionModel(net, PREP, name="open")
    result = model.inspect("effective_filters", layer="2", space="pixels")
    target = cutaway.custom(lambda out: out[:, 1, 10, 12])
    seen = model.explain(torch.rand(3, 40, 40, dtype=torch.float64), "saliency", target, reduce="rgb").values
    np.testing.assert_allclose(seen[:, 10:15, 12:17], result.values[1], rtol=1e-9)
    assert any("relu is ignored" in note for note in result.notes)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.top = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.top(self.a(x) + self.b(x))
        return out


def test_what_is_no_chain_is_refused() -> None:
    model = cutaway.VisionModel(Branches(), PREP, name="branches")
    with pytest.raises(MethodRefusedError, match="addition"):
        model.inspect("effective_filters", layer="top")
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))
    model = cutaway.VisionModel(pooled, PREP, name="pooled")
    with pytest.raises(MethodRefusedError, match="max pooling") as caught:
        model.inspect("effective_filters", layer="2")
    assert "pool=mean" in caught.value.hint
    averaged = cutaway.VisionModel(
        nn.Sequential(pooled[0], nn.AvgPool2d(2), pooled[2]), PREP, name="averaged"
    )
    want = averaged.inspect("effective_filters", layer="2").values
    np.testing.assert_array_equal(model.inspect("effective_filters", layer="2", pool="mean").values, want)
    gate = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3))
    with pytest.raises(MethodRefusedError, match="sigmoid"):
        cutaway.VisionModel(gate, PREP, name="gate").inspect("effective_filters", layer="2")


def test_an_arrangement_shows_the_strongest_lower_filters_with_their_weights() -> None:
    net = shaken(
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 2))
    )
    model = cutaway.VisionModel(net, PREP, name="two layers")
    result = model.inspect("filter_arrangement", strongest=2)
    assert result.layer == "4"
    scale = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
    lower = (net[0].weight * scale.view(-1, 1, 1, 1)).detach().flip(1).numpy()
    weight = net[4].weight.detach().numpy()
    for o, r, c in np.ndindex(4, 2, 2):
        best = np.argsort(-np.abs(weight[o, :, r, c]))[:2]
        for s, m in enumerate(best):
            cell = result.values[o][:, r * 3 : r * 3 + 3, (c * 2 + s) * 3 : (c * 2 + s) * 3 + 3]
            np.testing.assert_allclose(cell, weight[o, m, r, c] * lower[m], rtol=1e-12)
            assert result.evidence["inputs"][o][r][c][s] == m
    drawn = np.sort(np.abs(weight), axis=1)[:, -2:].sum() / np.abs(weight).sum()
    assert result.evidence["share_of_weight_drawn"] == pytest.approx(drawn)
    with pytest.raises(MethodRefusedError, match="reads the picture itself"):
        model.inspect("filter_arrangement", layer="0")


def test_all_lower_filters_of_an_arrangement_add_up_to_the_effective_filter() -> None:
    net = shaken(nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 4, 2)))
    model = cutaway.VisionModel(net, PREP, name="sum")
    tiles = model.inspect("filter_arrangement", strongest=5).values
    total = np.zeros((4, 3, 5, 5))
    for r, c, s in np.ndindex(2, 2, 5):
        cell = tiles[:, :, r * 3 : r * 3 + 3, (c * 5 + s) * 3 : (c * 5 + s) * 3 + 3]
        total[:, :, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3] += cell
    np.testing.assert_allclose(
        total, model.inspect("effective_filters", layer="1").values, rtol=1e-11, atol=1e-13
    )


def test_golden_values_of_a_convolution_and_its_transpose() -> None:
    """METHODS appendix A.3: w = (1, 2, 3), x = (1..5)."""
    matrix = convolution_matrix_of(torch.tensor([[[[1.0, 2.0, 3.0]]]]), (1, 5))
    assert matrix.tolist() == [[1, 2, 3, 0, 0], [0, 1, 2, 3, 0], [0, 0, 1, 2, 3]]
    z = matrix @ torch.arange(1.0, 6)
    assert z.tolist() == [14, 20, 26]
    assert (matrix.T @ z).tolist() == [14, 48, 108, 112, 78]


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (0, 0), (1, 1), 1), ((2, 3), (1, 2), (2, 1), 2), ((1, 2), (2, 0), (1, 3), 4)],
)
def test_the_matrix_is_the_convolution_and_its_transpose_the_transposed_convolution(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    g = torch.Generator().manual_seed(1)
    w = torch.randn(8, 4 // groups, 3, 2, generator=g, dtype=torch.float64)
    x = torch.randn(1, 4, 9, 8, generator=g, dtype=torch.float64)
    matrix = convolution_matrix_of(
        w, (9, 8), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    y = F.conv2d(x, w, None, stride, padding, dilation, groups)
    torch.testing.assert_close(matrix @ x.flatten(), y.flatten(), rtol=1e-12, atol=1e-12)
    z = torch.randn(y.shape, generator=g, dtype=torch.float64)
    adjoint = torch.nn.grad.conv2d_input(list(x.shape), w, z, stride, padding, dilation, groups)
    torch.testing.assert_close(matrix.T @ z.flatten(), adjoint.flatten(), rtol=1e-12, atol=1e-12)
    left = (matrix @ x.flatten()) @ z.flatten()
    torch.testing.assert_close(left, x.flatten() @ (matrix.T @ z.flatten()), rtol=1e-12, atol=1e-12)


def test_convolution_matrix_of_a_layer() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, padding="same", groups=2)
    ).double()
    model = cutaway.VisionModel(net, PREP, name="matrix")
    x = torch.randn(1, 1, 7, 7, dtype=torch.float64)
    got = model.inspect("convolution_matrix", size=7, output=3, input=2).values[0]
    want = F.conv2d(x, net[0].weight[3:4, 2:3], stride=2, padding=1)
    np.testing.assert_allclose(got @ x.flatten().numpy(), want.detach().flatten().numpy(), rtol=1e-12)
    back = model.inspect("convolution_matrix", size=7, output=3, input=2, transposed=True).values[0]
    np.testing.assert_array_equal(back, got.T)
    same = model.inspect("convolution_matrix", layer="1", size=7, output=5, input=1).values[0]
    want = F.conv2d(x, net[1].weight[5:6, 1:2], padding=1)
    np.testing.assert_allclose(same @ x.flatten().numpy(), want.detach().flatten().numpy(), rtol=1e-12)
    with pytest.raises(UnknownNameError, match="input=2"):
        model.inspect("convolution_matrix", layer="1", input=2)
    large = cutaway.VisionModel(nn.Sequential(nn.Conv2d(3, 4, 5)), PREP, name="large window")
    with pytest.raises(UsageError, match="window of 5 x 5"):
        large.inspect("convolution_matrix", size=4)


def test_evidence_of_one_entry_keeps_its_form() -> None:
    model = cutaway.VisionModel(
        nn.Sequential(nn.Conv2d(3, 1, 3)), cutaway.Preprocess(crop=8), name="one filter"
    )
    found = model.inspect("effective_filters")
    assert found.evidence["layers"] == ("0",)
    assert len(found.evidence["bias"]) == 1
    assert len(model.inspect("optimal_stimulus").evidence["response"]) == 1
