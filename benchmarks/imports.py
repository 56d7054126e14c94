"""Start-up: what importing Cutaway adds to importing torch, and how long the command line takes to answer."""

import subprocess
import sys
import time

from timing import report


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    everything = "import cutaway; cutaway.VisionModel, cutaway.load, cutaway.METHODS, cutaway.logit"
    commands = {
        "import torch": (sys.executable, "-c", "import torch"),
        "import torch, cutaway": (sys.executable, "-c", "import torch, cutaway"),
        "import torch, every public name": (sys.executable, "-c", f"import torch; {everything}"),
        "cutaway --help": (sys.executable, "-m", "cutaway.cli", "--help"),
        "cutaway --version": (sys.executable, "-m", "cutaway.cli", "--version"),
    }
    times = {name: sorted(seconds(*c) for _ in range(7)) for name, c in commands.items()}
    base = times["import torch"][3]
    rows = [
        [name, f"{t[3]:.2f}", f"{t[3] - base:+.2f}" if "import" in name else "", f"{t[0]:.2f} to {t[-1]:.2f}"]
        for name, t in times.items()
    ]
    report("Start-up: seconds, median of seven", ["command", "seconds", "over torch", "range"], rows, times)


if __name__ == "__main__":
    main()
