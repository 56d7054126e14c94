"""Whether a map depends on what the network has learned: its layers forget, from the top down."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError
from cutaway.core.model import VisionModel
from cutaway.core.options import Range

from .metric import Again, UndefinedError, generator, metric, refuse_constant
from .ranks import spearman


@dataclass(frozen=True)
class Stage:
    """One step of the cascade: the lowest layer drawn anew so far, and the map that was left, None if undefined."""

    layer: str
    correlation: float | None


@metric(
    title="randomization",
    asks="Does the map stay when the network forgets, from the top layer down?",
    low=-1,
    high=1,
    better="lower",
    passes=0.5,
    paper="Adebayo et al. 2018, arXiv:1810.03292, sec. 3.1",
)
def randomization(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    again: Again,
    *,
    steps: Annotated[int, Range(1, 1000), "stages at most; layers are shared out among them"] = 6,
    absolute: Annotated[bool, "compare sizes, so that a change of sign is no change"] = False,
    seed: int = 0,
) -> float:
    """Mean Spearman rank correlation of the map with the maps of the cascade; see `cascade`.

    A map that depends on what was learned falls to about 0 at once. The line at 0.5 is a convention: the paper draws none.
    Stages whose map is constant have no rank correlation and are left out. Raises `UndefinedError` for a constant map,
    and when every stage is left out.
    """
    found = [s.correlation for s in cascade(model, x, heat, again, steps=steps, absolute=absolute, seed=seed)]
    kept = [c for c in found if c is not None]
    if not kept:
        raise UndefinedError(
            "every map of the randomised network is constant: a rank correlation is undefined"
        )
    return float(np.mean(kept))


def cascade(
    model: VisionModel,
    x: Tensor,
    heat: Tensor,
    again: Again,
    *,
    steps: int = 6,
    absolute: bool = False,
    seed: int = 0,
) -> Iterator[Stage]:
    """Rank correlations while a copy of the network is re-initialised, the layer nearest the output first.

    Each stage keeps what the stages before it forgot. A layer is drawn by its own `reset_parameters`, which for batch
    norm also forgets the statistics; where it has none, every parameter from a normal distribution with the
    parameter's own mean and standard deviation. The model itself is not touched.
    """
    refuse_constant(heat, "it orders nothing and a rank correlation is undefined")
    other = copied(model, "randomised")
    chance = generator("randomization", seed)
    for group in stages(model, steps):
        for name in group:
            reinitialise(other.network.get_submodule(name), int(torch.randint(2**31, (1,), generator=chance)))
        left = again(other, x)
        try:
            found = spearman(heat.abs(), left.abs()) if absolute else spearman(heat, left)
        except UndefinedError:
            found = None
        yield Stage(group[-1], found)


def stages(model: VisionModel, most: int) -> list[list[str]]:
    """Names of layers with parameters, the one nearest the output first, in at most `most` groups.

    A layer without a weight matrix or kernel, such as a norm, goes with the layer before it.
    """
    place = {row.name: i for i, row in enumerate(model.layers)}
    held = [
        (n, m) for n, m in model.network.named_modules() if any(p is not None for p in m._parameters.values())
    ]
    held.sort(key=lambda pair: place.get(pair[0], -1))
    layers: list[list[str]] = []
    for name, module in held:
        weighs = any(p is not None and p.ndim > 1 for p in module._parameters.values())
        if weighs or not layers:
            layers.append([])
        layers[-1].append(name)
    if not layers:
        raise UndefinedError("the network has no parameters to forget")
    parts = np.array_split(np.arange(len(layers)), min(most, len(layers)))
    down = layers[::-1]
    return [[name for i in part for name in reversed(down[i])] for part in parts]


def reinitialise(module: nn.Module, seed: int) -> None:
    """Draw a module's own parameters anew; the global random numbers stay as they were."""
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if callable(reset):
            reset()
            return
        for p in module._parameters.values():
            if p is not None:
                spread = p.std() if p.numel() > 1 else p.new_tensor(1.0)
                p.copy_(p.mean() + spread * torch.randn(p.shape, dtype=p.dtype).to(p))


def copied(model: VisionModel, what: str) -> VisionModel:
    """The model over a copy of its network, to be altered; `what` says in its name what is done to it.

    Raises `MethodRefusedError` for a network that cannot be copied.
    """
    try:
        network = copy.deepcopy(model.network)
    except Exception as error:  # whatever a module of the user's raises
        raise MethodRefusedError(
            f"the network cannot be copied ({error}), and the model itself is never altered",
            "a network that copy.deepcopy takes",
        ) from error
    return VisionModel(network, model.preprocess, model.classes, name=f"{model.name}, {what}")
