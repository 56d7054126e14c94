"""Several methods on one picture: one prediction, one target, and every refusal kept beside the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cutaway.core.errors import CutawayError, MethodRefusedError, UsageError
from cutaway.core.image import Photo, read
from cutaway.core.model import Prediction, VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Result
from cutaway.core.run import explain

from .asked import Ask, Question


@dataclass
class Explained:
    """What is known about one picture; it fills while `explain_picture` runs, so nothing finished is lost.

    `error` is why the picture could not be used at all; `refused` holds, per method, why it gave no result.
    """

    number: int
    path: str
    prediction: list[Prediction] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    refused: dict[str, CutawayError] = field(default_factory=dict)
    error: CutawayError | None = None


def explain_picture(
    into: Explained,
    model: VisionModel,
    asked: Sequence[Ask],
    question: Question,
    *,
    photo: Photo | None = None,
    top: int = 5,
    seed: int = 0,
) -> Steps[None]:
    """Run every method on the picture at `into.path`, or on `photo`; yields `Progress` over all of them.

    Whatever is found goes `into`, errors of the picture and refusals of methods included.
    """
    try:
        photo = photo or read(into.path)
        into.prediction = _predict(model, photo, top)
    except CutawayError as error:
        into.error = error
        return
    best = into.prediction[0].index if into.prediction else None
    target = question.ask(best, model.device)
    for i, ask in enumerate(asked):
        try:
            results = yield from _scaled(
                explain(model, ask.method, photo, target, ask.options, seed=seed), i, asked
            )
        except CutawayError as error:
            into.refused[ask.method.name] = error
        else:
            into.results += [_told(r, question) for r in results]


def exit_code(explained: Sequence[Explained]) -> int:
    """The code the command ends with: that of the first real error, else 6 when a method refused, else 0."""
    errors = [e for one in explained for e in (one.error, *one.refused.values()) if e is not None]
    mistakes = [e.exit_code for e in errors if not isinstance(e, MethodRefusedError)]
    return mistakes[0] if mistakes else errors[0].exit_code if errors else 0


def _predict(model: VisionModel, photo: Photo, top: int) -> list[Prediction]:
    """The most probable classes, best first; none for a network that gives maps instead of class scores."""
    try:
        return model.predict(photo, top)
    except UsageError:
        return []


def _scaled(steps: Steps[list[Result]], done: int, asked: Sequence[Ask]) -> Steps[list[Result]]:
    """The steps of one method as steps of all of them."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            results: list[Result] = end.value
            return results
        thousandths = round(1000 * (done + step.fraction))
        yield Progress(thousandths, 1000 * len(asked), step.preview, asked[done].method.title)


def _told(result: Result, question: Question) -> Result:
    """The result with the target that was chosen for the person said aloud."""
    if not result.target or question.target is not None or question.unit is not None:
        return result
    return replace(result, notes=(f"no target given: the predicted class, {result.target}", *result.notes))
