"""The matrix of methods and networks, on networks whose row is known beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cutaway import Preprocess, VisionModel, load_result
from cutaway.core.errors import UnknownNameError
from cutaway.core.method import get as get_method
from cutaway.core.progress import Progress, finish
from cutaway.core.result import Table
from cutaway.metrics import universality as module
from cutaway.metrics.judging import Asked, Subject
from cutaway.metrics.universality import Opener, Universality, universality

from .test_score_card import Run, ctrl_c, place, run  # noqa: F401 - fixtures

SIZE = 12


def net(act: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), act, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def wrap(network: nn.Module, name: str) -> VisionModel:
    return VisionModel(network.double().eval(), Preprocess(), ("a", "b", "c"), name=name)


class Faulty(nn.Module):
    """Predicts, and raises something unforeseen when it is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.runs = net(nn.ReLU()), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        if self.runs > 3:  # the layer table, the size of the picture, the prediction
            raise ZeroDivisionError("one over none")
        out: Tensor = self.inner(x)
        return out


class Restless(nn.Module):
    """Gives other scores every time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.count = net(nn.ReLU()), 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        out: Tensor = self.inner(x) * self.count
        return out


def missing() -> VisionModel:
    raise UnknownNameError("no model named 'nothing'", "something")


def hopeless() -> VisionModel:
    raise RuntimeError("the file\n is empty")


def openers(**networks: nn.Module) -> dict[str, Opener]:
    return {name: lambda n=network, name=name: wrap(n, name) for name, network in networks.items()}  # type: ignore[misc]


def asked(*names: str) -> list[Asked]:
    return [(get_method(n), get_method(n).options({})) for n in names]


def subjects(count: int) -> list[Subject]:
    rng = np.random.default_rng(1)
    return [Subject(f"p{i}", rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)) for i in range(count)]


def filled(networks: dict[str, Opener], names: list[str], count: int = 1, **more: int) -> Universality:
    into = Universality(tuple(names), tuple(networks))
    finish(universality(into, networks, asked(*names), subjects(count), **more))
    return into


def test_every_cell_is_what_the_networks_were_made_to_show() -> None:
    networks = {
        **openers(relu=net(nn.ReLU()), gelu=net(nn.GELU()), faulty=Faulty(), restless=Restless()),
        "missing": missing,
        "hopeless": hopeless,
    }
    found = filled(networks, ["saliency", "guided_backprop", "occlusion"])
    outcomes = {(t.network, t.method): t.outcome for t in found.trials}
    assert outcomes == {
        ("relu", "saliency"): "passes", ("relu", "guided_backprop"): "passes", ("relu", "occlusion"): "passes",
        ("gelu", "saliency"): "passes", ("gelu", "guided_backprop"): "refuses", ("gelu", "occlusion"): "passes",
        ("faulty", "saliency"): "fails", ("faulty", "guided_backprop"): "fails", ("faulty", "occlusion"): "fails",
        ("restless", "saliency"): "fails", ("restless", "guided_backprop"): "fails", ("restless", "occlusion"): "refuses",
    }  # fmt: skip
    table = found.table(data="one")
    assert list(table.rows) == ["saliency", "guided_backprop", "occlusion", "every method"]
    assert list(table.columns) == [*networks, "every network"]
    nan = math.nan
    right = [[1, 1, 0, 0, nan, nan, 2 / 4], [1, 0, 0, 0, nan, nan, 1 / 4], [1, 1, 0, 0, nan, nan, 2 / 4],
             [1, 2 / 3, 0, 0, nan, nan, 5 / 12]]  # fmt: skip
    np.testing.assert_allclose(table.values, right)
    said = "\n".join(table.notes)
    assert "guided_backprop on gelu refuses: guided_backprop cannot reach gelu" in said
    assert (
        "saliency on faulty, guided_backprop on faulty, occlusion on faulty fails: a fault, ZeroDivisionError: one over none"
        in said
    )
    assert "fails: a second run with the same seed lies apart" in said
    assert "missing could not be used: no model named 'nothing'" in said
    assert "hopeless could not be used: RuntimeError: the file is empty" in said


def test_shares_count_pictures_classes_and_layers() -> None:
    """Grad-CAM is asked at three layers about two classes on two pictures, saliency has no layer to choose."""
    found = filled(openers(relu=net(nn.ReLU())), ["grad_cam", "saliency"], 2, classes=2, layers=2)
    assert len(found.of(method="saliency")) == 2 * 2
    cams = found.of(method="grad_cam")
    assert {t.picture for t in cams} == {"p0", "p1"}
    assert len({t.layer for t in cams}) == len(cams) / 4 == 3
    assert {t.layer for t in found.of(method="saliency")} == {None}
    assert all(len({t.target for t in cams if t.picture == p}) == 2 for p in ("p0", "p1"))
    assert found.share() == 1
    said = json.loads(json.dumps(found.to_dict()))
    assert set(said["by picture"]) == {"p0", "p1"}
    assert len(said["by layer"]) == 3
    assert len(said["trials"]) == len(found.trials)


def test_classes_of_one_name_are_asked_about_apart() -> None:
    """ImageNet has two cranes, a bird and a machine."""
    cranes = VisionModel(net(nn.ReLU()).double().eval(), Preprocess(), ("crane", "crane", "c"), name="cranes")
    found = filled({"cranes": lambda: cranes}, ["saliency"], 1, classes=3)
    assert {t.target for t in found.trials} == {"crane (0)", "crane (1)", "c"}


def test_a_broken_promise_of_a_sum_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["deeplift", "lrp", "integrated_gradients", "gradient_times_input"]
    found = filled(openers(relu=net(nn.ReLU())), names)
    assert {t.method for t in found.trials if t.outcome != "passes"} == set()
    assert {t.method for t in found.trials if t.off is not None} == {
        "deeplift",
        "lrp",
        "integrated_gradients",
    }
    assert max(t.off for t in found.trials if t.off is not None) < 0.001
    monkeypatch.setattr(module, "completeness", lambda *a: 0.02)
    found = filled(openers(relu=net(nn.ReLU())), names)
    failed = {t.method: t for t in found.trials if t.outcome == "fails"}
    assert set(failed) == {"deeplift", "integrated_gradients"}
    assert (failed["deeplift"].reason, failed["deeplift"].off) == ("completeness residual above 0.01", 0.02)


def test_a_picture_that_one_network_cannot_take_leaves_the_others_alone() -> None:
    large = nn.Sequential(nn.Flatten(), nn.Linear(3 * 99, 3))
    found = filled(openers(large=large, relu=net(nn.ReLU())), ["saliency"])
    assert list(found.unusable) == ["large, p0"]
    assert [t.network for t in found.trials] == ["relu"]


def test_what_was_finished_is_kept_when_the_work_stops() -> None:
    networks = openers(one=net(nn.ReLU()), two=net(nn.GELU()))
    into = Universality(("saliency",), tuple(networks))
    for step in universality(into, networks, asked("saliency"), subjects(1)):
        assert isinstance(step, Progress)
        if step.note.startswith("opening two"):
            break
    assert into.share(network="one") == 1
    assert math.isnan(into.table(data="part").values[0, 1])


# the command


def test_the_command_prints_marks_reasons_and_shares(run: Run, place: Path) -> None:  # noqa: F811
    (place / "more.py").write_text("import nothing_of_that_name\n")
    done = run(
        "matrix", "photos", "-m", "nets.py:linear", "-m", "more.py:net", "--method", "saliency,grad_cam",
        "--pictures", 2, "-o", "matrix.html",
    )  # fmt: skip
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert "nothing_of_that_name" in done.err
    assert "✓" in done.out
    assert "refuses 1" in done.out
    assert "1. refuses: " in done.out
    page = (place / "matrix.html").read_text()
    assert "pictures by classes by layers" in page
    assert "more.py:net could not be used" in page
    again = "cutaway matrix photos --model nets.py:linear --model more.py:net --method saliency,grad_cam --pictures 2"
    assert f"<pre>{again} --output matrix.html</pre>" in page


def test_json_and_arrays_tell_the_same(run: Run, place: Path) -> None:  # noqa: F811
    done = run(
        "matrix", "-m", "cutaway:scenes", "-m", "cutaway:scenes", "--weights", "published", "--weights", "random:3",
        "--method", "saliency,grad_cam", "--top", 2, "--json", "-o", "matrix.npz",
    )  # fmt: skip
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["networks"] == ["cutaway:scenes published", "cutaway:scenes random:3"]
    table = load_result(place / "matrix.npz")
    assert isinstance(table, Table)
    for i, method in enumerate(("saliency", "grad_cam")):
        for j, name in enumerate(said["networks"]):
            assert said["shares"][method][name] == table.values[i, j] == 1
    assert len(set(table.provenance.fingerprint.split(", "))) == 2
    with Image.open(table.save(place / "matrix.png")) as drawn:
        assert drawn.width > 200


def test_an_interrupt_keeps_the_finished_networks(run: Run, place: Path, ctrl_c: None) -> None:  # noqa: F811
    Image.new("RGB", (8, 8), "white").save(place / "photos" / "b.png")
    done = run(
        "matrix", "photos", "-m", "nets.py:linear", "-m", "nets.py:interrupted", "--method", "saliency",
        "--pictures", 2, "--json", "-o", "matrix.npz",
    )  # fmt: skip
    assert done.code == 130, done.err
    said = json.loads(done.out)
    assert said["shares"]["saliency"] == {"nets.py:linear": 1.0, "nets.py:interrupted": 1.0}
    assert [t["picture"] for t in said["trials"]] == ["a.png", "b.png", "a.png"]
    assert (place / "matrix.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere", "-m", "nets.py:linear"), 3, "nowhere is missing"),
        (("photos", "-m", "nets.py:linear", "--method", "grad_kam"), 4, "no method named 'grad_kam'"),
        (("photos", "-m", "nets.py:linear", "-m", "nets.py:linear"), 2, "twice"),
        (
            ("photos", "-m", "nets.py:linear", "--weights", "a", "--weights", "b"),
            2,
            "2 --weights for 1 networks",
        ),
        (("photos", "-m", "nets.py:linear", "-o", "m.jpg"), 2, "cannot write .jpg"),
        (("photos",), 2, "--model"),
    ],
)
def test_bad_input_is_said(run: Run, place: Path, arguments: tuple[str, ...], code: int, said: str) -> None:  # noqa: F811
    done = run("matrix", *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
