"""What the bare network says, asked with plain PyTorch: autograd, hooks and ReLUs written by hand.

Nothing here knows of the package; a method of it is compared with what these functions give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import Network, picture


@dataclass
class Plain:
    """A network, a picture u (1, 3, H, W), and the class that is asked about."""

    network: Network
    net: nn.Module
    u: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.u = picture(self.network.size)

    def scores(self, u: Tensor) -> Tensor:
        """(N, K) for pixels in [0, 1]."""
        return self.raw_scores(self.network.normalised(u))

    def raw_scores(self, z: Tensor) -> Tensor:
        """(N, K) for the network's own input."""
        out = self.net(z)
        return out if isinstance(out, Tensor) else out.logits

    def score(self, u: Tensor) -> float:
        with torch.no_grad():
            return float(self.scores(u)[0, self.target])

    @cached_property
    def target(self) -> int:
        """The class with the largest score."""
        with torch.no_grad():
            return int(self.scores(self.u)[0].argmax())

    @cached_property
    def clean(self) -> float:
        return self.score(self.u)

    def slope(self, u: Tensor) -> Tensor:
        """dS/du for each picture of a batch."""
        u = u.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(self.scores(u)[:, self.target].sum(), u)
        return g

    @cached_property
    def gradient(self) -> Tensor:
        return self.slope(self.u)

    @cached_property
    def maps(self) -> tuple[Tensor, Tensor]:
        """(A, dS/dA) of the network's layer as maps, (1, C, h, w)."""
        target = self.target
        with replaced(self.net, self.network) as leaves:
            score = self.scores(self.u)[0, target]
        (leaf,) = leaves
        (g,) = torch.autograd.grad(score, leaf)
        return self.as_maps(leaf.detach()), self.as_maps(g)

    def as_maps(self, t: Tensor) -> Tensor:
        if self.network.layout == "nhwc":
            return t.permute(0, 3, 1, 2)
        if self.network.layout == "tokens":
            side = int((t.shape[1] - 1) ** 0.5)
            return t[:, 1:].transpose(1, 2).reshape(len(t), -1, side, side)
        return t

    def maps_of(self, u: Tensor) -> Tensor:
        """The layer's maps for a batch of pictures, still in the graph of u."""
        with replaced(self.net, self.network, leaf=False) as seen:
            self.scores(u)
        return self.as_maps(seen[0])

    def through(self, relu: Callable[..., Any]) -> Tensor:
        """dS/du with a backward rule of one's own in every ReLU."""
        u, target = self.u.clone().requires_grad_(), self.target
        with relus(relu):
            score = self.scores(u)[0, target]
        assert abs(float(score.detach()) - self.clean) <= 1e-9 * max(
            abs(self.clean), 1
        )  # nothing but the way back differs
        (g,) = torch.autograd.grad(score, u)
        return g

    @cached_property
    def leaves(self) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
        """(name, module, input, output) of every leaf module, in the order in which they ran."""
        ran: list[tuple[str, nn.Module, Tensor, Tensor]] = []

        def watch(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, out: Any) -> None:
                if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
                    ran.append((name, module, args[0], out))

            return hook

        kinds = (nn.Conv2d, nn.BatchNorm2d)
        watched = [
            (n, m) for n, m in self.net.named_modules() if not any(m.children()) or isinstance(m, kinds)
        ]
        handles = [m.register_forward_hook(watch(n)) for n, m in watched]
        try:
            with torch.no_grad(), functions(ran):
                self.raw_scores(self.network.normalised(self.u))
        finally:
            for handle in handles:
                handle.remove()
        return ran

    @cached_property
    def convolutions(self) -> list[tuple[str, nn.Conv2d]]:
        """The convolutions in the order in which they ran."""
        return [(n, m) for n, m, _, _ in self.leaves if isinstance(m, nn.Conv2d)]


@contextmanager
def replaced(
    net: nn.Module,
    network: Network,
    *,
    leaf: bool = True,
    change: Callable[[Tensor], Tensor] = lambda t: t,
) -> Iterator[list[Tensor]]:
    """While active, the network's layer hands on a leaf of its own with the same numbers, or what `change` makes of
    them; the list receives it.
    """
    found: list[Tensor] = []
    waiting: list[Tensor] = []

    def take(t: Tensor) -> Tensor:
        kept = change(t.detach().requires_grad_() if leaf else t)
        found.append(kept)
        return kept.clone()  # what comes later may overwrite it

    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        if network.after != "relu":
            return take(out)
        waiting.append(out)
        return None

    relu = F.relu

    def after(t: Tensor, inplace: bool = False) -> Tensor:
        return take(relu(t)) if waiting and t is waiting[0] else relu(t, inplace)

    handle = net.get_submodule(network.layer).register_forward_hook(hook)
    try:
        with mock.patch.object(F, "relu", after):
            yield found
    finally:
        handle.remove()


@contextmanager
def relus(function: Callable[..., Any]) -> Iterator[None]:
    """While active, every spelling of ReLU the networks use is `function(h, ceiling)`; other clips run as they are."""
    hardtanh = F.hardtanh

    def clipped(t: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        return function(t, max_val) if min_val == 0 else hardtanh(t, min_val, max_val, inplace)

    def plain(t: Tensor, inplace: bool = False) -> Any:
        return function(t, float("inf"))

    with (
        mock.patch.object(F, "relu", plain),
        mock.patch.object(F, "relu_", plain),
        mock.patch.object(F, "relu6", lambda t, inplace=False: function(t, 6.0)),
        mock.patch.object(F, "hardtanh", clipped),
        mock.patch.object(torch, "relu", plain),
        mock.patch.object(torch.Tensor, "relu", plain),
    ):
        yield


@contextmanager
def functions(ran: list[tuple[str, nn.Module, Tensor, Tensor]]) -> Iterator[None]:
    """While active, ReLU, padding and max pooling written as functions are listed like the modules of their kind."""
    relu, pad, pool = F.relu, F.pad, F.max_pool2d

    def listed(kind: nn.Module, given: Tensor, out: Tensor) -> Tensor:
        ran.append(("", kind, given, out))
        return out

    def pooled(t: Tensor, kernel_size: int, stride: int | None = None, *args: Any, **options: Any) -> Tensor:
        return listed(nn.MaxPool2d(kernel_size, stride), t, pool(t, kernel_size, stride, *args, **options))

    with (
        mock.patch.object(F, "relu", lambda t, inplace=False: listed(nn.ReLU(), t, relu(t, inplace))),
        mock.patch.object(F, "pad", lambda t, *a, **o: listed(nn.Identity(), t, pad(t, *a, **o))),
        mock.patch.object(F, "max_pool2d", pooled),
    ):
        yield


class _Relu(torch.autograd.Function):
    """ReLU forward; its subclasses say what goes back, from the signal R, the input h and the ceiling."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, ceiling: float) -> Tensor:
        ctx.save_for_backward(h)
        ctx.ceiling = ceiling
        return h.clamp(0, ceiling)


class Guided(_Relu):
    @staticmethod
    def backward(ctx: Any, r: Tensor) -> Any:
        (h,) = ctx.saved_tensors
        return torch.where((h > 0) & (h < ctx.ceiling) & (r > 0), r, 0), None


class Rectified(_Relu):
    @staticmethod
    def backward(ctx: Any, r: Tensor) -> Any:
        return torch.where(r > 0, r, 0), None


class Secant(_Relu):
    """From 0 to the value itself: the slope but above a ceiling."""

    @staticmethod
    def backward(ctx: Any, r: Tensor) -> Any:
        (h,) = ctx.saved_tensors
        return torch.where(h > 0, r * h.clamp(max=ctx.ceiling) / h, 0), None


def thresholded(q: float) -> Callable[..., Any]:
    """RectGrad's ReLU for one picture: R where a R lies above its q-th percentile."""

    class Thresholded(_Relu):
        @staticmethod
        def backward(ctx: Any, r: Tensor) -> Any:
            (h,) = ctx.saved_tensors
            weight = h.clamp(0, ctx.ceiling) * r
            tau = float(np.percentile(weight.numpy(), q))
            return torch.where((weight > tau) & (h < ctx.ceiling), r, 0), None

    return Thresholded.apply


@dataclass
class Step:
    """One affine step of a chain without padding: convolution, batch norm or mean pooling."""

    run: Callable[[Tensor], Tensor]
    reach: int  # side of its window
    stride: int
    name: str = ""  # of a convolution


def chain(plain: Plain, layer: str) -> list[Step]:
    """The steps from the picture to a convolution and its batch norm, found by whose output each module was given."""
    by_name = {name: (module, i, o) for name, module, i, o in plain.leaves}
    module, given, out = by_name[layer]
    steps = [convolution(layer, module)]
    above = [m for _, m, i, _ in plain.leaves if i is out and isinstance(m, nn.BatchNorm2d)]
    steps += [batch_norm(above[0])] if above else []
    while given.shape[1] != 3:  # the picture, padded or not
        makers = [(n, m, i) for n, m, i, o in plain.leaves if o is given and i is not given]
        makers = makers or [(n, m, i) for n, m, i, o in plain.leaves if o is given]
        name, module, given = makers[-1]
        if isinstance(module, nn.Conv2d):
            steps.insert(0, convolution(name, module))
        elif isinstance(module, nn.BatchNorm2d):
            steps.insert(0, batch_norm(module))
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            steps.insert(0, mean_pool(module))
        else:
            assert isinstance(
                module, (nn.ReLU, nn.Hardtanh, nn.SiLU, nn.Hardswish, nn.GELU, nn.Identity, nn.Dropout)
            ), name
    return steps


def convolution(name: str, m: nn.Module) -> Step:
    assert isinstance(m, nn.Conv2d)
    assert isinstance(m.dilation[0], int)
    reach = m.dilation[0] * (m.kernel_size[0] - 1) + 1
    return Step(
        lambda x: F.conv2d(x, m.weight, m.bias, m.stride, 0, m.dilation, m.groups), reach, m.stride[0], name
    )


def batch_norm(m: nn.BatchNorm2d) -> Step:
    assert m.running_mean is not None
    assert m.running_var is not None
    factor = m.weight / torch.sqrt(m.running_var + m.eps)
    offset = m.bias - m.running_mean * factor
    return Step(lambda x: x * factor.view(1, -1, 1, 1) + offset.view(1, -1, 1, 1), 1, 1)


def mean_pool(m: nn.Module) -> Step:
    side = m.kernel_size if isinstance(m.kernel_size, int) else m.kernel_size[0]
    step = m.stride if isinstance(m.stride, int) else m.stride[0]
    return Step(lambda x: F.avg_pool2d(x, side, step), side, step)


def window(steps: list[Step]) -> int:
    """Side of the square of pixels that one position of the last step sees."""
    side = 1
    for step in reversed(steps):
        side = (side - 1) * step.stride + step.reach
    return side


def run(steps: list[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step.run(x)
    return x


def legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre places and weights on [0, 1] (Golub & Welsch 1969: the eigenvalues of the Jacobi matrix)."""
    k = np.arange(1, count)
    side = k / np.sqrt(4 * k**2 - 1)
    places, vectors = np.linalg.eigh(np.diag(side, 1) + np.diag(side, -1))
    return (places + 1) / 2, vectors[0] ** 2
