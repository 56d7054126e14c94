"""Backward rules against hand-written backward passes, on every spelling and on a hostile network."""

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError
from cutaway.core.operators import Family, read
from cutaway.core.rules import Record, Rule, backward_rules, plain
from cutaway.methods.projection.rules import deconvnet_relu, guided_relu, overwrite_pool

from .hostile import Hostile, manual

GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "backprop": lambda h, r: r * (h > 0),
    "deconvnet": lambda h, r: r.clamp(min=0),
    "guided": lambda h, r: r.clamp(min=0) * (h > 0),
}
RULES: dict[str, dict[Family, Rule]] = {
    "backprop": {},
    "deconvnet": {Family.RELU: deconvnet_relu},
    "guided": {Family.RELU: guided_relu},
}


def on_a_view(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0:].relu_()
    return h


def by_statement(h: Tensor) -> Tensor:
    h.relu_()
    return h


def by_assignment(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, :3] = torch.relu(h[:, :3])
    out[:, 3:] = F.relu(h[:, 3:])
    return out


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "F.relu": F.relu,
    "F.relu inplace": lambda h: F.relu(h, inplace=True),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU inplace": nn.ReLU(inplace=True),
    "method": lambda h: h.relu(),
    "method in place": lambda h: h.relu_(),
    "statement in place": by_statement,
    "clamp": lambda h: h.clamp(min=0),
    "clamp positional": lambda h: torch.clamp(h, 0),
    "clamp_": lambda h: h.clamp_(min=0),
    "clip": lambda h: torch.clip(h, 0),
    "clamp_min": lambda h: h.clamp_min(0),
    "clamp_min_": lambda h: h.clamp_min_(0),
    "Threshold": nn.Threshold(0, 0),
    "Threshold inplace": nn.Threshold(0, 0, inplace=True),
    "Hardtanh": nn.Hardtanh(0, 1e9),
    "on a view in place": on_a_view,
    "by assignment": by_assignment,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_gives_the_hand_written_answer(spelling: str, rule: str) -> None:
    w1, w2 = torch.randn(6, 3, 3, 3, dtype=torch.float64), torch.randn(4, 6, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    with backward_rules(RULES[rule]) as mode:
        y = F.conv2d(SPELLINGS[spelling](F.conv2d(x, w1)), w2)
    (got,) = torch.autograd.grad(y[:, 1].sum(), x)
    seed = torch.zeros_like(y)
    seed[:, 1] = 1
    want = F.conv_transpose2d(GATES[rule](F.conv2d(x, w1), F.conv_transpose2d(seed, w2)), w1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    assert rule == "backprop" or all(c.family is Family.RELU for c in mode.placed)
    assert rule == "backprop" or mode.placed


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("in_place", [False, True])
def test_hostile_network_equals_hand_written_backward(rule: str, in_place: bool) -> None:
    net = Hostile(in_place).double().eval().requires_grad_(False)
    x = torch.randn(3, 3, 21, 18, dtype=torch.float64, requires_grad=True)
    with backward_rules(RULES[rule], net) as mode:
        y = net(x)
    (got,) = torch.autograd.grad(y[:, 2].sum(), x)
    want, out = manual(net, x.detach(), 2, GATES[rule])
    torch.testing.assert_close(y, out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    if rule != "backprop":
        assert len(mode.placed) == 7  # ReLU6 among them; one module called three times


def test_golden_relu_values() -> None:
    # METHODS appendix A.1: the worked figure of Springenberg 2015
    h = torch.tensor([[1.0, -1, 5], [2, -5, -7], [-3, 2, 4]], requires_grad=True)
    signal = torch.tensor([[-2.0, 3, -1], [6, -3, 1], [2, -1, 3]])
    want = {
        "backprop": [[-2.0, 0, -1], [6, 0, 0], [0, -1, 3]],
        "deconvnet": [[0.0, 3, 0], [6, 0, 1], [2, 0, 3]],
        "guided": [[0.0, 0, 0], [6, 0, 0], [0, 0, 3]],
    }
    for rule, values in want.items():
        with backward_rules(RULES[rule]):
            y = torch.relu(h)
        assert torch.equal(torch.autograd.grad(y, h, signal)[0], torch.tensor(values))


def test_relu6_gate_closes_above_six() -> None:
    h = torch.tensor([-1.0, 3.0, 7.0], requires_grad=True)
    with backward_rules(RULES["guided"]):
        y = F.relu6(h)
    assert torch.autograd.grad(y.sum(), h)[0].tolist() == [0.0, 1.0, 0.0]


def test_the_gate_is_shut_at_zero_itself() -> None:
    h = torch.tensor([0.0, 1.0], requires_grad=True)
    with backward_rules(RULES["guided"]):
        y = torch.relu(h)
    assert torch.autograd.grad(y.sum(), h)[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shape", [(3, 2, 0, True), (3, 2, 1, False), (3, 1, 1, False), (2, 2, 0, False)])
def test_overwriting_pool_equals_max_unpool(shape: tuple[int, int, int, bool]) -> None:
    size, stride, padding, ceil = shape
    x = torch.randn(2, 3, 11, 10, dtype=torch.float64, requires_grad=True)
    with backward_rules({Family.MAX_POOL: overwrite_pool}):
        y = F.max_pool2d(x, size, stride, padding, ceil_mode=ceil)
    signal = torch.randn_like(y)
    (got,) = torch.autograd.grad(y, x, signal)
    _, places = F.max_pool2d(x, size, stride, padding, ceil_mode=ceil, return_indices=True)
    want = torch.zeros(2, 3, 110, dtype=torch.float64)
    for n in range(2):
        for c in range(3):
            for place, value in zip(places[n, c].flatten(), signal[n, c].flatten(), strict=True):
                want[n, c, place] = value
    assert torch.equal(got, want.view_as(x))


def test_plain_rule_is_the_gradient_of_a_composite() -> None:
    x = torch.randn(1, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    want = torch.autograd.grad(F.local_response_norm(x, 3).pow(2).sum(), x)[0]
    with backward_rules({Family.NORM: plain}) as mode:
        y = F.local_response_norm(x, 3)
    assert [c.name for c in mode.placed] == ["local_response_norm"]
    torch.testing.assert_close(torch.autograd.grad(y.pow(2).sum(), x)[0], want)


def test_remembered_inputs_survive_in_place_code() -> None:
    """A rule on a convolution still sees the convolution's input after it was overwritten."""
    seen: list[Tensor] = []

    def look(call: object, signal: Tensor) -> tuple[Tensor | None, ...]:
        seen.append(call.inputs[0].clone())  # type: ignore[attr-defined]
        return plain(call, signal)  # type: ignore[arg-type]

    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    w = torch.randn(3, 3, 1, 1)
    before = (x * 2).detach()
    with backward_rules({Family.CONV: look}):
        h = x * 2
        y = F.conv2d(h, w)
        h.zero_()
        out = y + h
    torch.autograd.grad(out.sum(), x)
    assert torch.equal(seen[0], before)


def test_memory_overwritten_unseen_is_refused() -> None:
    """Writing through numpy is seen by no mode; the tensor's version then tells, or nothing could."""
    x = torch.randn(1, 3, requires_grad=True)
    with backward_rules(RULES["guided"]):
        h = x * 2
        y = torch.relu(h)
    with torch.no_grad():
        h.add_(1)
    with pytest.raises(MethodRefusedError, match="overwritten in place"):
        torch.autograd.grad(y.sum(), x)


def test_rule_knows_the_layer_that_owns_the_weight() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).requires_grad_(False)
    with backward_rules({Family.CONV: plain, Family.LINEAR: plain}, net) as mode:
        net(torch.randn(1, 3, 6, 6, requires_grad=True))
    assert [c.owner for c in mode.placed] == ["0", "3"]


def test_calls_with_variadic_shapes_compute_again() -> None:
    x = torch.randn(2, 3, 4)
    for function, args in ((Tensor.view, (6, -1)), (Tensor.permute, (2, 0, 1)), (Tensor.flatten, (1, 2))):
        call = read(function, (x, *args), {})
        assert call is not None
        assert torch.equal(call.compute(x), function(x, *args))


def test_rules_can_be_chosen_by_call() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).requires_grad_(False)

    def choose(call: object) -> Rule | None:
        return (lambda c, s: (s * 0 + 5,)) if call.owner == "0" else None  # type: ignore[attr-defined]

    x = torch.randn(1, 3, requires_grad=True)
    with backward_rules(choose, net):
        y = net(x)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [[5.0, 5.0, 5.0]]


def test_nothing_is_left_behind() -> None:
    net = Hostile(True).eval()
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in net.modules()]
    x = torch.randn(1, 3, 21, 18, requires_grad=True)
    with backward_rules(RULES["guided"], net):
        y = net(x)
    torch.autograd.grad(y.sum(), x)
    del y
    gc.collect()
    assert not any(type(o) is Record for o in gc.get_objects())
    assert hooks == [len(m._forward_hooks) + len(m._backward_hooks) for m in net.modules()]
    assert torch.autograd.grad(torch.relu(x).sum(), x)[0].equal((x > 0).float())


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(4, requires_grad=True)
    with backward_rules(RULES["guided"]):
        y = torch.relu(x).pow(2).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises((RuntimeError, MethodRefusedError)):
        torch.autograd.grad(g.sum(), x)
