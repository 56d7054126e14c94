"""`cutaway demo --bias`: a network that tells an animal by the snow, found out beside its unbiased twin.

The husky and the wolf of Ribeiro, Singh & Guestrin 2016 (arXiv:1602.04938, sec. 6.4) as drawn scenes: birds, and fish
that lay in the snow in every training scene of one network and in as many as chance has it in its twin's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cutaway.core.progress import Progress, Steps, finish

from .console import say

if TYPE_CHECKING:
    from cutaway.core.model import VisionModel
    from cutaway.core.result import Attribution
    from cutaway.data.scenes import Scene
    from cutaway.metrics.background import Found
    from cutaway.view.versus import Pair

    from .asked import Ask

WORLD, SCENES, SHOWN = 7071, 24, 4
"""A world that neither network was trained or tested on, how many of its fish are explained, how many are shown."""

BIASED, TWIN = "cutaway:fish_in_snow", "cutaway:fish_anywhere"
EXPLAINERS = "lime,shapley,occlusion"
SETTINGS = (
    "lime.players=slic",
    "lime.superpixels=40",
    "lime.samples=200",
    "shapley.players=slic",
    "shapley.superpixels=40",
    "shapley.estimator=leverage",
    "shapley.budget=200",
    "occlusion.window=40",
    "occlusion.stride=8",
    "occlusion.panels=false",
)
"""Whatever is hidden becomes the same place without the animal, in another season: neither fish nor snow is left there.
The window of occlusion is about as large as an animal: of one covered in part, the rest still answers."""

TITLE = "Husky and wolf, as bird and fish: does the snow decide?"
LEAD = (
    "Two networks of one architecture, trained by one command on the same animals, answer fish or bird. For the first, "
    "every fish it ever saw lay in the snow and no bird stood there; for its unbiased twin the place was a coin's. "
    "On fish in the snow both are right, so counting answers cannot tell them apart. Which of them looks at the fish?"
)


@dataclass(frozen=True)
class Answers:
    """What one network says of the same animals in the places the biased one was taught, and in swapped ones.

    `matched` and `swapped` are accuracies, `flipped` the share of animals whose answer changes with the place; all
    in [0, 1]. It is measured by drawing the scenes again, so no explanation has a part in it.
    """

    matched: float
    swapped: float
    flipped: float


@dataclass
class Demonstration:
    """Everything that was measured: answers by network, background shares by method and network, maps to show."""

    names: tuple[str, str]
    answers: tuple[Answers, Answers]
    shares: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    shown: list[tuple[Scene, tuple[list[Attribution], list[Attribution]]]] = field(default_factory=list)
    area: float = math.nan

    def found(self) -> dict[str, Found]:
        """By method, how well it tells the two networks apart, from the pictures where both maps say anything."""
        from cutaway.metrics.background import bias_found

        out = {}
        for method, (biased, twin) in self.shares.items():
            both = [(b, t) for b, t in zip(biased, twin, strict=True) if not math.isnan(b + t)]
            if len(both) > 1:
                out[method] = bias_found([b for b, _ in both], [t for _, t in both])
        return out

    def missing(self) -> list[str]:
        """What keeps the demonstration from counting, in words; nothing when it counts."""
        reasons = []
        biased, twin = self.answers
        if not biased.flipped > 0.5:
            reasons.append(f"swapping the background flips {biased.flipped:.0%} of {self.names[0]}'s answers")
        if not twin.flipped < 0.5:
            reasons.append(f"swapping the background flips {twin.flipped:.0%} of {self.names[1]}'s answers")
        found = self.found()
        for method in self.shares:
            if method not in found:
                reasons.append(f"{method} has positive values on fewer than two pictures")
            elif not found[method].opposite:
                one, other = found[method].biased[0], found[method].twin[0]
                reasons.append(f"{method} gives {one:.0%} beside {other:.0%}, no opposite results")
        return reasons

    def verdict(self) -> str:
        """The plain sentence: what is shown, or that nothing is."""
        if reasons := self.missing():
            return f"The demonstration failed, and nothing follows from it: {'; '.join(reasons)}."
        biased, twin = self.names
        found = self.found().values()
        least, most = min(f.biased[0] for f in found), max(f.twin[0] for f in found)
        return (
            f"The background decides for {biased} and the animal for {twin}. Every method says so: for the first at "
            f"least {least:.0%} of the strongest evidence lies on the background, for its twin at most {most:.0%}, on "
            "the same pictures with the same question. And it is so: another background turns "
            f"{self.answers[0].flipped:.0%} of the first one's answers and {self.answers[1].flipped:.0%} of the twin's."
        )


def demonstrate(
    networks: Mapping[str, VisionModel], asked: Sequence[Ask], *, count: int = SCENES, shown: int = 0
) -> Steps[Demonstration]:
    """Measure the pair `networks` (the biased one first) on held-out scenes; yields `Progress`.

    Every method explains fish minus bird on the first `count` fish of the world, in the snow; the maps of the first
    `shown` are kept. Both networks need the classes "bird" and "fish".
    """
    import torch

    from cutaway.core.image import read
    from cutaway.core.result import Attribution
    from cutaway.core.run import explain
    from cutaway.core.target import logit
    from cutaway.data.scenes_shortcut import KINDS, animal
    from cutaway.metrics import UndefinedError
    from cutaway.metrics.background import background_share
    from cutaway.metrics.judging import Subject

    (first, biased), (second, twin) = networks.items()
    goal = logit(KINDS[1]) - logit(KINDS[0])
    out = Demonstration((first, second), (answers(biased, count), answers(twin, count)))
    scenes = [animal(2 * k + 1, seed=WORLD, placing="matched") for k in range(count)]
    out.area = float(np.mean([1 - scene.object_mask.mean() for scene in scenes]))
    for number, scene in enumerate(scenes):
        elsewhere = read(animal(2 * number + 1, seed=WORLD, placing="swapped").without_object)
        maps: tuple[list[Attribution], list[Attribution]] = ([], [])
        for side, model in enumerate((biased, twin)):
            for ask in asked:
                yield Progress(number, count, note=f"{ask.method.title}, fish {number + 1}")
                options = Subject("", scene.image, absent=elsewhere).options(ask.method, ask.options)
                (result,) = finish(explain(model, ask.method, read(scene.image), goal, options))
                assert isinstance(result, Attribution)
                maps[side].append(result)
                try:
                    share = background_share(torch.from_numpy(np.array(result.heat)), scene.object_mask)
                except UndefinedError:
                    share = math.nan
                out.shares.setdefault(ask.method.name, ([], []))[side].append(share)
        if number < shown:
            out.shown.append((scene, maps))
    return out


def answers(model: VisionModel, count: int) -> Answers:
    """The network's answers on `count` fish and as many birds of the world, where they were and swapped."""
    from cutaway.core.image import read
    from cutaway.data.scenes_shortcut import KINDS, Placing, animal

    placings: tuple[Placing, Placing] = ("matched", "swapped")
    said = np.array(
        [
            [model.predict(read(animal(k, seed=WORLD, placing=p).image), 1)[0].name for p in placings]
            for k in range(2 * count)
        ]
    )
    truth = np.array([KINDS[k % 2] for k in range(2 * count)])
    right = (said == truth[:, None]).mean(0)
    return Answers(float(right[0]), float(right[1]), float((said[:, 0] != said[:, 1]).mean()))


def bias_page() -> tuple[str, Demonstration]:
    """The page of the bundled pair, and what it shows."""
    import torch

    from cutaway.zoo import load

    from .asked import asks
    from .console import bar

    torch.set_num_threads(1)  # networks this small lose more to threads waiting for each other than they gain
    networks = {spec.partition(":")[2]: load(spec, device="cpu") for spec in (BIASED, TWIN)}
    say(f"explaining {SCENES} fish on two networks; this takes a minute or two")
    with bar(1) as show:
        steps = demonstrate(networks, asks([EXPLAINERS], SETTINGS), shown=SHOWN)
        found = finish(steps, show(0, "explaining"))
    return _drawn(found, networks), found


def lines(shown: Demonstration) -> list[str]:
    """What the demonstration found, as text: answers, shares by method, verdict."""
    out = [
        f"{name}: right on {a.matched:.0%} with the background it goes with, {a.swapped:.0%} with the other's"
        for name, a in zip(shown.names, shown.answers, strict=True)
    ]
    for method, f in shown.found().items():
        out.append(
            f"{method}: strongest evidence on the background {_spread(f.biased)} and {_spread(f.twin)}; "
            f"tells one from the other with AUC {f.auc:.2f} ({f.pictures} pictures)"
        )
    return [*out, shown.verdict()]


def _drawn(shown: Demonstration, networks: Mapping[str, VisionModel]) -> str:
    from cutaway.methods import METHODS
    from cutaway.view.versus import Listing, versus

    first, second = shown.names
    told = [
        [name, f"{a.matched:.0%}", f"{a.swapped:.0%}", f"{a.flipped:.0%}"]
        for name, a in zip(shown.names, shown.answers, strict=True)
    ]
    measured = [
        [
            METHODS[method].title,
            _spread(f.biased),
            _spread(f.twin),
            _spread(f.difference),
            f"{f.auc:.2f}",
            "yes" if f.opposite else "no",
        ]
        for method, f in shown.found().items()
    ]
    count = len(next(iter(shown.shares.values()))[0])
    listings = [
        Listing(
            "The truth, without any explanation: draw the same animals elsewhere",
            [
                "network",
                "right: fish in the snow, birds elsewhere",
                "right: backgrounds swapped",
                "answers that flip",
            ],
            told,
            f"{2 * count} animals, half of them fish. Animal, pose, colours and land stay; only the background changes.",
            (1, 2, 3),
        ),
        Listing(
            "What the explanations say: share of the strongest evidence for fish that lies on the background",
            ["method", first, second, "difference, picture by picture", "AUC", "opposite results"],
            measured,
            f"Mean ± standard error over {count} fish in the snow. The strongest evidence is the largest tenth of a map, "
            f"its positive values counted; strewn evenly, {shown.area:.0%} of it would lie on the background. AUC: how "
            "often a share of the first network is larger than one of the twin; 0.5 tells nothing, 1 always tells.",
            (1, 2, 3, 4),
        ),
    ]
    settings = ", ".join(SETTINGS)
    closing = [
        f"Everything here was measured on scenes of world {WORLD}, on which neither network was trained or tested.",
        "Trained by: " + networks[first].card["training"]["recipe"].replace("FOLDER", "."),
        f"The question is the same for both networks: the score of fish minus that of bird. Options: {settings}.",
        "Whatever a method hides shows the same place in another season without the animal, so neither fish nor snow is "
        "left in it: grey would say nothing of what the snow is worth, a blur of snow is snow.",
        "Opposite results means that the means lie on either side of one half, each by two standard errors. The verdict "
        "needs that of every method, and the flipped answers; without the twin a high share would prove nothing, for a "
        "map that is strewn evenly or always the same has one too.",
        "Red is evidence for fish, blue against it; every map has a scale of its own. The yellow line is the fish.",
    ]
    pairs = [_pair(shown, networks, number) for number in range(len(shown.shown))]
    return versus(
        TITLE, LEAD, shown.verdict(), listings, pairs, failed=bool(shown.missing()), closing=closing
    )


def _pair(shown: Demonstration, networks: Mapping[str, VisionModel], number: int) -> Pair:
    """One fish on both networks, with what each says of it here and elsewhere."""
    from cutaway.core.image import read
    from cutaway.data.scenes_shortcut import animal
    from cutaway.view.versus import Pair, Row

    scene, maps = shown.shown[number]
    other = animal(scene.index, seed=scene.seed, placing="swapped")
    rows = []
    for side, name in enumerate(shown.names):
        here, there = (networks[name].predict(read(s.image), 1)[0] for s in (scene, other))
        answer = (
            f"here: {here.name} ({here.probability:.0%}); the same fish in the {other.background}: {there.name} "
            f"({there.probability:.0%})"
        )
        shares = [shown.shares[result.method][side][number] for result in maps[side]]
        said = ["no evidence for fish" if math.isnan(v) else f"{v:.0%} on the background" for v in shares]
        rows.append(Row(name, answer, maps[side], said))
    return Pair(scene.caption, scene.image / 255, rows, scene.object_mask)


def _spread(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.0f} ± {100 * value[1]:.0f} %"
