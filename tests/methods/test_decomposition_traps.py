"""DeepLIFT and LRP on networks written to mislead them: right, or refused, and nothing kept afterwards."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError
from cutaway.core.rules import backward_rules

from .nets import wrap


class Traps(nn.Module):
    """A function between a convolution and a linear layer, with a second convolution to call."""

    def __init__(self, function: Callable[[Traps, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 36, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.function(self, x).flatten(1))
        return out


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def explained(function: Callable[[Traps, Tensor], Tensor], count: int = 2, **options: str) -> list[float]:
    """What is missing in the sum of each picture, as a share of the score difference."""
    model = wrap(Traps(function))
    missing = []
    everything = pictures(count)
    for i in range(count):  # each picture in its batch: scores of a batch of one would hide what couples them
        found = model.explain(everything.roll(-i, 0), "deeplift", target=1, **options)
        rise = found.evidence["score"] - found.evidence["baseline score"]
        missing.append(abs(float(found.values.sum()) - rise) / abs(rise))
    return missing


def implicit_softmax(net: Traps, x: Tensor) -> Tensor:
    h = net.conv(x).flatten(1)
    return F.softmax(h, dim=None, _stacklevel=5) * 10  # nn.Softmax() chooses dimension 1 of a matrix


def grouped_queries(net: Traps, x: Tensor) -> Tensor:
    h = net.conv(x)
    return F.scaled_dot_product_attention(h, h[:, :2], h[:, 2:], enable_gqa=True)


def bias_from_the_picture(net: Traps, x: Tensor) -> Tensor:
    bias = net.other(x[:1]).mean((0, 2, 3))
    return F.relu(F.conv2d(x, net.conv.weight, bias, padding=1))


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize(
    ("function", "count"), [(implicit_softmax, 2), (grouped_queries, 2), (bias_from_the_picture, 1)]
)
def test_shares_add_up_on_unusual_spellings(
    function: Callable[[Traps, Tensor], Tensor], count: int, rule: str
) -> None:
    assert max(explained(function, count, rule=rule)) < 1e-10


def scale_from_the_picture(net: Traps, x: Tensor) -> Tensor:
    h = net.conv(x)
    return F.batch_norm(h, torch.zeros(4).to(h), torch.ones(4).to(h), net.other(x).mean((0, 2, 3)))


@pytest.mark.parametrize("options", [{"method": "deeplift"}, {"method": "deeplift", "rule": "reveal_cancel"}])
def test_a_batch_norm_whose_scale_comes_from_the_picture_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(MethodRefusedError, match="(?i)batchnorm"):
        wrap(Traps(scale_from_the_picture)).explain(pictures(1), target=1, **options)


def test_lrp_refuses_an_offset_made_from_the_picture() -> None:
    with pytest.raises(MethodRefusedError, match="convolution"):
        wrap(Traps(bias_from_the_picture)).explain(pictures(1), "lrp", target=1)


def test_another_layer_for_the_baseline_is_another_path() -> None:
    def branch(net: Traps, x: Tensor) -> Tensor:
        return F.relu(net.conv(x) if x.mean() > 0.3 else net.other(x))

    with pytest.raises(MethodRefusedError, match="another path"):
        wrap(Traps(branch)).explain(pictures(1), "deeplift", target=1)


def test_numbers_read_out_in_python_are_named_where_the_shares_miss() -> None:
    found = wrap(Traps(lambda net, x: F.relu(net.conv(x)) / net.conv(x).max().item())).explain(
        pictures(1), "deeplift", target=1
    )
    assert any("item" in note for note in found.notes)


def causal(net: Traps, x: Tensor) -> Tensor:
    h = net.conv(x)
    return F.scaled_dot_product_attention(h, 2 * h, h.relu(), is_causal=True)


def padded_keys(net: Traps, x: Tensor) -> Tensor:
    h = net.conv(x).flatten(2).transpose(1, 2)
    hidden = torch.arange(36).expand(len(x), -1) > 20
    out: Tensor = net.attention(h, h, h, key_padding_mask=hidden)[0]
    return out


@pytest.mark.parametrize("function", [causal, padded_keys])
def test_attention_written_out_gives_the_networks_own_score(
    function: Callable[[Traps, Tensor], Tensor],
) -> None:
    model = wrap(Traps(function))
    found = model.explain(pictures(1), "deeplift", target=1)
    assert found.evidence["score"] == pytest.approx(float(model(pictures(1))[0, 1].detach()), abs=1e-12)


def scaled_in_place(net: Traps, x: Tensor) -> Tensor:
    h = net.conv(x)
    h.mul_(3)
    return h


def scaled(net: Traps, x: Tensor) -> Tensor:
    return net.conv(x) * 3


def normed(h: Tensor) -> Tensor:
    return F.batch_norm(h, torch.full((4,), 0.1).to(h), torch.full((4,), 2.0).to(h))


@pytest.mark.parametrize("after", [F.relu, normed])
@pytest.mark.parametrize(
    ("method", "options"),
    [("deeplift", {"rule": "reveal_cancel"}), ("lrp", {"composite": "gamma"})],
)
def test_what_was_known_of_a_sum_is_forgotten_when_it_changes_in_place(
    after: Callable[[Tensor], Tensor], method: str, options: dict[str, str]
) -> None:
    found, wanted = (
        wrap(Traps(lambda net, x, make=make: F.relu(after(make(net, x))))).explain(
            pictures(1), method, target=1, baseline="grey", **options
        )
        if method == "deeplift"
        else wrap(Traps(lambda net, x, make=make: F.relu(after(make(net, x))))).explain(
            pictures(1), method, target=1, **options
        )
        for make in (scaled_in_place, scaled)
    )
    assert torch.allclose(torch.tensor(found.values), torch.tensor(wanted.values), atol=1e-12)


@pytest.mark.parametrize("method", ["deeplift", "lrp"])
def test_an_addition_with_a_factor(method: str) -> None:
    def weighted(net: Traps, x: Tensor) -> Tensor:
        return F.relu(torch.add(net.conv(x), net.other(x), alpha=0.3))

    def plain(net: Traps, x: Tensor) -> Tensor:
        return F.relu(net.conv(x) + 0.3 * net.other(x))

    found, wanted = (wrap(Traps(f)).explain(pictures(1), method, target=1).values for f in (weighted, plain))
    assert torch.allclose(torch.tensor(found), torch.tensor(wanted), atol=1e-12)


def test_a_small_rise_beside_a_large_fall_keeps_its_share_in_single_precision() -> None:
    """ReLU from 1 to below 0: 2e-4 up and 3 down; the Shapley value of the rise is half of it."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 1), nn.ReLU())
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[2e-4, -3.0, 0.0]]))
        net[1].bias.fill_(1)
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="one unit")
    found = model.explain(torch.ones(3, 1, 1), "deeplift", target=0, rule="reveal_cancel", reduce="rgb")
    assert found.values.ravel()[0] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "options"),
    [("deeplift", {}), ("deeplift", {"rule": "reveal_cancel"}), ("lrp", {"composite": "epsilon"})],
)
def test_no_pass_outlives_the_call(method: str, options: dict[str, str]) -> None:
    """A reference cycle would keep every activation until the garbage collector happens to run."""
    model = wrap(Traps(lambda net, x: F.relu(net.conv(x))))
    gc.collect()
    gc.disable()
    try:
        model.explain(pictures(1), method, target=1, **options)
        kept = [o for o in gc.get_objects() if backward_rules in type(o).__mro__]
    finally:
        gc.enable()
    assert not kept


@pytest.mark.parametrize("method", ["deeplift", "lrp", "gradient_times_input", "smooth_grad"])
def test_a_network_that_answers_nothing_is_said(method: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    with torch.no_grad():
        net[0].bias.fill_(-100)
    result = cutaway.VisionModel(net.double().eval(), cutaway.Preprocess(), name="dead").explain(
        torch.rand(1, 3, 8, 8, dtype=torch.float64), method, target=1
    )
    assert not result.values.any()
    assert any("all zero" in note for note in result.notes)


def test_random_numbers_are_the_same_for_picture_and_baseline() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(torch.nn.functional.dropout(torch.relu(x - 0.3).flatten(1), 0.5))
            return out

    model = cutaway.VisionModel(Noisy().double().eval(), cutaway.Preprocess(), name="noisy")
    result = model.explain(torch.rand(1, 3, 8, 8, dtype=torch.float64), "deeplift", target=1)
    assert abs(result.evidence["score"] - result.evidence["baseline score"]) > 1e-6
    assert result.evidence["completeness residual"] < 1e-12


def test_integrated_gradients_goes_on_where_gauss_legendre_was_not_enough() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(torch.sigmoid(400 * (x.flatten(1) - 0.313)))
            return out

    torch.manual_seed(0)
    model = cutaway.VisionModel(Steep().double().eval(), cutaway.Preprocess(), name="steep")
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    short = model.explain(x, "integrated_gradients", target=1, rule="gauss", steps=32)
    result = model.explain(x, "integrated_gradients", target=1)
    assert short.evidence["relative residual"] > 0.01
    assert result.evidence["rule"] == "adaptive"
    assert result.evidence["relative residual"] < 0.01
    assert any("left" in note for note in result.notes)
