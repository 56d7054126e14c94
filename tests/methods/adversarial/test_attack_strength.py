"""attack_strength: the counts of fgsm and pgd themselves, pictures that were wrong left out, bounds refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway.core.errors import InputError, UsageError
from cutaway.core.method import DATA
from cutaway.core.progress import Enough, Progress, finish
from cutaway.core.run import explain
from cutaway.data.folder import Pictures
from cutaway.methods import get
from cutaway.methods.adversarial.attack_strength import attack_strength

from .nets import attack, curved, folder, linear, middle


def curve(model: cutaway.VisionModel, data: Pictures, **options: Any) -> Any:
    (found,) = finish(explain(model, get("attack_strength"), None, None, options, given={DATA: data}))
    return found


def test_it_counts_what_the_attacks_turn(tmp_path: Path) -> None:
    model, x = curved(), middle(9, 8, 8)
    found = curve(model, folder(tmp_path, x), levels="1,4,16", batch=4)
    assert found.values.shape == (2, 4)
    assert list(found.x) == [0, 1, 4, 16]
    assert list(found.values[:, 0]) == [0, 0]
    assert (found.evidence["pictures counted"], found.evidence["pictures wrong from the start"]) == (9, 0)
    for line, kind in zip(found.values, ("fgsm", "pgd"), strict=True):
        for bound, share in zip(found.x[1:], line[1:], strict=True):
            options = {} if kind == "fgsm" else {"random_start": False}
            each = attack(model, kind, x, None, epsilon=float(bound) / 255, **options)
            assert share == pytest.approx(np.mean([f.evidence["fooled"] for f in each]))
    assert found.values[0, 1] < found.values[0, -1]
    assert found.save(tmp_path / "c.png").stat().st_size > 1000


def test_pictures_with_a_wrong_answer_are_left_out(tmp_path: Path) -> None:
    model, x = curved(), middle(6, 8, 8)
    with torch.no_grad():
        k = model(x).argmax(1)
    data = folder(tmp_path, x)
    data.labels = k.clone()
    data.labels[:2] = (k[:2] + 1) % 5
    found = curve(model, data, attacks="fgsm", levels="8")
    assert (found.evidence["pictures counted"], found.evidence["pictures wrong from the start"]) == (4, 2)
    assert "2 of 6 pictures were wrong from the start and are left out" in found.notes
    each = attack(model, "fgsm", x[2:], None, epsilon=8 / 255)
    assert found.values[0, 1] == pytest.approx(np.mean([f.evidence["fooled"] for f in each]))
    data.labels = (k + 1) % 5
    with pytest.raises(UsageError, match="none of 6 pictures"):
        curve(model, data)


@pytest.mark.parametrize("levels", ["", "0,1", "4,2", "1,x", "300", "nan", "1,,2", "2,2", "-1"])
def test_bounds_that_make_no_axis_are_refused(tmp_path: Path, levels: str) -> None:
    with pytest.raises(UsageError, match="levels"):
        curve(curved(), folder(tmp_path, middle(1, 8, 8)), levels=levels)


def test_told_to_stop_it_counts_the_pictures_seen(tmp_path: Path) -> None:
    model, x = curved(), middle(6, 8, 8)

    def after_a_batch(step: Progress) -> None:
        if step.done > 7:
            raise Enough

    with model.guard():
        raw = finish(
            attack_strength(model, folder(tmp_path, x), attacks="fgsm", levels="8,16", batch=2), after_a_batch
        )
    assert raw.evidence["pictures counted"] == 2
    assert "stopped after 2 of 6 pictures" in raw.notes
    each = attack(model, "fgsm", x[:2], None, epsilon=16 / 255)
    assert float(raw.values[0, 0, 2]) == pytest.approx(np.mean([f.evidence["fooled"] for f in each]))


def test_pictures_that_no_gradient_reaches_are_told(tmp_path: Path) -> None:
    model, x = linear(classes=3, size=192, factor=1e5), middle(4, 8, 8)
    model.network.float()
    found = curve(model, folder(tmp_path, x), levels="8")
    assert not found.values.any()
    assert found.evidence["pictures without a gradient"] == 4
    assert any("gradient is zero everywhere in 4 of 4" in n for n in found.notes)
    live = curve(curved(), folder(tmp_path, x), levels="8", attacks="fgsm")
    assert live.evidence["pictures without a gradient"] == 0
    assert not any("gradient" in n for n in live.notes)


def test_told_to_stop_before_a_batch_is_done_it_has_nothing_to_tell(tmp_path: Path) -> None:
    def at_once(step: Progress) -> None:
        raise Enough

    model = curved()
    with model.guard(), pytest.raises(Enough):
        finish(attack_strength(model, folder(tmp_path, middle(3, 8, 8)), attacks="fgsm"), at_once)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_are_as_long_as_those_of_pgd(tmp_path: Path, steps: int) -> None:
    model, x = curved(), middle(24, 8, 8)
    found = curve(model, folder(tmp_path, x), attacks="pgd", levels="2,4,8", steps=steps)
    for bound, share in zip(found.x[1:], found.values[0, 1:], strict=True):
        each = attack(model, "pgd", x, None, epsilon=float(bound) / 255, steps=steps, random_start=False)
        assert share == pytest.approx(np.mean([f.evidence["fooled"] for f in each]))


def test_a_file_that_is_no_picture_is_told_and_left_out(tmp_path: Path) -> None:
    model, x = curved(), middle(6, 8, 8)
    whole = curve(model, folder(tmp_path, x), attacks="fgsm", levels="8", batch=2)
    (tmp_path / "a.png").write_text("no picture")
    found = curve(model, Pictures(tmp_path, labels=None), attacks="fgsm", levels="8", batch=2)
    assert found.evidence["pictures counted"] == 6
    assert [n for n in found.notes if n.startswith("left out: a.png: ")] == list(found.notes)
    np.testing.assert_array_equal(found.values, whole.values)


def test_without_one_picture_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match="none of 1 pictures can be read"):
        curve(curved(), Pictures(tmp_path, labels=None))
