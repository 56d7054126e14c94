"""`keras:FILE.keras`: against the same network written by hand in PyTorch, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from cutaway.core.errors import InputError, MissingDependencyError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.zoo import load
from cutaway.zoo.keras_layers import BatchNormalization, Conv2D

from .small_keras import ByHand, keras, keras_file, network, saved

PHOTO = Image.fromarray(data.chelsea())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VisionModel, VisionModel]]:
    """The file in float64, and its twin by hand."""
    k = keras()
    k.config.set_floatx("float64")
    try:
        path = keras_file(tmp_path_factory.mktemp("keras"))
        model = load(f"keras:{path}", device="cpu")
        yield model, VisionModel(ByHand(k.models.load_model(path)), model.preprocess, name="by hand")
    finally:
        k.config.set_floatx("float32")


def apart(ours: Any, theirs: Any) -> float:
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_scores_are_those_of_the_network_by_hand(pair: tuple[VisionModel, VisionModel]) -> None:
    model, hand = pair
    x = model.pixels(PHOTO)
    assert torch.allclose(model(x), hand(x), rtol=1e-12, atol=1e-13)
    assert model.dtype == torch.float64


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("saliency", {}),
        ("gradient_times_input", {}),
        ("integrated_gradients", {"rule": "gauss"}),
        ("guided_backprop", {}),
        ("deconvnet", {}),
        ("rect_grad", {}),
        ("lrp", {}),
        ("lrp", {"composite": "epsilon"}),
        ("deeplift", {}),
        ("occlusion", {}),
        ("grad_cam", {"layer": "block2_relu"}),
        ("grad_cam_plus_plus", {"layer": "block3_concat"}),
        ("layer_cam", {"layer": "block1_relu1"}),
        ("guided_grad_cam", {"layer": "block2_relu"}),
        ("activation_grid", {"layers": "block3_concat"}),
        ("effective_receptive_field", {"layer": "block2_relu"}),
    ],
)
def test_methods_give_what_they_give_by_hand(
    pair: tuple[VisionModel, VisionModel], method: str, options: dict[str, Any]
) -> None:
    ours, theirs = (m.explain(PHOTO, method, target=3, **options).values for m in pair)
    assert apart(ours, theirs) < 1e-10


def test_a_kernel_turned_the_wrong_way_is_seen(pair: tuple[VisionModel, VisionModel]) -> None:
    """The comparison above can fail: rows and columns of one kernel exchanged."""
    model, _ = pair
    conv = model.network.get_submodule("block2_depthwise")
    before = conv.weight
    conv.weight = nn.Parameter(before.detach().transpose(2, 3).contiguous())
    try:
        ours, theirs = (m.explain(PHOTO, "saliency", target=3).values for m in pair)
        assert apart(ours, theirs) > 1e-3
    finally:
        conv.weight = before


def test_filters_are_the_kernels(pair: tuple[VisionModel, VisionModel]) -> None:
    ours, theirs = (m.inspect("filters", layer="block1_conv1").values for m in pair)
    assert np.array_equal(ours, theirs)


def test_layers_stand_in_the_table_by_their_own_names(pair: tuple[VisionModel, VisionModel]) -> None:
    model, hand = pair
    table = model.layers
    names = [layer.name for layer in network().layers if layer.name != "picture"]
    assert [n for n in table.names if "." not in n] == names
    assert table.suggest()[0] == "block3_conv2"
    for name in ("block1_conv1", "block1_bn1", "block2_relu", "block3_concat"):
        row, twin = table.find(name), hand.layers.find(name)
        same = ("shape", "layout", "grid", "field", "jump", "activation", "macs")
        assert [getattr(row, f) for f in same] == [getattr(twin, f) for f in same], name
    assert sum(row.parameters for row in table) == sum(p.numel() for p in hand.network.parameters())


def test_pixels_and_left_out_softmax_are_said(pair: tuple[VisionModel, VisionModel]) -> None:
    model, _ = pair
    notes = " ".join(model.card["notes"])
    assert "softmax at the end of small.keras is left out" in notes
    assert "pixels from 0 to 255 are taken, because its own first layers make them x * 0.007843 - 1" in notes
    assert (model.preprocess.resize, model.preprocess.range) == ((32, 32), 255)


def test_the_files_softmax_is_that_of_the_scores(tmp_path: Path) -> None:
    path = keras_file(tmp_path)
    model = load(f"keras:{path}", device="cpu")
    x = model.pixels(PHOTO)
    own = keras().models.load_model(path)(255 * x.permute(0, 2, 3, 1), training=False)
    assert torch.allclose(model(x).softmax(1), own, atol=1e-6)
    saliency = model.explain(PHOTO, "saliency", target=3).values
    assert np.isfinite(saliency).all()


def test_a_network_in_a_network_keeps_its_names(tmp_path: Path) -> None:
    model = load(f"keras:{keras_file(tmp_path, inner=True)}", device="cpu")
    flat = load(f"keras:{keras_file(tmp_path)}", device="cpu")
    assert torch.allclose(model(model.pixels(PHOTO)), flat(flat.pixels(PHOTO)), atol=1e-6)
    assert model.layers.find("small.block1_conv1").grid == (16, 16)
    assert model.preprocess.range == 255


def save(model: Any, folder: Path) -> str:
    return f"keras:{saved(model, folder / 'own.keras')}"


def chain(*layers: Any, channels: int = 3, size: int | None = 8, name: str = "own") -> Any:
    k = keras()
    k.utils.set_random_seed(1)
    return k.Sequential([k.Input((size, size, channels)), *layers], name=name)


def test_layers_without_a_torch_twin_run_as_keras_has_them(tmp_path: Path) -> None:
    """Layers that need the file's own layout between layers that do not; the numbers are checked while loading."""
    layers = keras().layers
    model = load(
        save(
            chain(
                layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
                layers.PReLU(shared_axes=[1, 2]),
                layers.LayerNormalization(),
                layers.Conv2D(4, 3, padding="same", activation="gelu"),
                layers.UpSampling2D(2, interpolation="bilinear"),
                layers.AveragePooling2D(3, strides=2, padding="same"),
                layers.Permute((2, 1, 3)),
                layers.Dense(6, activation="tanh"),
                layers.Reshape((64, 24)),
                layers.Reshape((16, 16, 6)),
                layers.GlobalMaxPooling2D(keepdims=True),
                layers.Flatten(),
                layers.Dense(3),
            ),
            tmp_path,
        ),
        device="cpu",
    )
    assert model(model.pixels(PHOTO)).shape == (1, 3)
    assert [model.layers.find(n).shape[-1] for n in ("average_pooling2d", "permute")] == [16, 4]
    assert model.explain(PHOTO, "saliency", target=1).values.max() > 0


def test_one_sigmoid_is_two_classes(tmp_path: Path) -> None:
    layers = keras().layers
    spec = save(chain(layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(1, activation="sigmoid")), tmp_path)
    model = load(spec, classes=["dog", "cat"], device="cpu")
    x = model.pixels(PHOTO)
    own = keras().models.load_model(tmp_path / "own.keras")(x.permute(0, 2, 3, 1))
    assert torch.allclose(model(x).softmax(1)[:, 1:], own, atol=1e-6)
    assert "one sigmoid" in " ".join(model.card["notes"])


@pytest.mark.parametrize(
    ("first", "name", "expected"),
    [
        ([], "own", Preprocess(resize=(8, 8))),
        (["ZeroPadding2D", 3], "own", Preprocess(resize=(8, 8))),
        (
            ["ZeroPadding2D", 3],
            "resnet50",
            Preprocess(resize=(8, 8), channels="BGR", range=255, mean=(103.939, 116.779, 123.68)),
        ),
        (["Rescaling", 1 / 255], "own", Preprocess(resize=(8, 8), range=255)),
        (["Rescaling", 2, -1], "own", Preprocess(resize=(8, 8))),
        (["Rescaling", 1, -117], "own", Preprocess(resize=(8, 8), range=255)),
        (
            [],
            "resnet50",
            Preprocess(resize=(8, 8), channels="BGR", range=255, mean=(103.939, 116.779, 123.68)),
        ),
        ([], "inception_v3", Preprocess(resize=(8, 8), range=255, mean=(127.5,), std=(127.5,))),
    ],
)
def test_the_pixels_a_network_was_made_for(
    tmp_path: Path, first: list[Any], name: str, expected: Preprocess
) -> None:
    layers = keras().layers
    before = [getattr(layers, first[0])(*first[1:])] if first else []
    spec = save(chain(*before, layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), name=name), tmp_path)
    model = load(spec, device="cpu")
    assert model.preprocess == expected
    assert len(model.card["notes"]) == 1
    assert load(spec, preprocess={"resize": [9, 9]}, device="cpu").preprocess == Preprocess(resize=(9, 9))


def test_grey_pictures_of_any_size(tmp_path: Path) -> None:
    layers = keras().layers
    spec = save(chain(layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), channels=1, size=None), tmp_path)
    model = load(spec, device="cpu")
    assert (model.preprocess.channels, model.preprocess.resize) == ("L", None)
    assert model(model.pixels(PHOTO)).shape == (1, 4)


def test_channels_first_files_stay_so(tmp_path: Path) -> None:
    k = keras()
    layers = k.layers
    form = {"data_format": "channels_first"}
    picture = k.Input((3, 9, 9))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", **form)(picture)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.Concatenate(axis=1)([x, layers.MaxPooling2D(3, 1, "same", **form)(x)])
    x = layers.GlobalAveragePooling2D(**form)(x)
    spec = save(k.Model(picture, layers.Dense(2)(x)), tmp_path)
    model = load(spec, device="cpu")
    x = model.pixels(PHOTO)
    assert torch.allclose(model(x), k.models.load_model(tmp_path / "own.keras")(x), atol=1e-6)
    assert model.layers.find("concatenate").units == 8


def test_names_that_a_module_uses_itself(tmp_path: Path) -> None:
    layers = keras().layers
    spec = save(chain(layers.Conv2D(4, 3, name="half"), layers.GlobalAveragePooling2D()), tmp_path)
    assert load(spec, device="cpu").layers.names[0] == "half_"


# --- What is refused -----------------------------------------------------------------------------------------


def edited(path: Path, change: dict[str, str]) -> str:
    """The file with words of its configuration replaced."""
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    text = parts["config.json"].decode()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    parts["config.json"] = text.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return f"keras:{path}"


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    k = keras()
    with pytest.raises(InputError, match="Lambda, which is code of its own"):
        load(save(chain(k.layers.Conv2D(2, 3), k.layers.Lambda(lambda x: 2 * x)), tmp_path))
    own = k.saving.register_keras_serializable("mine")(type("Odd", (k.layers.ReLU,), {}))
    with pytest.raises(InputError, match=r"holds mine\.Odd, which is code of its own"):
        load(save(chain(k.layers.Conv2D(2, 3), own()), tmp_path))
    path = keras_file(tmp_path)
    with pytest.raises(InputError, match=r"os\.path\.ReLU, which is code of its own"):
        load(
            edited(
                path,
                {
                    '"module": "keras.layers", "class_name": "ReLU"': '"module": "os.path", "class_name": "ReLU"'
                },
            )
        )


def test_files_that_are_none(tmp_path: Path) -> None:
    path = keras_file(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", whole[:200], whole[: len(whole) // 2], b"\x89HDF\r\n"):
        (tmp_path / "bad.keras").write_bytes(content)
        with pytest.raises(InputError):
            load(f"keras:{tmp_path / 'bad.keras'}")
    with pytest.raises(InputError, match="before Keras 3"):
        load(f"keras:{tmp_path / 'old.h5'}")
    with pytest.raises(InputError, match="cannot read"):
        load(f"keras:{tmp_path / 'none.keras'}")
    with pytest.raises(InputError, match="Keras cannot load"):
        load(edited(keras_file(tmp_path), {'"filters": 12': '"filters": 14'}))
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(200 << 20))
    with pytest.raises(InputError, match="unpacks to"):
        load(f"keras:{tmp_path / 'bomb.keras'}")


def test_networks_that_do_not_classify_one_picture(tmp_path: Path) -> None:
    k = keras()
    words = k.Sequential([k.Input((7,)), k.layers.Dense(2)])
    with pytest.raises(InputError, match="one picture in"):
        load(save(words, tmp_path))
    with pytest.raises(InputError, match="5 channels"):
        load(save(chain(k.layers.Conv2D(2, 3), channels=5), tmp_path))
    model = chain(k.layers.Conv2D(2, 3), k.layers.GlobalAveragePooling2D())
    model.layers[0].bias.assign([float("nan"), 0])
    with pytest.raises(InputError, match="NaN"):
        load(save(model, tmp_path))
    with pytest.raises(UsageError, match="holds its own"):
        load(save(chain(k.layers.Conv2D(2, 3)), tmp_path), weights="random")


def test_numbers_that_are_not_those_of_keras_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keras_file(tmp_path)
    right = Conv2D._sides
    monkeypatch.setattr(Conv2D, "_sides", lambda self, x, axis: right(self, x, axis)[::-1])
    with pytest.raises(InputError, match="other numbers as a torch network"):
        load(f"keras:{path}")
    assert issubclass(BatchNormalization, nn.BatchNorm2d)


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = keras_file(tmp_path)
    monkeypatch.setattr(keras().backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match=r"runs on jax in this process.*KERAS_BACKEND=torch"):
        load(f"keras:{path}")


def test_the_environment_is_left_alone(tmp_path: Path) -> None:
    """In a fresh process, where the environment asks for another backend."""
    code = (
        "import os, cutaway\n"
        f"print(repr(cutaway.load({f'keras:{keras_file(tmp_path)}'!r})), os.environ['KERAS_BACKEND'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "KERAS_BACKEND": "jax"},
    )  # fmt: skip
    said = done.stdout.splitlines()[-1]
    assert said.startswith("<VisionModel keras:small.keras")
    assert said.endswith(" jax")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = keras_file(tmp_path)
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr("cutaway.zoo.keras_models.import_module", no_keras)
    with pytest.raises(MissingDependencyError, match=r"cutaway\[keras\]"):
        load(f"keras:{path}")


def no_keras(name: str) -> None:
    raise ImportError(name)
