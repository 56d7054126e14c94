"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small networks: more threads only get in each other's way

ROOT = Path(__file__).resolve().parents[1]


def shared_data() -> Path | None:
    """The folder of real photographs and weights, or None where it is not available."""
    folder = Path(os.environ.get("CUTAWAY_DATA", ROOT / ".." / "shared" / "data")).resolve()
    return folder if (folder / "weights").is_dir() else None


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real photographs and weights; skips where absent unless CUTAWAY_REQUIRE_DATA=1."""
    folder = shared_data()
    if folder is None:
        if os.environ.get("CUTAWAY_REQUIRE_DATA") == "1":
            pytest.fail("CUTAWAY_REQUIRE_DATA=1 but no data folder; set CUTAWAY_DATA")
        pytest.skip("no data folder; set CUTAWAY_DATA to run tests on real photographs and weights")
    return folder


@pytest.fixture(autouse=True)
def _quiet_seeds() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
