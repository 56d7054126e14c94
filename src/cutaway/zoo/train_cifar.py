"""Recipe of the bundled CIFAR-10 network.

``python -m cutaway.zoo.train_cifar --train TRAIN.zip --test TEST.zip -o cifar.safetensors``

Both archives hold 32x32 pictures as ``<class>/<number>.jpg``.
"""

import argparse
import io
import logging
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cutaway.zoo.networks import SmallNet, multiply_adds, parameter_count
from cutaway.zoo.recipe import accuracy, half_weights, keep_freed_memory, store, train

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
SIZE = 32
BATCH = 128
SHIFT = 4
HOLE = 10
ARCHITECTURE: dict[str, Any] = {"widths": [32, 32, 64, 128, 192], "stem_kernel": 3, "stem_stride": 1}

log = logging.getLogger(__name__)


def read_archive(path: Path, *, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Pictures ``(N, 3, 32, 32)`` uint8 and labels ``(N,)`` of an archive ``<class>/<number>.jpg``.

    With ``limit``, only every k-th picture of the sorted list, so that all classes stay represented.
    """
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        names = names[:: max(1, len(names) // limit)][:limit] if limit else names
        pictures = [
            np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), np.uint8) for name in names
        ]
    labels = [CLASSES.index(name.split("/")[-2]) for name in names]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def normalise(pictures: Tensor) -> Tensor:
    """Network input of uint8 pictures ``(N, 3, H, W)``: ``(x / 255 - mean) / std`` per channel."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((pictures.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


class Augmented:
    """Shuffled batches of shifted, mirrored pictures with one square hole each (DeVries 2017, cutout)."""

    def __init__(self, pictures: Tensor, labels: Tensor, *, seed: int = 0) -> None:
        self.padded = F.pad(pictures, (SHIFT,) * 4, mode="reflect")
        self.labels = labels
        self.random = torch.Generator().manual_seed(seed)
        self.mirrored = torch.randint(2, (len(labels),), generator=self.random).bool()
        self.steps = len(labels) // BATCH

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; a picture mirrored in this epoch is upright in the next, so both are seen equally."""
        order = torch.randperm(len(self.labels), generator=self.random)
        for step in range(self.steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            yield self._pictures(chosen, self.mirrored[chosen] ^ bool(epoch % 2)), self.labels[chosen]

    def _pictures(self, chosen: Tensor, mirrored: Tensor) -> Tensor:
        def draw(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (len(chosen), 1), generator=self.random)

        pixel = torch.arange(SIZE)[None]
        rows = draw(0, 2 * SHIFT + 1) + pixel
        columns = draw(0, 2 * SHIFT + 1) + torch.where(mirrored[:, None], SIZE - 1 - pixel, pixel)
        picked = self.padded[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        images = normalise(picked.permute(0, 3, 1, 2))
        top, left = draw(-HOLE // 2, SIZE - HOLE // 2), draw(-HOLE // 2, SIZE - HOLE // 2)
        hole = ((pixel >= top) & (pixel < top + HOLE))[:, :, None] & (
            (pixel >= left) & (pixel < left + HOLE)
        )[:, None, :]
        return images.masked_fill(hole[:, None], 0.0)


def card_of(network: SmallNet, score: float, *, tested: int, epochs: int, minutes: float) -> dict[str, Any]:
    """What a person must know about the weights: origin, preprocessing, measured score, licence."""
    return {
        "name": "cifar",
        "title": "Photographs of ten kinds of things (CIFAR-10), 32 pixels",
        "architecture": {"class": "SmallNet", **ARCHITECTURE},
        "classes": list(CLASSES),
        "input_size": SIZE,
        "preprocess": {
            "resize": SIZE,
            "resize_mode": "warp",
            "crop": SIZE,
            "interpolation": "bilinear",
            "channels": "RGB",
            "range": 1,
            "mean": list(MEAN),
            "std": list(STD),
            "padding": "torch",
        },
        "parameters": parameter_count(network),
        "multiply_adds": multiply_adds(network, SIZE),
        "scores": {"test_accuracy": round(score, 4), "tested_on": f"{tested} JPEG test images of CIFAR-10"},
        "training": {
            "data": "CIFAR-10 training images (Krizhevsky 2009), 50,000 JPEG files",
            "recipe": "python -m cutaway.zoo.train_cifar --train TRAIN.zip --test TEST.zip"
            f" -o cifar.safetensors --epochs {epochs}",
            "epochs": epochs,
            "minutes": round(minutes, 1),
        },
        "licence": {
            "weights": "Apache-2.0",
            "data": "none stated by CIFAR-10; no image is distributed with these weights",
        },
    }


def main() -> None:
    """Train, measure the weights as they are stored (float16), write them with their card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.manual_seed(options.seed)
    begin = time.monotonic()
    batches = Augmented(*read_archive(options.train), seed=options.seed)
    test_pictures, test_labels = read_archive(options.test)
    test = normalise(test_pictures)
    network = SmallNet(len(CLASSES), **ARCHITECTURE)
    for epoch, average in train(network, batches, epochs=options.epochs, steps=batches.steps):
        log.info("epoch %d loss %.3f train %.3f (%.0f s)", *vars(epoch).values())
        if epoch.number % 4 == 0 or epoch.number == options.epochs:
            weights = half_weights(average)
            stored = SmallNet(len(CLASSES), **ARCHITECTURE)
            stored.load_state_dict(weights, strict=False)
            score = accuracy(stored, test, test_labels)
            minutes = (time.monotonic() - begin) / 60
            log.info("test %.4f after %.1f min", score, minutes)
            card = card_of(stored, score, tested=len(test_labels), epochs=epoch.number, minutes=minutes)
            store(weights, card, options.output)


if __name__ == "__main__":
    main()
