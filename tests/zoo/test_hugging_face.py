"""`hf:FOLDER`: against transformers' own processor and model, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

from cutaway.core.errors import InputError, MissingDependencyError, UnknownNameError
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.zoo import load
from cutaway.zoo.hugging_face import from_hugging_face

from .small_hf import KINDS, hf_folder, network

PHOTO = Image.fromarray(data.chelsea())
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("hf"), request.param)


def test_logits_are_those_of_the_library(folder: Path) -> None:
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    reference = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference(**processor(PHOTO, return_tensors="pt")).logits
    model = load(f"hf:{folder}", device="cpu")
    assert torch.allclose(model(model.pixels(PHOTO)), expected, atol=1e-6)
    assert model.classes == tuple(f"class {i}" for i in range(4))
    assert (model.name, model.card["weights"], model.card["notes"]) == (f"hf:{folder}", str(folder), ())
    assert not model.network.training


def test_methods_see_the_bare_network(folder: Path) -> None:
    """The same map as the library's module, wrapped by hand around `.logits`."""
    model = load(f"hf:{folder}", device="cpu")
    x = model.preprocess.normalise(model.pixels(PHOTO)).requires_grad_()
    built, _ = network(folder.name)
    built(x).logits[0, 2].backward()
    assert x.grad is not None
    std = torch.tensor(model.preprocess.std).view(1, 3, 1, 1)
    slope = (x.grad / std).abs().amax(1)[0].numpy()
    ours = model.explain(PHOTO, "saliency", target="class 2").values
    assert np.abs(ours - slope).max() <= 1e-5 * slope.max()


@pytest.mark.parametrize(
    ("kind", "name", "layer"),
    [
        ("resnet", "resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.1"),
        ("vit", "vit.layers.0.attention.q_proj", "vit.layers.1.layernorm_before"),
        ("convnext", "convnext.encoder.stages.1.layers.0.dwconv", "convnext.encoder.stages.3"),
    ],
)
def test_layers_by_their_own_names(tmp_path: Path, kind: str, name: str, layer: str) -> None:
    model = load(f"hf:{hf_folder(tmp_path, kind)}", device="cpu")
    assert model.layers.find(name).layout in ("map", "tokens")
    assert model.layers.suggest()[0] == layer
    result = model.explain(PHOTO, "grad_cam", target=1)
    assert result.values.shape == model.layers.find(layer).grid
    assert result.layer == layer


def test_backward_rules_on_a_resnet_are_those_of_its_relus(tmp_path: Path) -> None:
    model = load(f"hf:{hf_folder(tmp_path)}", device="cpu")
    built, _ = network()
    handles = [
        m.register_full_backward_hook(lambda m, grad, out: (grad[0].clamp(min=0),))
        for m in built.modules()
        if isinstance(m, torch.nn.ReLU)
    ]
    assert len(handles) == 5
    x = model.preprocess.normalise(model.pixels(PHOTO)).requires_grad_()
    built(x).logits[0, 1].backward()
    assert x.grad is not None
    theirs = (x.grad / torch.tensor(model.preprocess.std).view(1, 3, 1, 1))[0].numpy()
    ours = model.explain(PHOTO, "guided_backprop", target=1).values
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, Preprocess(resize=(384, 384))),
        ({"size": 224, "resample": 0}, Preprocess(resize=(224, 224), interpolation="nearest")),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 200},
            },
            Preprocess(resize=256, crop=(224, 200)),
        ),
        (
            {"do_resize": False, "image_mean": [0.5], "image_std": [0.25], "do_flip_channel_order": True},
            Preprocess(channels="BGR", mean=(0.5,), std=(0.25,)),
        ),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
            Preprocess(mean=(0.5,), std=(0.5,)),
        ),
        ({"do_normalize": False, "do_rescale": False, "image_mean": [9]}, Preprocess(std=(1 / 255,))),
    ],
)
def test_preprocessing_of_a_file(values: dict[str, Any], expected: Preprocess) -> None:
    assert from_hugging_face(values) == expected


def test_sizes_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="longest_edge"):
        from_hugging_face({"size": {"longest_edge": 512}})


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_preprocessing_that_is_not_followed_is_said(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, "vit")
    rewrite(folder / "preprocessor_config.json", size={"longest_edge": 40})
    notes = load(f"hf:{folder}", device="cpu").card["notes"]
    assert "its preprocessing is not followed: size" in notes[0]
    assert "no preprocessing was given" in notes[1]
    (folder / "preprocessor_config.json").unlink()
    assert "cannot be read" in load(f"hf:{folder}", device="cpu").card["notes"][0]


def test_weights_from_elsewhere(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v * 0 if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.safetensors"
    )
    model = load(f"hf:{folder}", weights=tmp_path / "w.safetensors", device="cpu")
    assert model.card["weights"] == "w.safetensors"
    assert not model.network.get_parameter("classifier.1.weight").any()
    drawn = [
        load(f"hf:{folder}", weights=w, device="cpu").fingerprint
        for w in ("random:1", "random:1", "random:2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_would_be_random_or_run_code_is_refused(tmp_path: Path) -> None:
    import transformers

    folder = hf_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    headless = {k: v for k, v in state.items() if "classifier" not in k}
    save_file(headless, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for classifier\.1\.bias.*would be random"):
        load(f"hf:{folder}")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="safetensors"):
        load(f"hf:{folder}")
    state["classifier.1.bias"] = torch.full((4,), float("nan"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="NaN"):
        load(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read"):
        load(f"hf:{folder}")

    words = tmp_path / "words"
    tiny = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertForSequenceClassification(tiny).save_pretrained(words)
    with pytest.raises(InputError, match="is a bert, which has no form that classifies pictures"):
        load(f"hf:{words}")

    marker = tmp_path / "ran"
    (words / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    auto = {"AutoConfig": "code.Own", "AutoModelForImageClassification": "code.Net"}
    rewrite(words / "config.json", model_type="own", auto_map=auto)
    with pytest.raises(InputError, match="code of its own, which is not run"):
        load(f"hf:{words}")
    assert not marker.exists()
    shutil.rmtree(words)
    words.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load(f"hf:{words}")


def test_a_name_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: list[str] = []

    def offline(name: str, **_: object) -> None:
        asked.append(name)
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    with pytest.raises(InputError, match=r"nobody/nothing is not on this machine.*\(no route\).*hf:FOLDER"):
        load("hf:nobody/nothing")
    assert asked == ["nobody/nothing"]  # once: the library's own way tries for half a minute
    for name in ("a/b/c", "", str(tmp_path / "none")):
        with pytest.raises(UnknownNameError, match="no folder"):
            load(f"hf:{name}")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"cutaway\[hf\]"):
        load(f"hf:{tmp_path}")
    assert VisionModel is not None


def test_a_folder_that_disagrees_with_itself_is_refused(tmp_path: Path) -> None:
    good = hf_folder(tmp_path / "good", "resnet")
    folder = tmp_path / "labels"
    shutil.copytree(good, folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): f"thing {i}" for i in range(19)}
    config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"other shapes than its config\.json"):
        load(f"hf:{folder}", device="cpu")
    shutil.copytree(good, tmp_path / "steps")
    (tmp_path / "steps" / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config\.json is damaged"):
        load(f"hf:{tmp_path / 'steps'}", device="cpu")
