"""An atlas built shard by shard: interrupted at any moment, it goes on where it was and ends with the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.run import versions
from cutaway.data.batches import Unread
from cutaway.data.folder import PictureSource

from .plan import Plan
from .reducers import REDUCERS
from .shards import Kept, Swept, sweep
from .store import SCHEMA, Folder

MANIFEST = "manifest.json"


class Work(Protocol):
    """Work in numbered parts, each of which writes its own file."""

    @property
    def plan(self) -> Plan:
        """What decides the bits."""

    def name(self, part: int) -> str:
        """The file of a part."""

    def size(self, part: int) -> int:
        """Its pictures."""

    def run(self, part: int) -> Steps[None]:
        """Do it, and write its file last; yields `Progress` in its pictures."""


Engine = Callable[[Work, Sequence[int]], Iterator[Progress]]
"""Runs parts of work; yields `Progress` in pictures, from 0 of those that are left."""


@dataclass(frozen=True)
class Job:
    """Everything a shard needs, wherever it runs."""

    model: VisionModel
    pictures: PictureSource
    plan: Plan
    folder: Folder
    classes: int
    workers: int = 2

    def name(self, shard: int) -> str:
        """Where a shard's numbers stand."""
        return shard_name(shard)

    def numbers(self, shard: int) -> range:
        """The pictures of a shard."""
        return self.plan.shards(len(self.pictures))[shard]

    def size(self, shard: int) -> int:
        """How many these are."""
        return len(self.numbers(shard))

    def run(self, shard: int) -> Steps[None]:
        """Compute a shard and write it; yields `Progress` in its pictures."""
        numbers = self.numbers(shard)
        found = yield from sweep(
            self.model, self.pictures, self.plan, numbers, self.classes, workers=self.workers
        )
        self.folder.write(self.name(shard), packed(found))


def shard_name(shard: int) -> str:
    """Where a shard's numbers stand."""
    return f"shards/{shard:06d}.safetensors"


def packed(found: Swept) -> dict[str, Tensor]:
    """A shard as plain tensors; arrays of whole numbers that are mostly 0 as their places and values."""
    out = {f"rows/{name}": values.contiguous() for name, values in found.rows.items()}
    out["unread"] = _text([list(one) for one in found.unread])
    for number, reducers in enumerate(found.kept.values()):  # a layer's name may hold anything
        for name, reducer in reducers.items():
            for part, values in reducer.state().items():
                key = f"kept/{number}/{name}/{part}"
                places = values.flatten().nonzero()[:, 0] if values.dtype == torch.int64 else None
                if places is not None and len(places) * 4 < values.numel():
                    out[f"{key}/shape"] = torch.tensor(values.shape)
                    out[f"{key}/places"] = places.to(torch.int32 if values.numel() < 2**31 else torch.int64)
                    out[f"{key}/values"] = values.flatten()[places]
                else:
                    out[key] = values.contiguous()
    return out


def unpacked(held: dict[str, Tensor], layers: Sequence[str]) -> Swept:
    """Back from `packed`, the layers in this order."""
    rows = {k.removeprefix("rows/"): v for k, v in held.items() if k.startswith("rows/")}
    unread = [Unread(*one) for one in json.loads(bytes(held["unread"].numpy()))]
    states: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key in held:
        if not key.startswith("kept/"):
            continue
        _, number, name, part, *sparse = key.split("/")
        state = states.setdefault((layers[int(number)], name), {})
        if not sparse:
            state[part] = held[key]
        elif sparse == ["shape"]:
            whole = torch.zeros(held[key].tolist(), dtype=torch.int64)
            whole.view(-1)[held[f"{key[:-6]}/places"].long()] = held[f"{key[:-6]}/values"]
            state[part] = whole
    kept: Kept = {layer: {} for layer in layers}
    for (layer, name), state in states.items():
        kept[layer][name] = REDUCERS[name].of(state)
    return Swept(kept, rows, unread)


def _text(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def manifest(job: Job, *, labels_from: str = "", classes: Sequence[str] = ()) -> dict[str, Any]:
    """What an atlas is of; whoever goes on with it must find the same."""
    return {
        "schema_version": SCHEMA,
        "model": {
            "name": job.model.name,
            "fingerprint": job.model.fingerprint,
            "classes": list(job.model.classes),
        },
        "preprocess": job.model.preprocess.to_dict(),
        "data": {
            "count": len(job.pictures),
            "fingerprint": job.pictures.fingerprint(),
            "labels": labels_from,
            "classes": list(classes),
            "sources": [{"root": str(getattr(job.pictures, "root", "")), "count": len(job.pictures)}],
        },
        "plan": job.plan.to_dict(),
        "versions": versions(),
    }


def plain(about: dict[str, Any]) -> dict[str, Any]:
    """The same as it is read back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(about))
    return found


def begin(job: Job, about: dict[str, Any]) -> list[int]:
    """Claim the folder for this job; the numbers of the shards that are still to be done.

    Raises `InputError` for a folder that holds the atlas of another network, other pictures or another plan, saying
    what differs, for one that holds anything else, and what `opened` raises.
    """
    about = plain(about)
    if job.folder.has(MANIFEST):
        differ = differences(opened(job.folder), about)
        if differ:
            raise InputError(
                f"{job.folder} holds another atlas: {'; '.join(differ)}",
                "the network, pictures and options it was begun with",
                "another folder, or delete this one",
            )
    elif job.folder.names():
        raise InputError(
            f"{job.folder} is not empty and holds no atlas", "an empty or a new folder", f"{job.folder}/atlas"
        )
    else:
        job.folder.write(MANIFEST, about)
    there = set(job.folder.names("shards"))
    return [n for n in range(len(job.plan.shards(len(job.pictures)))) if shard_name(n) not in there]


def opened(folder: Folder) -> dict[str, Any]:
    """The manifest of an atlas. Raises `InputError` for one of another layout, and one that is damaged."""
    about = folder.json(MANIFEST)
    version = about.get("schema_version") if isinstance(about, dict) else None
    if isinstance(version, int) and version != SCHEMA:
        raise InputError(
            f"the layout of {folder} has version {version}",
            f"version {SCHEMA}, which this program reads and writes",
            "build it again, in another folder",
        )
    try:
        Plan.from_dict(about["plan"])
        whole = version == SCHEMA and {"fingerprint", "sources", "classes", "count"} <= {*about["data"]}
        whole &= {"fingerprint", "name"} <= {*about["model"]}
        whole &= all(isinstance(about[name], dict) for name in ("data", "model", "preprocess", "versions"))
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f"{folder}/{MANIFEST} is damaged", "a file as it was written", "another folder")
    return dict(about)


def differences(known: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, where two manifests are not of one atlas."""
    found = []
    if known["model"]["fingerprint"] != now["model"]["fingerprint"]:
        one, other = known["model"], now["model"]
        found.append(
            f"the network was {one['name']} ({one['fingerprint']}) and is {other['name']} ({other['fingerprint']})"
        )
    if known["preprocess"] != now["preprocess"]:
        names = [k for k in now["preprocess"] if known["preprocess"].get(k) != now["preprocess"][k]]
        found.append(f"the preprocessing differs in {', '.join(names)}")
    if known["data"]["count"] != now["data"]["count"]:
        found.append(f"there were {known['data']['count']} pictures and are {now['data']['count']}")
    elif known["data"]["fingerprint"] != now["data"]["fingerprint"]:
        found.append("the pictures or their labels have changed")
    for name, value in now["plan"].items():
        if known["plan"].get(name) != value:
            found.append(f"{name} was {_short(known['plan'].get(name))} and is {_short(value)}")
    if known["versions"].get("torch") != now["versions"].get("torch"):
        found.append(f"torch was {known['versions'].get('torch')} and is {now['versions'].get('torch')}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def local(work: Work, parts: Sequence[int]) -> Iterator[Progress]:
    """The parts one after another, here."""
    total = sum(map(work.size, parts))
    done, start = 0, time.perf_counter()
    for part in parts:
        for step in work.run(part):
            yield timed(done + step.done, total, start)
        done += work.size(part)
        yield timed(done, total, start)


def timed(done: int, total: int, start: float) -> Progress:
    """Progress with the rate and the time that is left."""
    seconds = time.perf_counter() - start
    rate = done / seconds if seconds else 0.0
    left = (total - done) / rate if rate else 0.0
    words = (
        f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min" if left < 7200 else f"{left / 3600:.1f} h"
    )
    return Progress(done, total, note=f"{rate:.3g} pictures/s, {words} left")


def folded(folder: Folder, plan: Plan, count: int) -> Swept:
    """All shards as one, `count` of them; raises `UsageError` while some are missing."""
    missing = [n for n in range(count) if not folder.has(shard_name(n))]
    if missing:
        raise UsageError(
            f"{len(missing)} of {count} shards are missing", "a finished sweep", "the same command again"
        )
    whole = unpacked(folder.tensors(shard_name(0)), plan.layers)
    rows = {name: [values] for name, values in whole.rows.items()}
    unread = list(whole.unread)
    for number in range(1, count):
        part = unpacked(folder.tensors(shard_name(number)), plan.layers)
        for layer, reducers in part.kept.items():
            for name, reducer in reducers.items():
                whole.kept[layer][name].merge(reducer)
        for name, values in part.rows.items():
            rows.setdefault(name, []).append(values)
        unread += part.unread
    return Swept(whole.kept, {name: torch.cat(parts) for name, parts in rows.items()}, unread)
