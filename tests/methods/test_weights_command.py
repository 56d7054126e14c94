"""`cutaway filters` and `cutaway activations` against the library."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cutaway
from cutaway.cli import app
from cutaway.methods.weights.spectra import compare_banks
from cutaway.zoo import load

RUN = CliRunner()


def picture(folder: Path) -> Path:
    from PIL import Image

    pixels = torch.randint(
        0, 256, (112, 112, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    Image.fromarray(pixels.numpy()).save(folder / "noise.png")
    return folder / "noise.png"


def test_filters_writes_what_the_weights_are(tmp_path: Path) -> None:
    out = tmp_path / "filters.npz"
    done = RUN.invoke(app, ["filters", "-m", "cutaway:scenes", "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    saved = cutaway.load_result(out)
    model = load("cutaway:scenes")
    want = model.network.get_submodule(str(saved.layer)).weight.detach()
    np.testing.assert_array_equal(saved.arrays()["values"], want.numpy())
    said = json.loads(done.stdout)
    assert said["results"][0]["shape"] == list(want.shape)
    assert said["results"][0]["min"] == pytest.approx(float(want.min()))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--layer", "block1.conv1"], 6, "filter_planes"),
        (["--method", "saliency"], 2, "more than the network"),
        (["--method", "no_such"], 4, "no_such"),
        (["--set", "space=elsewhere"], 2, "space"),
        (["--set", "size=3"], 4, "size"),
        (["-o", "filters.txt"], 2, ".txt"),
        (["--beside", "cutaway:cifar"], 2, "--method diagnosis"),
        (["--method", "diagnosis", "--beside", "nowhere"], 4, "nowhere"),
    ],
)
def test_filters_says_what_is_wrong(arguments: list[str], code: int, said: str) -> None:
    done = RUN.invoke(app, ["filters", "-m", "cutaway:scenes", *arguments])
    assert done.exit_code == code, done.output
    assert said in done.output


BANKS = """
import torch
def net(kernel, stride):
    torch.manual_seed(kernel)
    body = torch.nn.Conv2d(3, 6, kernel, stride), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*body).eval()
def coarse():
    return net(11, 4)
def fine():
    return net(7, 2)
"""


def test_two_first_layers_stand_beside_each_other(tmp_path: Path) -> None:
    file = tmp_path / "banks.py"
    file.write_text(BANKS)
    line = ["filters", "-m", f"{file}:coarse", "--size", "40", "--method", "diagnosis"]
    line += ["--beside", f"{file}:fine"]
    done = RUN.invoke(app, [*line, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["beside"]
    both = [load(f"{file}:{name}").network[0].weight for name in ("coarse", "fine")]
    want = compare_banks(both[0], 4, both[1], 2)
    assert (found["first"]["kernel"], found["second"]["stride"]) == ([11, 11], [2, 2])
    for side in ("first", "second", "change"):
        assert found[side]["aliased"] == pytest.approx(want[side]["aliased"])
    assert found["change"]["aliased"] < 0
    words = RUN.invoke(app, line)
    assert "11 x 11" in words.stdout
    assert "aliased" in words.stdout


def test_planes_with_an_option(tmp_path: Path) -> None:
    line = ["filters", "-m", "cutaway:scenes", "--method", "filter_planes", "--set", "rows=4", "--json"]
    said = json.loads(RUN.invoke(app, line).stdout)["results"][0]
    assert said["options"]["rows"] == 4
    assert said["shape"][0] == 4 * 16


def test_activations_writes_every_layer_asked(tmp_path: Path) -> None:
    path = picture(tmp_path)
    figure = tmp_path / "maps.png"
    line = ["activations", str(path), "-m", "cutaway:scenes", "--layers", "stem.conv,block1.conv1"]
    done = RUN.invoke(app, [*line, "-o", str(figure), "--arrays", str(tmp_path / "maps.npz"), "--json"])
    assert done.exit_code == 0, done.output
    want = load("cutaway:scenes").explain(path, "activation_grid", layers="stem.conv,block1.conv1")
    got = np.load(tmp_path / "maps.npz")["0/noise/activation_grid"]
    np.testing.assert_array_equal(got, want.arrays()["values"])
    assert figure.read_bytes()[:4] == b"\x89PNG"
    trio = RUN.invoke(app, ["activations", str(path), "-m", "cutaway:scenes", "--first", "--json"])
    assert json.loads(trio.stdout)["images"][0]["results"][0]["method"] == "first_layer"


def test_a_method_of_the_network_alone_is_sent_to_the_right_command(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["explain", str(picture(tmp_path)), "-m", "cutaway:scenes", "--method", "filters"])
    assert done.exit_code == 2
    assert "cutaway filters --method filters" in done.output
