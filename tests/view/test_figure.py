"""Figures: what the file holds, what the pixels say, what is refused."""

import ast
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cutaway.view
from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.result import Curves, Panel, Patches, Picture, Result, Scatter, Table
from cutaway.view import lettering
from cutaway.view.charts import _COLORS, curves_drawings, parts, ticks
from cutaway.view.colors import table
from cutaway.view.drawing import drawings, overlaid
from cutaway.view.figure import contact_sheet, draw
from cutaway.view.raster import color_picture, desaturate, enlarge

from .samples import attribution, bump, panels, photo, provenance

COMMON: dict[str, Any] = {"method": "probe", "target": "", "provenance": provenance()}
RANDOM = np.random.default_rng(0)
OTHERS: dict[str, Result] = {
    "picture": Picture(**COMMON, values=RANDOM.random((3, 20, 30))),
    "maps": Picture(**COMMON, values=RANDOM.normal(size=(10, 5, 5)), scale="maps"),
    "patches": Patches(
        **COMMON,
        values=RANDOM.random((9, 3, 11, 11)),
        scores=np.arange(9.0),
        sources=["a"] * 9,
        boxes=np.zeros((9, 4)),
    ),
    "curves": Curves(
        **COMMON, values=RANDOM.random((2, 8)), x=np.arange(8.0), names=["a", "b"], x_label="x", y_label="y"
    ),
    "table": Table(
        **COMMON, values=RANDOM.random((60, 2)), rows=[f"r{i}" for i in range(60)], columns=["a", "b"]
    ),
    "scatter": Scatter(
        **COMMON, values=RANDOM.normal(size=(30, 2)), labels=list("abcdefghij") * 3, sources=["s"] * 30
    ),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line of text that is drawn."""
    lines: list[str] = []
    real = lettering.write

    def note(draw: Any, x: float, y: float, text: str, *rest: Any) -> None:
        lines.append(text)
        real(draw, x, y, text, *rest)

    for module in ("figure", "charts", "sheet"):
        monkeypatch.setattr(f"cutaway.view.{module}.write", note)
    return lines


def test_the_file_keeps_its_provenance() -> None:
    result = attribution(bump(7), notes=("layer4 chosen: „größte“ 地図",), panels=panels())
    image = Image.open(io.BytesIO(draw(result)))
    image.load()
    assert json.loads(image.info["cutaway"]) == json.loads(json.dumps(result.to_dict()))


def test_the_bar_prints_its_ends_and_its_unit(written: list[str]) -> None:
    values = np.zeros((4, 4))
    values[0, 0], values[1, 1] = -1.2345, 0.5
    draw(attribution(values, unit="logit per pixel"))
    assert written.count("−1.23") == written.count("1.23") == 2
    assert written.count("0") == 2
    assert written.count("logit per pixel") == 2


def test_the_map_is_drawn_cell_by_cell_in_the_colours_of_the_bar() -> None:
    values = np.array([[-2.0, 0.0], [1.0, 2.0]])
    drawn = np.asarray(drawings(attribution(values))[2].picture)
    bar = table("coolwarm", 255)[[0, 127, 127 + 64, 254]]  # 1.0 is half way up: 63.5 steps, rounded to even
    expected = enlarge(np.rint(bar * 255).reshape(2, 2, 3), 256, 256)
    assert np.array_equal(drawn, expected)


def test_zero_leaves_the_photograph_alone() -> None:
    values = np.zeros((64, 64))
    values[50:, 50:] = 1.0
    result = attribution(values, image=photo(size=64))
    drawn = overlaid(result)
    pale = enlarge(desaturate(result.image), 256, 256)
    assert np.array_equal(drawn[:200], pale[:200])
    assert not np.allclose(drawn[200:, 200:], pale[200:, 200:])


def test_colours_kept_by_the_method_are_drawn_as_colours() -> None:
    values = np.random.default_rng(0).normal(size=(3, 64, 64))
    picture = drawings(attribution(values))[2].picture
    expected = np.rint(enlarge(color_picture(values, signed=True), 256, 256) * 255)
    assert np.array_equal(np.asarray(picture), expected)


def test_a_map_of_one_grey_channel_is_drawn_like_a_plain_map() -> None:
    values = np.random.default_rng(0).normal(size=(1, 64, 64))
    kept, plain = (drawings(attribution(v))[2].picture for v in (values, values[0]))
    assert np.array_equal(np.asarray(kept), np.asarray(plain))


@pytest.mark.parametrize(
    ("signed", "words"), [(False, "no positive evidence at layer4"), (True, "no evidence at layer4")]
)
def test_all_zero_says_so_and_is_flat(signed: bool, words: str, written: list[str]) -> None:
    result = attribution(np.zeros((7, 7)), signed=signed)
    draw(result)
    assert f"all zero: {words}" in " ".join(written)
    assert len(drawings(result)[2].picture.getcolors() or ()) == 1


def test_constant_maps_are_flat_and_say_so(written: list[str]) -> None:
    result = attribution(np.full((7, 7), 0.25), signed=False)
    draw(result)
    assert "constant: 0.25 everywhere" in written
    assert len(drawings(result)[2].picture.getcolors() or ()) == 1


@pytest.mark.parametrize("where", ["values", "image", "panel"])
def test_nan_is_refused(where: str) -> None:
    broken = np.ones((7, 7))
    broken[2, 3] = np.nan
    changes: dict[str, Any] = {}
    if where == "image":
        changes["image"] = np.full((8, 8, 3), np.nan)
    if where == "panel":
        kept = panels()
        changes["panels"] = {"p": type(kept["drop"])("probability", broken, "unsigned")}
    with pytest.raises(InputError, match="nan"):
        draw(attribution(broken if where == "values" else np.ones((7, 7)), **changes))


def test_a_mark_is_drawn_in_pixels_of_the_input() -> None:
    probability = drawings(attribution(bump(9), panels=panels()))[3]
    pixels = np.asarray(probability.picture)
    # Rows 8 to 24, columns 16 to 40 of a 64-pixel picture drawn four times as large: corners (32, 64) and (95, 159).
    assert pixels[32, 64].tolist() == pixels[95, 159].tolist() == [0, 0, 0]
    assert pixels[33, 100].tolist() == [255, 255, 255]


def test_legends_name_what_is_there_and_how_much() -> None:
    legend = drawings(attribution(bump(9), panels=panels()))[5].legend
    assert [name for _, name in legend] == ["Egyptian cat 89 %", "tiger cat 11 %"]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_drawn_with_their_numbers(kind: str, written: list[str]) -> None:
    image = Image.open(io.BytesIO(draw(OTHERS[kind])))
    assert json.loads(image.info["cutaway"])["method"] == "probe"
    wanted = {"picture": "picture", "maps": "10 maps of 5 × 5, one scale", "patches": "8", "curves": "b",
              "table": "r39", "scatter": "3 others"}[kind]  # fmt: skip
    assert any(wanted == line or wanted.replace("×", "x") == line for line in written)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_refuse_nan(kind: str) -> None:
    result = OTHERS[kind]
    broken = result.arrays()["values"].copy()
    broken.flat[0] = np.inf if kind == "table" else np.nan  # a table has a dash for NaN
    with pytest.raises(InputError, match="nan|inf"):
        parts(type(result)(**{**vars(result), "values": broken}))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.7, 11.2), (1e-6, 3e-6), (0.0, 98765.0)])
def test_ticks_are_round_numbers_inside_the_axis(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low - 1e-12 <= found[0] <= found[-1] <= high + 1e-9
    mantissas = {f"{step:.0e}"[0] for step in np.diff(found)}
    assert mantissas <= {"1", "2", "5"}


def test_a_contact_sheet_has_a_row_for_each_picture_and_a_column_for_each_method(written: list[str]) -> None:
    cat = [
        attribution(bump(7)),
        attribution(bump(7), method="saliency"),
        attribution(bump(14), layer="layer3"),
    ]
    cup = [
        attribution(bump(7), method="saliency", image=photo("coffee"), provenance=provenance("coffee.jpg"))
    ]
    sheet = contact_sheet([*cat, *cup], cell=96)
    assert sheet.width == 2 * 16 + 4 * 96 + 3 * 16
    assert [line for line in written if line in ("picture", "Grad-CAM", "Saliency")] == [
        "picture", "Grad-CAM", "Grad-CAM", "Saliency",
    ]  # fmt: skip
    assert [line for line in written if line.endswith(".jpg")] == ["chelsea.jpg", "coffee.jpg"]
    # The cup has a photograph and a saliency; under both Grad-CAMs stand empty frames.
    row = np.asarray(sheet)[-16 - 3 * 16 - 40, :]
    blank = [bool((row[16 + c * 112 + 10 : 16 + c * 112 + 86] == 255).all()) for c in range(4)]
    assert blank == [False, True, True, False]


def test_a_contact_sheet_takes_chosen_methods_or_a_number_of_columns() -> None:
    results = [attribution(bump(7), method=name) for name in ("a", "b", "c")]
    assert contact_sheet(results, columns=["c", "a"], cell=64).width == 2 * 16 + 3 * 64 + 2 * 16
    assert contact_sheet(results, columns=2, cell=64).width == 2 * 16 + 2 * 64 + 16
    with pytest.raises(UnknownNameError, match="'d'"):
        contact_sheet(results, columns=["d"])
    with pytest.raises(UsageError, match="no results"):
        contact_sheet([])
    with pytest.raises(UsageError, match="columns=0"):
        contact_sheet(results, columns=0)


def test_many_methods_of_one_picture_stand_in_several_rows(written: list[str]) -> None:
    names = [f"m{i}" for i in range(12)]
    sheet = contact_sheet([attribution(bump(7), method=name) for name in names], cell=64)
    assert sheet.width == 2 * 16 + 5 * 64 + 4 * 16
    assert sheet.height > 3 * 64
    heads = [line for line in written if line.lower() in names]
    assert [h.lower() for h in heads] == names


def test_drawing_never_imports_torch_or_matplotlib() -> None:
    for file in Path(cutaway.view.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in {"torch", "torchvision", "matplotlib"}, file
                assert not name.startswith("cutaway.") or name in {
                    "cutaway.core.errors",
                    "cutaway.core.result",
                }, file


def test_a_panel_that_comes_before_is_drawn_before_its_picture() -> None:
    grey = np.full((3, 8, 8), 0.5)
    panels = {
        "after": Panel("difference", grey, "picture"),
        "first": Panel("original", grey, "picture", before=True),
        "again": Panel("difference", 2 * grey, "picture"),
    }
    picture = Picture(
        values=grey,
        method="fgsm",
        target="",
        layer=None,
        title="adversarial",
        panels=panels,
        provenance=provenance(),
    )
    assert [d.title for d in parts(picture)] == ["original", "adversarial", "difference", "difference"]


def test_of_two_lines_on_each_other_both_are_seen() -> None:
    line = np.array([0.0, 1.0, 1.0, 0.5])
    both = Curves(
        **COMMON, values=np.stack([line, line]), x=np.arange(4.0), names=["", ""], x_label="", y_label=""
    )
    (drawn,) = curves_drawings(both)
    seen = {color for _, color in drawn.picture.getcolors(1 << 16)}
    assert {tuple(bytes.fromhex(c[1:])) for c in _COLORS[:2]} <= seen
