"""The colour study on planted layers: what went in must come out, in numbers and in words."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.methods.units.colour_study import LayerColour, Palette, apart, overlap, study
from cutaway.methods.units.colour_words import parallel
from cutaway.methods.units.opponent import OpponentAxis, hue_histogram

COLOURS = {"red": (1, 0, 0), "cyan": (0, 1, 1), "yellow": (1, 1, 0), "blue": (0, 0, 1), "magenta": (1, 0, 1)}
COLOURS |= {"green": (0, 1, 0), "orange": (1, 0.5, 0), "azure": (0, 0.5, 1)}


def pair(one: str, two: str, strength: float = 0.4) -> Tensor:
    """A feature (3, 6, 6) of two colours side by side, faint about mid-grey."""
    left, right = (torch.tensor(COLOURS[c])[:, None, None].expand(3, 6, 3) for c in (one, two))
    return 0.5 + strength * (torch.cat([left, right], 2) - 0.5)


def first_layer() -> LayerColour:
    """Four units red-cyan, three yellow-blue, two magenta-green, one orange alone, ten without colour."""
    features = [pair("red", "cyan")] * 4 + [pair("blue", "yellow")] * 3 + [pair("green", "magenta")] * 2
    features += [pair("orange", "orange")] + [torch.linspace(0, 1, 36).reshape(1, 6, 6).expand(3, 6, 6)] * 10
    return study("conv1", torch.tensor([0.8] * 9 + [0.25] + [0.1] * 9 + [-0.3]), features)


def deep_layer() -> LayerColour:
    """Two units orange-azure, one of three hues, five without colour; shape indexes known."""
    three = torch.cat([pair("red", "green"), pair("blue", "blue")], 2)
    features = [pair("orange", "azure")] * 2 + [three] + [torch.full((3, 6, 6), 0.5)] * 5
    shapes = torch.tensor([0.9, 0.7, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1])
    return study("deep", torch.tensor([0.5, 0.4, 0.6, 0, 0, 0, 0, 0]), features, shapes=shapes)


def test_a_planted_layer_is_read_off_as_it_was_planted() -> None:
    layer = first_layer()
    assert int(layer.colour.sum()) == 10  # 0.25 itself counts
    assert layer.share == 0.5
    assert layer.split() == (0, 1, 9)
    assert layer.opposite() == 9
    planted = {"red-cyan": 4, "yellow-blue": 3, "green-magenta": 2, "orange-azure": 1}
    assert dict(layer.named_axes()) == planted
    counts = layer.histogram()
    assert counts.sum() == 20
    assert (int(counts[0]), int(counts[2]), int(counts[5]), int(counts[16])) == (1, 9, 1, 9)


def test_three_hues_are_a_double_cell_that_need_not_be_opposite() -> None:
    layer = deep_layer()
    assert layer.split() == (0, 0, 3)
    assert layer.opposite() == 2
    assert layer.named_axes()[0] == ("orange-azure", 2)


def test_a_palette_of_batches_is_that_of_the_whole() -> None:
    x = torch.rand(6, 3, 5, 5)
    whole, parts = Palette.of([x]), Palette.of([x[:1], x[1:4], x[4:]])
    assert torch.equal(whole.hues.counts, parts.hues.counts)
    assert whole.axes is not None
    assert parts.axes is not None
    assert parts.axes[0].angle == pytest.approx(whole.axes[0].angle)
    assert parts.axes[0].share == pytest.approx(whole.axes[0].share)


def test_overlap_and_angles_between_axes() -> None:
    red, blue = (hue_histogram(pair(c, c)) for c in ("red", "blue"))
    both = hue_histogram(pair("red", "blue"))
    assert overlap(red, blue) == 0
    assert overlap(red, both) == overlap(both, blue) == 0.5
    assert apart(OpponentAxis(3, 1), OpponentAxis(177, 1)) == pytest.approx(6)
    assert apart(OpponentAxis(0, 1), OpponentAxis(90, 1)) == 90


def test_every_number_in_the_words_was_measured() -> None:
    layers, pictures = [first_layer(), deep_layer()], Palette.of([torch.stack([pair("orange", "azure")] * 3)])
    text = parallel(layers, pictures)
    for said in (
        "conv1: 10 of 20 living units (50%) are colour units",
        "1 has one hue, 9 have two or more (9 of them two opposite hues), and 0 have none",
        "red-cyan 4, yellow-blue 3, green-magenta 2 and orange-azure 1",
        "The other 10 units keep more than 75% of their activity",
        "deep: 3 of 8 living units (38%)",
        "0 have one hue, 3 have two or more (2 of them two opposite hues)",
        "vary most along orange-azure (at 56 degrees), which holds 100%",
        "the share of colour units falls from 50% to 38%",
        "80% in deep",
    ):
        assert said in text, said
    first = layers[0].palette.axes
    assert first is not None
    assert pictures.axes is not None
    assert f"{apart(first[0], pictures.axes[0]):.0f} degree" in text
    # years apart, and V1, V2, V4, no number is in the words that was not asked for or measured
    known = set(
        re.findall(r"\d+", " ".join(["conv1 25% 75% 10 20 50 1 9 9 0 10 3 8 38 0 3 2 0 5 75 56 100 80"]))
    )
    for layer in layers:
        assert layer.palette.axes is not None
        known |= {f"{100 * layer.palette.axes[0].share:.0f}"}
        known |= {str(number) for _, number in layer.named_axes()}
        known |= {
            f"{layer.palette.axes[0].angle:.0f}",
            f"{100 * overlap(layer.palette.hues, pictures.hues):.0f}",
        }
        known |= {f"{apart(layer.palette.axes[0], pictures.axes[0]):.0f}"}
    numbers = re.findall(r"\d+", re.sub(r"\bV[124]\b|\b(19|20)\d\d\b", "", text))
    assert set(numbers) <= known
    assert len(numbers) > 20


def test_the_words_follow_the_numbers() -> None:
    """Other measurements, other sentences: no colour, no axes; one layer, no depth; a rising share."""
    plain = study("conv1", torch.zeros(3), [torch.full((3, 4, 4), 0.4)] * 3)
    grey = Palette.of([torch.full((3, 4, 4), 0.2)])
    text = parallel([plain], grey)
    assert "0 of 3 living units (0%)" in text
    assert "axes of chroma" not in text.split("\n\n")[1]
    assert "hold no colour" in text
    assert "From conv1" not in text
    assert "V2" not in text
    rising = parallel([plain, deep_layer()], Palette.of([pair("red", "blue")]))
    assert "rises from 0% to 38%" in rising
    assert "The neuron features of conv1 are grey" in rising
    uneven = parallel([plain, deep_layer(), plain], grey)
    assert "is the same in conv1 and conv1" in uneven
    assert "does not go one way" in uneven
    one = study("a", torch.tensor([0.9]), [pair("red", "cyan")])
    assert "1 of 1 living unit (100%) is a colour unit." in parallel([one], grey)
    assert "The other" not in parallel([one], grey)


def test_what_cannot_be_studied_is_refused() -> None:
    with pytest.raises(InputError, match="no living unit"):
        study("conv1", torch.zeros(0), [])
    with pytest.raises(UsageError, match="2 alphas for 1"):
        study("conv1", torch.zeros(2), [torch.zeros(3, 2, 2)])
    with pytest.raises(InputError, match="NaN"):
        study("conv1", torch.tensor([math.nan]), [torch.zeros(3, 2, 2)])
    with pytest.raises(InputError, match="no picture"):
        Palette.of([])
    with pytest.raises(UsageError, match="no layer"):
        parallel([], Palette.of([torch.zeros(3, 1, 1)]))
