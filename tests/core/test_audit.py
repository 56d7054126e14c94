"""The audit: what bypasses the rules is refused by name, what is right is let through."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.audit import audit
from cutaway.core.errors import MethodRefusedError
from cutaway.core.operators import Family
from cutaway.core.rules import backward_rules
from cutaway.methods.projection.rules import PASSES, guided_relu


class OwnReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: object, signal: Tensor) -> Tensor:  # type: ignore[override]
        return signal


class Linear(OwnReLU):
    """A custom function with the name of a linear operator."""


def mask_without_gradient(h: Tensor) -> Tensor:
    with torch.no_grad():
        mask = (h > 0).to(h)
    return h * mask


def behind_autograd(h: Tensor) -> Tensor:
    h.data.clamp_(min=0)
    return h


def by_index(h: Tensor) -> Tensor:
    h = h.clone()
    h[h < 0] = 0
    return h


def tanh_on_a_view(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :3].tanh_()
    return F.relu(h)


def scripted(h: Tensor) -> Tensor:
    return torch.relu(h)


def scripted_mask(h: Tensor) -> Tensor:
    return h * (h > 0)


BYPASSES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "where": (lambda h: torch.where(h > 0, h, 0), "where"),
    "mask": (lambda h: h * (h > 0), "mul: a product with a mask"),
    "float mask": (lambda h: h * (h > 0).to(h.dtype), "mul: a product with a mask"),
    "in-place mask": (lambda h: h.mul_(h > 0), "mul_ with a mask"),
    "mask from .data": (lambda h: h * (h.data > 0), "mul"),
    "mask from detach": (lambda h: h * (h.detach().sign() + 1) / 2, "mul"),
    "mask of whole channels": (lambda h: h * (h.mean((2, 3), keepdim=True) > 0), "mul"),
    "maximum": (lambda h: torch.maximum(h, torch.zeros_like(h)), "maximum"),
    "max of two": (lambda h: torch.max(h, torch.zeros(1, dtype=h.dtype)), "maximum"),
    "absolute value": (lambda h: (h + h.abs()) / 2, "abs"),
    "square root": (lambda h: (h + (h * h).sqrt()) / 2, "sqrt"),
    "index": (by_index, "__setitem__ with a mask"),
    "masked_fill": (lambda h: h.masked_fill(h < 0, 0.0), "maskedFill"),
    "addcmul": (lambda h: torch.addcmul(torch.zeros_like(h), h, (h > 0).to(h.dtype)), "addcmul"),
    "one over it": (lambda h: 1 / (h + 3), "reciprocal"),
    "mask without gradient": (mask_without_gradient, "mul: a product with a mask"),
    "mask through numpy": (lambda h: h * torch.from_numpy(h.detach().numpy() > 0), "numpy"),
    "mask through a list": (lambda h: h * torch.tensor((h > 0).tolist()), "tolist"),
    "written behind autograd": (behind_autograd, "clamp_"),
    "maximum over a stack": (
        lambda h: torch.stack([h, torch.zeros_like(h)]).amax(0),
        "amax: a maximum over other",
    ),
    "own function called Linear": (Linear.apply, "linear: Linear, a custom autograd function"),
    "own function": (OwnReLU.apply, "ownReLU"),
    "tanh on a view": (tanh_on_a_view, "copySlices"),
    "gelu": (F.gelu, "gelu (smooth or leaky activation)"),
    "leaky": (F.leaky_relu, "leakyRelu"),
    "silu by hand": (lambda h: h * torch.sigmoid(h), "mul (smooth or leaky activation)"),
    "clamp elsewhere": (lambda h: h.clamp(min=-1), "clamp"),
    "softplus": (F.softplus, "softplus"),
}


def refusal(function: Callable[[Tensor], Tensor]) -> str:
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    with backward_rules({Family.RELU: guided_relu}) as mode:
        y = F.conv2d(function(x * 1), w)
    with pytest.raises(MethodRefusedError) as caught:
        audit(y, mode, passes=PASSES, method="guided")
    return caught.value.found


@pytest.mark.parametrize("case", BYPASSES)
def test_spellings_that_bypass_the_rules_are_refused_by_name(case: str) -> None:
    function, name = BYPASSES[case]
    assert re.search(re.escape(name), refusal(function)), refusal(function)


@pytest.mark.filterwarnings("ignore")  # scripting is deprecated upstream; people still have scripted blocks
@pytest.mark.parametrize("function", [scripted, scripted_mask])
def test_scripted_blocks_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    block = torch.jit.script(function)
    for _ in range(3):  # the scripting engine records first and then runs a graph of its own
        assert re.search("relu|mask|differentiableGraph", refusal(block))


def test_linear_operators_and_constant_masks_pass() -> None:
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    shift = torch.rand(6, 1, 1)
    mask = torch.rand(8, 8) > 0.5
    scale = nn.Parameter(torch.rand(6, 1, 1), requires_grad=False)
    with backward_rules({Family.RELU: guided_relu}) as mode:
        h = torch.relu(x) * mask * scale / 3 - 1
        h = (h - shift.to(h)) * shift.type_as(h) * scale.expand_as(h)
        h = torch.where(mask, h, h.roll(1, 2)).flip(3)
        h = F.interpolate(F.pad(h, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")
        h[:, 0] = h[:, 1]
        y = F.pixel_shuffle(h.repeat(1, 2, 1, 1)[:, :4], 2).flatten(1).mean(1)
    assert audit(y, mode, method="guided") == {}


def test_passed_families_are_counted() -> None:
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    with backward_rules({Family.RELU: guided_relu}) as mode:
        h = F.max_pool2d(F.layer_norm(torch.relu(x), (8,)), 2)
        y = h * torch.sigmoid(h.mean((2, 3), keepdim=True))
    assert audit(y, mode, passes=PASSES) == {
        Family.MUL: 1,
        Family.GATE: 1,
        Family.MAX_POOL: 1,
        Family.NORM: 1,
    }
    with backward_rules({Family.RELU: guided_relu}) as mode:
        y = torch.ones(8) / (torch.relu(x) + 3)
    assert audit(y, mode, passes=PASSES) == {Family.MUL: 1}
    with pytest.raises(MethodRefusedError, match="div"):
        audit(y, mode)
    y = F.max_pool2d(x, 2)
    with pytest.raises(MethodRefusedError, match="maxPool2DWithIndices"):
        audit(y, mode, passes=PASSES - {Family.MAX_POOL})


def test_an_in_place_relu_on_a_view_obeys_and_passes() -> None:
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    with backward_rules({Family.RELU: guided_relu}) as mode:
        h = x * 1
        h[:, :3].relu_()
        y = h.mean()
    assert len(mode.placed) == 1
    assert audit(y, mode, method="guided") == {}


def test_a_product_of_two_activations_is_no_linear_operator() -> None:
    x = torch.randn(1, 6, 5, 5, requires_grad=True)
    with backward_rules({Family.RELU: guided_relu}) as mode:
        h = torch.relu(x)
        y = F.conv2d(h, h[:, :, :3, :3])
    assert audit(y, mode, passes=PASSES) == {Family.MUL: 1}
    with pytest.raises(MethodRefusedError, match="convolution"):
        audit(y, mode)


def test_batch_norm_in_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with backward_rules({Family.RELU: guided_relu}) as mode:
        y = net(x)
    with pytest.raises(MethodRefusedError, match="training mode"):
        audit(y, mode, passes=PASSES)
