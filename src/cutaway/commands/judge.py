"""`cutaway judge`: a score card for any methods, on generated scenes whose truth is known or on a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.core.files import whole_file
from cutaway.core.progress import finish

from .console import INTERRUPTED, bar, command_line, say, show_error
from .network import Network, networked
from .options import QUESTION, JsonOption, MethodsOption, SeedOption, TableOption
from .outputs import check_outputs
from .score_table import print_card, print_card_json

if TYPE_CHECKING:
    from cutaway.core.model import VisionModel
    from cutaway.core.result import Table
    from cutaway.metrics.judging import Measure, Subject
    from cutaway.metrics.score_card import ScoreCard

SCENES, WORLD = "scenes", 2026
"""The default data, and the world it is drawn from: one the bundled network was neither trained nor tested on."""

ENDINGS = (".html", ".png", ".npz", ".json")
"""What a table can be written as."""

TITLE = "How true the explanations are"
LEAD = (
    "Each number is the mean over the pictures with its standard error. Better is what the head of a column says. "
    "No metric is the truth alone: a map can foretell what removal does and still say nothing of what was learned."
)


@networked(default="cutaway:scenes")
def judge(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="[FOLDER]", help="A folder of pictures, or 'scenes': drawn, with known truth."
        ),
    ] = SCENES,
    *,
    named: Network,
    method: MethodsOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B", help="Joined by commas; all when none is named.", rich_help_panel=QUESTION
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="A class number or name; else what is drawn in a scene, the predicted class of a photograph.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    bare: Annotated[
        bool,
        typer.Option(
            "--bare",
            help="Scenes only: a method that compares with a picture compares with the scene without its object.",
            rich_help_panel=QUESTION,
        ),
    ] = False,
    random_labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SPEC",
            help="Weights of the same network, or another model, that learned permuted labels: label randomization.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="How many pictures, the first by name.", rich_help_panel=QUESTION)
    ] = 8,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.OPTION=VALUE",
            help="An option of a method or a metric.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    seed: SeedOption = 0,
    metric_seed: Annotated[
        int, typer.Option(min=0, help="For metrics that draw random numbers.", rich_help_panel=QUESTION)
    ] = 0,
    output: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score explanations: do they find the evidence, foretell what removal does, depend on what was learned?"""
    files = [] if data == SCENES else pictures_in(Path(data))
    check_outputs(output, None, files, endings=ENDINGS)
    files = files[:pictures]
    if bare and files:
        raise UsageError(
            f"--bare with {data}", "scenes, whose objects can be left out", "cutaway judge --bare"
        )

    from cutaway.core.target import as_target
    from cutaway.metrics.judging import judge as judged
    from cutaway.metrics.labels import check_twin
    from cutaway.metrics.score_card import ScoreCard

    from .asked import asks, check_layers

    measures, rest = _measures(metric or [], settings or [])
    if random_labels is not None and all(m.name != "label_randomization" for m, _ in measures):
        raise UsageError(
            "--random-labels, but label_randomization is not measured",
            "--random-labels for label_randomization",
            "--metric label_randomization",
        )
    asked = asks(method or [], rest)
    network = named.load()
    twin = None
    if random_labels is not None:
        a_file = ":" not in random_labels and Path(random_labels).suffix not in ("", ".py")
        file = a_file or (Path(random_labels).is_file() and not random_labels.endswith(".py"))
        spec, state = (named.model, random_labels) if file else (random_labels, None)
        twin = replace(named, model=spec, weights=state).load(quiet=True)
        check_twin(network, twin)
    subjects = (
        [_photograph(f, target) for f in files] if files else _scenes(network, pictures, target, bare=bare)
    )
    as_target(target).resolve(network)
    if metric:
        _measurable(measures, truth=any(s.truth is not None for s in subjects), twin=twin is not None)
    with suppress(InputError):  # said later with the picture itself
        network.pixels(subjects[0].picture)  # layers are looked up at the size of the pictures
    check_layers(asked, network)
    into = ScoreCard(tuple(a.method.name for a in asked), tuple(m.name for m, _ in measures))
    started, stopped = time.perf_counter(), None
    with bar(1) as show:
        pairs = [(a.method, a.options) for a in asked]
        steps = judged(
            into, network, pairs, measures, subjects, twin=twin, seed=seed, metric_seed=metric_seed
        )
        try:
            finish(steps, show(0, "judging"))
        except (Exception, KeyboardInterrupt) as error:
            stopped = error
    of = f"scenes of world {WORLD}{', compared with themselves without their object' if bare else ''}"
    of = of if data == SCENES else data
    seconds = time.perf_counter() - started
    try:  # written first, since a reader of stdout may have seen enough
        if output is not None and into.shown:
            table = into.table(network, data=of, seed=seed, seconds=seconds, again=command_line(context))
            save_table(table, output, TITLE, LEAD, whole=stopped is None)
    finally:
        if as_json:
            print_card_json(into, network, of)
        else:
            print_card(into, of)
    _end(into, stopped)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder by name; raises `InputError` when there is none."""
    from PIL import Image

    if not folder.is_dir():
        found = "a file" if folder.exists() else "missing"
        raise InputError(f"{folder} is {found}", "a folder of pictures, or 'scenes'", "cutaway judge scenes")
    endings = {e for e, form in Image.registered_extensions().items() if form in Image.OPEN}
    try:
        files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in endings)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "a folder of pictures") from error
    if not files:
        raise InputError(
            f"no picture in {folder}", "a folder with files Pillow reads: .jpg, .png ...", "another folder"
        )
    return files


def _measures(names: Sequence[str], settings: Sequence[str]) -> tuple[list[Measure], list[str]]:
    """The metrics with their options, and the settings that are of methods."""
    from cutaway.metrics import METRICS, get

    wanted = [part.strip() for name in names for part in name.split(",") if part.strip()] or list(METRICS)
    chosen = [get(name) for name in dict.fromkeys(wanted)]
    given: dict[str, dict[str, str]] = {metric.name: {} for metric in chosen}
    rest = []
    for setting in settings:
        left, equals, value = setting.partition("=")
        name, _, option = left.strip().partition(".")
        if name not in METRICS:
            rest.append(setting)
        elif name not in given:
            raise UsageError(
                f"--set {setting}, but {name} is not measured", ", ".join(given), f"--metric {name}"
            )
        elif not equals:
            raise UsageError(f"--set {setting}", "metric.option=value", "--set deletion.fill=grey")
        else:
            given[name][option] = value.strip()
    return [(metric, metric.options(given[metric.name])) for metric in chosen], rest


def _measurable(measures: Sequence[Measure], *, truth: bool, twin: bool) -> None:
    """Raise `UsageError` for a metric asked for by name that would have no value on any picture."""
    for metric, _ in measures:
        if "twin" in metric.needs and not twin:
            raise UsageError(
                f"{metric.name} without a network that learned permuted labels",
                "a network of the same architecture",
                "--random-labels FILE",
            )
        if "truth" in metric.needs and not truth:
            raise UsageError(
                f"{metric.name} on pictures whose true evidence is not known",
                "scenes, asked about what is drawn, for metrics of place",
                "cutaway judge scenes",
            )


def _photograph(file: Path, target: str | None) -> Subject:
    from cutaway.metrics.judging import Subject

    return Subject(file.name, file, target)


def _scenes(network: VisionModel, count: int, target: str | None, *, bare: bool) -> list[Subject]:
    """The first scenes of the world, each with its true evidence, asked about the class that is drawn."""
    from cutaway.core.image import read
    from cutaway.core.target import as_target
    from cutaway.data.scenes import Scenes
    from cutaway.metrics.judging import Subject

    asked = None if target is None else as_target(target).resolve(network).class_number
    subjects = []
    for scene in Scenes(count, seed=WORLD):
        name = f"scene {scene.index}, a {scene.name}"
        drawn = network.classes.index(scene.name) if scene.name in network.classes else None
        goal = target if target is not None else drawn
        known = drawn is not None and (target is None or asked == drawn)
        truth = network.pixels(scene.object_mask.astype("float32")) if known else None
        inside = None if truth is None else (truth[0].mean(0) > 0.5).cpu().numpy()
        absent = read(scene.without_object) if bare else None
        subjects.append(Subject(name, replace(read(scene.image), name=name), goal, inside, absent))
    if all(s.truth is None for s in subjects):
        say("the target is not what is drawn, so where its evidence is is not known: no metrics of place")
    return subjects


def save_table(table: Table, path: Path, title: str, lead: str, *, whole: bool) -> None:
    """Write a table and say so; a page says what it is at its head, one of unfinished work that it is."""
    if not whole:
        table = replace(table, notes=("stopped before the end: only what was finished is here", *table.notes))
    if path.suffix.lower() != ".html":
        table.save(path)
    else:
        from cutaway.view.report import report

        with whole_file(path) as temporary:
            temporary.write_text(report([table], title=title, lead=lead), encoding="utf-8")
    say(f"wrote {path}")


def _end(card: ScoreCard, stopped: BaseException | None) -> None:
    """Say on stderr what went wrong and leave with the code for it."""
    for name, error in card.unusable.items():
        show_error(error, name)
    for name, errors in card.refused.items():
        show_error(errors[0], f"{name} on {len(errors)} of {len(card.pictures)} pictures")
    if isinstance(stopped, KeyboardInterrupt):
        say("interrupted; what was finished is kept")
        raise typer.Exit(INTERRUPTED)
    if stopped is not None:
        raise stopped
    met = [*card.unusable.values(), *(e for errors in card.refused.values() for e in errors)]
    real = [e.exit_code for e in met if not isinstance(e, MethodRefusedError)]
    if met:
        raise typer.Exit(real[0] if real else met[0].exit_code)
