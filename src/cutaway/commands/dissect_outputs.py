"""What `cutaway dissect` gives: a page, a figure, raw numbers, lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cutaway.core.files import whole_file

from .console import console, say

if TYPE_CHECKING:
    from cutaway.methods.units.dissection_found import DissectedLayer, Dissection

TITLE = "What the units detect"
READING = (
    "A unit answers highly where its map, enlarged to the picture, exceeds T; T is exceeded at a share q of all positions "
    "of all pictures. The unit's concept is the one with the highest intersection over union, both summed over the "
    "pictures that are labelled in the concept's category; above the IoU threshold the unit counts as its detector.",
    "Unique detectors count each concept once, however many units detect it.",
    "A rotated layer has the same activations seen along random orthogonal directions: whatever a linear reader can "
    "tell, it can still tell. Where single units mean something, it has fewer unique detectors.",
    "A mask covers a share q of the pictures, so a concept that covers more than q divided by the threshold can have no "
    "detector, however faithful the unit; a rare concept needs many pictures before a number about it says anything.",
    "Pictures are dimmed where the unit does not exceed T, and the line lies round where it does. They are those with the "
    "highest peaks, whether the concept is in them or not.",
)


def save(found: Dissection, path: Path) -> None:
    """Write a page, or as a figure or numbers the units of one layer or the summary of several."""
    if path.suffix.lower() == ".html":
        with whole_file(path) as temporary:
            temporary.write_text(_page(found), encoding="utf-8")
        return
    one = found.layers[0].layer
    (found.table(one) if len(found.layers) == 1 else found.summary()).save(path)


def _page(found: Dissection) -> str:
    from cutaway.methods.units.dissection_found import masked, said_ties
    from cutaway.view.dissected import Bar, DissectedSection, Tiles, dissected

    def bars(one: DissectedLayer, other: DissectedLayer | None) -> tuple[list[Bar], list[Bar]]:
        theirs = {} if other is None else other.by_category()
        first = [Bar(c, n[1], theirs[c][1] if theirs else None) for c, n in one.by_category().items()]
        turned = None if other is None else {k: len(units) for k, units in other.by_concept()}
        second = [
            Bar(
                f"{one.names[k]} ({one.categories[k]})",
                len(units),
                None if turned is None else turned.get(k, 0),
                f"best {one.layer}:{units[0]}, IoU {float(one.best[units[0]]):.3f}",
            )
            for k, units in one.by_concept()
        ]
        return first, second

    sections = []
    for one, verdict in zip(found.layers, found.sentences(), strict=True):
        tiles = [
            Tiles(
                f"{u.layer}:{u.unit}",
                f"{u.concept}, IoU {u.iou:.3f}",
                masked(u.pixels, u.masks).permute(0, 2, 3, 1).numpy(),
                u.names,
            )
            for u in found.shown.get(one.layer, ())
        ]
        first, second = bars(one, found.control(one.layer))
        sections.append(DissectedSection(one.layer, verdict, first, second, tiles, said_ties(one)))
    made = found.provenance
    lead = (
        f"{made.model} over {found.pictures} pictures ({made.image}), {found.annotated} of them labelled. "
        f"q = {found.q:g}, IoU above {found.threshold:g}. {made.seconds:.0f} s."
    )
    return dissected(TITLE, lead, sections, closing=[*READING, *found.notes], command=made.again or "")


def print_found(found: Dissection) -> None:
    """A line for each layer, and its unique detectors with their best unit."""
    talk = console()
    for note in found.notes:
        say(note)
    for one, sentence in zip(found.layers, found.sentences(), strict=True):
        talk.print(sentence, soft_wrap=True)
        for k, units in one.by_concept():
            talk.print(
                f"  {one.names[k]:<20} {one.categories[k]:<12} {len(units):>4}  "
                f"best {one.layer}:{units[0]}  IoU {float(one.best[units[0]]):.3f}",
                soft_wrap=True,
            )


def print_json(found: Dissection) -> None:
    """One JSON object on stdout with every unit of every layer."""
    typer.echo(
        json.dumps(
            {
                "schema": "cutaway/1",
                "command": "dissect",
                "model": found.provenance.model,
                "pictures": found.pictures,
                "annotated": found.annotated,
                "q": found.q,
                "iou": found.threshold,
                "layers": [_plain(one, found) for one in found.layers],
                "rotated": [_plain(one, found) for one in found.rotated],
                "notes": list(found.notes),
            }
        )
    )


def _plain(one: DissectedLayer, found: Dissection) -> dict[str, Any]:
    tied = set(one.tied.tolist())
    return {
        "layer": one.layer,
        "seed": one.seed,
        "detectors": int(one.detectors.sum()),
        "unique": [one.names[k] for k in one.unique],
        "categories": {
            c: dict(zip(("detectors", "unique"), n, strict=True)) for c, n in one.by_category().items()
        },
        "units": [
            {
                "unit": u,
                "concept": None if one.labels[u] < 0 else one.names[int(one.labels[u])],
                "category": None if one.labels[u] < 0 else one.categories[int(one.labels[u])],
                "iou": float(one.best[u]),
                "threshold": None if u in tied else float(one.thresholds.value[u]),
                "share": float(one.thresholds.share[u]),
                "detector": bool(one.detectors[u]),
            }
            for u in range(len(one.best))
        ],
    }
