"""The report in a real browser, opened from a file: it renders, asks for nothing and complains of nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.view.report import report

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A page as the browser drew it, and what it asked for and said on the way."""

    dom: str
    requests: list[str]
    console: list[str]
    picture: Image.Image


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        if os.environ.get("CUTAWAY_REQUIRE_BROWSER") == "1":
            pytest.fail("CUTAWAY_REQUIRE_BROWSER=1 but no chromium or google-chrome")
        pytest.skip("no chromium to open the report with")
    return found


def references(dom: str) -> list[str]:
    """Everything the page points at outside itself; a missing file beside it appears in no log."""
    targets = re.findall(r"""\b(?:src|href|srcset|poster|data|action)\s*=\s*["']([^"']*)""", dom)
    targets += re.findall(r"""url\(\s*["']?([^"')]*)""", dom) + re.findall(
        r"""@import\s+["']?([^"';]*)""", dom
    )
    return [t for t in targets if not t.startswith(("data:", "#"))]


def visit(chromium: str, page: Path) -> Seen:
    """Open the page from its file and read the browser's own log of the network."""
    log, shot = page.with_suffix(".netlog.json"), page.with_suffix(".shot.png")
    own = [f"--user-data-dir={page.parent / 'profile'}", f"--log-net-log={log}", f"--screenshot={shot}"]
    command = [chromium, *FLAGS, *own, "--window-size=1280,2400", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = [e.get("params", {}) for e in json.loads(log.read_text(encoding="utf-8"))["events"]]
    # Chromium's own errands (clock, updates) come from no page: their initiator is "not an origin".
    asked = {e["url"] for e in events if "initiator" in e and e["initiator"] != "not an origin"}
    with Image.open(shot) as picture:
        return Seen(
            done.stdout,
            sorted(asked) + references(done.stdout),
            re.findall(r"CONSOLE.*", done.stderr),
            picture.convert("RGB"),
        )


@pytest.fixture(scope="module")
def page() -> str:
    """A report of several methods on pictures that include plain noise, the hardest to compress."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    model = VisionModel(network, Preprocess(), ["cat <b>", "dog & co", "house"], name="small")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    results = [
        model.explain(noise, method) for method in ("saliency", "guided_backprop", "grad_cam", "occlusion")
    ]
    truth = np.zeros((240, 320), dtype=bool)
    truth[80:160, 80:200] = True
    return report(results, truths={"array": truth})


def test_the_report_renders_and_asks_for_nothing(chromium: str, page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    seen = visit(chromium, file)
    assert seen.requests == []
    assert seen.console == []
    assert "How to read this" in seen.dom
    assert len(seen.picture.getcolors(1 << 24) or []) > 1000  # photographs and maps, not an empty page


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('<img src="http://127.0.0.1:9/x.png">', "requests"),
        ('<link rel="stylesheet" href="style.css">', "requests"),
        ("<script>console.error('lost')</script>", "console"),
        ("<script>nowhere()</script>", "console"),
    ],
)
def test_the_watch_sees_a_page_that_is_not_clean(chromium: str, tmp_path: Path, body: str, kind: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<!DOCTYPE html><title>t</title><body>{body}</body>", encoding="utf-8")
    assert getattr(visit(chromium, file), kind) != []
