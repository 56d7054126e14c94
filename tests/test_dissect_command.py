"""`cutaway dissect`, run as a person runs it, on a network whose units were made to see what is labelled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutaway.cli import app
from cutaway.core.result import load_result

from .test_report_in_browser import chromium as chromium
from .test_report_in_browser import visit

NET = '''
"""Units that see red, green and upright lines."""
import torch
from torch import nn


def seer():
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, :, 1, 1] = torch.tensor([1.0, -1, -1])
        conv.weight[1, :, 1, 1] = torch.tensor([-1.0, 1, -1])
        conv.weight[2, 2] = torch.tensor([[-1.0, 2, -1]] * 3) / 6
    pooled = [nn.MaxPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(conv, nn.ReLU(), *pooled, nn.Linear(4, 2)).eval()
'''
SIDE = 40


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs with a red and a green square and their maps, and two textures."""
    chance = np.random.default_rng(2)
    for place in ("photos", "maps", "textures/lined", "textures/plain"):
        (tmp_path / place).mkdir(parents=True)
    for k in range(6):
        rgb, labels = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        for channel in (0, 1):
            top, left = int(chance.integers(2, 30)), int(chance.integers(2, 10)) + 20 * channel
            rgb[top : top + 4, left : left + 4, channel] = 255
            labels[top : top + 4, left : left + 4] = 1 + channel
        labels[0] = 255
        Image.fromarray(rgb).save(tmp_path / "photos" / f"{k}.png")
        Image.fromarray(labels).save(tmp_path / "maps" / f"{k}.png")
        lined = np.full((SIDE, SIDE, 3), 20 * (k % 2), np.uint8)
        if k % 2:
            lined[:, ::3, 2] = 255
        Image.fromarray(lined).save(tmp_path / "textures" / ("plain", "lined")[k % 2] / f"t{k}.png")
    names = [{"name": "void"}, {"name": "red spot", "category": "colour"}, {"name": "green spot"}]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "raw.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LABELS = ["--labels", "maps", "--unlabelled", "255"]
NETWORK = ["-m", "net.py:seer", "--preprocess", "raw.json", "--layer", "0", "-q", "0.08"]


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app([str(w) for w in words])
    return int(ended.value.code or 0)


def test_maps_and_textures_together(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        "dissect",
        "photos",
        *LABELS,
        "--textures",
        "textures",
        *NETWORK,
        "--rotate",
        "3",
        "--json",
        "-o",
        "out.html",
    )
    told = capsys.readouterr()
    assert code == 0, told.err
    found = json.loads(told.out)
    assert found["pictures"] == found["annotated"] == 12
    layer, turned = found["layers"][0], found["rotated"][0]
    assert [(u["concept"], u["category"]) for u in layer["units"]] == [
        ("red spot", "colour"),
        ("green spot", "object"),
        ("lined", "texture"),
        (None, None),
    ]
    assert [u["iou"] for u in layer["units"][:2]] == [1.0, 1.0]
    assert layer["unique"] == ["red spot", "green spot", "lined"]
    assert layer["units"][3]["threshold"] is None
    assert (layer["seed"], turned["seed"]) == (None, 3)
    page = (world / "out.html").read_text(encoding="utf-8")
    assert "red spot (colour)" in page
    assert "<script" not in page
    assert "0: 3 of 4 units are detectors" in page
    assert "100&nbsp;% ties" in page
    assert "cutaway dissect photos" in page
    assert page.count("<img") == 15  # three units in five pictures


def test_the_page_renders_and_asks_for_nothing(world: Path, request: pytest.FixtureRequest) -> None:
    browser = request.getfixturevalue("chromium")
    assert run("dissect", "photos", *LABELS, *NETWORK, "--rotate", "3", "-o", "out.html") == 0
    seen = visit(browser, world / "out.html")
    assert seen.requests == []
    assert seen.console == []
    assert "Detectors by concept" in seen.dom
    colours = {colour for _, colour in seen.picture.getcolors(1 << 24) or []}
    assert any(r > 200 and g < 60 and b < 60 for r, g, b in colours)  # the red square is in the picture


@pytest.mark.parametrize("ending", ["npz", "json", "png"])
def test_one_layer_as_a_table(world: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dissect", "photos", *LABELS, *NETWORK, "-o", f"out.{ending}") == 0
    out = capsys.readouterr().out
    assert re.search(r"red spot +colour +1 +best 0:0 +IoU 1.000", out)
    if ending == "npz":
        table = load_result(world / "out.npz")
        assert table.rows[0] == "0:0 red spot (colour)"  # type: ignore[attr-defined]
        assert table.values[:2, 0].tolist() == [1.0, 1.0]
    elif ending == "json":
        held = json.loads((world / "out.json").read_text())
        assert held["arrays"]["values"][0][0] == 1.0
    else:
        assert (world / "out.png").stat().st_size > 2000


def test_textures_alone_and_several_layers(world: Path) -> None:
    assert run("dissect", "--textures", "textures", *NETWORK[:4], "--layer", "0,2", "-o", "out.npz") == 0
    table = load_result(world / "out.npz")
    assert table.rows == ["texture", "all"]  # type: ignore[attr-defined]


def test_thresholds_come_from_an_atlas(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "sized.json").write_text('{"crop": 40}')
    network = ["-m", "net.py:seer", "--preprocess", "sized.json"]
    assert (
        run("atlas", "build", "textures", "-m", "net.py:seer", "--preprocess", "raw.json", "-o", "own") == 2
    )
    assert run("atlas", "build", "textures", *network, "--layer", "0", "-o", "atlas") == 0
    asked = ["dissect", "photos", *LABELS, *network, "--layer", "1", "-q", "0.4", "--json"]
    capsys.readouterr()
    assert run(*asked) == 0
    own = json.loads(capsys.readouterr().out)["layers"][0]["units"]
    assert run(*asked, "--atlas", "atlas") == 0
    theirs = json.loads(capsys.readouterr().out)["layers"][0]["units"]
    assert theirs[0]["threshold"] is None  # no red in the textures
    assert own[0]["threshold"] is not None
    assert run(*asked, "--atlas", "atlas", "--layer", "2") == 4  # the atlas has no such layer


def test_scenes_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dissect", "--pictures", "6", "--layer", "block1.conv1") == 0
    assert "block1.conv1: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["photos"], 2, "photographs without labels"),
        (["--labels", "maps"], 2, "labels without photographs"),
        (["scenes", "--labels", "maps"], 2, "scenes with labels of others"),
        (["photos", "--labels", "photos"], 3, "holds colours"),
        (["photos", "--labels", "textures"], 3, "none of the 6 pictures has a label map"),
        (["photos", "--labels", "missing"], 3, "no file or folder"),
        (["photos", "--labels", "maps"], 3, "holds the label 255"),
        (["photos", *LABELS[:2], "--unlabelled", "no"], 2, "--unlabelled no"),
        (["photos", *LABELS, "--textures", "textures/lined"], 3, "lie in no folder of a texture"),
        (["photos", *LABELS, "-q", "2"], 2, "q=2"),
        (["photos", *LABELS, "--iou", "0"], 2, "threshold=0.0"),
        (["photos", *LABELS, "--layer", "9"], 4, "no layer named '9'"),
        (["photos", *LABELS, "--atlas", "maps"], 3, "there is no atlas"),
        (["photos", *LABELS, "-o", "out.gif"], 2, "cannot write .gif"),
    ],
)
def test_what_is_wrong_is_said(
    world: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    before = sorted(world.rglob("*"))
    network = NETWORK[:4] if "--layer" in words else NETWORK[:6]
    assert run("dissect", *words, *network) == code
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert sorted(p for p in world.rglob("*") if "__pycache__" not in str(p)) == before


def test_maps_of_another_size_are_told_with_both(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (10, 20)).save(world / "maps" / "2.png")
    assert run("dissect", "photos", *LABELS, *NETWORK) == 3
    said = capsys.readouterr().err
    assert "labels 20x10 pixels" in said
    assert "40x40" in said


def test_no_names_of_labels(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "classes.json").unlink()
    assert run("dissect", "photos", *LABELS, *NETWORK) == 3
    assert "no classes.json in maps" in capsys.readouterr().err
