"""The bundled networks are what their cards say they are."""

import io
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.core.errors import UnknownNameError
from cutaway.data.scenes import BACKGROUNDS, Scenes, scene
from cutaway.data.scenes_render import render
from cutaway.zoo import bundled

KEYS = {"resize", "resize_mode", "crop", "interpolation", "channels", "range", "mean", "std", "padding"}


def predict(name: str, pictures: list[np.ndarray]) -> np.ndarray:
    """Class indices, the pictures normalised as the card says and by nothing else."""
    network, card = bundled.build(name)
    mean, std = (np.array(card["preprocess"][key], np.float32) for key in ("mean", "std"))
    batch = torch.from_numpy((np.stack(pictures).astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in torch.split(batch, 50)]).numpy()


def cifar_test(folder: Path, card: dict[str, Any], step: int) -> tuple[list[np.ndarray], list[int]]:
    with zipfile.ZipFile(folder / "cifar10" / "cifar10_test5000_jpeg.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))[::step]
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
    return pictures, [card["classes"].index(n.split("/")[0]) for n in names]


def test_the_scenes_network_scores_on_fresh_scenes_what_its_card_says() -> None:
    fresh = Scenes(300, seed=77)[:]
    score = np.mean(predict("scenes", [one.image for one in fresh]) == [one.truth for one in fresh])
    assert abs(score - bundled.card("scenes")["scores"]["test_accuracy"]) <= 0.02


def test_the_scenes_network_looks_at_the_object_and_not_at_the_place() -> None:
    scenes = [scene(k, seed=78, background=place) for k in range(30) for place in BACKGROUNDS]
    found = predict("scenes", [one.image for one in scenes]).reshape(30, len(BACKGROUNDS))
    assert (found == found[:, :1]).all(1).mean() >= 0.9
    assert (found.ravel() == [one.truth for one in scenes]).mean() >= 0.95
    # the same places without the object: eight classes, so one in eight by chance
    bare = [
        render(replace(c, pieces=tuple(p for p in c.pieces if not p.main)), 112).image
        for c in (one.composition for one in scenes)
    ]
    assert (predict("scenes", bare) == [one.truth for one in scenes]).mean() < 0.35


def test_the_cifar_network_scores_on_photographs_what_its_card_says(data_folder: Path) -> None:
    card = bundled.card("cifar")
    pictures, truth = cifar_test(data_folder, card, 10)
    score = float(np.mean(predict("cifar", pictures) == truth))
    stated = card["scores"]["test_accuracy"]
    assert len(truth) == 500
    assert score >= 0.86
    assert abs(score - stated) <= 3 * np.sqrt(stated * (1 - stated) / 500)


@pytest.mark.parametrize("name", bundled.names())
def test_a_card_tells_the_truth_about_its_weights(name: str) -> None:
    network, card = bundled.build(name)
    assert not network.training
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    size = card["input_size"]
    output = network(torch.zeros(2, 3, size, size))
    assert output.shape == (2, len(card["classes"]))
    assert set(card["preprocess"]) == KEYS
    assert card["preprocess"]["crop"] == size
    # multiply-adds from the shapes alone: every weight of a layer is used once per output position
    places: list[tuple[int, int]] = []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(lambda m, _, y: places.append((m.weight.numel(), y[0, 0].numel())))
    network(torch.zeros(1, 3, size, size))
    used = sum(weights * positions for weights, positions in places)
    assert card["multiply_adds"] == used


def test_the_weights_are_small_enough_to_ship() -> None:
    folder = files("cutaway.zoo") / "weights"
    total = sum(len((folder / f"{name}.safetensors").read_bytes()) for name in bundled.names())
    assert total <= 3_000_000


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="cifar"):
        bundled.build("cifar10")
