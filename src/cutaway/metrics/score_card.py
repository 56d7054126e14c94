"""The score card: methods by metrics, each number the mean over pictures with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cutaway.core.errors import CutawayError
from cutaway.core.method import Method
from cutaway.core.model import VisionModel
from cutaway.core.result import Provenance, Table
from cutaway.core.run import versions

from .metric import METRICS, Case, Metric


@dataclass
class ScoreCard:
    """What was measured; it fills while `judge` runs, so nothing finished is lost.

    `scores` holds, by (method, metric), one number per picture that has one; `undefined`, `refused` and `unusable` why
    others have none: of a metric on a map, of a method on a picture, of a picture. `about` says what was compared with.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    undefined: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    refused: dict[str, list[CutawayError]] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    unusable: dict[str, CutawayError] = field(default_factory=dict)
    about: list[str] = field(default_factory=list)

    def take(self, method: Method, metric: Metric, case: Case, options: Mapping[str, Any], seed: int) -> None:
        """Measure one map by one metric."""
        key = (method.name, metric.name)
        try:
            value = metric(case, options, seed=seed)
        except CutawayError as error:
            self.undefined.setdefault(key, []).append(str(error))
        else:
            self.scores.setdefault(key, []).append(value)

    def mean(self, method: str, metric: str) -> float:
        """The mean over pictures, NaN where there is none."""
        found = self.scores.get((method, metric), [])
        return float(np.mean(found)) if found else math.nan

    def error(self, method: str, metric: str) -> float:
        """The standard error of the mean over pictures, s / sqrt(n) with n - 1 in s; NaN below two pictures."""
        found = self.scores.get((method, metric), [])
        return float(np.std(found, ddof=1) / math.sqrt(len(found))) if len(found) > 1 else math.nan

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that anything was measured, or found undefined, by."""
        met = {metric for _, metric in (*self.scores, *self.undefined)}
        return tuple(m for m in self.metrics if m in met)

    def verdicts(self) -> list[str]:
        """For each metric that can be passed: which methods do, and what the others reach instead."""
        said = []
        for name in self.shown:
            metric = METRICS[name]
            if metric.passes is None:
                continue
            means = {m: self.mean(m, name) for m in self.methods}
            known = {m: v for m, v in means.items() if not math.isnan(v)}
            if not known:
                continue
            best_first = sorted(known, key=lambda m: known[m], reverse=metric.better == "higher")
            good = [f"{m} ({known[m]:.3g})" for m in best_first if metric.holds(known[m])]
            bad = [f"{m} ({known[m]:.3g})" for m in best_first if not metric.holds(known[m])]
            sign = ">=" if metric.better == "higher" else "<="
            parts = [f"{metric.title} {sign} {metric.passes:g}: {', '.join(good) or 'none'}"]
            said.append("; not: ".join([*parts, *([", ".join(bad)] if bad else [])]))
        return said

    def notes(self) -> list[str]:
        """Why a row or a cell has fewer pictures than there are: each reason once, with the methods it holds for."""
        said = [f"{name} could not be used: {error}" for name, error in self.unusable.items()]
        said += [
            f"{method} refused on {len(errors)} of {len(self.pictures)} pictures: {errors[0]}"
            for method, errors in self.refused.items()
        ]
        shared: dict[tuple[str, str], list[str]] = {}
        for (method, metric), reasons in self.undefined.items():
            of = len(reasons) + len(self.scores.get((method, metric), []))
            where = method if of == len(reasons) else f"{method} (on {len(reasons)} of {of} pictures)"
            shared.setdefault((metric, reasons[0]), []).append(where)
        for (metric, reason), who in shared.items():
            said.append(f"{METRICS[metric].title} undefined for {', '.join(who)}: {reason}")
        return [*self.about, *said]

    def to_dict(self) -> dict[str, Any]:
        """Every cell with its mean, standard error and pictures, as plain JSON values; None where undefined."""
        return {
            method: {
                name: {
                    "mean": _known(self.mean(method, name)),
                    "standard error": _known(self.error(method, name)),
                    "pictures": len(self.scores.get((method, name), [])),
                }
                for name in self.shown
            }
            for method in self.methods
        }

    def table(
        self, model: VisionModel, *, data: str, seed: int = 0, seconds: float = 0.0, again: str = ""
    ) -> Table:
        """The score card as a result: a row per method, a column per metric, undefined cells NaN.

        `again` is the command line that makes it again, when one was run.
        """
        shown = self.shown
        values = np.array([[self.mean(m, name) for name in shown] for m in self.methods])
        errors = np.array([[self.error(m, name) for name in shown] for m in self.methods])
        return Table(
            method="judge",
            target="",
            values=values.reshape(len(self.methods), len(shown)),
            errors=errors.reshape(len(self.methods), len(shown)),
            rows=self.methods,
            columns=[f"{METRICS[n].title} ({METRICS[n].better})" for n in shown],
            evidence={"pictures": len(self.pictures)},
            notes=(*self.verdicts(), *self.notes()),
            provenance=Provenance(
                model=model.name,
                fingerprint=model.fingerprint,
                preprocess=model.preprocess.to_dict(),
                image=data,
                seed=seed,
                device=str(model.device),
                precision=str(model.dtype).removeprefix("torch."),
                seconds=seconds,
                versions=versions(),
                again=again,
            ),
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
