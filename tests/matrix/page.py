"""docs/matrix.md from the recorded outcomes: `python -m tests.matrix.page` prints it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cutaway.methods import METHODS

from .networks import NETWORKS

OUTCOMES = Path(__file__).with_name("outcomes")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
AGREES = "agrees"
MARK = "✓"

HEAD = """# Every method on every architecture

Written by `make docs` from `tests/matrix/outcomes`; do not edit.

Each cell is a test. ✓: the method ran on this architecture, with random weights in double precision, and its numbers
agreed with an independent answer that knows nothing of this package: plain autograd, forward hooks, brute force, a
ReLU with its backward rule written by hand, the raw weights. A number: the method refused, for the reason listed under
that number below the table, with what to use instead. There is no third outcome. Options of the method are at their
defaults or smaller, so that the tests are quick; another option can lift a refusal, and the reason says so. `make matrix`
runs them all and writes this page anew.
"""


def text() -> str:
    """The whole page."""
    records = {name: record(name) for name in NETWORKS}
    notes: dict[str, int] = {}
    lines = [HEAD]
    titles = [r["network"] for r in records.values()]
    for chapter in sorted(
        {METHODS[m].chapter for r in records.values() for m in r["outcomes"] if m in METHODS}
    ):
        methods = sorted(m for m in METHODS if METHODS[m].chapter == chapter)
        lines += [
            f"## {chapter.capitalize()}",
            "",
            f"| | {' | '.join(titles)} |",
            "|---|" + ":-:|" * len(titles),
        ]
        for method in methods:
            outcomes = [r["outcomes"].get(method, "") for r in records.values()]
            if any(outcomes):
                lines.append(f"| `{method}` | {' | '.join(cell(method, o, notes) for o in outcomes)} |")
        lines.append("")
    lines += ["## Why a method refuses", "", "*L* stands for the layer's name, *n* for a number.", ""]
    lines += [f"{number}. {sentence}" for sentence, number in notes.items()]
    agreed = sum(o == AGREES for r in records.values() for o in r["outcomes"].values())
    total = sum(len(r["outcomes"]) for r in records.values())
    sizes = ", ".join(f"{r['network']} {r['pixels']}" for r in records.values() if r["pixels"] != 64)
    lines += [
        "",
        f"{agreed} of {total} pairs agree, {total - agreed} refuse. Pictures are 64 pixels wide ({sizes}).",
    ]
    return "\n".join(lines) + "\n"


def record(name: str) -> Any:
    return json.loads((OUTCOMES / f"{name}.json").read_text(encoding="utf-8"))


def cell(method: str, outcome: str, notes: dict[str, int]) -> str:
    if outcome in ("", AGREES):
        return MARK if outcome else ""
    sentence = general(method, outcome)
    return str(notes.setdefault(sentence, len(notes) + 1))


def general(method: str, sentence: str) -> str:
    """A refusal as it reads for any layer of its kind.

    >>> general("lrp", "lrp stops at 'features.3', min -0.5. Accepted: 1 or 3. Try: saliency.")
    'The method stops at *L*, min *n*. Accepted: 1 or 3. Try: saliency.'
    """
    found, accepted, rest = sentence.partition(". Accepted: ")
    found = re.sub(rf"\b{method}\b", "the method", found)
    found = re.sub(r"'[^']*'", "*L*", found)
    found = re.sub(r"(?<![\w.])-?\d+(\.\d+)?(?![\w.]*\w)", "*n*", found)
    rest = re.sub(r"'[^']*'", "*L*", rest)
    return found[:1].upper() + found[1:] + accepted + rest


if __name__ == "__main__":
    print(text(), end="")  # noqa: T201
