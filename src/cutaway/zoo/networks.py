"""The small convolutional network that ships with Cutaway, twice: once for scenes, once for CIFAR-10."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions, the second one residual, then an optional 2x2 max pooling.

    ``h = relu(bn1(conv1(x)))`` changes the number of channels;
    ``y = relu(h + bn2(conv2(h)))`` refines them (He 2016, arXiv:1512.03385, with the shortcut taken
    after the first convolution, so that it never needs a projection). Every ReLU is its own module.
    """

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H/2, W/2)``, or the same height and width unpooled."""
        h = self.relu1(self.bn1(self.conv1(x)))
        h = self.relu2(h + self.bn2(self.conv2(h)))
        pooled: Tensor = self.pool(h)
        return pooled


class SmallNet(nn.Module):
    """A network small enough to read: stem, residual blocks, global average pooling, one linear head.

    ``widths`` gives the channels of the stem and then of each block; every block but the last halves
    height and width, so class activation maps (Zhou 2016, arXiv:1512.04150) keep a useful resolution.
    Input is a normalised batch ``(N, 3, H, W)``, output the logits ``(N, classes)``.

    >>> net = SmallNet(10, widths=(8, 8, 16))
    >>> [name for name, _ in net.named_children()]
    ['stem', 'block1', 'block2', 'gap', 'flatten', 'head']
    """

    def __init__(
        self, classes: int, *, widths: Sequence[int], stem_kernel: int = 3, stem_stride: int = 1
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential()
        self.stem.add_module(
            "conv", nn.Conv2d(3, first, stem_kernel, stride=stem_stride, padding=stem_kernel // 2, bias=False)
        )
        self.stem.add_module("bn", nn.BatchNorm2d(first))
        self.stem.add_module("relu", nn.ReLU())
        self.blocks = len(widths) - 1
        for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            self.add_module(f"block{number}", Block(inputs, outputs, pool=number < self.blocks))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of a normalised batch ``(N, 3, H, W)``."""
        h = self.stem(x)
        for number in range(1, self.blocks + 1):
            h = self.get_submodule(f"block{number}")(h)
        logits: Tensor = self.head(self.flatten(self.gap(h)))
        return logits


def parameter_count(network: nn.Module) -> int:
    """How many numbers training may change (batch-norm statistics are not among them)."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-accumulate operations of all convolutions and linear layers for one square image."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1)

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return total
