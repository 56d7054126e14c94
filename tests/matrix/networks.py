"""The networks of the matrix: the published architectures in float64, with weights drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torchvision.models as tv
from torch import Tensor, nn

import cutaway

MEAN, STD = (0.45, 0.5, 0.55), (0.25, 0.3, 0.2)
CLASSES = ("ant", "bee", "cat", "dog", "elk")


@dataclass(frozen=True)
class Network:
    """One column of the matrix, with what oracles know of it beforehand.

    `layer` is the module whose output, or with `after="relu"` what a ReLU makes of it, the class activation maps
    read; `layout` says how that output holds its maps. `head` is the last linear layer. `centre` is (pixel under the
    first position, pixels from one position to the next), worked out by hand from kernels, strides and paddings, and
    None where a position has no one centre: behind squeeze-excite, within attention, or where padding repeats the
    border. `rectified` says that every bend is a ReLU or max pooling, so that the score is linear between kinks. The
    network takes (range u - mean) / std of pixels u; `zero` is the colour that its first convolution sees as 0. `read`
    gives what the package makes of a file, to be compared with what `build` gives; otherwise the package is handed the
    very same network.
    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    layer: str
    head: str
    centre: tuple[float, float] | None
    size: int = 64
    after: Literal["", "relu"] = ""
    layout: Literal["nchw", "nhwc", "tokens"] = "nchw"
    rectified: bool = False
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    range: float = 1.0
    zero: tuple[float, float, float] = MEAN
    read: Callable[[], nn.Module] | None = None

    def normalised(self, u: Tensor) -> Tensor:
        """Pixels as the network takes them."""
        mean, std = (u.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (self.range * u - mean) / std


def _vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(tv, name)(weights=None, num_classes=len(CLASSES), **options)


def _timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        made: nn.Module = timm.create_model(name, pretrained=False, num_classes=len(CLASSES))
        return made

    return build


def _transformers() -> nn.Module:
    from tests.zoo import small_hf

    made: nn.Module = small_hf.network("resnet", len(CLASSES))[0]
    return made


def _saved_transformers() -> nn.Module:
    from tests.zoo import small_hf

    with TemporaryDirectory() as folder:
        return cutaway.load(f"hf:{small_hf.hf_folder(Path(folder), classes=len(CLASSES))}").network


def _keras() -> nn.Module:
    from tests.zoo import small_keras

    return small_keras.ByHand(small_keras.network(ending=None))


def _saved_keras() -> nn.Module:
    from tests.zoo import small_keras

    with TemporaryDirectory() as folder:
        return cutaway.load(f"keras:{small_keras.keras_file(Path(folder), ending=None)}").network


_TWO_HEADS = {"aux_logits": False, "init_weights": False}
_LAST_TOKENS = "encoder.layers.encoder_layer_11.ln_1"  # after this attention only the class token is read

NETWORKS = {
    n.name: n
    for n in (
        Network("alexnet", "AlexNet", _vision("alexnet"), "features.11", "classifier.6", (15, 16), rectified=True),
        Network("vgg11_bn", "VGG-11-BN", _vision("vgg11_bn", init_weights=False), "features.27", "classifier.6",
                (7.5, 16), rectified=True),
        Network("resnet18", "ResNet-18", _vision("resnet18"), "layer4", "fc", (0, 32), rectified=True),
        Network("squeezenet1_1", "SqueezeNet 1.1", _vision("squeezenet1_1"), "features", "", (15, 16), rectified=True),
        Network("googlenet", "GoogLeNet", _vision("googlenet", transform_input=False, **_TWO_HEADS), "inception5b", "fc",
                (22, 32), rectified=True),
        Network("inception_v3", "Inception-v3", _vision("inception_v3", transform_input=False, **_TWO_HEADS), "Mixed_7c",
                "fc", (37, 32), size=128, rectified=True),
        Network("densenet121", "DenseNet-121", _vision("densenet121"), "features", "classifier", (14, 32), after="relu",
                rectified=True),
        Network("mobilenet_v2", "MobileNet-v2", _vision("mobilenet_v2"), "features", "classifier.1", (0, 32),
                rectified=True),
        Network("mobilenet_v3_small", "MobileNet-v3 small", _vision("mobilenet_v3_small"), "features", "classifier.3",
                None),
        Network("efficientnet_b0", "EfficientNet-B0", _vision("efficientnet_b0"), "features", "classifier.1", None),
        Network("shufflenet_v2_x0_5", "ShuffleNet-v2", _vision("shufflenet_v2_x0_5"), "conv5", "fc", (0, 32),
                rectified=True),
        Network("regnet_y_400mf", "RegNet-Y", _vision("regnet_y_400mf"), "trunk_output", "fc", None),
        Network("convnext_tiny", "ConvNeXt-tiny", _vision("convnext_tiny"), "features", "classifier.2", (15.5, 32)),
        Network("vit_b_16", "ViT-B/16", _vision("vit_b_16", image_size=64), _LAST_TOKENS, "heads.head", None,
                layout="tokens"),
        Network("swin_t", "Swin-T", _vision("swin_t"), "norm", "head", None, layout="nhwc"),
        Network("mobilenetv4_conv_small", "timm MobileNet-v4", _timm("mobilenetv4_conv_small"), "blocks", "classifier",
                (0, 32), rectified=True),
        Network("hf_resnet", "Hugging Face ResNet", _transformers, "resnet.encoder.stages.1", "classifier.1", (0, 8),
                rectified=True, read=_saved_transformers),
        Network("keras_small", "Keras", _keras, "block3_conv2", "", None, size=32, after="relu", rectified=True,
                mean=(0, 0, 0), std=(1, 1, 1), range=255, zero=(0.5, 0.5, 0.5), read=_saved_keras),
    )
}  # fmt: skip


def built(network: Network) -> tuple[nn.Module, cutaway.VisionModel]:
    """The bare network, in float64 and evaluation mode, its weights not differentiated; and the package's model."""
    nets = [
        make().double().eval().requires_grad_(False)
        for make in (network.build, network.read)
        if make is not None
    ]
    if network.build is not _keras:  # Keras weights come with the file, and are drawn there
        for net in nets:
            fill(net)
            settle_norms(net, network)
    prep = cutaway.Preprocess(mean=network.mean, std=network.std, range=network.range)
    return nets[0], cutaway.VisionModel(nets[-1], prep, CLASSES, name=network.title)


def picture(size: int, seed: int = 1) -> Tensor:
    """Soft blobs of colour under fine grain, (1, 3, size, size) in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=generator, dtype=torch.float64)
    large = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0.05, 0.95)
    return 0.8 * large + 0.2 * torch.rand(1, 3, size, size, generator=generator, dtype=torch.float64)


def fill(net: nn.Module) -> None:
    """Every number anew, so that no layer is silent and activations stay of the order of 1."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for key, t in net.state_dict().items():
            if not t.is_floating_point() or "running" in key:
                continue
            torch.randn(t.shape, generator=generator, dtype=t.dtype, out=t)
            name = key.rpartition(".")[2]
            if "layer_scale" in key or "gamma" in name:
                t.mul_(0.1).add_(0.5)
            elif "token" in name or "pos" in name:
                t.mul_(0.3)
            elif t.ndim > 1:
                t.mul_(math.sqrt(2 / t[0].numel()))
            elif name == "weight":  # of a norm
                t.mul_(0.2).add_(1)
            else:
                t.mul_(0.1)


def settle_norms(net: nn.Module, network: Network) -> None:
    """Batch-norm statistics those of a few pictures, then moved at random."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    kept = [m.momentum for m in norms]
    for m in norms:
        m.train()
        m.momentum = 1.0
    x = torch.cat([picture(network.size, seed) for seed in range(2, 6)])
    with torch.no_grad():
        net(network.normalised(x))
        generator = torch.Generator().manual_seed(12)
        for m, momentum in zip(norms, kept, strict=True):
            assert m.running_mean is not None
            assert m.running_var is not None
            draw = torch.rand(2, m.num_features, generator=generator, dtype=torch.float64)
            m.running_mean.add_((draw[0] - 0.5) * m.running_var.sqrt())
            m.running_var.mul_(0.7 + 0.8 * draw[1]).add_(1e-3)
            m.momentum = momentum
            m.eval()
