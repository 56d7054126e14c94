"""What is wrong with a bank of filters: some too strong, some dead, some finer than the stride can carry."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.method import LAYER, LayerName, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Table

from .common import MOST, convolution, convolutions, exact, in_space
from .spectra import BINS, RADIUS, aliased, bands, peak, renormalised, rms, spectrum

_SHOWN = 0.1
"""Of the largest energy: where the brightness of a drawn spectrum turns from linear to logarithmic."""


@method(
    title="Diagnosis of filters",
    chapter="weights",
    needs={LAYER},
    gives=Table,
    paper="Zeiler & Fergus 2014, arXiv:1311.2901, sec. 3 and 4.1",
    tags=Tags(family="parameters", level="low"),
    caveat="A high frequency in a filter is a fault only as far as pictures hold it, and 0.1 is for inputs of about ±128.",
    laws={"weights sensitive"},
)
def diagnosis(
    model: VisionModel,
    *,
    layer: LayerName = None,
    radius: Annotated[
        float, Range(0, 1e9, open_low=True), "RMS above which a filter dominates and is scaled back"
    ] = RADIUS,
) -> Raw:
    """Per filter its RMS, that after renormalising, the share of its energy that aliases, and its main frequency.

    Gives (O, 4), filters by falling RMS. A filter is dominant above `radius`, to which renormalising scales it, and
    dead at 0. Aliasing is the share of the energy of its spectrum, under a Hann window, above 1 / (2 stride) cycles
    per pixel along either axis. The evidence holds the histogram of frequency, the mean over living filters of the
    share of energy in rings of 0.05 cycles per pixel. Frequencies are of the layer's own input: pixels for the first
    convolution, map positions for a deeper one. Panels show the filters in the table's order and their mean spectrum.
    Raises `MethodRefusedError` for a layer that is no convolution.

    >>> import torch, cutaway
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> found = cutaway.VisionModel(net, cutaway.Preprocess(crop=16), name="four filters").inspect("diagnosis")
    >>> found.values.shape, found.columns[2]
    ((4, 4), 'aliased energy')
    """
    notes: tuple[str, ...] = ()
    if layer is None:
        layer = convolutions(model)[0]
        notes = (f"layer {layer}: the first convolution",)
    module = convolution(model, layer)
    layer = model.layers.find(layer).name
    weights = exact(module.weight)
    stride = (int(module.stride[0]), int(module.stride[1]))
    size = rms(weights)
    order = size.argsort(descending=True, stable=True)
    living, dominant = size > 0, size > radius
    shares, rings = aliased(weights, stride), bands(weights)
    mean = rings[living].mean(0) if bool(living.any()) else rings.new_zeros(BINS)
    columns = torch.stack([size, rms(renormalised(weights, radius)), shares, peak(weights)], 1)
    if stride == (1, 1):
        notes += ("stride 1: no frequency of a filter is lost to it",)
    if layer == convolutions(model)[0]:
        notes += (_inputs(model),)
    panels = {}
    if weights.shape[1] in (1, 3) and len(weights) <= MOST:
        tiles, _, said = in_space(model, weights[order], "network")
        notes += said
        panels["filters"] = RawPanel("the filters, by falling RMS", tiles[None], "tiles", "weight")
    panels["spectrum"] = RawPanel(
        "mean spectrum: zero in the middle, 0.5 c/px at the edges, log energy",
        _drawn(weights[living], stride)[None],
        "picture",
    )
    return Raw(
        columns[order][None],
        signed=False,
        unit="RMS weight; share of energy; cycles per pixel",
        layer=layer,
        evidence={
            "filters": len(weights),
            "dominant": int(dominant.sum()),
            "dead": int((~living).sum()),
            "mean aliased": float(shares[living].mean()) if bool(living.any()) else 0.0,
            "strongest over median RMS": float(size.max() / size.median().clamp_min(1e-300)),
            "dominant filters": tuple(dominant.nonzero().flatten().tolist()),
            "dead filters": tuple((~living).nonzero().flatten().tolist()),
            "frequency edges": tuple(i * 0.5 / BINS for i in range(BINS + 1)),
            "frequency histogram": tuple(mean.tolist()),
            "stride": f"{stride[0]} x {stride[1]}",
        },
        notes=notes,
        panels=panels,
        extra={
            "rows": tuple(f"{layer}:{c}" for c in order.tolist()),
            "columns": ("RMS", "RMS renormalised", "aliased energy", "main frequency"),
        },
    )


def _inputs(model: VisionModel) -> str:
    """What numbers the first layer is given, which the radius of 0.1 must be read against."""
    steps = model.preprocess
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, steps.pixel_channels, 1, 1)
    low, high = (float(f(steps.normalise(ends))) for f in (torch.min, torch.max))
    return f"this network's pixels become {low:.3g} to {high:.3g}; the paper's 0.1 is for about -128 to 128"


def _drawn(weights: Tensor, stride: tuple[int, int]) -> Tensor:
    """The mean spectrum (3, n, n), zero frequency in the middle, what the stride keeps framed in yellow."""
    energy, down, across = spectrum(weights)
    share = energy / energy.sum((1, 2), keepdim=True)  # of living filters, so never zero
    mean = torch.fft.fftshift(share.mean(0)) if len(weights) else energy.new_zeros(len(down), len(across))
    bright = (1 + mean / mean.max().clamp_min(1e-300) / _SHOWN).log() / torch.tensor(1 + 1 / _SHOWN).log()
    drawn = bright.clamp(0, 1).float().repeat(3, 1, 1).cpu()
    middle, reach = len(down) // 2, [len(down) // (2 * s) for s in stride]
    if stride != (1, 1):
        rows = slice(middle - reach[0], middle + reach[0] + 1)
        columns = slice(middle - reach[1], middle + reach[1] + 1)
        yellow = torch.tensor([1.0, 0.85, 0.0])[:, None]
        for row in (rows.start, rows.stop - 1):
            drawn[:, min(row, len(down) - 1), columns] = yellow
        for column in (columns.start, columns.stop - 1):
            drawn[:, rows, min(column, len(across) - 1)] = yellow
    return drawn
