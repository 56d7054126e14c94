"""Results: raw numbers with their unit, the evidence for them and where they came from.

Studio, `--json`, report and notebook are encodings of these dataclasses. Nothing here is clipped or rescaled
for display; drawing lives in `cutaway.view` and is imported only inside `save` and `show`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from .errors import InputError, UsageError
from .files import whole_file

Array = npt.NDArray[Any]
Scale = Literal["signed", "unsigned", "categorical", "picture", "maps", "tiles"]
SCHEMA = "cutaway/1"


@dataclass(frozen=True)
class Provenance:
    """Where a result came from; enough to make it again. `seconds` is its share of what was made together.

    `again` is the command line that does so, empty where that is not known, None for what a method gave.
    """

    model: str
    fingerprint: str
    preprocess: Mapping[str, Any]
    image: str
    seed: int
    device: str
    precision: str
    seconds: float
    versions: Mapping[str, str]
    again: str | None = None


@dataclass(frozen=True)
class Panel:
    """One more picture that belongs to a result, in the same frame.

    `values` is (H, W), or (3, H, W): in [0, 1] for `scale="picture"`, around zero for "signed"; or a grid as
    `Picture` describes it, "maps" or "tiles", or (n, 3, H, W) for n pictures. `labels` names the whole numbers of a
    categorical panel, or the tiles of a grid from 0.
    `mark` is an optional (top, left, bottom, right) box in pixels of the network's input. `boxes` says which pixels
    each tile of a grid covers, (top, left, bottom, right) with all ends included, possibly beyond the picture;
    None for one that covers nothing. `framed` lists those of n pictures that get a frame; `before`: drawn first.
    """

    title: str
    values: Array
    scale: Scale
    unit: str = ""
    labels: Mapping[int, str] = field(default_factory=dict)
    mark: tuple[float, float, float, float] | None = None
    columns: int | None = None
    each: bool = False
    boxes: Sequence[tuple[int, int, int, int] | None] = ()
    framed: Sequence[int] = ()
    before: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "values"}
        return own | {"labels": {str(i): n for i, n in self.labels.items()}}

    @classmethod
    def from_dict(cls, own: Mapping[str, Any], values: Array) -> Panel:
        """The panel that `to_dict` described."""
        labels = {int(i): n for i, n in own["labels"].items()}
        boxes = tuple(box and tuple(box) for box in own.get("boxes", ()))
        mark = own["mark"] and tuple(own["mark"])
        framed = tuple(own.get("framed", ()))
        changed = {"values": values, "labels": labels, "mark": mark, "boxes": boxes, "framed": framed}
        return cls(**{**own, **changed})


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every method gives: raw values, evidence, notes and provenance.

    `evidence` holds what the method itself knows about its truth (a completeness residual, a standard error);
    `notes` are sentences a reader must see (which layer was chosen and why, what was passed as plain gradient).
    `unit` is what one number of the values means, `signed` whether zero is their middle; `panels` are further
    pictures that belong to them.
    """

    values: Array
    signed: bool = True
    unit: str = ""
    panels: Mapping[str, Panel] = field(default_factory=dict)
    method: str
    target: str
    layer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    provenance: Provenance

    kind: ClassVar[str]

    def arrays(self) -> dict[str, Array]:
        """Raw arrays by name: the values, what else the kind of result holds, and each panel."""
        return {"values": self.values} | {f"panel/{k}": p.values for k, p in self.panels.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values, with the description of each panel."""
        skip = set(self.arrays()) | {"image", "panels"}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        own["provenance"] = asdict(self.provenance)
        plain = json.loads(json.dumps(own, default=_plain))
        panels = {k: p.to_dict() for k, p in self.panels.items()}
        return {"schema": SCHEMA, "kind": self.kind, **plain, "panels": panels}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result; the ending chooses the form: `.npz` and `.json` (raw), `.png`, `.html` (drawn).

        `.png` keeps the provenance in its metadata, `.json` null for NaN. The file appears whole or not at all.
        Raises `UsageError` for another ending and `InputError` when it cannot be written.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in (".npz", ".json", ".png", ".html"):
            raise UsageError(
                f"cannot save a result as {ending or 'a file without ending'!r}",
                ".npz .json .png .html",
                "out.png",
            )
        with whole_file(path) as temporary:
            if ending == ".npz":
                meta = np.frombuffer(json.dumps(self.to_dict()).encode(), dtype=np.uint8)
                everything: dict[str, Any] = {"__meta__": meta, **self.arrays()}
                np.savez_compressed(temporary, **everything)
            elif ending == ".json":
                both = self.to_dict() | {"arrays": {k: v.tolist() for k, v in self.arrays().items()}}
                temporary.write_text(json.dumps(finite(both), allow_nan=False))
            elif ending == ".png":
                temporary.write_bytes(self.png())
            else:
                from cutaway.view.report import report

                temporary.write_text(report([self]), encoding="utf-8")
        return path

    def png(self) -> bytes:
        """The result drawn as a PNG picture, provenance in its metadata."""
        from cutaway.view.figure import draw

        return draw(self)

    def show(self) -> None:
        """Open the drawn result in the system's picture viewer."""
        import io

        from PIL import Image

        Image.open(io.BytesIO(self.png())).show()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "image/png": self.png()}

    def __repr__(self) -> str:
        """One line a person can read."""
        shape = "x".join(map(str, self.arrays()["values"].shape))
        where = f" at {self.layer}" if self.layer else ""
        return f"<{type(self).__name__} {self.method} of {self.target}{where}: {shape}, {self.provenance.seconds:.3g} s>"


@dataclass(frozen=True, kw_only=True, repr=False)
class Attribution(Result):
    """A value per position of the picture, and further panels in the same frame.

    `image` is what the network saw, (H, W, 3) in [0, 1]. `values` is (h, w), at the method's own resolution
    (a Grad-CAM keeps the layer's grid), or (3, h, w) when the method keeps colours. `signed` says whether
    zero is the middle. `unit` is what one number means.
    """

    image: Array
    kind: ClassVar[str] = "attribution"

    @property
    def heat(self) -> Array:
        """One value per position, (h, w): `values`, summed over colours when the method keeps them."""
        return self.values if self.values.ndim == 2 else self.values.sum(0)

    def arrays(self) -> dict[str, Array]:
        """The picture, the values and each panel."""
        return super().arrays() | {"image": self.image}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, with shape and range of the values and the description of each panel."""
        return super().to_dict() | {
            "shape": list(self.values.shape),
            "min": float(self.values.min()),
            "max": float(self.values.max()),
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class Picture(Result):
    """A picture the network drew, or a grid of what it holds; further grids that belong to it are its panels.

    `values` is (3, H, W) in [0, 1] for `scale="picture"`, (C, H, W) for "maps" (grey), (n, 3, H, W) for "tiles"
    (numbers around zero in three colours). A grid is drawn in `columns` columns, as square as possible when None, on
    one scale or, with `each`, one for every map or tile.
    """

    scale: Literal["picture", "maps", "tiles"] = "picture"
    title: str = ""
    columns: int | None = None
    each: bool = False
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True, kw_only=True, repr=False)
class Patches(Result):
    """Pieces of pictures, (N, 3, h, w) in [0, 1], each with its value, source image, box in it and perhaps name."""

    scores: Array
    sources: Sequence[str]
    boxes: Array
    names: Sequence[str] = ()
    kind: ClassVar[str] = "patches"

    def arrays(self) -> dict[str, Array]:
        """The patches, their scores and boxes."""
        return super().arrays() | {"scores": self.scores, "boxes": self.boxes}


@dataclass(frozen=True, kw_only=True, repr=False)
class Curves(Result):
    """Lines over a common axis: `values` (curves, points) over `x` (points,), named by `names`.

    `y_label` is one for all, or one for each curve: curves that share a label are drawn in one chart.
    """

    x: Array
    names: Sequence[str]
    x_label: str
    y_label: str | Sequence[str]
    kind: ClassVar[str] = "curves"

    def arrays(self) -> dict[str, Array]:
        """The lines and their axis."""
        return super().arrays() | {"x": self.x}


@dataclass(frozen=True, kw_only=True, repr=False)
class Table(Result):
    """Named columns of equal length; `values` (rows, columns) holds the numbers, `rows` names each row.

    NaN stands where there is no number. `errors`, of the same shape, holds standard errors, NaN where there is none.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    errors: Array | None = None
    kind: ClassVar[str] = "table"

    def arrays(self) -> dict[str, Array]:
        """The numbers, and their standard errors where they have them."""
        return super().arrays() | ({} if self.errors is None else {"errors": self.errors})


@dataclass(frozen=True, kw_only=True, repr=False)
class Scatter(Result):
    """Points in the plane, (N, 2), with a label and a source each."""

    labels: Sequence[str]
    sources: Sequence[str]
    kind: ClassVar[str] = "scatter"


KINDS: dict[str, type[Result]] = {c.kind: c for c in (Attribution, Picture, Patches, Curves, Table, Scatter)}


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a result saved as `.npz`; numbers come back to the bit.

    Raises `InputError` when the file is missing or is not one of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        own = json.loads(arrays.pop("__meta__").tobytes().decode())
        cls = KINDS[own.pop("kind")]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}", "a .npz written by result.save", "") from error
    own["provenance"] = Provenance(**own["provenance"])
    panels = own.pop("panels", {})
    own["panels"] = {k: Panel.from_dict(p, arrays.pop(f"panel/{k}")) for k, p in panels.items()}
    names = {f.name for f in fields(cls)}
    return cls(**{k: v for k, v in (own | arrays).items() if k in names})


def finite(value: Any) -> Any:
    """Plain JSON values with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """JSON for what numpy and torch hand over."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else str(value)
