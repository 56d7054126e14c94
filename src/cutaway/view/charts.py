"""The drawings of any result, and the plain ones: pictures, patches, curves, tables, points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cutaway.core.errors import UsageError
from cutaway.core.result import Attribution, Curves, Panel, Patches, Picture, Result, Scatter, Table

from .colors import OKABE_ITO, Array, Theme, finite, number
from .drawing import Drawing, drawings
from .grids import grid_drawing
from .lettering import HAIRLINE, INK, MUTED, PAPER, font, plain, wrap, write
from .raster import fit, to_image
from .strip import ACROSS, is_strip, strip_drawing
from .walk import stages, walk_drawing

_COLORS = [f"#{bytes(c).hex()}" for c in OKABE_ITO[[4, 5, 2, 6, 1, 0, 7, 3]]]


def parts(result: Result, theme: Theme = "default") -> list[Drawing]:
    """The drawings of any result."""
    match result:
        case Attribution():
            return [walk_drawing(result)] if stages(result) else drawings(result, theme)
        case Picture():
            return picture_drawings(result)
        case Patches():
            drawn = [patches_drawing(result)]
        case Curves():
            drawn = curves_drawings(result)
        case Table():
            drawn = [table_drawing(result)]
        case Scatter():
            drawn = [scatter_drawing(result)]
        case _:
            raise UsageError(
                f"no drawing for a {type(result).__name__}", "one of the result kinds of cutaway"
            )
    return drawn + [_panel_drawing(p, result.method) for p in result.panels.values()]


def picture_drawings(result: Picture) -> list[Drawing]:
    """A picture or grid with every panel that belongs to it; what makes maps, or says so, stands before them."""
    first = Panel(
        result.title, result.values, result.scale, result.unit, columns=result.columns, each=result.each
    )
    causes = [p for p in result.panels.values() if p.before or first.scale == "maps" != p.scale]
    others = [p for p in result.panels.values() if not any(p is c for c in causes)]
    return [_panel_drawing(p, result.method) for p in (*causes, first, *others)]


def _panel_drawing(panel: Panel, method: str) -> Drawing:
    return strip_drawing(panel) if is_strip(panel) else grid_drawing(panel, method)


def patches_drawing(result: Patches) -> Drawing:
    """Patches in their order, each with its value under it."""
    values = finite(result.values, f"values of {result.method}")
    count = len(values)
    height, width = values.shape[2:]
    times = 96 / max(height, width)
    high, wide = max(1, round(height * times)), max(1, round(width * times))
    columns = math.isqrt(count - 1) + 1 if count else 1
    columns = min(columns, ACROSS) if result.names else columns
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (wide + 6), max(1, rows * (high + 22))), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, patch in enumerate(values):
        x, y = (i % columns) * (wide + 6), (i // columns) * (high + 22)
        picture = fit(np.moveaxis(patch, 0, -1), high, wide, smooth=max(height, width) >= 48)
        sheet.paste(to_image(picture), (x, y))
        name = f"{result.names[i]}  " if result.names else ""
        write(pen, x, y + high + 2, name + number(float(result.scores[i])), 12, MUTED)
    if result.names:
        return Drawing(f"{count} units, each with its largest value", sheet)
    return Drawing(f"{count} patches, strongest first, with their values", sheet)


def curves_drawings(result: Curves) -> list[Drawing]:
    """Lines over their axis, each with its name at its end; one chart for each label of the upright axis."""
    if isinstance(result.y_label, str):
        return [_chart(result, result.y_label, range(len(result.values)), 640)]
    labels = list(result.y_label)
    return [
        _chart(result, label, [i for i, own in enumerate(labels) if own == label], 400)
        for label in dict.fromkeys(labels)
    ]


def _chart(result: Curves, label: str, lines: Sequence[int], width: int) -> Drawing:
    values = finite(result.values[list(lines)], f"values of {result.method}")
    x = finite(result.x, "the axis")
    titled = len(lines) == 1 and not isinstance(result.y_label, str)
    said = "" if titled and label == result.names[lines[0]] else label
    box = _Axes(width, 320, _range(x), _range(values), result.x_label, said, names=not titled)
    ends: list[tuple[float, str, str]] = []
    ways = [[box.at(float(a), float(b)) for a, b in zip(x, line, strict=True)] for line in values]
    for n, (i, way) in enumerate(zip(lines, ways, strict=True)):
        color = _COLORS[i % len(_COLORS)]
        # what lies under others shows beside them
        above = sum(_together(way, later) for later in ways[n + 1 :])
        box.pen.line(way, fill=color, width=2 + 3 * above, joint="curve")
        ends.append((way[-1][1], result.names[i], color))
    if titled:
        return Drawing(result.names[lines[0]], box.image)
    box.label_ends(ends)
    return Drawing("", box.image)


def _together(way: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> bool:
    """Whether two lines share a stretch from one point to the next."""
    return any(way[i : i + 2] == other[i : i + 2] for i in range(len(way) - 1))


def scatter_drawing(result: Scatter) -> Drawing:
    """Points in the plane, coloured by label; the eighth colour stands for every further label."""
    values = finite(result.values, f"values of {result.method}")
    box = _Axes(560, 420, _range(values[:, 0]), _range(values[:, 1]), "", "")
    names = sorted(set(result.labels), key=lambda n: (-list(result.labels).count(n), n))
    place = {n: min(i, 7) for i, n in enumerate(names)}
    for point, label in zip(values, result.labels, strict=True):
        x, y = box.at(float(point[0]), float(point[1]))
        box.pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_COLORS[place[label]])
    legend = [(_rgb(_COLORS[i]), n) for i, n in enumerate(names[:7])]
    if len(names) > 7:
        legend.append((_rgb(_COLORS[7]), names[7] if len(names) == 8 else f"{len(names) - 7} others"))
    return Drawing(f"{len(values)} points; axes carry no unit", box.image, legend=tuple(legend))


def table_drawing(result: Table) -> Drawing:
    """The numbers in rows and columns, at most forty rows, with their standard errors; a dash where there is none."""
    values = result.values
    finite(np.where(np.isnan(values), 0, values), f"values of {result.method}")
    shown = min(len(values), 40)
    names = [wrap(r, 13, 220, 1)[0] for r in result.rows[:shown]]
    left = 16 + max((font(13).getlength(n) for n in names), default=0)
    errors = np.full(values.shape, np.nan) if result.errors is None else result.errors
    pairs = [zip(*both, strict=True) for both in zip(values[:shown], errors, strict=False)]
    cells = [[measured(float(v), float(e)) for v, e in row] for row in pairs]
    heads = [wrap(c, 13, 220, 1)[0] for c in result.columns]
    widths = [
        20 + max(font(13).getlength(plain(t)) for t in [h, *(row[i] for row in cells)])
        for i, h in enumerate(heads)
    ]
    image = Image.new("RGB", (round(left + sum(widths)), 24 + shown * 22), PAPER)
    pen = ImageDraw.Draw(image)
    edges = [left + sum(widths[: i + 1]) for i in range(len(widths))]
    for edge, head in zip(edges, heads, strict=True):
        write(pen, edge, 2, head, 13, MUTED, "ra")
    for r, (name, row) in enumerate(zip(names, cells, strict=True)):
        y = 24 + r * 22
        pen.line((0, y, image.width, y), fill=HAIRLINE)
        write(pen, 0, y + 3, name, 13)
        for edge, text in zip(edges, row, strict=True):
            write(pen, edge, y + 3, text, 13, INK, "ra")
    more = f"first {shown} of {len(values)} rows" if shown < len(values) else ""
    return Drawing("", image, remark=more)


def measured(value: float, error: float) -> str:
    """A number with its standard error, in two digits of it, each where there is one.

    >>> measured(0.51, math.nan), measured(0.51234, 0.0213), measured(math.nan, math.nan), measured(0.0, 0.0)
    ('0.51', '0.512 ± 0.021', '–', '0')
    """
    if math.isnan(value):
        return "–"
    if math.isnan(error) or error == 0:
        return number(value)
    places = max(0, 1 - math.floor(math.log10(error)))
    if places > 6:
        return f"{number(value)} ± {number(float(f'{error:.2g}'))}"
    return f"{value:.{places}f} ± {error:.{places}f}".replace("-", "−")


def _range(values: Array) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _rgb(color: str) -> tuple[float, float, float]:
    r, g, b = bytes.fromhex(color[1:])
    return r / 255, g / 255, b / 255


class _Axes:
    """A white sheet with a hairline frame and round numbers along two sides."""

    def __init__(
        self,
        width: int,
        height: int,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        *,
        names: bool = True,
    ) -> None:
        self.x, self.y = x, y
        right = width - (120 if names else 16)
        self.left, self.top, self.right, self.bottom = 56, 24, right, height - 40
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        for value in ticks(*y):
            at = self.at(x[0], value)[1]
            self.pen.line((self.left, at, self.right, at), fill=HAIRLINE)
            write(self.pen, self.left - 6, at, number(value), 12, MUTED, "rm")
        for value in ticks(*x):
            at = self.at(value, y[0])[0]
            self.pen.line((at, self.bottom, at, self.bottom + 4), fill=MUTED)
            write(self.pen, at, self.bottom + 6, number(value), 12, MUTED, "ma")
        self.pen.line((self.left, self.bottom, self.right, self.bottom), fill=MUTED)
        write(self.pen, 0, 0, y_label, 12, INK)
        write(self.pen, self.right, self.bottom + 22, x_label, 12, INK, "ra")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies on the sheet."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def label_ends(self, ends: Sequence[tuple[float, str, str]]) -> None:
        """Names at the right end of each line, moved apart where they would overlap."""
        last = -math.inf
        for y, name, color in sorted(ends):
            last = max(y, last + 15)
            write(self.pen, self.right + 6, last, wrap(name, 12, 112, 1)[0], 12, color, "lm")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two ends, at most about `count`.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
