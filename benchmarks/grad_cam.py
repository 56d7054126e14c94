"""Grad-CAM cost: one explanation in forward passes, beside pytorch-grad-cam, torchcam and Captum.

Every side gets the same network, the same 224 px tensor and the same class, and gives the map of `layer4`. The
yardstick is one plain forward pass without gradients. Cutaway is timed through its public `explain`, which also
reads and checks the picture and makes a result with provenance, and as the map alone, which is what the peers
compute; the peers through their public calls with their defaults. The reason for the difference: the peers build
the autograd graph of the whole network (some also for the parameters) and differentiate all of it; Cutaway builds
a graph above the layer only.
"""

from collections.abc import Callable

import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timing import paired, ratio, report
from torch import nn
from torchcam.methods import GradCAM as TorchCam

import cutaway
from cutaway.methods import METHODS


def sides(net: nn.Module, x: torch.Tensor, k: int) -> dict[str, Callable[[], object]]:
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="resnet")
    layer = net.get_submodule("layer4")
    grad_cam = GradCAM(model=net, target_layers=[layer])
    captum = LayerGradCam(net, layer)

    def forward() -> object:
        with torch.inference_mode():
            return net(x)

    def torchcam() -> object:
        with TorchCam(net, "layer4") as peer:
            out = net(x)
            return peer(k, out)

    target = cutaway.logit(k).resolve(model)

    def alone() -> object:
        with model.guard():
            return METHODS["grad_cam"].function(model, x, target, layer="layer4")

    return {
        "forward": forward,
        "cutaway, map alone": alone,
        "cutaway": lambda: model.explain(x, "grad_cam", k, layer="layer4"),
        "pytorch-grad-cam": lambda: grad_cam(input_tensor=x, targets=[ClassifierOutputTarget(k)]),
        "torchcam": torchcam,
        "captum": lambda: captum.attribute(x, target=k),
    }


def main() -> None:
    rows, data = [], {}
    for name in ("resnet18", "resnet50"):
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=None).eval()
        seconds = paired(sides(net, torch.rand(1, 3, 224, 224), 7), rounds=25)
        data[name] = seconds
        for side, times in seconds.items():
            if side != "forward":
                cost = ratio(times, seconds["forward"])
                faster = ratio(times, seconds["cutaway"])
                rows.append(
                    [name, side, f"{cost[0]:.2f} ({cost[1]:.2f} to {cost[2]:.2f})", f"{faster[0]:.2f}"]
                )
    columns = ["network", "side", "forwards, median (quartiles)", "times cutaway's"]
    report("Grad-CAM cost: forward passes for one map", columns, rows, data)


if __name__ == "__main__":
    main()
