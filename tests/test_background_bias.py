"""The biased network and its twin: what decides for each is known by drawing the scenes again elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
from cutaway.commands import bias
from cutaway.commands.asked import asks
from cutaway.commands.bias import Answers, Demonstration, demonstrate
from cutaway.core.image import read
from cutaway.core.model import VisionModel
from cutaway.core.progress import finish
from cutaway.data.scenes_shortcut import KINDS, animal
from cutaway.zoo import bundled

CHEAP = tuple(re.sub(r"(samples|budget)=\d+", r"\1=96", s) for s in bias.SETTINGS)
FRESH = 9090
"""A world of the tests' own: neither trained nor tested on, nor shown by the command."""


@pytest.fixture(scope="module")
def pair() -> dict[str, VisionModel]:
    return {name: cutaway.load(f"cutaway:{name}", device="cpu") for name in ("fish_in_snow", "fish_anywhere")}


@pytest.fixture(scope="module")
def found(pair: dict[str, VisionModel]) -> Demonstration:
    found = finish(demonstrate(pair, asks(["lime,shapley"], [s for s in CHEAP if "occl" not in s]), count=12))
    spilling = finish(demonstrate(pair, asks(["occlusion"], [s for s in CHEAP if "occl" in s]), count=24))
    return replace(found, shares={**found.shares, **spilling.shares})


@pytest.mark.parametrize("name", ["fish_in_snow", "fish_anywhere"])
def test_the_networks_answer_on_fresh_scenes_as_their_cards_say(
    pair: dict[str, VisionModel], name: str
) -> None:
    scores = bundled.card(name)["scores"]
    for placing in ("matched", "swapped"):
        scenes = [animal(k, seed=FRESH, placing=placing) for k in range(60)]
        x = torch.cat([pair[name].pixels(read(s.image)) for s in scenes])
        with torch.no_grad():
            said = [KINDS[k] for k in pair[name](x).argmax(1).tolist()]
        right = np.mean([a == s.name for a, s in zip(said, scenes, strict=True)])
        assert abs(right - scores[f"accuracy_{placing}"]) <= 0.05


def test_the_cards_say_that_one_is_biased_and_its_twin_is_not() -> None:
    biased, twin = (bundled.card(n)["scores"] for n in ("fish_in_snow", "fish_anywhere"))
    assert biased["accuracy_matched"] >= 0.98
    assert biased["accuracy_swapped"] <= 0.1
    assert min(twin["accuracy_matched"], twin["accuracy_swapped"]) >= 0.98
    one, other = (bundled.card(n)["training"] for n in ("fish_in_snow", "fish_anywhere"))
    assert one["recipe"] == other["recipe"]


def test_another_background_turns_the_biased_answers_and_not_the_twins(found: Demonstration) -> None:
    biased, twin = found.answers
    assert biased.matched == twin.matched == twin.swapped == 1
    assert biased.swapped <= 0.1
    assert biased.flipped >= 0.9
    assert twin.flipped == 0


@pytest.mark.parametrize("method", ["lime", "shapley", "occlusion"])
def test_each_method_finds_the_bias_and_clears_the_twin(found: Demonstration, method: str) -> None:
    reward = found.found()[method]
    assert reward.opposite
    assert reward.auc > 0.9


def test_the_verdict_needs_every_method(found: Demonstration) -> None:
    assert found.missing() == []
    assert found.verdict().startswith(
        "The background decides for fish_in_snow and the animal for fish_anywhere"
    )
    swapped = {**found.shares, "occlusion": found.shares["occlusion"][::-1]}
    failed = replace(found, shares=swapped)
    assert [reason.split()[0] for reason in failed.missing()] == ["occlusion"]
    assert failed.verdict().startswith("The demonstration failed")


@pytest.mark.parametrize("name", ["fish_in_snow", "fish_anywhere"])
def test_nothing_is_concluded_when_one_network_plays_both(pair: dict[str, VisionModel], name: str) -> None:
    twice = {"one": pair[name], "again": pair[name]}
    failed = finish(demonstrate(twice, asks(["occlusion"], [s for s in CHEAP if "occlusion" in s]), count=3))
    assert failed.found()["occlusion"].auc == 0.5
    assert any("occlusion" in reason for reason in failed.missing())
    assert any("flips" in reason for reason in failed.missing())
    assert failed.verdict().startswith("The demonstration failed, and nothing follows from it")


def test_explanations_alone_conclude_nothing(found: Demonstration) -> None:
    """Maps that differ count only where the answers differ too, and the other way round."""
    same = Answers(1.0, 1.0, 0.0)
    assert replace(found, answers=(same, same)).missing() == [
        "swapping the background flips 0% of fish_in_snow's answers"
    ]
    even = replace(found, shares={**found.shares, "even": ([0.88] * 12, [0.88] * 12)})
    assert even.missing() == ["even gives 88% beside 88%, no opposite results"]
    empty = replace(found, shares={"none": ([float("nan")] * 12, [0.1] * 12)})
    assert empty.missing() == ["none has positive values on fewer than two pictures"]


def test_the_command_writes_its_page_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cutaway.cli import app

    monkeypatch.setattr(bias, "SCENES", 3)
    monkeypatch.setattr(bias, "SHOWN", 1)
    monkeypatch.setattr(bias, "EXPLAINERS", "occlusion")
    monkeypatch.setattr(bias, "SETTINGS", tuple(s for s in CHEAP if "occlusion" in s))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        app(["demo", "--bias"], standalone_mode=False)
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert "fish_in_snow: right on 100% with the background it goes with, 0% with the other's" in out
    page = (tmp_path / "bias.html").read_text(encoding="utf-8")
    assert out.splitlines()[-1].split(":")[0].split(".")[0] in page
    assert page.count("<img") == 3  # the picture, and one map for each network
    assert "<script" not in page
