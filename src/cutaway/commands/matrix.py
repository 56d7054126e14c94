"""`cutaway matrix`: which methods run on which of your networks, and why not where they do not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.core.errors import UsageError
from cutaway.core.progress import finish

from .console import INTERRUPTED, bar, command_line, console, say, show_error
from .judge import ENDINGS, SCENES, WORLD, pictures_in, save_table
from .options import (
    NETWORK,
    QUESTION,
    ClassesOption,
    DeviceOption,
    JsonOption,
    MethodsOption,
    PreprocessOption,
    SeedOption,
    SettingsOption,
    TableOption,
)
from .outputs import check_outputs
from .summary import print_json

if TYPE_CHECKING:
    from rich.text import Text

    from cutaway.core.model import VisionModel
    from cutaway.metrics.judging import Subject
    from cutaway.metrics.universality import Opener, Universality

TITLE = "Which methods run on which networks"
LEAD = (
    "Each number is the share of what was asked, pictures by classes by layers, that the method answered within "
    "tolerance: finite, the same when asked twice, adding up where it claims to. A dash: the network could not be used."
)
MARK = "✓"


def matrix(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(metavar="[FOLDER]", help="A folder of pictures, or 'scenes': drawn ones.")
    ] = SCENES,
    *,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="SPEC",
            help="As for `explain`; once for each network.",
            rich_help_panel=NETWORK,
        ),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="One for each --model in the same order; 'published' for a model's own.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    classes: ClassesOption = None,
    preprocess: PreprocessOption = None,
    device: DeviceOption = "auto",
    method: MethodsOption = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="How many pictures, the first by name.", rich_help_panel=QUESTION)
    ] = 1,
    top: Annotated[
        int,
        typer.Option(
            min=1, help="How many classes a picture, most probable first.", rich_help_panel=QUESTION
        ),
    ] = 1,
    layers: Annotated[
        int,
        typer.Option(
            min=0, help="How many layers more for methods that read any layer.", rich_help_panel=QUESTION
        ),
    ] = 0,
    settings: SettingsOption = None,
    seed: SeedOption = 0,
    output: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try methods on networks: which run, which refuse and why, which answer within tolerance."""
    files = [] if data == SCENES else pictures_in(Path(data))
    check_outputs(output, None, files, endings=ENDINGS)
    files = files[:pictures]
    if weights and len(weights) != len(model):
        raise UsageError(
            f"{len(weights)} --weights for {len(model)} networks",
            "one for each --model, in the same order",
            "--weights published where a network has its own",
        )

    from cutaway.metrics.universality import Universality, universality

    from .asked import asks

    asked = [(a.method, a.options) for a in asks(method or [], settings or [])]
    networks = _openers(model, weights or ["published"] * len(model), classes, preprocess, device)
    into = Universality(tuple(m.name for m, _ in asked), tuple(networks))
    started, stopped = time.perf_counter(), False
    with bar(1) as show:
        steps = universality(
            into, networks, asked, _subjects(files, pictures), classes=top, layers=layers, seed=seed
        )
        try:
            finish(steps, show(0, "trying"))
        except KeyboardInterrupt:
            stopped = True
    of = f"scenes of world {WORLD}" if data == SCENES else data
    seconds = time.perf_counter() - started
    try:  # written first, since a reader of stdout may have seen enough
        if output is not None and (into.trials or into.unusable):
            table = into.table(data=of, seed=seed, seconds=seconds, again=command_line(context))
            save_table(table, output, TITLE, LEAD, whole=not stopped)
    finally:
        if as_json:
            print_json("matrix", {"networks": list(networks), "data": of, **into.to_dict()})
        else:
            _print(into, of)
    for name, error in into.unusable.items():
        show_error(error, name)
    if stopped:
        say("interrupted; what was finished is kept")
        raise typer.Exit(INTERRUPTED)
    if into.unusable:
        raise typer.Exit(next(iter(into.unusable.values())).exit_code)


def _openers(
    specs: Sequence[str],
    weights: Sequence[str],
    classes: Path | None,
    preprocess: Path | None,
    device: str,
) -> dict[str, Opener]:
    """How to open each network, by a name of its own."""

    def opener(spec: str, file: str) -> Opener:
        def opened() -> VisionModel:
            from cutaway.zoo import load

            own = None if file == "published" else file
            return load(spec, weights=own, classes=classes, preprocess=preprocess, device=device)

        return opened

    found: dict[str, Opener] = {}
    for spec, file in zip(specs, weights, strict=True):
        name = spec if specs.count(spec) == 1 else f"{spec} {file}"
        if name in found:
            raise UsageError(f"--model {spec} with the same weights twice", "networks that differ")
        found[name] = opener(spec, file)
    return found


def _subjects(files: Sequence[Path], count: int) -> list[Subject]:
    from cutaway.core.image import read
    from cutaway.data.scenes import Scenes
    from cutaway.metrics.judging import Subject

    if files:
        return [Subject(f.name, f) for f in files]
    return [Subject(f"scene {s.index}, a {s.name}", read(s.image)) for s in Scenes(count, seed=WORLD)]


def _print(found: Universality, of: str) -> None:
    """Methods down, networks across, in as many blocks as the terminal needs; then the reasons by their numbers."""
    from rich.table import Table as Drawn
    from rich.text import Text

    out = console()
    out.print(Text(f"share of {len(found.trials)} answers that run and pass: {of}", style="dim"))
    numbers: dict[str, int] = {}
    cells = {(m, n): _cell(found, m, n, numbers) for m in found.methods for n in found.networks}
    left = max(len(m) for m in (*found.methods, "every method"))
    wide = max(len(n) for n in (*found.networks, "every network")) + 2
    most = max(1, (out.width - left - 2) // wide)
    columns: list[str | None] = [*found.networks, None]
    for first in range(0, len(columns), most):
        table = Drawn(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("", no_wrap=True)
        block = columns[first : first + most]
        for name in block:
            table.add_column(name or "every network", justify="right", no_wrap=True)
        for method in found.methods:
            row = [
                cells[method, n] if n is not None else Text(_percent(found.share(method=method)), style="dim")
                for n in block
            ]
            table.add_row(method, *row)
        last = [_percent(found.share(**({} if n is None else {"network": n}))) for n in block]
        table.add_row(Text("every method", style="dim"), *(Text(s, style="dim") for s in last))
        out.print(table)
        out.print()
    for text, number in numbers.items():
        out.print(Text(f"{number}. ", style="bold").append(text), soft_wrap=True)


def _cell(found: Universality, method: str, network: str, numbers: dict[str, int]) -> Text:
    """A tick; or what part passes, with the numbers of the reasons for the rest."""
    from rich.text import Text

    asked = found.of(method=method, network=network)
    if not asked:
        return Text("–", style="dim")
    passed = sum(t.outcome == "passes" for t in asked)
    if passed == len(asked):
        return Text(MARK, style="green")
    met: Mapping[str, None] = dict.fromkeys(t.outcome for t in asked if t.outcome != "passes")
    what = f"{passed}/{len(asked)}" if len(asked) > 1 and passed else " and ".join(met)
    cited = [numbers.setdefault(text, len(numbers) + 1) for text, _ in found.reasons()[method, network]]
    return Text(what, style="red" if "fails" in met else "yellow").append(
        f" {','.join(map(str, cited))}", style="dim"
    )


def _percent(share: float) -> str:
    return "–" if share != share else f"{share:.0%}"
