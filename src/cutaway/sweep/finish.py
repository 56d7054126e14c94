"""What comes after the shards of an atlas: joined, looked at again, written as tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.core.errors import InputError
from cutaway.core.progress import Steps
from cutaway.data.folder import PictureSource

from .build import Engine, Job, folded, packed, unpacked
from .fields import fields_of
from .second import Second
from .tables import pictures_table, statistics_table, units_table

DONE = "atlas.json"
STATE = "state.safetensors"
FEATURES = "features.safetensors"
PRINTS = "prints.safetensors"


def prints_of(pictures: PictureSource) -> Tensor:
    """What tells each picture from others, (n, 16) uint8."""
    found = getattr(pictures, "prints", None)
    if found is not None:
        return torch.tensor(bytearray(found())).view(-1, 16)
    return torch.tensor([list(bytes.fromhex(pictures.fingerprint([n]))[:16]) for n in range(len(pictures))])


def finished(job: Job, known: Sequence[str], engine: Engine, fingerprint: str) -> Steps[None]:
    """Join the shards, look again at what top lists hold, write the tables, and last the file that ends it all."""
    folder, fields = job.folder, fields_of(job.model, job.plan.layers)
    if folder.has(STATE):
        whole = unpacked(folder.tensors(STATE), job.plan.layers)
    else:
        whole = folded(folder, job.plan, len(job.plan.shards(len(job.pictures))))
        if "id" not in whole.rows:
            first = whole.unread[0]
            raise InputError(
                f"none of {len(job.pictures)} pictures could be read; the first: {first.reason}", "pictures"
            )
        folder.write(STATE, packed(whole))
    names, labels = list(job.pictures.names), job.pictures.labels
    grey: dict[str, Tensor] = {}
    if "top" in job.plan.statistics:
        tops = {layer: whole.kept[layer]["top"] for layer in job.plan.layers}
        if not folder.has(FEATURES):
            second = Second(job.model, job.pictures, job.plan, folder, tops, fields, job.workers)
            left = [n for n in range(len(second.parts)) if not folder.has(second.name(n))]
            yield from engine(second, left)
            folder.write(FEATURES, second.joined())
        found = folder.tensors(FEATURES)
        grey = {layer: found[f"grey/{layer}"] for layer in tops}
    folder.write("units.parquet", units_table(whole.kept, names, labels, fields, grey))
    folder.write("statistics.parquet", statistics_table(whole.kept, job.plan.units))
    folder.write("pictures.parquet", pictures_table(whole, names, labels, job.model.classes, known))
    if job.pictures.fingerprint() != fingerprint:
        raise InputError(
            "the pictures have changed while the atlas was built",
            "pictures that stay as they are",
            "a new folder",
        )
    folder.write(PRINTS, {"prints": prints_of(job.pictures)})
    folder.write(
        DONE,
        {
            "pictures": len(names),
            "unread": [list(one) for one in whole.unread],
            "names": names,
            "labels": [-1] * len(names) if labels is None else labels.tolist(),
            "fields": {layer: own.to_dict() for layer, own in fields.items()},
        },
    )
