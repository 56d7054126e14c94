"""Small networks with known answers, shared by the method tests."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway import Preprocess, VisionModel


def wrap(net: nn.Module, classes: Sequence[str] = (), *, double: bool = True) -> VisionModel:
    return VisionModel(net.double() if double else net, Preprocess(), classes, name=type(net).__name__)


class GapNet(nn.Module):
    """Convolutions, then mean or sum pooling and one linear layer: CAM is exact here."""

    def __init__(self, pooling: str = "mean", width: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, width, 3, padding=1),
            nn.ReLU(),
        )
        self.pooling, self.fc = pooling, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        pooled = maps.mean((2, 3)) if self.pooling == "mean" else maps.sum((2, 3))
        out: Tensor = self.fc(pooled)
        return out


class FlattenNet(nn.Module):
    """Flatten and a linear layer: CAM has no meaning, Grad-CAM has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 8 * 10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.relu(self.conv(x)).flatten(1))
        return out


class Plain(nn.Module):
    """Conv, ReLU, overlapping or disjoint max pool, twice, then linear: a deconvnet by hand is short."""

    def __init__(self, kernel: int = 2, stride: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3)
        self.pool = nn.MaxPool2d(kernel, stride)
        self.fc = nn.Linear(5, 4)
        nn.init.constant_(self.conv2.bias, 0.3)  # every map fires somewhere

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(F.relu(self.conv1(x)))
        h = F.relu(self.conv2(h))
        out: Tensor = self.fc(h.mean((2, 3)))
        return out


def picture(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
