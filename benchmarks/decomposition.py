"""LRP and DeepLIFT in forward passes, with what their shares miss, beside zennit, Captum and shap.

Every side gets the same network with random weights, the same 224 px picture and the same class; DeepLIFT sides the same
grey baseline. The yardstick of time is one plain forward pass without gradients; the yardstick of truth is how far
the shares are from adding up to what they explain: the score of the class for LRP on a network without biases, the
difference of the scores for DeepLIFT, both as a share of that number. A peer that raises is shown with its error.
Cutaway is timed as the map alone, which is what the peers compute; zennit with the canonizer its documentation asks
for; Captum and shap through their public calls with their defaults.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import shap
import torch
import torchvision
from captum.attr import LRP, DeepLift
from timing import paired, ratio, report
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus
from zennit.torchvision import ResNetCanonizer, SequentialMergeBatchNorm

import cutaway
from cutaway.methods import METHODS

CLASS = 7


def unbiased(net: nn.Module) -> nn.Module:
    """No biases anywhere, so that every rule should conserve the whole score; batch norm gets a spread of scales."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.data.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return net


def lrp_sides(net: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="net")
    target = cutaway.logit(CLASS).resolve(model)

    def ours() -> Tensor:
        with model.guard():
            return METHODS["lrp"].function(model, x, target, composite="epsilon_plus").values

    canonizers = [
        ResNetCanonizer() if isinstance(net, torchvision.models.ResNet) else SequentialMergeBatchNorm()
    ]
    theirs, captums = copy.deepcopy(net), copy.deepcopy(net)

    def zennit() -> Tensor:
        with Gradient(theirs, EpsilonPlus(canonizers=canonizers)) as attributor:
            return attributor(x, lambda out: out * torch.eye(1000)[[CLASS]])[1].sum(1)

    def captum() -> Tensor:
        return LRP(captums).attribute(x, target=CLASS).sum(1)

    return {"cutaway": ours, "zennit": zennit, "captum": captum}


def lift_sides(net: nn.Module, x: Tensor, start: Tensor) -> dict[str, Callable[[], Tensor]]:
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="net")
    target = cutaway.logit(CLASS).resolve(model)

    def ours() -> Tensor:
        with model.guard():
            return METHODS["deeplift"].function(model, x, target, baseline="grey").values

    captums, shaps = copy.deepcopy(net), copy.deepcopy(net)
    for other in (captums, shaps):
        for module in other.modules():
            if hasattr(module, "inplace"):
                module.inplace = False  # both ask for it

    def captum() -> Tensor:
        return DeepLift(captums).attribute(x, start, target=CLASS).sum(1)

    def deep() -> Tensor:
        explainer = shap.DeepExplainer(_One(shaps), start)
        return torch.as_tensor(explainer.shap_values(x, check_additivity=False)).squeeze(-1).sum(1)

    return {"cutaway": ours, "captum": captum, "shap": deep}


class _One(nn.Module):
    """The class's score alone: shap explains every output there is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, CLASS : CLASS + 1]


def rows_of(
    method: str, name: str, net: nn.Module, x: Tensor, sides: dict[str, Callable[[], Tensor]], whole: float
) -> list[list[str]]:
    def forward() -> Tensor:
        with torch.inference_mode():
            return net(x)

    missing, works = {}, {"forward": forward}
    for side, run in sides.items():
        try:
            missing[side] = f"{abs(float(run().sum()) - whole) / abs(whole):.1e}"
            works[side] = run
        except Exception as error:
            missing[side] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    seconds = paired(works, rounds=5, warm=1)
    rows = []
    for side in sides:
        cost = "-"
        if side in seconds:
            middle, low, high = ratio(seconds[side], seconds["forward"])
            cost = f"{middle:.1f} ({low:.1f} to {high:.1f})"
        rows.append([method, name, side, cost, missing[side]])
    return rows


def main() -> None:
    warnings.simplefilter("ignore")
    rows: list[list[str]] = []
    for name in ("vgg16", "resnet18"):
        torch.manual_seed(0)
        net = unbiased(torchvision.models.get_model(name, weights=None).eval())
        x, start = torch.rand(1, 3, 224, 224), torch.full((1, 3, 224, 224), 0.5)
        with torch.no_grad():
            score, rest = float(net(x)[0, CLASS]), float(net(start)[0, CLASS])
        rows += rows_of("LRP, z+ and epsilon", name, net, x, lrp_sides(net, x), score)
        rows += rows_of("DeepLIFT, Rescale", name, net, x, lift_sides(net, x, start), score - rest)
    columns = ["method", "network", "side", "forwards, median (quartiles)", "missing share"]
    report("Decomposition cost: forward passes, and what the shares miss", columns, rows, rows)


if __name__ == "__main__":
    main()
