"""Shapley values: error against exact values at equal evaluations, beside shap and Captum.

Twelve players: 3 x 4 cells of a real photograph, hidden ones middle grey, the logit of the predicted class. All 4096
coalitions are evaluated once, which gives the exact values and a table from which every side is answered, so that
all see the same numbers and time plays no part. `error` is |estimate - exact| / |exact| over the players, root mean
square over SEEDS seeds; `ratio` is Cutaway's default estimator over shap's `KernelExplainer` without the selection of
features that would only add to its error (`l1_reg=False`). An evaluation is a coalition asked for: shap's two for
nobody and everybody are counted, Captum's ShapleyValueSampling gets as many whole permutations as fit.
`standard error` is what Cutaway says of itself, to be compared with its error.

`CUTAWAY_DATA` names the folder of photographs and weights, `PICTURES` how many, `SEEDS` how many samples each.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shap
import torch
from captum.attr import KernelShap, ShapleyValueSampling
from integrated_gradients import DATA, PREPROCESS
from timing import report
from torch import Tensor

import cutaway
from cutaway.core.model import VisionModel
from cutaway.core.progress import finish
from cutaway.core.target import logit
from cutaway.methods.perturbation.players import Game, Players, every, shown
from cutaway.methods.perturbation.shapley import estimate, exact
from cutaway.zoo import load

PICTURES = int(os.environ.get("PICTURES", "3"))
SEEDS = int(os.environ.get("SEEDS", "5"))
BUDGETS = (100, 200, 400, 800)
DOWN, ACROSS = 3, 4
COUNT = DOWN * ACROSS
OURS = ("adjusted", "leverage", "kernel", "permutation")


def table(model: VisionModel, path: Path) -> Tensor:
    """The scores of all coalitions of the cells, (4096,)."""
    x = model.pixels(path)
    height, width = x.shape[-2:]
    cells = (torch.arange(height) * DOWN // height)[:, None] * ACROSS + torch.arange(width) * ACROSS // width
    with torch.no_grad():
        goal = logit(int(model(x).argmax()))
    ask = shown(model, x, goal, Players(cells), torch.full_like(x[0], 0.5))
    return finish(Game(COUNT, ask, lambda values: values).play(every(COUNT)))


def numbers(coalitions: Tensor) -> Tensor:
    return (coalitions.long() << torch.arange(COUNT)).sum(1)


def ours(how: str) -> Callable[[Tensor, int, int], tuple[Tensor, Tensor]]:
    def run(scores: Tensor, budget: int, seed: int) -> tuple[Tensor, Tensor]:
        game = Game(COUNT, lambda z: [(torch.arange(len(z)), scores[numbers(z)])], lambda v: v)  # type: ignore[arg-type, return-value]
        found = finish(estimate(game, how, budget, torch.Generator().manual_seed(seed)))
        assert game.evaluations <= budget
        return found.values, found.error

    return run


def of_shap(scores: Tensor, budget: int, seed: int) -> tuple[Tensor, Tensor | None]:
    np.random.seed(seed)
    asked = 0

    def score(z: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(z)
        return scores[numbers(torch.from_numpy(z))].numpy()

    peer = shap.KernelExplainer(score, np.zeros((1, COUNT)))
    found = peer.shap_values(np.ones((1, COUNT)), nsamples=budget - 2, l1_reg=False, silent=True)
    assert abs(asked - budget) <= 2, asked
    return torch.from_numpy(np.asarray(found, dtype=np.float64)).flatten(), None


def of_captum(kind: type, samples: Callable[[int], int]) -> Callable[[Tensor, int, int], tuple[Tensor, None]]:
    def run(scores: Tensor, budget: int, seed: int) -> tuple[Tensor, None]:
        torch.manual_seed(seed)
        peer = kind(lambda z: scores[numbers(z)])
        everybody = torch.ones(1, COUNT, dtype=torch.float64)
        found = peer.attribute(everybody, n_samples=samples(budget), perturbations_per_eval=64)
        return found.double().flatten(), None

    return run


SIDES: dict[str, Callable[[Tensor, int, int], tuple[Tensor, Tensor | None]]] = {
    **{how: ours(how) for how in OURS},
    "shap KernelExplainer": of_shap,
    "captum KernelShap": of_captum(KernelShap, lambda budget: budget),
    "captum ShapleyValueSampling": of_captum(ShapleyValueSampling, lambda budget: max(1, budget // COUNT)),
}


def main() -> None:
    if not DATA.is_dir():
        print(f"skipped: no photographs and weights in {DATA}; set CUTAWAY_DATA")
        return
    logging.getLogger("shap").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    squeezenet = load(
        "squeezenet1_1",
        weights=DATA / "weights" / "squeezenet1_1_imagenet_fp16.safetensors",
        preprocess=PREPROCESS["squeezenet1_1"],
        device="cpu",
    )
    labels = json.loads((DATA / "nips17_images" / "labels.json").read_text())
    paths = [DATA / "nips17_images" / e["file"] for e in labels[:: len(labels) // PICTURES][:PICTURES]]
    rows, data = [], []
    for name, model in (("squeezenet1_1", squeezenet), ("cutaway:cifar", cutaway.load("cutaway:cifar"))):
        tables = [table(model, path) for path in paths]
        for budget in BUDGETS:
            errors: dict[str, list[float]] = {side: [] for side in SIDES}
            said = []
            for scores in tables:
                right = exact(scores)
                for side, run in SIDES.items():
                    for seed in range(SEEDS):
                        found, error = run(scores, budget, seed)
                        errors[side].append(float((found - right).norm() / right.norm()))
                        if side == OURS[0] and error is not None:
                            said.append(float(error.norm() / right.norm()))
            mean = {side: float(np.sqrt(np.mean(np.square(e)))) for side, e in errors.items()}
            ratio = mean["adjusted"] / mean["shap KernelExplainer"]
            standard = float(np.sqrt(np.mean(np.square(said))))
            shares = [f"{mean[side]:.2%}" for side in SIDES]
            rows.append([name, str(budget), *shares, f"{standard:.2%}", f"{ratio:.2f}"])
            data.append(
                {"network": name, "evaluations": budget, "errors": errors, "standard error": standard}
            )
    columns = ["network", "evaluations", *SIDES, "standard error", "ratio"]
    report("Shapley values: error at equal evaluations, 12 players", columns, rows, data)


if __name__ == "__main__":
    main()
