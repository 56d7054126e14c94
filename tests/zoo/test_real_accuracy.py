"""Real weights on real pictures: the published accuracies come back, picture by picture.

The counts were measured once on the whole folders; every tenth picture is tested here:

=====================================  ==================  =====================
network, preprocessing                 imagenet_samples    nips17_images
=====================================  ==================  =====================
squeezenet1_1, whole picture to 256    449 / 602 of 700    146 / 234 of 300
squeezenet1_1, short side 256          436 / 591           146 / 234
mobilenet_v2, TensorFlow SAME          613 / 683           251 / 284
mobilenet_v2, PyTorch's padding        557 / 664           192 / 257
=====================================  ==================  =====================

CIFAR-10: ResNet-20 4050 of 5000 JPEG and 2994 of 3000 lossless pictures, ResNet-56 4156 and 3000;
MNIST: LeNet-5 9764 of 10000.
"""

import gzip
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutaway.core.image import read
from cutaway.core.model import VisionModel
from cutaway.zoo import load

NETWORKS = Path(__file__).parent / "networks"
CAFFE = {"crop": 227, "channels": "BGR", "range": 255, "mean": [104, 117, 123]}
WARP = {"resize": 256, "resize_mode": "warp", **CAFFE}
SHORT = {"resize": 256, **CAFFE}
INCEPTION = {"resize": 256, "crop": 224, "mean": [0.5], "std": [0.5]}
SAME = {**INCEPTION, "padding": "tensorflow_same"}
CIFAR = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def correct(model: VisionModel, pictures: Sequence[Any], labels: Sequence[int]) -> tuple[int, int]:
    """How many pictures have their label first, and among the first five."""
    first = five = 0
    with torch.no_grad(), model.guard():
        for start in range(0, len(pictures), 50):
            photos = [read(p, model.preprocess.pixel_channels) for p in pictures[start : start + 50]]
            scores = model(torch.cat([model.preprocess.fit(photo) for photo in photos]))
            hits = scores.topk(5).indices == torch.as_tensor(labels[start : start + 50])[:, None]
            first, five = first + int(hits[:, 0].sum()), five + int(hits.any(1).sum())
    return first, five


def imagenet(folder: Path, name: str) -> tuple[list[Path], list[int]]:
    if name == "nips17_images":
        entries = json.loads((folder / name / "labels.json").read_text())
        return [folder / name / e["file"] for e in entries], [e["label"] for e in entries]
    classes = json.loads((folder / "imagenet_classes.json").read_text())
    numbers = {c["wnid"]: c["index"] for c in classes}
    paths = sorted((folder / name).glob("*.jpg"))
    return paths, [numbers[p.name.split("_")[0]] for p in paths]


@pytest.mark.parametrize(
    ("network", "preprocess", "pictures", "expected"),
    [
        ("squeezenet1_1", WARP, "imagenet_samples", (46, 56)),
        ("squeezenet1_1", SHORT, "nips17_images", (17, 28)),
        ("mobilenet_v2", SAME, "imagenet_samples", (59, 65)),
        ("mobilenet_v2", SAME, "nips17_images", (27, 30)),
        ("mobilenet_v2", INCEPTION, "nips17_images", (21, 28)),
    ],
)
def test_imagenet(
    data_folder: Path, network: str, preprocess: dict[str, Any], pictures: str, expected: tuple[int, int]
) -> None:
    weights = data_folder / "weights" / f"{network}_imagenet_fp16.safetensors"
    model = load(network, weights=weights, preprocess=preprocess, device="cpu")
    paths, labels = imagenet(data_folder, pictures)
    assert correct(model, paths[::10], labels[::10]) == expected


def test_the_published_class_names_are_in_the_order_of_the_outputs(data_folder: Path) -> None:
    weights = data_folder / "weights" / "mobilenet_v2_imagenet_fp16.safetensors"
    model = load("mobilenet_v2", weights=weights, preprocess=SAME, device="cpu")
    names = json.loads((data_folder / "imagenet_classes.json").read_text())
    same = [
        a.lower() == b["name"].replace("_", " ").lower() for a, b in zip(model.classes, names, strict=True)
    ]
    assert (
        sum(same) > 980
    )  # torchvision tells some namesakes apart, such as the bird and the machine called crane
    paths, labels = imagenet(data_folder, "imagenet_samples")
    best = model.predict(paths[labels.index(191)])[0]
    assert (best.index, best.name) == (191, "Airedale")


@pytest.mark.parametrize(("network", "jpeg", "lossless"), [("resnet20", 166, 300), ("resnet56", 175, 300)])
def test_cifar(data_folder: Path, network: str, jpeg: int, lossless: int) -> None:
    model = load(
        f"{NETWORKS}/resnet_cifar.py:{network}",
        weights=data_folder / "weights" / f"{network}_cifar10.safetensors",
        classes=data_folder / "cifar10" / "classes.json",
        preprocess=CIFAR,
        device="cpu",
    )
    with zipfile.ZipFile(data_folder / "cifar10" / "cifar10_test5000_jpeg.zip") as archive:
        files = sorted(n for n in archive.namelist() if n.endswith(".jpg"))[::25]
        pictures = [archive.read(f) for f in files]
    labels = [model.classes.index(f.split("/")[-2]) for f in files]
    assert correct(model, pictures, labels)[0] == jpeg
    train = np.load(data_folder / "cifar10" / "cifar10_train3000_lossless.npz")
    images, truth = train["images"][::10], train["labels"][::10]
    assert correct(model, list(images), truth.tolist())[0] == lossless
    assert torch.equal(model.pixels(images[:9]), torch.cat([model.pixels(i) for i in images[:9]]))


def test_mnist(data_folder: Path) -> None:
    model = load(
        f"{NETWORKS}/lenet.py:build",
        weights=data_folder / "weights" / "lenet5_mnist.safetensors",
        device="cpu",
    )
    assert model.preprocess.channels == "L"
    folder = data_folder / "mnist"
    with (
        gzip.open(next(folder.glob("*images*"))) as images,
        gzip.open(next(folder.glob("*labels*"))) as labels,
    ):
        pictures = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        truth = np.frombuffer(labels.read(), np.uint8, offset=8)
    assert correct(model, list(pictures[::10]), truth[::10].tolist())[0] == 973
