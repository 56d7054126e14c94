"""Label randomization: twins whose maps are known, and networks trained here on true and on permuted labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cutaway import Preprocess, VisionModel
from cutaway.core.errors import UsageError
from cutaway.core.method import get as get_method
from cutaway.core.progress import finish
from cutaway.metrics import METRICS, UndefinedError
from cutaway.metrics.judging import Subject, case_of, judge, settle_on
from cutaway.metrics.labels import check_twin, label_randomization
from cutaway.metrics.score_card import ScoreCard

from .test_score_card import Run, place, run  # noqa: F401 - fixtures

SIZE = 8


def wrap(net: nn.Module, **steps: Any) -> VisionModel:
    return VisionModel(net.double().eval(), Preprocess(**steps), name="net")


def linear(seed: int) -> VisionModel:
    torch.manual_seed(seed)
    return wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3)))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3)).double()


def test_it_is_scipys_correlation_of_the_two_maps_for_the_same_class(x: Tensor) -> None:
    """The predicted class is that of the model judged, for the twin too."""
    model, twin = linear(1), linear(2)
    target = settle_on(model, x, None)
    number = int(model(x).argmax())
    assert number != int(twin(x).argmax())
    maps = [
        (m.network[1].weight[number].view(3, SIZE, SIZE).detach() * x[0]).sum(0).flatten()  # type: ignore[index]
        for m in (model, twin)
    ]
    right = scipy.stats.spearmanr(*maps).statistic
    method = get_method("gradient_times_input")
    case = case_of(model, method, method.options({}), x, target, twin=twin)
    assert METRICS["label_randomization"](case) == pytest.approx(right, abs=1e-9)
    sizes = scipy.stats.spearmanr(*(m.abs() for m in maps)).statistic
    assert METRICS["label_randomization"](case, {"absolute": True}) == pytest.approx(sizes, abs=1e-9)


def test_a_map_of_the_picture_alone_stays_and_a_constant_one_is_undefined(x: Tensor) -> None:
    edges, twin = x[0, 0], linear(2)
    assert label_randomization(x, edges, lambda m, x, s=None: edges, twin) == 1
    assert label_randomization(x, edges, lambda m, x, s=None: -edges, twin) == -1
    assert label_randomization(x, edges, lambda m, x, s=None: -edges, twin, absolute=True) == 1
    for heat, left in ((edges, torch.ones(SIZE, SIZE)), (torch.ones(SIZE, SIZE), edges)):
        with pytest.raises(UndefinedError, match="rank correlation is undefined"):
            label_randomization(x, heat, lambda m, x, s=None, left=left: left, twin)


def test_a_twin_has_the_architecture_and_the_preprocessing_but_other_weights() -> None:
    model = linear(1)
    check_twin(model, linear(2))
    with pytest.raises(UsageError, match="has the weights of net itself"):
        check_twin(model, linear(1))
    other = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4)))
    with pytest.raises(UsageError, match="1.weight is 4x192, not 3x192"):
        check_twin(model, other)
    with pytest.raises(UsageError, match="0.weight is missing, not 3x192"):
        check_twin(wrap(nn.Sequential(nn.Linear(3 * SIZE * SIZE, 3))), model)
    with pytest.raises(UsageError, match="see a picture differently"):
        check_twin(model, wrap(linear(2).network, mean=(0.5, 0.5, 0.5)))


def test_no_twin_no_metric_and_the_card_says_which_twin() -> None:
    model, method = linear(1), get_method("saliency")
    subject = Subject("p", torch.rand(3, SIZE, SIZE), 1)
    measures = [(METRICS["label_randomization"], {})]
    asked = [(method, method.options({}))]
    into = ScoreCard(("saliency",), ("label_randomization",))
    finish(judge(into, model, asked, measures, [subject]))
    assert (into.shown, into.about) == ((), [])
    twin = linear(2)
    finish(judge(into, model, asked, measures, [subject], twin=twin))
    assert into.shown == ("label_randomization",)
    assert twin.fingerprint in into.notes()[0]
    assert twin.fingerprint in into.table(model, data="p").notes[1]


def test_on_trained_networks_the_gradient_forgets_and_an_edge_detector_does_not() -> None:
    """Both learn 96 pictures by heart; only one of them by what is in them (a bright half)."""
    rng = torch.Generator().manual_seed(0)
    pictures = torch.rand(96, 3, SIZE, SIZE, generator=rng).double()
    truth = torch.randint(2, (96,), generator=rng)
    for picture, label in zip(pictures, truth, strict=True):
        picture[:, :, : SIZE // 2] += 0.5 * label  # the left half is brighter
    pictures = (pictures / 1.5).clamp(0, 1)
    permuted = truth[torch.randperm(96, generator=rng)]
    nets = []
    for labels in (truth, permuted):
        torch.manual_seed(5)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 2)).double()
        descent = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(150):
            descent.zero_grad()
            nn.functional.cross_entropy(net(pictures), labels).backward()
            descent.step()
        assert float((net(pictures).argmax(1) == labels).double().mean()) == 1
        nets.append(wrap(net))
    model, twin = nets
    asked = get_method("saliency")
    found = []
    for i in range(8):
        x = pictures[i : i + 1]
        case = case_of(model, asked, asked.options({"reduce": "sum"}), x, settle_on(model, x, 1), twin=twin)
        found.append(METRICS["label_randomization"](case))
    assert METRICS["label_randomization"].holds(float(np.mean(found)))
    edges = (pictures[0, 0] - pictures[0, 0].mean()).abs()
    stays = label_randomization(pictures[:1], edges, lambda m, x, s=None: edges, twin)
    assert not METRICS["label_randomization"].holds(stays)


def test_judge_takes_the_weights_of_the_twin(run: Run, place: Path) -> None:  # noqa: F811
    torch.manual_seed(11)
    save_file(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)).state_dict(), "twin.safetensors")
    asked = (
        "judge",
        "photos",
        "--model",
        "nets.py:linear",
        "--method",
        "saliency",
        "--metric",
        "label_randomization",
    )
    done = run(*asked, "--random-labels", "twin.safetensors", "--json")
    assert done.code == 0, done.err
    assert done.err.count("no preprocessing was given") == 1
    said = json.loads(done.out)
    assert -1 <= said["scores"]["saliency"]["label_randomization"]["mean"] <= 1
    assert "twin.safetensors" in said["compared"][0]
    for bad, code, why in (
        ("nets.py:linear", 2, "has the weights of nets.py:linear itself"),
        ("cutaway:scenes", 2, "is no twin of nets.py:linear"),
        ("nowhere.safetensors", 3, "cannot read nowhere.safetensors"),
        (str(place / "photos" / "a.png"), 3, "a.png"),
    ):
        done = run(*asked, "--random-labels", bad)
        assert (done.code, why in done.err) == (code, True), done.err
        assert "Traceback" not in done.err
