"""Metrics of explanations beside Quantus and Captum: the time of equal work, and whether the numbers agree.

Every map is saliency (the gradient, largest colour) of the predicted class, `PICTURES` photographs on each network.
Cutaway judges one picture after the other, with its defaults; peers get their own best of a few batches (Quantus:
pictures at a time, Captum: examples at a time) in the better of both layouts of memory, on their own copy of the
network. Sides take turns for `ROUNDS` rounds after one that is not counted. "Times its speed" is the peer's seconds
over Cutaway's, median round by round, for the same number of perturbed pictures, or of explanations asked for again,
which stands beside it. "Limit" is the arithmetic one that the engine reports: multiply-adds of whole pictures over
those of the windows.

deletion: Quantus' PixelFlipping counts colour values, not pixels, so its curve is compared where both have taken the
same pixels, every third of 48 steps, all filled grey. It has no insertion. infidelity: Captum on the same squares;
Quantus keeps every square it has filled while it fills the next, and walks over the same blocks in every sample, so
beside its time stands its number against the definition's on the same blocks, one by one. max sensitivity: all on
the same noise, the map asked again from each side's own gradient; Captum asks with a tuple and must be answered with
one, or else it says sqrt(examples at a time) times the number for maps of one channel, unannounced. randomization:
every layer a stage (norms with the layer before them in Cutaway); other random numbers on each side, so only means
can be compared. Quantus' `return_average_correlation` counts the map of the intact network, whose correlation is 1,
as a stage; both means are given.

`NETWORKS` names the networks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import captum.metrics
import numpy as np
import quantus
import torch
from captum.attr import Saliency
from subjects import Choice, Subject, photographs, subjects
from timing import paired, ratio, report
from torch import Tensor, nn

from cutaway.core.target import logit
from cutaway.core.windows import Report, evaluate
from cutaway.methods import get
from cutaway.metrics.judging import case_of
from cutaway.metrics.metric import Case, generator
from cutaway.metrics.randomization import cascade
from cutaway.metrics.removal import infidelity, removal_curve, squares
from cutaway.metrics.stability import max_sensitivity

NETWORKS = "squeezenet1_1,cutaway:cifar"
PICTURES = int(os.environ.get("PICTURES", "4"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STEPS, BLOCKS, NOISY, RADIUS = 48, 8, 10, 0.02
QUIET = {"disable_warnings": True, "display_progressbar": False, "normalise": False}


@dataclass(frozen=True)
class Judged:
    """Photographs before one network, with their maps, as both sides take them."""

    subjects: Sequence[Subject]
    cases: Sequence[Case]

    @property
    def arrays(self) -> dict[str, Any]:
        """Quantus' names for pictures, classes and maps."""
        maps = torch.stack([case.heat for case in self.cases])[:, None]
        return {
            "x_batch": torch.cat([s.x for s in self.subjects]).numpy(),
            "y_batch": np.array([s.target for s in self.subjects]),
            "a_batch": maps.float().numpy(),
        }


def gradient(model: nn.Module, x: Tensor, target: Any) -> Tensor:
    x = x.detach().requires_grad_()
    scores = model(x)
    chosen = scores[torch.arange(len(x)), torch.as_tensor(target)]
    return torch.autograd.grad(chosen.sum(), x)[0]


def saliency(model: nn.Module, inputs: Any, targets: Any, **_: object) -> np.ndarray:
    """What Quantus asks for maps."""
    found = gradient(model, torch.as_tensor(np.asarray(inputs), dtype=torch.float32), targets)
    return found.abs().amax(1, keepdim=True).numpy()


@dataclass(frozen=True)
class Comparison:
    """One metric on both sides, what it took, and in words whether they agree, once both have run."""

    name: str
    peer: str
    work: str
    ours: Callable[[], Any]
    theirs: Callable[[Choice], Any]
    agreement: Callable[[Any, Any], str]
    limit: float = 1.0
    batches: tuple[int, ...] = (1, 2, 4)


def deletion(on: Judged) -> Comparison:
    height, width = on.subjects[0].x.shape[-2:]

    def ours() -> np.ndarray:
        curves = [
            removal_curve(case.model, case.x, case.heat, case.target, steps=STEPS, fill="grey")
            for case in on.cases
        ]
        return torch.stack(curves)[:, 1:].numpy()

    def theirs(choice: Choice) -> np.ndarray:
        peer = quantus.PixelFlipping(
            features_in_step=3 * height * width // STEPS, perturb_baseline=0.5, **QUIET
        )
        found = peer(model=choice.seen, softmax=True, batch_size=choice.batch, device="cpu", **on.arrays)
        return np.array(found)

    def agreement(own: np.ndarray, other: np.ndarray) -> str:
        apart = np.abs(own - other)
        assert apart[:, ::3].max() > 0, "between, some colours of a pixel are taken and others not"
        return f"off by {apart[:, 2::3].max():.0e} of a probability"

    work = f"{STEPS + 1}, {STEPS}"
    return Comparison("deletion", "Quantus PixelFlipping", work, ours, theirs, agreement)


def infidelity_of_captum(on: Judged) -> Comparison:
    count = 100
    size = on.subjects[0].x.shape[-2:]
    boxes = squares((size[0], size[1]), count, generator("infidelity", 0))
    masks = torch.zeros(count, 1, *size)
    for mask, (t, l, b, r) in zip(masks, boxes.tolist(), strict=True):  # noqa: E741
        mask[:, t:b, l:r] = 1

    def ours() -> list[float]:
        told: dict[str, Any] = {"samples": count, "fill": "grey", "scaled": False}
        return [infidelity(case.model, case.x, case.heat, case.target, **told) for case in on.cases]

    def theirs(choice: Choice) -> list[float]:
        found = []
        for s, case in zip(on.subjects, on.cases, strict=True):
            left = iter(masks.split(1))

            def remove(inputs: Tensor) -> tuple[Tensor, Tensor]:
                part = torch.cat([next(left) for _ in inputs])  # noqa: B023
                return part / 3 + 0 * inputs, torch.where(part.bool(), 0.5, inputs)

            heat = case.heat.float().expand(1, 3, *size)
            with torch.no_grad():
                value = captum.metrics.infidelity(
                    choice.seen,
                    remove,
                    s.x,
                    heat,
                    target=s.target,
                    n_perturb_samples=count,
                    max_examples_per_batch=choice.batch,
                )
            found.append(float(value))
        return found

    def agreement(own: list[float], other: list[float]) -> str:
        apart = max(abs(a - b) / b for a, b in zip(own, other, strict=True))
        return f"off by {apart:.0e}"

    told, first = Report(), on.cases[0]
    for _ in evaluate(first.model, first.x, boxes, torch.full_like(first.x[0], 0.5), report=told):
        pass
    rest = (ours, theirs, agreement, told.limit or 1.0, (4, 8, 16, 32))
    return Comparison("infidelity", "Captum infidelity", f"{count + 1}, {2 * count}", *rest)


def infidelity_of_quantus(on: Judged) -> Comparison:
    count = BLOCKS**2
    size = on.subjects[0].x.shape[-1] // BLOCKS
    slopes = [gradient(s.copies[0], s.x, [s.target]) for s in on.subjects]

    def ours() -> list[float]:
        told: dict[str, Any] = {"samples": count, "fill": "grey", "scaled": False}
        return [infidelity(case.model, case.x, case.heat, case.target, **told) for case in on.cases]

    def theirs(choice: Choice) -> np.ndarray:
        peer = quantus.Infidelity(
            perturb_patch_sizes=[size], n_perturb_samples=1, perturb_baseline=0.5, **QUIET
        )
        arrays = on.arrays | {"a_batch": torch.cat(slopes).numpy()}
        return np.array(peer(model=choice.seen, batch_size=choice.batch, device="cpu", **arrays))

    def agreement(own: list[float], other: np.ndarray) -> str:
        """The definition on the same blocks, each taken from the whole picture, against Quantus' number."""
        times = []
        for s, slope, found in zip(on.subjects, slopes, other.ravel(), strict=True):
            pictures = s.x.repeat(count, 1, 1, 1)
            for n, picture in enumerate(pictures):
                top, left = n // BLOCKS * size, n % BLOCKS * size
                picture[:, top : top + size, left : left + size] = 0.5
            with torch.inference_mode():
                lost = s.copies[0](s.x)[:, s.target] - s.copies[0](pictures)[:, s.target]
            foretold = (slope * (s.x - pictures)).flatten(1).sum(1)
            times.append(float(found) / float((foretold - lost).square().mean()))
        return f"Quantus says {min(times):.2f} to {max(times):.2f} times the definition's number"

    work = f"{count + 1}, {count + 1}"
    return Comparison("infidelity", "Quantus Infidelity", work, ours, theirs, agreement)


def _noise(shape: Sequence[int]) -> Tensor:
    """What Cutaway adds, (NOISY, C, H, W)."""
    chance = generator("max_sensitivity", 0)
    drawn = [torch.rand((1, *shape), generator=chance, dtype=torch.float64) for _ in range(NOISY)]
    return ((2 * torch.cat(drawn) - 1) * RADIUS).float()


def sensitivity(on: Judged) -> list[Comparison]:
    noise = _noise(on.subjects[0].x.shape[1:])

    def ours() -> list[float]:
        told = {"radius": RADIUS, "samples": NOISY}
        return [max_sensitivity(case.model, case.x, case.heat, case.again, **told) for case in on.cases]  # type: ignore[arg-type]

    def captums(choice: Choice) -> list[float]:
        explain = Saliency(choice.seen)
        found = []
        for s in on.subjects:
            left = iter(noise.split(1))

            def noisy(inputs: Any) -> Tensor:
                inputs = inputs[0] if isinstance(inputs, tuple) else inputs
                return (inputs + torch.cat([next(left) for _ in inputs])).clamp(0, 1)  # noqa: B023

            def again(inputs: Any, target: Any) -> Any:
                pictures = inputs[0] if isinstance(inputs, tuple) else inputs
                maps = explain.attribute(pictures.detach(), target).amax(1, keepdim=True)
                return (maps,) if isinstance(inputs, tuple) else maps

            value = captum.metrics.sensitivity_max(
                again,
                s.x,
                noisy,
                n_perturb_samples=NOISY,
                max_examples_per_batch=choice.batch,
                target=s.target,
            )
            found.append(float(value))
        return found

    def quantuses(choice: Choice) -> list[float]:
        left: list[Tensor] = []

        def noisy(arr: np.ndarray, **_: object) -> np.ndarray:
            if not left:
                left.extend(noise.flatten(1))
            return np.clip(arr + left.pop(0).numpy(), 0, 1).astype(np.float32)

        peer = quantus.MaxSensitivity(nr_samples=NOISY, perturb_func=noisy, **QUIET)
        found = peer(
            model=choice.seen, explain_func=saliency, batch_size=choice.batch, device="cpu", **on.arrays
        )
        return [float(value) for value in found]

    def agreement(own: list[float], other: list[float]) -> str:
        return f"off by {max(abs(a - b) / b for a, b in zip(own, other, strict=True)):.0e}"

    work = f"{NOISY}, {NOISY}"
    return [
        Comparison(
            "max sensitivity",
            "Captum sensitivity_max",
            work,
            ours,
            captums,
            agreement,
            batches=(1, 2, 5, 10),
        ),
        Comparison("max sensitivity", "Quantus MaxSensitivity", work, ours, quantuses, agreement),
    ]


def randomization(on: Judged) -> Comparison:
    stages = sum(hasattr(m, "reset_parameters") for m in on.subjects[0].copies[0].modules())

    def ours() -> np.ndarray:
        found = [
            [s.correlation for s in cascade(c.model, c.x, c.heat, c.again, steps=1000)] for c in on.cases
        ]
        return np.array(found, dtype=np.float64)

    def theirs(choice: Choice) -> np.ndarray:
        peer = quantus.MPRT(layer_order="top_down", **QUIET)
        found = peer(
            model=choice.seen, explain_func=saliency, batch_size=choice.batch, device="cpu", **on.arrays
        )
        return np.array(list(found.values())).T

    def agreement(own: np.ndarray, other: np.ndarray) -> str:
        kept = f"mean {np.nanmean(own):.2f}, {np.nanmean(other[:, 1:]):.2f}"
        return f"{kept} (with the intact network as a stage {np.nanmean(other):.2f})"

    count = len(list(cascade_layers(on.cases[0])))
    work = f"{count}, {stages + 1}"
    return Comparison("randomization", "Quantus MPRT", work, ours, theirs, agreement)


def cascade_layers(case: Case) -> list[list[str]]:
    from cutaway.metrics.randomization import stages

    return stages(case.model, 1000)


def row(on: Judged, c: Comparison) -> tuple[list[str], dict[str, Any]]:
    found: dict[str, Any] = {}
    name = on.subjects[0].name

    def ours() -> None:
        found["ours"] = c.ours()

    def theirs() -> None:
        found["theirs"] = c.theirs(chosen)

    try:
        chosen = on.subjects[0].fastest(c.theirs, c.batches)
    except AssertionError as error:  # Quantus stops at a map of zeros, which forgetting layers may well leave
        stops = f"the peer stops: {str(error).split('.')[0]}"
        print(name, c.name, c.peer, stops, sep="  ", flush=True)
        return [name, c.name, c.peer, c.work, "", "", stops, ""], {"network": name, "peer": c.peer}
    spent = paired({"ours": ours, "theirs": theirs}, rounds=ROUNDS, warm=1)
    middle, low, high = ratio(spent["theirs"], spent["ours"])
    agrees = c.agreement(found["ours"], found["theirs"])
    speed = f"{middle:.2f} ({low:.2f}-{high:.2f})"
    cells = [name, c.name, c.peer, c.work, speed, f"{c.limit:.2f}", agrees, str(chosen)]
    print(*cells, sep="  ", flush=True)
    return cells, {"network": name, "metric": c.name, "peer": c.peer, "agreement": agrees, **spent}


def main() -> None:
    warnings.simplefilter("ignore")
    rows, data = [], []
    for name in os.environ.get("NETWORKS", NETWORKS).split(","):
        each = subjects(name, photographs(PICTURES))
        cases = [case_of(s.model, get("saliency"), {}, s.x, logit(s.target)) for s in each]
        on = Judged(each, cases)
        both = [infidelity_of_captum(on), infidelity_of_quantus(on)]
        for comparison in [deletion(on), *both, *sensitivity(on), randomization(on)]:
            cells, numbers = row(on, comparison)
            rows.append(cells)
            data.append(numbers)
    columns = ["network", "metric", "peer", "work", "times its speed", "limit", "agreement", "batch"]
    report("Metrics: the time of equal work beside peers", columns, rows, data)


if __name__ == "__main__":
    main()
