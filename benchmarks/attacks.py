"""Attacks beside Foolbox and torchattacks: the same pictures, bounds, steps and loss; success, size and seconds.

SqueezeNet with real weights and real photographs that it gets right, all in one batch, in pixel space. FGSM and PGD at
8/255 (10 steps of 2/255, no random start), DeepFool (overshoot 0.02, at most 50 linearisations, 10 classes). `equal` is
the share of pixels that agree with Cutaway's to 1e-6 before rounding; `fooled` counts float pictures, `as 8-bit` those
rounded to whole levels within the bound, by one and the same rule for all. torchattacks' DeepFool differentiates all
1000 classes, picture by picture, and is left out. Every side is given the same threads. Seconds are those of the attack
alone, after a first run that counts for nobody; judging, which `explain` adds, costs three forward passes, and six more
for what survives JPEG, a blur and a shift, unless `survival=false`. `CUTAWAY_DATA` names the folder of photographs and
weights, PICTURES how many are looked at.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from dataclasses import replace

import foolbox
import torch
import torchattacks
from integrated_gradients import DATA, PREPROCESS
from subjects import Seen
from timing import paired, report
from torch import Tensor

import cutaway
from cutaway.core.model import VisionModel
from cutaway.core.progress import finish
from cutaway.methods.adversarial.balls import Ball, eight_bit
from cutaway.methods.adversarial.deepfool import nearest
from cutaway.methods.adversarial.fgsm import sign_step
from cutaway.methods.adversarial.goal import Goal
from cutaway.methods.adversarial.pgd import climb
from cutaway.zoo import load

PICTURES = int(os.environ.get("PICTURES", "20"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 10
BALL = Ball("linf", EPSILON)
Attack = Callable[[], Tensor]


def right_ones() -> tuple[VisionModel, Tensor, Tensor]:
    """The network with nothing before it but its normalisation, pictures it gets right, and their classes."""
    weights = DATA / "weights" / "squeezenet1_1_imagenet_fp16.safetensors"
    model = load("squeezenet1_1", weights=weights, preprocess=PREPROCESS["squeezenet1_1"], device="cpu")
    entries = json.loads((DATA / "nips17_images" / "labels.json").read_text())[:PICTURES]
    x = torch.cat([model.pixels(DATA / "nips17_images" / e["file"]) for e in entries])
    labels = torch.tensor([e["label"] for e in entries])
    with model.guard(), torch.no_grad():
        right = model(x).argmax(1) == labels
    bare = replace(model.preprocess, resize=None, crop=None)
    return cutaway.VisionModel(model.network, bare, name=model.name), x[right], labels[right]


def sides(model: VisionModel, x: Tensor, labels: Tensor) -> dict[str, dict[str, Attack]]:
    """For each attack, every library's way of running it."""
    goal, seen = Goal(model, labels), Seen(model, False)
    known = foolbox.PyTorchModel(seen, bounds=(0, 1))

    def own_pgd() -> Tensor:
        moved = x
        for _ in range(STEPS):
            moved = climb(goal, x, moved, BALL, STEP, "cross_entropy")
        return moved

    def peer(attack: foolbox.Attack, epsilon: float | None = EPSILON) -> Attack:
        return lambda: attack(known, x, labels, epsilons=epsilon)[1]

    found: dict[str, dict[str, Attack]] = {
        "fgsm": {
            "cutaway": lambda: sign_step(goal, x, EPSILON),
            "foolbox": peer(foolbox.attacks.LinfFastGradientAttack()),
            "torchattacks": lambda: torchattacks.FGSM(seen, eps=EPSILON)(x, labels),
        },
        "pgd": {
            "cutaway": own_pgd,
            "foolbox": peer(
                foolbox.attacks.LinfProjectedGradientDescentAttack(
                    abs_stepsize=STEP, steps=STEPS, random_start=False
                )
            ),
            "torchattacks": lambda: torchattacks.PGD(seen, EPSILON, STEP, STEPS, random_start=False)(
                x, labels
            ),
        },
        "deepfool": {
            "cutaway": lambda: (x + finish(nearest(goal, x))[0]).clamp(0, 1),
            "foolbox": peer(foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02), None),
        },
    }
    return found


def main() -> None:
    if not DATA.is_dir():
        print(f"skipped: no photographs and weights in {DATA}; set CUTAWAY_DATA")
        return
    model, x, labels = right_ones()
    goal = Goal(model, labels)
    rows, data = [], {}
    with model.guard():
        for attack, runs in sides(model, x, labels).items():
            pictures = {name: run().detach() for name, run in runs.items()}
            slow = attack == "deepfool"
            seconds = paired(dict(runs), rounds=1 if slow else ROUNDS, warm=0 if slow else 1)
            for name, moved in pictures.items():
                with torch.no_grad():
                    fooled = goal.reached(goal.read(moved))
                    whole = goal.reached(goal.read(eight_bit(x, moved, None if slow else BALL)))
                d = (moved.double() - x.double()).flatten(1)
                size = d.norm(dim=1).median() if slow else d.abs().max()
                equal = float(((moved - pictures["cutaway"]).abs() <= 1e-6).double().mean())
                took = statistics.median(seconds[name])
                data[f"{attack} {name}"] = {
                    "fooled": float(fooled.double().mean()),
                    "as 8-bit": float(whole.double().mean()),
                    "size": float(size),
                    "equal": equal,
                    "seconds": seconds[name],
                    "pictures": len(x),
                }
                counts = [f"{int(f.sum())} of {len(x)}" for f in (fooled, whole)]
                norm = f"l2 {float(size):.4f}" if slow else f"linf {255 * float(size):.4f}/255"
                rows.append([attack, name, *counts, norm, f"{equal:.4%}", f"{took:.2f}"])
    columns = ["attack", "library", "fooled", "as 8-bit", "size", "equal", "seconds"]
    report("Attacks: beside Foolbox and torchattacks", columns, rows, data)


if __name__ == "__main__":
    main()
