"""Sentences and shares against maps whose answer is known by hand."""

import numpy as np
import pytest

from cutaway.core.errors import InputError
from cutaway.core.result import Panel
from cutaway.view.lettering import plain, wrap
from cutaway.view.words import coarse, panel_sentence, sentence, share_inside, where

from .samples import attribution, panels


def test_share_inside_a_mask_by_hand() -> None:
    heat = np.array([[4.0, 1.0, 0.0], [-9.0, 2.0, 1.0]])
    mask = np.array([[True, False, False], [True, True, False]])
    found = share_inside(heat, mask)
    # Inside: 4 + 2 of 8 positive; the -9 inside counts for nothing. Area: 3 of 6.
    assert (found.evidence, found.area) == (0.75, 0.5)


def test_coarse_maps_are_brought_to_the_mask() -> None:
    # One positive cell of two, doubled: bilinear values 1, 0.75, 0.25, 0; the left half holds 1.75 of 2.
    found = share_inside(np.array([[1.0, 0.0]]), np.array([[True, True, False, False]]))
    assert found.evidence == pytest.approx(0.875, abs=1e-12)


def test_evidence_spread_evenly_reaches_the_share_of_the_area() -> None:
    mask = np.random.default_rng(0).random((40, 40)) < 0.3
    found = share_inside(np.full((7, 7), 3.0), mask)
    assert found.evidence == pytest.approx(found.area, abs=1e-12)


def test_no_positive_evidence_has_no_share() -> None:
    assert share_inside(-np.ones((2, 2)), np.ones((2, 2), bool)).evidence is None


def test_a_mask_that_is_not_boolean_is_refused() -> None:
    with pytest.raises(InputError, match="boolean"):
        share_inside(np.ones((2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [(0, 0, "upper left quarter"), (0, 7, "upper right quarter"), (7, 0, "lower left quarter"),
     (7, 7, "lower right quarter"), (3, 4, "central quarter")],
)  # fmt: skip
def test_a_point_lies_in_its_quarter(row: int, column: int, place: str) -> None:
    heat = np.zeros((8, 8))
    heat[row, column] = 2.0
    heat[(row + 4) % 8, (column + 4) % 8] = -50.0
    assert where(heat) == f"all of the positive mass lies in the {place}"


def test_halves_and_spread() -> None:
    left = np.tile([1.0, 1.0, 0.2, 0.2], (4, 1))
    assert where(left) == "83 % of the positive mass lies in the left half"
    assert where(np.ones((5, 5))) == "the positive mass is spread over the whole picture"


def test_the_sentence_names_method_target_layer_and_sign() -> None:
    values = np.zeros((4, 4))
    values[3, 3], values[3, 2], values[0, 0] = 1.0, 2.0, -1.0
    text = sentence(attribution(values), "Grad-CAM")
    assert text == (
        "Grad-CAM for logit 285 'Egyptian cat' at layer4: all of the positive mass lies in the lower right quarter; "
        "25 % of all evidence is negative."
    )


def test_panels_in_words() -> None:
    said = {k: panel_sentence(p) for k, p in panels().items()}
    assert (
        said["probability"]
        == "P(Egyptian cat) (probability): from 0.1 in the centre to 0.898 in the upper left."
    )
    assert said["class"] == "most probable class: Egyptian cat on 89 %, tiger cat on 11 %."
    assert said["projection"] == "projection: a colour picture of 9 × 9 pixels."
    # The nine cells of 81 within one cell of the middle are above 0.6.
    assert panel_sentence(Panel("flat", np.full((2, 2), 3.0), "unsigned")) == "flat: 3 everywhere."


def test_coarse_tables_keep_the_mean_and_small_maps_whole() -> None:
    values = np.random.default_rng(0).normal(size=(50, 30))
    assert coarse(values).shape == (7, 7)
    assert coarse(values).mean() == pytest.approx(values.mean(), abs=1e-12)
    small = values[:5, :7]
    np.testing.assert_allclose(coarse(small), small, atol=1e-12)


def test_drawn_text_has_only_letters_the_font_has() -> None:
    from cutaway.view.lettering import font

    missing = bytes(font(14).getmask("\uffff"))
    text = plain("−1.6 × 10 α→β “Ångström” naïve 漢字 ±3 … µ ≥ Łódź\n\t")
    assert all(bytes(font(14).getmask(c)) != missing for c in text if not c.isspace())
    assert text.startswith("-1.6 x 10 alpha->beta “Angstrom” naive ?? ±3 … u >= Lodz")


@pytest.mark.parametrize("width", [20, 90, 300])
def test_wrapped_lines_fit(width: int) -> None:
    from cutaway.view.lettering import font

    lines = wrap("a sentence of several words and one_extraordinarily_long_name_without_spaces", 13, width, 3)
    assert len(lines) <= 3
    assert max(font(13).getlength(line) for line in lines) <= width
