"""Enlarging against torch, overlays against their formula, mosaics against cropping back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cutaway.core.errors import InputError
from cutaway.view.colors import OKABE_ITO, scale
from cutaway.view.raster import (
    categories,
    color_picture,
    desaturate,
    enlarge,
    mosaic,
    overlay,
    shrink,
    upsample,
)

from .samples import bump, photo


@pytest.mark.parametrize(
    ("size", "wanted"), [((7, 7), (224, 224)), ((13, 9), (64, 50)), ((1, 3), (5, 8)), ((4, 6), (4, 3))]
)
def test_upsampling_is_torchs(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    values = torch.randn(1, 1, *size, dtype=torch.float64)
    peer = F.interpolate(values, wanted, mode="bilinear", align_corners=False)
    assert np.abs(upsample(values[0, 0].numpy(), *wanted) - peer[0, 0].numpy()).max() < 1e-12


@pytest.mark.parametrize(("size", "wanted"), [((12, 8), (4, 4)), ((10, 7), (3, 5)), ((3, 3), (4, 4))])
def test_shrinking_averages_the_area_each_pixel_covers(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    values = np.random.default_rng(0).normal(size=size)
    # A grid fine enough that every old and every new pixel is a whole number of its cells.
    fine = np.repeat(np.repeat(values, wanted[0], 0), wanted[1], 1)
    blocks = fine.reshape(wanted[0], size[0], wanted[1], size[1]).mean((1, 3))
    np.testing.assert_allclose(shrink(values, *wanted), blocks, atol=1e-12)


def test_enlarging_keeps_cells_flat() -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(enlarge(values, 4, 9), np.repeat(np.repeat(values, 2, 0), 3, 1))


def test_a_power_lifts_weak_values_and_leaves_zero_transparent() -> None:
    picture, heat = np.full((1, 4, 3), 0.5), np.array([[0.0, 0.01, 0.25, 1.0]])
    ends = scale(heat, signed=False, limits="range", colors="grey")
    drawn = overlay(picture, heat, ends, power=0.5)[0, :, 0]
    alpha = 0.9 * np.array([0.0, 0.1, 0.5, 1.0])
    assert np.allclose(drawn, 0.5 * (1 - alpha) + np.rint(heat[0] * 255) / 255 * alpha, atol=1e-12)


def test_overlay_is_transparent_at_zero_and_follows_its_formula() -> None:
    picture = photo()
    heat = bump(64) - 0.5
    heat[:20] = 0
    heat[40, 40] = 2.0
    ends = scale(heat, signed=True)
    drawn = overlay(picture, heat, ends)
    assert np.array_equal(drawn[:20], desaturate(picture)[:20])
    far, value = ends.high, heat[30, 30]
    alpha = 0.9 * abs(value) / far
    expected = (1 - alpha) * desaturate(picture)[30, 30] + alpha * ends.rgb(heat)[30, 30]
    np.testing.assert_allclose(drawn[30, 30], expected, atol=1e-12)


def test_desaturation_keeps_brightness_and_two_fifths_of_the_colour() -> None:
    picture = photo("coffee").astype(np.float64)
    luma = np.array([0.299, 0.587, 0.114])
    pale = desaturate(picture)
    np.testing.assert_allclose(pale @ luma, picture @ luma, atol=1e-12)
    chroma, kept = np.ptp(picture, axis=-1), np.ptp(pale, axis=-1)
    np.testing.assert_allclose(kept, 0.4 * chroma, atol=1e-12)


def test_colour_pictures_put_zero_at_mid_grey_on_one_scale() -> None:
    values = np.zeros((3, 2, 2))
    values[0, 0, 0], values[2, 1, 1] = 4.0, -2.0
    drawn = color_picture(values, signed=True)
    assert drawn[0, 0].tolist() == [1.0, 0.5, 0.5]
    assert drawn[1, 1].tolist() == [0.5, 0.5, 0.25]
    assert (drawn[0, 1] == 0.5).all()
    assert (color_picture(np.zeros((3, 2, 2)), signed=True) == 0.5).all()


@pytest.mark.parametrize("colors", [0, 3])
def test_every_tile_of_a_mosaic_crops_back_to_the_bit(colors: int) -> None:
    generator = np.random.default_rng(1)
    for count in range(1, 201):
        tiles = generator.random((count, 3, 4, colors) if colors else (count, 3, 4))
        sheet = mosaic(tiles)
        columns = int(np.ceil(np.sqrt(count)))
        rows = int(np.ceil(count / columns))
        assert sheet.shape[:2] == (rows * 4 - 1, columns * 5 - 1)
        seen = np.zeros(sheet.shape[:2], bool)
        for i in range(count):
            box = np.s_[i // columns * 4 : i // columns * 4 + 3, i % columns * 5 : i % columns * 5 + 4]
            assert np.array_equal(sheet[box], tiles[i])
            assert not seen[box].any()
            seen[box] = True
        assert (sheet[~seen] == 1.0).all()


@pytest.mark.parametrize(("count", "grid"), [(7, (3, 3)), (96, (10, 10)), (128, (12, 11))])
def test_mosaic_golden_shapes(count: int, grid: tuple[int, int]) -> None:
    columns, rows = grid
    assert mosaic(np.zeros((count, 1, 1))).shape == (2 * rows - 1, 2 * columns - 1)


def test_a_mosaic_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no tiles"):
        mosaic(np.zeros((0, 3, 3)))


def test_categories_give_the_first_colours_to_the_most_frequent() -> None:
    rgb, colors = categories(np.array([[5, 5, 5], [2, 2, 9]]))
    assert list(colors) == [5, 2, 9]
    np.testing.assert_allclose(rgb[0, 0] * 255, OKABE_ITO[0])
    np.testing.assert_allclose(rgb[1, 2] * 255, OKABE_ITO[2])


def test_more_than_eight_categories_leave_seven_colours_and_grey() -> None:
    _, colors = categories(np.repeat(np.arange(12), np.arange(12, 0, -1))[None])
    found = list(colors.values())
    assert len(set(found[:7])) == 7
    assert set(found[7:]) == {(0.6, 0.6, 0.6)}
