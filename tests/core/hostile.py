"""A network that does everything modules-and-hooks packages stumble over, and its backward pass by hand."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gate = Callable[[Tensor, Tensor], Tensor]


class Hostile(nn.Module):
    """In-place and functional ReLU, one reused module, ceil-mode overlapping pools, groups, squeeze-excite, concat."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.relu = nn.ReLU(inplace=in_place)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.squeeze = nn.Linear(8, 4)
        self.excite = nn.Linear(4, 8)
        self.side = nn.Conv2d(8, 5, 1)
        self.last = nn.Conv2d(13, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)
        torch.manual_seed(3)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)  # type: ignore[operator]
            self.norm.running_var.uniform_(0.5, 2)  # type: ignore[operator]
            self.norm.weight.uniform_(-1, 2)
            self.norm.bias.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.pool(self.relu(self.norm(self.stem(x))))
        b = F.relu(self.grouped(a), inplace=self.in_place)
        c = self.depthwise(b)
        c = c.relu_() if self.in_place else c.relu()
        gate = torch.sigmoid(self.excite(self.relu(self.squeeze(c.mean((2, 3))))))
        c = c * gate[:, :, None, None]
        if self.in_place:
            c += a
        else:
            c = c + a
        d = torch.cat([self.relu(c), F.relu6(self.side(a))], 1)
        e = F.max_pool2d(self.last(d).clamp(min=0), 2)
        out: Tensor = self.head(F.adaptive_avg_pool2d(e, 1).flatten(1))
        return out


def _unpool(signal: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Signals meeting at one switch add up."""
    out = torch.zeros_like(like).flatten(2)
    return out.scatter_add(2, places.flatten(2), signal.flatten(2)).view_as(like)


def manual(net: Hostile, x: Tensor, k: int, gate: Gate) -> tuple[Tensor, Tensor]:
    """(signal at the pixels for output k, the outputs), every step written out."""
    h1 = F.conv2d(x, net.stem.weight, net.stem.bias, stride=2, padding=1)
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()  # type: ignore[operator]
    n1 = (h1 - net.norm.running_mean[:, None, None]) * scale[:, None, None] + net.norm.bias[:, None, None]  # type: ignore[index]
    a, at_a = F.max_pool2d(n1.clamp(min=0), 3, 2, ceil_mode=True, return_indices=True)
    h2 = F.conv2d(a, net.grouped.weight, padding=1, groups=2)
    b = h2.clamp(min=0)
    h3 = F.conv2d(b, net.depthwise.weight, net.depthwise.bias, padding=2, dilation=2, groups=8)
    c = h3.clamp(min=0)
    area = c.shape[2] * c.shape[3]
    h4 = c.mean((2, 3)) @ net.squeeze.weight.T + net.squeeze.bias
    s = torch.sigmoid(h4.clamp(min=0) @ net.excite.weight.T + net.excite.bias)
    h5 = c * s[:, :, None, None] + a
    h6 = F.conv2d(a, net.side.weight, net.side.bias)
    d = torch.cat([h5.clamp(min=0), h6.clamp(0, 6)], 1)
    h7 = F.conv2d(d, net.last.weight, net.last.bias, padding=1)
    e, at_e = F.max_pool2d(h7.clamp(min=0), 2, return_indices=True)
    out = e.mean((2, 3)) @ net.head.weight.T + net.head.bias

    r = (net.head.weight[k][:, None, None] / (e.shape[2] * e.shape[3])).expand_as(e)
    r = gate(h7, _unpool(r, at_e, h7))
    r = F.conv_transpose2d(r, net.last.weight, padding=1)
    left, right = r[:, :8], r[:, 8:]
    if gate(torch.tensor([-1.0]), torch.tensor([1.0])) == 0:
        right = right * (h6 < 6)  # ReLU6 saturates; deconvnet ignores the forward pass
    into_a = F.conv_transpose2d(gate(h6, right), net.side.weight)
    r5 = gate(h5, left)
    into_a = into_a + r5
    into_s = (r5 * c).sum((2, 3)) * s * (1 - s)
    into_c = r5 * s[:, :, None, None]
    into_c = into_c + ((gate(h4, into_s @ net.excite.weight) @ net.squeeze.weight) / area)[:, :, None, None]
    into_b = F.conv_transpose2d(gate(h3, into_c), net.depthwise.weight, padding=2, dilation=2, groups=8)
    into_a = into_a + F.conv_transpose2d(gate(h2, into_b), net.grouped.weight, padding=1, groups=2)
    r1 = gate(n1, _unpool(into_a, at_a, n1)) * scale[:, None, None]
    pad = [(x.shape[i] - 1) % 2 for i in (2, 3)]
    return F.conv_transpose2d(r1, net.stem.weight, stride=2, padding=1, output_padding=pad), out
