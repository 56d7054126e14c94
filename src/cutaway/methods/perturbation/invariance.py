"""Invariance curves: how far features and answer move when the picture is shifted, magnified or turned."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.core.errors import MethodRefusedError, UsageError
from cutaway.core.method import IMAGE, TARGET, Range, Raw, RawPanel, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Curves
from cutaway.core.tap import Tap
from cutaway.core.target import Target
from cutaway.core.windows import suggested_batch

from .motions import Beyond, Motion, described, moved

AXES = {"translation": "vertical shift, pixels", "scale": "scale", "rotation": "rotation, degrees"}
_STRIP = 7
"""Moved pictures that are shown."""


@method(
    title="Invariance curves",
    chapter="perturbation",
    needs={IMAGE, TARGET},
    gives=Curves,
    paper="Zeiler & Fergus 2014, arXiv:1311.2901, sec. 4.1 and fig. 5",
    tags=Tags(family="perturbation", focus="both", level="any"),
    caveat="What comes in from beyond the picture and what leaves it change the features too, not the motion alone.",
    laws={"weights sensitive"},
)
def invariance(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    motion: Annotated[
        Motion, "up and down, larger about the centre, or turned anticlockwise about it"
    ] = "rotation",
    reach: Annotated[
        float | None,
        Range(0, 1e6, open_low=True),
        "largest shift in pixels, scale or angle in degrees; none: 60 of 224 pixels, 1.8, 360",
    ] = None,
    points: Annotated[int, Range(2, 1000), "pictures on the axis, the untransformed one among them"] = 25,
    fill: Annotated[Beyond, "what comes in from beyond the picture; wrap: its other side"] = "grey",
    first: Annotated[str | None, "an early layer; none: the first with weights"] = None,
    last: Annotated[str | None, "a late layer; none: the last with weights before the class scores"] = None,
    relative: Annotated[bool, "divide distances by the size of the untransformed features"] = False,
) -> Steps[Raw]:
    """Distances of a moved picture's features to the untouched one's, and the probability of its class.

    Gives (3, points): the Euclidean distance ||f(x) - f(Tx)|| of the activations of an early layer, that of a late
    layer, and the softmax probability of the class asked about; for a target that is not one class, or a network
    without one score per class, the target's own value. T shifts the picture vertically by -reach to reach whole pixels,
    magnifies it by 1 to reach, or turns it by 0 to reach degrees (Zeiler & Fergus 2014, fig. 5: 60 of 224 pixels,
    1.8, 360 degrees), bilinear; whole shifts and quarter turns of a square picture interpolate nothing. The panel
    shows moved pictures, the untouched one framed. Cost: one forward pass per point.
    Raises `UsageError` for a shift with an even number of points, of less than a pixel or beyond the picture, a
    scale of 1 or less, and features that are all zero under `relative`.

    >>> import cutaway
    >>> net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> model = cutaway.VisionModel(net, cutaway.Preprocess(), name="mean colour")
    >>> result = model.explain(torch.rand(3, 4, 4), "invariance", reach=180, points=3)
    >>> result.x.tolist(), result.values[1].round(6).tolist()  # quarter turns leave the mean colour alone
    ([0.0, 90.0, 180.0], [0.0, 0.0, 0.0])
    """
    axis = _axis(motion, reach, points, x.shape[-2])
    untouched = int((axis - (1.0 if motion == "scale" else 0.0)).abs().argmin())
    names = _layers(model, first, last)
    curves, sizes = [], []
    for i in range(len(x)):
        goal = target.alone(i)
        lines = torch.zeros(3, points, dtype=torch.float64)
        around: list[Tensor] = []
        order = torch.tensor([untouched, *(k for k in range(points) if k != untouched)])
        for part in torch.split(order, suggested_batch(x)):
            pictures = moved(x[i : i + 1], motion, axis[part], fill)
            features, lines[2, part], is_probability = _read(model, pictures, goal, names)
            around = around or [f[:1] for f in features]
            for line, found, centre in zip(lines, features, around, strict=False):
                line[part] = (found - centre).norm(dim=1)
            yield Progress(i * points + int(part[-1]) + 1, len(x) * points, note="moved pictures")
        size = torch.stack([f.norm() for f in around])
        if relative:
            _no_zeros(names, size)
            lines[:2] /= size[:, None]
        curves.append(lines)
        sizes.append(size)
    values = torch.stack(curves)
    distance = "relative distance at" if relative else "distance at"
    read = "probability" if is_probability else "value"
    of = "of the class" if is_probability else "of the target"
    shown = sorted({untouched, *torch.linspace(0, points - 1, min(points, _STRIP)).round().int().tolist()})
    strip = torch.stack([moved(one[None], motion, axis[shown], fill) for one in x])
    return Raw(
        values,
        signed=False if is_probability else bool((values < 0).any()),
        unit=f"Euclidean distance{', relative' if relative else ''}; {read}",
        evidence={f"size at {n}": torch.stack(sizes)[:, k] for k, n in enumerate(names)}
        | {f"{read} untouched": values[:, 2, untouched], f"{read} least": values[:, 2].amin(1)}
        | {"layers": " and ".join(names), "untouched": untouched},
        notes=(
            f"{motion}, filled from beyond the picture with {described(fill)}; bilinear",
            *_repeated(axis),
        ),
        panels={
            "strip": RawPanel(
                f"{motion} of the picture; the untouched one is framed",
                strip,
                "picture",
                labels={k: _said(motion, float(axis[at])) for k, at in enumerate(shown)},
                framed=(shown.index(untouched),),
            )
        },
        extra={
            "x": axis.numpy(),
            "names": (f"{distance} {names[0]}", f"{distance} {names[1]}", f"{read} {of}"),
            "x_label": AXES[motion],
            "y_label": (f"{distance} {names[0]}", f"{distance} {names[1]}", read),
        },
    )


def _axis(motion: Motion, reach: float | None, points: int, height: int) -> Tensor:
    """The amounts of motion, (points,) in float64."""
    if motion == "rotation":
        return torch.linspace(0, reach or 360.0, points, dtype=torch.float64)
    if motion == "scale":
        if reach is not None and reach <= 1:
            raise UsageError(f"reach={reach:g} for a scale", "a number above 1", "reach=1.8")
        return torch.linspace(1, reach or 1.8, points, dtype=torch.float64)
    reach = reach or max(1, round(60 * height / 224))
    if points % 2 == 0:
        raise UsageError(
            f"points={points} from -{reach:g} to {reach:g} pixels leave out 0",
            "an odd number",
            f"points={points + 1}",
        )
    if reach >= height:
        raise UsageError(
            f"a shift of {reach:g} pixels of {height}", f"below {height}", f"reach={height // 4}"
        )
    if round(reach) == 0:
        raise UsageError(
            f"shifts of up to {reach:g} pixels all round to 0 px", "at least 1 pixel", f"reach={height // 4}"
        )
    return torch.linspace(-reach, reach, points, dtype=torch.float64).round()


def _repeated(axis: Tensor) -> tuple[str, ...]:
    """What to say where shifts of a part of a pixel have become others."""
    different = len(set(axis.tolist()))
    if different == len(axis):
        return ()
    return (f"shifts are whole pixels: {different} different ones at {len(axis)} points",)


def _layers(model: VisionModel, first: str | None, last: str | None) -> tuple[str, str]:
    """The two layers whose features are compared."""
    single = [row for row in model.layers if row.runs == 1 and model.layers.trace.modules[row.name].bare]
    early = [row.name for row in single if row.parameters]
    scores = model.layers[-1].units
    late = [row.name for row in single if row.total_parameters and row.units != scores] or early
    if not early:
        raise MethodRefusedError(
            "no layer with weights", "a network with named layers", "a network of modules"
        )
    return (
        early[0] if first is None else model.layers.find(first).name,
        late[-1] if last is None else model.layers.find(last).name,
    )


def _read(
    model: VisionModel, pictures: Tensor, target: Target, names: tuple[str, str]
) -> tuple[list[Tensor], Tensor, bool]:
    """Both layers' features (n, D) in float64, and the probability of the class or else the target's value."""
    wanted = dict.fromkeys((*names, *target.layers))
    with torch.no_grad(), Tap(model, *wanted) as tap:
        output = model(pictures)
    features = [tap[name].flatten(1).double().cpu() for name in names]
    values = target.read({None: output, **{name: tap.maps(name) for name in target.layers}})
    label = target.class_number
    if label is None or output.ndim != 2 or output.shape[1] < 2:
        return features, values.double().cpu(), False
    return features, output.double().softmax(1)[:, label].cpu(), True


def _no_zeros(names: tuple[str, str], sizes: Tensor) -> None:
    for name, size in zip(names, sizes.tolist(), strict=True):
        if size == 0:
            raise UsageError(
                f"the features of {name!r} are all zero, so no distance is relative to them",
                "features that are not all zero",
                "relative=False",
            )


def _said(motion: Motion, amount: float) -> str:
    return {
        "translation": f"{amount:+g} px",
        "scale": f"{amount:.3g} x",
        "rotation": f"{amount:.4g}°",
    }[motion]
