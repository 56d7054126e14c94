"""A head of global average pooling and one linear layer, for which class activation maps are exact.

Zhou et al. 2016 replaced the fully connected layers of AlexNet, VGG and GoogLeNet by such a head and trained it.
Here the trunk stays as it is and is shared with the user's network; only the head is fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.errors import InputError, UsageError
from cutaway.core.lookup import class_index
from cutaway.core.model import VisionModel
from cutaway.core.tap import Tap


class GlobalMean(nn.Module):
    """Global average pooling: maps (N, C, h, w) to their means (N, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        """The mean of each map."""
        return maps.mean((2, 3))


class GapNetwork(nn.Module):
    """Class scores S = W mean(A) + b from the maps A of one layer of another network.

    The other network is run up to that layer and no further; it is not copied. Before it is fitted the head is
    zero: every class scores alike.
    """

    def __init__(self, model: VisionModel, layer: str, outputs: int) -> None:
        super().__init__()
        units = model.layers.find(layer).units
        self.trunk = model.network
        self.pool = GlobalMean()
        self.head = nn.Linear(units, outputs, device=model.device, dtype=model.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.layer = layer
        self._model = model

    def forward(self, x: Tensor) -> Tensor:
        """Network input (N, C, H, W) to class scores (N, K)."""
        with Tap(self._model, self.layer, stop=True) as tap:
            self.trunk(x)
        scores: Tensor = self.head(self.pool(tap.maps(self.layer)))
        return scores


@dataclass(frozen=True)
class HeadFit:
    """How well a head was fitted.

    `accuracy` is the share of the pictures it was fitted to that it classifies rightly, `held_out` that of other
    pictures, when any were given; `loss` the mean cross-entropy; `slope` the largest entry of the objective's
    gradient where it stopped, after `steps` steps of L-BFGS.
    """

    accuracy: float
    held_out: float | None
    loss: float
    slope: float
    steps: int


def retrofit_gap(
    model: VisionModel, layer: str | None = None, classes: Sequence[str] | int | None = None
) -> VisionModel:
    """The network up to `layer`, followed by global average pooling and one linear layer that is still to be fitted.

    Parameters
    ----------
    layer : where to cut; the layer table's suggestion when None (`card["gap"]` says which and why).
    classes : the names of the classes, or how many; the model's own when None.

    The network is shared, not copied, and nothing in it changes. After `fit_gap_head` the method "cam" is exact on
    the result: Zhou et al. 2016, arXiv:1512.04150, eq. 2.
    Raises `UnknownNameError` for an unknown layer, `UsageError` for one without maps or when nothing says how many
    classes there are.
    """
    why = "as asked"
    if layer is None:
        layer, why = model.layers.suggest()
    row = model.layers.find(layer)
    if row.layout not in ("map", "nhwc", "tokens") or row.runs != 1:
        found = "has no rows and columns" if row.runs == 1 else f"ran {row.runs} times in one forward pass"
        raise UsageError(f"layer {row.name!r} {found}", "a layer with maps that runs once", "layer=None")
    names = tuple(model.classes) if classes is None else () if isinstance(classes, int) else tuple(classes)
    count = classes if isinstance(classes, int) else len(names)
    if count < 1:
        raise UsageError("the number of classes is not known", "class names, or their number", "classes=10")
    with model.guard():
        network = GapNetwork(model, row.name, count)
    # a new module says it is in training mode; its trunk may well be in evaluation mode, and stays so
    network.training = model.network.training
    network.head.training = model.network.training
    card = {**model.card, "gap": {"network": model.name, "layer": row.name, "reason": why}}
    return VisionModel(
        network, model.preprocess, names, name=f"{model.name} with pooled {row.name}", card=card
    )


def fit_gap_head(
    model: VisionModel,
    pictures: Iterable[Any],
    labels: Sequence[int | str] | Tensor,
    *,
    held_out: tuple[Iterable[Any], Sequence[int | str] | Tensor] | None = None,
    weight_decay: float = 1e-3,
    steps: int = 500,
    batch: int = 32,
) -> HeadFit:
    """Fit the linear head of a network made by `retrofit_gap`, in place; the trunk is only read.

    The pooled features z of every picture are computed once. On z brought to mean 0 and spread 1 for each channel,
    L-BFGS in float64 minimises mean cross-entropy + weight_decay / 2 * |W|^2, a convex problem with one answer; the
    scaling is then folded into the weights. Nothing is random.

    Parameters
    ----------
    pictures : anything `VisionModel.pixels` takes, one by one, or a tensor (N, C, H, W).
    labels : a class number or name for each.
    held_out : further pictures and labels, to be classified only.
    weight_decay : of the weights on scaled features; 0 has no finite answer where classes can be separated.
    steps : at most.
    batch : pictures at a time.

    Raises `UsageError` for another network, labels that do not fit the pictures, or options out of range.
    """
    network = model.network
    if not isinstance(network, GapNetwork):
        raise UsageError(
            f"{model.name} has no head to fit", "a model made by retrofit_gap", "retrofit_gap(model)"
        )
    if weight_decay < 0 or steps < 1 or batch < 1:
        raise UsageError(
            f"weight_decay={weight_decay}, steps={steps}, batch={batch}",
            "weight_decay >= 0, steps >= 1, batch >= 1",
        )
    with model.guard():
        z = _features(model, pictures, batch)
        outputs = network.head.out_features
        y = _labels(labels, model, outputs, len(z))
        weight, bias, loss, slope, done = _logistic(z, y, outputs, weight_decay, steps)
        with torch.no_grad():
            network.head.weight.copy_(weight)
            network.head.bias.copy_(bias)
        accuracy = _accuracy(z, y, weight, bias)
        other = None
        if held_out is not None:
            z = _features(model, held_out[0], batch)
            other = _accuracy(z, _labels(held_out[1], model, outputs, len(z)), weight, bias)
    return HeadFit(accuracy, other, loss, slope, done)


def _features(model: VisionModel, pictures: Iterable[Any], batch: int) -> Tensor:
    """Pooled features (N, C) of pictures, float64 on the processor."""
    parts = []
    with torch.no_grad():
        for some in _batches(pictures, batch):
            pixels = [model.pixels(one) for one in some]
            groups = [torch.cat(pixels)] if len({p.shape[1:] for p in pixels}) == 1 else pixels
            parts += [_pooled(model, group) for group in groups]
    if not parts:
        raise UsageError("no pictures", "at least one picture of each class that is to be told apart")
    z = torch.cat(parts).cpu().double()
    if not bool(torch.isfinite(z).all()):
        raise InputError(
            "the pooled features hold NaN or infinity", "finite numbers", "other pictures or weights"
        )
    return z


def _pooled(model: VisionModel, pixels: Tensor) -> Tensor:
    """The head's input in an ordinary run of the model, so that preprocessing and padding are the model's own."""
    with Tap(model, "pool", raw=True, stop=True) as tap:
        model(pixels)
    return tap["pool"]


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _labels(labels: Sequence[int | str] | Tensor, model: VisionModel, outputs: int, count: int) -> Tensor:
    numbers = [class_index(v, model.classes) if isinstance(v, str) else int(v) for v in labels]
    if len(numbers) != count:
        raise UsageError(f"{len(numbers)} labels for {count} pictures", "one label for each picture")
    bad = [n for n in numbers if not 0 <= n < outputs]
    if bad:
        raise UsageError(f"label {bad[0]}", f"class numbers from 0 to {outputs - 1}")
    return torch.tensor(numbers)


def _logistic(
    z: Tensor, y: Tensor, outputs: int, decay: float, steps: int
) -> tuple[Tensor, Tensor, float, float, int]:
    """Multinomial logistic regression: weights, biases, mean cross-entropy, largest slope, steps taken."""
    mean, spread = z.mean(0), z.std(0, correction=0)
    scale = torch.where(spread > 0, 1 / spread.clamp(min=1e-300), torch.zeros_like(spread))
    scaled = (z - mean) * scale
    weight = torch.zeros(outputs, z.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        max_eval=2 * steps,
        history_size=20,
        tolerance_grad=1e-8,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        entropy = nn.functional.cross_entropy(scaled @ weight.T + bias, y)
        value = entropy + decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(objective)  # type: ignore[no-untyped-call]
        objective()
    slope = max(float(t.grad.abs().max()) for t in (weight, bias) if t.grad is not None)
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(scaled @ weight.T + bias, y))
        folded = weight * scale
        offset = bias - folded @ mean
    done = int(optimiser.state[weight]["n_iter"])
    return folded, offset, loss, slope, done


def _accuracy(z: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float(((z @ weight.T + bias).argmax(1) == y).double().mean())
