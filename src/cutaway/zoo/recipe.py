"""What both training recipes share: one loop, one schedule, one way to measure and to store."""

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Epoch:
    """One finished pass over the training data."""

    number: int
    loss: float
    accuracy: float
    seconds: float


def keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks instead of returning them to the system.

    Activations of a batch are tens of megabytes; by default each is mapped and page-faulted afresh,
    which costs a third of a training step on two cores. Does nothing where the C library has no mallopt.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def one_cycle(progress: float, *, peak: float, warm: float = 0.2) -> float:
    """Learning rate at ``progress`` in [0, 1]: linear up to ``peak``, then half a cosine down to zero."""
    if progress < warm:
        return peak * (0.05 + 0.95 * progress / warm)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def train(
    network: nn.Module,
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    *,
    epochs: int,
    steps: int,
    peak: float = 0.2,
    weight_decay: float = 5e-4,
    smoothing: float = 0.1,
    decay: float = 0.999,
) -> Iterator[tuple[Epoch, nn.Module]]:
    """Train ``network`` in place; yields each epoch with the averaged copy, which is the one to keep.

    ``batches(epoch)`` gives ``steps`` pairs of normalised images ``(N, 3, H, W)`` and labels ``(N,)``.
    SGD with Nesterov momentum on the label-smoothed cross-entropy, bfloat16 forward, channels-last
    memory, weights averaged exponentially with ``decay`` (Polyak averaging).
    """
    network.to(memory_format=torch.channels_last)
    average = deepcopy(network).eval()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=peak,
        momentum=0.9,
        nesterov=True,
    )
    done = 0
    for number in range(epochs):
        network.train()
        start, loss_sum, right, seen = time.monotonic(), 0.0, 0, 0
        for images, labels in batches(number):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(done / (epochs * steps), peak=peak)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            _average(average, network, min(decay, done / (done + 10)))
            loss_sum += float(loss.detach()) * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
        yield Epoch(number + 1, loss_sum / seen, right / seen, time.monotonic() - start), average


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    kept, fresh = average.state_dict(), network.state_dict()
    floats = [name for name, value in kept.items() if value.is_floating_point()]
    torch._foreach_lerp_([kept[name] for name in floats], [fresh[name] for name in floats], 1 - decay)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 250) -> float:
    """Share of ``images`` (normalised, ``(N, 3, H, W)``) whose largest logit is their label, in [0, 1]."""
    network.eval()
    hits = [
        (network(part).argmax(1) == truth).sum()
        for part, truth in zip(torch.split(images, batch), torch.split(labels, batch), strict=True)
    ]
    return int(torch.stack(hits).sum()) / len(labels)


def half_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is stored: float16, contiguous, without batch-norm's step counters."""
    return {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in network.state_dict().items()
        if value.is_floating_point()
    }


def store(weights: dict[str, Tensor], card: dict[str, Any], path: Path) -> None:
    """Write ``path`` (safetensors) and, beside it, the card as ``.json``; each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    save_file(weights, draft)
    draft.replace(path)
    draft.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    draft.replace(path.with_suffix(".json"))
