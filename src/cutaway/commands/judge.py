"""`cutaway judge`: a score card for any methods, on generated scenes whose truth is known or on a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.core.files import whole_file
from cutaway.core.progress import finish

from .console import INTERRUPTED, bar, say, show_error
from .explain import (
    OUTPUT,
    QUESTION,
    ClassesOption,
    DeviceOption,
    ModelOption,
    PreprocessOption,
    WeightsOption,
)
from .outputs import check_outputs
from .score_table import print_card
from .summary import print_json

if TYPE_CHECKING:
    from cutaway.core.model import VisionModel
    from cutaway.core.result import Table
    from cutaway.metrics.judging import Measure, Subject
    from cutaway.metrics.score_card import ScoreCard

SCENES, WORLD = "scenes", 2026
"""The default data, and the world it is drawn from: one the bundled network was neither trained nor tested on."""

TITLE = "How true the explanations are"
LEAD = (
    "Each number is the mean over the pictures with its standard error. Better is what the head of a column says. "
    "No metric is the truth alone: a map can foretell what removal does and still say nothing of what was learned."
)


def judge(
    data: Annotated[
        str,
        typer.Argument(
            metavar="[FOLDER]", help="A folder of pictures, or 'scenes': drawn, with known truth."
        ),
    ] = SCENES,
    *,
    model: ModelOption = "cutaway:scenes",
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    preprocess: PreprocessOption = None,
    device: DeviceOption = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Joined by commas; 'all' for every one that needs only a picture. See `cutaway methods`.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
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
    seed: Annotated[
        int, typer.Option(min=0, help="For methods that draw random numbers.", rich_help_panel=QUESTION)
    ] = 0,
    metric_seed: Annotated[
        int, typer.Option(min=0, help="For metrics that draw random numbers.", rich_help_panel=QUESTION)
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help=".html, .png, .npz, .json.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Score explanations: do they find the evidence, foretell what removal does, depend on what was learned?"""
    if output is not None:
        check_outputs(output, None, endings=(".html", ".png", ".npz", ".json"))
    if bare and data != SCENES:
        raise UsageError(
            f"--bare with {data}", "scenes, whose objects can be left out", "cutaway judge --bare"
        )
    files = [] if data == SCENES else pictures_in(Path(data))[:pictures]

    from cutaway.core.target import as_target
    from cutaway.metrics.judging import judge as judged
    from cutaway.metrics.labels import check_twin
    from cutaway.metrics.score_card import ScoreCard
    from cutaway.zoo import load

    from .asked import asks, check_layers

    measures, rest = _measures(metric or [], settings or [])
    asked = asks(method or [], rest)
    network = load(model, weights=weights, classes=classes, preprocess=preprocess, device=device)
    for note in network.card.get("notes", ()):
        say(f"{network.name}: {note}")
    twin = None
    if random_labels is not None:
        file = Path(random_labels).is_file() and not random_labels.endswith(".py")
        spec, state = (model, random_labels) if file else (random_labels, None)
        twin = load(spec, weights=state, classes=classes, preprocess=preprocess, device=device)
        check_twin(network, twin)
    subjects = (
        [_photograph(f, target) for f in files] if files else _scenes(network, pictures, target, bare=bare)
    )
    as_target(target).resolve(network)
    with suppress(InputError):  # said later with the picture itself
        network.pixels(subjects[0].picture)  # layers are looked up at the size of the pictures
    check_layers(asked, network)
    into = ScoreCard(tuple(a.method.name for a in asked), tuple(m.name for m, _ in measures))
    started, stopped = time.perf_counter(), False
    with bar(1) as show:
        pairs = [(a.method, a.options) for a in asked]
        steps = judged(
            into, network, pairs, measures, subjects, twin=twin, seed=seed, metric_seed=metric_seed
        )
        try:
            finish(steps, show(0, "judging"))
        except KeyboardInterrupt:
            stopped = True
    of = f"scenes of world {WORLD}{', compared with themselves without their object' if bare else ''}"
    of = of if data == SCENES else data
    table = into.table(network, data=of, seed=seed, seconds=time.perf_counter() - started)
    if as_json:
        _print_json(into, network, of)
    else:
        print_card(into, of)
    if output is not None and into.shown:
        save_table(table, output, TITLE, LEAD)
        say(f"wrote {output}")
    _end(into, stopped)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder by name; raises `InputError` when there is none."""
    from PIL import Image

    if not folder.is_dir():
        found = "a file" if folder.exists() else "missing"
        raise InputError(f"{folder} is {found}", "a folder of pictures, or 'scenes'", "cutaway judge scenes")
    endings = set(Image.registered_extensions())
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in endings)
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


def _photograph(file: Path, target: str | None) -> Subject:
    from cutaway.metrics.judging import Subject

    return Subject(file.name, file, target)


def _scenes(network: VisionModel, count: int, target: str | None, *, bare: bool) -> list[Subject]:
    """The first scenes of the world, each with its true evidence, asked about the class that is drawn."""
    from cutaway.core.image import read
    from cutaway.data.scenes import Scenes
    from cutaway.metrics.judging import Subject

    subjects = []
    for scene in Scenes(count, seed=WORLD):
        name = f"scene {scene.index}, a {scene.name}"
        goal = target if target is not None else scene.name if scene.name in network.classes else None
        truth = network.pixels(scene.object_mask.astype("float32")) if goal == scene.name else None
        inside = None if truth is None else (truth[0].mean(0) > 0.5).cpu().numpy()
        absent = read(scene.without_object) if bare else None
        subjects.append(Subject(name, replace(read(scene.image), name=name), goal, inside, absent))
    if all(s.truth is None for s in subjects):
        say("the target is not what is drawn, so where its evidence is is not known: no metrics of place")
    return subjects


def save_table(table: Table, path: Path, title: str, lead: str) -> None:
    """Write a table; a page says what it is at its head."""
    if path.suffix.lower() != ".html":
        table.save(path)
        return
    from cutaway.view.report import report

    with whole_file(path) as temporary:
        temporary.write_text(report([table], title=title, lead=lead), encoding="utf-8")


def _print_json(card: ScoreCard, network: VisionModel, of: str) -> None:
    from cutaway.metrics import METRICS

    content: dict[str, Any] = {
        "model": network.name,
        "data": of,
        "pictures": card.pictures,
        "metrics": [METRICS[name].to_dict() for name in card.shown],
        "scores": card.to_dict(),
        "verdicts": card.verdicts(),
        "compared": card.about,
        "undefined": [
            {"method": method, "metric": metric, "pictures": len(reasons), "reason": reasons[0]}
            for (method, metric), reasons in card.undefined.items()
        ],
        "refused": [
            {"method": method, "pictures": len(errors), "reason": str(errors[0])}
            for method, errors in card.refused.items()
        ],
        "unusable": [{"picture": name, "reason": str(error)} for name, error in card.unusable.items()],
    }
    print_json("judge", content)


def _end(card: ScoreCard, stopped: bool) -> None:
    """Say on stderr what went wrong and leave with the code for it."""
    for name, error in card.unusable.items():
        show_error(error, name)
    for name, errors in card.refused.items():
        show_error(errors[0], f"{name} on {len(errors)} of {len(card.pictures)} pictures")
    if stopped:
        say("interrupted; what was finished is kept")
        raise typer.Exit(INTERRUPTED)
    met = [*card.unusable.values(), *(e for errors in card.refused.values() for e in errors)]
    real = [e.exit_code for e in met if not isinstance(e, MethodRefusedError)]
    if met:
        raise typer.Exit(real[0] if real else met[0].exit_code)
