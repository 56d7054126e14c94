"""Network dissection: which units of a layer are where a concept is, over a labelled data set.

Bau, Zhou, Khosla, Oliva and Torralba, "Network Dissection" (CVPR 2017, arXiv:1704.05796).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch

from cutaway.core.errors import InputError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Provenance
from cutaway.core.run import versions
from cutaway.data.batches import Batch, Unread, left_out
from cutaway.data.folder import PictureSource
from cutaway.data.pixel_labels import Annotation, PixelLabels
from cutaway.sweep.plan import plan
from cutaway.sweep.seen import Seen
from cutaway.sweep.sketch import BUCKETS, Sketch

from .dissection_counts import Basis, Counting, Source, rotation
from .dissection_found import Dissection


def dissect(
    model: VisionModel,
    pictures: PictureSource,
    labels: PixelLabels,
    layers: Sequence[str],
    *,
    q: float = 0.005,
    threshold: float = 0.04,
    sketches: Mapping[str, Sketch] | None = None,
    rotate: int | None = None,
    batch: int | None = None,
    workers: int = 2,
) -> Steps[Dissection]:
    """How well every unit of some layers says where each concept is.

    The mask M_k of unit k is where its map, enlarged to the picture, exceeds T_k, with P(a_k > T_k) <= q over all
    positions of all pictures: T is the smallest edge of the sketch with that, so the share above is exact and at most
    one bucket (1/16 of a doubling of T) short of q. Maps are enlarged bilinearly between the centres of receptive
    fields. IoU of unit k and concept c is sum |M_k and L_c| / sum |M_k or L_c|, both sums over the pictures that are
    annotated in c's category at all. The unit's concept is the one of the highest IoU; above `threshold` the unit is
    a detector of it, and the concepts that have one are the unique detectors. Two passes over the pictures, one where
    `sketches` has every layer; memory does not grow with them.

    Parameters
    ----------
    layers : names of layers with maps of more than one position.
    q : in 0 .. 1, share of the positions above T.
    threshold : in 0 .. 1, the IoU a detector exceeds.
    sketches : the distributions of the units by layer, such as an atlas keeps them
        (`atlas.reducer(layer, "sketch").sketch`); T is then that of the atlas' pictures.
    rotate : a seed; the control: each layer is dissected once more with its channels turned by a random orthogonal
        matrix, which keeps all a linear reader can tell and should leave fewer unique detectors.
    batch : pictures at a time; chosen by their size when None.
    workers : threads that decode pictures.

    Yields `Progress` in pictures. Pictures that cannot be read are left out and said. A unit whose values all fall
    into one bucket has no threshold: 100 % ties. Raises `UnknownNameError` for a layer that does not exist,
    `UsageError` for one without maps, for options out of range and for sketches of other units, `InputError` for
    activations that are not finite, labels that do not fit their picture, and where nothing is labelled at all.
    """
    for name, value in (("q", q), ("threshold", threshold)):
        if not 0 < value < 1:
            raise UsageError(f"{name}={value}", "a share above 0 and below 1", f"{name}=0.04")
    if not layers:
        raise UsageError("no layer to dissect", "at least one", repr(model.layers.suggest()[0]))
    if rotate is not None and not 0 <= rotate < 1 << 63:
        raise UsageError(f"rotate={rotate}", "a seed from 0", "rotate=0")
    frame = _frame(model, pictures)
    planned = plan(model, len(pictures), layers=layers, k=1, statistics=("sketch",), batch=batch)
    _with_maps(model, planned.layers)
    start = time.perf_counter()
    bases = [Basis(name, None) for name in planned.layers]
    if rotate is not None:
        bases += [Basis(n, rotation(planned.units[n], rotate).to(model.device)) for n in planned.layers]
    known = {} if sketches is None else _fitting(model, sketches, planned.units)
    unknown = [i for i, basis in enumerate(bases) if basis.turn is not None or basis.layer not in known]
    found = {i: known[basis.layer] for i, basis in enumerate(bases) if i not in unknown}
    total = len(pictures) * (2 if unknown else 1)
    source = Source(model, pictures, planned.batch, workers)
    if unknown:
        empty = {i: torch.zeros(planned.units[bases[i].layer], BUCKETS, dtype=torch.int64) for i in unknown}
        found |= {i: Sketch(counts) for i, counts in empty.items()}
        for some, maps in source.maps({bases[i].layer for i in unknown}, []):
            for i in unknown:
                found[i].merge(Sketch(Seen(bases[i].of(maps), some.ids).counts))
            yield Progress(int(some.ids[-1]) + 1, total, note="what the units answer")

    counts = [Counting(bases[i], found[i], q, labels) for i in range(len(bases))]
    unread: list[Unread] = []
    seen = annotated = 0
    for some, maps in source.maps(planned.layers, unread):
        height, width = some.pixels.shape[2:]
        if frame is not None and (height, width) != frame:
            raise InputError(
                f"pictures of {frame[0]}x{frame[1]} and of {height}x{width} pixels as the network sees them",
                "one size for all",
                'a preprocessing with one: {"resize": 256, "crop": 224}',
            )
        notes = [_annotation(labels, n, model, size) for n, size in _sized(some)]
        for one in notes:
            if one.masks.shape[1:] != (height, width):
                raise InputError(
                    f"labels of {one.masks.shape[1]}x{one.masks.shape[2]} pixels, "
                    f"a picture of {height}x{width} as the network sees it",
                    "labels in the network's frame",
                )
        for count in counts:
            count.update(model, some, count.basis.of(maps), notes)
        seen += len(some.ids)
        annotated += sum(bool(one.categories) for one in notes)
        yield Progress(total - len(pictures) + int(some.ids[-1]) + 1, total, note="where concepts are")
    if not annotated:
        raise InputError(f"none of {seen} pictures is labelled", "labels of at least one", "")
    made = [count.layer(threshold, rotate if count.basis.turn is not None else None) for count in counts]
    one_each = len(planned.layers)
    return Dissection(
        tuple(made[:one_each]),
        tuple(made[one_each:]),
        q,
        threshold,
        seen,
        annotated,
        _provenance(model, f"{len(pictures)} pictures", rotate, time.perf_counter() - start),
        left_out(unread),
    )


def _sized(batch: Batch) -> list[tuple[int, tuple[int, int]]]:
    sizes: list[list[int]] = batch.sizes.tolist()
    return [(int(n), (s[0], s[1])) for n, s in zip(batch.ids, sizes, strict=True)]


def _annotation(labels: PixelLabels, number: int, model: VisionModel, size: tuple[int, int]) -> Annotation:
    return labels.annotation(number, model.preprocess, size)


def _frame(model: VisionModel, pictures: PictureSource) -> tuple[int, int] | None:
    """The size at which layers are looked up: that of the pictures, where the preprocessing has none."""
    for number in range(len(pictures)):
        try:
            pixels = model.pixels(pictures.photo(number))
        except InputError:
            continue
        return int(pixels.shape[2]), int(pixels.shape[3])
    return None


def _with_maps(model: VisionModel, layers: Sequence[str]) -> None:
    for name in layers:
        row = model.layers.find(name)
        if row.grid is None or math.prod(row.grid) == 1:
            raise UsageError(
                f"layer {name!r}, which has no map of several positions",
                "a layer whose units say where",
                repr(model.layers.suggest()[0]),
            )


def _fitting(
    model: VisionModel, sketches: Mapping[str, Sketch], units: Mapping[str, int]
) -> dict[str, Sketch]:
    """The sketches by the names of the plan; those of other layers are left out."""
    reads = {model.layers.read_as(name): name for name in units}
    found = {}
    for name, sketch in sketches.items():
        mine = reads.get(model.layers.read_as(name))
        if mine is None:
            continue
        if len(sketch.counts) != units[mine]:
            raise UsageError(f"sketches of {len(sketch.counts)} units of {name!r}", f"{units[mine]}", "")
        found[mine] = sketch
    return found


def _provenance(model: VisionModel, data: str, rotate: int | None, seconds: float) -> Provenance:
    return Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        preprocess=model.preprocess.to_dict(),
        image=data,
        seed=rotate or 0,
        device=str(model.device),
        precision=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
        versions=versions(),
        again="",
    )
