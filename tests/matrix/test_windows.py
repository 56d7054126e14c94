"""Windows on every architecture: exactly what the bare network says of each whole picture."""

from __future__ import annotations

import gc

import pytest
import torch

from cutaway.core import windows
from cutaway.core.windows import Report, evaluate

from .networks import NETWORKS, built, picture


@pytest.mark.parametrize("name", NETWORKS)
def test_windows_equal_whole_pictures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WORTH", 0.0)
    monkeypatch.setattr(windows, "LITTLE", 0.0)
    network = NETWORKS[name]
    net, model = built(network)
    x = picture(network.size)
    fill = picture(network.size, seed=2)[0]
    end = network.size
    middle = end // 2
    middle = end // 2
    corners = [[0, 0, 7, 5], [end - 7, end - 6, end, end], [5, end - 9, 12, end - 2]]
    within = [[middle - 9, middle, middle - 3, middle + 7], [middle, middle - 1, middle + 7, middle + 5]]
    boxes = torch.tensor([*corners, *within])
    report, got = Report(), {}
    with model.guard():
        for numbers, values in evaluate(model, x, boxes, fill, report=report):
            got |= dict(zip(numbers.tolist(), values[None], strict=True))
    scale = max(float(v.abs().max()) for v in got.values())
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        whole = x.clone()
        whole[0, :, top:bottom, left:right] = fill[:, top:bottom, left:right]
        with torch.no_grad():
            out = net(network.normalised(whole))
        out = getattr(out, "logits", out)
        assert float((got[i] - out[0]).abs().max()) <= 1e-12 * scale, f"{name}: {report}"
    assert report.engine == "incremental", report
    del net, model
    gc.collect()
