"""Shapley values, LIME and ablation beside Captum, shap and lime: the time of equal work, and whether values agree.

The same picture, network, regions, fill (grey; for LIME each region's mean) and target (the logit of the predicted
class) for all, and the same number of evaluations: an evaluation is one picture through the network, and what each
side spent stands beside it. Cutaway is asked through `explain` with its defaults; each peer runs on its own copy of
the network at its own best of `BATCHES` pictures at a time, in the better of both layouts of memory ("first",
"last": where the channels lie). shap's KernelExplainer and lime leave the making of batches to the caller, who here
is tuned alike. Sides take turns for `ROUNDS` rounds after one that is not counted. "Times its speed" is the peer's
seconds over Cutaway's, median round by round. "Limit" is the arithmetic one, multiply-adds of whole pictures over
those of the windows, as the engine reports it (1.00: the regions that are hidden together span the picture).

Agreement: ablation is one definition, so the values are compared ("off by", of the largest); so is LIME here, where
peers are given Cutaway's choices, kernel and ridge. Shapley estimates are compared with a reference, Cutaway's
leverage estimator with `REFERENCE` evaluations and another seed (its own standard error is in the stored numbers):
"error" is |estimate - reference| / |reference|, Cutaway's before the peer's. The second table holds what peers
answer as they come.

`NETWORKS` names the networks, `BUDGET` the evaluations for Shapley values, `SAMPLES` those for LIME.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lime.lime_image
import numpy as np
import shap
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import FeatureAblation, KernelShap, LayerFeatureAblation, Lime, ShapleyValueSampling
from skimage.segmentation import quickshift
from subjects import Choice, Subject, photographs, subjects
from timing import paired, ratio, report
from torch import Tensor

from cutaway.core.target import probability as probability_of
from cutaway.core.windows import Report, evaluate
from cutaway.methods.perturbation.lime import _choices
from cutaway.methods.perturbation.players import Players, divide

NETWORKS = "squeezenet1_1,cutaway:cifar"
ROUNDS = int(os.environ.get("ROUNDS", "3"))
BUDGET = int(os.environ.get("BUDGET", "400"))
SAMPLES = int(os.environ.get("SAMPLES", "300"))
REFERENCE = int(os.environ.get("REFERENCE", "4000"))
GRID = 7
FEW = 64
"""Evaluations of a peer while its batch size is chosen."""

Ours = Callable[[], tuple[Tensor, int]]
Theirs = Callable[[Choice, int], Tensor]


@dataclass(frozen=True)
class Task:
    """One question: Cutaway's answer with its evaluations, and the peers', who are told how many they have.

    `truth` is what every side estimates; None where the sides are to agree with each other.
    """

    name: str
    budget: int
    ours: Ours
    peers: dict[str, Theirs]
    limit: float = 1.0
    truth: Tensor | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


def off(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth.double()).norm() / truth.double().norm())


def limit(s: Subject, players: Players, coalitions: Tensor) -> float:
    """What the engine says of these coalitions."""
    told = Report()
    for _ in evaluate(s.model, s.x, players.hidden(coalitions), torch.full_like(s.x[0], 0.5), report=told):
        pass
    return told.limit or 1.0


def ablation(s: Subject) -> Task:
    players = divide(s.x[0], "grid", GRID, 0, 0)
    first = torch.tensor([int((players.labels.flatten() == i).nonzero()[0]) for i in range(players.count)])

    def ours() -> tuple[Tensor, int]:
        found = s.model.explain(s.x[0], "ablation", s.target, grid=GRID)
        return torch.tensor(found.values).flatten()[first], players.count + 2

    def captum(choice: Choice, budget: int) -> Tensor:
        found = FeatureAblation(choice.seen).attribute(
            s.x, 0.5, s.target, feature_mask=players.labels[None, None], perturbations_per_eval=choice.batch
        )
        return found[0, 0].flatten()[first]  # type: ignore[no-any-return]

    least = limit(s, players, ~torch.eye(players.count, dtype=torch.bool))
    return Task("regions taken away", players.count, ours, {"Captum FeatureAblation": captum}, least)


def units(s: Subject) -> Task:
    layer = s.model.layers.suggest()[0]
    rows = list(s.model.layers)
    place, count = [row.name for row in rows].index(layer), s.model.layers.find(layer).shape[1]
    above = sum(row.macs for row in rows[place + 1 :] if not row.name.startswith(f"{layer}."))

    def ours() -> tuple[Tensor, int]:
        found = s.model.explain(s.x[0], "unit_ablation", s.target, layer=layer)
        drops = torch.zeros(len(found.values))
        drops[torch.tensor(found.evidence["channels"]).flatten().long()] = torch.tensor(found.values[:, 0])
        return drops, len(drops)

    def captum(choice: Choice, budget: int) -> Tensor:
        peer = LayerFeatureAblation(choice.seen, choice.seen.network.get_submodule(layer))
        mask = torch.arange(count).clamp(max=budget - 1).view(1, -1, 1, 1)  # the rest together, when tuned
        found = peer.attribute(s.x, target=s.target, layer_mask=mask, perturbations_per_eval=choice.batch)
        return found[0, :, 0, 0]  # type: ignore[no-any-return]

    share = s.model.layers.macs / max(above, 1)
    return Task(f"channels of {layer} silenced", count, ours, {"Captum LayerFeatureAblation": captum}, share)


def cells(s: Subject, players: Players, choice: Choice) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of coalitions (n, M), in batches, for a peer that knows no pictures."""

    def score(coalitions: np.ndarray) -> np.ndarray:
        scores = []
        for part in torch.split(torch.from_numpy(np.asarray(coalitions)).bool(), choice.batch):
            pictures = torch.where(players.hidden(part)[:, None], 0.5, s.x)
            with torch.inference_mode():
                scores.append(choice.seen(pictures)[:, s.target])
        return torch.cat(scores).numpy()

    return score


def shapley(s: Subject) -> list[Task]:
    players = divide(s.x[0], "grid", GRID, 0, 0)
    count, labels = players.count, players.labels

    def asked(estimator: str, budget: int, seed: int = 0) -> tuple[Tensor, Any]:
        found = s.model.explain(
            s.x[0], "shapley", s.target, grid=GRID, estimator=estimator, budget=budget, seed=seed
        )
        return torch.tensor(found.evidence["values"]).flatten(), found.evidence

    def ours(estimator: str) -> Ours:
        def run() -> tuple[Tensor, int]:
            values, evidence = asked(estimator, BUDGET)
            return values, int(np.ravel(evidence["evaluations"])[0])

        return run

    def by_cell(pixels: Tensor) -> Tensor:
        return torch.zeros(count).index_add_(0, labels.flatten(), pixels.flatten().float())

    def first(found: Tensor) -> Tensor:
        return torch.stack([found[0, 0][labels == i][0] for i in range(count)])

    def sampling(choice: Choice, budget: int) -> Tensor:
        peer = ShapleyValueSampling(choice.seen)
        orders = max(1, budget // count)
        mask = labels[None, None]
        return first(peer.attribute(s.x, 0.5, s.target, None, mask, orders, choice.batch))

    def kernel(choice: Choice, budget: int) -> Tensor:
        peer = KernelShap(choice.seen)
        return first(peer.attribute(s.x, 0.5, s.target, None, labels[None, None], budget, choice.batch))

    def kernel_explainer(choice: Choice, budget: int) -> Tensor:
        peer = shap.KernelExplainer(cells(s, players, choice), np.zeros((1, count)))
        found = peer.shap_values(np.ones((1, count)), nsamples=budget - 2, l1_reg=False, silent=True)
        return torch.from_numpy(np.asarray(found)).flatten()

    def partition(choice: Choice, budget: int) -> Tensor:
        def score(pictures: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                found = choice.seen(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
            return found[:, [s.target]].numpy()

        picture = s.x[0].permute(1, 2, 0).numpy()
        peer = shap.PartitionExplainer(score, shap.maskers.Image(np.full(picture.shape, 0.5, np.float32)))
        found = peer(picture[None], max_evals=budget, batch_size=choice.batch, silent=True)
        return by_cell(torch.from_numpy(found.values[0, ..., 0]).sum(-1))

    generator = torch.Generator().manual_seed(1)
    least = limit(s, players, torch.rand(128, count, generator=generator) < 0.5)
    truth, evidence = asked("leverage", REFERENCE, 99)
    numbers = {"standard error of the reference": evidence["largest standard error"]}
    rest = (BUDGET, least, truth, numbers)
    sides: dict[str, dict[str, Theirs]] = {
        "permutation": {"Captum ShapleyValueSampling": sampling},
        "kernel": {"Captum KernelShap": kernel, "shap KernelExplainer": kernel_explainer},
        "adjusted": {"Captum KernelShap": kernel, "shap KernelExplainer": kernel_explainer},
        "leverage": {"shap PartitionExplainer": partition},
    }
    return [Task(f"Shapley, {how}", rest[0], ours(how), peers, *rest[1:]) for how, peers in sides.items()]


class Told(np.random.RandomState):
    """Random numbers that were drawn before: lime asks once for all its choices."""

    def __init__(self, choices: Tensor) -> None:
        super().__init__(0)
        self.choices = choices.int().numpy()

    def randint(self, low: int, high: int | None = None, size: Any = None, dtype: Any = int) -> Any:
        if size is None:
            return super().randint(low, high, size, dtype)
        return self.choices.ravel()[:size].copy()


def lines(s: Subject) -> Task:
    drawn = torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**31, (), generator=drawn))  # what `explain` draws from its seed 0
    picture = s.x[0].permute(1, 2, 0).double().numpy()
    how = "quickshift" if s.x.shape[-1] > 64 else "grid"  # quickshift finds one region in a small picture
    players = divide(s.x[0], how, GRID, 0, seed)
    count, labels = players.count, players.labels
    fill = players.averaged(s.x[0])[None]
    choices = _choices(count, SAMPLES, torch.Generator().manual_seed(seed))[0]
    if len(choices) < SAMPLES:
        raise ValueError(f"{count} superpixels have fewer choices than SAMPLES={SAMPLES}")

    def ours() -> tuple[Tensor, int]:
        found = s.model.explain(s.x[0], "lime", s.target, players=how, grid=GRID, samples=SAMPLES)
        return torch.tensor(found.evidence["coefficients"]).flatten(), SAMPLES

    def nearness(original: Tensor, perturbed: Tensor, choice: Tensor, **_: object) -> Tensor:
        distance = 1 - (choice.double().sum() / count).sqrt()
        return torch.exp(-(distance**2) / 0.25**2).sqrt()[None]

    def captum(choice: Choice, budget: int) -> Tensor:
        rows = iter(choices[:, None].long())
        peer = Lime(choice.seen, SkLearnRidge(alpha=1), nearness, lambda original, **_: next(rows))
        found = peer.attribute(
            s.x,
            fill,
            s.target,
            feature_mask=labels[None, None],
            n_samples=budget,
            perturbations_per_eval=choice.batch,
            return_input_shape=False,
        )
        return found[0]

    def score(choice: Choice) -> Callable[[np.ndarray], np.ndarray]:
        def run(pictures: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return choice.seen(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).numpy()

        return run

    def segments(pixels: np.ndarray) -> np.ndarray:
        if how == "grid":
            return labels.numpy()
        return quickshift(pixels, kernel_size=4, max_dist=200, ratio=0.2, rng=seed)  # type: ignore[no-any-return]

    def package(choice: Choice, budget: int) -> Tensor:
        found = lime.lime_image.LimeImageExplainer(random_state=Told(choices)).explain_instance(
            picture,
            score(choice),
            (s.target,),
            top_labels=None,
            num_samples=budget,
            batch_size=choice.batch,
            segmentation_fn=segments,
        )
        coefficients = torch.zeros(count)
        for number, value in found.local_exp[s.target]:
            coefficients[number] = value
        return coefficients

    least = limit(s, players, choices[1:129])  # the first is the picture as it is
    peers: dict[str, Theirs] = {"Captum Lime": captum, "lime LimeImageExplainer": package}
    return Task(f"LIME, {count} regions", SAMPLES, ours, peers, least)


def rows_of(s: Subject, task: Task, tuned: dict[str, Choice]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Both sides of a task in one run: its rows, and the numbers behind them."""
    few = min(task.budget, FEW)
    if task.name.startswith("Shapley"):
        few = min(task.budget, 2 * GRID**2 + 4)  # the least with which every peer runs
    for name, run in task.peers.items():
        if name not in tuned:
            tuned[name] = s.fastest(lambda choice: run(choice, few))  # noqa: B023
    found: dict[str, Tensor] = {}
    shown: dict[str, int] = {}

    def ours() -> None:
        found["ours"], shown["ours"] = task.ours()

    def theirs(name: str) -> Callable[[], None]:
        def run() -> None:
            seen = tuned[name].seen
            seen.shown = 0
            found[name] = task.peers[name](tuned[name], task.budget)
            shown[name] = seen.shown

        return run

    torch.manual_seed(0)
    np.random.seed(0)
    spent = paired({"ours": ours} | {name: theirs(name) for name in task.peers}, rounds=ROUNDS, warm=1)
    rows, data = [], []
    for name in task.peers:
        middle, low, high = ratio(spent[name], spent["ours"])
        if task.truth is None:
            agrees = f"off by {off(found['ours'], found[name]):.0e}"
        else:
            agrees = f"error {error(found['ours'], task.truth):.1%}, {error(found[name], task.truth):.1%}"
        head = [s.name, task.name, name, f"{shown['ours']}, {shown[name]}"]
        rows.append(
            [
                *head,
                f"{middle:.2f} ({low:.2f}-{high:.2f})",
                f"{task.limit:.2f}" if task.limit < 1000 else "> 1000",
                agrees,
                str(tuned[name]),
            ]
        )
        data.append(
            {
                "network": s.name,
                "task": task.name,
                "peer": name,
                "seconds": spent[name],
                "ours": spent["ours"],
            }
            | {"evaluations": [shown["ours"], shown[name]], "agreement": agrees, "limit": task.limit}
            | task.numbers
        )
        print(*rows[-1], sep="  ", flush=True)
    return rows, data


def as_they_come(s: Subject) -> list[list[str]]:
    """What peers answer with their own defaults."""
    players = divide(s.x[0], "grid", GRID, 0, 0)
    labels, count = players.labels, players.count
    seen = Choice(s.copies[1], 16)
    truth = torch.tensor(
        s.model.explain(s.x[0], "shapley", s.target, grid=GRID, budget=2000).evidence["values"]
    )
    torch.manual_seed(0)
    np.random.seed(0)
    peer = shap.KernelExplainer(cells(s, players, seen), np.zeros((1, count)))
    kept = torch.from_numpy(np.asarray(peer.shap_values(np.ones((1, count)), nsamples=BUDGET, silent=True)))
    rows = [
        [
            s.name,
            "shap KernelExplainer, l1_reg='auto'",
            f"{int((kept != 0).sum())} of {count} players",
            f"error {error(kept.flatten(), truth.flatten()):.1%}",
        ]
    ]

    def probability(pixels: Tensor) -> Tensor:
        return seen.seen(pixels).softmax(1)

    for reads, of in (("logit", seen.seen), ("probability", probability)):
        found = Lime(of).attribute(
            s.x,
            0.5,
            s.target,
            feature_mask=labels[None, None],
            n_samples=BUDGET,
            perturbations_per_eval=16,
            return_input_shape=False,
        )[0]
        goal: Any = s.target if reads == "logit" else probability_of(s.target)
        mine = s.model.explain(
            s.x[0], "lime", goal, players="grid", grid=GRID, fill="grey", samples=BUDGET
        ).evidence["coefficients"]
        own = torch.tensor(mine).flatten()
        both = torch.stack([own, found]).double()
        r = f"{float(torch.corrcoef(both)[0, 1]):.2f}" if float(found.std()) > 0 else "none: all equal"
        rows.append(
            [
                s.name,
                f"Captum Lime of the {reads}",
                f"{int((found != 0).sum())} of {count} coefficients",
                f"correlation with LIME as published: {r}",
            ]
        )
    return rows


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("shap").setLevel(logging.ERROR)
    lime.lime_image.tqdm = lambda rows: rows
    rows, data, bare = [], [], []
    for name in os.environ.get("NETWORKS", NETWORKS).split(","):
        s = subjects(name, photographs(1))[0]
        tuned: dict[str, Choice] = {}
        for task in (ablation(s), units(s), *shapley(s), lines(s)):
            more, numbers = rows_of(s, task, tuned)
            rows += more
            data += numbers
        bare += as_they_come(s)
    columns = ["network", "task", "peer", "evaluations", "times its speed", "limit", "agreement", "batch"]
    report("Perturbation: the time of equal work beside peers", columns, rows, data)
    columns = ["network", "peer", "not zero", "against the definition"]
    report("Perturbation defaults: what peers answer as they come", columns, bare, bare)


if __name__ == "__main__":
    sys.exit(main())
