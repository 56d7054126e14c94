"""Recipe of the generator that goes with the bundled scenes network.

``python -m cutaway.zoo.train_generator -o scenes_generator.safetensors``

It learns to draw the scene back from what the network's last layer still knows of it: the mean of each channel
over the picture. The loss is that of Dosovitskiy & Brox 2016 (arXiv:1602.02644): pixels, features of the network, and a
discriminator (here on patches, with the hinge loss).
"""

import argparse
import logging
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.data.scenes import SIZE, Scenes
from cutaway.nn.generators import FeatureGenerator
from cutaway.zoo.bundled import build
from cutaway.zoo.networks import SmallNet, parameter_count
from cutaway.zoo.recipe import half_weights, keep_freed_memory, one_cycle, store
from cutaway.zoo.train_scenes import TEST_SEED, TRAIN_SEED, draw

ARCHITECTURE: dict[str, Any] = {"channels": 96, "grid": 1, "side": SIZE, "widths": [64, 96, 48, 24]}
BATCH = 16
PEAK = 2e-3
WEIGHTS = {"pixels": 1.0, "features": 0.5, "adversary": 0.02}
TESTED = 500

log = logging.getLogger(__name__)


class Discriminator(nn.Module):
    """Says of patches of a picture (N, 3, H, W) whether they are of a scene: (N, 1, H / 16, W / 16)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96)
        self.layers = nn.Sequential()
        for a, b in pairwise(widths):
            self.layers.append(nn.Conv2d(a, b, 4, stride=2, padding=1))
            self.layers.append(nn.LeakyReLU(0.2))
        self.layers.append(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Above 0 where a patch looks true."""
        said: Tensor = self.layers(2 * pixels - 1)
        return said


def features(network: SmallNet, pixels: Tensor) -> list[Tensor]:
    """What each block gives for pixels in [0, 1]."""
    h = network.stem((pixels - 0.5) / 0.25)
    maps = []
    for number in range(1, network.blocks + 1):
        h = network.get_submodule(f"block{number}")(h)
        maps.append(h)
    return maps


def code_of(maps: Tensor, grid: int) -> Tensor:
    """The code (N, C * grid * grid) of the last block's maps."""
    return F.adaptive_avg_pool2d(maps, grid).flatten(1)


@dataclass(frozen=True)
class Step:
    """The losses of one step."""

    number: int
    pixels: float
    features: float
    adversary: float
    discriminator: float


def train_generator(
    generator: FeatureGenerator, network: SmallNet, pictures: Tensor, *, steps: int, seed: int = 0
) -> Iterator[tuple[Step, FeatureGenerator]]:
    """Train in place on pictures (N, 3, H, W) uint8; yields each step with the averaged copy, the one to keep."""
    random = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.requires_grad_(False)
    judge = Discriminator().to(memory_format=torch.channels_last)
    generator.to(memory_format=torch.channels_last).train()
    average = deepcopy(generator).eval()
    drawing = torch.optim.Adam(generator.parameters(), lr=PEAK, betas=(0.5, 0.99))
    judging = torch.optim.Adam(judge.parameters(), lr=5e-4, betas=(0.5, 0.99))
    order = torch.randperm(len(pictures), generator=random)
    for number in range(steps):
        if (number + 1) * BATCH % len(pictures) < BATCH:
            order = torch.randperm(len(pictures), generator=random)
        chosen = order[torch.arange(number * BATCH, (number + 1) * BATCH) % len(order)]
        true = (pictures[chosen].float() / 255).contiguous(memory_format=torch.channels_last)
        drawing.param_groups[0]["lr"] = one_cycle(number / steps, peak=PEAK, warm=0.1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                wanted = features(network, true)
                code = code_of(wanted[-1].float(), generator.grid)
            drawn = generator(code)
            got = features(network, drawn)
            fooled = judge(drawn)
        apart = [
            (a.float() - b.float()).square().mean() / b.float().square().mean()
            for a, b in zip(got, wanted, strict=True)
        ]
        pixels, alike = (drawn.float() - true).abs().mean(), torch.stack(apart).mean()
        adversary = -fooled.float().mean()
        share = min(1.0, max(0.0, 5 * number / steps - 1))  # the judge learns first
        loss = WEIGHTS["pixels"] * pixels + WEIGHTS["features"] * alike
        drawing.zero_grad()
        (loss + share * WEIGHTS["adversary"] * adversary).backward()
        drawing.step()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            real, fake = judge(true), judge(drawn.detach())
        doubt = (1 - real.float()).relu().mean() + (1 + fake.float()).relu().mean()
        judging.zero_grad()
        doubt.backward()
        judging.step()
        with torch.no_grad():
            kept, fresh = average.state_dict(), generator.state_dict()
            for key, value in kept.items():
                if value.is_floating_point():
                    value.lerp_(fresh[key], 1 - min(0.99, (number + 1) / (number + 11)))
        yield Step(number + 1, *(float(v.detach()) for v in (pixels, alike, adversary, doubt))), average


@torch.no_grad()
def measured(generator: FeatureGenerator, network: SmallNet, pictures: Tensor) -> dict[str, float]:
    """How well pictures (N, 3, H, W) uint8 are drawn back: mean |error| of a pixel, and how often the class stays."""
    error, same = 0.0, 0
    for part in torch.split(pictures, 50):
        true = part.float() / 255
        drawn = generator(code_of(features(network, true)[-1], generator.grid))
        error += float((drawn - true).abs().mean((1, 2, 3)).sum())
        same += int((network((drawn - 0.5) / 0.25).argmax(1) == network((true - 0.5) / 0.25).argmax(1)).sum())
    return {"pixel_error": round(error / len(pictures), 4), "class_kept": round(same / len(pictures), 4)}


@torch.no_grad()
def code_statistics(network: SmallNet, pictures: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of the codes of pictures (N, 3, H, W) uint8."""
    codes = torch.cat(
        [
            F.adaptive_avg_pool2d(features(network, p.float() / 255)[-1], grid)
            for p in torch.split(pictures, 100)
        ]
    )
    every = codes.transpose(0, 1).flatten(1)
    return every.mean(1), every.std(1).clamp_min(1e-3)


def card_of(
    generator: FeatureGenerator, scores: dict[str, float], *, arguments: str, count: int, minutes: float
) -> dict[str, Any]:
    """What a person must know about the weights."""
    return {
        "name": "scenes_generator",
        "title": "Draws generated scenes from the features of the last block of cutaway:scenes",
        "architecture": {"class": "FeatureGenerator", **ARCHITECTURE},
        "network": "scenes",
        "code": "the mean of each channel of block3",
        "parameters": parameter_count(generator),
        "scores": {**scores, "tested_on": f"{TESTED} generated scenes of seed {TEST_SEED}"},
        "training": {
            "data": f"{count} generated scenes of seed {TRAIN_SEED} (cutaway.data.scenes)",
            "recipe": f"python -m cutaway.zoo.train_generator -o scenes_generator.safetensors{arguments}",
            "minutes": round(minutes, 1),
        },
        "licence": {"weights": "Apache-2.0", "data": "Apache-2.0 (generated by this package)"},
    }


def main() -> None:
    """Draw the scenes, train, measure the weights as stored (float16), write them with their card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=5000, help="how many training scenes to draw")
    parser.add_argument("--steps", type=int, default=1200, help=f"batches of {BATCH}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.manual_seed(options.seed)
    begin = time.monotonic()
    pictures, _ = draw(Scenes(options.scenes, seed=TRAIN_SEED), workers=options.workers)
    tested, _ = draw(Scenes(TESTED, seed=TEST_SEED), workers=options.workers)
    log.info("%d scenes drawn", len(pictures))
    network, _ = build("scenes")
    assert isinstance(network, SmallNet)
    network.to(memory_format=torch.channels_last)
    generator = FeatureGenerator(**ARCHITECTURE)
    mean, spread = code_statistics(network, pictures[:2000], generator.grid)
    generator.load_state_dict({"mean": mean, "spread": spread}, strict=False)
    for step, average in train_generator(
        generator, network, pictures, steps=options.steps, seed=options.seed
    ):
        if step.number % 50 == 0 or step.number == options.steps:
            log.info("step %d pixels %.4f features %.4f adversary %.3f judge %.3f", *vars(step).values())
        if step.number % 300 == 0 or step.number == options.steps:
            weights = half_weights(average)
            stored = FeatureGenerator(**ARCHITECTURE).eval()
            stored.load_state_dict(weights, strict=False)
            scores = measured(stored, network, tested)
            log.info("pixel error %(pixel_error).4f, class kept %(class_kept).3f", scores)
            minutes = (time.monotonic() - begin) / 60
            arguments = f" --scenes {options.scenes} --steps {step.number}"
            card = card_of(stored, scores, arguments=arguments, count=options.scenes, minutes=minutes)
            store(weights, card, options.output)


if __name__ == "__main__":
    main()
