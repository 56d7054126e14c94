"""Tap against plain forward passes written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.core.tap import Tap


class Net(nn.Module):
    """Convolution, batch norm, in-place ReLU, an in-place change after that, a functional ReLU without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2, self.fc = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        nn.init.uniform_(self.norm.running_mean, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm(self.conv1(x)))
        h = F.relu(self.conv2(h)).mul_(2)
        out: Tensor = self.fc(h.mean((2, 3)))
        return out

    def by_hand(self, x: Tensor) -> dict[str, Tensor]:
        conv1 = F.conv2d(x, self.conv1.weight, self.conv1.bias)
        mean, var = self.norm.running_mean, self.norm.running_var
        norm = F.batch_norm(conv1, mean, var, self.norm.weight, self.norm.bias, False, 0.0, self.norm.eps)
        conv2 = F.conv2d(norm.clamp(min=0), self.conv2.weight, self.conv2.bias)
        return {
            "conv1": conv1,
            "norm": norm,
            "conv2": conv2,
            "fc": self.fc((2 * conv2.clamp(min=0)).mean((2, 3))),
        }


@pytest.fixture
def model() -> cutaway.VisionModel:
    net = Net().double().eval().requires_grad_(False)
    return cutaway.VisionModel(net, cutaway.Preprocess(), name="net")


X = torch.rand(2, 3, 10, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_activation_is_read_after_the_nonlinearity_that_follows(model: cutaway.VisionModel) -> None:
    want = model.network.by_hand(X)  # type: ignore[operator]
    with Tap(model, "conv1", "norm", "relu", "conv2", "fc") as tap:
        out = model(X)
    for name in ("conv1", "norm", "relu"):
        torch.testing.assert_close(tap[name], want["norm"].clamp(min=0), rtol=1e-12, atol=1e-12)
    # the in-place product after the second ReLU does not reach what was read
    torch.testing.assert_close(tap["conv2"], want["conv2"].clamp(min=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tap["fc"], want["fc"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, want["fc"], rtol=1e-12, atol=1e-12)


def test_raw_reads_what_the_module_gives_even_when_it_is_overwritten(model: cutaway.VisionModel) -> None:
    want = model.network.by_hand(X)  # type: ignore[operator]
    with Tap(model, "conv1", "norm", "conv2", raw=True) as tap:
        out = model(X)
    for name in ("conv1", "norm", "conv2"):
        assert want[name].min() < 0
        torch.testing.assert_close(tap[name], want[name], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, want["fc"], rtol=1e-12, atol=1e-12)


def test_edit_replaces_what_the_network_goes_on_with(model: cutaway.VisionModel) -> None:
    want = model.network.by_hand(X)  # type: ignore[operator]
    seen: list[str] = []

    def ablate(name: str, activation: Tensor) -> Tensor:
        seen.append(name)
        kept = activation.clone()
        kept[:, 1] = 0
        return kept

    with Tap(model, "conv2", edit=ablate):
        got = model(X)
    h = want["conv2"].clamp(min=0)
    h[:, 1] = 0
    torch.testing.assert_close(got, model.network.fc((2 * h).mean((2, 3))), rtol=1e-12, atol=1e-12)  # type: ignore[operator]
    assert seen == ["conv2"]


def test_leaf_cuts_the_graph_at_the_layer(model: cutaway.VisionModel) -> None:
    x = X.clone().requires_grad_()
    with Tap(model, "conv2", leaf=True) as tap:
        out = model(x)
    (g,) = torch.autograd.grad(out[:, 1].sum(), tap["conv2"], retain_graph=True)
    places = g.shape[2] * g.shape[3]
    want = 2 * model.network.fc.weight[1].view(1, 5, 1, 1).expand_as(g) / places  # type: ignore[union-attr, index]
    torch.testing.assert_close(g, want, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None


def test_stop_ends_the_pass_and_nothing_escapes(model: cutaway.VisionModel) -> None:
    model.pixels(X)
    assert model.layers.find("conv2").activation  # the table is made before the hook listens
    ran: list[int] = []
    handle = model.network.fc.register_forward_hook(lambda *a: ran.append(1))  # type: ignore[union-attr]
    with Tap(model, "conv2", stop=True) as tap:
        model(X)
    assert not ran
    assert tap["conv2"].shape == (2, 5, 6, 5)
    handle.remove()


def test_hooks_are_gone_after_success_error_and_a_bad_name(model: cutaway.VisionModel) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) for m in model.network.modules())

    def fail() -> None:
        with Tap(model, "conv1", "fc"):
            assert hooks() == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(UnknownNameError, match="conv1"):
        Tap(model, "conv1", "conv11")
    assert hooks() == 0
    assert torch.relu(torch.ones(1, requires_grad=True)).grad_fn.name().startswith("Relu")  # type: ignore[union-attr]


class Overwriting(nn.Module):
    """In-place ReLU by statement, then an in-place product on the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h.relu_()
        h.mul_(2)
        out: Tensor = self.fc(h.mean((2, 3)))
        return out


def test_in_place_relu_and_what_overwrites_it_later() -> None:
    net = Overwriting().double().eval().requires_grad_(False)
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="overwriting")
    model.pixels(X)
    want = net.conv(X).clamp(min=0)
    with Tap(model, "conv") as tap:
        model(X)
    torch.testing.assert_close(tap["conv"], want)
    with Tap(model, "conv", edit=lambda name, a: a * 0):
        torch.testing.assert_close(model(X), net.fc(torch.zeros(2, 4, dtype=torch.float64)))
    with Tap(model, "conv", leaf=True) as tap:
        out = model(X)
    (g,) = torch.autograd.grad(out[:, 1].sum(), tap["conv"])
    torch.testing.assert_close(g, 2 / 56 * net.fc.weight[1].view(1, 4, 1, 1).expand_as(g))


def test_a_layer_that_runs_twice_is_refused_by_name() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu, nn.Flatten(), nn.Linear(27, 2))
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="twice")
    x = torch.rand(1, 3, 3, 3)
    model.pixels(x)
    with Tap(model, "1") as tap:
        model(x)
    assert len(tap.calls["1"]) == 2
    with pytest.raises(UsageError, match="ran 2 times"):
        tap["1"]
