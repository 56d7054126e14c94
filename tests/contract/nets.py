"""Small architectures, each written in several spellings of ReLU and pooling."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.core.image import Photo, read
from cutaway.nn.generators import FeatureGenerator

SPELLINGS = ("module", "in_place", "reused", "functional", "method")


class Spelled(nn.Module):
    """Gives its subclasses ReLU and 2x2 max pooling in one of the spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        if spelling in ("module", "in_place"):
            self.relus = nn.ModuleList(nn.ReLU(inplace=spelling == "in_place") for _ in range(8))
            self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(4))
        elif spelling == "reused":
            self.one_relu, self.one_pool = nn.ReLU(), nn.MaxPool2d(2)

    def relu(self, h: Tensor, i: int) -> Tensor:
        out: Tensor = {
            "module": lambda: self.relus[i](h),
            "in_place": lambda: self.relus[i](h),
            "reused": lambda: self.one_relu(h),
            "functional": lambda: F.relu(h),
            "method": lambda: h.clamp(min=0) if i % 2 else h.relu(),
        }[self.spelling]()
        return out

    def pool(self, h: Tensor, i: int) -> Tensor:
        out: Tensor = {
            "module": lambda: self.pools[i](h),
            "in_place": lambda: self.pools[i](h),
            "reused": lambda: self.one_pool(h),
            "functional": lambda: F.max_pool2d(h, 2),
            "method": lambda: torch.max_pool2d(h, (2, 2), (2, 2)),
        }[self.spelling]()
        return out


class Chain(Spelled):
    """Convolutions, pooling, Flatten and two linear layers (AlexNet, VGG)."""

    def __init__(self, spelling: str = "module") -> None:
        super().__init__(spelling)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8 * 16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.relu(self.conv1(x), 0), 0)
        h = self.pool(self.relu(self.conv2(h), 1), 1)
        out: Tensor = self.fc2(self.relu(self.fc1(h.flatten(1)), 2))
        return out


class Block(Spelled):
    """Two convolutions with batch norm and a residual add (ResNet's basic block)."""

    def __init__(self, spelling: str = "module") -> None:
        super().__init__(spelling)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, h: Tensor) -> Tensor:
        g = self.relu(self.norm1(self.conv1(h)), 1)
        return self.relu(self.norm2(self.conv2(g)) + h, 2)


class Residual(Spelled):
    """Batch norm, a residual block, mean pooling and one linear layer (ResNet)."""

    def __init__(self, spelling: str = "module") -> None:
        super().__init__(spelling)
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.block, self.fc = Block(spelling), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(self.pool(self.relu(self.norm0(self.stem(x)), 0), 0))
        out: Tensor = self.fc(h.mean((2, 3)))
        return out


class Concatenated(Spelled):
    """Branches that are concatenated, grouped convolution, a fully convolutional head (SqueezeNet, GoogLeNet)."""

    def __init__(self, spelling: str = "module") -> None:
        super().__init__(spelling)
        self.squeeze = nn.Conv2d(3, 6, 1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.final = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = self.relu(self.squeeze(x), 0)
        h = torch.cat([self.relu(self.left(s), 1), self.relu(self.right(s), 2)], 1)
        return self.relu(self.final(self.pool(h, 0)), 3).mean((2, 3))


class Gated(Spelled):
    """Depthwise convolution and squeeze-excite (RegNet, MobileNet)."""

    def __init__(self, spelling: str = "module") -> None:
        super().__init__(spelling)
        self.stem, self.depth = (
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.Conv2d(6, 6, 3, padding=1, groups=6),
        )
        self.norm, self.down, self.up = nn.BatchNorm2d(6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm(self.depth(self.relu(self.stem(x), 0))), 1)
        gate = torch.sigmoid(self.up(self.relu(self.down(h.mean((2, 3))), 2)))
        out: Tensor = self.fc((h * gate[:, :, None, None]).mean((2, 3)))
        return out


class Smooth(nn.Module):
    """No ReLU at all (ConvNeXt, EfficientNet)."""

    def __init__(self, spelling: str = "module") -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.gelu(self.conv2(F.silu(self.conv1(x)))).mean((2, 3)))
        return out


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "chain": Chain,
    "residual": Residual,
    "concatenated": Concatenated,
    "gated": Gated,
    "smooth": Smooth,
}


def build(name: str, spelling: str = "module", *, seed: int = 5) -> nn.Module:
    """The architecture in float64 with weights and batch-norm statistics that depend on the seed alone."""
    net = ARCHITECTURES[name](spelling).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, t in net.state_dict().items():
            if t.is_floating_point():
                noise = torch.rand(t.shape, generator=generator, dtype=t.dtype)
                fan = max(t[0].numel(), 1) if t.ndim > 1 else 4
                t.copy_(noise + 0.5 if "running_var" in key else (noise - 0.4) * 3 / fan**0.5)
    return net


def generator() -> FeatureGenerator:
    """One that draws pictures of 16 x 16 pixels from codes of 6 numbers; always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FeatureGenerator(6, 1, side=16, widths=(8, 4))


class Shown:
    """Eleven pictures of 16 x 16 pixels, without labels."""

    labels = None
    names = tuple(f"{i}.png" for i in range(11))

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.pixels = torch.rand(11, 3, 16, 16, generator=random, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, number: int) -> Photo:
        return read(self.pixels[number])

    def fingerprint(self, numbers: Any = None) -> str:
        return "shown"
