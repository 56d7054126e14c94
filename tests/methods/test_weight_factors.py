"""Weight factors against planted ranks, the Eckart-Young error and filters known to be separable."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError

PREP = cutaway.Preprocess(crop=(12, 10), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def model_of(
    first: Tensor, second: Tensor | None = None, groups: int = 1, prep: cutaway.Preprocess = PREP
) -> cutaway.VisionModel:
    layers: list[nn.Module] = []
    for number, weight in enumerate(w for w in (first, second) if w is not None):
        own = groups if number else 1
        layers.append(nn.Conv2d(weight.shape[1] * own, len(weight), tuple(weight.shape[2:]), groups=own))
        with torch.no_grad():
            layers[-1].double().weight.copy_(weight)
    return cutaway.VisionModel(nn.Sequential(*layers).double(), prep, name="planted")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_what_the_components_leave_is_the_eckart_young_error(count: int) -> None:
    weight = noise(7, 3, 4, 3)
    found = model_of(weight).inspect("weight_factors", components=count)
    matrix = weight.flatten(1).numpy()
    shapes = found.values.reshape(count, -1)
    np.testing.assert_allclose(shapes @ shapes.T, np.eye(count), atol=1e-12)
    s = np.array(found.evidence["singular_values"])
    # the components are all that is needed: projecting on them leaves sum of s^2 beyond
    left = ((matrix - matrix @ shapes.T @ shapes) ** 2).sum()
    np.testing.assert_allclose(left, (s[count:] ** 2).sum(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.evidence["error"], left, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose((s**2).sum(), (matrix**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(
        np.array(found.evidence["left"]) * s[:count] @ shapes, matrix @ shapes.T @ shapes, atol=1e-12
    )
    # nothing of that rank does better, here a thousand random ones
    rng = np.random.default_rng(0)
    for _ in range(1000):
        basis = np.linalg.qr(rng.normal(size=(36, count)))[0]
        assert ((matrix - matrix @ basis @ basis.T) ** 2).sum() >= left - 1e-9


def test_a_planted_rank_is_found_and_its_shapes_span_the_filters() -> None:
    shapes, mixing = noise(2, 3, 5, 5, seed=1), noise(9, 2, seed=2)
    found = model_of(torch.einsum("or,rchw->ochw", mixing, shapes)).inspect("weight_factors", components=2)
    assert found.evidence["energy_drawn"] == pytest.approx(1, abs=1e-12)
    assert max(found.evidence["singular_values"][2:]) < 1e-12
    assert found.evidence["components_for_90_percent"] <= 2
    basis = found.values.reshape(2, -1)
    planted = shapes.flatten(1).numpy()
    np.testing.assert_allclose(planted @ basis.T @ basis, planted, atol=1e-12)
    assert (np.abs(basis).max(1) == basis.max(1)).all()  # the largest weight is positive


def test_separability_is_one_for_a_product_and_a_third_for_the_identity() -> None:
    weight = torch.zeros(4, 3, 3, 3, dtype=torch.float64)
    gauss = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    weight[0] = gauss[:, None] * gauss  # separable both ways
    weight[1] = torch.eye(3)  # one plane for all inputs, its rank 3
    weight[2, 0, 0, 1] = weight[2, 1, 2, 0] = 1.0  # planes of rank 1, but not the same plane
    weight[3, 0] = 2 * torch.eye(3)  # 12 of energy of which 4 are kept
    weight[3, 1, 0, 0] = 2.0  # 4 of energy, all kept
    found = model_of(weight).inspect("weight_factors")
    np.testing.assert_allclose(found.evidence["separability"], [1, 1 / 3, 1, 8 / 16], rtol=1e-12)
    together = found.evidence["depthwise_separability"]
    np.testing.assert_allclose(together[:3], [1, 1, 1 / 2], rtol=1e-12)
    assert found.evidence["mean_separability"] == pytest.approx((1 + 1 / 3 + 1 + 0.5) / 4)
    ranked = found.panels["filters"].values
    np.testing.assert_array_equal(ranked, weight[[0, 2, 3, 1]].numpy())


def test_a_deeper_layer_is_drawn_as_planes_of_its_heaviest_inputs() -> None:
    second = noise(5, 6, 3, 3, seed=3) * torch.tensor([1.0, 9, 1, 5, 1, 7]).view(1, 6, 1, 1)
    model = model_of(noise(6, 3, 3, 3), second)
    found = model.inspect("weight_factors", layer="1", components=4, columns=3)
    assert found.evidence["inputs"] == (1, 3, 5)
    assert found.columns == 3
    right = np.linalg.svd(second.flatten(1).numpy())[2][:4].reshape(4, 6, 3, 3)
    for i in range(4):
        own = right[i] * np.sign(right[i].flat[np.abs(right[i]).argmax()])
        np.testing.assert_allclose(found.values[3 * i : 3 * i + 3], own[[1, 3, 5]], atol=1e-12)
    assert any("3 of 6 input channels" in n for n in found.notes)
    assert model.inspect("weight_factors", layer="1").evidence["components"] == 5  # as many as there are


def test_groups_and_the_order_of_colours_are_said() -> None:
    grouped = model_of(noise(4, 3, 2, 2), noise(4, 1, 3, 3, seed=4), groups=4)
    assert any("4 groups" in n for n in grouped.inspect("weight_factors", layer="1").notes)
    bgr = cutaway.Preprocess(crop=8, channels="BGR")
    weight = noise(4, 3, 2, 2)
    np.testing.assert_allclose(
        model_of(weight, prep=bgr).inspect("weight_factors").values,
        model_of(weight.flip(1)).inspect("weight_factors").values,
        atol=1e-12,
    )


def test_bad_input_is_refused_in_words() -> None:
    model = model_of(torch.zeros(4, 3, 2, 2))
    with pytest.raises(MethodRefusedError, match="zero weights"):
        model.inspect("weight_factors")
    with pytest.raises(UsageError, match="components=9") as caught:
        model_of(noise(4, 3, 2, 2)).inspect("weight_factors", components=9)
    assert caught.value.accepted == "1 to 4"
    with pytest.raises(UnknownNameError):
        model_of(noise(4, 3, 2, 2)).inspect("weight_factors", layer="9")
    one = model_of(noise(1, 3, 2, 2)).inspect("weight_factors")  # a single filter is its own component
    assert len(one.evidence["singular_values"]) == 1
