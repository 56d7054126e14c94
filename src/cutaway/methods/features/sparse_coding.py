"""The picture put together again from few of the network's own filters."""

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError
from cutaway.core.method import IMAGE, LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Picture
from cutaway.methods.weights.common import convolution, convolutions, page_of
from cutaway.methods.weights.composition import chain, compose
from cutaway.methods.weights.effective_filters import Pool

from .capture import capture
from .sparse import Filters, Solver, solve

MAPS = 16
"""Coefficient maps on one page."""
TIMES = 10.0
"""The usual weight, in multiples of the smallest that leaves any coefficient."""


@method(
    title="Deconvolutional sparse coding",
    chapter="features",
    needs={IMAGE, LAYER},
    gives=Picture,
    paper="Zeiler, Krishnan, Taylor & Fergus 2010, Deconvolutional networks, eq. 2; solved as in Beck & Teboulle 2009",
    tags=Tags(family="features", focus="both", level="low"),
    caveat="The filters were trained to answer, not to draw: how few of them suffice says little of what the network uses.",
    laws={"weights sensitive"},
)
def sparse_coding(
    model: VisionModel,
    x: Tensor,
    *,
    layer: LayerName = None,
    lam: Annotated[
        float | None,
        Range(0, 1e12, open_low=True),
        "weight of the reconstruction; when not given, 10 times the least with any coefficient",
    ] = None,
    steps: Annotated[int, Range(1, 10000), "of the solver"] = 60,
    solver: Annotated[Solver, "fista, or ista, which is slower and never raises the objective"] = "fista",
    stride: Annotated[int, Range(1, 16), "pixels between the places of a filter"] = 1,
    unit_length: Annotated[bool, "filters scaled to length 1, as Zeiler 2010 trains them"] = True,
    pool: Pool = "refuse",
    page: Annotated[int, Range(1), "which page of 16 coefficient maps"] = 1,
) -> Steps[Raw]:
    """Coefficients z with the least (lam / 2) |y - sum_i z_i * f_i|^2 + sum |z|, and the picture they make.

    y is the network's normalised input, f_i the filters of the first convolution, or of a deeper one its effective
    filters on the picture. Values are the reconstruction in pixels, (3, H, W), nothing clipped; panels are the
    picture, what is left over, the filters and |z| in the same order, those with the largest sum first. The
    evidence holds the objective of every step, the duality gap (how far it can lie above its least), the share of
    coefficients other than zero beside that of the layer's own activations, their count over that of the picture's
    own numbers, the relative error |y - y'| / |y| and
    the signal-to-noise ratio in pixels, 10 log10(1 / mean squared error).
    Raises `MethodRefusedError` for filters that are all zero and where no chain of convolutions leads to the layer.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(crop=16), name="twelve filters")
    >>> found = model.explain(torch.rand(3, 16, 16), "sparse_coding", steps=20)
    >>> found.evidence["objective"][-1] < found.evidence["objective"][0]
    True
    """
    layer, weights, notes = _filters(model, layer, pool)
    lengths = weights.flatten(1).norm(dim=1)
    if not bool(lengths.any()):
        raise MethodRefusedError(
            f"every filter of layer {layer!r} is zero", "a filter other than zero", "trained weights"
        )
    if not bool(lengths.all()):
        notes += (f"filters of zeros, which draw nothing: {int((lengths == 0).sum())} of {len(lengths)}",)
    if unit_length:
        weights = weights / torch.where(lengths > 0, lengths, 1).view(-1, 1, 1, 1)
    y = model.preprocess.normalise(x).detach()
    filters = Filters(weights.to(y), (y.shape[2], y.shape[3]), stride)
    own = capture(model, x, [layer])[layer]
    most = filters.transposed(y).abs().flatten(1).amax(1)
    if not bool(most.all()):
        raise MethodRefusedError(
            "no filter meets the picture: every product is zero",
            "a picture with something on it",
            "another picture",
        )
    weight = TIMES / most if lam is None else torch.full_like(most, lam)
    if bool((weight * most <= 1).any()):
        notes += (f"lam up to {1 / float(most.max()):.3g} leaves every coefficient zero",)
    work = solve(filters, y, weight, steps=steps, solver=solver)
    while True:
        try:
            number = next(work)
        except StopIteration as end:
            code = end.value
            break
        yield Progress(number, steps, note=f"{solver} step {number + 1}")
    made = filters.picture(code.z)
    left = y - made
    sizes = code.z.abs().flatten(2).sum(2)
    shown, paged = page_of(len(weights), page, MAPS, "coefficient maps, largest sum first,")
    order = sizes.argsort(dim=1, descending=True, stable=True)[:, shown]
    maps = torch.stack([z[o].abs() for z, o in zip(code.z, order, strict=True)])
    pixels = model.preprocess.denormalise(made)
    seen = x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)
    error = (pixels - x).square().flatten(1).mean(1)
    colours = filters.weights.flip(1) if model.preprocess.channels == "BGR" else filters.weights
    return Raw(
        pixels if pixels.shape[1] == 3 else pixels.expand(-1, 3, -1, -1),
        unit="pixel value",
        layer=layer,
        evidence={
            "lam": weight,
            "share_not_zero": (code.z != 0).flatten(1).double().mean(1),
            "coefficients_per_number": (code.z != 0).flatten(1).double().sum(1) / y[0].numel(),
            "layer_share_not_zero": (own != 0).flatten(1).double().mean(1),
            "relative_error": left.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1),
            "psnr_db": -10 * error.clamp_min(torch.finfo(error.dtype).tiny).log10(),
            "relative_gap": code.gap / code.objective[:, -1],
            "steps": steps,
            "objective": code.objective,
            "filters": order,
        },
        notes=notes + paged,
        panels={
            "picture": RawPanel("what the network saw", seen, "picture"),
            "left over": RawPanel("left over", (seen - pixels)[:, None], "tiles", "pixel value"),
            "filters": RawPanel("filters, most used first", colours[order], "tiles", "weight", each=True),
            "coefficients": RawPanel("their coefficients", maps, "maps", "|coefficient|", each=True),
        },
        extra={"scale": "picture", "title": "put together again"},
    )


def _filters(model: VisionModel, layer: str | None, pool: str) -> tuple[str, Tensor, tuple[str, ...]]:
    """A layer's filters on the network's input (O, C, kh, kw), effective ones of a deeper layer; without batch norm."""
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = convolutions(model)[0]
        notes = (f"layer {layer}: the first convolution",)
    convolution(model, layer)
    layer = model.layers.find(layer).name
    found = chain(model, layer, pool=pool)
    return layer, compose(found.steps[: found.convolutions[-1] + 1]).kernel, notes + found.notes
