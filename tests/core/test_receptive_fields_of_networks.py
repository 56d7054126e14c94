"""Receptive fields of whole networks: the formula's box is where the gradient of positive weights is not zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet
from torchvision.models.googlenet import GoogLeNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers

from cutaway.core.geometry import Box, receptive_field
from cutaway.core.trace import trace

VGG16 = [4, 4, "M", 4, 4, "M", 6, 6, 6, "M", 6, 6, 6, "M", 6, 6, 6, "M"]


class Dilated(nn.Module):
    """A backbone whose last stage keeps its size and reads ever farther apart, with a residual (Yu & Koltun 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 7, 2, 3)
        self.near, self.far = nn.Conv2d(4, 4, 3, 1, 2, 2), nn.Conv2d(4, 4, 3, 1, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return x + self.far(F.relu(self.near(x)))


class Decoder(nn.Module):
    """Down by strides and up again by transposed convolutions, with a way across (Ronneberger 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 5, 2, 2)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ConvTranspose2d(8, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down(x))
        b = self.up(F.relu(self.deep(a)))
        return self.out(torch.cat([a, b], 1))


def headless(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without its large linear layers, which see everything."""
    with torch.device("meta"):
        net = build()
    net.classifier = nn.Identity()
    return net.to_empty(device="meta" if torch.empty(0).is_meta else "cpu")


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    "alexnet": (
        lambda: headless(torchvision.models.AlexNet),
        259,
        ("features.0", "features.3", "features.6", "features.8", "features.10", "features.12"),
    ),
    "vgg16": (
        lambda: headless(lambda: VGG(make_layers(VGG16), num_classes=2, init_weights=False)),
        224,
        ("features.14", "features.21", "features.28", "features.30"),
    ),
    "resnet18": (
        lambda: ResNet(BasicBlock, [2, 2, 2, 2], num_classes=2),
        160,
        ("layer1", "layer2", "layer3"),
    ),
    "resnet50": (
        lambda: ResNet(Bottleneck, [3, 4, 6, 3], num_classes=2, width_per_group=4),
        160,
        ("layer1", "layer2", "layer3"),
    ),
    "googlenet": (
        lambda: GoogLeNet(num_classes=2, aux_logits=False, init_weights=False),
        128,
        ("conv3", "inception3a", "maxpool3", "inception4b"),
    ),
    "densenet": (
        lambda: DenseNet(4, (3, 4, 6, 3), 8, num_classes=2),
        128,
        ("features.denseblock1", "features.transition1", "features.denseblock2", "features.transition2"),
    ),
    "mobilenet_v2": (
        lambda: torchvision.models.MobileNetV2(num_classes=2, width_mult=0.25),
        160,
        ("features.3", "features.6", "features.10", "features.13"),
    ),
    "dilated": (Dilated, 64, ("near", "far", "")),
    "decoder": (Decoder, 64, ("deep", "up", "", "out")),
}


def positive(net: nn.Module) -> nn.Module:
    """Positive weights of mean 1 / fan-in, frozen norms, and every maximum an average: no signal cancels or is shut."""
    generator = torch.Generator().manual_seed(0)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, mean)
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_((torch.rand(parameter.shape, generator=generator) + 0.5) / fan)
        for module in net.modules():
            if isinstance(getattr(module, "bias", None), Tensor):
                module.bias.zero_()  # or it would grow, layer by layer, beyond the ceiling of ReLU6
    return net.eval()


def outputs(net: nn.Module, layers: tuple[str, ...], x: Tensor) -> dict[str, Tensor]:
    """What the layers give, from one pass."""
    kept: dict[str, Tensor] = {}
    for layer in layers:
        net.get_submodule(layer).register_forward_hook(
            lambda module, args, out, at=layer: kept.update({at: out})
        )
    net(x)
    return kept


def support(maps: Tensor, x: Tensor, row: int, column: int, channel: int | None) -> Box | None:
    """The box around the pixels with a gradient, for one unit or the sum of all channels."""
    unit = maps[0, :, row, column].sum() if channel is None else maps[0, channel, row, column]
    (gradient,) = torch.autograd.grad(unit, x, retain_graph=True)
    rows, columns = (gradient[0] > 0).any(0).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return Box(int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max()))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_field_is_the_support_of_the_gradient(network: str) -> None:
    build, size, layers = NETWORKS[network]
    torch.manual_seed(0)
    net = build().eval()
    x = 1e-4 * (1 + torch.rand(1, 3, size, size + 7))  # small, so that no ReLU6 reaches its ceiling
    ran = trace(net, x)
    fields = {}
    for layer in layers:
        count, high, wide = ran.value_shape(ran.value(layer))[1:]
        units = ((0, 0, None), (high // 2, wide // 2, None), (high - 1, wide // 3, count - 1))
        for row, column, channel in units:
            found = receptive_field(ran, layer, row, column, channel=channel)
            assert not found.whole
            fields[layer, row, column, channel] = found.clipped
    x.requires_grad_()
    maps, smaller = outputs(positive(net), layers, x), 0
    for (layer, *unit), box in fields.items():
        assert box == support(maps[layer], x, *unit), (layer, unit)
        smaller += box is not None and box.height < size
    assert smaller >= 4  # a field as large as the picture would prove nothing


@pytest.mark.parametrize(
    ("network", "layer", "field"),
    [
        ("alexnet", "features.10", 163),
        ("vgg16", "features.28", 196),
        ("vgg16", "features.30", 212),
        ("resnet18", "layer4", 435),
        ("resnet50", "layer4", 427),
    ],
)
def test_the_thin_networks_have_the_published_fields(network: str, layer: str, field: int) -> None:
    build = NETWORKS[network][0]
    with torch.device("meta"):
        ran = trace(build().eval(), torch.zeros(1, 3, 512, 512))
    high, wide = ran.value_shape(ran.value(layer))[-2:]
    found = receptive_field(ran, layer, high // 2, wide // 2).unclipped
    assert (found.height, found.width) == (field, field)
