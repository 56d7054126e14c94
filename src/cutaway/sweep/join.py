"""Atlases of different pictures joined into one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.data.batches import Unread

from .atlas import Atlas
from .build import MANIFEST, packed
from .fields import Fields
from .finish import DONE, FEATURES, PRINTS, STATE
from .plan import Plan
from .reducers import REDUCERS
from .shards import Kept, Swept
from .store import Folder
from .tables import pictures_table, statistics_table, units_table

_OWN = {"shard", "threads", "batch"}
"""What may differ between atlases that are joined: how each was computed."""


def join(parts: Sequence[str | Path], folder: str | Path) -> Atlas:
    """One atlas of all the pictures of several, in any order: the order of the parts changes no bit.

    The pictures of the part with the smallest fingerprint come first. Raises `InputError` for atlases of different
    networks, preprocessing, layers or statistics, saying what differs, for a picture that is in two, and for a folder
    that is not empty or that another process works in; `UsageError` for fewer than two.
    """
    if len(parts) < 2:
        raise UsageError(f"{len(parts)} atlas to join", "two or more")
    atlases = sorted((Atlas(part) for part in parts), key=lambda a: str(a.about["data"]["fingerprint"]))
    first = atlases[0]
    for next_ in atlases[1:]:
        differ = _differences(first, next_)
        if differ:
            raise InputError(
                f"{first.folder} and {next_.folder} cannot be joined: {'; '.join(differ)}",
                "atlases of one network, with the same layers and statistics",
            )
    for one, next_ in combinations(atlases, 2):
        _check_apart(one, next_)
    out = Folder(folder)
    with out.held():
        if out.names():
            raise InputError(f"{out} is not empty", "an empty or a new folder", f"{out}/joined")
        _join(atlases, out)
    return Atlas(out)


def _join(atlases: Sequence[Atlas], out: Folder) -> None:
    first = atlases[0]
    whole, names, labels, offset = (
        _shifted(first.swept, 0),
        list(first.names),
        first.labels.tolist(),
        len(first.names),
    )
    for atlas in atlases[1:]:
        part = _shifted(atlas.swept, offset)
        for layer, reducers in part.kept.items():
            for name, reducer in reducers.items():
                whole.kept[layer][name].merge(reducer)
        rows = {n: torch.cat([values, part.rows[n]]) for n, values in whole.rows.items()}
        whole = Swept(whole.kept, rows, [*whole.unread, *part.unread])
        names += atlas.names
        labels += atlas.labels.tolist()
        offset += len(atlas.names)
    about = _about(atlases, whole, len(names))
    classes = about["data"]["classes"]
    shown = about["model"].get("classes", [])
    fields = {layer: Fields.of(own) for layer, own in first.done["fields"].items()}
    out.write(MANIFEST, about)
    out.write(STATE, packed(whole))
    grey = _grey(atlases, whole.kept)
    if grey:
        out.write(FEATURES, {f"grey/{layer}": values for layer, values in grey.items()})
    out.write("units.parquet", units_table(whole.kept, names, torch.tensor(labels), fields, grey))
    out.write("statistics.parquet", statistics_table(whole.kept, first.plan.units))
    out.write("pictures.parquet", pictures_table(whole, names, torch.tensor(labels), shown, classes))
    unread = [list(one) for one in whole.unread]
    done = {"pictures": len(names), "unread": unread, "names": names, "labels": labels}
    out.write(PRINTS, {"prints": torch.cat([a.prints for a in atlases])})
    out.write(DONE, done | {"fields": first.done["fields"]})


def _check_apart(one: Atlas, other: Atlas) -> None:
    """Raise `InputError` where a picture, a file of one name and content, was read for both."""

    def read(atlas: Atlas) -> np.ndarray[Any, Any]:
        prints: np.ndarray[Any, Any] = atlas.prints[atlas.swept.rows["id"]].numpy()
        return np.ascontiguousarray(prints).view("V16")[:, 0]

    both, at, _ = np.intersect1d(read(one), read(other), return_indices=True)
    if len(both):
        name = one.names[int(one.swept.rows["id"][at.min()])]
        raise InputError(
            f"{one.folder} and {other.folder} hold {len(both)} of the same pictures, such as {name}",
            "atlases of different ones",
            "build one of them again without these",
        )


def _grey(atlases: Sequence[Atlas], kept: Kept) -> dict[str, Tensor]:
    """The activations without colour of the joined top lists, each from the part that its picture is of."""
    found: dict[str, Tensor] = {}
    for layer, reducers in kept.items():
        if "top" not in reducers:
            continue
        top: Any = reducers["top"]
        grey, offset = torch.full_like(top.values, torch.nan), 0
        for atlas in atlases:
            table = atlas.reducer(layer, "top")
            for unit, (mine, theirs) in enumerate(zip(top.pictures, table.pictures, strict=True)):
                here = (theirs >= 0) & torch.isin(theirs + offset, mine)
                place = (mine[:, None] == theirs[here] + offset).nonzero()
                grey[unit, place[:, 0]] = atlas.grey(layer)[unit, here][place[:, 1]]
            offset += len(atlas.names)
        found[layer] = grey
    return found


def _about(atlases: Sequence[Atlas], whole: Swept, count: int) -> dict[str, Any]:
    """The manifest of the joined atlas."""
    prints = [p for a in atlases for p in _parts(a)]
    sources = [source for a in atlases for source in a.about["data"]["sources"]]
    first = atlases[0].about
    data = {
        **first["data"],
        "count": count,
        "fingerprint": hashlib.sha256("\n".join(prints).encode()).hexdigest(),
        "sources": sources,
    }
    own = dict.fromkeys(_OWN, min(Plan.from_dict(first["plan"]).shard, count))
    return {**first, "data": data, "plan": {**first["plan"], **own}, "joined": prints}


def _parts(atlas: Atlas) -> list[str]:
    """The fingerprints of what an atlas was joined from, or its own."""
    return [str(p) for p in atlas.about.get("joined", [atlas.about["data"]["fingerprint"]])]


def _differences(one: Atlas, other: Atlas) -> list[str]:
    found = []
    a, b = one.about, other.about
    if a["model"]["fingerprint"] != b["model"]["fingerprint"]:
        found.append(f"the networks are {a['model']['name']} and {b['model']['name']}")
    if a["preprocess"] != b["preprocess"]:
        found.append("the preprocessing differs")
    labelled = [any("classes" in kept for kept in atlas.swept.kept.values()) for atlas in (one, other)]
    if labelled[0] != labelled[1]:
        found.append("one has labels and the other has none")
    elif a["data"]["classes"] != b["data"]["classes"]:
        found.append("their labels count in different classes")
    found += [f"{n} differs" for n, value in a["plan"].items() if n not in _OWN and b["plan"].get(n) != value]
    return found


def _shifted(swept: Swept, by: int) -> Swept:
    """The same with pictures numbered from `by` on."""

    def moved(statistic: str, name: str, values: Tensor) -> Tensor:
        numbers = statistic in ("top", "extremes") and name.endswith("pictures")
        return torch.where(values >= 0, values + by, values) if numbers else values

    kept: Kept = {
        layer: {
            name: REDUCERS[name].of({n: moved(name, n, v) for n, v in reducer.state().items()})
            for name, reducer in reducers.items()
        }
        for layer, reducers in swept.kept.items()
    }
    rows = {name: values + by if name == "id" else values for name, values in swept.rows.items()}
    unread = [Unread(one.number + by, one.name, one.reason) for one in swept.unread]
    return Swept(kept, rows, unread)
