"""Activation factors against planted parts, objectives that must not rise, Eckart-Young and scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.methods.features.activation_factors import hue_circle, tint
from cutaway.methods.features.factors import nmf, svd

from .nets import GapNet, picture, wrap

SOLVERS = ("hals", "multiplicative")


def positive(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Given(nn.Module):
    """A layer that answers what it was told, whatever the picture, plus nothing times the picture."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.told, self.fc = nn.Conv2d(3, maps.shape[1], 1), nn.Linear(maps.shape[1], 2)
        self.maps = nn.Parameter(maps)
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.out(0 * self.told(x) + self.maps)
        scores: Tensor = self.fc(h.mean((2, 3)))
        return scores


def given(maps: Tensor) -> cutaway.VisionModel:
    return wrap(Given(maps))


def planted(rank: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """W (48, rank), H (rank, 10) with parts that have places and channels of their own, so that they are unique."""
    left, right = positive(48, rank, seed=1), positive(rank, 10, seed=2)
    for i in range(rank):
        left[8 * i : 8 * i + 8, [j for j in range(rank) if j != i]] = 0
        right[[j for j in range(rank) if j != i], 3 * i : 3 * i + 2] = 0
    return left, right, left @ right


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_planted_product_is_found_up_to_order_and_scale(solver: str) -> None:
    left, right, product = planted()
    model = given(product.T.reshape(1, 10, 6, 8))
    x = picture(1, 3, 6, 8)
    found = model.explain(
        x,
        "activation_factors",
        layer="out",
        factors=3,
        solver=solver,
        steps=3000 if solver != "hals" else 500,
    )
    assert found.evidence["explained"] > 1 - 1e-6
    directions = np.array(found.evidence["directions"])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-12)
    truth = (right / right.norm(dim=1, keepdim=True)).numpy()
    match = (truth @ directions.T).argmax(1)
    assert sorted(match) == [0, 1, 2]
    np.testing.assert_allclose(directions[match], truth, atol=5e-3)
    maps = found.values.reshape(3, -1)[match]
    np.testing.assert_allclose(maps, (left * right.norm(dim=1)).T.numpy(), atol=2e-2)
    assert (np.diff(np.linalg.norm(found.values.reshape(3, -1), axis=1)) <= 0).all()  # strongest first


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_objective_never_rises_and_is_the_error(solver: str, seed: int) -> None:
    matrix = positive(30, 12, seed=seed) ** 3
    found = nmf(matrix, 4, steps=60, solver=solver)  # type: ignore[arg-type]
    objective = np.array(found.objective)
    assert (np.diff(objective) <= 1e-12 * objective[0]).all()
    assert objective[-1] < 0.9 * objective[0]
    assert float((matrix - found.left @ found.right).square().sum()) == pytest.approx(
        objective[-1], rel=1e-12
    )
    assert float(found.left.min()) >= 0
    assert float(found.right.min()) >= 0
    # never better than any matrix of that rank
    assert objective[-1] >= svd(matrix, 4).objective[0] - 1e-12


def test_a_step_of_hals_solves_for_one_column_exactly() -> None:
    """The last column of W is the non-negative least squares solution, row by row, of what the others leave."""
    from scipy.optimize import nnls

    matrix = positive(20, 8, seed=3) ** 2
    found = nmf(matrix, 3, steps=1)
    left, right = found.left.numpy(), found.right.numpy()
    rest = matrix.numpy() - left[:, :2] @ right[:2]
    want = [nnls(right[2][:, None], row)[0][0] for row in rest]
    assert 0 in want
    np.testing.assert_allclose(left[:, 2], want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_comes_as_low_as_scikit_learn(seed: int) -> None:
    from sklearn.decomposition import NMF

    matrix = positive(40, 15, seed=seed) ** 2
    peer = NMF(5, init="nndsvda", solver="cd", max_iter=400, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = peer.fit_transform(matrix.numpy())
    want = ((matrix.numpy() - left @ peer.components_) ** 2).sum()
    assert nmf(matrix, 5, steps=400).objective[-1] == pytest.approx(want, rel=0.01)


def test_the_singular_values_leave_the_eckart_young_error() -> None:
    maps = positive(1, 9, 5, 6) - 0.5
    model = given(maps)
    matrix = maps[0].flatten(1).T.numpy()
    s = np.linalg.svd(matrix, compute_uv=False)
    for count in (1, 4, 9):
        found = model.explain(
            picture(1, 3, 5, 6), "activation_factors", layer="out", kind="svd", factors=count
        )
        directions = np.array(found.evidence["directions"])
        rest = matrix - found.values.reshape(count, -1).T @ directions
        np.testing.assert_allclose((rest**2).sum(), (s[count:] ** 2).sum(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            found.evidence["objective"], [(s[count:] ** 2).sum()], rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(directions @ directions.T, np.eye(count), atol=1e-12)
        np.testing.assert_allclose(
            found.evidence["share"], s[:count] ** 2 / (s[:count] ** 2).sum(), rtol=1e-10
        )
        assert found.signed


def test_a_factors_direction_is_a_target() -> None:
    """With the unit direction h of an SVD factor, mean <h, a> over positions is the mean of its own map."""
    model = wrap(GapNet().eval())
    x = picture(1, 3, 12, 12)
    found = model.explain(x, "activation_factors", layer="features.5", kind="svd", factors=3)
    for i in range(3):
        vector = torch.tensor(found.evidence["directions"][i], dtype=torch.float64)
        goal = cutaway.direction("features.5", vector)
        result = model.explain(x, "saliency", target=goal)
        assert result.evidence["score"] == pytest.approx(float(found.values[i].mean()), rel=1e-9)
        assert np.abs(result.values).max() > 0


def test_each_picture_is_factorised_alone() -> None:
    model = wrap(GapNet().eval())
    x = positive(3, 3, 12, 12)
    results = finish(explain(model, METHODS["activation_factors"], x, None, {"layer": "features.5"}))
    for i, got in enumerate(results):
        want = model.explain(x[i : i + 1], "activation_factors", layer="features.5")
        np.testing.assert_allclose(got.values, want.values, atol=1e-10)
        assert got.evidence["strongest_channels"] == want.evidence["strongest_channels"]
        assert len(got.evidence["objective"]) == 101
        strongest = np.argsort(-np.array(got.evidence["directions"]), kind="stable", axis=1)[:, :5]
        assert got.evidence["strongest_channels"] == strongest.tolist()


def test_negative_numbers_zeros_and_too_many_factors_are_refused_in_words() -> None:
    maps = positive(1, 4, 3, 5)
    maps[0, 2, 1, 1] = -0.8
    with pytest.raises(MethodRefusedError, match=r"min -0\.8.*post-ReLU layer needed.*SVD"):
        given(maps).explain(picture(1, 3, 3, 5), "activation_factors", layer="out", factors=2)
    with pytest.raises(MethodRefusedError, match="zero everywhere"):
        given(torch.zeros(1, 4, 3, 5)).explain(picture(1, 3, 3, 5), "activation_factors", layer="out")
    model = given(positive(1, 4, 3, 5))
    for kind in ("nmf", "svd"):
        with pytest.raises(UsageError, match="factors=5.*4 channels at 15 positions") as caught:
            model.explain(picture(1, 3, 3, 5), "activation_factors", layer="out", factors=5, kind=kind)
        assert caught.value.accepted == "1 to 4"
    with pytest.raises(UsageError, match="factors=3.*at 2 positions"):
        given(positive(1, 4, 1, 2)).explain(picture(1, 3, 1, 2), "activation_factors", layer="out", factors=3)
    assert len(model.explain(picture(1, 3, 3, 5), "activation_factors", layer="out").values) == 4


def test_a_rank_below_the_factors_asked_leaves_nothing_strange() -> None:
    maps = torch.ones(1, 4, 3, 5, dtype=torch.float64)
    found = given(maps).explain(picture(1, 3, 3, 5), "activation_factors", layer="out", factors=3)
    assert found.evidence["explained"] == pytest.approx(1, abs=1e-6)
    assert np.isfinite(found.values).all()


def test_hues_are_apart_and_a_quiet_place_keeps_the_grey_photograph() -> None:
    for count in (2, 6, 8):
        hues = hue_circle(count)
        distance = torch.cdist(hues, hues) + 9 * torch.eye(count)
        assert float(distance.min()) > 0.2
    photo = positive(3, 4, 4)
    strength = torch.zeros(2, 4, 4, dtype=torch.float64)
    strength[0, 0, 0] = strength[1, 3, 3] = 1.0
    hues = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
    drawn = tint(photo, strength, hues)
    assert float((drawn[:, 1:3] - drawn[:1, 1:3]).abs().max()) == 0  # grey
    assert drawn[0, 0, 0] > 0
    assert float(drawn[1:, 0, 0].max()) == 0
    assert float(drawn[:2, 3, 3].max()) == 0
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1


def test_a_factor_lights_up_where_it_was_planted() -> None:
    maps = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
    maps[0, :2, 0, 0], maps[0, 2:, 3, 3] = 2.0, 1.0
    found = given(maps).explain(picture(1, 3, 4, 4), "activation_factors", layer="out", factors=2)
    assert found.evidence["strongest_channels"][0][:2] == [0, 1]
    hues = hue_circle(2).numpy()
    alone = found.panels["factor 0"].values
    # at (0, 0) the tile has the factor's hue, elsewhere it is grey
    np.testing.assert_allclose(alone[:, 0, 0] / alone[:, 0, 0].max(), hues[0] / hues[0].max(), atol=1e-9)
    assert np.ptp(alone[:, 3, 3]) == 0
    both = found.panels["hues"].values
    np.testing.assert_allclose(both[:, 0, 0], alone[:, 0, 0], atol=1e-9)
    assert np.argmax(both[:, 3, 3]) == np.argmax(hues[1])
    assert found.png()[:4] == b"\x89PNG"
