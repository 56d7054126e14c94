"""`load`: every kind of spec, weight file and class file, and what is refused."""

import json
import pickle
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn
from torchvision import models

from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.image import read
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.zoo import load
from cutaway.zoo.categories import read_classes
from cutaway.zoo.checkpoints import load_weights, read_state

NETWORKS = Path(__file__).parent / "networks"
SMALL = "squeezenet1_1"  # the quickest of torchvision's classifiers to build


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def assert_same(network: nn.Module, state: dict[str, Tensor]) -> None:
    now = network.state_dict()
    assert list(now) == list(state)
    assert all(torch.equal(now[k], v) for k, v in state.items())


# --- Specs ---------------------------------------------------------------------------------------------------


def test_torchvision_with_a_file_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    torch.manual_seed(3)
    reference = models.get_model(SMALL, weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    before = torch.get_rng_state()
    model = load("SqueezeNet1_1", weights=tmp_path / "w.pth", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.network.training
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    assert (model.name, model.classes[134], model.card["weights"]) == (SMALL, "crane bird", "w.pth")
    picture = Image.fromarray(data.chelsea())
    expected = reference(weights.transforms()(picture)[None])
    assert torch.equal(model(model.pixels(picture)), expected)


def test_googlenet_keeps_the_shift_its_weights_expect(tmp_path: Path) -> None:
    reference = models.googlenet(weights=None, init_weights=False, aux_logits=True)
    torch.save(reference.state_dict(), tmp_path / "g.pth")
    model = load("googlenet", weights=tmp_path / "g.pth", device="cpu")
    reference.transform_input = True
    reference.eval()
    x = torch.rand(1, 3, 224, 224)
    assert torch.equal(model(x), reference(model.preprocess.normalise(x)))


def test_random_weights_are_spelled_out_and_repeat() -> None:
    one, same, other = (load(SMALL, weights=w, device="cpu") for w in ("random", "random:0", "random:1"))
    assert_same(same.network, state_of(one.network))
    assert not torch.equal(one.network.features[0].weight, other.network.features[0].weight)
    assert other.card["weights"] == "random, seed 1"


def test_without_weights_or_network_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"could not be downloaded \(.*no route.*--weights FILE.*cutaway:"):
        load(SMALL)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("resnet5O", r"no model named 'resnet5O'.*Try: 'resnet50'"),
        ("RESNET_50", "resnet50"),
        ("scene", "scenes"),
        ("cutaway:cifra", "cifar"),
        ("fcn_resnet50", "neither a classifier nor a detector"),
        ("timm:convnext_tinny", "convnext_tiny"),
        ("timm:convnext_tiny.in1k_fb", "convnext_tiny.fb_in1k"),
        ("hf:/no/such/folder", "no folder /no/such/folder"),
        ("onnx:model", r"no kind of model named 'onnx'.*timm:NAME"),
        ("model.pth", r"a file of weights.*--weights model\.pth"),
        ("", "no model named ''"),
    ],
)
def test_unknown_models_give_the_nearest_names(spec: str, found: str) -> None:
    with pytest.raises(UnknownNameError, match=found):
        load(spec)


def test_timm_equals_its_own_transform(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "resnet10t.c3_in1k"
    reference = timm.create_model(name).eval()
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    model = load(f"timm:{name}", weights=tmp_path / "w.pth", device="cpu")
    assert model.classes[243] == "bull mastiff"
    config = timm.data.resolve_data_config({}, model=reference)
    picture = Image.fromarray(data.coffee())
    expected = timm.data.create_transform(**config)(picture)[None]
    torch.testing.assert_close(model.preprocess.normalise(model.pixels(picture)), expected, atol=1e-6, rtol=0)
    assert torch.equal(
        model(model.pixels(picture)), reference(model.preprocess.normalise(model.pixels(picture)))
    )


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(3, 224, 224), (3, 160, 200)])
def test_timms_crop_modes(mode: str, size: tuple[int, int, int]) -> None:
    timm = pytest.importorskip("timm")
    from cutaway.zoo.published import from_timm

    config = {
        "input_size": size,
        "crop_pct": 0.9,
        "crop_mode": mode,
        "interpolation": "bicubic",
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.3, 0.4),
    }
    notes: list[str] = []
    ours = from_timm(config, notes)
    assert ours.size == size[1:]
    if mode == "center" and size[1] != size[2]:
        assert "replaced by warping" in notes[0]
        return
    picture = Image.fromarray(data.astronaut()[:, :400])
    expected = timm.data.create_transform(**config)(picture)
    torch.testing.assert_close(ours.normalise(ours.fit(read(picture)))[0], expected, atol=1e-6, rtol=0)
    assert not notes


def test_the_users_own_code(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("WIDTH = 5\n")
    (tmp_path / "net.py").write_text(
        textwrap.dedent("""
            from dataclasses import dataclass
            from torch import nn
            import parts

            @dataclass
            class Settings:
                width: int = parts.WIDTH

            def build():
                from parts import WIDTH
                return nn.DataParallel(nn.Linear(Settings().width, WIDTH))

            def wrapped():
                from cutaway.core.model import VisionModel
                from cutaway.core.preprocess import Preprocess
                return VisionModel(nn.Linear(2, 2), Preprocess(crop=2), ["a", "b"], name="mine")

            def number():
                return 3

            def fails():
                return 1 / 0
            """)
    )
    path = list(sys.path)
    net = f"{tmp_path}/net.py"
    model = load(f"{net}:build", device="cpu")
    assert isinstance(model.network, nn.Linear)
    assert (model.network.in_features, model.name) == (5, f"{net}:build")
    mine = load(f"{net}:wrapped", classes=["x", "y"], device="cpu")
    assert (mine.name, mine.classes, mine.preprocess.crop) == ("mine", ("x", "y"), 2)
    for spec, error, found in [
        (f"{net}:biuld", UnknownNameError, "Try: 'build'"),
        (net, UsageError, r"names no function.*net\.py:Settings"),
        (f"{net}:number", UsageError, "returned a int"),
        (f"{net}:fails", InputError, r"failed in line 23: ZeroDivisionError"),
        (f"{tmp_path}/none.py:build", InputError, "there is no file"),
    ]:
        with pytest.raises(error, match=found):
            load(spec)
    (tmp_path / "bad.py").write_text("def build(:\n")
    with pytest.raises(InputError, match=r"bad\.py is not Python"):
        load(f"{tmp_path}/bad.py:build")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(7)\ndef build(): ...\n")
    with pytest.raises(InputError, match=r"failed in line 2: SystemExit"):
        load(f"{tmp_path}/leaves.py:build")
    assert sys.path == path


def test_modules_are_wrapped_and_left_alone() -> None:
    network = tiny().train()
    network[0].eval()
    state = state_of(network)
    model = load(network)
    assert model.network is network
    assert [m.training for m in network] == [False, True, True, True, True]
    assert_same(network, state)
    assert model.preprocess == Preprocess()
    assert "as they are" in model.card["notes"][0]
    assert load(nn.DataParallel(network)).network is network
    assert load(model) is model
    renamed = load(model, classes=["a", "b"])
    assert (renamed.network, renamed.classes, model.classes) == (network, ("a", "b"), ())
    assert load(nn.Conv2d(1, 2, 3)).preprocess.channels == "L"
    assert load(network, preprocess={"resize": 9}).card["notes"] == ()
    for options, found in [
        ({"weights": "w.pth"}, "never edited"),
        ({"device": "meta"}, "not on this machine"),
    ]:
        with pytest.raises(UsageError, match=found):
            load(network, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a int is no model"):
        load(3)  # type: ignore[arg-type]


def test_devices() -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UsageError, match="device="):
            load(f"{NETWORKS}/lenet.py:build", device=device)
    assert load(f"{NETWORKS}/lenet.py:build", device="cpu").device == torch.device("cpu")


def test_torchvision_is_imported_only_when_it_is_needed() -> None:
    code = (
        "import sys, cutaway.zoo; assert not {'torchvision', 'timm', 'safetensors'} & set(sys.modules); "
        f"cutaway.zoo.load({str(NETWORKS / 'lenet.py:build')!r}); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Weight files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "twice"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_state_dicts_in_every_wrapping(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    source, network = tiny(), tiny()
    state: dict[str, object] = {prefix + k: v for k, v in state_of(source).items()}
    if wrapper == "twice":
        state = {"epoch": 3, "model": {"state_dict": state, "best": 0.5}}
    elif wrapper:
        state = {"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}}
    torch.save(state, tmp_path / "w.pt")
    load_weights(network, tmp_path / "w.pt")
    assert_same(network, state_of(source))


def test_half_precision_is_cast_to_the_networks_own(tmp_path: Path) -> None:
    source, network = tiny(), tiny()
    state = {k: v.half() if v.is_floating_point() else v for k, v in state_of(source).items()}
    del state["1.num_batches_tracked"]  # absent in files older than the counter
    save_file(state, tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors")
    assert network[0].weight.dtype == torch.float32
    assert torch.equal(network[0].weight, source[0].weight.half().float())


def test_files_of_another_kind_are_told_by_their_content(tmp_path: Path) -> None:
    source, network = tiny(), tiny()
    save_file(state_of(source), tmp_path / "misnamed.pth")
    load_weights(network, tmp_path / "misnamed.pth")
    assert_same(network, state_of(source))
    torch.save(state_of(source), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_weights(network, tmp_path / "old.pth")


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["torch", "torch_old", "pickle"])
def test_a_pickle_that_wants_to_run_code_does_not(tmp_path: Path, how: str) -> None:
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    if how == "pickle":
        file.write_bytes(pickle.dumps({"w": Bomb(marker)}))
    else:
        torch.save({"w": Bomb(marker)}, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match=r"wants to run code .*safetensors"):
        load(SMALL, weights=file)
    assert not marker.exists()
    if how == "torch":
        with zipfile.ZipFile(file) as archive:
            pickle.loads(archive.read("evil/data.pkl"))
    else:
        with file.open("rb") as stream:
            for _ in range(4 if how == "torch_old" else 1):  # magic number, protocol, system, then the object
                pickle.load(stream)
    assert marker.exists(), "the trap itself works"


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"wants to run code .*Sequential.*\.state_dict\(\)"):
        read_state(tmp_path / "module.pt")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save_file(state_of(tiny()), tmp_path / "a.safetensors")
    torch.save(state_of(tiny()), tmp_path / "a.pth")
    torch.save(state_of(tiny()), tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pth", "b.pth"):
        whole = (tmp_path / name).read_bytes()
        for length in (9, 40, len(whole) // 2, len(whole) - 3):
            (tmp_path / "cut").write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"damaged|no weight file"):
                read_state(tmp_path / "cut")
    cases: list[tuple[str, bytes, str]] = [
        ("empty.pth", b"", "empty"),
        ("page.html", b"<!DOCTYPE html><html>", "no weight file"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "no weight file"),
    ]
    for name, content, found in cases:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=found):
            read_state(tmp_path / name)
    for values, found in [
        ([1, 2], "holds a list"),
        ({}, "holds nothing"),
        ({"epoch": 1}, r"no tensors \(epoch\)"),
    ]:
        torch.save(values, tmp_path / "odd.pth")
        with pytest.raises(InputError, match=found):
            read_state(tmp_path / "odd.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    with pytest.raises(InputError, match="TorchScript"):
        read_state(tmp_path / "script.pt")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="no weight file"):
        read_state(tmp_path / "arrays.npz")
    with pytest.raises(InputError, match="cannot read"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(InputError, match="directory"):
        read_state(tmp_path)


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    network = tiny()
    before = state_of(network)
    state = state_of(tiny())
    del state["4.bias"]
    state |= {"0.weight": torch.zeros(4, 3, 5, 5), "head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        load_weights(network, tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "w.safetensors does not fit Sequential" in text
    assert "1 tensors missing (4.bias)" in text
    assert "2 tensors unexpected (head." in text
    assert "1 of another shape (0.weight: file 4x3x5x5, network 4x3x3x3)" in text
    assert_same(network, before)


@pytest.mark.parametrize(
    ("value", "dtype"), [("nan", torch.float32), ("-inf", torch.float16), ("1e300", torch.float64)]
)
def test_nan_in_weights_is_named_and_changes_nothing(tmp_path: Path, value: str, dtype: torch.dtype) -> None:
    network = tiny()
    before = state_of(network)
    state = state_of(tiny())
    state["4.weight"] = state["4.weight"].to(dtype)
    state["4.weight"][1, 2] = float(value)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"NaN or infinity, first in '4.weight' \(1 of 32 values\)"):
        load_weights(network, tmp_path / "w.safetensors")
    assert_same(network, before)


def test_a_finetuned_head_of_another_width(tmp_path: Path) -> None:
    reference = models.get_model(SMALL, weights=None, num_classes=7).eval()
    save_file(reference.state_dict(), tmp_path / "flowers.safetensors")
    model = load(SMALL, weights=tmp_path / "flowers.safetensors", device="cpu")
    assert model.classes == ()
    assert "7 classes" in model.card["notes"][0]
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x), reference(model.preprocess.normalise(x)))


def test_densenet_files_with_their_old_names(tmp_path: Path) -> None:
    reference = models.densenet121(weights=None)
    old = {k.replace("norm1", "norm.1").replace("conv2", "conv.2"): v for k, v in state_of(reference).items()}
    assert any("norm.1" in k for k in old)
    torch.save(old, tmp_path / "densenet.pth")
    assert_same(
        load("densenet121", weights=tmp_path / "densenet.pth", device="cpu").network, state_of(reference)
    )


def test_mnasnet_asks_for_its_version(tmp_path: Path) -> None:
    reference = models.mnasnet0_5(weights=None)
    save_file(state_of(reference), tmp_path / "m.safetensors")
    assert_same(
        load("mnasnet0_5", weights=tmp_path / "m.safetensors", device="cpu").network, state_of(reference)
    )


# --- Class names and preprocessing from files ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '["cat", "grey dog", "emu"]'),
        ("b.json", '{"0": "cat", "2": "emu", "1": "grey dog"}'),
        ("c.json", '{"0": ["n01", "cat"], "1": ["n02", "grey dog"], "2": ["n03", "emu"]}'),
        ("d.json", '[{"name": "cat"}, {"name": "grey dog", "index": 1}, {"name": "emu"}]'),
        ("e.json", '{"emu": 2, "cat": 0, "grey dog": 1}'),
        ("f.txt", "cat\ngrey dog \r\nemu\n\n"),
        ("g.txt", "\ufeffcat\ngrey dog\nemu"),
    ],
)
def test_class_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_classes(tmp_path / name) == ("cat", "grey dog", "emu")
    assert read_classes(str(tmp_path / name)) == ("cat", "grey dog", "emu")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no names"),
        ("cat\n\nemu", "no name for class 1"),
        ('{"0": "cat", "2": "emu"}', "2 entries but none for class 1"),
        ("[1, 2]", "entry 0 is no name"),
        ('["cat"', "not JSON"),
        ('[{"title": "cat"}]', "entry 0 is no name"),
    ],
)
def test_bad_class_files(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "c").write_text(text)
    with pytest.raises(InputError, match=found):
        read_classes(tmp_path / "c")
    (tmp_path / "c").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_classes(tmp_path / "c")


def test_all_files_together(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"resize": 28, "channels": "L", "mean": [0.5]}))
    (tmp_path / "c.txt").write_text("\n".join(str(i) for i in range(10)))
    torch.manual_seed(1)
    spec = f"{NETWORKS}/lenet.py:build"
    reference = load(spec, device="cpu").network
    torch.save(reference.state_dict(), tmp_path / "w.pt")
    model = load(
        spec,
        weights=tmp_path / "w.pt",
        classes=tmp_path / "c.txt",
        preprocess=tmp_path / "p.json",
        device="cpu",
    )
    assert isinstance(model, VisionModel)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(x), reference(x - 0.5))
    assert model.classes[9] == "9"
    with pytest.raises(InputError, match="list"):
        load(spec, preprocess=[1])  # type: ignore[arg-type]
