"""`cutaway atlas build|merge`: what every unit of a network answers to, over a set of pictures, in one pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from cutaway.core.errors import UsageError
from cutaway.core.progress import finish

from .atlas_told import lacking, told
from .console import bar, command_line, guarded, say
from .network import AtlasModelOption, Network, PhotosOption, networked
from .options import (
    QUESTION,
    JsonOption,
)
from .outputs import check_outputs, write_page

atlas = typer.Typer(
    name="atlas",
    no_args_is_help=True,
    help="What every unit of a network answers to, over a set of pictures, in one pass.",
)

SWEEP = "How the sweep runs"
_NUMBER = re.compile("[0-9]{1,6}")


@networked()
def build(
    sources: Annotated[
        list[str], typer.Argument(metavar="PHOTOS...", help="Pictures and folders of pictures.")
    ],
    *,
    named: Network,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FOLDER", help="A folder, or a URL that fsspec knows.")
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Layers to watch; all convolutional and linear layers and the blocks when none is named.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="Pictures kept for each unit: 100, or all.", rich_help_panel=QUESTION),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Of top, extremes, moments, sketch, classes; all when not given.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    embed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B", help="Layers whose mean is kept for every picture.", rich_help_panel=QUESTION
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="FROM",
            help="auto, none, folder, prefix, or a JSON or CSV file: where the pictures' classes are said.",
            rich_help_panel=QUESTION,
        ),
    ] = "auto",
    label_classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Class names and WordNet identifiers the labels are in; else the network's classes.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Who runs the shards.", rich_help_panel=SWEEP)
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="A running Ray cluster, such as auto; else one is started here.", rich_help_panel=SWEEP
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that decode pictures; with ray, tasks.", rich_help_panel=SWEEP)
    ] = 2,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures at a time.", rich_help_panel=SWEEP)
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures to a shard: what a crash can cost.", rich_help_panel=SWEEP),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads of a shard.", rich_help_panel=SWEEP)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a network once over pictures and keep what every unit answered to; go on where it was stopped.

    Stopped at any moment, the same command goes on, and the atlas is the same to the bit.
    """
    from cutaway.data.folder import Pictures
    from cutaway.sweep.atlas import build as built
    from cutaway.sweep.build import local
    from cutaway.sweep.plan import STATISTICS

    network = named.load()
    pictures = Pictures(
        sources,
        labels=None if labels == "none" else labels,
        classes=label_classes if label_classes is not None else network.classes or None,
    )
    say(f"{len(pictures)} pictures, {pictures.labels_from}")
    if engine == "ray":
        from cutaway.sweep.ray_engine import on_ray

        run, decoding = on_ray(address=address, workers=max(1, workers)), 1
    else:
        if address is not None:
            raise UsageError("--address without --engine ray", "--engine ray", "--engine ray")
        run, decoding = local, workers
    steps = built(
        network,
        pictures,
        output,
        layers=_names(layer),
        k=min(100, len(pictures)) if k is None else k,
        statistics=STATISTICS if keep is None else tuple(_names([keep])),
        embeddings=_names(embed),
        batch=batch,
        shard=shard,
        threads=threads,
        workers=decoding,
        engine=run,
    )
    try:
        with bar(1) as show:
            found = finish(steps, show(0, "sweeping"))
    except KeyboardInterrupt:
        say(f"what was finished is kept in {output}; the same command goes on")
        raise
    told(found, as_json)


@networked(AtlasModelOption, None)
def show(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="ATLAS", help="Made by `cutaway atlas build`.")],
    *,
    layer: Annotated[str, typer.Option("--layer", "-l", help="The layer.", rich_help_panel=QUESTION)],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help=".png, .html, .npz.", rich_help_panel=QUESTION),
    ],
    named: Network,
    what: Annotated[
        Literal["patches", "features"],
        typer.Option(help="Each unit by its best patches, or by their mean.", rich_help_panel=QUESTION),
    ] = "patches",
    units: Annotated[
        str, typer.Option(metavar="A-B,C", help="Channels: 0-31,40.", rich_help_panel=QUESTION)
    ] = "",
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Patches of a unit; 9.", rich_help_panel=QUESTION)
    ] = None,
    photos: PhotosOption = None,
) -> None:
    """Draw a layer's sheet: every unit by what it answers to most."""
    from cutaway.methods.units.layer_sheet import layer_sheet
    from cutaway.sweep.atlas import Atlas

    check_outputs(output, None, endings=(".png", ".html", ".npz"))
    found = Atlas(folder)
    count = found.units(layer)
    network = named.load(found)
    chosen = _channels(units) if units else None
    steps = layer_sheet(
        network, found, layer, units=chosen, what=what, k=k, photos=photos, again=command_line(context)
    )
    with bar(1) as draw:
        sheet = finish(steps, draw(0, "drawing"))
    say(f"wrote {sheet.save(output)}: {len(sheet.values)} of {count} units")
    for line in lacking(found):
        say(line)


@networked(AtlasModelOption, None)
def colours(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="ATLAS", help="Made by `cutaway atlas build`.")],
    *,
    layer: Annotated[
        list[str],
        typer.Option("--layer", "-l", metavar="A,B", help="Layers, shallow first.", rich_help_panel=QUESTION),
    ],
    named: Network,
    photos: PhotosOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help=".html or .png.", rich_help_panel=QUESTION),
    ] = None,
) -> None:
    """How layers code colour, measured, beside what is known of seeing."""
    from cutaway.methods.units.colour_page import colour_page
    from cutaway.sweep.atlas import Atlas

    if output is not None:
        check_outputs(output, None, endings=(".html", ".png"))
    found = Atlas(folder)
    names = [name for name in _names(layer) if found.layer(name)]
    network = named.load(found)
    results = colour_page(network, found, names, photos=photos, again=command_line(context))
    if output is not None:
        write_page(results, output, "How the network codes colour", "")
    typer.echo("\n\n".join(results[0].notes))


def _channels(units: str) -> list[int]:
    """Channels of words such as "0-31,40"."""
    found: list[int] = []
    for part in units.split(","):
        first, dash, last = part.strip().partition("-")
        if not _NUMBER.fullmatch(first) or (dash and not _NUMBER.fullmatch(last)):
            raise UsageError(f"--units {units}", "numbers and ranges joined by commas", "--units 0-31,40")
        found += range(int(first), int(last if dash else first) + 1)
    return found


def merge(
    parts: Annotated[list[str], typer.Argument(metavar="ATLAS...", help="Finished atlases of one network.")],
    *,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FOLDER", help="Where the joined atlas goes.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Join atlases of one network that were made of different pictures, perhaps on different machines."""
    from cutaway.sweep.join import join

    told(join(parts, output), as_json)


def _names(given: list[str] | None) -> list[str]:
    return [part.strip() for name in given or [] for part in name.split(",") if part.strip()]


for _command in (build, show, colours, merge):
    atlas.command()(guarded(_command))
