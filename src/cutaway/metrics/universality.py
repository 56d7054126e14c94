"""Which methods run on which networks, and how much of what they are asked they answer within tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cutaway.core.errors import CutawayError, InputError
from cutaway.core.method import TARGET, Method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps, finish
from cutaway.core.result import Attribution, Provenance, Result, Table
from cutaway.core.run import explain, versions
from cutaway.core.target import Target, as_target, logit

from .completeness import completeness
from .judging import Asked, Subject
from .metric import METRICS, UndefinedError

Outcome = Literal["passes", "fails", "refuses"]
Opener = Callable[[], VisionModel]
"""Gives a network when it is its turn, so that only one is held at a time."""

_SAME = {torch.float64: 1e-10}
"""How far two runs with one seed may lie apart, of the largest value: 1e-4 where nothing stricter stands here."""


@dataclass(frozen=True)
class Trial:
    """One method asked once: of a network, on a picture, about a class (empty: none), at a layer (None: its own choice).

    `off` is how far the numbers of a method that promises a sum miss it, relative to it; None for one that does not.
    """

    network: str
    method: str
    picture: str
    target: str
    layer: str | None
    outcome: Outcome
    reason: str = ""
    off: float | None = None


@dataclass
class Universality:
    """The matrix of methods and networks; it fills while `universality` runs, so nothing finished is lost.

    `unusable` says why a network could not be opened, or by "network, picture" why a picture could not be asked about;
    `opened` holds the fingerprint of every network that could.
    """

    methods: tuple[str, ...]
    networks: tuple[str, ...]
    trials: list[Trial] = field(default_factory=list)
    unusable: dict[str, CutawayError] = field(default_factory=dict)
    opened: dict[str, str] = field(default_factory=dict)

    def of(self, **asked: str | None) -> list[Trial]:
        """The trials whose network, method, picture, target, layer or outcome is the one asked for."""
        return [t for t in self.trials if all(getattr(t, k) == v for k, v in asked.items())]

    def share(self, **asked: str | None) -> float:
        """The share of trials that run and pass, of those that `of` gives; NaN where there is none.

        >>> found = Universality(("a",), ("n",), [Trial("n", "a", "p", "", None, o) for o in ("passes", "refuses")])
        >>> found.share(network="n")
        0.5
        """
        found = self.of(**asked)
        return sum(t.outcome == "passes" for t in found) / len(found) if found else math.nan

    def reasons(self) -> dict[tuple[str, str], list[tuple[str, int]]]:
        """For each method and network that falls short: the outcome with its reason, and how often, most often first."""
        said: dict[tuple[str, str], dict[str, int]] = {}
        for t in self.trials:
            if t.outcome != "passes":
                counts = said.setdefault((t.method, t.network), {})
                text = f"{t.outcome}: {t.reason}"
                counts[text] = counts.get(text, 0) + 1
        return {pair: sorted(c.items(), key=lambda item: -item[1]) for pair, c in said.items()}

    def notes(self) -> list[str]:
        """Every reason once, with the pairs it holds for; then what could not be opened."""
        pairs: dict[str, list[str]] = {}
        for (method, network), found in self.reasons().items():
            for text, count in found:
                of = len(self.of(method=method, network=network))
                often = "" if count == of else f" ({count} of {of})"
                pairs.setdefault(text, []).append(f"{method} on {network}{often}")
        return [
            *(f"{', '.join(who)} {text}" for text, who in pairs.items()),
            *(f"{name} could not be used: {error}" for name, error in self.unusable.items()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Shares by pair, method, network, picture, class and layer, and every trial; None where nothing was asked."""
        axes = ("method", "network", "picture", "target", "layer")
        met = {axis: dict.fromkeys(getattr(t, axis) for t in self.trials) for axis in axes}
        return {
            "shares": {
                m: {n: _known(self.share(method=m, network=n)) for n in self.networks} for m in self.methods
            },
            "share": _known(self.share()),
            **{
                f"by {axis}": {v or "none": self.share(**{axis: v}) for v in values}
                for axis, values in met.items()
            },
            "trials": [asdict(t) for t in self.trials],
            "unusable": [{"name": name, "reason": str(error)} for name, error in self.unusable.items()],
        }

    def table(self, *, data: str, seed: int = 0, seconds: float = 0.0, again: str = "") -> Table:
        """The matrix as a result: a row per method and one for all, a column per network and one for all.

        `again` is the command line that makes it again, when one was run.
        """
        columns: list[dict[str, str]] = [*({"network": n} for n in self.networks), {}]
        rows: list[dict[str, str]] = [*({"method": m} for m in self.methods), {}]
        return Table(
            method="universality",
            target="",
            values=np.array([[self.share(**row, **column) for column in columns] for row in rows]),
            unit="share of what was asked that runs and passes",
            signed=False,
            rows=[*self.methods, "every method"],
            columns=[*self.networks, "every network"],
            evidence={"trials": len(self.trials)},
            notes=self.notes(),
            provenance=Provenance(
                model=", ".join(self.networks),
                fingerprint=", ".join(self.opened.get(n, "not opened") for n in self.networks),
                preprocess={},
                image=data,
                seed=seed,
                device="",
                precision="",
                seconds=seconds,
                versions=versions(),
                again=again,
            ),
        )


def universality(
    into: Universality,
    networks: Mapping[str, Opener],
    asked: Sequence[Asked],
    subjects: Sequence[Subject],
    *,
    classes: int = 1,
    layers: int = 0,
    seed: int = 0,
) -> Steps[None]:
    """Ask every method of every network, on every picture; yields `Progress`, whatever is found goes `into` at once.

    Each picture is asked about its own target or, without one, its `classes` most probable classes; a method that can
    read any layer is asked at its own choice and at `layers` more, spread evenly over those with positions. An answer
    passes when its values are finite, a second run with the same seed gives the same (1e-4 of the largest value, 1e-10
    in double precision), the network is left as it was, and where the method promises a sum, it is reached to 0.01.
    A refusal is one; any other error counts as a failure. Nothing but an interruption stops the rest.
    """
    part = len(subjects) * len(asked)
    for place, (name, opener) in enumerate(networks.items()):
        yield Progress(place * part, len(networks) * part, note=f"opening {name}")
        try:
            model = opener()
            into.opened[name] = model.fingerprint
        except Exception as error:
            into.unusable[name] = _told(error)
            continue
        for i, subject in enumerate(subjects):
            try:
                targets = _targets(model, subject, classes)
                names = _spread([r.name for r in model.layers if r.grid and max(r.grid) > 1], layers)
            except Exception as error:
                into.unusable[f"{name}, {subject.name}"] = _told(error)
                continue
            for j, (method, options) in enumerate(asked):
                done = (place * len(subjects) + i) * len(asked) + j
                about = f"{name}, {subject.name}: {method.title}"
                yield Progress(done, len(networks) * part, note=about)
                for target, label, chosen in _questions(method, options, targets, names):
                    found = _trial(model, method, subject, target, chosen, seed)
                    at = chosen.get("layer") if len(names) and "layer" in method.parameters else None
                    into.trials.append(Trial(name, method.name, subject.name, label, at, *found))


def _questions(
    method: Method, options: Mapping[str, Any], targets: Mapping[str, Target], layers: Sequence[str]
) -> Iterator[tuple[Target, str, Mapping[str, Any]]]:
    """Every class the method can be asked about, at every layer it can be asked at."""
    several = list(targets.items()) if TARGET in method.needs else [("", next(iter(targets.values())))]
    own = options.get("layer")
    at = [own, *(n for n in layers if n != own)] if "layer" in method.parameters else [None]
    for label, target in several:
        for layer in at:
            yield target, label, {**options, "layer": layer} if "layer" in method.parameters else options


def _trial(
    model: VisionModel,
    method: Method,
    subject: Subject,
    target: Target,
    options: Mapping[str, Any],
    seed: int,
) -> tuple[Outcome, str, float | None]:
    """Whether the method answers within tolerance, and why not."""
    before = model.fingerprint
    try:
        one, other = (_run(model, method, subject, target, options, seed) for _ in range(2))
    except InputError as error:
        return "fails", error.found, None
    except CutawayError as error:
        return "refuses", error.found, None
    except Exception as error:
        return "fails", f"a fault, {type(error).__name__}: {_line(error)}", None
    if model.fingerprint != before:
        return "fails", "it leaves the network altered", None
    for name, values in one.arrays().items():
        if values.dtype.kind == "f" and name != "errors" and not np.isfinite(values).all():
            return "fails", f"{name} hold NaN or infinity", None
    if one.values.shape != other.values.shape:
        return "fails", "a second run with the same seed gives another shape", None
    apart = float(np.abs(one.values.astype(np.float64) - other.values).max(initial=0))
    if apart > _SAME.get(model.dtype, 1e-4) * float(np.abs(one.values).max(initial=0)):
        return "fails", "a second run with the same seed lies apart", None
    return _adds_up(model, method, subject, target, one)


def _adds_up(
    model: VisionModel, method: Method, subject: Subject, target: Target, result: Result
) -> tuple[Outcome, str, float | None]:
    """Whether a map keeps its promise of a sum: that it adds up to the score, or that nothing is unaccounted for."""
    bound, claim = METRICS["completeness"].passes or 0.0, result.evidence
    if "conservation" in method.laws:
        off = abs(float(claim["unaccounted"])) / max(abs(float(claim["start"])), 1e-12)
        title = "relevance unaccounted for"
    elif isinstance(result, Attribution) and ("completeness" in method.laws or "baseline score" in claim):
        try:
            off = completeness(model, model.pixels(subject.picture), target, result)
        except UndefinedError:
            return "passes", "", None
        title = METRICS["completeness"].title
    else:
        return "passes", "", None
    return ("passes", "", off) if off <= bound else ("fails", f"{title} above {bound:g}", off)


def _run(
    model: VisionModel,
    method: Method,
    subject: Subject,
    target: Target,
    options: Mapping[str, Any],
    seed: int,
) -> Result:
    given = subject.options(method, options)
    return finish(explain(model, method, subject.picture, target, given, seed=seed))[0]


def _targets(model: VisionModel, subject: Subject, classes: int) -> dict[str, Target]:
    """The classes to ask about, by what they are called."""
    if subject.target is not None:
        given = as_target(subject.target).resolve(model)
        return {given.label(): given}
    found = model.predict(subject.picture, classes)
    names = [p.name for p in found]  # some classes share a name: ImageNet has two cranes
    return {p.name if names.count(p.name) == 1 else f"{p.name} ({p.index})": logit(p.index) for p in found}


def _spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` names, evenly from first to last.

    >>> _spread(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    if not count or not names:
        return []
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[i] for i in dict.fromkeys(places.tolist())]


def _told(error: Exception) -> CutawayError:
    if isinstance(error, CutawayError):
        return error
    return InputError(f"{type(error).__name__}: {_line(error)}", "a network that can be opened and run")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
