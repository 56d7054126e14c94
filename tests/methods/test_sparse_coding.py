"""Sparse coding against soft thresholds, the explicit matrix of the operator and the conditions of an optimum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.methods.features.sparse import Code, Filters, solve

PREP = cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
BGR = cutaway.Preprocess(channels="BGR", range=255, mean=(104, 117, 123))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(filters: Filters, y: Tensor, weight: float, steps: int, solver: str = "fista") -> Code:
    work = solve(filters, y, torch.full((len(y),), weight, dtype=torch.float64), steps=steps, solver=solver)  # type: ignore[arg-type]
    while True:
        try:
            next(work)
        except StopIteration as end:
            code: Code = end.value
            return code


def matrix(filters: Filters, channels: int) -> Tensor:
    """The operator as columns: the picture of every single coefficient, put there by plain slicing."""
    rows, columns = filters.grid
    kh, kw = filters.weights.shape[2:]
    out = []
    for weight in filters.weights:
        for r in range(rows):
            for c in range(columns):
                wide = torch.zeros(channels, 60, 60, dtype=torch.float64)
                top, left = 20 + r * filters.stride - (kh - 1), 20 + c * filters.stride - (kw - 1)
                wide[:, top : top + kh, left : left + kw] = weight
                out.append(wide[:, 20 : 20 + filters.size[0], 20 : 20 + filters.size[1]].flatten())
    return torch.stack(out, 1)


CASES = [
    ((7, 6), (3, 3), 1),
    ((8, 5), (2, 4), 1),
    ((9, 7), (3, 3), 2),
    ((6, 6), (5, 3), 3),
    ((5, 5), (1, 1), 1),
]


@pytest.mark.parametrize(("size", "kernel", "stride"), CASES)
def test_the_operator_its_transpose_and_its_norm_are_those_of_the_matrix(
    size: tuple[int, int], kernel: tuple[int, int], stride: int
) -> None:
    filters = Filters(noise(4, 2, *kernel), size, stride)
    m = matrix(filters, 2)
    z, y = noise(1, 4, *filters.grid, seed=1), noise(1, 2, *size, seed=2)
    torch.testing.assert_close(filters.picture(z).flatten(), m @ z.flatten(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(filters.transposed(y).flatten(), m.T @ y.flatten(), rtol=1e-12, atol=1e-12)
    true = float(torch.linalg.matrix_norm(m, 2)) ** 2
    assert filters.norm() >= true
    if stride == 1:
        assert filters.norm() <= 1.6 * true  # the border alone lies between
    assert bool((m.abs().sum(1) > 0).all())  # every pixel, at the border too, can be drawn


def test_orthonormal_filters_give_soft_thresholded_coefficients() -> None:
    """1x1 filters that are a rotation of the colours: z = soft threshold of F'y at 1 / weight, in one step."""
    rotation = torch.linalg.qr(noise(3, 3))[0]
    filters = Filters(rotation.view(3, 3, 1, 1), (6, 5))
    y = noise(2, 3, 6, 5, seed=1)
    want = F.softshrink(torch.einsum("oc,nchw->nohw", rotation, y), 1 / 2.5)
    for solver in ("ista", "fista"):
        code = run(filters, y, 2.5, 30, solver)
        torch.testing.assert_close(code.z, want, rtol=1e-7, atol=1e-7)
    assert 0.1 < float((want == 0).double().mean()) < 0.9


def test_orthonormal_blocks_give_soft_thresholded_coefficients_through_the_method() -> None:
    """2x2 Haar filters at a stride of 2: the network's first layer is an orthonormal transform of the picture."""
    haar = (
        torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64) / 2
    )
    weight = torch.zeros(12, 3, 2, 2, dtype=torch.float64)
    for colour in range(3):
        weight[4 * colour : 4 * colour + 4, colour] = haar.view(4, 2, 2)
    net = nn.Sequential(nn.Conv2d(3, 12, 2, stride=2, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(weight * 3)  # scaled back to length 1
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = cutaway.VisionModel(net, PREP, name="haar").explain(
        x, "sparse_coding", lam=4.0, stride=2, steps=200
    )
    y = PREP.normalise(x)
    # the first place of a filter lies one pixel outside, so that the blocks begin at pixel 1
    blocks = F.conv2d(y[:, :, 1:, 1:], weight, stride=2)
    back = F.conv_transpose2d(F.softshrink(blocks, 0.25), weight, stride=2)
    got = PREP.normalise(torch.as_tensor(found.values)[None])[:, :, 1:, 1:]
    torch.testing.assert_close(got, back, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("weight", [0.3, 3.0])
def test_ista_never_rises_and_fista_comes_below_it(weight: float) -> None:
    filters, y = Filters(noise(5, 3, 3, 3), (9, 8)), noise(2, 3, 9, 8, seed=1)
    ista, fista = run(filters, y, weight, 60, "ista"), run(filters, y, weight, 60)
    assert bool((ista.objective.diff(dim=1) <= 1e-12 * ista.objective[:, :1]).all())
    assert bool((ista.objective[:, -1] < ista.objective[:, 0]).all())
    assert bool((fista.objective[:, -1] < ista.objective[:, -1]).all())
    left = y - filters.picture(ista.z)
    want = weight / 2 * left.square().sum((1, 2, 3)) + ista.z.abs().sum((1, 2, 3))
    torch.testing.assert_close(ista.objective[:, -1], want)
    torch.testing.assert_close(ista.objective[:, 0], weight / 2 * y.square().sum((1, 2, 3)))


def test_the_end_is_an_optimum_and_the_gap_bounds_what_is_missing() -> None:
    filters, y = Filters(noise(3, 2, 3, 2), (6, 5)), noise(1, 2, 6, 5, seed=1)
    weight, code = 0.8, run(Filters(noise(3, 2, 3, 2), (6, 5)), y, 0.8, 4000)
    m = matrix(filters, 2)
    slope = weight * (m.T @ (y.flatten() - m @ code.z.flatten()))
    z = code.z.flatten()
    assert 5 < int((z != 0).sum()) < len(z)
    assert bool((slope[z == 0].abs() <= 1 + 1e-6).all())
    torch.testing.assert_close(slope[z != 0], z[z != 0].sign(), rtol=0, atol=1e-6)
    assert float(code.gap) + 1e-9 >= 0
    assert float(code.gap) < 1e-5 * float(code.objective[0, -1])
    for steps in (1, 5, 40):
        early = run(filters, y, weight, steps)
        assert float(early.gap) >= float(early.objective[0, -1] - code.objective[0, -1]) - 1e-9


def model_of(prep: cutaway.Preprocess = PREP, weight: Tensor | None = None) -> cutaway.VisionModel:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    with torch.no_grad():
        net[0].weight.copy_(noise(8, 3, 3, 3) if weight is None else weight)
    return cutaway.VisionModel(net, prep, name="two layers")


def photo() -> Tensor:
    return torch.rand(1, 3, 10, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("prep", [PREP, BGR], ids=["rgb", "bgr"])
def test_enough_weight_gives_the_picture_back_in_its_own_pixels(prep: cutaway.Preprocess) -> None:
    found = model_of(prep).explain(photo(), "sparse_coding", lam=1e6, steps=600)
    np.testing.assert_allclose(found.values, photo()[0].numpy(), atol=2e-3)
    assert found.evidence["relative_error"] < 1e-2
    mse = ((found.values - photo()[0].numpy()) ** 2).mean()
    assert found.evidence["psnr_db"] == pytest.approx(10 * np.log10(1 / mse), rel=1e-9)
    np.testing.assert_allclose(
        found.panels["left over"].values[0], photo()[0].numpy() - found.values, atol=1e-12
    )
    own = noise(8, 3, 3, 3)
    own = own / own.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    order = found.evidence["filters"]
    drawn = own.flip(1) if prep is BGR else own
    np.testing.assert_allclose(found.panels["filters"].values, drawn[order].numpy(), rtol=1e-12)


def test_the_evidence_counts_what_is_there() -> None:
    model = model_of()
    found = model.explain(photo(), "sparse_coding")
    maps = found.panels["coefficients"].values
    assert maps.shape == (8, 12, 11)
    assert found.evidence["share_not_zero"] == pytest.approx((maps != 0).mean())
    assert found.evidence["coefficients_per_number"] == pytest.approx((maps != 0).sum() / 270)
    sums = maps.sum((1, 2))
    assert (np.diff(sums) <= 0).all()
    with torch.no_grad():
        own = model.network[1](model.network[0](PREP.normalise(photo())))
    assert found.evidence["layer_share_not_zero"] == pytest.approx(float((own != 0).double().mean()))
    assert len(found.evidence["objective"]) == 61
    with torch.no_grad():
        most = model.network[0].weight
        unit = most / most.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        top = Filters(unit, (10, 9)).transposed(PREP.normalise(photo())).abs().max()
    assert found.evidence["lam"] == pytest.approx(10 / float(top))
    silent = model.explain(photo(), "sparse_coding", lam=0.99 / float(top))
    assert silent.evidence["share_not_zero"] == 0
    assert any("every coefficient zero" in n for n in silent.notes)
    assert (
        model.explain(photo(), "sparse_coding", lam=1.01 / float(top), steps=5).evidence["share_not_zero"] > 0
    )


def test_a_deeper_layer_lends_its_effective_filters() -> None:
    model = model_of()
    found = model.explain(photo(), "sparse_coding", layer="2", unit_length=False, steps=5)
    wanted = model.inspect("effective_filters", layer="2").values
    np.testing.assert_allclose(found.panels["filters"].values, wanted[found.evidence["filters"]], rtol=1e-10)
    assert any("relu" in n for n in found.notes)


def test_bad_filters_and_weights_are_refused_in_words() -> None:
    zero = torch.zeros(8, 3, 3, 3, dtype=torch.float64)
    with pytest.raises(MethodRefusedError, match="every filter of layer '0' is zero"):
        model_of(weight=zero).explain(photo(), "sparse_coding")
    part = noise(8, 3, 3, 3)
    part[2] = part[5] = 0
    found = model_of(weight=part).explain(photo(), "sparse_coding")
    assert any("2 of 8" in n for n in found.notes)
    assert set(found.evidence["filters"][-2:]) == {2, 5}
    assert np.isfinite(found.values).all()
    for lam in (0, -1, float("nan"), 1e13):
        with pytest.raises(UsageError, match="lam="):
            model_of().explain(photo(), "sparse_coding", lam=lam)
    grey = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 10, 9)
    with pytest.raises(MethodRefusedError, match="no filter meets"):
        model_of().explain(grey, "sparse_coding")
    with pytest.raises(MethodRefusedError):
        model_of().explain(photo(), "sparse_coding", layer="1")
