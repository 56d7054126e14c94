"""universal_perturbation and strength_curve: DeepFool for one picture, a planted direction, counts made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cutaway
from cutaway.core.errors import UsageError
from cutaway.core.progress import finish
from cutaway.data.folder import Pictures
from cutaway.methods.adversarial.balls import Ball
from cutaway.methods.adversarial.strength_curve import strength_curve
from cutaway.methods.adversarial.universal_perturbation import fooled_share, universal_perturbation

from .nets import attack, curved, linear, middle


def folder(path: Path, x: Tensor) -> Pictures:
    for i, picture in enumerate(x):
        levels = (255 * picture).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(path / f"{i}.png")
    return Pictures(path)


def learn(model: cutaway.VisionModel, data: Pictures, **options: object) -> object:
    torch.manual_seed(0)
    with model.guard():
        return finish(universal_perturbation(model, data, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_one_picture_it_is_deepfool(tmp_path: Path, norm: str) -> None:
    model, x = linear(classes=5), middle()
    raw = learn(model, folder(tmp_path, x), rule="deepfool", norm=norm, epsilon=1.0, held_out=0, epochs=1)
    (near,) = attack(model, "deepfool", x)
    np.testing.assert_allclose(raw.values[0, 0], near.values - x[0].numpy(), atol=1e-12)


@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_keeps_its_bound_and_fools_by_it(tmp_path: Path, rule: str, norm: str) -> None:
    model, x = curved(), middle(24, 8, 8)
    data = folder(tmp_path, x)
    raw = learn(
        model, data, rule=rule, norm=norm, epsilon=20 / 255, radius=0.5, epochs=12, delta=0.0, batch=6
    )
    v = raw.values[0]
    size = float(v.abs().max()) if norm == "linf" else float(v.norm())
    assert 0 < size <= (20 / 255 if norm == "linf" else 0.5) + 1e-12
    judge = [i for i in range(24) if i % 4 == 3]
    with torch.no_grad():
        clean = model(x[judge]).argmax(1)
        levels = (255 * x[judge]).round()
        rounded = levels + (255 * ((x[judge] + v).clamp(0, 1) - x[judge])).round()
        if norm == "linf":
            by_hand = float((model(rounded / 255).argmax(1) != clean).double().mean())
            assert raw.evidence["fooled, held out"] == pytest.approx(by_hand)
    assert raw.evidence["pictures held out"] == 6
    assert raw.evidence["pictures learned from"] == 18
    assert raw.evidence["fooled, learned from"] > 0.3


def test_it_finds_the_direction_that_turns_all_pictures(tmp_path: Path) -> None:
    """Of two classes on a linear network whose pictures all are of one: the sign of the weights, at its bound."""
    model, x = linear(classes=2), middle(8)
    fc = model.network.fc
    fc.bias.data = torch.tensor([0.0, 0.0], dtype=torch.float64)
    gap = (fc.weight[0] - fc.weight[1]).detach()
    fc.bias.data[0] = -float((x.flatten(1) @ gap).min()) + 0.01  # class 0 wins everywhere, by little
    raw = learn(model, folder(tmp_path, x), epsilon=10 / 255, epochs=10, batch=4, delta=0.0)
    assert raw.evidence["fooled, learned from"] == raw.evidence["fooled, held out"] == 1.0
    np.testing.assert_array_equal(raw.values.flatten().sign(), -gap.sign())


def test_nothing_fools_nobody_and_sizes_must_agree(tmp_path: Path) -> None:
    model, x = curved(), middle(4, 8, 8)
    data = folder(tmp_path, x)
    with model.guard():
        assert finish(fooled_share(model, data, range(4), torch.zeros_like(x[:1]), Ball("linf", 0.1))) == 0
    Image.new("RGB", (9, 9)).save(tmp_path / "9.png")
    with pytest.raises(UsageError, match="pictures of"):
        learn(model, Pictures(tmp_path))


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_the_strength_curve_counts_what_the_attack_turns(tmp_path: Path, kind: str) -> None:
    model, x = curved(), middle(9, 8, 8)
    data = folder(tmp_path, x)
    epsilons = (1 / 255, 4 / 255, 16 / 255)
    with model.guard():
        curve = finish(strength_curve(model, data, kind, epsilons, batch=4))
    assert (curve.counted, curve.left_out) == (9, 0)
    for epsilon, share in zip(curve.x, curve.values[0], strict=True):
        options = {} if kind == "fgsm" else {"random_start": False}
        found = attack(model, kind, x, None, epsilon=float(epsilon), **options)
        assert share == pytest.approx(np.mean([f.evidence["fooled"] for f in found]))
    assert curve.values[0, 0] < curve.values[0, -1]


def test_pictures_with_a_wrong_answer_are_left_out_of_the_curve(tmp_path: Path) -> None:
    model, x = curved(), middle(6, 8, 8)
    with torch.no_grad():
        k = model(x).argmax(1)
    data = folder(tmp_path, x)
    data.labels = k.clone()
    data.labels[:2] = (k[:2] + 1) % 5
    with model.guard():
        curve = finish(strength_curve(model, data, "fgsm", (8 / 255,)))
        assert (curve.counted, curve.left_out) == (4, 2)
        for bad in ((), (0.0,), (1.5,)):
            with pytest.raises(UsageError, match="epsilons"):
                finish(strength_curve(model, data, "fgsm", bad))


@pytest.mark.parametrize(("norm", "bound"), [("linf", 1 / 2550), ("l2", 0.002)])
@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
def test_a_tight_bound_is_met_and_not_passed(tmp_path: Path, rule: str, norm: str, bound: float) -> None:
    model, x = linear(classes=3), middle(6)
    options = {"epsilon": bound, "radius": bound, "norm": norm, "rule": rule, "batch": 2, "epochs": 8}
    v = learn(model, folder(tmp_path, x), **options).values
    size = float(v.abs().max()) if norm == "linf" else float(v.norm())
    assert 0.5 * bound < size <= bound * (1 + 1e-12)
