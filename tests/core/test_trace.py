"""The recorded graph against networks whose dataflow is known by construction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.errors import UnknownNameError, UsageError
from cutaway.core.geometry import Box, receptive_field
from cutaway.core.operators import Family
from cutaway.core.same_padding import SamePadding
from cutaway.core.trace import UNSEEN, Trace, Value, trace


def _names(ran: Trace) -> list[str]:
    return [node.name for node in ran.nodes]


def _edges(ran: Trace) -> list[tuple[str, list[str]]]:
    return [(n.name, [ran.nodes[v.node].name for v in n.parents]) for n in ran.nodes[1:]]


class Residual(nn.Module):
    """A residual block whose one in-place ReLU module runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 2, 3, 1, 1), nn.Conv2d(2, 2, 3, 1, 1)
        self.norm, self.relu = nn.BatchNorm2d(2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.one(x)))
        y = self.two(y)
        y += x
        return self.relu(y)


def test_residual_block_with_reused_in_place_module() -> None:
    net = Residual()
    ran = trace(net, torch.rand(1, 2, 6, 6))
    assert _edges(ran) == [
        ("conv2d", ["picture"]),
        ("batch_norm", ["conv2d"]),
        ("relu", ["batch_norm"]),
        ("conv2d", ["relu"]),
        ("add_", ["conv2d", "picture"]),
        ("relu", ["add_"]),
    ]
    assert ran.modules["relu"].runs == 2
    assert ran.modules["relu"].outputs == [(Value(3),), (Value(6),)]
    assert ran.value("norm") == Value(2)  # its own output, although a ReLU in place came after
    assert [node.owner for node in ran.nodes[1:]] == ["one", "norm", None, "two", None, None]
    assert ran.nodes[3].scope == "relu"
    assert ran.output == (Value(6),)


def test_functional_spellings_and_tuples() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            a, b = x.chunk(2, dim=1)
            c, d = torch.split(b, 1, 1)
            e = torch.cat([F.relu(a), torch.tanh(c), d.clamp(min=0)], 1)
            first, second = e.unbind(0)
            return first, {"second": second, "shape": e.mean((2, 3))}

    ran = trace(Net(), torch.rand(2, 4, 5, 5))
    assert ran.nodes[1].shapes == ((2, 2, 5, 5), (2, 2, 5, 5))
    split = ran.nodes[2]
    assert split.parents == (Value(1, 1),)
    cat = next(n for n in ran.nodes if n.family is Family.CAT)
    assert [ran.nodes[v.node].name for v in cat.parents] == ["relu", "tanh", "clamp"]
    assert [ran.nodes[v.node].parents for v in cat.parents] == [
        (Value(1, 0),),
        (Value(2, 0),),
        (Value(2, 1),),
    ]
    unbind = next(n.index for n in ran.nodes if n.name == "unbind")
    assert ran.output[:2] == (Value(unbind, 0), Value(unbind, 1))


def test_in_place_on_a_view() -> None:
    class Views(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.conv, self.how = nn.Conv2d(2, 2, 3), how

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            part = x[:, :1]
            if self.how == "relu":
                part.relu_()
            elif self.how == "add":
                part.add_(x.mean())
            else:
                x[:, :1] = 0
            return x

    ran = trace(Views("relu"), torch.rand(1, 2, 6, 6))
    assert ran.nodes[ran.output[0].node].name == "relu_ through a view"
    assert receptive_field(ran, "", 1, 1).clipped == Box(1, 1, 3, 3)
    for how, name in (("add", "add_ through a view"), ("set", "__setitem__")):
        ran = trace(Views(how), torch.rand(1, 2, 6, 6))
        assert ran.nodes[ran.output[0].node].name == name
        assert ran.nodes[ran.output[0].node].family is None


def test_constants_are_told_from_what_nobody_saw() -> None:
    class Net(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how, self.scale = how, nn.Parameter(torch.ones(1))
            self.register_buffer("shift", torch.ones(1))
            self.plain = [torch.ones(1)]

        def forward(self, x: Tensor) -> Tensor:
            if self.how == "numpy":
                return x * 2 + torch.from_numpy(x.numpy() * 2)
            if self.how == "list":
                return x * 2 + torch.tensor(x.tolist())
            ones = x.new_zeros(1) + torch.arange(3).sum() + torch.ones_like(x).mean()
            return x * self.scale.abs() + self.shift * self.plain[0] + ones

    ran = trace(Net("constants"), torch.rand(1, 1, 4, 4))
    assert _names(ran) == ["picture", "mul", "add", "add"]
    for how in ("numpy", "list"):
        assert UNSEEN in _names(trace(Net(how), torch.rand(1, 1, 4, 4)))


def test_other_modes_may_rewrite_operators() -> None:
    class Tensorflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            with SamePadding():
                return self.conv(x)

    ran = trace(Tensorflow(), torch.rand(1, 1, 8, 8))
    assert _names(ran) == ["picture", "pad", "conv2d"]
    assert ran.nodes[2].owner == "conv"
    # SAME pads an even picture at its end alone: position 0 starts at pixel 0
    assert receptive_field(ran, "conv", 0, 0).unclipped == Box(0, 0, 2, 2)


def _state(net: nn.Module) -> list[Any]:
    return [
        (
            m.training,
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
            [p.requires_grad for p in m.parameters()],
        )
        for m in net.modules()
    ]


def test_nothing_is_left_behind_also_after_an_error() -> None:
    net = Residual().train()
    net.norm.eval()
    net.one.weight.requires_grad_(False)
    before, values = _state(net), {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.rand(2, 2, 6, 6)
    wrong = torch.rand(2, 3, 6, 6)
    kept, random = x.clone(), torch.get_rng_state()
    trace(net, x)
    with pytest.raises(RuntimeError):
        trace(net, wrong)
    assert _state(net) == before
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, values[k]) for k, v in net.state_dict().items())


def test_no_activation_is_kept_alive() -> None:
    import gc
    import weakref

    seen: list[Any] = []

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(x)
            seen.append(weakref.ref(y))
            return y.sum()

    ran = trace(Net(), torch.rand(1, 1, 64, 64))
    gc.collect()
    assert seen[0]() is None
    assert ran.nodes[1].shapes == ((1, 1, 64, 64),)


def test_multiply_accumulates_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, (3, 5), 2, groups=2)
            self.up = nn.ConvTranspose2d(6, 2, 2, 2)
            self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
            self.linear = nn.Linear(2, 7)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(self.conv(x)).flatten(2).transpose(1, 2)
            x = self.attention(x, x, x, need_weights=False)[0]
            return self.linear(x) @ torch.ones(7, 3)

    ran = trace(Net(), torch.rand(1, 4, 9, 9))
    tokens = 8 * 6  # the 4 x 3 map of the convolution, doubled
    assert {n.name: n.macs for n in ran.nodes if n.macs} == {
        "conv2d": 6 * 4 * 3 * (4 // 2) * 3 * 5,
        "conv_transpose2d": 6 * 4 * 3 * 2 * 2 * 2,
        "multi_head_attention_forward": 4 * tokens * 2 * 2 + 2 * tokens * tokens * 2,
        "linear": tokens * 2 * 7,
        "matmul": tokens * 7 * 3,
    }


def test_attention_spelled_three_ways_costs_the_same() -> None:
    class Net(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how = how

        def forward(self, x: Tensor) -> Tensor:
            q = x.flatten(2).transpose(1, 2)
            if self.how == "fused":
                return F.scaled_dot_product_attention(q, q, q)
            if self.how == "matmul":
                return (q @ q.transpose(1, 2)).softmax(-1) @ q
            weights = torch.einsum("nic,njc->nij", q, q).softmax(-1)
            return torch.einsum("nij,njc->nic", weights, q)

    runs = [trace(Net(how), torch.rand(1, 3, 4, 5)) for how in ("fused", "matmul", "einsum")]
    assert [sum(n.macs for n in ran.nodes) for ran in runs] == [2 * 20 * 20 * 3] * 3
    assert [receptive_field(ran, "", 1, 1).whole for ran in runs] == [True] * 3


def test_names() -> None:
    shared = nn.Conv2d(1, 1, 3, padding=1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.idle = shared, shared, nn.Conv2d(1, 1, 1)
            self.flag = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            self.flag(None)
            return self.second(self.first(x))

    ran = trace(Net(), torch.rand(1, 1, 6, 6))
    assert ran.modules["first"].runs == 2
    assert ran.value("second") == ran.value("first") == ran.output[0]
    with pytest.raises(UnknownNameError, match="first"):
        ran.value("frist")
    with pytest.raises(UnknownNameError):
        ran.value("idle")
    with pytest.raises(UsageError, match="no tensor"):
        ran.value("flag")
