"""`cutaway demo`: the bundled networks on scenes with known truth and on real photographs, offline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.core.files import whole_file
from cutaway.core.progress import finish

from .console import bar, say
from .outputs import check_outputs, page

if TYPE_CHECKING:
    from cutaway.core.image import Photo
    from cutaway.core.result import Array

    from .bench import Explained

WORLD, SCENES = 2026, 4
"""The scenes shown are the first of a world that the bundled network was neither trained nor tested on."""

TITLE = "Two small networks, cut open"
LEAD = (
    "Each card asks one question of the network: on what, in this picture, does its answer rest? "
    "cutaway:scenes names the object of a drawn scene. There the truth is known, for nothing but the object makes "
    "the class, so every map can be checked against it. cutaway:cifar knows ten classes and sees photographs at "
    "32 × 32 pixels; where a photograph shows none of the ten it has to name one all the same."
)

SETTINGS = ("occlusion.fill=blur",)
"""A grey square is news to a network that never saw one; what is blurred away is only gone."""

PHOTOGRAPHS = {
    "chelsea.png": "chelsea, a cat",
    "motorcycle_left.png": "motorcycle, none of the ten classes",
    "rocket.jpg": "rocket, none of the ten classes",
}
"""Photographs that come inside scikit-image, and what they show."""


def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.html", help="Where the report goes; report.html or bias.html."
        ),
    ] = None,
    *,
    bias: Annotated[
        bool,
        typer.Option("--bias", help="Instead: a network that goes by the snow, found out beside its twin."),
    ] = False,
) -> None:
    """Write a report of the bundled networks on bundled pictures: offline, nothing of yours needed."""
    output = output or Path("bias.html" if bias else "report.html")
    check_outputs(output, None, endings=(".html",))
    started = time.perf_counter()
    if bias:
        _bias(output, started)
        return
    scenes, truths = _scenes()
    photographs = _photographs()
    explained = _explain({"cutaway:scenes": scenes, "cutaway:cifar": photographs})
    with whole_file(output) as temporary:
        temporary.write_text(page(explained, truths, TITLE, LEAD, "cutaway demo"), encoding="utf-8")
    typer.echo(_on_scenes(explained[: len(scenes)], truths))
    typer.echo(_on_photographs(explained[len(scenes) :]))
    _wrote(output, started)


def _bias(output: Path, started: float) -> None:
    """The page that shows which of two networks goes by the background; exit code 1 when it shows nothing."""
    from .bias import bias_page, lines

    text, shown = bias_page()
    with whole_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo("\n".join(lines(shown)))
    _wrote(output, started)
    if shown.missing():
        raise typer.Exit(1)


def _wrote(output: Path, started: float) -> None:
    size, seconds = output.stat().st_size / 1e6, time.perf_counter() - started
    say(f"wrote {output.absolute()} ({size:.1f} MB, {seconds:.0f} s); open it in a browser")


def _explain(pictures: Mapping[str, Sequence[Photo]]) -> list[Explained]:
    """The default methods on every picture by its network.

    On scenes they are asked about the class that is drawn, for which the evidence is known, and on photographs
    about whatever the network says.
    """
    import torch

    from cutaway.zoo import load

    from .asked import Question, asks
    from .bench import Explained, explain_picture

    torch.set_num_threads(1)  # networks this small lose more to threads waiting for each other than they gain
    todo = [(spec, photo) for spec, photos in pictures.items() for photo in photos]
    models = {spec: load(spec, device="cpu") for spec, photos in pictures.items() if photos}
    asked, explained = asks([], SETTINGS), []
    with bar(len(todo)) as show:
        for number, (spec, photo) in enumerate(todo):
            explained.append(Explained(number, photo.name))
            question = Question(target=_drawn(photo.name) if spec == "cutaway:scenes" else None)
            steps = explain_picture(explained[-1], models[spec], asked, question, photo=photo)
            finish(steps, show(number, photo.name))
    return explained


def _drawn(name: str) -> str:
    """The class in the name of a scene.

    >>> _drawn("scene 3, a fish")
    'fish'
    """
    return name.rpartition(" ")[2]


def _scenes() -> tuple[list[Photo], dict[int, Array]]:
    """Generated scenes, and by number where the only true evidence for their class is."""
    from cutaway.core.image import read
    from cutaway.data.scenes import Scenes

    drawn = Scenes(SCENES, seed=WORLD)
    photos = [replace(read(scene.image), name=f"scene {scene.index}, a {scene.name}") for scene in drawn]
    return photos, {scene.index: scene.object_mask for scene in drawn}


def _photographs() -> list[Photo]:
    """Real photographs, read where scikit-image keeps them; none, and said, where it is not installed."""
    from cutaway.core.image import read

    home = find_spec("skimage")
    folder = Path(home.origin).parent / "data" if home and home.origin else None
    found = [(folder / file, name) for file, name in PHOTOGRAPHS.items()] if folder else []
    found = [(path, name) for path, name in found if path.is_file()]
    if not found:
        say("no real photographs: they come with scikit-image, pip install 'cutaway[demo]'")
    return [replace(read(path), name=name) for path, name in found]


def _on_scenes(explained: Sequence[Explained], truths: Mapping[int, Array]) -> str:
    """One line: how often the network was right, and how much of each map lies on the object."""
    from cutaway.core.result import Attribution
    from cutaway.view.words import share_inside

    right = sum(one.prediction[0].name == _drawn(one.path) for one in explained if one.prediction)
    shares: dict[str, list[float]] = {}
    for one in explained:
        for result in one.results:
            if isinstance(result, Attribution):
                inside = share_inside(result.heat, truths[one.number]).evidence
                shares.setdefault(result.method, []).append(inside or 0.0)
    area = sum(float(truths[one.number].mean()) for one in explained) / len(explained)
    told = ", ".join(f"{name} {100 * sum(v) / len(v):.0f} %" for name, v in shares.items())
    return (
        f"scenes: {right} of {len(explained)} named rightly; positive evidence on the object: {told} "
        f"(spread evenly it would be {100 * area:.0f} %)"
    )


def _on_photographs(explained: Sequence[Explained]) -> str:
    """One line: what the network says of each photograph, right or not."""
    best = {one.path.partition(",")[0]: one.prediction[0] for one in explained if one.prediction}
    said = [f"{shown} -> {p.name} {100 * p.probability:.0f} %" for shown, p in best.items()]
    return "photographs: " + ("; ".join(said) or "none") + (" (it knows ten classes only)" if said else "")
