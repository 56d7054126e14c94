"""A small Keras network of many kinds of layers, and the same network written by hand in PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def keras() -> Any:
    """Keras on torch, as the package imports it."""
    from cutaway.zoo.keras_models import _keras

    return _keras()


def network(
    *,
    size: int = 32,
    classes: int = 5,
    channels: int = 3,
    ending: str | None = "softmax",
    inner: bool = False,
) -> Any:
    """Convolutions of every kind, batch norm, ReLU in four spellings, pooling, an addition, a concatenation."""
    k = keras()
    layers = k.layers
    k.utils.set_random_seed(4)
    picture = k.Input((size, size, channels), name="picture")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(picture)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="block1_conv1")(x)
    x = layers.BatchNormalization(name="block1_bn1")(x)
    x = layers.ReLU(name="block1_relu1")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="block1_pool")(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="block2_depthwise")(x)
    y = layers.SeparableConv2D(8, 3, padding="same", depth_multiplier=2, name="block2_separable")(y)
    x = layers.Add(name="block2_add")([x, y])
    x = layers.Activation("relu", name="block2_relu")(x)
    y = layers.Conv2D(6, 1, activation="relu", name="block3_conv1")(x)
    x = layers.Concatenate(name="block3_concat")([x, y])
    x = layers.ZeroPadding2D(1, name="block3_pad")(x)
    x = layers.Conv2D(12, 3, dilation_rate=1, groups=2, activation="relu", name="block3_conv2")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(10, activation="relu", name="fc1")(x)
    x = layers.Dense(classes, activation=ending, name="predictions")(x)
    model = k.Model(picture, x, name="small")
    numbers = np.random.default_rng(7)
    for w in model.weights:  # statistics and biases that are not what they are at the start
        if "variance" in w.path:
            w.assign(numbers.uniform(0.5, 1.5, w.shape))
        elif any(word in w.path for word in ("mean", "beta", "bias", "gamma")):
            w.assign(numbers.normal(0, 0.3, w.shape) + ("gamma" in w.path))
    if inner:
        return k.Sequential([k.Input((size, size, channels)), model], name="outer")
    return model


def keras_file(folder: Path, **options: Any) -> Path:
    """A .keras file with `network(**options)`."""
    return saved(network(**options), folder / "small.keras")


def saved(model: Any, path: Path) -> Path:
    """Write a Keras model; its own warnings about NumPy are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


class ByHand(nn.Module):
    """`network()` as one would write it in PyTorch, with the weights of a Keras model copied over."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        given = {w.path: w.value.detach().clone() for w in model.weights}
        double = next(iter(given.values())).dtype == torch.float64
        self.block1_conv1 = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.block1_bn1 = nn.BatchNorm2d(8, eps=1e-3)
        self.block2_depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.block2_deep = nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False)
        self.block2_separable = nn.Conv2d(16, 8, 1)
        self.block3_conv1 = nn.Conv2d(8, 6, 1)
        self.block3_conv2 = nn.Conv2d(14, 12, 3, padding=1, groups=2)
        self.fc1, self.predictions = nn.Linear(12, 10), nn.Linear(10, 5)
        if double:
            self.double()
        with torch.no_grad():
            for name in ("block1_conv1", "block3_conv1", "block3_conv2"):
                getattr(self, name).weight.copy_(given[f"{name}/kernel"].permute(3, 2, 0, 1))
            deep = {"block2_depthwise": "block2_depthwise/kernel"}
            deep["block2_deep"] = "block2_separable/depthwise_kernel"
            for name, path in deep.items():
                kernel = given[path].permute(2, 3, 0, 1)
                getattr(self, name).weight.copy_(kernel.reshape(-1, 1, 3, 3))
            self.block2_separable.weight.copy_(given["block2_separable/pointwise_kernel"].permute(3, 2, 0, 1))
            for name in ("fc1", "predictions"):
                getattr(self, name).weight.copy_(given[f"{name}/kernel"].T)
            for name in (
                "block2_depthwise",
                "block2_separable",
                "block3_conv1",
                "block3_conv2",
                "fc1",
                "predictions",
            ):
                getattr(self, name).bias.copy_(given[f"{name}/bias"])
            norm = self.block1_bn1
            norm.weight.copy_(given["block1_bn1/gamma"])
            norm.bias.copy_(given["block1_bn1/beta"])
            norm.running_mean.copy_(given["block1_bn1/moving_mean"])
            norm.running_var.copy_(given["block1_bn1/moving_variance"])
        self.block1_relu1, self.block2_relu, self.block2_add = nn.ReLU(), nn.ReLU(), nn.Identity()
        self.block3_relu, self.block3_concat = nn.ReLU(), nn.Identity()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5) of pictures (N, 3, 32, 32) from 0 to 255."""
        x = self.block1_conv1(F.pad(x / 127.5 - 1, (0, 1, 0, 1)))
        x = self.block1_relu1(self.block1_bn1(x))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)
        y = self.block2_separable(self.block2_deep(F.relu(self.block2_depthwise(x))))
        x = self.block2_relu(self.block2_add(x + y))
        x = self.block3_concat(torch.cat([x, F.relu(self.block3_conv1(x))], 1))
        x = self.block3_relu(self.block3_conv2(x)).mean((2, 3))
        out: Tensor = self.predictions(F.relu(self.fc1(x)))
        return out
