"""Labels of pictures: every way they are found, and that none is guessed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.core.errors import InputError, UnknownNameError, UsageError
from cutaway.data.folder import Pictures
from cutaway.data.labels import Classes

from .test_folder import picture

IMAGENET = [
    {"index": 0, "wnid": "n01440764", "name": "tench"},
    {"index": 1, "wnid": "n02012849", "name": "crane"},
    {"index": 2, "wnid": "n03126707", "name": "crane"},
    {"index": 3, "wnid": "n01484850", "name": "great white shark"},
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three pictures in class folders."""
    for name in ("cat/10.png", "cat/9.jpg", "ant/1.PNG"):
        picture(tmp_path / "set" / name)
    return tmp_path / "set"


def test_without_labels_nothing_is_claimed(place: Path) -> None:
    pictures = Pictures(place)
    assert (pictures.labels, pictures.classes, pictures.labels_from) == (None, (), "no labels")


def test_folders_are_classes_of_their_own_or_of_the_network(place: Path) -> None:
    own = Pictures(place, labels="folder")
    assert (own.labels.tolist(), own.classes, own.labels_from) == ([0, 1, 1], ("ant", "cat"), "folder names")
    network = Pictures(place, labels="folder", classes=["dog", "Cat", "ant"])
    assert (network.labels.tolist(), network.classes) == ([2, 1, 1], ("dog", "Cat", "ant"))
    with pytest.raises(UnknownNameError, match="no class named 'ant'"):
        Pictures(place, labels="folder", classes=["dog", "cat"])
    with pytest.raises(UsageError, match="no class folder"):
        Pictures(place / "cat", labels="folder")


def test_file_name_prefixes_are_wordnet_ids(tmp_path: Path) -> None:
    for name in ("n01484850_great_white_shark.jpg", "x/n01440764_tench.jpg", "n03126707_crane.jpg"):
        picture(tmp_path / "set" / name)
    table = tmp_path / "classes.json"
    table.write_text(json.dumps(IMAGENET))
    for labels in ("prefix", "auto"):
        pictures = Pictures(tmp_path / "set", labels=labels, classes=table)
        assert dict(zip(pictures.names, pictures.labels.tolist(), strict=True)) == {
            "n01484850_great_white_shark.jpg": 3,
            "n03126707_crane.jpg": 2,
            "x/n01440764_tench.jpg": 0,
        }
        assert pictures.labels_from == "file-name prefixes"
    with pytest.raises(UsageError, match="without classes"):
        Pictures(tmp_path / "set", labels="prefix")
    picture(tmp_path / "set" / "n9_unknown.jpg")
    assert Pictures(tmp_path / "set", labels="auto", classes=table).labels is None
    with pytest.raises(UnknownNameError, match="n9"):
        Pictures(tmp_path / "set", labels="prefix", classes=table)


def test_auto_takes_folders_only_when_every_one_is_a_class(place: Path) -> None:
    assert Pictures(place, labels="auto").labels is None
    assert Pictures(place, labels="auto", classes=["cat"]).labels is None
    found = Pictures(place, labels="auto", classes=["cat", "ant"])
    assert (found.labels.tolist(), found.labels_from) == ([1, 0, 0], "folder names")


TABLES = {
    "rows.csv": "label,author,file\ncat,me,cat/9.jpg\nant,me,1.PNG\n",
    "bare.csv": "cat/9.jpg,cat\n1.PNG,ant\n",
    "numbers.csv": "\ufefffile,label\n./cat/9.jpg,1\n1.PNG,0\n",
    "map.json": '{"cat\\\\9.jpg": "cat", "1.PNG": "ant", "elsewhere.png": "cat"}',
    "list.json": '[{"file": "cat/9.jpg", "label": 1}, {"file": "ant/1.PNG", "label": 0, "author": "me"}]',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_label_what_they_name(place: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    for classes in (None, ["ant", "cat"]):
        pictures = Pictures(place, labels=tmp_path / name, classes=classes)
        assert pictures.labels.tolist() == [0, 1, -1]
        assert pictures.labels_from == f"{name} (1 pictures without label)"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[1, 2]", "holds no labels"),
        ("a.json", '{"1.PNG": 1.5}', "the label of 1.PNG is 1.5"),
        ("a.json", '{"1.PNG": true}', "the label of 1.PNG is True"),
        ("a.json", '{"1.PNG": -2}', "the label of 1.PNG is -2"),
        ("a.json", '{"1.PNG": 0, "9.jpg": "cat"}', "some labels are numbers"),
        ("a.json", '{"other.PNG": 1}', "names none of the 3 pictures"),
        ("a.csv", "", "no rows"),
        ("a.csv", "1.PNG\n", "holds"),
        ("a.csv", "1.PNG,ant\n1.PNG,cat\n", "two labels"),
        ("a.txt", "", "Accepted: 'folder'"),
        ("absent.json", None, "cannot read"),
    ],
)
def test_bad_tables_are_refused(place: Path, tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((InputError, UsageError), match=words):
        Pictures(place, labels=tmp_path / name)


@pytest.mark.parametrize("labels", ["fodler", 3, "a/folder"])
def test_ways_to_label_are_listed(place: Path, labels: object) -> None:
    with pytest.raises(UsageError, match="'folder', 'prefix', 'auto'"):
        Pictures(place, labels=labels)  # type: ignore[arg-type]


def test_a_file_name_of_two_pictures_labels_neither(place: Path) -> None:
    picture(place / "ant" / "9.jpg")
    with pytest.raises(InputError, match=r"9\.jpg names 2 pictures"):
        Pictures(place, labels={"9.jpg": 1})
    assert Pictures(place, labels={"ant/9.jpg": np.int64(4)}).labels.tolist() == [-1, 4, -1, -1]


def test_classes_of_one_name_need_their_identifier() -> None:
    classes = Classes.of(IMAGENET)
    assert [classes.number(n) for n in ("n02012849", "n03126707", "Great_White_Shark", 2, "3")] == [
        1,
        2,
        3,
        2,
        3,
    ]
    with pytest.raises(UnknownNameError, match="two classes"):
        classes.number("crane")
    with pytest.raises(UnknownNameError, match="0 to 3"):
        classes.number(4)
    for bad in ([{"index": 1, "name": "a"}], [], [1], "absent.json"):
        with pytest.raises(InputError):
            Classes.of(bad)  # type: ignore[arg-type]


def test_imagenet_samples_are_labelled_by_their_prefix(data_folder: Path) -> None:
    table = data_folder / "imagenet_classes.json"
    pictures = Pictures(data_folder / "imagenet_samples", labels="auto", classes=table)
    wnids = {entry["wnid"]: entry["index"] for entry in json.loads(table.read_text())}
    assert pictures.labels.tolist() == [wnids[name.split("_")[0]] for name in pictures.names]
    assert (len(pictures), len(pictures.classes)) == (700, 1000)


def test_nips_images_are_labelled_by_their_table(data_folder: Path) -> None:
    pictures = Pictures(data_folder / "nips17_images", labels=data_folder / "nips17_images" / "labels.json")
    wanted = {
        e["file"]: e["label"] for e in json.loads((data_folder / "nips17_images" / "labels.json").read_text())
    }
    assert dict(zip(pictures.names, pictures.labels.tolist(), strict=True)) == wanted
    assert pictures.labels.dtype == torch.int64
    assert pictures.labels_from == "labels.json"
