"""LeNet-5 with ReLU and max pooling, for 28x28 digits (after LeCun 1998)."""

import torch
from torch import Tensor, nn


class LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.max_pool2d(self.conv1(x).relu(), 2)
        h = torch.max_pool2d(self.conv2(h).relu(), 2)
        return self.fc3(self.fc2(self.fc1(h.flatten(1)).relu()).relu())


def build() -> nn.Module:
    return LeNet5()
