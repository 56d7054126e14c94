"""The numbers that an atlas gives of one unit."""

from __future__ import annotations

from typing import Any

from cutaway.core.errors import InputError
from cutaway.core.model import VisionModel
from cutaway.core.result import Provenance, Result, Table
from cutaway.core.run import versions
from cutaway.sweep.atlas import Atlas

from .opponent import axis_name, opponent_axes
from .selectivity import class_selectivity, colour_selectivity, population_code


def made_by(model: VisionModel, atlas: Atlas, seconds: float, again: str) -> Provenance:
    """Where a result that an atlas gave comes from."""
    return Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        preprocess=model.preprocess.to_dict(),
        image=f"{len(atlas.names)} pictures",
        seed=0,
        device=str(model.device),
        precision=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
        versions=versions(),
        again=again,
    )


def concept_of(atlas: Atlas, layer: str, channel: int, dissection: Result) -> dict[str, Any]:
    """The concept of a unit in the table of its layer's dissection, with its IoU and whether it is a detector.

    Raises `InputError` for a table of another network, layer or kind.
    """
    if dissection.provenance.fingerprint != atlas.about["model"]["fingerprint"]:
        raise InputError("a dissection of another network", f"one of {atlas.about['model']['name']}")
    known = {atlas.layer(layer), *atlas.plan.same.get(atlas.layer(layer), ())}
    if not isinstance(dissection, Table) or dissection.layer not in known:
        raise InputError(
            f"a dissection of {dissection.layer or 'several layers'}",
            f"the units of {layer!r}",
            f"cutaway dissect ... --layer {layer} -o dissected.npz",
        )
    row = dissection.evidence["units"].index(channel)
    name = str(dissection.rows[row]).partition(" ")[2]
    iou, detector = (float(dissection.values[row, dissection.columns.index(c)]) for c in ("IoU", "detector"))
    return {"concept": name or "none", "IoU": iou, "detector": bool(detector)}


def indexes(atlas: Atlas, layer: str, channel: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The numbers an atlas gives of a unit by name, and why others cannot be had.

    Names: "largest", "smallest", "mean", "rms", "zero share", "dead", "colour selectivity" (and "bounded"),
    "class selectivity", "population code", "entropy" in bits, "feature axis".
    """
    top, kept, notes = atlas.top(layer, channel), atlas.plan.statistics, list[str]()
    found: dict[str, Any] = {"largest": float(top.values[0]), "patches": len(top)}
    if "extremes" in kept:
        low, high = (getattr(atlas.reducer(layer, "extremes"), n)[channel] for n in ("lows", "highs"))
        found["smallest"] = float(low)
        if float(low) == float(high):
            notes.append("constant: it answers every place of every picture alike")
    if "moments" in kept:
        moments = atlas.reducer(layer, "moments")
        found |= {n: float(getattr(moments, n)()[channel]) for n in ("mean", "rms")}
    if "sketch" in kept:
        found["zero share"] = float(atlas.reducer(layer, "sketch").sketch.zero_share[channel])
    if float(top.values[0]) <= 0:
        return found | {"dead": True}, tuple(notes)
    grey = atlas.grey(layer)[channel, : len(top)]
    if bool(grey.isnan().any()):
        notes.append("no colour selectivity: the pictures of the network have one colour")
    else:
        found["colour selectivity"] = colour_selectivity(top.values, grey)
        found["bounded"] = colour_selectivity(top.values, grey, bounded=True)
    alive = top.values > 0
    if bool((top.labels[alive] < 0).any()):
        notes.append("no class selectivity: some of its pictures have no label")
    elif int(alive.sum()) > 1:
        found["class selectivity"] = class_selectivity(top.values, top.labels).index
        code = population_code(top.values, top.labels)
        found |= {"population code": code.count, "entropy": code.entropy}
    feature = atlas.neuron_feature(layer, channel)
    axes = None if feature is None else opponent_axes(feature.float() / 255)
    if axes is not None:
        found["feature axis"] = axis_name(axes[0].angle)
    return found, tuple(notes)
