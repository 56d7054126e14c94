"""From a result to pictures: photograph, overlay, map and panels, each with the scale that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cutaway.core.result import Attribution, Panel, Result

from .colors import Array, Floats, Scale, Theme, finite, number, scale, span
from .lettering import method_title
from .raster import categories, color_picture, enlarge, fit, overlay, to_image

# Single pixels differ from their neighbours by about half their own size (0.44 to 1.5 measured on every gradient
# map); windows and upsampled grids do not (0.03 to 0.06).
FINE = 0.25
LIFTED = "overlay, opacity √|value|"

LegendEntry = tuple[tuple[float, float, float], str]


@dataclass(frozen=True)
class Drawing:
    """One picture with its title and what reads it: a colour bar with its unit, or a legend.

    `remark` is said under the picture; `scale` is None where colours are the picture's own.
    """

    title: str
    picture: Image.Image
    scale: Scale | None = None
    unit: str = ""
    legend: Sequence[LegendEntry] = ()
    remark: str = ""


def frame(image: Array) -> tuple[int, int]:
    """Height and width at which a photograph is drawn: a whole multiple of its own where it is small.

    >>> frame(np.zeros((32, 32, 3))), frame(np.zeros((224, 224, 3))), frame(np.zeros((300, 768, 3)))
    ((256, 256), (224, 224), (150, 384))
    """
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest > 384:
        return max(1, round(height * 384 / longest)), max(1, round(width * 384 / longest))
    times = max(1, round(256 / longest))
    return height * times, width * times


def drawings(result: Attribution, theme: Theme = "default") -> list[Drawing]:
    """Photograph, overlay, map and every panel of an attribution."""
    heat_scale = evidence_scale(result, theme)
    said = remark(result)
    return [
        Drawing("what the network saw", to_image(photograph(result))),
        Drawing(
            LIFTED if is_fine(result) else "overlay",
            to_image(overlaid(result, theme)),
            heat_scale,
            result.unit,
            remark=said,
        ),
        map_drawing(result, theme),
        *(panel_drawing(p, result.image, theme) for p in result.panels.values()),
    ]


def evidence_scale(result: Attribution, theme: Theme = "default") -> Scale:
    """The scale of the evidence summed over colours."""
    return scale(finite(result.heat, f"values of {result.method}"), signed=result.signed, theme=theme)


def photograph(result: Attribution) -> Floats:
    """The photograph at the size it is drawn, (H, W, 3)."""
    return _sized(np.clip(finite(result.image, "the photograph"), 0, 1), result.image)


def is_fine(result: Attribution) -> bool:
    """Whether the map says something of its own at single pixels, so that an overlay hardly shows it.

    That is a map on the picture's grid where neighbours differ by more than a quarter of the mean |value|. The pixels
    of a picture as small as 96 are drawn as squares large enough to see.
    """
    heat = np.asarray(result.heat, np.float64)
    if heat.shape != result.image.shape[:2] or max(heat.shape) <= 96:
        return False
    size = np.abs(heat).mean()
    steps = [np.abs(np.diff(heat / size, axis=a)).mean() for a in (0, 1) if heat.shape[a] > 1] if size else []
    return bool(steps and np.mean(steps) > FINE)


def overlaid(result: Attribution, theme: Theme = "default") -> Floats:
    """The evidence over the photograph, (H, W, 3); of a fine map the weak values are lifted by a square root."""
    height, width = frame(result.image)
    same = result.heat.shape == result.image.shape[:2]
    heat = fit(finite(result.heat), height, width, smooth=not same)
    power = 0.5 if is_fine(result) else 1.0
    return overlay(photograph(result), heat, evidence_scale(result, theme), power=power)


def map_drawing(result: Attribution, theme: Theme = "default", *, enlarged: bool = True) -> Drawing:
    """The plain map on its own grid; with `enlarged` at the photograph's size, cells as flat squares."""
    height, width = frame(result.image) if enlarged else result.heat.shape
    grid = " × ".join(map(str, result.values.shape[-2:]))
    if result.values.ndim == 3 and len(result.values) == 3:
        ends = scale(result.values, signed=result.signed, colors="grey")
        colors = color_picture(result.values, signed=ends.signed)
        title = f"in colour, {grid}"
        return Drawing(title, _tile(colors, height, width), ends, result.unit, remark=remark(result))
    ends = evidence_scale(result, theme)
    picture = _indexed(result.heat, ends, height, width)
    return Drawing(f"map, {grid}", picture, ends, result.unit, remark=remark(result))


def panel_drawing(
    panel: Panel, image: Array, theme: Theme = "default", *, size: tuple[int, int] | None = None
) -> Drawing:
    """A panel at the photograph's size (or `size`), with its bar or legend and its mark."""
    height, width = size or frame(image)
    finite(panel.values, f"panel {panel.title!r}")
    ends, legend = None, []
    if panel.scale == "picture":
        picture = _tile(np.moveaxis(panel.values, 0, -1), height, width, smooth=True)
    elif panel.values.ndim == 3:
        ends = scale(panel.values, signed=panel.scale == "signed", colors="grey")
        picture = _tile(color_picture(panel.values, signed=ends.signed), height, width)
    elif panel.scale == "categorical":
        rgb, colors = categories(panel.values)
        legend = _legend(colors, panel)
        picture = to_image(enlarge(rgb, height, width))
    else:
        signed = panel.scale == "signed"
        ends = scale(panel.values, signed=True, theme=theme) if signed else span(panel.values, theme=theme)
        picture = _indexed(panel.values, ends, height, width)
    if panel.mark is not None:
        picture = _marked(picture, panel.mark, image.shape[:2])
    flat = f"constant: {number(ends.low)} everywhere" if ends is not None and ends.flat else ""
    return Drawing(panel.title, picture, ends, panel.unit, tuple(legend), flat)


def remark(result: Attribution) -> str:
    """What must be said of a map that shows nothing, or one number only; else nothing."""
    low, high = float(result.heat.min()), float(result.heat.max())
    if low == high == 0:
        kind = "no evidence" if result.signed else "no positive evidence"
        return f"all zero: {kind} at {result.layer or 'any position'}"
    return f"constant: {number(low)} everywhere" if low == high else ""


def title_of(result: Attribution) -> str:
    """The method's name for people."""
    return method_title(result.method)


def picture_names(results: Sequence[Result]) -> list[str]:
    """The name of each result's picture on a page of many, in the order of the results.

    It is the picture's own name; where two pictures share it, the later ones are called "name (2)", "name (3)".
    """
    seen: dict[str, list[bytes]] = {}
    names = []
    for r in results:
        name = r.provenance.image
        content = r.image.tobytes() if isinstance(r, Attribution) else None
        known = seen.setdefault(name, [])
        if content is not None and content not in known:
            known.append(content)
        turn = known.index(content) if content is not None else 0
        names.append(name if turn == 0 else f"{name} ({turn + 1})")
    return names


def _legend(colors: dict[int, tuple[float, float, float]], panel: Panel) -> list[LegendEntry]:
    total = panel.values.size
    entries = [(c, i, int((panel.values == i).sum())) for i, c in colors.items()]
    named = entries if len(entries) <= 8 else entries[:7]
    legend = [(c, f"{panel.labels.get(i, str(i))} {_percent(n / total)}") for c, i, n in named]
    if rest := entries[len(named) :]:
        legend.append((rest[0][0], f"{len(rest)} others {_percent(sum(n for _, _, n in rest) / total)}"))
    return legend


def _percent(part: float) -> str:
    """A share that is there is never said to be 0 %, and one that is not whole never 100 %.

    >>> _percent(0.5), _percent(0.0004), _percent(0.9996), _percent(1.0)
    ('50 %', 'under 1 %', 'over 99 %', '100 %')
    """
    if 0 < part < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= part < 1 else f"{100 * part:.0f} %"


def _indexed(values: Array, ends: Scale, height: int, width: int) -> Image.Image:
    smooth = values.shape[0] > height or values.shape[1] > width
    return to_image(ends.rgb(fit(values, height, width, smooth=smooth)))


def _tile(picture: Array, height: int, width: int, *, smooth: bool = False) -> Image.Image:
    return to_image(fit(np.clip(picture, 0, 1), height, width, smooth=smooth))


def _sized(picture: Array, image: Array) -> Floats:
    return fit(picture, *frame(image), smooth=False)


def _marked(
    picture: Image.Image, mark: tuple[float, float, float, float], size: tuple[int, ...]
) -> Image.Image:
    top, left, bottom, right = mark
    y, x = picture.height / size[0], picture.width / size[1]
    box = (left * x, top * y, max(left, right) * x - 1, max(top, bottom) * y - 1)
    pen = ImageDraw.Draw(picture)
    pen.rectangle(box, outline="#000000", width=3)
    pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline="#ffffff", width=1)
    return picture
