"""The command line, run as a person runs it, on networks whose answers can be written down."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.cli import app
from cutaway.commands.summary import print_json
from cutaway.methods import METHODS

CLASSES = ("tabby, tabby cat", "tiger cat", "house")
NETS = '''
"""Small networks with weights that follow from a seed."""
import signal

import torch
from torch import nn


def linear():
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))


def conv():
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 3))


class Touchy(nn.Module):
    """Linear, but a white picture makes it do something else."""

    def __init__(self, do):
        super().__init__()
        self.linear, self.do = linear(), do

    def forward(self, x):
        if x.mean() > 0.9:
            self.do()
        return self.linear(x)


def interrupted():
    return Touchy(lambda: signal.raise_signal(signal.SIGINT))


def faulty():
    return Touchy(lambda: 1 / 0)
'''


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, stdout and stderr."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app([str(a) for a in arguments])
        code = end.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with networks, class names and three 8x8 pictures, which is also the working folder."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def linear() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (3, 3, 8, 8) and bias of `nets.py:linear`, made from the same seed."""
    torch.manual_seed(7)
    layer = torch.nn.Linear(3 * 8 * 8, 3)
    return layer.weight.detach().view(3, 3, 8, 8), layer.bias.detach()


def arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def explain(run: Run, *arguments: object, net: str = "linear", methods: str = "backprop") -> Done:
    return run(
        "explain", "--model", f"nets.py:{net}", "--classes", "names.txt", "--method", methods, *arguments
    )


def test_json_and_arrays_say_what_the_network_is(run: Run, place: Path) -> None:
    done = explain(
        run, "a.png", "b.png", "--target", "1", "--json", "--arrays", "maps.npz", methods="backprop,saliency"
    )
    assert done.code == 0, done.err
    said, maps, (w, b) = json.loads(done.out), arrays(place / "maps.npz"), linear()
    assert [*said] == ["schema", "command", "model", "images"]
    assert (said["schema"], said["command"], said["model"]) == ("cutaway/1", "explain", "nets.py:linear")
    for number, image in enumerate(said["images"]):
        assert [*image] == ["path", "prediction", "results", "refused"]
        x = pixels(place / image["path"])
        chances = (torch.einsum("kchw,chw->k", w, x) + b).softmax(0)
        assert [p["index"] for p in image["prediction"]] == chances.argsort(descending=True).tolist()
        for p in image["prediction"]:
            assert p["name"] == CLASSES[p["index"]]
            assert p["probability"] == pytest.approx(float(chances[p["index"]]), rel=1e-5)
        right = {"backprop": w[1], "saliency": w[1].abs().amax(0)}
        for result in image["results"]:
            keys = "method target layer options array shape min max seconds evidence notes"
            assert [*result] == keys.split()
            assert result["array"] == f"{number}/{Path(image['path']).stem}/{result['method']}"
            assert result["target"] == "logit 1 'tiger cat'"
            values = maps.pop(result["array"])
            assert values.dtype == np.float32
            assert list(values.shape) == result["shape"]
            assert (values.min(), values.max()) == (np.float32(result["min"]), np.float32(result["max"]))
            np.testing.assert_allclose(values, right[result["method"]].numpy(), rtol=1e-5)
    assert maps == {}


def test_a_run_without_results_leaves_the_last_arrays_as_they_were(run: Run, place: Path) -> None:
    assert explain(run, "a.png", "--target", "1", "--arrays", "maps.npz").code == 0
    before = (place / "maps.npz").read_bytes()
    done = explain(run, "a.png", "--target", "77", "--arrays", "maps.npz")
    assert done.code == 4
    assert "wrote" not in done.err
    assert (place / "maps.npz").read_bytes() == before
    assert not [p for p in place.iterdir() if p.name.startswith(".maps")]


@pytest.mark.parametrize(
    ("asked", "weights"),
    [
        (("--target", "tiger cat"), (0, 1, 0)),
        (("--target", "TABBY"), (1, 0, 0)),
        (("--target", "tabby", "--minus", "tiger cat"), (1, -1, 0)),
        (("--target", "0", "--minus", "2"), (1, 0, -1)),
    ],
)
def test_targets_are_what_they_say(
    run: Run, place: Path, asked: tuple[str, ...], weights: tuple[int, ...]
) -> None:
    done = explain(run, "a.png", "--arrays", "maps.npz", *asked)
    assert done.code == 0, done.err
    right = torch.einsum("k,kchw->chw", torch.tensor(weights, dtype=torch.float32), linear()[0])
    np.testing.assert_allclose(
        arrays(place / "maps.npz")["0/a/backprop"], right.numpy(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("asked", [(), ("--target", "predicted")])
def test_the_predicted_class_is_explained_and_said(run: Run, place: Path, asked: tuple[str, ...]) -> None:
    done = explain(run, "a.png", "--json", "--arrays", "maps.npz", *asked)
    image = json.loads(done.out)["images"][0]
    top = image["prediction"][0]
    result = image["results"][0]
    assert result["target"] == f"logit {top['index']} {top['name']!r}"
    assert any("no target given" in note for note in result["notes"]) is (asked == ())
    np.testing.assert_allclose(
        arrays(place / "maps.npz")["0/a/backprop"], linear()[0][top["index"]].numpy(), rtol=1e-5
    )


def test_a_unit_is_its_kernel_at_its_place(run: Run, place: Path) -> None:
    done = explain(run, "a.png", "--unit", "0:2:4,5", "--arrays", "maps.npz", net="conv")
    assert done.code == 0, done.err
    torch.manual_seed(7)
    right = torch.zeros(3, 8, 8)
    right[:, 3:6, 4:7] = torch.nn.Conv2d(3, 4, 3, padding=1).weight.detach()[2]
    np.testing.assert_allclose(
        arrays(place / "maps.npz")["0/a/backprop"], right.numpy(), rtol=1e-5, atol=1e-8
    )


def test_a_refusal_leaves_the_other_results(run: Run, place: Path) -> None:
    done = explain(run, "a.png", "--json", "--arrays", "maps.npz", methods="grad_cam,saliency")
    image = json.loads(done.out)["images"][0]
    assert done.code == 6
    assert [r["method"] for r in image["refused"]] == ["grad_cam"]
    assert image["refused"][0]["reason"] in " ".join(done.err.split()) or "grad_cam on a.png" in done.err
    assert [*arrays(place / "maps.npz")] == ["0/a/saliency"]


def test_an_unreadable_picture_stops_no_other(run: Run, place: Path) -> None:
    done = explain(run, "a.png", "broken.png", "gone.png", "b.png", "--json", "--arrays", "maps.npz")
    images = json.loads(done.out)["images"]
    assert done.code == 3
    assert ["error" in image for image in images] == [False, True, True, False]
    assert "broken.png" in images[1]["error"]
    assert [*arrays(place / "maps.npz")] == ["0/a/backprop", "3/b/backprop"]


def test_an_error_outweighs_a_refusal_that_came_before(run: Run, place: Path) -> None:
    assert explain(run, "a.png", "broken.png", methods="grad_cam").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("gone.png", "--model", "no_such_net"), 3, "gone.png"),  # before the network is looked for
        (("a.png", "--model", "no_such_net", "-o", "missing/out.html"), 3, "missing"),
        (("a.png", "--model", "no_such_net", "--arrays", "missing/out.npz"), 3, "missing"),
        (("a.png", "--model", "no_such_net", "-o", "out.pdf"), 2, ".html"),
        (("a.png", "--model", "no_such_net", "--arrays", "out.txt"), 2, ".npz"),
        (("a.png", "--model", "no_such_net", "-o", "a.png"), 2, "one of the pictures"),
        (("a.png", "--model", "no_such_net", "--target", "1", "--unit", "0:1"), 2, "--unit"),
        (("a.png", "--model", "no_such_net", "--set", "occlusion.window=0"), 2, "window='0'"),
        (("a.png", "--model", "no_such_net", "--set", "occlusion.windw=9"), 4, "window"),
        (("a.png", "--model", "no_such_net", "--set", "window=9"), 2, "method.option=value"),
        (("a.png", "--model", "no_such_net", "--set", "cam.layer=x"), 2, "not run"),
        (("a.png", "--model", "no_such_net", "--method", "gradcam"), 4, "grad_cam"),
        (("a.png", "--model", "resnet5O"), 4, "resnet50"),
        (("a.png", "--model", "nets.py:linear", "--target", "tigre cat", "--classes", "names.txt"), 4, "tiger cat"),
        (("a.png", "--model", "nets.py:linear", "--target", "3", "--classes", "names.txt"), 4, "0 to 2"),
        (("a.png", "--model", "nets.py:conv", "--method", "grad_cam", "--set", "grad_cam.layer=7"), 4, "'7'"),
        (("a.png", "--model", "nets.py:conv", "--unit", "0:4"), 4, "0 to 3"),
        (("a.png", "--model", "nets.py:linear", "--weights", "broken.png"), 3, "broken.png"),
        (("a.png",), 2, "--model"),
        (("a.png", "--model", "nets.py:linear", "--seed", "-1"), 2, "--seed"),
        (("--model", "nets.py:linear"), 2, "IMG"),
        (("a.png", "--model", "nets.py:linear", "--metod", "cam"), 2, "--metod"),
    ],
)  # fmt: skip
def test_mistakes_have_a_code_and_say_what_would_do(
    run: Run, place: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = sorted(place.iterdir())
    done = run("explain", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert sorted(p for p in place.iterdir() if p.name != "__pycache__") == before


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """A shell starts what it runs in the background with Ctrl-C ignored; here it means what it means to a person."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interrupt_keeps_what_was_finished(run: Run, place: Path) -> None:
    done = explain(
        run,
        "a.png",
        "white.png",
        "b.png",
        "--json",
        "--arrays",
        "maps.npz",
        "-o",
        "r.html",
        net="interrupted",
    )
    assert done.code == 130
    assert [*arrays(place / "maps.npz")] == ["0/a/backprop"]
    assert len(json.loads(done.out)["images"][0]["results"]) == 1
    assert "a.png" in (place / "r.html").read_text()


def test_our_own_fault_is_one_line_and_keeps_what_was_finished(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("a.png", "white.png", "b.png", "--arrays", "maps.npz")
    done = explain(run, *arguments, net="faulty")
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    assert "CUTAWAY_DEBUG=1" in done.err
    assert "Traceback" not in done.err
    assert [*arrays(place / "maps.npz")] == ["0/a/backprop"]
    monkeypatch.setenv("CUTAWAY_DEBUG", "1")
    assert "Traceback" in explain(run, *arguments, net="faulty").err


def test_every_form_of_output(run: Run, place: Path) -> None:
    for output in ("r.html", "one.png", "sheet.png", "folder"):
        methods = "saliency" if output == "one.png" else "saliency,backprop"
        done = explain(run, "a.png", "-o", output, methods=methods)
        assert done.code == 0, done.err
        assert f"wrote {output}" in done.err
    assert (place / "r.html").read_text().startswith("<!DOCTYPE html>")
    with Image.open(place / "one.png") as one, Image.open(place / "sheet.png") as sheet:
        assert json.loads(one.info["cutaway"])["method"] == "saliency"
        assert sheet.format == "PNG"
    assert sorted(p.name for p in (place / "folder").iterdir()) == ["0-a-backprop.png", "0-a-saliency.png"]
    assert [p.name for p in place.iterdir() if p.name.startswith(".")] == []  # nothing half-written


def test_names_of_files_come_through_whole(run: Run, place: Path) -> None:
    odd = "über [red] a b.c.png"
    (place / "a.png").rename(place / odd)
    done = explain(run, odd, "--arrays", "maps.npz")
    assert done.code == 0
    assert done.out.splitlines()[0] == odd
    assert [*arrays(place / "maps.npz")] == ["0/über [red] a b.c/backprop"]


def test_what_json_cannot_hold_becomes_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("test", {"a": [float("nan"), {"b": float("-inf")}, 1.5]})
    assert json.loads(capsys.readouterr().out) == {
        "schema": "cutaway/1", "command": "test", "a": [None, {"b": None}, 1.5],
    }  # fmt: skip


def test_methods_lists_and_shows(run: Run) -> None:
    listed = run("methods")
    assert all(f"  {name} " in listed.out for name in METHODS)
    one = run("methods", "grad_cam")
    assert "1610.02391" in one.out
    assert "grad_cam.relu" in one.out
    assert run("methods", "grad_kam").code == 4


def test_layers_counts_every_parameter_once(run: Run, place: Path) -> None:
    said = json.loads(run("layers", "--model", "nets.py:conv", "--size", "8", "--json").out)
    rows = {row["name"]: row for row in said["layers"]}
    assert {n: r["parameters"] for n, r in rows.items()} == {
        "0": 3 * 4 * 9 + 4,
        "1": 0,
        "2": 4 * 8 * 8 * 3 + 3,
    }
    assert rows["0"]["shape"] == [1, 4, 8, 8]
    assert "MACs" in run("layers", "--model", "nets.py:conv", "--size", "8").out


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    script = Path(sys.executable).with_name("cutaway")
    return subprocess.run(
        [script, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_reader_that_has_seen_enough_is_no_error(form: list[str]) -> None:
    script = Path(sys.executable).with_name("cutaway")
    process = subprocess.Popen([script, "methods", *form], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    err = process.communicate(timeout=120)[1]
    assert (process.returncode, err) == (0, b"")


def test_a_real_network_on_a_real_photograph(data_folder: Path, tmp_path: Path) -> None:
    """SqueezeNet as Caffe trained it, against the same computation written out with Pillow and torchvision."""
    from safetensors.torch import load_file
    from torchvision.models import squeezenet1_1

    photo = data_folder / "imagenet_samples" / "n02123045_tabby.jpg"
    weights = data_folder / "weights" / "squeezenet1_1_imagenet_fp16.safetensors"
    steps = {
        "resize": 256,
        "resize_mode": "warp",
        "crop": 227,
        "channels": "BGR",
        "range": 255,
        "mean": [104, 117, 123],
    }
    (tmp_path / "caffe.json").write_text(json.dumps(steps))
    done = command(
        "explain", photo, "--model", "squeezenet1_1", "--weights", weights, "--preprocess", "caffe.json",
        "--method", "backprop,grad_cam", "--target", "281", "-o", "out.html", "--json", "--arrays", "out.npz",
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    network = squeezenet1_1()
    network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    network.eval()
    with Image.open(photo) as opened:
        warped = opened.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(warped)).float()[14:241, 14:241].permute(2, 0, 1)[None]
    u = (x / 255).requires_grad_()
    scores = network(u.flip(1) * 255 - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1))
    (gradient,) = torch.autograd.grad(scores[0, 281], u)
    image = json.loads(done.stdout)["images"][0]
    chances = scores[0].softmax(0)
    top = chances.topk(5)
    assert [p["index"] for p in image["prediction"]] == top.indices.tolist()
    np.testing.assert_allclose(
        [p["probability"] for p in image["prediction"]], top.values.detach(), rtol=1e-3
    )
    maps = arrays(tmp_path / "out.npz")
    found = maps[f"0/{photo.stem}/backprop"]
    np.testing.assert_allclose(found, gradient[0].numpy(), atol=1e-3 * float(gradient.abs().max()))
    assert set(maps) == {f"0/{photo.stem}/backprop", f"0/{photo.stem}/grad_cam"}
    assert "n02123045_tabby.jpg" in (tmp_path / "out.html").read_text()


def test_the_demo_writes_one_report_and_says_the_truth(tmp_path: Path) -> None:
    """The report, and a summary whose shares are those of the maps: nobody may have 100 % or nothing."""
    done = command("demo", "-o", "r.html", cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    scenes, photographs = done.stdout.splitlines()
    assert int(scenes.split()[1]) >= 3  # of 4, by a network whose card says far more than 90 %
    shares = [int(s) for s in re.findall(r"(\d+) %", scenes)]
    assert shares[-1] < max(shares[:-1]) <= 100  # the best map does better than evidence spread evenly
    assert "chelsea -> cat" in photographs
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert str(tmp_path / "r.html") in done.stderr


def test_the_demo_checks_its_output_first(run: Run, place: Path) -> None:
    assert run("demo", "-o", "missing/r.html").code == 3
    assert run("demo", "-o", "r.png").code == 2
