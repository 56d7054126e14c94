"""The pictures of files and folders as a fixed, numbered list."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from cutaway.core.errors import InputError, UsageError
from cutaway.core.image import Photo, read

from .labels import ClassSource, LabelSource, labels_of, natural

PathLike: TypeAlias = "str | os.PathLike[str]"

_STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats whose endings Pillow knows, but whose pixels it does not decode itself."""


class PictureSource(Protocol):
    """Numbered pictures, of files or generated: what `batches` and pixel labels take."""

    @property
    def names(self) -> Sequence[str]:
        """Unique name of every picture."""

    @property
    def labels(self) -> Tensor | None:
        """Class numbers (n,), int64, -1 where unknown; None without labels."""

    def __len__(self) -> int: ...

    def photo(self, number: int) -> Photo:
        """The picture, upright and at its own size. Raises `InputError` when it cannot be read."""

    def fingerprint(self, numbers: Sequence[int] | None = None) -> str:
        """SHA-256, in hexadecimal, of everything that decides the pictures and their labels."""


class Pictures:
    """The picture files of files and folders, each with a number from 0 that never depends on the machine.

    Folders are searched to any depth. Files whose name starts with a dot are left out, and so are those whose
    ending no decoder of Pillow claims; a file given by name is taken whatever its ending. Folders behind
    symbolic links are entered, each real folder once. The order is that of the relative paths, digits counted
    as numbers. Nothing is opened: a damaged file has a number too, and is reported when it is read.

    Parameters
    ----------
    sources : a file or folder, or several; a file reached twice counts once.
    labels : where class numbers come from: None (no labels), "folder", "prefix", "auto", a JSON or CSV file, or
        {file: label}; see `labels.labels_of`.
    classes : names of the network's classes, or a JSON file with them and their WordNet identifiers.

    Attributes
    ----------
    root : the folder that names are relative to: the one given, or the deepest that holds all sources.
    names : relative path of every picture, with forward slashes.
    labels : class numbers (n,), int64, -1 where unknown; None without labels.
    classes : names of the classes; may be empty.
    labels_from : in words, where the labels came from.

    Raises `InputError` for a missing source, a folder that cannot be read, or no picture at all, and what
    `labels_of` raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat/10.png", "cat/9.png", "ant/1.png"):
    ...         (Path(folder) / name).parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (4, 4)).save(Path(folder) / name)
    ...     pictures = Pictures(folder, labels="folder")
    >>> pictures.names, pictures.labels, pictures.classes
    (('ant/1.png', 'cat/9.png', 'cat/10.png'), tensor([0, 1, 1]), ('ant', 'cat'))
    """

    def __init__(
        self,
        sources: PathLike | Iterable[PathLike],
        *,
        labels: LabelSource = None,
        classes: ClassSource | None = None,
    ) -> None:
        given: Any = sources
        if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
            given = [given]
        places = [existing(source) for source in given]
        if not places:
            raise UsageError("no source of pictures", "files and folders")
        self.root = _root([place if place.is_dir() else place.parent for place in places])
        found = {
            str(file) for place in places for file in (picture_files(place) if place.is_dir() else [place])
        }
        if not found:
            raise InputError(
                f"no picture in {', '.join(map(str, places[:3]))}",
                "a folder with files Pillow reads: .jpg, .png ...",
                "another folder",
            )
        start = len(str(self.root).rstrip(os.sep)) + 1
        names = (file[start:].replace(os.sep, "/") for file in found)
        self.names: tuple[str, ...] = tuple(sorted(names, key=natural))
        told = labels_of(self.names, labels, classes)
        self.labels = None if told is None else torch.tensor(told.numbers, dtype=torch.int64)
        self.classes = () if told is None else told.classes
        self._prints: bytes | None = None
        self.labels_from = "no labels" if told is None else told.source

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Pictures {self.root}: {len(self)}, labels: {self.labels_from}>"

    def path(self, number: int) -> Path:
        """The file of a picture. Raises `UsageError` outside 0 ... n - 1."""
        if not 0 <= number < len(self):
            raise UsageError(f"picture {number}", f"a number from 0 to {len(self) - 1}")
        return self.root / self.names[number]

    def photo(self, number: int) -> Photo:
        """The picture, upright and at its own size. Raises `InputError` when it cannot be read."""
        return read(self.path(number))

    def fingerprint(
        self, numbers: Sequence[int] | None = None, *, by: Literal["content", "stamp"] = "content"
    ) -> str:
        """SHA-256, in hexadecimal, over relative path, size, content and label of the pictures in order.

        `numbers` restricts it to some of them, such as a shard's `range(1000, 2000)`. Content is read in pieces,
        so that memory does not grow with the files; `by="stamp"` takes the time of the last change (in
        nanoseconds) in its place, which opens no file, but a copy of the folder then counts as another one and
        a file rewritten under its old time as the same. A file that cannot be read counts as unreadable.
        """
        if by not in ("content", "stamp"):
            raise UsageError(f"by={by!r}", "'content' or 'stamp'", "by='content'")
        whole, prints = hashlib.sha256(), bytearray()
        for number in range(len(self)) if numbers is None else numbers:
            path = self.path(number)
            label = None if self.labels is None else int(self.labels[number])
            name, state = self.names[number].encode("utf-8", "surrogateescape"), _state(path, by)
            whole.update(name)
            whole.update(f"\0{state}\0{label}\n".encode())
            prints += hashlib.sha256(name.rpartition(b"/")[2] + f"\0{state}".encode()).digest()[:16]
        if numbers is None and by == "content":
            self._prints = bytes(prints)
        return whole.hexdigest()

    def prints(self) -> bytes:
        """16 bytes of each picture, by its file's own name and content: the same wherever the folder lies.

        They are those of the last `fingerprint` of all contents, where there was one.
        """
        if self._prints is None:
            Pictures.fingerprint(self)
        assert self._prints is not None
        return self._prints


def _state(path: Path, by: str) -> str:
    """Size and content hash, or size and time, of a file."""
    try:
        if by == "stamp":
            status = path.stat()
            return f"{status.st_size}\0{status.st_mtime_ns}"
        with path.open("rb") as file:
            return f"{os.fstat(file.fileno()).st_size}\0{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return "unreadable"


@cache
def suffixes() -> frozenset[str]:
    """Endings, in small letters, of the files that Pillow decodes."""
    known = Image.registered_extensions()
    return frozenset(ending for ending, form in known.items() if form in Image.OPEN and form not in _STUBS)


def existing(source: PathLike) -> Path:
    """An existing file or folder as an absolute path; the file's own name is kept where it is a link."""
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"{source!r} as a source of pictures", "files and folders")
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.is_file():
            return path.parent.resolve() / path.name
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # no permission on a folder above, or nobody's ~home
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {source}: {reason}", "files and folders of pictures") from error
    if exists:
        raise InputError(f"{path} is neither a file nor a folder", "files and folders of pictures")
    raise InputError(f"there is no file or folder {path}", "files and folders of pictures")


def _root(folders: list[Path]) -> Path:
    """The deepest folder that holds all."""
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise InputError("the sources lie on several drives", "sources on one drive") from error


def picture_files(top: Path) -> Iterator[str]:
    """Picture files below a folder; real folders first, then those behind links, each real folder once."""
    entered: set[tuple[int, int]] = set()
    waiting, linked = [str(top)], list[str]()
    while waiting or linked:
        if not waiting:
            linked.sort(key=natural)
            waiting.append(linked.pop(0))
        folder = waiting.pop()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted((e.path, _kind(e)) for e in entries if not e.name.startswith("."))
        except OSError as error:
            raise InputError(
                f"cannot read the folder {folder}: {error.strerror or error}", "a folder that may be read"
            ) from error
        waiting += [path for path, kind in inside if kind == "folder"]
        linked += [path for path, kind in inside if kind == "link"]
        yield from (path for path, kind in inside if kind == "file" and _ending(path) in suffixes())


def _kind(entry: os.DirEntry[str]) -> str:
    """Whether this is a folder, a link to one, a file, or (a pipe, a device) nothing of interest."""
    if not entry.is_symlink():
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    link = Path(entry.path)
    if link.is_dir():
        return "link"
    return "file" if link.is_file() or not link.exists() else ""  # a broken link is told when it is read


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - a Path for each of millions is slow
