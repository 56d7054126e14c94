"""Implementation invariance: equal networks made by hand and by the metric, and a published pair that tells methods apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway import Preprocess, VisionModel, load
from cutaway.core.method import get as get_method
from cutaway.core.target import logit
from cutaway.data.scenes import Scenes
from cutaway.metrics import METRICS, UndefinedError
from cutaway.metrics.implementation import equal, implementation_invariance, residual
from cutaway.metrics.judging import case_of, settle_on

SIZE = 10


class Grouped(nn.Module):
    """Norms that fold, a grouped convolution, max pooling, flattening, a skip, and one layer that runs twice."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6)
        self.twice, self.bn3 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(6 * 25, 7), nn.Linear(7, 3)
        self.act = act or nn.ReLU()
        for norm in (self.bn1, self.bn2, self.bn3):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.bn1(self.conv1(x)))
        h = self.act(self.bn2(self.conv2(h)))
        h = self.act(self.twice(self.act(self.twice(h))))
        h = torch.max_pool2d(self.bn3(h) + h, 2)
        out: Tensor = self.fc2(self.act(self.fc1(h.flatten(1))))
        return out


def wrap(net: nn.Module) -> VisionModel:
    return VisionModel(net.double().eval(), Preprocess(mean=(0.5, 0.5, 0.5)), name="net")


@pytest.fixture
def grouped() -> VisionModel:
    torch.manual_seed(2)
    return wrap(Grouped())


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3)).double()


def test_an_equal_network_has_other_weights_and_the_same_scores(grouped: VisionModel, x: Tensor) -> None:
    before = grouped.fingerprint
    for by, folded, rescaled in (
        ("fold", ("bn1", "bn2"), ()),
        ("rescale", (), (("bn1", "conv2"), ("fc1", "fc2"))),
        ("both", ("bn1", "bn2"), (("conv1", "conv2"), ("fc1", "fc2"))),
    ):
        found = equal(grouped, x, by=by)  # type: ignore[arg-type]
        assert (found.folded, found.rescaled) == (folded, rescaled)
        fresh = torch.rand(20, 3, SIZE, SIZE).double()
        with torch.no_grad():
            torch.testing.assert_close(found.model(fresh), grouped(fresh), rtol=1e-11, atol=1e-12)
        changed = found.model.network
        assert isinstance(changed.bn1, nn.Identity) == ("bn1" in folded)
        for _, second in rescaled:
            weights = [net.get_submodule(second).weight for net in (changed, grouped.network)]
            assert not torch.allclose(*weights)  # type: ignore[arg-type]
    assert grouped.fingerprint == before


def test_channels_through_flatten_and_from_the_last_axis_to_the_first(x: Tensor) -> None:
    """A linear layer reads each channel in many columns; where they lie otherwise, one factor serves the pair."""
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * SIZE * SIZE, 2)

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = conv, fc

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))
            return out

    def factors(net: nn.Module) -> set[float]:
        found = equal(wrap(net), x, by="rescale")
        ((first, _),) = found.rescaled
        ratio = found.model.network.get_submodule(first).weight / conv.double().weight  # type: ignore[operator]
        return set(ratio.unique().tolist())

    assert len(factors(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), fc))) > 1
    assert len(factors(Moved())) == 1


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(300, 3)), "no batch norm to fold and no two layers"),
        (Grouped(nn.GELU()).requires_grad_(False), None),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(256, 2)), "no equal network"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(256, 2)), "no equal network"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(256, 2)), "no equal network"),
    ],
)  # fmt: skip
def test_where_no_equal_network_can_be_made(net: nn.Module, said: str | None, x: Tensor) -> None:
    if said is None:  # norms still fold
        assert equal(wrap(net), x).folded == ("bn1", "bn2")
        assert equal(wrap(net), x).rescaled == ()
        return
    with pytest.raises(UndefinedError, match=said):
        equal(wrap(net), x)


def test_a_norm_beside_another_reader_is_left_alone(x: Tensor) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            out: Tensor = self.fc((self.norm(h) * h).mean((2, 3)))
            return out

    with pytest.raises(UndefinedError, match="no batch norm to fold"):
        equal(wrap(Beside()), x, by="fold")


@pytest.mark.parametrize("by", ["fold", "rescale"])
@pytest.mark.parametrize(
    ("method", "options"),
    [("saliency", {}), ("guided_backprop", {}), ("grad_cam", {"layer": "conv2", "relu": False}), ("occlusion", {"window": 4}),
     ("integrated_gradients", {"baseline": "blur"})],
)  # fmt: skip
def test_functions_of_the_function_are_invariant(
    grouped: VisionModel, x: Tensor, by: str, method: str, options: dict[str, Any]
) -> None:
    if method == "grad_cam" and by == "fold":
        options = {"layer": "bn2", "relu": False}  # what conv2 gives is another thing once the norm is folded
    found = get_method(method)
    case = case_of(grouped, found, found.options(options), x, logit(1))
    value = METRICS["implementation_invariance"](case, {"by": by})
    assert value < 1e-9


def test_what_reads_hidden_numbers_is_not_invariant(grouped: VisionModel, x: Tensor) -> None:
    """The strongest map of a layer changes when its channels are rescaled, by factors known here."""

    def again(model: VisionModel, x: Tensor, seed: int | None = None) -> Tensor:
        with torch.no_grad():
            return model.network.get_submodule("bn1")(model.network.get_submodule("conv1")(x - 0.5))[0].sum(0)

    other = equal(grouped, x, by="rescale").model
    expected = residual(again(grouped, x), again(other, x))
    assert expected > 0.1
    assert implementation_invariance(grouped, x, again, by="rescale") == pytest.approx(expected)
    assert implementation_invariance(grouped, x, again, by="fold") < 1e-9
    with pytest.raises(UndefinedError, match=r"0 everywhere"):
        implementation_invariance(grouped, x, lambda m, x, s=None: torch.zeros(3, 3))
    sizes = iter([torch.rand(3, 3), torch.rand(2, 2)])
    with pytest.raises(UndefinedError, match="another size: 3x3 and 2x2"):
        implementation_invariance(grouped, x, lambda m, x, s=None: next(sizes))


class Published(nn.Module):
    """relu(h(a) - relu(b)) with h(a) = relu(a) - 1 or relu(a - 1): equal everywhere (Sundararajan 2017, appendix B)."""

    def __init__(self, *, late: bool) -> None:
        super().__init__()
        self.late = late

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, 0, 0, 0], x[:, 0, 0, 1]
        h = torch.relu(a) - 1 if self.late else torch.relu(a - 1)
        return torch.relu(h - torch.relu(b))[:, None]


def test_the_published_pair_tells_the_methods_apart() -> None:
    """At (3, 1) from (0, 0) both give 1; integrated gradients share it as (1.5, -0.5) in both, DeepLIFT does not."""
    steps = Preprocess(channels="L", std=(0.25,))
    point = torch.tensor([[[[0.75, 0.25]]]]).double()  # 3 and 1 as the networks see them
    pair = [VisionModel(Published(late=late), steps, name="pair") for late in (True, False)]
    grid = torch.rand(500, 1, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(pair[0](grid), pair[1](grid))

    def maps(name: str, **options: Any) -> list[Tensor]:
        return [
            torch.from_numpy(m.explain(point, name, 0, baseline="black", **options).values.copy()).double()
            for m in pair
        ]

    one, other = maps("integrated_gradients", steps=2048)
    torch.testing.assert_close(one, torch.tensor([[1.5, -0.5]]).double(), atol=2e-3, rtol=0)
    assert residual(one, other) < 2e-3
    one, other = maps("deeplift", rule="rescale")
    torch.testing.assert_close(one, torch.tensor([[1.5, -0.5]]).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(other, torch.tensor([[2.0, -1.0]]).double(), atol=1e-9, rtol=0)
    assert residual(one, other) == pytest.approx(0.25)


def test_a_flat_baseline_leaves_ties_in_max_pooling_to_rounding() -> None:
    """On the bundled network DeepLIFT from black depends on how batch norm is written, from a blurred picture it does not."""
    model, scene = load("cutaway:scenes", device="cpu"), Scenes(1, seed=2026)[0]
    x = model.pixels(scene.image)
    target, method = settle_on(model, x, None), get_method("deeplift")

    def value(baseline: str) -> float:
        case = case_of(model, method, method.options({"baseline": baseline}), x, target)
        return METRICS["implementation_invariance"](case, {"by": "fold"})

    holds = METRICS["implementation_invariance"].holds
    assert holds(value("blur"))
    assert not holds(value("black"))


def test_the_copy_is_checked(grouped: VisionModel, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are wrongly made equal are found, never compared."""
    from cutaway.metrics import implementation

    def wrong(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
        out = copy.deepcopy(layer)
        out.bias = nn.Parameter(torch.zeros(layer.out_channels).double())
        return out

    monkeypatch.setattr(implementation, "fuse_conv_bn_eval", wrong)
    with pytest.raises(UndefinedError, match="does not compute the same"):
        equal(grouped, x)
