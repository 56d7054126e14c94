"""DeepLIFT: completeness everywhere, the paper's rules by definition, Captum where it is right, Shapley values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift
from PIL import Image
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UsageError

from .nets import wrap


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Double(nn.Module):
    """Works in double precision although it has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unused", torch.zeros(1, dtype=torch.float64))


def seeded(net: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if t.is_floating_point():
                noise = torch.rand(t.shape, generator=generator)
                t.copy_(noise + 0.5 if "running_var" in name else noise - 0.5)
    return net.double().eval()


class Body(nn.Module):
    """One operator between a convolution and a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, 3, padding=1), nn.LazyLinear(3)
        self.function = copy.deepcopy(function)
        self(torch.zeros(1, 3, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.function(self.conv(x)).flatten(1))
        return out


def tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def attended(h: Tensor) -> Tensor:
    t = tokens(h)
    mask = torch.ones(t.shape[1], t.shape[1], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(t, 2 * t, torch.relu(t), attn_mask=mask)


class MultiHead(nn.Module):
    """Places first, pictures second: the layout whose batch is in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, h: Tensor) -> Tensor:
        t = tokens(h).transpose(0, 1)
        out: Tensor = self.attention(t, t, t)[0].transpose(0, 1)
        return out


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu, then a residual add": lambda h: h + F.relu(h) + F.relu(h - 0.1),
    "relu next to max pooling": lambda h: F.max_pool2d(F.relu(h), 2),
    "max pooling before relu": lambda h: F.relu(F.max_pool2d(h, 2)),
    "overlapping max pooling": lambda h: F.max_pool2d(h, 3, stride=2),
    "ceil mode, padding, dilation": lambda h: F.max_pool2d(
        h, 2, stride=2, padding=1, dilation=2, ceil_mode=True
    ),
    "adaptive max pooling": lambda h: F.adaptive_max_pool2d(h, 2),
    "global maximum": lambda h: h.amax((2, 3)) * 2 + h.flatten(2).amax(-1),
    "max pooling along one axis": lambda h: F.max_pool1d(h.flatten(2), 5, stride=3),
    "relu6 and hardswish": lambda h: F.relu6(8 * h) + F.hardswish(4 * h),
    "in place": lambda h: F.relu_(h.clone()).add_(h).mul_(0.5),
    "gate": lambda h: h * torch.sigmoid(h.mean((2, 3), keepdim=True)),
    "product": lambda h: h * h.flip(1) * (h + 1),
    "ratio": lambda h: h / (h * h + 1) + 1 / (2 + torch.tanh(h)),
    "ratio of constants": lambda h: torch.div(torch.ones_like(h), h.square() + 0.5),
    "powers": lambda h: torch.exp(h) + h.pow(3) + torch.sqrt(h.abs() + 0.1) + (h * h + 1).log(),
    "softmax": lambda h: F.softmax(5 * h, 1) + F.log_softmax(h, -1),
    "matrix product": lambda h: torch.matmul(tokens(h), tokens(h).transpose(1, 2)),
    "layer norm": lambda h: F.layer_norm(h, h.shape[1:]),
    "group norm": lambda h: F.group_norm(h, 2, torch.tensor([1.0, 2, 3, 4]).to(h), torch.ones(4).to(h)),
    "instance norm": lambda h: F.instance_norm(h),
    "root mean square norm": lambda h: F.rms_norm(h, h.shape[2:]),
    "local response norm": lambda h: F.local_response_norm(h, 3, alpha=2.0),
    "unit length": lambda h: F.normalize(h),
    "attention": attended,
    "multi-head attention": MultiHead(),
    "gelu, silu, elu, softplus": lambda h: F.gelu(h) + F.silu(h) + F.elu(h) + F.softplus(h),
}


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_shares_add_up_whatever_the_operator(operator: str, rule: str) -> None:
    model = wrap(seeded(Body(OPERATORS[operator])))
    x, start = picture(2, 3, 9, 9), picture(2, 3, 9, 9, seed=7)
    got = model.explain(x[:1], "deeplift", target=1, rule=rule, baseline=start[:1], reduce="rgb")
    with torch.no_grad():
        rise = float(model(x[:1])[0, 1] - model(start[:1])[0, 1])
    assert abs(rise) > 1e-3
    assert abs(got.values.sum() - rise) < 1e-12 * max(1, np.abs(got.values).sum())
    assert got.evidence["completeness residual"] < 1e-12 * max(1, np.abs(got.values).sum())


def test_the_written_out_composites_leave_the_scores_alone() -> None:
    for name in OPERATORS:
        model, x = wrap(seeded(Body(OPERATORS[name]))), picture(1, 3, 9, 9)
        with torch.no_grad():
            want = float(model(x)[0, 1])
        assert model.explain(x, "deeplift", target=1).evidence["score"] == pytest.approx(want, rel=1e-10)


def test_two_players_with_one_path_each_get_their_shapley_values() -> None:
    """Products, ratios: exactly the average over both orders; so for all that has two inputs."""
    functions: list[Callable[[Tensor, Tensor], Tensor]] = [lambda a, b: a * b, lambda a, b: a / (b + 1)]
    for f in functions:

        class Two(Double):
            def forward(self, x: Tensor, f: Any = f) -> Tensor:
                return f(x[:, 0], x[:, 1]).flatten(1).sum(1, keepdim=True)

        x, r = picture(1, 3, 2, 2), picture(1, 3, 2, 2, seed=3)
        got = wrap(Two()).explain(x, "deeplift", target=0, baseline=r, reduce="rgb").values
        a, b, c, d = x[0, 0], x[0, 1], r[0, 0], r[0, 1]
        first = (f(a, b) - f(c, b) + f(a, d) - f(c, d)) / 2
        second = (f(a, b) - f(a, d) + f(c, b) - f(c, d)) / 2
        np.testing.assert_allclose(got, torch.stack([first, second, 0 * first]).numpy(), atol=1e-14)


class Dense(nn.Module):
    """Flatten, a linear layer, a nonlinearity, a linear layer."""

    def __init__(self, hidden: int = 6, *, bias: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, hidden, bias=bias), nn.Linear(hidden, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(F.relu(self.a(x.flatten(1))))
        return out


def test_rescale_by_its_definition() -> None:
    net = seeded(Dense())
    x, r = picture(1, 3, 2, 2), picture(1, 3, 2, 2, seed=3)
    got = wrap(net).explain(x, "deeplift", target=1, baseline=r, reduce="rgb").values.ravel()
    w, v = net.a.weight.numpy(force=True), net.b.weight.numpy(force=True)[1]
    h, h0 = (net.a(t.flatten(1))[0].numpy(force=True) for t in (x, r))
    assert ((h > 0) != (h0 > 0)).any()
    multiplier = (np.maximum(h, 0) - np.maximum(h0, 0)) / (h - h0)
    change = (x - r).numpy().ravel()
    np.testing.assert_allclose(got, change * ((v * multiplier) @ w), rtol=1e-12)


def test_reveal_cancel_by_its_definition() -> None:
    """Shrikumar 2017, secs. 3.5.2 and 3.5.3, written as loops."""
    net = seeded(Dense())
    x, r = picture(1, 3, 2, 2), picture(1, 3, 2, 2, seed=3)
    got = (
        wrap(net)
        .explain(x, "deeplift", target=1, baseline=r, rule="reveal_cancel", reduce="rgb")
        .values.ravel()
    )
    w, v = net.a.weight.numpy(force=True), net.b.weight.numpy(force=True)[1]
    h0 = net.a(r.flatten(1))[0].numpy(force=True)
    change = (x - r).numpy().ravel()
    want = np.zeros(12)
    for k in range(len(v)):
        parts = w[k] * change
        up, down = parts[parts > 0].sum(), parts[parts < 0].sum()

        def y(d: float, k: int = k) -> float:
            return max(h0[k] + d, 0)

        rising = (y(up) - y(0) + y(up + down) - y(down)) / 2
        falling = (y(down) - y(0) + y(up + down) - y(up)) / 2
        want += v[k] * np.where(parts > 0, parts * rising / up, parts * falling / down)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    plain = wrap(net).explain(x, "deeplift", target=1, baseline=r, reduce="rgb").values.ravel()
    assert np.abs(got - plain).max() > 1e-3


def test_the_papers_minimum_is_shared_by_both_inputs_under_reveal_cancel() -> None:
    """o = i1 - relu(i1 - i2) = min(i1, i2): Rescale gives all to the smaller, RevealCancel half to each."""

    class Minimum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.difference = nn.Linear(12, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :1] - F.relu(self.difference(x.flatten(1)))

    net = Minimum().double()
    with torch.no_grad():
        net.difference.weight.copy_(torch.tensor([1.0, -1.0] + [0.0] * 10))
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.75, 0.25
    got = {
        rule: wrap(net).explain(x, "deeplift", target=0, rule=rule, reduce="rgb").values.ravel()[:2]
        for rule in ("rescale", "reveal_cancel")
    }
    np.testing.assert_allclose(got["rescale"], [0, 0.25], atol=1e-12)
    np.testing.assert_allclose(got["reveal_cancel"], [0.125, 0.125], atol=1e-12)


class Chain(nn.Module):
    """Convolution, batch norm, addition, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2)
        self.b, self.fc = nn.Conv2d(3, 2, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.norm(self.a(x)) + self.b(x)).flatten(1))
        return out


def test_reveal_cancel_sees_through_batch_norm_and_additions() -> None:
    """Equal to one convolution with both folded in, where no batch norm or addition is left."""
    net = seeded(Chain())
    with torch.no_grad():
        net.norm.weight.copy_(torch.tensor([1.5, -0.7]))
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    merged = nn.Conv2d(6, 2, 2).double()
    with torch.no_grad():
        merged.weight.copy_(torch.cat([net.a.weight * scale.view(-1, 1, 1, 1), net.b.weight], 1))
        merged.bias.copy_((net.a.bias - net.norm.running_mean) * scale + net.norm.bias + net.b.bias)

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = merged, net.fc

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(F.relu(self.conv(torch.cat([x, x], 1))).flatten(1))
            return out

    x, r = picture(1, 3, 3, 3), picture(1, 3, 3, 3, seed=5)
    one, two = (
        wrap(n).explain(x, "deeplift", target=0, baseline=r, rule="reveal_cancel", reduce="rgb").values
        for n in (net, Folded())
    )
    np.testing.assert_allclose(one, two, rtol=1e-11, atol=1e-13)


def test_max_pooling_by_its_definition() -> None:
    """Overlapping 3x3 windows at stride 2, one loop per window."""

    class Pool(Double):
        def forward(self, x: Tensor) -> Tensor:
            return (F.max_pool2d(x, 3, stride=2) * weights).flatten(1).sum(1, keepdim=True)

    weights = picture(1, 3, 3, 3, seed=2) - 0.5
    x, r = picture(1, 3, 7, 7), picture(1, 3, 7, 7, seed=4)
    want, shared = np.zeros((3, 7, 7)), 0
    for c in range(3):
        for i in range(3):
            for j in range(3):
                window, other = (t[0, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].numpy() for t in (x, r))
                y, z, w = window.max(), other.max(), float(weights[0, c, i, j])
                a, b = np.unravel_index(window.argmax(), (3, 3)), np.unravel_index(other.argmax(), (3, 3))
                want[c, 2 * i + a[0], 2 * j + a[1]] += w * (max(y, z) - z)
                want[c, 2 * i + b[0], 2 * j + b[1]] += w * (y - max(y, z))
                shared += a == b
    assert 0 < shared < 27
    got = wrap(Pool()).explain(x, "deeplift", target=0, baseline=r, reduce="rgb").values
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_equals_gradient_times_input_without_biases_and_with_a_black_baseline() -> None:
    net = seeded(
        nn.Sequential(
            nn.Conv2d(3, 5, 3, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(45, 2, bias=False),
        )
    )
    x = picture(1, 3, 8, 8)
    lift, plain = (wrap(net).explain(x, m, target=1).values for m in ("deeplift", "gradient_times_input"))
    np.testing.assert_allclose(lift, plain, rtol=1e-12, atol=1e-13)
    zero = wrap(net).explain(x, "lrp", target=1, composite="epsilon", epsilon=0).values
    np.testing.assert_allclose(lift, zero, rtol=1e-9, atol=1e-12)  # Ancona 2018, proposition 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_equals_captum_where_captum_is_right() -> None:
    net = seeded(
        nn.Sequential(
            nn.Conv2d(3, 5, 3),
            nn.ReLU(),
            nn.Conv2d(5, 4, 3, stride=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(36, 3),
        )
    )
    x, r = picture(2, 3, 9, 9), picture(2, 3, 9, 9, seed=6)
    want = DeepLift(net, eps=1e-12).attribute(x.requires_grad_(), r, target=2).numpy(force=True)
    for i in (0, 1):
        got = wrap(net).explain(x[i], "deeplift", target=2, baseline=r[i], reduce="rgb").values
        np.testing.assert_allclose(got, want[i], rtol=1e-9, atol=1e-12)


def test_softmax_does_not_see_a_constant_that_all_scores_share() -> None:
    net = seeded(Body(lambda h: h))
    target = cutaway.probability(1)
    one = wrap(net).explain(picture(1, 3, 9, 9), "deeplift", target=target).values
    with torch.no_grad():
        net.fc.weight += net.fc.weight.new_tensor(0.3)
    two = wrap(net).explain(picture(1, 3, 9, 9), "deeplift", target=target).values
    np.testing.assert_allclose(one, two, rtol=1e-8, atol=1e-12)


def test_a_hidden_unit_can_be_the_target() -> None:
    model = wrap(seeded(Body(F.relu)))
    got = model.explain(picture(1, 3, 9, 9), "deeplift", target=cutaway.unit("conv", 2, 4, 4), reduce="rgb")
    outside = got.values.copy()
    outside[:, 3:6, 3:6] = 0
    assert not outside.any()
    rise = got.evidence["score"] - got.evidence["baseline score"]
    assert got.values.sum() == pytest.approx(rise, abs=1e-13)


class Branching(nn.Module):
    """Another path for dark pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.fc(x.flatten(1))
        return torch.sigmoid(h) if float(x.detach().mean()) > 0.1 else F.relu(h)


class Strange(Dense):
    """An operator without a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.erfinv(super().forward(x) / 100)


def test_what_has_no_rule_is_refused_by_name() -> None:
    with pytest.raises(MethodRefusedError, match="another path"):
        wrap(Branching()).explain(picture(3, 2, 2), "deeplift", target=0)
    with pytest.raises(MethodRefusedError, match="(?i)erfinv"):
        wrap(seeded(Strange())).explain(picture(3, 2, 2), "deeplift", target=0)


@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients"])
def test_a_baseline_is_a_name_or_a_picture_of_the_same_shape(method: str, tmp_path: Path) -> None:
    net = seeded(Body(F.relu))
    prep = cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    model = cutaway.VisionModel(net, prep, name="net")
    x = picture(1, 3, 9, 9)
    colour = np.array([0.4, 0.5, 0.6])
    with torch.no_grad():
        start = float(model(torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 9, 9))[0, 0])
    mean = model.explain(x, method, target=0, baseline="network")
    assert mean.evidence["baseline score"] == pytest.approx(start, rel=1e-12)
    file = tmp_path / "grey.png"
    Image.new("RGB", (9, 9), (102, 102, 102)).save(file)
    by_path = model.explain(x, method, target=0, baseline=str(file))
    by_array = model.explain(x, method, target=0, baseline=np.full((9, 9, 3), 102, np.uint8))
    np.testing.assert_array_equal(by_path.values, by_array.values)
    assert "grey.png" in str(by_path.to_dict()["options"]["baseline"])
    for bad in ("no such colour", tmp_path / "absent.png", 3, None):
        with pytest.raises(UsageError, match="baseline"):
            model.explain(x, method, target=0, baseline=bad)
    with pytest.raises(UsageError, match="3x8x9 for a picture of 3x9x9"):
        model.explain(x, method, target=0, baseline=np.zeros((8, 9, 3), np.uint8))
    same = model.explain(x, method, target=0, baseline=x)
    assert not same.values.any()
    assert any("equals the baseline" in n for n in same.notes)
