"""Detectors of torchvision by their class scores: the surest detection of each class, as torchvision itself scores it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import detection

import cutaway
from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.methods import get
from cutaway.nn.detector import ClassScores

EVERY = 10**5
SMALL: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 5}


def built(kind: str) -> nn.Module:
    """A small untrained detector that hands every detection out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "faster":
            options = {"box_score_thresh": 0, "box_nms_thresh": 1.0, "box_detections_per_img": EVERY}
            net = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
                **SMALL, **options, min_size=64, max_size=128
            )
        else:
            options = {
                "score_thresh": 0,
                "nms_thresh": 1.0,
                "detections_per_img": EVERY,
                "topk_candidates": EVERY,
            }
            if kind == "ssd":
                net = detection.ssdlite320_mobilenet_v3_large(**SMALL, **options)
            else:
                make = {"retina": detection.RetinaNet, "fcos": detection.FCOS}[kind]
                net = make(backbone(), 5, min_size=64, max_size=128, **options, **anchors(kind))
        for module in net.modules():  # livelier than torchvision starts them, so that pictures differ
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for name, module in net.named_modules():
            if kind == "ssd" and "classification_head" in name and isinstance(module, nn.Conv2d):
                module.weight.data *= 0.2
            if kind == "faster" and name.endswith("cls_score"):
                module.weight.data *= 0.2
    return net.eval()


def backbone() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 32, 3, stride=8, padding=1), nn.ReLU())
    net.out_channels = 32
    return net


def anchors(kind: str) -> dict[str, Any]:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    shapes = ((0.5, 1.0, 2.0),) if kind == "retina" else ((1.0,),)
    return {"anchor_generator": AnchorGenerator(sizes=((16,),), aspect_ratios=shapes)}


def pictures(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 72, 96, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["faster", "ssd", "retina", "fcos"])
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_it_is_the_surest_of_what_torchvision_detects(kind: str, threshold: float) -> None:
    net, x = built(kind), pictures()
    with torch.no_grad():
        scores = ClassScores(net, threshold)(x)
        found = net(list(x))
    assert scores.shape == (2, 5)
    assert torch.equal(scores[:, 0], torch.zeros(2))
    confidence = torch.sigmoid(scores + math.log(threshold / (1 - threshold)))
    seen = 0
    for own, detections in zip(confidence, found, strict=True):
        for k in range(1, 5):
            mine = detections["scores"][detections["labels"] == k]
            if len(mine):
                seen += 1
                assert float(own[k]) == pytest.approx(float(mine.max()), rel=1e-4, abs=1e-6)
                assert bool(own[k] > threshold) == bool(mine.max() > threshold)
    assert seen >= 6
    assert float(confidence[:, 1:].std()) > 1e-3
    assert float((confidence[0] - confidence[1]).abs().max()) > 1e-4


def test_its_slope_is_that_of_its_score() -> None:
    scores = ClassScores(built("ssd"))
    x, direction = pictures(1), torch.randn(1, 3, 72, 96, generator=torch.Generator().manual_seed(5))
    scores.double()
    u = x.double().requires_grad_()
    (g,) = torch.autograd.grad(scores(u)[0, 3], u)
    size = 1e-6
    with torch.no_grad():
        ahead, behind = (scores(x.double() + s * size * direction.double())[0, 3] for s in (1, -1))
    slope = float((ahead - behind) / (2 * size))
    assert float((g * direction).sum()) == pytest.approx(slope, rel=1e-3)
    assert slope != 0


def test_a_patch_lowers_how_surely_a_class_is_found() -> None:
    model = cutaway.load(built("ssd"), classes=["nothing", "ant", "bee", "cat", "dog"])
    x = pictures(1)
    target = cutaway.logit("bee") - cutaway.logit("nothing")
    still = {"rotation": 0, "scale": 0, "shift": 0, "light": 0, "row": 0.5, "column": 0.5, "trials": 1}
    options = still | {"steps": 8, "samples": 1, "share": 0.3, "rate": 5e-4, "size_weight": 0}
    (found,) = finish(explain(model, get("adversarial_patch"), x, target, options))
    assert found.evidence["score after"] < found.evidence["score before"] - 0.02
    mean = torch.from_numpy(found.values)
    with torch.no_grad():
        again = model(mean[None])[0, 2]
    assert found.evidence["score after"] == pytest.approx(float(again), rel=1e-4)


def test_loading_by_name_and_by_file(tmp_path: Path) -> None:
    model = cutaway.load("SSDlite320_mobilenet_v3_large", weights="random:3")
    assert isinstance(model.network, ClassScores)
    assert (len(model.classes), model.classes[0], model.classes[1]) == (91, "__background__", "person")
    assert any("detector" in note for note in model.card["notes"])
    assert model.card["weights"] == "random, seed 3"
    x = pictures(1)
    with model.guard(), torch.no_grad():
        scores = model(x)
    save_file(model.network.network.state_dict(), tmp_path / "w.safetensors")
    again = cutaway.load("ssdlite320_mobilenet_v3_large", weights=tmp_path / "w.safetensors")
    with again.guard(), torch.no_grad():
        np.testing.assert_array_equal(again(x), scores)
    assert model.predict(x)[0].name
    (tmp_path / "net.py").write_text(
        "from torchvision.models.detection import ssdlite320_mobilenet_v3_large as net\n"
        "def build():\n    return net(weights=None, weights_backbone=None, num_classes=3).eval()\n"
    )
    assert isinstance(cutaway.load(f"{tmp_path}/net.py:build").network, ClassScores)


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(UsageError, match="no detector"):
        ClassScores(nn.Linear(1, 1))
    with pytest.raises(UsageError, match="threshold"):
        ClassScores(built("ssd"), 1.0)
    with pytest.raises(UnknownNameError, match="neither a classifier nor a detector"):
        cutaway.load("raft_small")
    with pytest.raises(InputError):
        cutaway.load("ssdlite320_mobilenet_v3_large", weights=__file__)
