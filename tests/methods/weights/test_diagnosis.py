"""diagnosis against planted gratings, an explicit Fourier sum, and filters whose faults are known."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.methods.weights import spectra
from cutaway.methods.weights.spectra import (
    aliased,
    bands,
    bank,
    compare_banks,
    dead_units,
    peak,
    renormalised,
    rms,
    spectrum,
)


def grating(frequency: float, size: int = 7, *, angle: float = 0.0, phase: float = 0.0) -> Tensor:
    """A filter (3, size, size) that is a wave of that many cycles per pixel, alike in every colour."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    along = math.cos(angle) * at[None] + math.sin(angle) * at[:, None]
    return torch.cos(2 * math.pi * frequency * along + phase).expand(3, -1, -1).clone()


def model_of(weight: Tensor, stride: int) -> cutaway.VisionModel:
    conv = nn.Conv2d(3, len(weight), weight.shape[-1], stride)
    conv.weight.data = weight.clone()
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    return cutaway.VisionModel(net, cutaway.Preprocess(crop=32, mean=0.5, std=0.25), name="planted")


def by_sum(filter_: Tensor, stride: int) -> float:
    """The aliased share by writing the discrete Fourier transform out, term by term, on the same frequencies."""
    size = filter_.shape[-1]
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * (i + 1) / (size + 1)) for i in range(size)]
    above = total = 0.0
    for u in range(64):
        for v in range(64):
            fu, fv = ((k if k < 32 else k - 64) / 64 for k in (u, v))
            for plane in filter_.tolist():
                wave = sum(
                    plane[r][c] * hann[r] * hann[c] * cmath.exp(-2j * math.pi * (fu * r + fv * c))
                    for r in range(size)
                    for c in range(size)
                )
                total += abs(wave) ** 2
                above += abs(wave) ** 2 * (abs(fu) > 0.5 / stride or abs(fv) > 0.5 / stride)
    return above / total


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_aliasing_is_that_of_the_explicit_sum(stride: int) -> None:
    filter_ = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(stride), dtype=torch.float64)
    assert aliased(filter_[None], (stride, stride)).item() == pytest.approx(
        by_sum(filter_, stride), abs=1e-12
    )


def test_published_gratings() -> None:
    """At stride 2 a wave of 0.35 cycles per pixel is lost, one of 0.05 is not: 11 pixels under a window zero at its ends."""
    for frequency, want in ((0.35, 0.945), (0.05, 0.001)):
        wave = grating(frequency, 9, phase=2 * math.pi * frequency * 5)
        assert aliased(wave[None], (2, 2)).item() == pytest.approx(want, abs=5e-4)


@pytest.mark.parametrize("frequency", [0.0, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("angle", [0.0, 0.6, math.pi / 2])
def test_a_gratings_frequency_is_found(frequency: float, angle: float) -> None:
    wave = grating(frequency, 15, angle=angle)[None]
    assert peak(wave).item() == pytest.approx(frequency, abs=0.02)
    share = bands(wave)[0]
    assert share.sum().item() == pytest.approx(1)
    middle = (torch.arange(10) + 0.5) * 0.05
    assert float((share * middle).sum()) == pytest.approx(max(frequency, 0.03), abs=0.03)


def test_direction_counts_along_the_axes() -> None:
    """A diagonal wave of 0.3 is 0.21 along each axis, which stride 2 still carries; an upright one is not."""
    diagonal, upright = (aliased(grating(0.3, 31, angle=a)[None], (2, 2)).item() for a in (math.pi / 4, 0.0))
    assert diagonal < 0.05
    assert upright > 0.9
    assert aliased(grating(0.3, 31)[None], (2, 1)).item() < 0.05  # wide, but only rows are skipped


def test_energy_is_that_of_the_windowed_filter() -> None:
    """Parseval: the mean of the spectrum over its n x n frequencies is the filter's own energy under the window."""
    filter_ = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    hann = torch.hann_window(11, periodic=False, dtype=torch.float64)[1:-1]
    energy, down, _ = spectrum(filter_)
    want = (filter_ * hann[:, None] * hann).square().sum()
    torch.testing.assert_close(energy.sum() / len(down) ** 2, want)


FAULTS = torch.stack(
    [grating(0.05) * 0.05, torch.zeros(3, 7, 7, dtype=torch.float64), grating(0.35) * 0.6, grating(0.2) * 0.1]
)


def test_planted_faults_are_found() -> None:
    found = model_of(FAULTS, 2).inspect("diagnosis")
    size = [float(f.square().mean().sqrt()) for f in FAULTS]
    order = sorted(range(4), key=lambda i: -size[i])
    assert list(found.rows) == [f"0:{i}" for i in order] == ["0:2", "0:3", "0:0", "0:1"]
    np.testing.assert_allclose(found.values[:, 0], [size[i] for i in order], rtol=1e-12)
    np.testing.assert_allclose(found.values[:, 1], [min(size[i], 0.1) for i in order], rtol=1e-12)
    np.testing.assert_allclose(found.values[:, 2], [by_sum(FAULTS[i], 2) if size[i] else 0 for i in order])
    assert list(found.evidence["dominant filters"]) == [2]
    assert list(found.evidence["dead filters"]) == [1]
    assert (found.evidence["dominant"], found.evidence["dead"], found.evidence["filters"]) == (1, 1, 4)
    living = np.mean([by_sum(FAULTS[i], 2) for i in (0, 2, 3)])
    assert found.evidence["mean aliased"] == pytest.approx(living)
    assert sum(found.evidence["frequency histogram"]) == pytest.approx(1)
    assert any("-2 to 2" in note for note in found.notes)
    np.testing.assert_array_equal(found.panels["filters"].values, FAULTS[order].numpy())
    assert found.png()[:4] == b"\x89PNG"


def test_the_radius_is_the_one_given() -> None:
    found = model_of(FAULTS, 2).inspect("diagnosis", radius=0.01)
    assert found.evidence["dominant"] == 3
    np.testing.assert_allclose(found.values[:, 1], [0.01, 0.01, 0.01, 0])


def test_renormalising_shrinks_what_dominates_and_keeps_its_direction() -> None:
    done = renormalised(FAULTS)
    assert torch.equal(done[[0, 1, 3]], FAULTS[[0, 1, 3]])
    assert rms(done)[2].item() == pytest.approx(0.1)
    torch.testing.assert_close(done[2] / done[2].norm(), FAULTS[2] / FAULTS[2].norm())


def test_stride_one_loses_nothing_and_says_so() -> None:
    found = model_of(FAULTS, 1).inspect("diagnosis")
    assert not found.values[:, 2].any()
    assert any("stride 1" in note for note in found.notes)


def test_all_dead_is_told_and_a_layer_without_filters_refused() -> None:
    found = model_of(torch.zeros(3, 3, 5, 5, dtype=torch.float64), 2).inspect("diagnosis")
    assert found.evidence["dead"] == 3
    assert not found.values.any()
    assert found.png()[:4] == b"\x89PNG"
    with pytest.raises(MethodRefusedError, match="ReLU"):
        model_of(FAULTS, 2).inspect("diagnosis", layer="1")


def test_deeper_layers_have_frequencies_of_their_own_input() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, 3, 2, groups=2), nn.AdaptiveAvgPool2d(1)
    ).double()
    found = cutaway.VisionModel(net, cutaway.Preprocess(crop=32), name="deep").inspect("diagnosis", layer="1")
    np.testing.assert_allclose(
        np.sort(found.values[:, 2]), np.sort([by_sum(w, 2) for w in net[1].weight.detach()])
    )
    assert "filters" not in found.panels


def test_dead_units_are_those_that_never_answer() -> None:
    maxima = torch.tensor([0.0, 1e-9, 3.0, -2.0])
    assert dead_units(maxima).tolist() == [True, False, False, True]
    assert dead_units(maxima, 1e-6).tolist() == [True, True, False, True]
    for bad in ((torch.tensor([float("nan")]), 0.0), (maxima, -1.0), (maxima, float("nan"))):
        with pytest.raises(UsageError):
            dead_units(*bad)


def test_two_banks_compared() -> None:
    """Waves that stride 4 loses and stride 2 keeps; very low and very high ones leave the middle empty."""
    coarse = torch.stack([grating(f, 11) for f in (0.02, 0.03, 0.45, 0.48)]) * 0.05
    fine = torch.stack([grating(f, 7, phase=p) for f in (0.05, 0.1, 0.15, 0.2) for p in (0, 1)]) * 0.5
    fine[0] = 0
    found = compare_banks(coarse, 4, fine, 2)
    first, second = found["first"], found["second"]
    assert (first["filters"], first["kernel"], first["stride"]) == (4, (11, 11), (4, 4))
    assert (second["filters"], second["dead"], second["dominant"]) == (8, 1, 7)
    assert (first["dead"], first["dominant"]) == (0, 0)
    assert first["aliased"] == pytest.approx(
        np.mean([spectra.aliased(c[None], (4, 4)).item() for c in coarse])
    )
    assert 0.4 < first["aliased"] < 0.6  # the two fast waves
    assert second["aliased"] < 0.25
    assert sum(first["bands"][4:7]) < 0.05 < sum(second["bands"][2:5])
    assert found["change"]["dead"] == 1
    assert found["change"]["aliased"] == pytest.approx(second["aliased"] - first["aliased"])


def test_banks_that_are_none_are_refused() -> None:
    for weights, stride in (
        (torch.rand(3, 7, 7), 2),
        (torch.rand(1, 3, 7, 7), 0),
        (torch.zeros(0, 3, 7, 7), 2),
    ):
        with pytest.raises(UsageError):
            bank(weights, stride)
    with pytest.raises(UsageError, match="NaN"):
        bank(torch.full((1, 3, 3, 3), float("nan")), 1)
