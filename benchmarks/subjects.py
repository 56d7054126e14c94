"""The networks and the picture that the benchmarks of perturbation and of metrics share, as either side sees them."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import skimage
import torch
from integrated_gradients import DATA, PREPROCESS
from occlusion import network
from torch import Tensor, nn

import cutaway
from cutaway.core.model import VisionModel
from cutaway.zoo import load

BATCHES = tuple(int(b) for b in os.environ.get("BATCHES", "4,8,16,32").split(","))


class Seen(nn.Module):
    """What a peer is given: pixels in [0, 1] to class scores, preprocessing inside; counts the pictures it is shown."""

    def __init__(self, model: VisionModel, last: bool) -> None:
        super().__init__()
        layout = torch.channels_last if last else torch.contiguous_format
        self.network = copy.deepcopy(model.network).eval().requires_grad_(False).to(memory_format=layout)
        self.layout, self.normalise, self.shown = layout, model.preprocess.normalise, 0
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        self.shown += len(pixels)
        scores: Tensor = self.network(self.normalise(pixels).contiguous(memory_format=self.layout))
        return scores


@dataclass(frozen=True)
class Choice:
    """How a peer is run: its copy of the network, and pictures at a time."""

    seen: Seen
    batch: int

    def __str__(self) -> str:
        return f"{self.batch} {'last' if self.seen.layout is torch.channels_last else 'first'}"


@dataclass(frozen=True)
class Subject:
    """A network for pictures in its own frame, one such picture (1, C, H, W), and the class it sees there."""

    name: str
    model: VisionModel
    x: Tensor
    target: int
    copies: tuple[Seen, Seen]

    def fastest(self, run: Callable[[Choice], object], batches: Sequence[int] = BATCHES) -> Choice:
        """A peer's own best: over the batch sizes and both layouts of memory, the shortest of two runs each."""
        choices = [Choice(seen, batch) for seen in self.copies for batch in batches]
        return min(choices, key=lambda choice: min(seconds(lambda: run(choice)) for _ in range(2)))


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def photographs(count: int) -> list[Any]:
    """Real photographs where `CUTAWAY_DATA` has them, otherwise the one that scikit-image brings, turned and mirrored."""
    folder = DATA / "nips17_images"
    if folder.is_dir():
        entries = json.loads((folder / "labels.json").read_text())
        paths: list[Path] = [folder / entry["file"] for entry in entries[:: len(entries) // count][:count]]
        return paths
    cat = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    return [torch.rot90(cat.flip(-1) if n // 4 % 2 else cat, n % 4, (1, 2)) for n in range(count)]


def subjects(name: str, photographs: Sequence[Any]) -> list[Subject]:
    """One network, with real weights where there are some and random ones otherwise, before each photograph."""
    weights = DATA / "weights" / f"{name}_imagenet_fp16.safetensors"
    if name.startswith("cutaway:"):
        model = cutaway.load(name)
    elif name == "squeezenet1_1" and weights.exists():
        model = load(name, weights=weights, preprocess=PREPROCESS[name] | {"crop": 224}, device="cpu")
    else:
        steps = cutaway.Preprocess(
            resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        model = VisionModel(network(name), steps, name=f"{name}, random weights")
    framed = replace(model.preprocess, resize=None, crop=None)
    seen = VisionModel(model.network, framed, model.classes, name=model.name)
    copies = Seen(model, False), Seen(model, True)
    found = []
    for photograph in photographs:
        x = model.pixels(photograph)
        with seen.guard(), torch.no_grad():
            found.append(Subject(model.name, seen, x, int(seen(x).argmax()), copies))
    return found
