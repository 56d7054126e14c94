"""What `cutaway dream`, `invert` and `attack` share: methods that make pictures, run, watched, stopped and kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cutaway.core.errors import CutawayError, InputError, UsageError
from cutaway.core.files import whole_file
from cutaway.core.progress import Enough, Progress, Steps, finish

from .console import INTERRUPTED, bar, say, show_error
from .outputs import check_outputs, made_name, store_arrays
from .summary import print_made

if TYPE_CHECKING:
    from cutaway.core.method import Need
    from cutaway.core.model import VisionModel
    from cutaway.core.result import Result
    from cutaway.core.target import Target

    from .asked import Ask
    from .network import Network

AGAIN = 1.0
"""Seconds from one preview file to the next."""


@dataclass
class Made:
    """Everything one command made so far, and what was refused on the way."""

    results: list[Result] = field(default_factory=list)
    refused: list[tuple[str, CutawayError]] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True)
class Files:
    """Where a command writes; checked when made, before any work.

    `output` is a figure, a report, a moving picture or a folder of figures; `preview` a picture that is written over
    while work goes on.
    """

    output: Path
    arrays: Path | None
    preview: Path | None

    def check(self, inputs: Sequence[str]) -> None:
        """Raise now what writing would meet in the end."""
        check_outputs(self.output, self.arrays, inputs, endings=(".png", ".html", ".gif"), folders=True)
        if self.preview is not None:
            check_outputs(self.preview, None, inputs, endings=(".png",))
            if self.preview == self.output:
                raise UsageError(
                    f"--preview {self.preview} is the output too", "another name", "--preview now.png"
                )


def opened(named: Network, images: Sequence[str], asked: Sequence[Ask]) -> VisionModel:
    """The network, its layers traced at the size of the first picture that can be read, options checked against it."""
    from .asked import check_layers

    network = named.load()
    for image in images[:1]:
        with suppress(InputError):  # said later with the picture itself
            network.pixels(image)
    check_layers(asked, network)
    return network


def further(network: VisionModel, data: Path | None, generator: str | None = None) -> dict[Need, Any]:
    """What methods may need beside pictures and targets."""
    from cutaway.core.method import DATA, GENERATOR
    from cutaway.data.folder import Pictures

    given: dict[Need, Any] = {}
    if data is not None:
        given[DATA] = Pictures(data, labels="auto", classes=network.classes or None)
    if generator is not None:
        from cutaway.zoo.generators import load_generator

        given[GENERATOR] = load_generator(generator)
    return given


@dataclass(frozen=True)
class Job:
    """What a command was asked to make."""

    command: str
    network: VisionModel
    asked: Sequence[Ask]
    images: Sequence[str]
    goals: Sequence[Target | None]
    given: Mapping[Need, Any]
    seed: int

    def run(self, files: Files, *, title: str, lead: str, as_json: bool) -> None:
        """Run every method on every picture and target it needs, print what came of it, write it, leave with the code.

        The first interruption ends the method at its next step with what it has, the second ends it at once; what was
        finished is written either way.
        """
        found = Made()
        jobs = self._jobs()
        pictures = sum((job.goal.count if job.goal else None) or 1 for job in jobs)
        if files.output.suffix.lower() == ".gif" and pictures > 1:
            raise UsageError(
                f"one moving picture ({files.output}) of {pictures} results",
                "one photograph or target, and one method",
                f"-o {files.output.with_suffix('.html')}",
            )
        with _stoppable(found), bar(len(jobs)) as show:
            for number, job in enumerate(jobs):
                about = job.about
                try:
                    found.results += finish(
                        self._steps(job), _watching(show(number, about), files.preview, found)
                    )
                except Enough:
                    break
                except CutawayError as error:
                    found.refused.append((about, error))
                if found.stopped:
                    break
        _end(self.command, found, files, title, lead, as_json)

    def _jobs(self) -> list[_One]:
        from cutaway.core.method import IMAGE, TARGET

        for ask in self.asked:
            if IMAGE in ask.method.needs and not self.images:
                raise UsageError(
                    f"{ask.method.name} without a picture",
                    "one or more pictures",
                    f"cutaway {self.command} photo.jpg",
                )
        return [
            _One(ask, image, goal)
            for ask in self.asked
            for image in (self.images if IMAGE in ask.method.needs else [None])
            for goal in (self.goals if TARGET in ask.method.needs else [None])
        ]

    def _steps(self, one: _One) -> Steps[list[Result]]:
        from cutaway.core.run import explain

        return explain(
            self.network,
            one.ask.method,
            one.image,
            one.goal,
            one.ask.options,
            given=self.given,
            seed=self.seed,
        )


@dataclass(frozen=True)
class _One:
    """One method on one picture, if it takes one, and one target."""

    ask: Ask
    image: str | None
    goal: Target | None

    @property
    def about(self) -> str:
        return " of ".join(
            part for part in (self.ask.method.title, self.image and Path(self.image).name) if part
        )


def _end(command: str, found: Made, files: Files, title: str, lead: str, as_json: bool) -> None:
    """Write and print what there is, say what was refused, and leave with the code for it."""
    if found.results:
        written = _write(found.results, files, title, lead)
        print_made(command, found.results, [(a, str(e)) for a, e in found.refused], as_json=as_json)
        for path in written:
            say(f"wrote {path}")
    for about, refusal in found.refused:
        show_error(refusal, about)
    if found.stopped:
        say(
            "interrupted; what was finished is kept"
            if found.results
            else "interrupted before anything was finished"
        )
        raise typer.Exit(INTERRUPTED)
    if found.refused:
        raise typer.Exit(found.refused[0][1].exit_code)


@contextmanager
def _stoppable(found: Made) -> Iterator[None]:
    """While the block runs the first Ctrl-C only marks the wish to stop, the second interrupts as ever."""

    def wish(number: int, frame: Any) -> None:
        if found.stopped:
            raise KeyboardInterrupt
        found.stopped = True
        say("stopping at the next step (Ctrl-C again: at once)")

    try:
        before = signal.signal(signal.SIGINT, wish)
    except ValueError:  # not the main thread: whoever runs this has a way of its own to stop it
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)


def _watching(
    show: Callable[[Progress], None], preview: Path | None, found: Made
) -> Callable[[Progress], None]:
    """Shows a step, writes its preview now and then, and passes on the wish to stop."""
    last = 0.0

    def watch(step: Progress) -> None:
        nonlocal last
        show(step)
        if preview is not None and step.preview is not None and time.monotonic() - last >= AGAIN:
            last = time.monotonic()
            with whole_file(preview) as temporary:
                temporary.write_bytes(_previewed(step.preview))
        if found.stopped:
            raise Enough

    return watch


def _previewed(pixels: Any) -> bytes:
    """Pictures (n, C, H, W) as one PNG file."""
    import numpy as np

    from cutaway.view.raster import encode, mosaic, to_image

    values = np.moveaxis(pixels.detach().float().cpu().clamp(0, 1).numpy(), 1, -1)
    return encode(to_image(mosaic(np.repeat(values, 3 // values.shape[-1], axis=-1))))


def _write(results: Sequence[Result], files: Files, title: str, lead: str) -> list[Path]:
    """Write everything, each file whole or not at all."""
    from cutaway.methods import METHODS
    from cutaway.view.figure import moving, stacked
    from cutaway.view.report import report

    written = []
    if files.arrays is not None:
        written.append(store_arrays(results, files.arrays))
    output = files.output
    if output.suffix.lower() == ".html":
        with whole_file(output) as temporary:
            temporary.write_text(report(results, catalogue=METHODS, title=title, lead=lead), encoding="utf-8")
        written.append(output)
    elif output.suffix.lower() == ".gif":
        with whole_file(output) as temporary:
            temporary.write_bytes(moving(results[0]))
        written.append(output)
    elif output.suffix.lower() == ".png":
        with whole_file(output) as temporary:
            temporary.write_bytes(stacked(results))
        written.append(output)
    else:
        output.mkdir(exist_ok=True)
        for number, result in enumerate(results):
            name = made_name(number, result).replace("/", "-")
            written.append(result.save(output / f"{name}.png"))
    return written
