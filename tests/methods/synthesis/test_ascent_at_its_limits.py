"""Ascents that are told to stop, networks of few digits, scores of any size, and targets that ask for nothing clear."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from cutaway.core.errors import InputError, UsageError
from cutaway.core.progress import Enough, Progress
from cutaway.core.readers import Unit
from cutaway.methods.synthesis import wanted
from cutaway.methods.synthesis.shaking import Movement

from .test_feature_visualization import drawn, model, small


@pytest.mark.parametrize("after", [0, 1, 2])
def test_told_enough_in_the_second_portion_each_picture_says_its_own_steps(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Of four pictures in portions of two, steps 0 to 3 are the first portion's."""
    monkeypatch.setattr(wanted, "MOST", 2)
    seen: list[Progress] = []

    def watch(step: Progress) -> None:
        seen.append(step)
        if len(seen) > 4 + after:
            raise Enough

    results = drawn(model(small()), cutaway.channel("4", torch.arange(4)), watch=watch, steps=4)
    assert [r.evidence["steps"] for r in results] == [4, 4, after, after][: 4 if after else 2]
    said = f"the last 2 stopped after {after} of 4 steps" if after else "stopped after 2 of 4 pictures"
    assert said in results[0].notes
    assert [s.fraction for s in seen[:6]] == pytest.approx(
        [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8][: len(seen)]
    )


def test_told_enough_at_once_it_gives_the_start() -> None:
    def watch(step: Progress) -> None:
        raise Enough

    (result,) = drawn(model(small()), 2, watch=watch, steps=9)
    assert result.evidence["steps"] == 0
    assert result.evidence["value"] == result.evidence["value at the start"]
    assert "stopped after 0 of 9 steps" in result.notes


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e36])
def test_the_picture_does_not_depend_on_the_size_of_the_score(scale: float) -> None:
    net = small().float()
    (plain,) = drawn(model(net), 2, steps=8)
    with torch.no_grad():
        net[-1].weight *= scale
        net[-1].bias *= scale
    (scaled,) = drawn(model(net), 2, steps=8)
    np.testing.assert_allclose(scaled.values, plain.values, rtol=0, atol=1e-3)


def test_the_value_at_the_start_is_the_target_of_the_start_alone() -> None:
    m, options = model(small()), {"steps": 1, "rate": 1e-9, "draws": 3, "diversity": 5.0}
    (result,) = drawn(m, 2, **options)
    assert result.evidence["value at the start"] == pytest.approx(result.evidence["value"], abs=1e-6)


@pytest.mark.parametrize("layer", ["6", "7"])
def test_draws_differ_by_layers_without_maps_too(layer: str) -> None:
    (result,) = drawn(model(small()), cutaway.channel(layer, 1), steps=3, draws=2)
    assert result.panels["draws"].values.shape == (1, 3, 24, 24)


def test_weights_that_are_not_numbers_are_named() -> None:
    net = small()
    with torch.no_grad():
        net[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"3\.weight"):
        drawn(model(net), 2, steps=3)


def test_maps_of_scores_have_no_probability_of_a_class() -> None:
    m = model(nn.Conv2d(3, 5, 3).double())
    assert "probability when moved" not in drawn(m, 3, steps=2)[0].evidence


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", ["feature_visualization", "class_visualization", "regularized_visualization", "deep_dream"]
)
def test_networks_of_few_digits_are_drawn_in_more(name: str, dtype: torch.dtype) -> None:
    x = None if name != "deep_dream" else torch.full((3, 24, 24), 0.5)
    (result,) = model(small().to(dtype)).draw(2, name, image=x, steps=3)
    assert result.values.dtype == np.float32
    assert np.isfinite(result.values).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cutaway.channel("4", torch.arange(3)) + cutaway.logit(torch.arange(2)),
        lambda: cutaway.channel("4", torch.arange(0)),
        lambda: cutaway.channel("4", torch.tensor([1.0, 2.0])),
        lambda: cutaway.logit(torch.tensor([[1, 2]])),
        cutaway.predicted,
    ],
)
def test_targets_of_no_clear_pictures_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        drawn(model(small()), wrong(), steps=2)


def broad(net: nn.Module) -> cutaway.VisionModel:
    """A network last seen with a picture of 20 x 36 pixels."""
    m = cutaway.VisionModel(net, cutaway.Preprocess(), name="broad")
    m.pixels(torch.zeros(3, 20, 36))
    return m


def test_pictures_that_are_broader_than_high() -> None:
    m = broad(nn.Sequential(nn.Conv2d(3, 2, (3, 5)), nn.ReLU(), nn.Conv2d(2, 2, 1)))
    (alone,) = drawn(m, cutaway.channel("2", 1), steps=3)
    assert alone.values.shape == (3, 3, 5)
    both = wanted.neurons(m, cutaway.channel("0", 1) + cutaway.channel("2", 0))
    assert [(r.row, r.col) for _, r in both.target.terms if isinstance(r, Unit)] == [(9, 16), (9, 16)]
    assert drawn(m, both.named, steps=3)[0].values.shape == (3, 20, 36)
    found = m.explain(torch.rand(3, 20, 36), "feature_inversion", layer="0", steps=1)
    assert any(f"{10 * (20 / 227) ** 2:.3g} at 0 (middle)" in note for note in found.notes)


def test_a_quarter_turn_keeps_the_length_of_sides() -> None:
    x = torch.rand(1, 3, 4, 8).double()
    turned = Movement(angle=math.pi / 2)(x)[..., 2:6]
    torch.testing.assert_close(turned, torch.rot90(x[..., 2:6], -1, (2, 3)), rtol=0, atol=1e-9)


def test_each_class_of_a_further_portion_has_its_own_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "MOST", 2)
    m = model(small())
    for k, got in enumerate(drawn(m, torch.arange(4), steps=2)):
        (alone,) = drawn(m, k, steps=2)
        assert got.evidence["probability when moved"] == pytest.approx(
            alone.evidence["probability when moved"]
        )
