"""`cutaway dream`, `invert` and `attack`: what they run, write, refuse and keep."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cutaway
from cutaway.cli import app

CIFAR = ["-m", "cutaway:cifar"]
QUICK = ["--set", "feature_visualization.steps=6"]


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [str(w) for w in words])


def opened(path: Path) -> tuple[np.ndarray, Any]:
    """Pixels of a picture and the results it tells of."""
    with Image.open(path) as file:
        told = json.loads(file.text["cutaway"]) if "cutaway" in file.info else None  # type: ignore[attr-defined]
        return np.asarray(file.convert("RGB")), told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return tmp_path


def test_dream_draws_classes_and_units_and_says_what_was_reached(here: Path) -> None:
    done = run("dream", *CIFAR, "--target", "cat", "--target", "8", "--unit", "block1:2-4", *QUICK,
               "--arrays", "a.npz", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [r["target"] for r in found["results"]] == [
        "logit 3 'cat'", "logit 8 'ship'", "block1:2", "block1:3", "block1:4",
    ]  # fmt: skip
    with np.load(here / "a.npz") as arrays:
        first = arrays[found["results"][0]["array"]]
    want = cutaway.load("cutaway:cifar").draw("cat", steps=6)[0]
    np.testing.assert_allclose(first, want.values, atol=1e-5)
    assert found["results"][0]["evidence"]["value"] == pytest.approx(want.evidence["value"], rel=1e-3)
    pixels, told = opened(here / "dream.png")
    assert pixels.shape[1] > 500
    assert len(told) == 5


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["dream", *CIFAR], 2, "without a target"),
        (["dream", *CIFAR, "--target", "catt"], 4, "nearest: cat"),
        (["dream", *CIFAR, "--unit", "block3:900"], 4, "0 to 127"),
        (["dream", *CIFAR, "--unit", "block3:5-x"], 2, "LAYER:K-L"),
        (["dream", *CIFAR, "--method", "saliency", "--target", "3"], 2, "no method of cutaway dream"),
        (["dream", *CIFAR, "--target", "3", "-o", "out.jpg"], 2, ".png"),
        (["dream", *CIFAR, "--target", "3", "--preview", "dream.png"], 2, "output too"),
        (["dream", *CIFAR, "--target", "3", "--set", "feature_visualization.steps=0"], 2, "steps"),
        (["invert", "absent.png", *CIFAR], 3, "absent.png"),
        (["dream", *CIFAR, "--target", "3", "--target", "5", "-o", "two.gif"], 2, "of 2 results"),
        (["dream", *CIFAR, "noise.png", "noise.png", "-o", "two.gif"], 2, "of 2 results"),
        (["attack", "noise.png", *CIFAR, "--toward", "catt"], 4, "nearest: cat"),
        (["attack", "noise.png", *CIFAR, "--method", "deepfool", "--toward", "cat"], 2, "aim at a class"),
        (["attack", *CIFAR], 2, "pgd without a picture"),
        (["dream", *CIFAR, "--method", "deep_dream"], 2, "deep_dream without a picture"),
    ],
)
def test_bad_input_is_said_and_writes_nothing(here: Path, words: list[str], code: int, said: str) -> None:
    done = run(*words)
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert "Traceback" not in done.output
    assert sorted(p.name for p in here.iterdir()) == ["noise.png"]


def test_attack_writes_a_figure_a_report_and_a_folder(here: Path) -> None:
    for name in ("attack.png", "attack.html", "attacks"):
        done = run("attack", "noise.png", *CIFAR, "--method", "fgsm,pgd", "-o", name)
        assert done.exit_code == 0, done.output
    assert "fooled" in done.output or "fools" in done.output
    assert len(list((here / "attacks").glob("*.png"))) == 2
    page = (here / "attack.html").read_text()
    assert "Where the network breaks" in page
    assert "one large step along the sign" in page or "Projected" in page


def test_invert_and_a_moving_dream(here: Path) -> None:
    done = run("invert", "noise.png", *CIFAR, "--set", "feature_inversion.steps=3")
    assert done.exit_code == 0, done.output
    assert (here / "invert.png").stat().st_size > 1000
    done = run("dream", "noise.png", *CIFAR, "-o", "dream.gif", "--set", "deep_dream.frames=3",
               "--set", "deep_dream.steps=1")  # fmt: skip
    assert done.exit_code == 0, done.output
    with Image.open(here / "dream.gif") as moving:
        assert moving.n_frames == 3  # type: ignore[attr-defined]
        assert moving.size == (32, 32)


def test_equal_seeds_draw_equal_bits(here: Path) -> None:
    drawn = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        words = ["--seed", seed, "--arrays", f"{name}.npz"]
        assert run("dream", *CIFAR, "--target", "3", *QUICK, *words).exit_code == 0
        with np.load(here / f"{name}.npz") as arrays:
            (drawn[name],) = arrays.values()
    np.testing.assert_array_equal(drawn["a"], drawn["b"])
    assert np.abs(drawn["a"] - drawn["c"]).max() > 0.01


def test_an_interruption_keeps_what_was_drawn_and_previews_go_on(here: Path) -> None:
    words = [
        "dream",
        *CIFAR,
        "--target",
        "3",
        "--preview",
        "now.png",
        "--set",
        "feature_visualization.steps=10000",
    ]
    work = subprocess.Popen(
        [sys.executable, "-m", "cutaway.cli", *words], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (here / "now.png").exists():
        assert time.monotonic() < limit
        assert work.poll() is None
        time.sleep(0.05)
    work.send_signal(signal.SIGINT)
    talk = work.communicate(timeout=60)[1]
    assert work.returncode == 130, talk
    assert "what was finished is kept" in talk
    (told,) = opened(here / "dream.png")[1]
    assert any("of 10000 steps" in note for note in told["notes"])
    assert opened(here / "now.png")[0].shape == (32, 32, 3)
