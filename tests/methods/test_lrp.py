"""Layer-wise relevance propagation: every rule over the layer's explicit matrix, folded batch norm, Captum."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LRP
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import cutaway
from cutaway.core.errors import MethodRefusedError
from cutaway.methods.decomposition.lrp import COMPOSITES

from .nets import picture, wrap

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def normalised(net: nn.Module) -> cutaway.VisionModel:
    return cutaway.VisionModel(net.double(), cutaway.Preprocess(mean=MEAN, std=STD), name="net")


def network_input(x: Tensor) -> Tensor:
    return (x - x.new_tensor(MEAN).view(1, 3, 1, 1)) / x.new_tensor(STD).view(1, 3, 1, 1)


def matrix(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """A linear map as (outputs, inputs), one column per unit vector."""
    columns = [function(e.view(1, *shape)).flatten() for e in torch.eye(int(np.prod(shape))).double()]
    return torch.stack(columns, 1).detach()


def by_matrix(
    rule: str,
    W: Tensor,
    b: Tensor,
    x: Tensor,
    R: Tensor,
    low: Any = 0.0,
    high: Any = 1.0,
    connected: Any = None,
) -> Tensor:
    """Relevance of the inputs of y = Wx + b, each rule as its paper prints it (epsilon 0.3, gamma 0.25, alpha 2)."""
    z, y = W * x, W @ x + b
    if rule == "zero":
        return ((z / y[:, None]) * R[:, None]).sum(0)
    if rule == "epsilon":
        return ((z / (y + 0.3 * torch.where(y >= 0, 1.0, -1.0).double())[:, None]) * R[:, None]).sum(0)
    if rule == "gamma":
        up = z + 0.25 * z.clamp(min=0), b + 0.25 * b.clamp(min=0)
        down = z + 0.25 * z.clamp(max=0), b + 0.25 * b.clamp(max=0)
        shares = [c / (c.sum(1) + o)[:, None] * R[:, None] for c, o in (up, down)]
        return torch.where((y > 0)[:, None], *shares).sum(0)
    # a unit without a part of one sign shares nothing there
    positive = (z.clamp(min=0) / (z.clamp(min=0).sum(1) + b.clamp(min=0))[:, None]).nan_to_num(0)
    negative = (z.clamp(max=0) / (z.clamp(max=0).sum(1) + b.clamp(max=0))[:, None]).nan_to_num(0)
    if rule == "plus":
        return (positive * R[:, None]).sum(0)
    if rule == "alpha_beta":
        return ((2 * positive - negative) * R[:, None]).sum(0)
    if rule == "flat":
        c = connected.double()
    elif rule == "w_square":
        c = W**2
    else:
        c = z - W.clamp(min=0) * low - W.clamp(max=0) * high
    return (c / c.sum(1, keepdim=True) * R[:, None]).sum(0)


LAYERS = {
    "linear": lambda: nn.Linear(75, 6),
    "convolution": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(3, 6, 3, padding=(1, 0), groups=3),
    "dilated": lambda: nn.Conv2d(3, 2, 2, dilation=2),
    "transposed": lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1),
}
OPTIONS = {
    **{rule: {"composite": rule} for rule in ("zero", "epsilon", "gamma", "plus", "alpha_beta")},
    **{rule: {"composite": "zero", "pixels": rule} for rule in ("flat", "w_square", "box")},
}


@pytest.mark.parametrize("rule", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_rule_equals_its_formula_over_the_layers_matrix(kind: str, rule: str) -> None:
    layer = LAYERS[kind]().double()
    net = nn.Sequential(nn.Flatten(), layer) if kind == "linear" else nn.Sequential(layer, nn.Flatten())
    pixels = picture(1, 3, 5, 5)
    x = network_input(pixels)
    y = net(x)[0].detach()
    b = net(torch.zeros_like(x))[0].detach()
    W = matrix(lambda e: net(e)[0] - b, (3, 5, 5))
    ones = copy.deepcopy(net)
    with torch.no_grad():
        for p in ones.parameters():
            p.fill_(float(p.ndim > 1))
    connected = matrix(lambda e: ones(e)[0], (3, 5, 5)) != 0
    v = torch.linspace(-1, 2, len(y)).double()
    ends = [network_input(torch.full((1, 3, 5, 5), t).double()).flatten() for t in (0.0, 1.0)]
    want = by_matrix(rule, W, b, x.flatten(), v * y, *ends, connected)
    target = cutaway.custom(lambda out: (out * v).sum(1))
    options: dict[str, Any] = {**OPTIONS[rule], "epsilon": 0.3, "alpha": 2}
    got = normalised(net).explain(pixels, "lrp", target, reduce="rgb", **options)
    np.testing.assert_allclose(got.values.ravel(), want, rtol=1e-10, atol=1e-11 * want.abs().max())
    assert abs(got.evidence["unaccounted"]) < 1e-10


class Bare(nn.Module):
    """Bias-free: stride, overlapping max pooling, two residual blocks, concatenation, grouped convolution, batch norm."""

    def __init__(self, *, norm: bool = True, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(4))
        self.left = nn.Conv2d(8, 4, 1, bias=False)
        self.right = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) if norm else nn.Identity() for _ in range(5))
        self.fc = nn.Linear(12, 4, bias=False)
        for n in self.norms:
            if isinstance(n, nn.BatchNorm2d):  # scales alone: a shift would be a bias
                nn.init.uniform_(n.weight, 0.5, 1.5)
                nn.init.uniform_(n.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.norms[0](self.stem(x)), inplace=self.inplace), 3, 2, padding=1)
        for i in (0, 2):
            g = F.relu(self.norms[i + 1](self.convs[i](h)), inplace=self.inplace)
            g = self.norms[i + 2](self.convs[i + 1](g))
            if self.inplace:
                g += h
                h = g.relu_()
            else:
                h = torch.relu(h + g)
        h = torch.cat([F.relu(self.left(h)), F.relu(self.right(h))], 1)
        out: Tensor = self.fc(F.avg_pool2d(h, 2).mean((2, 3)))
        return out


@pytest.mark.parametrize("inplace", [False, True])
def test_lrp_0_is_gradient_times_input_without_biases(inplace: bool) -> None:
    net, x = Bare(inplace=inplace).double().eval(), picture(2, 3, 12, 12)
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(u * 1)[:, 1].sum(), u)
    for i in range(2):
        got = wrap(net).explain(x[i], "lrp", 1, composite="zero", reduce="rgb")
        want = (g * x)[i].numpy()
        np.testing.assert_allclose(got.values, want, rtol=1e-10, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("composite", ["zero", "gamma", "plus", "plus_box", "epsilon_gamma_box"])
def test_conserves_without_biases_on_residual_networks(composite: str) -> None:
    net, x = Bare().double().eval(), picture(1, 3, 12, 12)
    got = wrap(net).explain(x, "lrp", 2, composite=composite, epsilon=0)
    with torch.no_grad():
        score = net(x)[0, 2].item()
    assert abs(score) > 1e-3
    np.testing.assert_allclose(got.values.sum(), score, rtol=1e-9)
    assert abs(got.evidence["residual"]) < 1e-9
    assert got.evidence["biases"] == pytest.approx(0, abs=1e-12)


def test_epsilon_reports_what_it_absorbed() -> None:
    layer = nn.Linear(12, 2, bias=False).double()
    x = picture(1, 3, 2, 2)
    z = (layer.weight[1] @ x.flatten()).item()
    got = wrap(nn.Sequential(nn.Flatten(), layer)).explain(x, "lrp", 1, composite="epsilon", epsilon=0.7)
    stabiliser = 0.7 * np.sign(z)
    assert got.evidence["stabilisers"] == pytest.approx(z * stabiliser / (z + stabiliser), rel=1e-12)
    assert got.evidence["sum"] == pytest.approx(z * z / (z + stabiliser), rel=1e-12)


def shaken(net: nn.Module) -> nn.Module:
    """Batch norms with statistics, scales and shifts of their own."""
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for t in (m.weight, m.running_var):
                nn.init.uniform_(t, 0.5, 1.5)
            for t in (m.bias, m.running_mean):
                nn.init.normal_(t, 0, 0.3)
    return net.double().eval()


@pytest.mark.parametrize("composite", COMPOSITES)
def test_batch_norm_is_merged_as_the_folded_network(composite: str) -> None:
    a, b, c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=2, bias=False), nn.Linear(6, 5)
    up = nn.ConvTranspose2d(6, 6, 2, groups=3)
    norms = [nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm1d(5), nn.BatchNorm2d(6, eps=0.1)]
    tail = nn.Linear(5, 3)

    def whole(parts: list[nn.Module]) -> nn.Module:
        gap = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(
            parts[0], nn.ReLU(), parts[1], nn.ReLU(), parts[2], nn.ReLU(), *gap, parts[3], nn.ReLU(), tail
        )

    pairs = [(a, norms[0]), (b, norms[1]), (up, norms[3]), (c, norms[2])]
    net = shaken(whole([nn.Sequential(layer, norm) for layer, norm in pairs]))
    folded = [fuse_conv_bn_eval(a, norms[0]), fuse_conv_bn_eval(b, norms[1])]
    by_hand = copy.deepcopy(up)
    scale = norms[3].weight / (norms[3].running_var + 0.1).sqrt()
    with torch.no_grad():
        for i in range(6):  # output i belongs to group i // 2 and reads inputs of that group alone
            by_hand.weight[i // 2 * 2 : i // 2 * 2 + 2, i % 2] *= scale[i]
        by_hand.bias.copy_((up.bias - norms[3].running_mean) * scale + norms[3].bias)
    plain = whole([*folded, by_hand, fuse_linear_bn_eval(c, norms[2])]).eval()
    x = picture(1, 3, 9, 9)
    torch.testing.assert_close(net(x), plain(x), rtol=1e-12, atol=1e-12)
    want = wrap(plain).explain(x, "lrp", 2, composite=composite)
    got = wrap(net).explain(x, "lrp", 2, composite=composite)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-9, atol=1e-9 * np.abs(want.values).max())
    assert got.evidence["biases"] == pytest.approx(want.evidence["biases"], rel=1e-9)
    assert any("merged" in n and n.endswith("4") for n in got.notes)


class Preactivated(nn.Module):
    """Batch norm before its convolution (DenseNet), after another network part has grown a map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = (
            nn.Conv2d(3, 4, 1, bias=False),
            nn.BatchNorm2d(4),
            nn.Linear(4, 2, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        out: Tensor = self.fc(torch.relu(self.norm(h)).sum((2, 3)))
        return out


def test_batch_norm_alone_shares_by_contribution_and_books_its_offset() -> None:
    net = shaken(Preactivated())
    x = picture(1, 3, 4, 4)
    got = wrap(net).explain(x, "lrp", 1, composite="zero", epsilon=0, reduce="rgb")
    z = F.conv2d(x, net.conv.weight)
    s = (net.norm.weight / (net.norm.running_var + 1e-5).sqrt()).view(1, 4, 1, 1)
    y = net.norm(z.clamp(min=0))
    R = (y > 0) * s * z.clamp(min=0) * net.fc.weight[1].view(1, 4, 1, 1)  # y w (s h / y)
    want = x * F.conv_transpose2d(torch.where(z > 0, R / z, 0), net.conv.weight)
    np.testing.assert_allclose(got.values, want[0].detach(), rtol=1e-10, atol=1e-12)
    offsets = ((y > 0) * (y - s * z.clamp(min=0)) * net.fc.weight[1].view(1, 4, 1, 1)).sum().item()
    assert got.evidence["biases"] == pytest.approx(offsets, rel=1e-10)


def test_a_sum_shares_by_contribution_under_every_rule() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.fc = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(27, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(torch.relu(2 * x - self.mix(x) + 0.1).flatten(1))
            return out

    net, x = Skip().double(), picture(1, 3, 3, 3)
    got = wrap(net).explain(x, "lrp", 1, composite="plus", reduce="rgb")
    # by hand, one unit after the other
    W = net.mix.weight[:, :, 0, 0].detach()
    mixed = torch.einsum("kj,njhw->nkhw", W, x)
    total = 2 * x - mixed + 0.1
    up = (net.fc.weight[1].detach().view(1, 3, 3, 3) * total.clamp(min=0)).clamp(min=0)
    R = up / up.sum() * net(x)[0, 1].item()
    want = R * 2 * x / total
    for k in range(3):
        part = W[k].view(3, 1, 1) * x[0]
        want[0] += (R * -mixed / total)[0, k] * part.clamp(min=0) / part.clamp(min=0).sum(0)
    np.testing.assert_allclose(got.values, want[0], rtol=1e-9, atol=1e-11)
    assert got.evidence["biases"] == pytest.approx((R * 0.1 / total).sum().item(), rel=1e-9)


class Gates(nn.Module):
    """Squeeze-excite whose gate may be frozen to numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        self.frozen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        gate = torch.sigmoid(
            self.squeeze(F.silu(h.mean((2, 3), keepdim=True)))
        )  # the gate may do as it likes
        h = h * (gate if self.frozen is None else self.frozen)
        out: Tensor = self.fc(h.mean((2, 3)))
        return out


def test_a_gate_is_a_constant_and_its_signal_takes_all() -> None:
    net, x = Gates().double(), picture(1, 3, 7, 7)
    got = wrap(net).explain(x, "lrp", 1)
    with torch.no_grad():
        h = torch.relu(net.conv(x))
        net.frozen = torch.sigmoid(net.squeeze(F.silu(h.mean((2, 3), keepdim=True))))
    want = wrap(net).explain(x, "lrp", 1)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-12)
    assert any("gates held constant" in n for n in got.notes)


class Captive(nn.Module):
    """A plain chain as Captum wants it: every layer a module that runs once, but for Flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 5, 3, bias=False)
        self.fc1, self.fc2 = nn.Linear(45, 8, bias=False), nn.Linear(8, 4, bias=False)
        self.relu1, self.relu2, self.relu3, self.pool = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x)))))
        out: Tensor = self.fc2(self.relu3(self.fc1(h.flatten(1))))
        return out


@pytest.mark.filterwarnings("ignore")  # Captum warns that it sets hooks
def test_epsilon_equals_captum_on_a_plain_chain_without_biases() -> None:
    net, x = Captive().double(), picture(1, 3, 12, 12)
    want = LRP(copy.deepcopy(net)).attribute(x.clone().requires_grad_(), target=2)[0].detach().numpy()
    got = wrap(net).explain(x, "lrp", 2, composite="epsilon", epsilon=1e-9, reduce="rgb").values
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7 * np.abs(want).max())


def test_bands_of_depth_use_the_rules_of_their_layers() -> None:
    widths = [12, 9, 8, 8, 7, 6, 5, 4, 3]  # eight layers: box, gamma x 3, epsilon x 3, zero
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    parts: list[nn.Module] = [nn.Flatten()]
    for layer in layers:
        nn.init.uniform_(layer.bias, 0, 0.5)
        parts += [layer, nn.ReLU()]
    net, x = nn.Sequential(*parts[:-1]).double(), picture(1, 3, 2, 2)
    inputs = [x.flatten()]
    for layer in layers:
        inputs.append(torch.relu(layer(inputs[-1])).detach())
    R = torch.zeros(3).double()
    R[0] = net(x)[0, 0].item()
    rules = ["box", *["gamma"] * 3, *["epsilon"] * 3, "zero"]
    for rule, layer, h in reversed(list(zip(rules, layers, inputs, strict=False))):
        W, b = layer.weight.detach(), layer.bias.detach()
        R = by_matrix(rule, W, b, h, R)
    got = wrap(net).explain(x, "lrp", 0, composite="zero_epsilon_gamma_box", epsilon=0.3, reduce="rgb")
    assert got.evidence["score"] != 0
    np.testing.assert_allclose(got.values.ravel(), R, rtol=1e-9, atol=1e-12)


class Inside(nn.Module):
    """A network that normalises and pads its pictures itself, in place."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        x -= x.new_tensor(MEAN).view(1, 3, 1, 1)
        x = torch.cat([x[:, :1] / STD[0], x[:, 1:2] / STD[1], x[:, 2:] / STD[2]], 1)
        out: Tensor = self.body(F.pad(x, (1, 1, 1, 1)))
        return out


@pytest.mark.parametrize("composite", ["epsilon_gamma_box", "zero", "plus"])
def test_normalisation_inside_the_network_is_preprocessing_too(composite: str) -> None:
    def body(padding: int) -> nn.Module:
        torch.manual_seed(3)
        conv = nn.Conv2d(3, 4, 3, padding=padding)
        return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    x = picture(1, 3, 6, 6)
    want = normalised(body(1)).explain(x, "lrp", 1, composite=composite, reduce="rgb")
    got = wrap(Inside(body(0))).explain(x, "lrp", 1, composite=composite, reduce="rgb")
    np.testing.assert_allclose(got.values, want.values, rtol=1e-10, atol=1e-13)


def test_colours_come_back_in_the_pictures_order() -> None:
    class Blue(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0].mean((1, 2))[:, None] * torch.ones(2, dtype=x.dtype)

    model = cutaway.VisionModel(Blue(), cutaway.Preprocess(channels="BGR"), name="blue")
    values = model.explain(picture(3, 4, 4).float(), "lrp", 1, reduce="rgb").values
    assert np.abs(values[:2]).max() == 0
    assert values[2].min() > 0


def test_batches_account_for_each_picture_alone() -> None:
    net, x = shaken(Bare()), picture(3, 3, 12, 12)
    nn.init.constant_(net.convs[0].weight[0], -1.0)  # a dead unit or two
    model = wrap(net)
    from cutaway.core.progress import finish
    from cutaway.core.run import explain
    from cutaway.methods import METHODS

    together = finish(explain(model, METHODS["lrp"], x, 1, {"composite": "alpha_beta", "pixels": "flat"}))
    for i, one in enumerate(together):
        alone = model.explain(x[i], "lrp", 1, composite="alpha_beta", pixels="flat")
        e = one.evidence
        assert e["score"] == pytest.approx(net(x)[i, 1].item())
        total = e["sum"] + e["biases"] + e["stabilisers"] + e["nowhere"]
        assert total == pytest.approx(e["start"], rel=1e-9)
        for key in ("biases", "nowhere"):
            assert e[key] == pytest.approx(alone.evidence[key], rel=1e-9, abs=1e-12)


def test_hidden_units_and_differences_start_from_their_value() -> None:
    model, x = wrap(Bare().eval()), picture(1, 3, 12, 12)
    for target in (cutaway.unit("convs.1", 2, 3, 3), cutaway.logit(1) - 2 * cutaway.logit(0)):
        e = model.explain(x, "lrp", target, composite="zero").evidence
        assert e["start"] == pytest.approx(e["score"], rel=1e-12)
        assert e["sum"] == pytest.approx(e["score"], rel=1e-9)
    notes = model.explain(x, "lrp", cutaway.probability(1)).notes
    assert any("no linear function" in n for n in notes)


class Written(nn.Module):
    """One operator between convolution and head, as given."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.operator = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), operator

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.operator(self.conv(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("operator", "named"),
    [
        (lambda h: h.softmax(1), "softmax"),
        (F.gelu, "gelu"),
        (torch.sigmoid, "sigmoid"),
        (lambda h: h * torch.sigmoid(h), "mul"),
        (lambda h: h * h.mean((2, 3), keepdim=True), "mul"),
        (lambda h: 1 / (1 + h * h), "reciprocal|mul"),
        (lambda h: torch.einsum("nchw,cd->ndhw", h, torch.eye(4).double()), "bmm"),
        (lambda h: F.layer_norm(h, h.shape[1:]), "layerNorm|nativeLayerNorm"),
        (lambda h: torch.where(h > 0, h, 0), "where"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(operator: Callable[[Tensor], Tensor], named: str) -> None:
    with pytest.raises(MethodRefusedError, match=named) as caught:
        wrap(Written(operator)).explain(picture(3, 6, 6), "lrp", 1)
    assert caught.value.hint
