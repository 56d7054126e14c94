"""Latent synthesis against closed forms: an identity for a generator, a linear one, the published step by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import InputError, MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.method import GENERATOR
from cutaway.core.progress import finish
from cutaway.core.result import Result
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.nn.generators import DigitGenerator, FeatureGenerator
from cutaway.zoo.generators import load_generator

SIDE, CODE = 4, 48


class Linear:
    """G(y) = middle grey + A y, without a network."""

    name, code_size = "a matrix", CODE

    def __init__(self, matrix: Tensor, clip: tuple[Tensor, Tensor] | None = None) -> None:
        self.matrix, self.clip = matrix, clip

    def start(self, draws: int, random: torch.Generator) -> Tensor:
        return 0.05 * torch.randn((draws, CODE), generator=random, dtype=torch.float64)

    def __call__(self, codes: Tensor) -> Tensor:
        return 0.5 + (codes @ self.matrix.T).view(len(codes), 3, SIDE, SIDE)


IDENTITY = torch.eye(CODE, dtype=torch.float64)
MATRIX = torch.randn(CODE, CODE, generator=torch.Generator().manual_seed(4), dtype=torch.float64) / 9


def model_of(net: nn.Module, **how: Any) -> cutaway.VisionModel:
    prep = cutaway.Preprocess(crop=SIDE, mean=(0.5,), std=(1.0,), **how)
    return cutaway.VisionModel(net, prep, name="small")


def linear() -> cutaway.VisionModel:
    torch.manual_seed(2)
    return model_of(nn.Sequential(nn.Flatten(), nn.Linear(CODE, 5)).double())


def drawn(model: cutaway.VisionModel, generator: Any, target: Any = 3, **options: Any) -> Result:
    work = explain(model, METHODS["latent_synthesis"], None, target, options, given={GENERATOR: generator})
    return finish(work)[0]


def beginning() -> Tensor:
    """The code that a run of seed 0 begins with."""
    torch.manual_seed(0)
    return Linear(IDENTITY).start(1, torch.Generator().manual_seed(int(torch.randint(2**62, ()))))[0]


def test_with_an_identity_for_a_generator_it_is_the_class_visualization() -> None:
    model, penalty = linear(), 0.2
    near = drawn(model, Linear(IDENTITY), steps=3000, rate=0.1, decay=0, penalty=penalty, clip=False)
    right = finish(
        explain(model, METHODS["class_visualization"], None, 3, {"decay": penalty, "rate": 0.3, "mass": 0})
    )[0]
    assert np.abs(right.values - 0.5).max() > 0.2
    np.testing.assert_allclose(near.values, right.values, atol=1e-3)


def test_the_value_at_the_start_is_the_target_without_the_penalty() -> None:
    found = drawn(linear(), Linear(IDENTITY), steps=1, rate=1e-9, decay=0, penalty=50.0, clip=False)
    assert found.evidence["value at the start"] == pytest.approx(found.evidence["value"], abs=1e-6)


@pytest.mark.parametrize("matrix", [IDENTITY, MATRIX], ids=["identity", "matrix"])
def test_of_a_linear_generator_and_network_every_step_is_known(matrix: Tensor) -> None:
    """The gradient is the same everywhere, so the last code is a sum."""
    model, steps, rate, decay = linear(), 12, 0.05, 0.01
    found = drawn(model, Linear(matrix), steps=steps, rate=rate, decay=decay)
    g = model.network[1].weight[3].detach() @ matrix
    way = g / g.abs().mean()
    keep = (1 - decay) ** torch.arange(steps, 0, -1, dtype=torch.float64)
    rates = rate * (1 - torch.arange(steps, dtype=torch.float64) / steps)
    code = (1 - decay) ** steps * beginning() + (keep * rates).sum() * way
    np.testing.assert_allclose(found.values, Linear(matrix)(code[None])[0].clamp(0, 1), atol=1e-13)


def test_the_rate_is_a_fifth_of_the_mean_range_or_the_published_one() -> None:
    low, high = torch.zeros(CODE).double(), torch.linspace(0.1, 0.5, CODE).double()
    ranged, options = Linear(IDENTITY, (low, high)), {"steps": 3}
    said = [note for note in drawn(linear(), ranged, **options).notes if "first step" in note]
    assert said == ["the first step is of size 0.06"]
    np.testing.assert_allclose(
        drawn(linear(), ranged, **options).values,
        drawn(linear(), ranged, **options, rate=0.06).values,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        drawn(linear(), Linear(IDENTITY), **options).values,
        drawn(linear(), Linear(IDENTITY), **options, rate=8).values,
    )


def test_each_number_of_the_code_is_kept_in_its_own_range() -> None:
    low, high = -torch.linspace(0, 0.1, CODE).double(), torch.linspace(0.2, 0.3, CODE).double()
    model = linear()
    found = drawn(model, Linear(IDENTITY, (low, high)), steps=60, rate=2.0, decay=0)
    way = model.network[1].weight[3].detach()
    np.testing.assert_allclose(found.values.ravel() - 0.5, torch.where(way > 0, high, low), atol=1e-12)
    free = drawn(model, Linear(IDENTITY, (low, high)), steps=60, rate=2.0, decay=0, clip=False)
    assert np.abs(free.values - 0.5).max() > 0.4


def test_pictures_of_another_size_and_grey_ones_are_fitted_and_told() -> None:
    class Grey(Linear):
        def __call__(self, codes: Tensor) -> Tensor:
            return codes.new_full((len(codes), 1, 2, 2), 0.25) + 1e-3 * codes[:, :4].reshape(-1, 1, 2, 2)

    found = drawn(linear(), Grey(IDENTITY), steps=2)
    assert found.values.shape == (3, SIDE, SIDE)
    assert any("2 x 2" in note for note in found.notes)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (object(), "name"),
        (type("Signed", (Linear,), {"__call__": lambda self, y: 5 * y.view(-1, 3, 4, 4)})(IDENTITY), "reach"),
        (type("Flat", (Linear,), {"__call__": lambda self, y: y})(IDENTITY), "for one code"),
        (type("Long", (Linear,), {"code_size": 7})(IDENTITY), "starts from codes"),
        (Linear(IDENTITY, (torch.zeros(3), torch.ones(3))), "range has shapes"),
    ],
)
def test_what_is_no_generator_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        drawn(linear(), wrong)
    assert caught.value.hint


def test_without_a_generator_or_a_gradient_it_refuses() -> None:
    with pytest.raises(UsageError, match="generator"):
        finish(explain(linear(), METHODS["latent_synthesis"], None, 3, {}))
    with pytest.raises(MethodRefusedError, match="exactly zero"):
        drawn(linear(), Linear(torch.zeros(CODE, CODE).double()))


def test_a_network_for_a_generator_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    generator = FeatureGenerator(6, 2, side=16, widths=(8, 4)).train()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    drawn(linear(), generator, steps=2)
    assert generator.training
    assert all(
        p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in generator.parameters()
    )
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())


def test_the_bundled_generator_draws_a_picture_of_each_class() -> None:
    model, generator = cutaway.load("cutaway:scenes"), load_generator("cutaway:scenes")
    options = {"steps": 12}
    work = explain(
        model, METHODS["latent_synthesis"], None, cutaway.logit(torch.tensor([0, 5])), options,
        given={GENERATOR: generator},
    )  # fmt: skip
    for found in finish(work):
        assert found.evidence["value"] > found.evidence["value at the start"] + 1


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.conv1(x).relu(), 2)
        h = F.max_pool2d(self.conv2(h).relu(), 2).flatten(1)
        out: Tensor = self.fc3(self.fc2(self.fc1(h).relu()).relu())
        return out


def test_digits_of_a_trained_generator_and_of_codes_that_were_looked_for(data_folder: Path) -> None:
    """Noise times a class's row draws that class, as the generator was trained; so does the ascent."""
    generator = load_generator(data_folder / "weights" / "acgan_generator_mnist.safetensors")
    assert isinstance(generator, DigitGenerator)
    net = LeNet()
    net.load_state_dict(load_file(data_folder / "weights" / "lenet5_mnist.safetensors"))
    model = cutaway.VisionModel(net.eval(), cutaway.Preprocess(crop=28, channels="L"), name="lenet5")
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(200, 100, generator=random) * generator.embedding.weight.repeat_interleave(20, 0)
    with torch.no_grad():
        read = model(generator(codes)).argmax(1)
    assert float((read == torch.arange(10).repeat_interleave(20)).float().mean()) > 0.8
    low, high = generator.clip
    assert float(((codes >= low) & (codes <= high)).float().mean()) > 0.95
    work = explain(
        model, METHODS["latent_synthesis"], None, cutaway.logit(torch.arange(10)), {"steps": 40},
        given={GENERATOR: generator},
    )  # fmt: skip
    seen = torch.from_numpy(np.stack([found.values for found in finish(work)]))
    with torch.no_grad():
        assert torch.equal(model(seen).argmax(1), torch.arange(10))


def test_a_generator_that_is_not_there_or_not_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="scenes"):
        load_generator("cutaway:faces")
    with pytest.raises(InputError, match="cannot read"):
        load_generator(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_generator(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no generator"):
        load_generator(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "card", ["[1]", "{}", '{"architecture": {"channels": 1, "grid": 1, "side": 8, "widths": []}}']
)
def test_a_card_of_no_generator_is_told(tmp_path: Path, card: str) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "odd.safetensors")
    (tmp_path / "odd.json").write_text(card)
    with pytest.raises(InputError, match="holds no generator"):
        load_generator(tmp_path / "odd.safetensors")
