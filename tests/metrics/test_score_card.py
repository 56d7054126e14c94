"""The score card and `cutaway judge`, on networks whose answers are known and on the bundled one."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from torch import nn

from cutaway import Preprocess, VisionModel, load, load_result
from cutaway.cli import app
from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import get as get_method
from cutaway.core.progress import Progress, finish
from cutaway.core.result import Table
from cutaway.core.target import as_target
from cutaway.data.scenes import Scenes
from cutaway.metrics import METRICS
from cutaway.metrics.judging import Asked, Measure, Subject, card, case_of, judge
from cutaway.metrics.score_card import ScoreCard

NETS = '''
"""Small networks with weights that follow from a seed."""
import signal

import torch
from torch import nn


def linear():
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))


class Touchy(nn.Module):
    """Linear, but a white picture interrupts it."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        if (x.flatten(1).mean(1) > 0.99).any():
            signal.raise_signal(signal.SIGINT)
        return self.linear(x)


def interrupted():
    return Touchy()
'''


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app([str(a) for a in arguments])
        code = end.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "paper.pdf").write_text("Pillow writes these and reads none")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def network() -> VisionModel:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    return VisionModel(net.double(), Preprocess(resize=14, crop=12), ("no", "yes"), name="net")


def asked(*names: str) -> list[Asked]:
    return [(get_method(n), get_method(n).options({})) for n in names]


def measures(*names: str) -> list[Measure]:
    return [(METRICS[n], METRICS[n].options({})) for n in names]


def subjects(count: int, *, truth: bool = True) -> list[Subject]:
    inside = np.zeros((12, 12), bool)
    inside[3:9, 4:10] = True
    rng = np.random.default_rng(1)
    return [
        Subject(f"p{i}", rng.integers(0, 256, (20, 16, 3), dtype=np.uint8), "yes", inside if truth else None)
        for i in range(count)
    ]


def filled(names: list[str], metrics: list[str], pictures: list[Subject], **seeds: int) -> ScoreCard:
    into = ScoreCard(tuple(names), tuple(metrics))
    finish(judge(into, network(), asked(*names), measures(*metrics), pictures, **seeds))
    return into


def test_a_cell_is_the_mean_over_pictures_with_its_standard_error() -> None:
    into = filled(["saliency"], ["share_inside", "insertion"], subjects(5))
    found = into.scores["saliency", "share_inside"]
    alone = [
        filled(["saliency"], ["share_inside"], [s]).mean("saliency", "share_inside") for s in subjects(5)
    ]
    assert found == alone
    assert into.mean("saliency", "share_inside") == pytest.approx(sum(found) / 5)
    variance = sum((v - sum(found) / 5) ** 2 for v in found) / 4
    assert into.error("saliency", "share_inside") == pytest.approx(math.sqrt(variance / 5))
    assert math.isnan(filled(["saliency"], ["insertion"], subjects(1)).error("saliency", "insertion"))


def test_the_map_that_is_judged_is_the_one_that_explain_gives() -> None:
    model, subject = network(), subjects(1)[0]
    result = model.explain(subject.picture, "saliency", "yes")
    kept = card(model, result, truth=subject.truth)
    into = filled(["saliency"], [*METRICS], [subject])
    for name, value in kept.evidence["card"].items():
        mean = into.mean("saliency", name)
        if value is None:
            assert math.isnan(mean)
        else:
            assert mean == pytest.approx(value, rel=1e-9)
    assert kept.evidence["card"]["completeness"] is None
    assert any("completeness residual undefined: the map claims no sum" in n for n in kept.notes)
    assert {k: v for k, v in kept.evidence.items() if k != "card"} == result.evidence
    np.testing.assert_array_equal(kept.values, result.values)
    assert json.loads(json.dumps(kept.to_dict()))["evidence"]["card"] == kept.evidence["card"]


def test_a_card_needs_a_map_and_a_class() -> None:
    model = network()
    with pytest.raises(UsageError, match="a card for a picture"):
        card(model, model.inspect("filters"))
    result = model.explain(subjects(1)[0].picture, "saliency", lambda out: out[:, 0] * 2)
    with pytest.raises(UsageError, match="the target given again"):
        card(model, result)
    again = card(model, result, lambda out: out[:, 0] * 2, metrics=["infidelity"])
    assert 0 <= again.evidence["card"]["infidelity"] <= 1


def test_a_method_that_refuses_keeps_its_row_and_says_why() -> None:
    into = filled(["deconvnet", "saliency", "first_layer"], ["insertion"], subjects(2))
    table = into.table(network(), data="two")
    if "deconvnet" in into.refused:
        assert math.isnan(table.values[0, 0])
    assert np.isfinite(table.values[1, 0])
    assert math.isnan(table.values[2, 0])
    assert list(table.rows) == ["deconvnet", "saliency", "first_layer"]
    assert any(n.startswith("first_layer refused on 2 of 2 pictures: ") for n in table.notes)


def test_without_truth_there_are_no_metrics_of_place() -> None:
    into = filled(["saliency"], ["pointing_game", "deletion", "share_inside"], subjects(1, truth=False))
    assert into.shown == ("deletion",)
    assert into.table(network(), data="one").values.shape == (1, 1)


def test_verdicts_name_who_passes_and_who_does_not() -> None:
    into = ScoreCard(("a", "b", "c"), ("share_inside", "randomization", "deletion"))
    into.scores = {
        ("a", "share_inside"): [0.9, 1.0],
        ("b", "share_inside"): [0.5, 0.5],
        ("a", "randomization"): [0.9],
        ("b", "randomization"): [0.8],
        ("c", "randomization"): [0.1],
        ("a", "deletion"): [0.1],
    }
    assert into.verdicts() == [
        "inside the evidence >= 0.95: a (0.95); not: b (0.5)",
        f"randomization <= {METRICS['randomization'].passes:g}: c (0.1); not: b (0.8), a (0.9)",
    ]


def test_a_number_that_is_none_is_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        METRICS, "insertion", replace(METRICS["insertion"], function=lambda *_, **__: math.inf)
    )
    into = filled(["saliency"], ["insertion"], subjects(1))
    assert into.scores == {}
    assert into.notes() == ["insertion undefined for saliency: it comes out as inf."]


def test_what_gives_no_map_is_refused_before_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    curves = replace(get_method("first_layer"), function=never)
    with pytest.raises(MethodRefusedError, match="first_layer gives a picture, no map"):
        case_of(network(), curves, {}, torch.rand(1, 3, 12, 12).double(), as_target(0))


def test_what_was_finished_is_kept_when_the_work_stops() -> None:
    into = ScoreCard(("saliency",), ("insertion",))
    steps = judge(into, network(), asked("saliency"), measures("insertion"), subjects(3))
    for step in steps:
        assert isinstance(step, Progress)
        if "p2" in step.note:
            break
    assert len(into.scores["saliency", "insertion"]) == 2
    assert into.table(network(), data="part").values.shape == (1, 1)


def test_a_picture_that_cannot_be_used_does_not_stop_the_rest() -> None:
    bad = Subject("bad", np.zeros((2, 2, 2, 2, 2)), "yes")
    into = filled(["saliency"], ["insertion"], [bad, *subjects(1)])
    assert [*into.unusable] == ["bad"]
    assert (
        "bad could not be used: image must have 2, 3 or 4 dimensions"
        in into.table(network(), data="two").notes[0]
    )
    assert into.pictures == ["p0"]
    assert len(into.scores["saliency", "insertion"]) == 1


def test_explainer_and_metric_seeds_are_independent() -> None:
    """A map without chance does not feel the explainer's seed; one with chance is judged by the same squares."""
    names = ["infidelity", "randomization", "max_sensitivity", "deletion"]
    one = filled(["saliency"], names, subjects(2), seed=0, metric_seed=0)
    assert filled(["saliency"], names, subjects(2), seed=8, metric_seed=0).scores == one.scores
    other = filled(["saliency"], names, subjects(2), seed=0, metric_seed=1)
    assert all(other.scores[k] != v for k, v in one.scores.items() if k[1] != "deletion")


def test_a_card_is_saved_loaded_and_drawn_with_cells_that_are_undefined(tmp_path: Path) -> None:
    into = filled(["saliency", "integrated_gradients"], ["completeness", "insertion"], subjects(2))
    table = into.table(network(), data="two")
    assert math.isnan(table.values[0, 0])
    again = load_result(table.save(tmp_path / "card.npz"))
    assert isinstance(again, Table)
    np.testing.assert_array_equal(again.values, table.values)
    np.testing.assert_array_equal(again.errors, table.errors)  # type: ignore[arg-type]
    assert again.to_dict() == table.to_dict()
    plain = table.save(tmp_path / "card.json").read_text()
    said = json.loads(plain, parse_constant=pytest.fail)  # NaN is no JSON
    assert said["arrays"]["values"][0][0] is None
    page = table.save(tmp_path / "card.html").read_text()
    assert "completeness residual" in page
    assert "model.explain" not in page
    assert "claims no sum" in page
    with Image.open(table.save(tmp_path / "card.png")) as drawn:
        assert drawn.width > 200


# the command


def test_judge_on_scenes_offline(run: Run) -> None:
    done = run(
        "judge", "--model", "cutaway:scenes", "--method", "saliency,grad_cam", "--pictures", 2,
        "--metric", "share_inside,infidelity", "--set", "infidelity.samples=20", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["command"], len(said["pictures"])) == ("judge", 2)
    assert [m["name"] for m in said["metrics"]] == ["share_inside", "infidelity"]
    cell = said["scores"]["grad_cam"]["share_inside"]
    assert 0 < cell["mean"] < 1
    assert cell["pictures"] == 2
    assert any("inside the evidence >= 0.95" in v for v in said["verdicts"])


def test_judge_on_a_folder_prints_a_table_and_writes_it(run: Run, place: Path) -> None:
    done = run(
        "judge", "photos", "--model", "nets.py:linear", "--method", "saliency,integrated_gradients",
        "--metric", "completeness,insertion", "-o", "card.html",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "completeness residual" in done.out
    assert "completeness residual undefined for saliency: the map claims no sum" in done.out
    page = (place / "card.html").read_text()
    assert "integrated_gradients" in page
    again = "cutaway judge photos --model nets.py:linear --method saliency,integrated_gradients --metric completeness,"
    assert f"<pre>{again}insertion --output card.html</pre>" in page


def test_an_interrupt_keeps_what_was_finished(run: Run, place: Path, ctrl_c: None) -> None:
    Image.new("RGB", (8, 8), "white").save(place / "photos" / "b.png")
    done = run(
        "judge", "photos", "--model", "nets.py:interrupted", "--method", "saliency", "--metric", "insertion",
        "--json", "-o", "card.npz",
    )  # fmt: skip
    assert done.code == 130, done.err
    assert "interrupted; what was finished is kept" in done.err
    assert json.loads(done.out)["scores"]["saliency"]["insertion"]["pictures"] == 1
    assert np.isfinite(load_result(place / "card.npz").arrays()["values"]).all()


def test_a_fault_keeps_what_was_finished(run: Run, place: Path) -> None:
    Image.new("RGB", (8, 8), "white").save(place / "photos" / "b.png")
    broken = NETS.replace("signal.raise_signal(signal.SIGINT)", "raise ZeroDivisionError('one over none')")
    (place / "broken.py").write_text(broken)
    done = run(
        "judge", "photos", "--model", "broken.py:interrupted", "--method", "saliency", "--metric", "insertion",
        "--json", "-o", "card.npz",
    )  # fmt: skip
    assert done.code != 0
    assert "one over none" in done.err
    assert json.loads(done.out)["scores"]["saliency"]["insertion"]["pictures"] == 1
    assert (place / "card.npz").exists()


def test_no_picture_is_overwritten(run: Run, place: Path) -> None:
    before = (place / "photos" / "b.png").read_bytes()
    for command in ("judge", "matrix"):
        done = run(command, "photos", "-m", "nets.py:linear", "-o", "photos/b.png")
        assert done.code == 2, done.err
        assert "is one of the pictures" in done.err
    assert (place / "photos" / "b.png").read_bytes() == before


def test_a_class_may_be_asked_for_by_its_number(run: Run) -> None:
    """Scene 0 shows one of the eight classes; asked about by number its place is as known as by name."""
    asked = ("judge", "--method", "saliency", "--metric", "share_inside", "--pictures", 1, "--json")
    scores = json.loads(run(*asked).out)["scores"]
    drawn = Scenes(1, seed=2026)[0].label
    assert json.loads(run(*asked, "--target", drawn).out)["scores"] == scores


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("empty",), 3, "no picture in empty"),
        (("unreadable",), 3, "no picture in unreadable"),
        (
            ("photos", "--metric", "deletion,pointing_game"),
            2,
            "pointing_game on pictures whose true evidence",
        ),
        (
            ("photos", "--metric", "label_randomization"),
            2,
            "label_randomization without a network that learned",
        ),
        (
            ("photos", "--metric", "deletion", "--random-labels", "x"),
            2,
            "label_randomization is not measured",
        ),
        (("photos", "-o", "card"), 2, "cannot write a folder"),
        (("photos", "-o", "empty"), 2, "cannot write a folder"),
        (("photos", "-o", "missing/card.html"), 3, "cannot write missing/card.html"),
        (("nowhere",), 3, "nowhere is missing"),
        (("photos", "--metric", "pointing"), 4, "no metric named 'pointing'"),
        (("photos", "--method", "grad_kam"), 4, "no method named 'grad_kam'"),
        (("photos", "--metric", "deletion", "--set", "insertion.steps=3"), 2, "insertion is not measured"),
        (("photos", "--set", "deletion.steps=0"), 2, "steps='0'"),
        (("photos", "--set", "deletion.step=1"), 4, "option of deletion"),
        (("photos", "--target", "99"), 4, "99"),
        (("photos", "-o", "card.jpg"), 2, "cannot write .jpg"),
        (("photos", "--bare"), 2, "--bare with photos"),
    ],
)
def test_bad_input_is_said(run: Run, place: Path, arguments: tuple[Any, ...], code: int, said: str) -> None:
    done = run("judge", *arguments, "--model", "nets.py:linear")
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert not [p for p in place.iterdir() if p.name.startswith("card")]


def test_guided_backprop_fails_the_cascade_and_grad_cam_passes_it_on_the_bundled_network() -> None:
    scenes = Scenes(3, seed=2026)
    pictures = [Subject(f"scene {s.index}", s.image, s.name, s.object_mask) for s in scenes]
    into = ScoreCard(("guided_backprop", "grad_cam"), ("randomization", "share_inside"))
    metrics = measures(*into.metrics)
    finish(judge(into, load("cutaway:scenes", device="cpu"), asked(*into.methods), metrics, pictures))
    forgets = METRICS["randomization"]
    guided, cam = (into.mean(m, "randomization") for m in into.methods)
    assert not forgets.holds(guided - 2 * into.error("guided_backprop", "randomization"))
    assert forgets.holds(cam)
    assert guided > cam + 0.2
    (inside,) = (v for v in into.verdicts() if v.startswith("inside the evidence"))
    assert "none; not: " in inside
    assert "guided_backprop" in inside
    assert "grad_cam" in inside
    area = np.mean([s.object_mask.mean() for s in scenes])
    for name in into.methods:
        assert into.mean(name, "share_inside") > 2 * area


def test_compared_with_the_scene_without_its_object_the_evidence_is_all_on_the_object(run: Run) -> None:
    done = run(
        "judge", "--method", "integrated_gradients,saliency", "--metric", "share_inside,completeness",
        "--pictures", 3, "--bare", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    said = json.loads(done.out)
    scores = said["scores"]
    assert scores["integrated_gradients"]["share_inside"]["mean"] >= 0.95
    assert scores["integrated_gradients"]["completeness"]["mean"] <= 0.01
    assert scores["saliency"]["share_inside"]["mean"] < 0.95
    (verdict,) = (v for v in said["verdicts"] if v.startswith("inside the evidence"))
    reached, missed = verdict.split("; not: ")
    assert "integrated_gradients" in reached
    assert "saliency" in missed


def test_a_scene_without_its_object_differs_on_the_object_alone() -> None:
    for scene in Scenes(6, seed=2026):
        changed = (scene.image != scene.without_object).any(2)
        outline = scipy.ndimage.binary_dilation(scene.object_mask, np.ones((3, 3)))
        assert not (changed & ~outline).any()
        assert (changed & scene.object_mask).sum() > 0.97 * scene.object_mask.sum()
