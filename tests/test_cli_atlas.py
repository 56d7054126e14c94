"""`cutaway atlas` and `cutaway unit`, end to end on the bundled network and drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cutaway.cli import app
from cutaway.data.scenes import scene

MODEL = ("--model", "cutaway:scenes")
OPTIONS = ("-k", 6, "--threads", 1, "--shard", 4, "--labels", "none")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        drawn = scene(i, seed=77)
        place = folder / drawn.name
        place.mkdir(exist_ok=True)
        Image.fromarray(drawn.image).save(place / f"{i}.png")
    (folder / "notes.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def atlas(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlases") / "scenes"
    done = run("atlas", "build", photos, *MODEL, "-o", folder, *OPTIONS)
    assert done.exit_code == 0, done.output
    assert "10 pictures (1 could not be read)" in done.stdout
    assert "left out: notes.jpg" in done.stderr
    return folder


def layer_of(atlas: Path) -> str:
    layers = json.loads((atlas / "manifest.json").read_text())["plan"]["layers"]
    return str(layers[1])


def test_a_finished_atlas_is_left_alone_and_says_what_it_holds(atlas: Path, photos: Path) -> None:
    before = {p: p.read_bytes() for p in atlas.rglob("*") if p.is_file()}
    again = ("atlas", "build", photos, *MODEL, "-o", atlas, *OPTIONS, "--json")
    done = run(*again)
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert (about["schema"], about["command"], about["pictures"], about["unread"]) == (
        "cutaway/1",
        "atlas",
        11,
        1,
    )
    assert sum(about["units"].values()) > 100
    assert (about["scores"], about["left_out"]) == ("logits", {})
    assert {p: p.read_bytes() for p in atlas.rglob("*") if p.is_file()} == before
    other = run(*again[:-1], "--keep", "top")
    assert other.exit_code == 3
    assert "statistics was" in other.stderr


def test_a_unit_is_printed_drawn_and_given_as_json(atlas: Path, tmp_path: Path) -> None:
    name = f"{layer_of(atlas)}:3"
    done = run("unit", name, "--atlas", atlas, "-o", tmp_path / "unit.html", "--regions", 1)
    assert done.exit_code == 0, done.output
    assert "colour selectivity" in done.stdout
    text = (tmp_path / "unit.html").read_text()
    assert "neuron feature" in text
    assert f"cutaway unit {name}" in text
    assert "shape index" not in done.stdout
    done = run("unit", name, "--atlas", atlas, "--json", "-k", 3, "--profile")
    results = json.loads(done.stdout)["results"]
    assert [r["kind"] for r in results][:2] == ["patches", "curves"]
    assert len(results[0]["sources"]) == 3
    assert {"orientation index", "symmetry index", "shape index"} <= results[0]["evidence"].keys()
    done = run("unit", name, "--atlas", atlas, "-o", tmp_path / "unit.png")
    assert done.exit_code == 0
    with Image.open(tmp_path / "unit.png") as image:
        assert image.width > 300


def test_a_layer_is_drawn_and_its_colour_told(atlas: Path, tmp_path: Path) -> None:
    layer = layer_of(atlas)
    for what in ("patches", "features"):
        out = tmp_path / f"{what}.png"
        done = run("atlas", "show", atlas, "--layer", layer, "--units", "0-3,5", "--what", what, "-o", out)
        assert done.exit_code == 0, done.output
        assert "5 of" in done.stderr
    done = run("atlas", "colours", atlas, "--layer", layer, "-o", tmp_path / "colours.html")
    assert done.exit_code == 0, done.output
    assert "colour units" in done.stdout


def test_what_an_atlas_lacks_is_told_when_it_is_built_and_drawn(photos: Path, tmp_path: Path) -> None:
    code = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.twice = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3)
    def forward(self, x):
        return self.twice(self.twice(self.stem(x))).mean((2, 3)).softmax(1)
def build():
    torch.manual_seed(0)
    return Net().eval()
"""
    (tmp_path / "net.py").write_text(code)
    (tmp_path / "own.json").write_text('{"resize": 20, "crop": 20}')
    own = ("--model", f"{tmp_path / 'net.py'}:build", "--preprocess", tmp_path / "own.json")
    done = run("atlas", "build", photos, *own, "-o", tmp_path / "own", *OPTIONS)
    assert done.exit_code == 0, done.output
    assert "not in the atlas: twice: ran 2 times" in done.stderr
    assert "those that the network itself gives" in done.stderr
    shown = run(
        "atlas",
        "show",
        tmp_path / "own",
        "--layer",
        "stem",
        *own[2:],
        "--model",
        own[1],
        "-o",
        tmp_path / "x.png",
    )
    assert shown.exit_code == 0, shown.output
    assert "not in the atlas: twice: ran 2 times" in shown.stderr


def test_two_atlases_are_joined(photos: Path, atlas: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    for i in range(6):
        Image.fromarray(scene(i, seed=78).image).save(more / f"{i}.png")
    for name, k in (("b", 5), ("c", 6)):
        built = run("atlas", "build", more, *MODEL, "-o", tmp_path / name, *OPTIONS, "-k", k)
        assert built.exit_code == 0, built.output
    refused = run("atlas", "merge", atlas, tmp_path / "b", "-o", tmp_path / "joined")
    assert refused.exit_code == 3
    assert "k differs" in refused.stderr
    joined = run("atlas", "merge", atlas, tmp_path / "c", "-o", tmp_path / "joined", "--json")
    assert joined.exit_code == 0, joined.output
    assert json.loads(joined.stdout)["pictures"] == 17
    alone = run("atlas", "merge", atlas, "-o", tmp_path / "joined2")
    assert alone.exit_code == 2
    assert not (tmp_path / "joined2").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("unit", "nothing", "--atlas", "A"), 2, "LAYER:CHANNEL"),
        (("unit", "nowhere:3", "--atlas", "A"), 4, "nowhere"),
        (("unit", "L:99999", "--atlas", "A"), 2, "0 to"),
        (("unit", "L:3", "--atlas", "missing"), 3, "no atlas"),
        (("unit", "L:3", "--atlas", "A", "-o", "unit.gif"), 2, ".html"),
        (("unit", "L:3", "--atlas", "A", "--model", "cutaway:cifar"), 3, "another network"),
        (("atlas", "show", "A", "--layer", "L", "--units", "a-b", "-o", "x.png"), 2, "0-31"),
        (("atlas", "show", "A", "--layer", "L", "--units", "99999", "-o", "x.png"), 2, "0 to"),
        (("atlas", "show", "A", "--layer", "L", "-k", "7", "-o", "x.png"), 2, "keeps 6"),
        (("atlas", "build", "EMPTY", *MODEL, "-o", "new"), 3, "no picture"),
        (("atlas", "build", "gone", *MODEL, "-o", "new"), 3, "no file or folder"),
        (("atlas", "build", "PHOTOS", *MODEL, "-o", "new", "-k", "99"), 2, "k=99"),
        (("atlas", "build", "PHOTOS", *MODEL, "-o", "new", "--layer", "nowhere"), 4, "nowhere"),
        (("atlas", "build", "PHOTOS", *MODEL, "-o", "new", "--address", "auto"), 2, "--engine ray"),
    ],
)
def test_bad_input_ends_in_words_and_the_documented_code(
    words: tuple[str, ...],
    code: int,
    said: str,
    atlas: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    named = {"A": str(atlas), "PHOTOS": str(photos), "L": layer_of(atlas)}
    full = [named.get(w, w.replace("L:", f"{layer_of(atlas)}:") if w.startswith("L:") else w) for w in words]
    done = run(*full)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert [p.name for p in tmp_path.iterdir()] == ["EMPTY"]
