"""A score card on stdout: on a terminal of any width, or as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .console import console
from .summary import print_json

if TYPE_CHECKING:
    from rich.table import Table as Drawn
    from rich.text import Text

    from cutaway.core.model import VisionModel
    from cutaway.metrics.score_card import ScoreCard


def print_card(card: ScoreCard, of: str) -> None:
    """Metrics down, methods across, in as many blocks as the terminal needs; then what passes and what is missing."""
    from rich.text import Text

    from cutaway.metrics import METRICS
    from cutaway.view.charts import measured

    out = console()
    counted = f"{len(card.pictures)} picture{'' if len(card.pictures) == 1 else 's'}"
    out.print(Text(f"mean ± standard error over {counted}: {of}", style="dim"))
    cells = {m: [measured(card.mean(m, n), card.error(m, n)) for n in card.shown] for m in card.methods}
    wide = max([12, *(len(c) for column in cells.values() for c in column)])
    left = [Text(METRICS[n].title).append(f"  {METRICS[n].better}", style="dim") for n in card.shown]
    most = max(1, (out.width - max((len(t) for t in left), default=0)) // (wide + 2))
    best = [_best([card.mean(m, n) for m in card.methods], METRICS[n].better) for n in card.shown]
    for first in range(0, len(card.methods), most):
        out.print(_block(card, left, cells, best, card.methods[first : first + most], wide))
        out.print()
    for line in card.verdicts():
        out.print(Text(line), soft_wrap=True)
    for note in card.notes():
        out.print(Text(note, style="dim"), soft_wrap=True)


def print_card_json(card: ScoreCard, network: VisionModel, of: str) -> None:
    """The card as one JSON object, with every reason."""
    from cutaway.metrics import METRICS

    content: dict[str, Any] = {
        "model": network.name,
        "data": of,
        "pictures": card.pictures,
        "metrics": [METRICS[name].to_dict() for name in card.shown],
        "scores": card.to_dict(),
        "verdicts": card.verdicts(),
        "compared": card.about,
        "undefined": [
            {"method": method, "metric": metric, "pictures": len(reasons), "reason": reasons[0]}
            for (method, metric), reasons in card.undefined.items()
        ],
        "refused": [
            {"method": method, "pictures": len(errors), "reason": str(errors[0])}
            for method, errors in card.refused.items()
        ],
        "unusable": [{"picture": name, "reason": str(error)} for name, error in card.unusable.items()],
    }
    print_json("judge", content)


def _block(
    card: ScoreCard,
    left: Sequence[Text],
    cells: Mapping[str, Sequence[str]],
    best: Sequence[float | None],
    methods: Sequence[str],
    wide: int,
) -> Drawn:
    """Some methods' columns, the best number of each metric in bold."""
    from rich.table import Table as Drawn
    from rich.text import Text

    table = Drawn(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("metric, better", no_wrap=True)
    for name in methods:
        table.add_column(_folded(name, wide), justify="right", vertical="bottom", no_wrap=True)
    for row, name in enumerate(card.shown):
        bold = ["bold" if card.mean(m, name) == best[row] else "" for m in methods]
        table.add_row(left[row], *(Text(cells[m][row], style=b) for m, b in zip(methods, bold, strict=True)))
    return table


def _folded(name: str, width: int) -> str:
    """A name in lines no longer than `width` where it has places to break.

    >>> _folded("integrated_gradients", 12)
    'integrated_\\ngradients'
    """
    lines = [""]
    for part in re.split(r"(?<=_)", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _best(values: Sequence[float], better: str) -> float | None:
    known = [v for v in values if v == v]
    if len(known) < 2:
        return None
    return max(known) if better == "higher" else min(known)
