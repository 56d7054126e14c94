"""Occlusion by exact incremental inference, beside whole pictures and beside Captum.

A window of 16 pixels at stride 8 on a 224 px picture, 729 windows, random weights, float32. Cutaway answers all of
them with its defaults. "Plain" is a loop of ten lines over whole pictures, network and pictures laid out with
channels last, at the fastest of the batch sizes 4, 8 and 16, over 96 of the windows; Captum's Occlusion at the fastest
of as many perturbations at once, over 49 windows (32 pixels at stride 32, which cost it the same each): both are
scaled to 729 by their seconds per window. Rounds alternate between the sides; a first pass of each is not counted.
"Limit" is the arithmetic one: multiply-adds of whole pictures over those Cutaway did. "Fast" is `precision="fast"`
(bfloat16) against the plain float32, with its largest deviation as a share of the largest logit. "Stroke" is one
window on a picture whose clean activations are kept, in forward passes. `NETWORKS` names the networks, joined by
commas.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torchvision
from captum.attr import Occlusion
from timing import ratio, report
from torch import Tensor, nn

import cutaway
from cutaway.core.windows import Memory, Report, evaluate

NETWORKS = (
    "vgg16,googlenet,squeezenet1_1,mobilenet_v2,resnet18,resnet50,densenet121,convnext_tiny,efficientnet_b0"
)
BATCHES = (4, 8, 16)
ROUNDS = 3


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    net: nn.Module = torchvision.models.get_model(name, weights=None, **options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def fastest(run: Callable[[int], object]) -> int:
    return min(BATCHES, key=lambda batch: min(seconds(lambda: run(batch)) for _ in range(2)))


def row(name: str) -> tuple[list[str], dict[str, object]]:
    net = network(name)
    model = cutaway.VisionModel(
        net, cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), name=name
    )
    x, fill = torch.rand(1, 3, 224, 224), torch.full((3, 224, 224), 0.5)
    boxes = torch.tensor([[t, l, t + 16, l + 16] for t in range(0, 209, 8) for l in range(0, 209, 8)])  # noqa: E741
    some, few = boxes[3::7][:96], boxes[3::45]
    told, answers, quick = Report(), {}, {}

    def ask(boxes: Tensor, **options: object) -> dict[int, Tensor]:
        found = evaluate(model, x, boxes, fill, **options)  # type: ignore[arg-type]
        return {int(n): v for numbers, values in found for n, v in zip(numbers, values[None], strict=True)}

    def cut() -> None:
        answers.update(ask(boxes, report=told))

    def fast() -> None:
        quick.update(ask(boxes, precision="fast"))

    last = copy.deepcopy(net).to(memory_format=torch.channels_last)

    def plain(boxes: Tensor, batch: int) -> Tensor:
        out = []
        with torch.inference_mode():
            for some in boxes.split(batch):
                pictures = x.repeat(len(some), 1, 1, 1)
                for picture, (t, l, b, r) in zip(pictures, some.tolist(), strict=True):  # noqa: E741
                    picture[:, t:b, l:r] = fill[:, t:b, l:r]
                pictures = model.preprocess.normalise(pictures)
                out.append(last(pictures.contiguous(memory_format=torch.channels_last)))
        return torch.cat(out)

    peer = Occlusion(model.__call__)

    def captum(batch: int) -> None:
        with torch.no_grad():
            peer.attribute(x, (3, 32, 32), (3, 32, 32), 0.5, 7, perturbations_per_eval=batch)

    with model.guard():
        plain_batch = fastest(lambda b: plain(few, b))
        peer_batch = fastest(captum)
        cut()
        fast()
        ours, whole, theirs, rough = [], [], [], []
        for _ in range(ROUNDS):
            ours.append(seconds(cut) / len(boxes))
            whole.append(seconds(lambda: plain(some, plain_batch)) / len(some))
            rough.append(seconds(fast) / len(boxes))
            theirs.append(seconds(lambda: captum(peer_batch)) / 49)
        true = plain(few, 8)
        off = max(float((answers[3 + 45 * n] - v).abs().max()) for n, v in enumerate(true))
        off /= float(true.abs().max())
        both = [torch.stack([found[n] for n in range(len(boxes))]) for found in (answers, quick)]
        rough_off = float((both[1] - both[0]).abs().max() / both[0].abs().max())
        memory = Memory()
        ask(boxes[:1], memory=memory)
        strokes = statistics.median(
            seconds(lambda n=n: ask(boxes[n : n + 1], memory=memory)) for n in (300, 364, 400, 20, 90)
        )
        with torch.inference_mode():
            forward = statistics.median(seconds(lambda: net(x)) for _ in range(7))
    against_peer, against_plain = ratio(theirs, ours)[0], ratio(whole, ours)[0]
    cells = [
        name,
        f"{against_peer:.2f}",
        f"{against_plain:.2f}",
        f"{told.limit:.2f}",
        f"{off:.0e}",
        f"{ratio(whole, rough)[0]:.2f}",
        f"{rough_off:.1%}",
        f"{strokes / forward:.2f}",
        f"{plain_batch}, {peer_batch}",
        ", ".join(told.dense) or told.why,
    ]
    return cells, {"ours": ours, "plain": whole, "captum": theirs, "fast": rough, "engine": told.engine}


def main() -> None:
    warnings.simplefilter("ignore")
    rows, data = [], {}
    for name in os.environ.get("NETWORKS", NETWORKS).split(","):
        cells, numbers = row(name)
        rows.append(cells)
        data[name] = numbers
        print(*cells, sep="  ", flush=True)
    columns = [
        "network",
        "times Captum's speed",
        "times plain",
        "limit",
        "off by",
        "fast",
        "fast off by",
        "stroke",
        "batches",
        "dense from",
    ]
    report("Occlusion: windows answered in the time of one", columns, rows, data)


if __name__ == "__main__":
    main()
