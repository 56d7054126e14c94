"""Feature inversion against closed forms: linear features, whose inversion is a matter of linear algebra."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway import METHODS, Preprocess, VisionModel
from cutaway.core.errors import InputError, MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.progress import Enough, finish
from cutaway.core.run import explain
from cutaway.methods.synthesis.feature_inversion import Levels
from cutaway.methods.synthesis.inverted import Prior, depth

FREE = {"alpha_weight": 0, "beta_weight": 0}
TYPICAL = 0.226 * 255


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def photo(*shape: int, seed: int = 0) -> Tensor:
    """Far enough from black and white that no inversion has to leave the picture's range."""
    return 0.35 + 0.3 * random(*shape, seed=seed)


def linear(outputs: int, side: int = 4) -> VisionModel:
    """All pixels into one well-conditioned linear layer, layer 1."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, outputs, bias=True), nn.Linear(outputs, 2))
    q, _ = torch.linalg.qr(torch.randn(3 * side * side, 3 * side * side, dtype=torch.float64))
    net = net.double()
    net[1].weight.data = q[:outputs] * torch.linspace(0.5, 1.5, outputs, dtype=torch.float64)[:, None]
    return VisionModel(net, Preprocess(), name="linear")


def pointwise() -> VisionModel:
    """Every position of layer 0 sees one pixel, and knows all of it."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1))
    return VisionModel(net.double(), Preprocess(), name="pointwise")


def convolutions() -> VisionModel:
    torch.manual_seed(3)
    net = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1), nn.ReLU()) for i in range(6)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return VisionModel(net.double(), Preprocess(), name="six")


def invert(model: VisionModel, x: Tensor, **options: Any) -> Any:
    return model.explain(x, "feature_inversion", **options)


@pytest.mark.parametrize(
    "how",
    [{"steps": 400, "rate": 0.1}, {"by": "authors", "rate": 0.1, "steps": 400}],
    ids=["spectrum", "authors"],
)
def test_features_that_hold_everything_give_the_photograph_back(how: dict[str, Any]) -> None:
    model, x = linear(48), photo(3, 4, 4)
    found = invert(model, x, layer="1", **FREE, **how)
    np.testing.assert_allclose(found.values, x.numpy(), atol=2e-3)
    assert found.evidence["feature error 1"] < 1e-2
    assert found.evidence["pixel error 1"] < 1e-3
    np.testing.assert_array_equal(found.panels["original"].values, x.numpy())


@pytest.mark.parametrize("outputs", [48, 20])
def test_quadratic_priors_give_the_solution_of_tikhonov(outputs: int) -> None:
    model, x = linear(outputs), photo(3, 4, 4, seed=4)
    found = invert(model, x, layer="1", steps=500, rate=0.1, alpha=2, alpha_weight=0.05, beta_weight=0.2)
    # scale |J u + b - f|^2 / |f|^2 + 0.05 / 2 |255 v|^2 + 0.2 / 2 |255 D v|^2 with v = u - 1/2
    J, b = (p.detach().numpy() for p in model.network[1].parameters())
    u = x.numpy().ravel()
    f = J @ u + b
    scale = TYPICAL**2 * 48 / (f @ f)
    D = []
    for c in range(3):
        for r in range(4):
            for k in range(4):
                for r2, k2 in ((r + 1, k), (r, k + 1)):
                    if r2 < 4 and k2 < 4:
                        row = np.zeros((3, 4, 4))
                        row[c, r, k], row[c, r2, k2] = -1, 1
                        D.append(row.ravel())
    D = np.stack(D)
    left = 2 * scale * J.T @ J + 255**2 * (0.05 * np.eye(48) + 0.2 * D.T @ D)
    v = np.linalg.solve(left, 2 * scale * J.T @ (J @ (u - 0.5)))
    want = (v + 0.5).reshape(3, 4, 4)
    assert np.abs(want - x.numpy()).max() > 0.03  # the prior is felt
    np.testing.assert_allclose(found.values, want, atol=1e-3)


def test_the_prior_by_loops() -> None:
    z = 100 * (random(2, 3, 4, 5) - 0.5)
    want = []
    for one in z.numpy():
        size = sum(abs(v) ** 6 for v in one.ravel())
        total = 0.0
        for c in range(3):
            for r in range(4):
                for k in range(5):
                    dx = one[c, r, k + 1] - one[c, r, k] if k < 4 else 0
                    dy = one[c, r + 1, k] - one[c, r, k] if r < 3 else 0
                    total += (dx**2 + dy**2) ** 0.75
        want.append(8e-10 / 2 * size + 10 / 2 * total)
    np.testing.assert_allclose(Prior(6, 8e-10, 1.5, 10)(z), want)
    flat = torch.zeros(1, 1, 2, 2, requires_grad=True)
    Prior(1, 1, 1, 1)(flat).sum().backward()
    assert torch.equal(flat.grad, torch.zeros(1, 1, 2, 2))


def test_the_authors_steps() -> None:
    """On linear features, momentum and schedule by hand."""
    model, x = linear(48), photo(3, 4, 4)
    J, b = (p.detach().numpy() for p in model.network[1].parameters())
    f = J @ x.numpy().ravel() + b
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    z = torch.randn((1, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = z.numpy().ravel()
    z *= TYPICAL * 48**0.5 / np.linalg.norm(z)
    v, went = np.zeros(48), []
    for step in range(301):
        slope = 2 * TYPICAL**2 * 48 / (f @ f) * J.T @ (J @ (z / 255 + 0.5) + b - f) / 255
        v = 0.9 * v - 0.02 * (1 if step < 100 else 0.1 if step < 300 else 0.01) * slope
        z = z + v
        went.append((z / 255 + 0.5).reshape(3, 4, 4))
    for steps in (1, 2, 5, 101, 301):
        found = invert(model, x, layer="1", by="authors", rate=0.02, steps=steps, **FREE)
        np.testing.assert_allclose(found.values, went[steps - 1].clip(0, 1), atol=1e-9)


def test_a_place_inverts_only_what_it_sees() -> None:
    model, x = pointwise(), photo(3, 6, 5)
    options: dict[str, Any] = {"layer": "0", "by": "authors", **FREE}
    found = invert(model, x, place="1-3,2-4", rate=0.1, **options).values
    start = invert(model, x, place="1-3,2-4", rate=1e-12, steps=1, **options).values
    np.testing.assert_allclose(found[:, 1:4, 2:5], x.numpy()[:, 1:4, 2:5], atol=2e-2)
    outside = np.ones((6, 5), bool)
    outside[1:4, 2:5] = False
    np.testing.assert_array_equal(found[:, outside], start[:, outside])
    assert (
        "of the maps only rows and columns 1-3,2-4 are inverted"
        in invert(model, x, place="1-3,2-4", steps=1, **options).notes
    )
    one = invert(model, x, place="2,3", rate=0.01, **options).values
    np.testing.assert_allclose(one[:, 2, 3], x.numpy()[:, 2, 3], atol=2e-2)
    for bad in ("1", "3-1,2", "a,b", "1,2,3", "-1,2"):
        with pytest.raises(UsageError, match="place="):
            invert(model, x, layer="0", place=bad)
    with pytest.raises(UsageError, match="rows from 0 to 5 and columns from 0 to 4"):
        invert(model, x, layer="0", place="2,5")
    with pytest.raises(UsageError, match="no rows and columns"):
        invert(linear(20), photo(3, 4, 4), layer="1", place="0,0")


def test_several_layers_stand_in_their_order_with_their_depth() -> None:
    model, x = convolutions(), photo(3, 8, 8)
    found = invert(model, x, layers="5, 0.0,2,0", steps=20)
    assert found.layer in ("0, 0.0, 2, 5", "0.0, 0, 2, 5")  # two names of one activation
    assert list(found.panels)[-1] == "original"
    words = [depth(model, str(i)) for i in range(6)]
    assert words == ["shallow", "shallow", "middle", "middle", "deep", "deep"]
    ten, thirty = (f"{w * (8 / 227) ** 2:.3g}" for w in (10, 30))
    assert any(f"{ten} at 2 (middle), {thirty} at 5 (deep)" in n for n in found.notes)
    told = invert(model, x, layer="5", steps=20, beta_weight=30 * (8 / 227) ** 2)
    np.testing.assert_array_equal(told.values, found.panels["5"].values)
    alone = invert(model, x, layer="5", steps=20)
    np.testing.assert_array_equal(alone.values, found.panels["5"].values)
    whole = invert(model, x, steps=2)
    assert whole.layer == ", ".join(model.layers.stages())
    assert any("the last of each stage" in n for n in whole.notes)


def test_starts_differ_and_a_batch_of_them_equals_each_alone() -> None:
    model, x = convolutions(), photo(2, 3, 8, 8)
    options = {"layers": "0,3", "steps": 15, "draws": 2}
    both = finish(explain(model, METHODS["feature_inversion"], x, None, options))
    for i, one in enumerate(both):
        (alone,) = finish(explain(model, METHODS["feature_inversion"], x[i : i + 1], None, options))
        for key, array in alone.arrays().items():
            np.testing.assert_allclose(one.arrays()[key], array, atol=1e-9, err_msg=key)
        assert one.evidence["feature error 3"] == pytest.approx(alone.evidence["feature error 3"])
        assert len(one.evidence["feature error 3"]) == 2
    assert list(both[0].panels) == ["0, start 2", "3, start 1", "3, start 2", "original"]
    assert np.abs(both[0].values - both[0].panels["0, start 2"].values).max() > 1e-3
    assert np.abs(both[0].values - both[1].values).max() > 1e-3


def test_the_reported_errors_are_those_of_the_picture_shown() -> None:
    model, x = convolutions(), photo(3, 8, 8)
    found = invert(model, x, layer="2", steps=20)
    with torch.no_grad():
        want, got, grey = (
            model.network[:3](u) for u in (x[None], torch.from_numpy(found.values)[None], 0 * x[None] + 0.5)
        )
    assert found.evidence["feature error 2"] == pytest.approx(float((got - want).norm() / want.norm()))
    assert found.evidence["feature error of grey"]["2"] == pytest.approx(
        float((grey - want).norm() / want.norm())
    )
    assert found.evidence["pixel error 2"] == pytest.approx(
        float(np.sqrt(np.mean((found.values - x.numpy()) ** 2)))
    )
    assert found.evidence["feature error 2"] < found.evidence["feature error of grey"]["2"]


def test_the_authors_start_has_the_norm_of_a_photograph() -> None:
    start = Levels(pointwise(), photo(1, 3, 6, 5)).start(3, 0.0, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(start.flatten(1).norm(dim=1), TYPICAL * 90**0.5)


class Changing(nn.Module):
    """Its layer's size hangs on what is in the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x[:, :, : 3 if float(x.detach().mean()) > 0.6 else 2] * 1.0)
        return h.mean((2, 3))


def test_what_cannot_be_inverted_is_refused() -> None:
    model, x = convolutions(), photo(3, 8, 8)
    with pytest.raises(UsageError, match="together with layers"):
        invert(model, x, layer="0", layers="1")
    with pytest.raises(UsageError, match="names of layers"):
        invert(model, x, layers=" , ")
    with pytest.raises(UnknownNameError, match="nowhere"):
        invert(model, x, layer="nowhere")
    model.network[0][0].bias.data.fill_(-100)
    with pytest.raises(MethodRefusedError, match="zero everywhere for picture 0"):
        invert(model, x, layer="0")
    with pytest.raises(InputError, match="where 3x3x8 are looked for"):
        invert(VisionModel(Changing(), Preprocess(), name="c"), 0.7 + 0.1 * random(3, 8, 8), layer="layer")
    with pytest.raises(InputError, match="smaller rate"):
        invert(convolutions(), x, layer="0", by="authors", rate=10, beta_weight=100, steps=200)


@pytest.mark.parametrize("after", [0, 5, 25])
def test_told_enough_it_ends_with_what_there_is(after: int) -> None:
    model, x = convolutions(), photo(2, 3, 8, 8)
    seen = 0

    def watch(progress: Any) -> None:
        nonlocal seen
        assert 0 <= progress.fraction <= 1
        seen += 1
        if seen > after:
            raise Enough

    found = finish(
        explain(model, METHODS["feature_inversion"], x, None, {"layers": "0,3", "steps": 20}), watch
    )
    assert len(found) == 2
    assert ("3" in found[0].panels) == (after == 25)
    assert any("stopped after" in n for n in found[0].notes)


def test_a_grey_network_is_inverted_in_grey() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    for by in ("spectrum", "authors"):
        found = invert(
            VisionModel(net, Preprocess(channels="L"), name="grey"), random(12, 12), layer="0", by=by
        )
        assert found.values.shape == (3, 12, 12)
        assert (found.values == found.values[:1]).all()
