"""Colour maps against matplotlib's, scales against numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import colormaps

from cutaway.core.errors import InputError, UnknownNameError
from cutaway.view.colors import NAMES, OKABE_ITO, number, scale, span, table


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_matplotlibs(name: str) -> None:
    peer = colormaps["gray" if name == "grey" else name](np.arange(256))[:, :3]
    assert np.abs(table(name) - peer).max() <= 2 / 255


def test_okabe_ito_holds_the_published_colours() -> None:
    published = ["E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7", "000000"]
    assert [bytes(c).hex().upper() for c in OKABE_ITO] == published


def test_unknown_map_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="inferno"):
        table("infernal")


def test_signed_zero_is_the_middle_colour_however_lopsided_the_map() -> None:
    values = np.array([[-0.1, 0.0, 40.0]])
    ends = scale(values, signed=True)
    middle = (table("coolwarm", 256)[127] + table("coolwarm", 256)[128]) / 2
    assert ends.marks == (-40.0, 0.0, 40.0)
    assert ends.index(values)[0, 1] == 127
    np.testing.assert_allclose(ends.rgb(values)[0, 1], middle, atol=1e-3)


@given(arrays(np.float64, (4, 5), elements=st.floats(-1e308, 1e308)))
def test_signed_scale_is_symmetric_and_keeps_order(values: np.ndarray) -> None:
    ends = scale(values, signed=True)
    assert np.array_equal(ends.index(-values), 254 - ends.index(values))
    order = np.argsort(values, axis=None)
    assert (np.diff(ends.index(values).ravel()[order].astype(int)) >= 0).all()


def test_far_end_is_the_percentile_of_large_maps_and_the_largest_of_small_ones() -> None:
    rising = np.arange(1.0, 10001.0).reshape(100, 100)
    rising[::2] *= -1
    # 99.9 % of 10000 numbers: position 0.999 * 9999 = 9989.001, the next whole one holds 9991.
    assert scale(rising, signed=True).high == 9991
    assert scale(rising, signed=True, limits="range").high == 10000
    assert scale(np.array([[1.0, 3.0], [2.0, 0.5]]), signed=False).marks == (0.0, 3.0)


def test_a_single_bright_pixel_is_not_scaled_to_nothing() -> None:
    lonely = np.zeros((100, 100))
    lonely[3, 4] = 5.0
    assert scale(lonely, signed=False).high == 5.0


def test_negative_numbers_are_drawn_signed_whatever_is_said() -> None:
    assert scale(np.array([[-1.0, 2.0]]), signed=False).marks == (-2.0, 0.0, 2.0)


@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
@pytest.mark.parametrize("signed", [True, False])
def test_constant_maps_are_flat(value: float, signed: bool) -> None:
    values = np.full((3, 3), value)
    for ends in (scale(values, signed=signed), span(values)):
        rgb = ends.rgb(values)
        assert np.isfinite(rgb).all()
        assert (rgb == rgb[0, 0]).all()


def test_the_largest_and_smallest_floats_have_colours() -> None:
    for values in (np.array([[-1.7e308, 1.7e308]]), np.array([[0.0, 5e-324]]), np.array([[-5e-324, 5e-324]])):
        for ends in (span(values), scale(values, signed=True), scale(values, signed=False)):
            assert ends.position(values)[0, 1] == 1.0
            assert ends.strength(values)[0, 1] == 1.0
        assert span(values).index(values).tolist() == [[0, 255]]


def test_span_prints_smallest_and_largest() -> None:
    assert span(np.array([[0.9, 0.95]])).marks == (0.9, 0.95)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_place(bad: float) -> None:
    values = np.zeros((3, 4))
    values[2, 1] = bad
    with pytest.raises(InputError, match=r"\(2, 1\)"):
        scale(values, signed=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9995, "1"),
        (-3.14159, "−3.14"),
        (123456.0, "123000"),
        (1e-7, "1e−07"),
        (2.5e9, "2.5e+09"),
        (-0.0, "0"),
    ],
)
def test_numbers_on_bars(value: float, text: str) -> None:
    assert number(value) == text
