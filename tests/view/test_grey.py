"""Networks that read one channel: every picture, panel and map of theirs is drawn."""

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from cutaway.view.drawing import drawings
from cutaway.view.raster import to_image


def test_one_channel_is_grey() -> None:
    picture = np.linspace(0, 1, 12).reshape(3, 4, 1)
    drawn = to_image(picture)
    assert (drawn.mode, drawn.size) == ("L", (4, 3))
    assert np.array_equal(np.asarray(drawn), np.rint(picture[..., 0] * 255))


@pytest.mark.parametrize("method", ["occlusion", "counterfactual", "lime", "invariance"])
def test_results_of_a_grey_network_are_drawn(method: str) -> None:
    torch.manual_seed(0)
    body = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    model = cutaway.VisionModel(nn.Sequential(*body).eval(), cutaway.Preprocess(channels="L"), name="grey")
    options = {"lime": {"players": "grid", "samples": 30}, "counterfactual": {"steps": 2}}.get(method, {})
    found = model.explain(torch.rand(1, 16, 16), method, 1, **options)
    assert found.png()[:4] == b"\x89PNG"
    if method == "counterfactual":
        changed = next(d for d in drawings(found) if d.title == "counterfactual").picture.convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(changed), -1, 0)
        assert np.array_equal(red, green)
        assert np.array_equal(green, blue)
        assert red.std() > 0
