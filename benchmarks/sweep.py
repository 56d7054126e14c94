"""What an atlas costs: a ResNet-18 watched at every convolution, in bare batched forwards of the same pictures.

Every side gets the same tensors from memory, 16 pictures of 224 pixels with channels last, so that nothing is decoded;
the yardstick is the network's own forward pass over them. Cutaway's reducers take in each layer's maps as they pass.
The loop is what users write: for each layer a pass over the pictures with a hook that keeps its maps, then a `topk` of
their maxima; it is timed on three layers and scaled to twenty. zennit-crp's `FeatureVisualization` gathers forty
pictures by activation and forty by relevance in a forward and a backward pass; it gets no composite, so that its
relevance is the gradient, and no rule is paid for. It asks for an older zennit than the other benchmarks, so it is not
among what `make bench` installs: `pip install --no-deps zennit-crp` puts it beside them. Each run of a side starts with
new reducers and sees `BATCHES` batches, so tables that are still filling, the dear part, are always in it. Bytes are
those of the reducers' states, after one batch and after two. `ROUNDS=1 BATCHES=1` shows in a minute that all runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Sequence

import torch
import torchvision
from timing import paired, ratio, report
from torch import Tensor, nn
from torch.utils.data import Dataset

import cutaway
from cutaway.core.tap import Tap
from cutaway.sweep.plan import plan
from cutaway.sweep.seen import Seen
from cutaway.sweep.shards import Kept, fresh

ROUNDS = int(os.environ.get("ROUNDS", "7"))
BATCHES = int(os.environ.get("BATCHES", "8"))
SIZE, CLASSES = 16, 1000
TOP = ("top",)
MOMENTS = (*TOP, "extremes", "moments")
SKETCH = (*MOMENTS, "sketch")
CLASS = (*SKETCH, "classes")
LOOPED = 3
"""Layers that the loop is timed on."""

Side = Callable[[], object]


class Pictures(Dataset[tuple[Tensor, int]]):
    """The same pictures as a data set, as zennit-crp reads them."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.all = torch.cat(list(batches))

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.all[number], number % CLASSES


class Bench:
    """One network and its pictures in memory."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = torchvision.models.resnet18(weights=None).eval()
        self.net.to(memory_format=torch.channels_last)
        self.model = cutaway.VisionModel(self.net, cutaway.Preprocess(), name="resnet18")
        self.layers = [name for name, m in self.net.named_modules() if isinstance(m, nn.Conv2d)]
        self.batches = [
            torch.rand(SIZE, 3, 224, 224).contiguous(memory_format=torch.channels_last)
            for _ in range(BATCHES)
        ]

    def forward(self) -> None:
        with torch.inference_mode():
            for x in self.batches:
                self.net(self.model.preprocess.normalise(x))

    def swept(self, layers: Sequence[str], statistics: Sequence[str], k: int, batches: int = BATCHES) -> Kept:
        """Reducers over so many batches."""
        planned = plan(self.model, SIZE * 10**6, layers=layers, k=k, statistics=statistics, batch=SIZE)
        kept = fresh(planned, CLASSES)
        for number in range(batches):
            x = self.batches[number % BATCHES]
            ids = torch.arange(SIZE) + SIZE * number
            labels = ids % CLASSES

            def look(layer: str, maps: Tensor) -> None:
                seen = Seen(maps, ids, labels)  # noqa: B023
                for reducer in kept[layer].values():
                    reducer.update(seen)

            with self.model.guard(), torch.inference_mode(), Tap(self.model, *planned.layers, look=look):
                self.model(x)
        return kept

    def loop(self, layers: Sequence[str], k: int = 9) -> list[Tensor]:
        """One pass over the pictures for each layer, whose maps are kept until it is done."""
        found = []
        for layer in layers:
            maps: list[Tensor] = []
            handle = self.net.get_submodule(layer).register_forward_hook(
                lambda module, given, out: maps.append(out.relu())  # noqa: B023
            )
            self.forward()
            handle.remove()
            peaks = torch.cat(maps).amax((2, 3))
            found.append(peaks.topk(min(k, len(peaks)), dim=0).indices)
        return found

    def crp(self) -> Side:
        """zennit-crp over all layers. Raises `ImportError` where it does not run beside what is installed."""
        from crp.attribution import CondAttribution
        from crp.concepts import ChannelConcept
        from crp.visualization import FeatureVisualization

        attribution = CondAttribution(self.net)
        concepts = {layer: ChannelConcept() for layer in self.layers}
        pictures = Pictures(self.batches)

        def run() -> object:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                peer = FeatureVisualization(
                    attribution,
                    pictures,
                    concepts,
                    preprocess_fn=self.model.preprocess.normalise,
                    path=folder,
                    max_target="max",
                )
                return peer.run_distributed(None, 0, len(pictures), SIZE, checkpoint=1 << 30)

        return run


def size(kept: Kept) -> int:
    """Bytes of everything the reducers hold."""
    return sum(
        t.numel() * t.element_size()
        for own in kept.values()
        for r in own.values()
        for t in r.state().values()
    )


def main() -> None:
    bench = Bench()
    every, five = bench.layers, bench.layers[::4]
    one = [bench.layers[len(bench.layers) // 2]]
    units = sum(bench.net.get_submodule(name).out_channels for name in every)
    kept: dict[str, tuple[Sequence[str], Sequence[str], int]] = {
        "top-9, 20 layers": (every, TOP, 9),
        "top-9, 5 layers": (five, TOP, 9),
        "top-9, 1 layer": (one, TOP, 9),
        "top-9, moments, extremes": (every, MOMENTS, 9),
        "the same and sketch": (every, SKETCH, 9),
        "the same and class means": (every, CLASS, 9),
        "top-100": (every, TOP, 100),
        "everything, top-100": (every, CLASS, 100),
    }
    sides: dict[str, Side] = {"bare forward": bench.forward}
    for name, (layers, statistics, k) in kept.items():
        sides[name] = lambda layers=layers, statistics=statistics, k=k: bench.swept(layers, statistics, k)  # type: ignore[misc]
    sides["loop over layers"] = lambda: bench.loop(every[:: -(-len(every) // LOOPED)])
    looped = len(every[:: -(-len(every) // LOOPED)])
    missing = ""
    try:
        crp = bench.crp()
        with contextlib.redirect_stdout(io.StringIO()):
            crp()
        sides["zennit-crp, 20 layers"] = crp
    except Exception as error:
        missing = f"does not run: {str(error).splitlines()[0]}"

    with contextlib.redirect_stdout(io.StringIO()):
        seconds = paired(sides, rounds=ROUNDS, warm=1)
    seconds["loop over layers"] = [s * len(every) / looped for s in seconds["loop over layers"]]
    rows = []
    for name, times in seconds.items():
        cost = ratio(times, seconds["bare forward"])
        rate = SIZE * BATCHES / sorted(times)[len(times) // 2]
        rows.append([name, f"{cost[0]:.2f} ({cost[1]:.2f} to {cost[2]:.2f})", f"{rate:.1f}", ""])
    if missing:
        rows.append(["zennit-crp, 20 layers", missing, "", ""])
    for row in rows:
        if row[0] in kept:
            layers, statistics, k = kept[row[0]]
            held = [size(bench.swept(layers, statistics, k, batches)) for batches in (1, 2)]
            watched = sum(bench.net.get_submodule(name).out_channels for name in layers)
            row[3] = " then ".join(f"{h / watched:.0f}" for h in dict.fromkeys(held))
    columns = ["side", "bare forwards, median (quartiles)", "pictures/s", "bytes a unit"]
    title = f"Sweep cost: ResNet-18, {units} units, {BATCHES} batches of {SIZE} at 224 px"
    report(title, columns, rows, {"seconds": seconds, "units": units, "layers": len(every)})


if __name__ == "__main__":
    main()
