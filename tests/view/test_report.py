"""The report as a browser and a reader meet it: parsed, escaped, silent on the network, with the right numbers."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.core.result import Curves, Panel, Result
from cutaway.view.colors import table
from cutaway.view.report import Prediction, Refusal, report, reproduce

from .samples import attribution, bump, panels, photo, provenance

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = '<script>alert("1")</script>&\'"><img src=http://example.com/x.png>.jpg'


class Page(HTMLParser):
    """Every element with its attributes, the text outside style, and a check that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({k for k, _ in attrs}) == len(attrs)
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data.replace("\xa0", " "))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def results(name: str = "chelsea.jpg", **changes: Any) -> list[Result]:
    fields: dict[str, Any] = {"provenance": provenance(name), **changes}
    noise = np.random.default_rng(0).normal(size=(3, 64, 64))
    curves = Curves(
        method="deletion", target="", provenance=provenance(name), values=np.eye(3), x=np.arange(3.0),
        names=["a", "b", "c"], x_label="x", y_label="y",
    )  # fmt: skip
    return [
        attribution(bump(7), **fields),
        attribution(noise, method="guided_backprop", layer=None, **fields),
        attribution(np.zeros((7, 7)), method="cam", signed=False, **fields),
        attribution(bump(9), method="occlusion", panels=panels(), **fields),
        curves,
    ]


def decoded(attributes: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2])))


def test_the_page_is_whole_and_every_picture_has_words_and_bytes() -> None:
    page = Page(report([*results(), *results("coffee.jpg", image=photo("coffee"))]))
    pictures = page.all("img")
    assert len(pictures) > 40
    for attributes in pictures:
        assert len(attributes["alt"]) > 10
        assert attributes["src"].startswith("data:image/")
        image = decoded(attributes)
        image.load()
        assert (str(image.width), str(image.height)) == (attributes["width"], attributes["height"])
    assert any("of the positive mass lies in the central quarter" in a["alt"] for a in pictures)


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    text = report(results(), code="print('http stays text')")
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form"}
    )
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(
        r"url\(|@import|//[a-z]", re.sub(r"base64,[^\"]*", "", text).replace("<!DOCTYPE", "")
    )


def test_links_inside_the_page_find_their_place() -> None:
    page = Page(report([*results(), *results("coffee.jpg")]))
    places = {a["id"] for _, a in page.elements if "id" in a}
    assert {a["href"][1:] for a in page.all("a")} <= places


def test_names_given_by_people_stay_text() -> None:
    hostile = attribution(
        bump(5), method="x<b>", target=EVIL, layer=EVIL, notes=(EVIL,), unit=EVIL, options={EVIL: EVIL},
        evidence={EVIL: EVIL}, provenance=provenance(EVIL, model=EVIL), panels={"p": panels()["class"]},
    )  # fmt: skip
    text = report(
        [hostile], title=EVIL, predictions={EVIL: [Prediction(0, EVIL, 0.5)]}, refused=[Refusal(EVIL, EVIL, EVIL)],
        catalogue={"x<b>": SimpleNamespace(title=EVIL, caveat=EVIL, paper=EVIL)},
    )  # fmt: skip
    page = Page(text)
    assert not page.all("script")
    assert all(a["src"].startswith("data:") for a in page.all("img"))
    assert page.words().count('<script>alert("1")</script>') >= 10


def test_the_map_is_kept_at_its_own_resolution_in_its_own_colours() -> None:
    values = np.array([[-2.0, 0.0, 1.2], [0.5, 2.0, -1.3]])
    page = Page(report([attribution(values)]))
    (shown,) = [a for a in page.all("img") if a["alt"].startswith("The plain map")]
    image = np.asarray(decoded(shown).convert("RGB"))
    index = np.rint((values / 2 + 1) / 2 * 254).astype(int)
    assert np.array_equal(image, np.rint(table("coolwarm", 255)[index] * 255))
    assert "cells" in shown["class"]


def test_prediction_caveat_notes_refusals_and_provenance_are_there() -> None:
    catalogue = {
        "grad_cam": SimpleNamespace(
            title="Grad-CAM!", caveat="As coarse as its layer.", paper="Selvaraju 2017"
        )
    }
    predictions = {"chelsea.jpg": [Prediction(i, f"class {i}", (i + 1) / 28) for i in range(7)]}
    refused = [
        Refusal("lrp", "torch.where is not placed", "chelsea.jpg"),
        Refusal("cam", "head is not linear"),
    ]
    noted = attribution(
        bump(7), notes=("layer4 chosen, aloud.",), evidence={"residual": 0.00213, "exact": True}
    )
    words = Page(report([noted], catalogue=catalogue, predictions=predictions, refused=refused)).words()
    for expected in (
        "Grad-CAM!", "As coarse as its layer.", "Selvaraju 2017", "class 6", "25.0 %", "class 2", "10.7 %",
        "layer4 chosen, aloud.", "0.00213", "torch.where is not placed", "head is not linear", "9f3a52c1e07b44d1",
        "torch 2.15.0", "How to read this", "crop 224",
    ):  # fmt: skip
        assert expected in words, expected
    assert "class 1" not in words, "only the five most probable are shown"
    assert "cutaway.load('resnet18')" in words


def test_the_bar_carries_the_numbers_of_its_map() -> None:
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3] = -1.25, 0.75
    words = Page(report([attribution(values, unit="logit per cell")])).words()
    assert "−1.25 0 1.25 logit per cell" in words
    assert "range −1.25 to 0.75" in words


def test_the_picture_that_shows_most_stands_first() -> None:
    """Noise vanishes in an overlay, so its plain map leads; windows and grids are seen best on the photograph."""
    image, noise = photo(size=128), np.random.default_rng(0).normal(size=(128, 128))
    windows = np.repeat(np.repeat(noise[:16, :16], 8, 0), 8, 1)
    for values, first in ((noise, "The plain map"), (windows, "Overlay"), (bump(7), "Overlay")):
        page = Page(report([attribution(values, image=image)]))
        said = [a["alt"] for a in page.all("img") if a["alt"].startswith(("The plain map", "Overlay"))]
        assert said[0].startswith(first)
        assert ("opacity √|value|" in page.words()) == (values is noise)


def test_a_panel_of_one_category_is_said_in_words() -> None:
    only = Panel("most probable class", np.full((4, 4), 7), "categorical", labels={7: "fish"})
    two = Panel("most probable class", np.eye(20), "categorical", labels={0: "fish", 1: "bird"})
    pages = [Page(report([attribution(bump(7), panels={"c": panel})])) for panel in (only, two)]
    assert "fish at every position" in pages[0].words()
    assert len(pages[1].all("img")) == len(pages[0].all("img")) + 1
    assert "fish 95 % bird 5 %" in pages[1].words()


def test_a_lead_is_text_under_the_title() -> None:
    page = Page(report(results(), title="Cut open", lead=EVIL))
    assert page.words().count(EVIL) == 1
    assert not page.all("script")


def test_the_values_are_there_as_a_table() -> None:
    values = np.arange(9.0).reshape(3, 3) / 8
    text = report([attribution(values)])
    body = re.search(r"values as table.*?<tbody>(.*?)</tbody>", text, re.S)
    assert body
    cells = [float(v) for v in re.findall(r'<td class="n">([^<]*)</td>', body[1])]
    assert cells == pytest.approx(values.ravel().tolist(), abs=1e-9)


def test_true_evidence_stands_beside_each_map_with_its_share_and_chance() -> None:
    heat = np.zeros((64, 64))
    heat[:16, :16], heat[40:48, 40:48] = 1.0, 3.0
    mask = np.zeros((64, 64), bool)
    mask[:32, :32] = True
    # Inside 256 of 256 + 192; the mask covers a quarter.
    page = Page(report([attribution(heat)], truths={"chelsea.jpg": mask}))
    assert (
        "57.1 % of the positive evidence lies inside the true evidence; spread evenly it would be 25.0 %"
        in page.words()
    )
    (truth,) = [a for a in page.all("img") if a["alt"].startswith("The true evidence")]
    assert truth["alt"].startswith("The true evidence: 25\xa0% of the picture")
    shown = np.asarray(decoded(truth).convert("RGB")) / 255
    expected = np.repeat(np.repeat(photo(), 4, 0), 4, 1)
    assert np.abs(shown[:120, :120] - expected[:120, :120]).mean() < 0.02
    assert np.ptp(shown[140:, 140:], axis=-1).mean() < 0.03, "outside the truth the photograph is grey"


def test_truths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(32, 32\)"):
        report(results(), truths={"chelsea.jpg": np.ones((32, 32), bool)})
    with pytest.raises(InputError, match="boolean"):
        report(results(), truths={"chelsea.jpg": np.ones((64, 64))})
    with pytest.raises(UnknownNameError, match=r"chelsea\.jpg"):
        report(results(), truths={"chelsa.jpg": np.ones((64, 64), bool)})
    with pytest.raises(UnknownNameError, match=r"chelsea\.jpg"):
        report(results(), predictions={"chelsa.jpg": []})


def test_nothing_and_nan_are_refused() -> None:
    with pytest.raises(UsageError, match="no results"):
        report([])
    with pytest.raises(InputError, match="nan"):
        report([attribution(np.full((2, 2), np.nan))])


def test_a_picture_that_every_method_refused_still_has_its_place() -> None:
    words = Page(report(results(), refused=[Refusal("lrp", "because of this", "cup.jpg")])).words()
    assert "cup.jpg" in words
    assert "because of this" in words


def test_two_pictures_of_one_name_are_kept_apart() -> None:
    both = [attribution(bump(7)), attribution(bump(7), image=photo("coffee")), attribution(bump(9))]
    page = Page(report(both))
    assert sum("picture" in a.get("class", "").split() for a in page.all("section")) == 2
    assert "chelsea.jpg (2)" in page.words()


def test_the_code_that_makes_it_again_is_python_with_the_options_and_the_target() -> None:
    named = attribution(bump(7), options={"layer": "layer4", "rectify": False})
    contrast = attribution(bump(7), target="logit 1 'a' - logit 2 'b'")
    code = reproduce([named, contrast])
    compile(code, "again", "exec")
    lines = code.splitlines()
    assert lines[2] == "model = cutaway.load('resnet18')"
    assert lines[3] == (
        "model.explain('chelsea.jpg', 'grad_cam', target=cutaway.logit(285), layer='layer4', rectify=False, seed=7)"
    )
    assert lines[4].endswith("# target: logit 1 'a' - logit 2 'b'")


def test_the_code_calls_only_what_exists() -> None:
    """A look at the network alone has no picture; a table that a command made is made again by that command."""
    alone = attribution(bump(3), method="filters", target="", provenance=provenance(""))
    card = replace(
        alone, method="judge", provenance=replace(provenance("photos"), again="cutaway judge photos")
    )
    assert reproduce([alone]).splitlines()[-1] == "model.inspect('filters', seed=7)"
    assert reproduce([card, card]) == "cutaway judge photos"
    assert reproduce([card, alone]).startswith("cutaway judge photos\nimport cutaway\n")
    page = report([card])
    assert "Make it again" in page
    assert "1 method" not in page  # it is a table of many
    assert "Red is evidence" not in page
    unknown = replace(card, provenance=replace(card.provenance, again=""))
    assert reproduce([unknown]) == ""
    assert "Make it again" not in report([unknown])


def test_hostile_names_cannot_break_out_of_the_code() -> None:
    made = provenance("'\n\"", model="\nimport os")
    code = reproduce([attribution(bump(3), target="a\nimport os", provenance=made)])
    compile(code, "again", "exec")
    assert sum(line.startswith("import") for line in code.splitlines()) == 1


def test_four_pictures_of_ten_methods_stay_small() -> None:
    noise = np.random.default_rng(0)
    many: list[Result] = []
    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        image = photo(name, 224)
        for i in range(10):
            shape = [(7, 7), (14, 14), (224, 224), (3, 224, 224), (224, 224)][i % 5]
            many.append(
                attribution(
                    noise.normal(size=shape), method=f"m{i}", image=image, provenance=provenance(name)
                )
            )
    assert len(report(many)) < 5_000_000
