"""The finished atlas as tables for anyone: Parquet that DuckDB and pandas read without this program."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cutaway.core.errors import missing

from .fields import Fields
from .shards import Kept, Swept

QUANTILES = (0.5, 0.9, 0.99, 0.995)
"""Shares whose quantiles stand in the table of units; any other is read from the sketch."""
_WORDS = {"layer", "name", "unread", "label_name"}
UNIT_COLUMNS = ("layer", "channel", "rank", "value", "picture", "row", "col", "grey")


def units_table(
    kept: Kept,
    names: Sequence[str],
    labels: Tensor | None,
    fields: Mapping[str, Fields],
    grey: Mapping[str, Tensor],
) -> bytes:
    """`units.parquet`: one row per unit and rank, the highest activation first; ranks no picture took are left out.

    Columns: layer, channel, rank (from 0), value, picture (its number), name, label (-1: unknown), row, col, and the
    unclipped receptive field of that channel in the network's frame: top, left, bottom, right, both ends included
    (null: not known); grey is the activation at the same place of the picture without colour.
    """
    columns: dict[str, list[Any]] = {name: [] for name in UNIT_COLUMNS}
    boxes: list[np.ndarray[Any, Any]] = []
    for layer, reducers in kept.items():
        if "top" not in reducers:
            continue
        top: Any = reducers["top"]
        channel, rank = (top.pictures >= 0).nonzero(as_tuple=True)
        columns["layer"].append(np.full(len(channel), layer, dtype=object))
        columns["channel"].append(channel.numpy())
        columns["rank"].append(rank.numpy())
        for name, table in (
            ("value", top.values),
            ("picture", top.pictures),
            ("row", top.rows),
            ("col", top.cols),
        ):
            columns[name].append(table[channel, rank].numpy())
        columns["grey"].append(
            grey[layer][channel, rank].numpy() if layer in grey else np.full(len(rank), np.nan)
        )
        at = (channel, top.rows[channel, rank].long(), top.cols[channel, rank].long())
        own = fields.get(layer)
        boxes.append(np.full((len(rank), 4), np.nan) if own is None else own.boxes(*at).numpy())
    joined = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in columns.items()}
    pictures = joined["picture"].astype(np.int64)
    joined["name"] = np.array([names[p] for p in pictures], dtype=object)
    known = np.full(len(names), -1, np.int64) if labels is None else labels.numpy()
    joined["label"] = known[pictures]
    found = np.concatenate(boxes) if boxes else np.zeros((0, 4))
    joined |= {side: found[:, i] for i, side in enumerate(("top", "left", "bottom", "right"))}
    kinds = {"channel": "int32", "rank": "int32", "row": "int32", "col": "int32", "label": "int32"}
    return parquet(joined, kinds | dict.fromkeys(("top", "left", "bottom", "right"), "int32?"))


def statistics_table(kept: Kept, units: Mapping[str, int]) -> bytes:
    """`statistics.parquet`: one row per unit.

    Columns: layer, channel; min, max; mean, rms, std over all places and pictures; zero_share; q50, q90, q99, q995
    with their bounds (q50_bound ...); dead (never above 0).
    """
    parts: dict[str, list[np.ndarray[Any, Any]]] = {}
    for layer, reducers in kept.items():
        own: dict[str, Any] = reducers
        count = units[layer]
        row: dict[str, Any] = {
            "layer": np.full(count, layer, dtype=object),
            "channel": np.arange(count, dtype=np.int32),
        }
        if "extremes" in own:
            row |= {"min": own["extremes"].lows, "max": own["extremes"].highs}
            row["dead"] = own["extremes"].highs <= 0
        if "moments" in own:
            row |= {n: getattr(own["moments"], n)() for n in ("mean", "rms", "std")}
        if "sketch" in own:
            sketch = own["sketch"].sketch
            row["zero_share"] = sketch.zero_share
            for q in QUANTILES:
                name = f"q{str(q)[2:]:0<2}"
                row[name], row[f"{name}_bound"] = sketch.quantile(q)
        for name, values in row.items():
            parts.setdefault(name, []).append(values.numpy() if isinstance(values, Tensor) else values)
    return parquet({name: np.concatenate(found) for name, found in parts.items()}, {})


def pictures_table(
    found: Swept, names: Sequence[str], labels: Tensor | None, classes: Sequence[str], known: Sequence[str]
) -> bytes:
    """`pictures.parquet`: one row per picture.

    Columns: picture (number), name, label, label_name, height, width (of the file; -1 when it was not read), unread
    (why; null when it was read), and the predicted classes, best first: predicted (numbers), predicted_names, probability (lists).
    """
    count = len(names)
    rows = {name: values.numpy() for name, values in found.rows.items() if "/" not in name}
    place = np.full(count, -1)
    ids = rows.pop("id", np.zeros(0, np.int64))
    place[ids] = np.arange(len(ids))
    reasons = {one.number: one.reason for one in found.unread}
    columns: dict[str, Any] = {
        "picture": np.arange(count, dtype=np.int64),
        "name": np.array(names, dtype=object),
        "unread": np.array([reasons.get(i) for i in range(count)], dtype=object),
    }
    columns["label"] = np.full(count, -1, np.int32) if labels is None else labels.numpy().astype(np.int32)
    for name in ("height", "width"):
        column = np.full(count, -1, np.int32)
        column[ids] = rows.get(name, -1)
        columns[name] = column
    label = columns["label"]
    columns["label_name"] = np.array([known[i] if 0 <= i < len(known) else None for i in label], dtype=object)
    if "class" in rows:
        empty: list[Any] = []
        columns["predicted"] = [rows["class"][p].tolist() if p >= 0 else empty for p in place]
        columns["probability"] = [rows["probability"][p].tolist() if p >= 0 else empty for p in place]
        columns["predicted_names"] = [
            [classes[c] if c < len(classes) else str(c) for c in row] for row in columns["predicted"]
        ]
    return parquet(columns, {})


def parquet(columns: Mapping[str, Any], kinds: Mapping[str, str]) -> bytes:
    """A Parquet file of columns; a kind that ends with a question mark has nulls where the numbers are nan.

    Raises `MissingDependencyError` without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing("pyarrow", "atlas", "an atlas") from error
    arrays = {}
    for name, values in columns.items():
        if name in _WORDS or isinstance(values, list):
            continue
        kind = kinds.get(name, "")
        if kind.endswith("?"):
            known = ~np.isnan(values)
            whole = np.where(known, values, 0).astype(kind[:-1])
            arrays[name] = pa.array(whole, mask=~known)
        else:
            arrays[name] = pa.array(values.astype(kind) if kind else values)
    for name in _WORDS & columns.keys():
        words = [None if w is None else str(w).encode("utf-8", "replace").decode() for w in columns[name]]
        arrays[name] = pa.array(words, pa.string())
    lists = {"predicted": pa.int64(), "probability": pa.float32(), "predicted_names": pa.string()}
    for name in lists.keys() & columns.keys():
        arrays[name] = pa.array(columns[name], pa.list_(lists[name]))
    arrays = {name: arrays[name] for name in columns}
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, compression="zstd")
    return buffer.getvalue()
