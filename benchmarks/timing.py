"""Both sides of a claim in one run: interleaved rounds, medians, spread, and the machine they ran on."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def paired(
    sides: dict[str, Callable[[], object]], *, rounds: int = 15, warm: int = 2
) -> dict[str, list[float]]:
    """Seconds of every side, one after the other in each round, so that slow moments hit all alike."""
    for _ in range(warm):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of the round-by-round ratio."""
    each = sorted(a / b for a, b in zip(above, below, strict=True))
    return statistics.median(each), each[len(each) // 4], each[3 * len(each) // 4]


def machine() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line),
            model,
        )
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def report(title: str, columns: list[str], rows: list[list[str]], data: object) -> None:
    """Print a table and keep it with its numbers under benchmarks/results."""
    widths = [max(len(str(r[i])) for r in [columns, *rows]) for i in range(len(columns))]
    line = "  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True))
    print(f"\n{title}\n{machine()}\n\n{line}\n{'-' * len(line)}")
    for row in rows:
        print("  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)))
    RESULTS.mkdir(exist_ok=True)
    name = title.split(":")[0].lower().replace(" ", "_").replace("-", "_")
    (RESULTS / f"{name}.json").write_text(
        json.dumps(
            {"title": title, "machine": machine(), "columns": columns, "rows": rows, "data": data}, indent=1
        )
    )
