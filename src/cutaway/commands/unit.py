"""`cutaway unit LAYER:K --atlas A`: one unit on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cutaway.core.errors import UsageError
from cutaway.core.progress import finish

from .console import bar, command_line, say
from .network import AtlasModelOption, Network, PhotosOption, networked
from .options import (
    OUTPUT,
    QUESTION,
    JsonOption,
)
from .outputs import check_outputs, write_page

TITLE = "What one unit answers to"
LEAD = (
    "Patches are the receptive fields of its strongest activations, at most one of a picture, beside what a projection "
    "to pixels says of them. They show what excites the unit most, not everything it answers to."
)


@networked(AtlasModelOption, None)
def unit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="LAYER:K", help="A unit, such as features.10:41.")],
    *,
    atlas: Annotated[
        str, typer.Option("--atlas", "-a", metavar="FOLDER", help="Made by `cutaway atlas build`.")
    ],
    named: Network,
    photos: PhotosOption = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Best patches to show; 9.", rich_help_panel=QUESTION)
    ] = None,
    projection: Annotated[
        str | None,
        typer.Option(
            metavar="RULE", help="How patches are projected to pixels, or none.", rich_help_panel=QUESTION
        ),
    ] = None,
    regions: Annotated[
        int,
        typer.Option(
            min=0, help="Rank the regions of so many of its best pictures as well.", rich_help_panel=QUESTION
        ),
    ] = 0,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="What turning, mirroring and shuffling all its kept patches costs it: eleven passes.",
            rich_help_panel=QUESTION,
        ),
    ] = False,
    dissection: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Its layer's units from `cutaway dissect`.", rich_help_panel=QUESTION
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help=".html, .png, .npz.", rich_help_panel=OUTPUT),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a unit: its best patches, their projections, its distribution, its classes and its indexes."""
    layer, colon, number = name.rpartition(":")
    if not colon or not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise UsageError(f"unit {name!r}", "LAYER:CHANNEL", "features.10:41")
    if output is not None:
        check_outputs(output, None, endings=(".html", ".png", ".npz"))

    from cutaway.core.result import Patches, load_result
    from cutaway.methods.units.region_page import region_page
    from cutaway.methods.units.unit_page import unit_page
    from cutaway.sweep.atlas import Atlas

    found = Atlas(atlas)
    found.top(layer, int(number), 1)
    network = named.load(found)
    options: dict[str, Any] = {} if projection is None else {"projection": projection}
    if dissection is not None:
        options["dissection"] = load_result(dissection)
    results = unit_page(
        network,
        found,
        layer,
        int(number),
        photos=photos,
        k=k,
        profile=profile,
        again=command_line(context),
        **options,
    )
    patches = results[0]
    assert isinstance(patches, Patches)
    if regions:
        steps = region_page(network, found, patches, layer, int(number), pictures=regions, photos=photos)
        with bar(1) as show:
            results.append(finish(steps, show(0, "ranking regions")))
    if output is not None:
        if output.suffix.lower() == ".npz":
            say(f"wrote {patches.save(output)}")
        else:
            write_page(results, output, f"{TITLE}: {name}", LEAD)
    if as_json:
        from .summary import print_json

        print_json("unit", {"unit": name, "results": [r.to_dict() for r in results]})
        return
    _print(name, results)


def _print(name: str, results: list) -> None:  # type: ignore[type-arg]
    """The unit's numbers and best pictures on stdout."""
    from rich.table import Table
    from rich.text import Text

    from .console import console

    patches, out = results[0], console()
    out.print(Text(f"{name}  {patches.provenance.model}, {patches.provenance.image}", style="bold"))
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for key, value in patches.evidence.items():
        facts.add_row(Text(key), Text(f"{value:.4g}" if isinstance(value, float) else str(value)))
    out.print(facts)
    best = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for head in ("activation", "picture"):
        best.add_column(head, no_wrap=True)
    for value, source in zip(patches.scores, patches.sources, strict=True):
        best.add_row(Text(f"{value:.4g}"), Text(source))
    out.print(best)
    for note in patches.notes:
        out.print(Text(f"  {note}", style="dim"), soft_wrap=True)
