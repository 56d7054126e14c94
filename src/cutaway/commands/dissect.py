"""`cutaway dissect`: which units of a layer are where a concept is, over labelled pictures or generated scenes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.core.errors import InputError, UsageError
from cutaway.core.progress import finish

from .console import bar, command_line, say
from .dissect_outputs import print_found, print_json, save
from .network import Network, networked
from .options import (
    QUESTION,
    JsonOption,
    TableOption,
)
from .outputs import check_outputs

if TYPE_CHECKING:
    from cutaway.core.model import VisionModel
    from cutaway.data.folder import PictureSource
    from cutaway.data.pixel_labels import PixelLabels
    from cutaway.sweep.atlas import Atlas
    from cutaway.sweep.sketch import Sketch

SCENES, WORLD = "scenes", 2026
ENDINGS = (".html", ".png", ".npz", ".json")
NAMELESS = ("unlabelled", "unlabeled", "void")
"""Names in classes.json that mean that nothing is said."""


@networked(default="cutaway:scenes")
def dissect(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTOS...]", help="Pictures and folders of them, or 'scenes': drawn, all labelled."
        ),
    ] = None,
    *,
    named: Network,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B", help="Layers; the one for class maps when none is named.", rich_help_panel=QUESTION
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Label maps: a PNG of numbers for each picture, and classes.json there or beside the folder.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    textures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="More pictures, a folder for each texture, which fills them.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            metavar="N,M", help="Numbers of the maps that say nothing, such as 255.", rich_help_panel=QUESTION
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="How many scenes are drawn.", rich_help_panel=QUESTION)
    ] = 200,
    atlas: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="An atlas of this network that keeps sketches: T comes from its pictures.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    q: Annotated[
        float, typer.Option("-q", help="Share of positions above T.", rich_help_panel=QUESTION)
    ] = 0.005,
    iou: Annotated[float, typer.Option(help="The IoU a detector exceeds.", rich_help_panel=QUESTION)] = 0.04,
    rotate: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            min=0,
            help="The control: the same once more along random orthogonal directions.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode pictures.")] = 2,
    output: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name units by the labelled concept they are where: network dissection, with a rotation as its control.

    A figure or numbers of several layers hold the detectors of each category; of one layer, all its units.
    """
    check_outputs(output, None, [], endings=ENDINGS)
    from cutaway.methods.units.dissection import dissect as dissected
    from cutaway.methods.units.dissection_shown import show_units
    from cutaway.sweep.atlas import Atlas as Opened

    source, said, name = _data(sources or [], labels, textures, unlabelled, pictures)
    network = named.load()
    layers = [part.strip() for one in layer or [] for part in one.split(",") if part.strip()]
    if not layers:
        chosen, why = network.layers.suggest()
        layers = [chosen]
        say(f"layer {chosen}: {why}")
    sketches = None if atlas is None else _sketches(Opened(atlas), network, layers)
    start = time.perf_counter()
    with bar(1) as show:
        steps = dissected(
            network,
            source,
            said,
            layers,
            q=q,
            threshold=iou,
            sketches=sketches,
            rotate=rotate,
            workers=workers,
        )
        found = finish(steps, show(0, "dissecting"))
        if output is not None and output.suffix.lower() != ".json":
            found = finish(show_units(network, source, found), show(0, "drawing"))
    made = replace(
        found.provenance, image=name, again=command_line(context), seconds=time.perf_counter() - start
    )
    found = replace(found, provenance=made)
    try:
        if output is not None:
            save(found, output)
            say(f"wrote {output}")
    finally:
        print_json(found) if as_json else print_found(found)


def _data(
    sources: list[str], labels: Path | None, textures: Path | None, unlabelled: str | None, count: int
) -> tuple[PictureSource, PixelLabels, str]:
    """The pictures, what is known of them, and what they are called."""
    from cutaway.data.pixel_labels import JoinedLabels, SceneLabels, WholeLabels

    if sources == [SCENES] or (not sources and textures is None and labels is None):
        if labels is not None or textures is not None:
            raise UsageError("scenes with labels of others", "scenes alone", "cutaway dissect scenes")
        from cutaway.data.scene_pictures import ScenePictures
        from cutaway.data.scenes import Scenes

        scenes = ScenePictures(Scenes(count, seed=WORLD))
        return scenes, SceneLabels(scenes), f"{count} scenes of world {WORLD}"
    if bool(sources) != (labels is not None):
        raise UsageError(
            "photographs without labels" if sources else "labels without photographs",
            "PHOTOS with --labels FOLDER, --textures FOLDER, or both",
            "--labels maps/",
        )
    from cutaway.data.folder import Pictures, existing

    paths: list[str | Path] = [*sources, *([] if textures is None else [textures])]
    known: list[PixelLabels] = []
    found = Pictures(paths)
    if labels is not None:
        known.append(_maps(found, labels, unlabelled))
    if textures is not None:
        top = existing(textures)
        inside = {n: found.path(k).parent for k, n in enumerate(found.names) if top in found.path(k).parents}
        if top in inside.values() or not inside:
            raise InputError(
                f"{top} has pictures that lie in no folder of a texture"
                if inside
                else f"no picture in {top}",
                "texture/picture.jpg",
            )
        named = Pictures(paths, labels={name: folder.name for name, folder in inside.items()})
        known.append(WholeLabels(named))
    return found, known[0] if len(known) == 1 else JoinedLabels(*known), ", ".join(map(str, paths))


def _maps(pictures: Any, folder: Path, unlabelled: str | None) -> PixelLabels:
    """The label maps of a folder with their classes; an entry of classes.json may name its category."""
    from cutaway.data.labels import Classes
    from cutaway.data.pixel_labels import LabelMaps

    file = next((f for f in (folder / "classes.json", folder.parent / "classes.json") if f.is_file()), None)
    if file is None:
        raise InputError(
            f"no classes.json in {folder} or beside it",
            'the names of labels 0, 1 ... : ["sky", "road"] or [{"name": "sky", "category": "object"}]',
        )
    names = Classes.of(file)
    entries = json.loads(file.read_text(encoding="utf-8"))
    categories = {
        e["name"]: str(e.get("category", "object")) if isinstance(e, dict) else "object"
        for e in (e if isinstance(e, dict) else {"name": e} for e in entries)
    }
    try:
        nameless = [int(n) for n in (unlabelled or "").split(",") if n.strip()]
    except ValueError:
        raise UsageError(
            f"--unlabelled {unlabelled}", "numbers joined by commas", "--unlabelled 255"
        ) from None
    nameless += [k for k, name in enumerate(names.names) if name.casefold() in NAMELESS]
    return LabelMaps(pictures, folder, names, unlabelled=nameless, categories=categories)


def _sketches(atlas: Atlas, network: VisionModel, layers: list[str]) -> dict[str, Sketch]:
    """What the atlas counted of these layers, under whichever of their names it has them."""
    atlas.check(network)
    reads = {network.layers.read_as(name): name for name in atlas.layers}
    names = [reads.get(network.layers.read_as(name)) or atlas.layer(name) for name in layers]
    return {name: atlas.reducer(name, "sketch").sketch for name in names}
