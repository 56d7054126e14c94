"""universal_perturbation: DeepFool for one picture, a planted direction, counts made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import cutaway
from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.core.method import DATA
from cutaway.core.progress import Enough, Progress, finish
from cutaway.core.run import explain
from cutaway.data.folder import Pictures
from cutaway.methods import get
from cutaway.methods.adversarial.balls import Ball
from cutaway.methods.adversarial.universal_perturbation import fooled_share, universal_perturbation

from ..nets import wrap
from .nets import attack, curved, folder, linear, middle


def learn(model: cutaway.VisionModel, data: Pictures, **options: object) -> object:
    torch.manual_seed(0)
    with model.guard():
        return finish(universal_perturbation(model, data, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("overshoot", [0.02, 1.5])
def test_of_one_picture_it_is_deepfool(tmp_path: Path, norm: str, overshoot: float) -> None:
    model, x = linear(classes=5), middle()
    raw = learn(
        model,
        folder(tmp_path, x),
        rule="deepfool",
        norm=norm,
        epsilon=1.0,
        held_out=0,
        epochs=1,
        overshoot=overshoot,
    )
    (near,) = attack(model, "deepfool", x, overshoot=overshoot)
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


@pytest.mark.parametrize(("norm", "bound"), [("linf", 1 / 2550), ("l2", 0.002)])
@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
def test_a_tight_bound_is_met_and_not_passed(tmp_path: Path, rule: str, norm: str, bound: float) -> None:
    model, x = linear(classes=3), middle(6)
    options = {"epsilon": bound, "radius": bound, "norm": norm, "rule": rule, "batch": 2, "epochs": 8}
    v = learn(model, folder(tmp_path, x), **options).values
    size = float(v.abs().max()) if norm == "linf" else float(v.norm())
    assert 0.5 * bound < size <= bound * (1 + 1e-12)


def test_the_result_shows_held_out_pictures_with_and_without_it(tmp_path: Path) -> None:
    model, x = curved(), middle(12, 8, 8)
    data = folder(tmp_path, x)
    options = {"epsilon": 20 / 255, "epochs": 3, "batch": 3, "held_out": 0.25, "delta": 0.0}
    steps = explain(model, get("universal_perturbation"), None, None, options, given={DATA: data})
    (found,) = finish(steps)
    assert found.values.shape == (1, 3, 8, 8)
    strip = found.panels["examples"]
    judge = x[[3, 7, 11]]
    levels = (255 * judge).round() + (
        255 * ((judge + torch.from_numpy(found.values)).clamp(0, 1) - judge)
    ).round()
    with torch.no_grad():
        before, after = model(judge).argmax(1), model(levels / 255).argmax(1)
    np.testing.assert_allclose(strip.values, torch.cat([judge, levels / 255]).numpy(), atol=1e-6)
    assert strip.columns == 3
    assert [strip.labels[i] for i in range(6)] == [
        f"{k} {model.classes[k]!r}" for k in torch.cat([before, after]).tolist()
    ]
    assert list(strip.framed) == [3 + i for i in range(3) if before[i] != after[i]]
    assert found.evidence["fooled, held out"] == pytest.approx(float((before != after).double().mean()))
    assert found.save(tmp_path / "u.png").stat().st_size > 1000


def test_told_to_stop_it_is_judged_as_it_stands(tmp_path: Path) -> None:
    model, x = curved(), middle(8, 8, 8)
    data = folder(tmp_path, x)

    def enough(step: Progress) -> None:
        raise Enough

    with model.guard():
        raw = finish(universal_perturbation(model, data, batch=2, epochs=50, delta=0.0), enough)
    assert raw.evidence["passes"] == 0
    assert float(raw.values.abs().max()) == pytest.approx(1 / 255)  # one step of a tenth of the bound
    assert raw.evidence["fooled, held out"] is not None


def test_no_pictures_are_refused() -> None:
    class Nothing:
        def __len__(self) -> int:
            return 0

    with pytest.raises(UsageError, match="no pictures"):
        finish(universal_perturbation(curved(), Nothing()))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="without a set of pictures"):
        attack(curved(), "universal_perturbation", middle())


@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
def test_a_network_that_no_pixel_moves_is_refused(tmp_path: Path, rule: str) -> None:
    model = linear(classes=3)
    with torch.no_grad():
        model.network.fc.weight.zero_()
    with pytest.raises(MethodRefusedError, match="gradient is zero everywhere"):
        learn(model, folder(tmp_path, middle(4)), rule=rule)


class Shut(torch.nn.Module):
    """A linear network that answers pictures of a first number below 0.2 by the bias alone."""

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole(x * (x.flatten(1)[:, :1, None, None] > 0.2))


def test_one_picture_without_a_gradient_stops_no_other(tmp_path: Path) -> None:
    model, x = linear(classes=5), middle(2)
    model = wrap(Shut(model.network))
    x[0] = 0
    options = {"rule": "deepfool", "epsilon": 1.0, "held_out": 0, "epochs": 1}
    raw = learn(model, folder(tmp_path, x), **options)
    (near,) = attack(model, "deepfool", x[1:])
    np.testing.assert_allclose(raw.values[0, 0], near.values - x[1].numpy(), atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_gradient_rule_is_the_loop_of_the_paper(tmp_path: Path, norm: str) -> None:
    """Batches in an order drawn anew, losses cut at 9, steps of a tenth of the bound that shrink to a fortieth."""
    model, x = linear(classes=4, factor=40.0), middle(8)
    bound, epochs = {"linf": 0.1, "l2": 0.5}[norm], 3
    options = {"norm": norm, "epsilon": bound, "radius": bound, "epochs": epochs, "batch": 3, "delta": 0.0}
    raw = learn(model, folder(tmp_path, x), **options, held_out=0)
    assert raw.evidence["passes"] == epochs
    with torch.no_grad():
        clean = model(x).argmax(1)
    torch.manual_seed(0)
    v = torch.zeros(1, 3, 5, 4, dtype=torch.float64)
    cut = 0
    for epoch in range(epochs):
        for part in torch.randperm(8).split(3):
            v.requires_grad_()
            losses = F.cross_entropy(model(x[part] + v), clean[part], reduction="none")
            cut += int((losses > 9).sum())
            (g,) = torch.autograd.grad(losses.clamp(max=9).sum(), v)
            way = g.sign() if norm == "linf" else g / g.norm().clamp(min=1e-300)
            v = (v + bound / 10 * 0.25 ** (epoch / epochs) * way).detach()
            v = v.clamp(-bound, bound) if norm == "linf" else v * min(1.0, bound / float(v.norm()))
    assert cut > 0
    np.testing.assert_allclose(raw.values[0, 0], v[0], atol=1e-12)


@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
def test_files_that_are_no_pictures_are_told_once_and_left_out(tmp_path: Path, rule: str) -> None:
    model, x = curved(), middle(7, 8, 8)
    folder(tmp_path, x)
    for name in ("+.png", "zz.png"):  # the first is learned from, the last kept for judging
        (tmp_path / name).write_text("no picture")
    raw = learn(
        model, Pictures(tmp_path, labels=None), rule=rule, held_out=0.34, epochs=3, delta=0.0, batch=2
    )
    assert [n.split(": ")[1] for n in raw.notes if n.startswith("left out")] == ["+.png", "zz.png"]
    assert raw.evidence["pictures learned from"] + raw.evidence["pictures held out"] == 7
    assert len(raw.evidence["examples"]) == raw.evidence["pictures held out"] > 0


def test_without_one_picture_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="none of 1 pictures can be read"):
        learn(curved(), Pictures(tmp_path, labels=None))
