"""Folders of pictures: one list on every machine, labels that are said, and fingerprints that notice a change."""

import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutaway.core.errors import InputError, UsageError
from cutaway.data.folder import Pictures
from cutaway.data.labels import natural


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), shade, np.uint8)).save(path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three pictures in class folders, and much that is no picture."""
    for name in ("cat/10.png", "cat/9.jpg", "ant/1.PNG"):
        picture(tmp_path / "set" / name)
    for name in ("cat/.hidden.png", ".cache/1.png", "cat/._9.jpg"):
        picture(tmp_path / "set" / name)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / "weights.h5").write_bytes(b"no picture")
    (tmp_path / "set" / "dir.png").mkdir()
    return tmp_path / "set"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that others than its owner may enter, as seen by somebody without privileges."""
    if not hasattr(os, "geteuid") or sys.platform == "win32":
        pytest.skip("no Unix permissions")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "sub").mkdir()
    picture(folder / "sub" / "1.png")
    picture(folder / "0.png")
    was = os.geteuid()
    try:
        yield folder
    finally:
        os.seteuid(was)
        (folder / "sub").chmod(0o755)
        shutil.rmtree(folder)


def drop_privileges() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_pictures_are_listed_by_natural_path_and_nothing_else_is(place: Path) -> None:
    assert Pictures(place).names == ("ant/1.PNG", "cat/9.jpg", "cat/10.png")


def test_the_order_is_that_of_numbers_whatever_was_there_first() -> None:
    names = [
        f"{a}/{k}{b}.png"
        for a in "aBc"
        for k in (0, 1, 2, 7, 10, 12, 100, "1" + "0" * 5000)
        for b in ("", "x")
    ]
    wanted = sorted(names, key=lambda n: (n[0].lower(), len(n.split("/")[1].rstrip("x.png")), n))
    for seed in range(5):
        mixed = random.Random(seed).sample(names, len(names))
        assert sorted(mixed, key=natural) == wanted
    assert natural("1.png") != natural("01.png")


def test_symbolic_links_are_followed_once_and_loops_end(place: Path) -> None:
    outside = place.parent / "outside"
    picture(outside / "7.png")
    try:
        (place / "cat" / "loop").symlink_to(place, target_is_directory=True)
        (place / "a_link").symlink_to(outside, target_is_directory=True)
        (place / "b_link").symlink_to(outside, target_is_directory=True)
        (outside / "back").symlink_to(place / "cat", target_is_directory=True)
        (place / "self.png").symlink_to(place / "self.png")
        (place / "gone.png").symlink_to(place / "nowhere.png")
        (place / "also.png").symlink_to(place / "cat" / "9.jpg")
    except OSError:
        pytest.skip("no symbolic links here")
    pictures = Pictures(place)
    wanted = {"ant/1.PNG", "cat/9.jpg", "cat/10.png", "a_link/7.png", "self.png", "gone.png", "also.png"}
    assert set(pictures.names) == wanted
    for name in ("self.png", "gone.png"):  # numbered, and reported when it is read
        with pytest.raises(InputError):
            pictures.photo(pictures.names.index(name))
    assert pictures.photo(pictures.names.index("also.png")).size == (6, 8)


def test_several_sources_share_a_root_and_nothing_counts_twice(place: Path) -> None:
    pictures = Pictures(
        [place / "cat", place / "ant" / "1.PNG", place / "cat" / "9.jpg", f"{place}/cat/../cat"]
    )
    assert pictures.root == place.resolve()
    assert pictures.names == ("ant/1.PNG", "cat/9.jpg", "cat/10.png")
    odd = place / "cat" / "notes.txt"
    assert Pictures(odd).names == ("notes.txt",)  # given by name, whatever its ending


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "none", "there is no file or folder"),
        (lambda p: p / "dir.png", "no picture in"),
        (lambda p: [], "no source"),
        (lambda p: None, "None as a source"),
        (lambda p: [p, 3], "3 as a source"),
        (lambda p: "~nobody-of-this-name/x", "cannot read ~nobody|no file or folder"),
        (lambda p: [p, p / "cat" / "11.png"], "there is no file or folder"),
        (lambda p: "a\0b", "there is no file or folder|cannot read"),
    ],
)
def test_nothing_to_list_is_said(place: Path, make: object, words: str) -> None:
    with pytest.raises((InputError, UsageError), match=words):
        Pictures(make(place))  # type: ignore[operator]


def test_a_folder_without_pictures_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match="no picture in .*JPEG|no picture in .*jpg"):
        Pictures(tmp_path)


def test_what_may_not_be_read_is_said(open_place: Path) -> None:
    (open_place / "sub").chmod(0)
    drop_privileges()
    with pytest.raises(InputError, match="cannot read the folder .*sub"):
        Pictures(open_place)


def test_a_file_that_may_not_be_read_keeps_its_number(open_place: Path) -> None:
    whole = Pictures(open_place).fingerprint()
    (open_place / "0.png").chmod(0)
    drop_privileges()
    pictures = Pictures(open_place)
    assert pictures.names == ("0.png", "sub/1.png")
    with pytest.raises(InputError, match="(?i)permission"):
        pictures.photo(0)
    assert pictures.fingerprint() != whole


def test_the_fingerprint_is_that_of_names_sizes_contents_and_labels(place: Path) -> None:
    pictures = Pictures(place, labels="folder")
    whole = hashlib.sha256()
    for name, label in zip(pictures.names, (0, 1, 1), strict=True):
        data = (place / name).read_bytes()
        line = f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\0{label}\n"
        whole.update(line.encode())
    assert pictures.fingerprint() == whole.hexdigest()


def test_fingerprints_notice_every_change_and_only_changes(place: Path) -> None:
    def prints(folder: Path, **options: object) -> tuple[str, str, str]:
        p = Pictures(folder, **options)  # type: ignore[arg-type]
        return p.fingerprint(), p.fingerprint(range(2)), p.fingerprint(range(2, 3))

    first = prints(place)
    copy = place.parent / "copy"
    shutil.copytree(place, copy)
    for file in copy.rglob("*.*"):
        os.utime(file, (1, 1))
    assert prints(copy) == first
    stamps = {Pictures(p).fingerprint(by="stamp") for p in (place, copy)}
    assert len(stamps) == 2
    data = bytearray((copy / "cat" / "10.png").read_bytes())
    data[-1] ^= 1
    (copy / "cat" / "10.png").write_bytes(data)
    now = prints(copy)
    assert (now[0] != first[0], now[1] == first[1], now[2] != first[2]) == (True, True, True)
    (place / "ant" / "1.PNG").rename(place / "ant" / "2.png")
    moved = prints(place)
    assert (moved[0] != first[0], moved[1] != first[1], moved[2] == first[2]) == (True, True, True)
    assert prints(place, labels="folder")[0] != moved[0]
    with pytest.raises(UsageError):
        Pictures(place).fingerprint(by="name")  # type: ignore[arg-type]
