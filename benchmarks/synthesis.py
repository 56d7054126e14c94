"""Pictures of 64 units: in batches, one by one, and by lucent one by one; seconds a picture and values reached.

The network is SqueezeNet 1.1 with the weights in `CUTAWAY_DATA` when they are there, untrained otherwise. Every side
takes `STEPS` steps towards the same neurons, those in the middle of each layer's maps. Cutaway draws with the defaults
of `feature_visualization`: `UNITS` units together, and `FEW` of them one by one. lucent draws `FEW` one by one with its
defaults (its own transformations, Adam at 0.05) on its own copy of the network with the preprocessing inside, on its
128 pixels and once more on as many as the network's input has. "Batch gains" is seconds a picture one by one over those
in batches, "times lucent" lucent's over those in batches, medians round by round of `ROUNDS`. "Value" is the median
activation of the neuron on the finished picture as it lies; for lucent also the neuron in the middle, of its larger
pictures.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import lucent.optvis.render as lucent_render
import torch
from integrated_gradients import DATA, PREPROCESS
from lucent.optvis import objectives, param
from subjects import Seen
from timing import ratio, report

import cutaway
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.core.target import channel
from cutaway.methods import METHODS
from cutaway.methods.synthesis.wanted import neurons

LAYERS = os.environ.get("LAYERS", "features.0,features.3,features.6,features.9,features.12").split(",")
STEPS = int(os.environ.get("STEPS", "32"))
UNITS, FEW = int(os.environ.get("UNITS", "64")), int(os.environ.get("FEW", "4"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def network() -> cutaway.VisionModel:
    """SqueezeNet as its weights want it, or untrained."""
    weights = Path(DATA) / "weights" / "squeezenet1_1_imagenet_fp16.safetensors"
    if not weights.exists():
        return cutaway.load("squeezenet1_1", weights="random")
    found = cutaway.load("squeezenet1_1", weights=str(weights))
    return cutaway.VisionModel(
        found.network, Preprocess.from_dict(PREPROCESS["squeezenet1_1"]), found.classes, name=found.name
    )


def drawn(model: cutaway.VisionModel, target: cutaway.Target) -> list[float]:
    """The values that Cutaway's pictures reach."""
    method = METHODS["feature_visualization"]
    return [r.evidence["value"] for r in finish(explain(model, method, None, target, {"steps": STEPS}))]


def by_lucent(seen: Seen, model: cutaway.VisionModel, layer: str, k: int, size: int) -> float:
    """The value that lucent's picture reaches."""
    name = f"network_{layer.replace('.', '_')}"
    images = lucent_render.render_vis(
        seen, objectives.neuron(name, k), lambda: param.image(size), thresholds=(STEPS,),
        preprocess=False, show_image=False, progress=False,
    )  # fmt: skip
    pixels = torch.from_numpy(images[-1]).permute(0, 3, 1, 2).float()
    with model.guard(), torch.no_grad(), cutaway.core.tap.Tap(model, layer, stop=True) as tap:
        model(pixels)
    maps = tap.maps(layer)
    return maps[0, k, maps.shape[2] // 2, maps.shape[3] // 2].item()


def timed(
    model: cutaway.VisionModel, seen: Seen, layer: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds a picture of every side round by round, and the values that its first pictures reached."""
    count, few = min(UNITS, model.layers.find(layer).units), range(FEW)
    side = model.layers.trace.shape[-1]
    works: dict[str, tuple[int, Callable[[], list[float]]]] = {
        "batches": (count, lambda: drawn(model, channel(layer, torch.arange(count)))),
        "one by one": (FEW, lambda: [drawn(model, channel(layer, k))[0] for k in few]),
        "lucent": (FEW, lambda: [by_lucent(seen, model, layer, k, 128) for k in few]),
        "lucent, own size": (FEW, lambda: [by_lucent(seen, model, layer, k, side) for k in few]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    values: dict[str, list[float]] = {}
    for turn in range(ROUNDS + 1):  # the first is not counted
        for name, (pictures, work) in works.items():
            start = time.perf_counter()
            values[name] = work()[:FEW]
            if turn:
                seconds[name].append((time.perf_counter() - start) / pictures)
    return seconds, values


def main() -> None:
    torch.set_num_threads(int(os.environ.get("THREADS", str(os.cpu_count() or 1))))
    model, rows, data = network(), [], {}
    seen = Seen(model, last=False)
    for layer in LAYERS:
        seconds, values = timed(model, seen, layer)
        gain, low, high = ratio(seconds["one by one"], seconds["batches"])
        times, *_ = ratio(seconds["lucent"], seconds["batches"])
        fair, *_ = ratio(seconds["lucent, own size"], seconds["batches"])
        size = neurons(model, channel(layer, 0).resolve(model)).size
        rows.append([
            layer, f"{size[0]} px", f"{statistics.median(seconds['batches']):.3f}", f"{gain:.2f} ({low:.2f}-{high:.2f})",
            f"{times:.1f}", f"{fair:.1f}",
            *(f"{statistics.median(values[n]):.4g}" for n in ("batches", "lucent, own size")),
        ])  # fmt: skip
        data[layer] = {"seconds": seconds, "values": values, "canvas": size}
    report(
        f"synthesis: {UNITS} units of each layer of {model.name}, {STEPS} steps",
        [
            "layer",
            "canvas",
            "s a picture",
            "batch gains",
            "times lucent at 128 px",
            "at the network's",
            "value",
            "lucent's value",
        ],
        rows,
        data,
    )


if __name__ == "__main__":
    main()
