"""SmoothGrad: the gradient, averaged over noisy copies of the picture."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Range, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target, flat, gradient, score

from .portions import portion


@method(
    title="SmoothGrad",
    chapter="gradient",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Smilkov et al. 2017, arXiv:1706.03825, sec. 3",
    tags=Tags(family="sensitivity", level="high"),
    caveat="Pleasant to look at, but it describes a neighbourhood whose size you chose, not this picture alone.",
    laws={"class sensitive", "weights sensitive"},
    random=True,
)
def smooth_grad(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    samples: Annotated[int, Range(1, 10_000), "noisy copies of the picture"] = 50,
    sigma: Annotated[float, Range(0, 10), "standard deviation of the noise, as a share of max - min"] = 0.15,
    variant: Annotated[
        Literal["mean", "squared", "variance"], "of the gradients: mean, mean square, or variance"
    ] = "mean",
    reduce: Annotated[
        Literal["max", "sum", "rgb"], "over colours: largest, sum of sizes, or every colour by itself"
    ] = "max",
) -> Steps[Raw]:
    """The mean of the signed gradients at the picture plus Gaussian noise.

    Pixel space: g_k = dS/du at u + sigma (max u - min u) n_k with n_k ~ N(0, 1), not clipped to [0, 1];
    M = (1/n) sum g_k (Smilkov 2017, sec. 3). `variant="squared"` gives (1/n) sum g_k^2 (Hooker et al. 2019,
    arXiv:1806.10758, sec. 3), "variance" (1/n) sum (g_k - M)^2 (Adebayo et al. 2018, arXiv:1810.03307, sec. 2).
    Only then colours are reduced, by size as in saliency: (N, H, W); "rgb" keeps (N, 3, H, W), signed for the
    mean. Every picture of a batch meets the same noise, scaled by its own range, hence what it would get alone.
    The evidence holds sigma in pixel units and the standard error of the mean, as a share of its size (root mean
    squares over the picture). Cost: one forward and one backward pass per sample.
    Raises `MethodRefusedError` when the target cannot be differentiated.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="linear")
    >>> result = model.explain(torch.rand(3, 2, 2), "smooth_grad", target=1, samples=3)
    >>> w = net[1].weight[1].detach().view(3, 2, 2)
    >>> torch.allclose(torch.tensor(result.values), w.abs().amax(0))
    True
    """
    x = x.detach()
    goals = [target.alone(i) for i in range(len(x))]
    deviation = sigma * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))  # Smilkov 2017, sec. 4: share of max - min
    with torch.no_grad():
        value = torch.cat([score(model, x[i : i + 1], goal) for i, goal in enumerate(goals)])
    moments = [_Moments() for _ in goals]
    size = portion(x)
    for done in range(0, samples, size):
        count = min(size, samples - done)
        # drawn one by one on the processor: the numbers depend neither on the device nor on the batch
        noise = torch.stack([torch.randn(x.shape[1:]) for _ in range(count)]).to(x)
        for one, width, goal, moment in zip(x, deviation, goals, moments, strict=True):
            noisy = (one + width * noise).requires_grad_()
            moment.add(gradient(score(model, noisy, goal), noisy)[0])
        preview = _reduced(torch.stack([m.variant(variant) for m in moments]), reduce)
        yield Progress(done + count, samples, preview, "noisy copies")
    heat = _reduced(torch.stack([m.variant(variant) for m in moments]), reduce)
    evidence = {
        "score": value,
        "sigma": deviation,
        "samples": samples,
        "standard error": torch.stack([m.standard_error() for m in moments]),
    }
    unit = {"mean": "d target / d pixel"}.get(variant, "(d target / d pixel)^2")
    signed = reduce == "rgb" and variant == "mean"
    return Raw(
        heat, signed=signed, unit=unit, evidence=evidence, notes=_notes(sigma, deviation) + flat(heat, target)
    )


class _Moments:
    """Sums of gradients and of their squares, both about the first one, so that equal gradients leave no rounding."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self.total = self.squares = torch.empty(0)

    def add(self, gradients: Tensor) -> None:
        """Take in (k, C, H, W) gradients."""
        if not self.count:
            self.first = gradients[0]
            self.total = self.squares = torch.zeros_like(self.first)
        apart = gradients - self.first
        self.total = self.total + apart.sum(0)
        self.squares = self.squares + (apart**2).sum(0)
        self.count += len(gradients)

    def variant(self, name: str) -> Tensor:
        """Mean, mean square or variance of the gradients so far, (C, H, W)."""
        shift = self.total / self.count
        spread = (self.squares / self.count - shift**2).clamp(min=0)
        if name == "variance":
            return spread
        mean = self.first + shift
        return mean if name == "mean" else spread + mean**2

    def standard_error(self) -> Tensor:
        """Root mean square standard error of the mean over that of the mean itself; nan for a single sample."""
        if self.count < 2:
            return self.first.new_tensor(float("nan"))
        error = (self.variant("variance").mean() / (self.count - 1)).sqrt()
        return error / self.variant("mean").square().mean().sqrt().clamp(min=torch.finfo(error.dtype).tiny)


def _reduced(values: Tensor, reduce: str) -> Tensor:
    if reduce == "rgb":
        return values
    return values.abs().amax(1) if reduce == "max" else values.abs().sum(1)


def _notes(sigma: float, deviation: Tensor) -> tuple[str, ...]:
    if sigma > 0 and bool((deviation == 0).any()):
        return ("a picture of one colour has no range, so its noise is zero: the plain gradient",)
    return ()
