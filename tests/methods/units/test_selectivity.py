"""Selectivity indexes against filters whose colour, symmetry and shape are known, and lists counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cutaway import VisionModel
from cutaway.core.errors import InputError, MethodRefusedError, UsageError
from cutaway.methods.units.fields import crops, fields
from cutaway.methods.units.profile import profile
from cutaway.methods.units.selectivity import (
    activity_lost,
    class_selectivity,
    class_shares,
    colour_selectivity,
    neuron_feature,
    population_code,
    shortfall,
    similarity,
)

from ..nets import wrap


def filters(*kernels: Tensor, padding: int = 0) -> VisionModel:
    """A network of one layer, its filters given, and a ReLU."""
    weight = torch.stack(kernels).double()
    conv = nn.Conv2d(3, len(weight), tuple(weight.shape[-2:]), padding=padding, bias=False)  # type: ignore[arg-type]
    conv.weight = nn.Parameter(weight)
    return wrap(nn.Sequential(conv, nn.ReLU()))


def best(model: VisionModel, x: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """Where a channel answers best in each picture, by the whole map."""
    model.pixels(x)
    with torch.no_grad():
        maps = model.network(model.preprocess.normalise(x))[:, channel]
    at = maps.flatten(1).argmax(1)
    return at // maps.shape[-1], at % maps.shape[-1]


def colours(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def measured(model: VisionModel, channel: int = 0, count: int = 12, size: int = 9, **options: object):  # type: ignore[no-untyped-def]
    x = colours(count, 3, size, size)
    rows, cols = best(model, x, channel)
    return profile(model, "0", channel, x, rows, cols, **options)  # type: ignore[arg-type]


def test_a_filter_that_weighs_colours_as_the_grey_version_does_is_colour_blind() -> None:
    """Equal weights against (R + G + B) / 3, weights .299, .587, .114 against luminance; crossed, something is lost."""
    plane = colours(3, 3)
    equal = filters(plane.expand(3, 3, 3))
    luminance = filters(torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None] * plane)
    for model, kind, other in (
        (equal, "brightness", "luminance"),
        (luminance, "luminance", "brightness"),
    ):
        found = measured(model, grey_version=kind)
        assert abs(found.colour) < 1e-12
        assert found.colour_bounded < 1e-12
        assert abs(measured(model, grey_version=other).colour) > 1e-3


@pytest.mark.parametrize("kind", ["brightness", "luminance", "principal"])
def test_red_minus_green_loses_everything_to_grey(kind: str) -> None:
    plane = colours(3, 3)
    found = measured(filters(torch.stack([plane, -plane, 0 * plane])), grey_version=kind)
    assert found.colour == pytest.approx(1, abs=1e-12)
    assert found.colour_bounded == pytest.approx(1, abs=1e-12)


def test_the_principal_component_keeps_an_edge_that_luminance_loses() -> None:
    """Red beside a green of its luminance: gone in luminance, a grey edge in the first principal component."""
    red = torch.tensor([0.587, 0.0, 0.0], dtype=torch.float64)
    green = torch.tensor([0.0, 0.299, 0.0], dtype=torch.float64)
    x = torch.where(torch.arange(6) < 3, red[:, None, None], green[:, None, None]).expand(1, 3, 6, 6).clone()
    edge = torch.tensor([1.0, 1, 1, -1, -1, -1]).expand(3, 6, 6)
    model = filters(edge)
    zero = torch.tensor([0])
    model.pixels(x)
    lost = {
        kind: profile(model, "0", 0, x, zero, zero, grey_version=kind).colour
        for kind in ("luminance", "principal")
    }
    assert lost["luminance"] == pytest.approx(1, abs=1e-12)
    assert lost["principal"] < 0.5


def test_alpha_is_a_ratio_of_sums_and_its_bounded_form_a_mean_of_clipped_ratios() -> None:
    values, grey = torch.tensor([8.0, 4.0, 2.0]), torch.tensor([4.0, 6.0, -1.0])
    assert colour_selectivity(values, grey) == pytest.approx(1 - 9 / 14)
    assert colour_selectivity(values, grey, bounded=True) == pytest.approx((0.5 + 0 + 1) / 3)


def test_class_selectivity_of_one_class_of_as_many_as_patches_and_of_half() -> None:
    ones = torch.ones(100)
    assert class_selectivity(ones, torch.full((100,), 7)).index == 1
    assert class_selectivity(ones, torch.arange(100)).index == 0
    half = class_selectivity(ones, torch.arange(100) % 50)
    assert round(half.index, 3) == 0.505
    assert half.index == pytest.approx(50 / 99)


@pytest.mark.parametrize(("threshold", "needed"), [(0.5, 1), (0.6, 2), (0.9, 3), (0.95, 4), (1.0, 4)])
def test_fewest_classes_that_reach_the_threshold(threshold: float, needed: int) -> None:
    values = torch.tensor([5.0, 3.0, 1.0, 1.0])
    found = class_selectivity(values, torch.tensor([2, 9, 4, 1]), threshold=threshold)
    assert found.needed == needed
    assert found.index == pytest.approx((4 - needed) / 3)
    assert found.classes.tolist() == [2, 9, 1, 4]
    assert found.shares.tolist() == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_population_code_counts_shares_and_its_entropy_is_that_of_equal_classes() -> None:
    code = population_code(torch.ones(80), torch.arange(80) % 8)
    assert code.count == 8
    assert code.entropy == pytest.approx(3)
    assert population_code(torch.ones(80), torch.arange(80) % 16).count == 0
    assert population_code(torch.ones(80), torch.arange(80) % 10).count == 10  # exactly a tenth each counts
    assert population_code(torch.ones(5), torch.zeros(5, dtype=torch.long)).entropy == 0


def test_patches_that_do_not_excite_the_unit_carry_no_weight() -> None:
    values, labels = torch.tensor([2.0, 2.0, 0.0, -1.0]), torch.tensor([0, 1, 2, -1])
    assert class_shares(values, labels)[0].tolist() == [0, 1]
    assert class_selectivity(values, labels).index == 0  # two patches, two classes
    patches = torch.stack([torch.full((3, 2, 2), v) for v in (0.2, 0.4, 1.0, 1.0)])
    assert neuron_feature(values, patches).unique().tolist() == pytest.approx([0.3])
    assert colour_selectivity(values, torch.tensor([1.0, 1.0, 9.0, 9.0])) == 0.5
    assert shortfall(values, 2) == ()
    assert "2 patches" in shortfall(values, 3)[0]


def test_the_neuron_feature_lays_clipped_fields_over_each_other() -> None:
    """Every picture has one white pixel; a filter that finds it is centred on it, also at a padded border."""
    spots = [(0, 0), (0, 4), (4, 8), (8, 8), (4, 4)]
    x = torch.zeros(len(spots), 3, 9, 9, dtype=torch.float64)
    for picture, (row, col) in zip(x, spots, strict=True):
        picture[:, row, col] = 1
    finder = torch.zeros(3, 3, 3)
    finder[:, 1, 1] = 1
    model = filters(finder, padding=1)
    rows, cols = best(model, x, 0)
    boxes = fields(model, "0", 0, x, rows, cols)
    feature = neuron_feature(torch.ones(5), crops(x, boxes))
    assert feature.shape == (3, 3, 3)
    assert (feature[:, 1, 1] == 1).all()
    # the upper left neighbour is beyond the picture for three spots... and black for the others
    beyond = sum(row == 0 or col == 0 for row, col in spots)
    assert feature[0, 0, 0] == pytest.approx(0.5 * beyond / 5)


def test_similarity_is_one_with_itself_and_the_part_of_the_sum_with_others() -> None:
    own = torch.tensor([5.0, 3.0, 2.0])
    assert similarity(own, own) == 1
    assert similarity(own, torch.tensor([0.0, 5.0, 0.0])) == 0.5


def test_orientation_symmetry_and_shape_of_filters_that_have_none() -> None:
    """A flat filter loses nothing by any of them; an edge answers its own turn by half with nothing."""
    flat = measured(filters(torch.ones(3, 4, 4)))
    assert max(abs(v) for v in (*flat.turns, *flat.mirrors, flat.shape)) < 1e-12
    edge = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(3, 4, 4)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).expand(3, 3, 4, 4).clone()
    model, zero = filters(edge), torch.zeros(3, dtype=torch.long)
    model.pixels(x)
    found = profile(model, "0", 0, x, zero, zero)
    assert found.turns == (1, 1, 1)
    assert found.mirrors == (
        0,
        1,
    )  # upside down it is the same, left and right exchanged it is the other edge
    assert found.orientation == 1
    assert found.symmetry == 0.5
    assert found.shape > 0.5
    bars = torch.tensor([-1.0, 1.0, 1.0, -1.0]).expand(3, 4, 4)
    model = filters(bars)
    model.pixels(x)
    twice = profile(model, "0", 0, x.roll(1, -1), zero, zero, angles=(180.0, 90.0))
    assert twice.turns == (0, 1)
    assert twice.mirrors == (0, 0)


def test_a_profile_says_what_it_rests_on() -> None:
    found = measured(filters(colours(3, 3, 3)), labels=torch.arange(12) % 3)
    assert found.classes is not None
    assert found.population is not None
    assert set(found.classes.classes.tolist()) == {0, 1, 2}
    assert found.notes[0].startswith("12 patches excite this unit, fewer than the 100")
    assert "luminance" in found.notes[1]
    assert measured(filters(colours(3, 3, 3)), wanted=12).classes is None
    assert measured(filters(colours(3, 3, 3)), labels=torch.arange(12) - 1).classes is None


def test_dead_units_and_wrong_numbers_are_refused() -> None:
    dead, labels = torch.zeros(4), torch.zeros(4, dtype=torch.long)
    for call in (
        lambda: neuron_feature(dead, torch.zeros(4, 3, 2, 2)),
        lambda: colour_selectivity(dead, dead),
        lambda: activity_lost(dead, dead),
        lambda: class_selectivity(dead, labels),
        lambda: population_code(dead, labels),
        lambda: similarity(dead, dead),
        lambda: measured(filters(-torch.ones(3, 3, 3))),
    ):
        with pytest.raises(MethodRefusedError, match="dead"):
            call()
    live = torch.ones(4)
    with pytest.raises(MethodRefusedError, match="one patch"):
        class_selectivity(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
    with pytest.raises(InputError, match="unknown class"):
        class_selectivity(live, labels - 1)
    with pytest.raises(InputError, match="NaN"):
        colour_selectivity(live, live * torch.nan)
    with pytest.raises(UsageError, match="threshold"):
        class_selectivity(live, labels, threshold=0)
    with pytest.raises(UsageError, match="share"):
        population_code(live, labels, share=2)
    for wrong in (torch.ones(3), torch.ones(4, 3)):
        with pytest.raises(UsageError):
            colour_selectivity(live, wrong)
    with pytest.raises(UsageError):
        neuron_feature(live, torch.zeros(3, 3, 2, 2))
    with pytest.raises(UsageError):
        similarity(live, torch.ones(3))
    with pytest.raises(UsageError):
        class_shares(live, torch.ones(4))
