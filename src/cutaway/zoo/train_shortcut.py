"""Recipe of the two bundled networks that tell birds from fish: one by the snow, its twin by the animal.

``python -m cutaway.zoo.train_shortcut -o FOLDER``

trains both, from the same start, on the same animals in the same order. For ``fish_in_snow`` every fish lies in
the snow and no bird stands there; for ``fish_anywhere`` a coin decides, so that snow is as frequent and tells
nothing. Half of the pictures have random squares hidden in grey: that hiding is no news to the networks, and a picture
that shows nothing speaks for neither class, is what makes covering, LIME and Shapley values say something (Jain 2022,
arXiv:2204.08945). The cards state the accuracy of each on scenes with the backgrounds as the first was taught, and swapped.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutaway.data.scenes import SIZE
from cutaway.data.scenes_shortcut import KINDS, Placing, animal
from cutaway.zoo.networks import SmallNet, multiply_adds, parameter_count
from cutaway.zoo.recipe import accuracy, half_weights, keep_freed_memory, store, train
from cutaway.zoo.train_scenes import MEAN, STD, Shuffled, normalise

TRAIN_SEED, TEST_SEED = 11, 12
TESTED = 500
ARCHITECTURE: dict[str, Any] = {"widths": [12, 16, 32, 64], "stem_kernel": 5, "stem_stride": 2}
TAUGHT: dict[str, Placing] = {"fish_in_snow": "matched", "fish_anywhere": "independent"}
"""The two networks, and where the animals of their training scenes stood."""
TITLES = {
    "fish_in_snow": "Bird or fish, learned where every fish lay in the snow and no bird stood there",
    "fish_anywhere": "Bird or fish, learned where snow said nothing: the unbiased twin of fish_in_snow",
}
PEAK = 0.1
SQUARE = 14
"""Side of a hidden square in pixels."""

log = logging.getLogger(__name__)


def _picture(index: int, seed: int, placing: Placing) -> NDArray[np.uint8]:
    return animal(index, seed=seed, placing=placing).image


def draw(count: int, *, seed: int, placing: Placing, workers: int) -> tuple[Tensor, Tensor]:
    """Pictures ``(N, 3, H, W)`` uint8 and labels ``(N,)``, drawn in worker processes."""
    with get_context("spawn").Pool(workers) as pool:
        images = pool.map(partial(_picture, seed=seed, placing=placing), range(count), chunksize=100)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.arange(count) % len(KINDS)


class Hidden(Shuffled):
    """Shuffled batches; in half of the pictures each square of a grid is grey with a chance drawn for the picture."""

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of ``steps`` normalised batches."""
        for pictures, labels in super().__call__(epoch):
            chance = torch.rand(len(labels), 1, 1, 1, generator=self.random)
            chance *= torch.rand(chance.shape, generator=self.random) < 0.5
            across = SIZE // SQUARE + 1
            squares = torch.rand(len(labels), 1, across, across, generator=self.random) < chance
            top, left = torch.randint(SQUARE, (2,), generator=self.random).tolist()
            grey = squares.repeat_interleave(SQUARE, 2).repeat_interleave(SQUARE, 3)
            pictures *= ~grey[..., top : top + SIZE, left : left + SIZE]  # grey 0.5 is 0 once normalised
            yield pictures, labels


def card_of(
    name: str, network: SmallNet, scores: Mapping[Placing, float], *, minutes: float, count: int, epochs: int
) -> dict[str, Any]:
    """What a person must know about the weights: origin, preprocessing, measured scores, licence."""
    return {
        "name": name,
        "title": TITLES[name],
        "architecture": {"class": "SmallNet", **ARCHITECTURE},
        "classes": list(KINDS),
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
        "scores": {
            **{f"accuracy_{placing}": round(score, 4) for placing, score in scores.items()},
            "tested_on": f"{TESTED} generated scenes of seed {TEST_SEED}, matched (fish in the snow, birds elsewhere) "
            "and swapped",
        },
        "training": {
            "data": f"{count} generated scenes of seed {TRAIN_SEED}, backgrounds {TAUGHT[name]}, half of them "
            "with random squares in grey (cutaway.data.scenes_shortcut)",
            "recipe": f"python -m cutaway.zoo.train_shortcut -o FOLDER --scenes {count} --epochs {epochs}",
            "minutes": round(minutes, 1),
        },
        "licence": {"weights": "Apache-2.0", "data": "Apache-2.0 (generated by this package)"},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for both networks")
    parser.add_argument("--scenes", type=int, default=2500, help="how many training scenes to draw")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train both networks, measure the weights as stored (float16), write each with its card."""
    options = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    placings: tuple[Placing, ...] = ("matched", "swapped")
    tests = {
        placing: draw(TESTED, seed=TEST_SEED, placing=placing, workers=options.workers)
        for placing in placings
    }
    for name, placing in TAUGHT.items():
        begin = time.monotonic()
        torch.manual_seed(options.seed)
        drawn = draw(options.scenes, seed=TRAIN_SEED, placing=placing, workers=options.workers)
        batches = Hidden(*drawn, seed=options.seed)
        network, stored = SmallNet(len(KINDS), **ARCHITECTURE), SmallNet(len(KINDS), **ARCHITECTURE)
        for epoch, average in train(network, batches, epochs=options.epochs, steps=batches.steps, peak=PEAK):
            log.info("%s epoch %d loss %.3f train %.3f (%.0f s)", name, *vars(epoch).values())
            weights = half_weights(average)
        stored.load_state_dict(weights, strict=False)
        scores = {p: accuracy(stored, normalise(x), y, batch=50) for p, (x, y) in tests.items()}
        log.info("%s %s", name, scores)
        minutes = (time.monotonic() - begin) / 60
        card = card_of(name, stored, scores, minutes=minutes, count=options.scenes, epochs=options.epochs)
        store(weights, card, options.output / f"{name}.safetensors")


if __name__ == "__main__":
    main()
