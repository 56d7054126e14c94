"""Class numbers of many pictures: from folder names, from file names, or from a table."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from cutaway.core.errors import InputError, UsageError, unknown

ClassSource: TypeAlias = "str | os.PathLike[str] | Sequence[str] | Sequence[Mapping[str, Any]] | Classes"
LabelSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, int | str] | None"

_LABELS = "'folder', 'prefix', 'auto', a .json or .csv file, or a dictionary {file: label}"
_TABLE = '{"a.jpg": 3}, [{"file": "a.jpg", "label": 3}], or CSV with the columns file and label'
_CLASSES = "names in the order of the outputs, or a JSON list of names or of {name, wnid}"


def natural(path: str) -> tuple[object, ...]:
    """Sort key of a relative path: digits count as numbers, case second; the same on every machine.

    >>> sorted(["b/10.png", "b/9.png", "B/1.png", "a.png"], key=natural)
    ['a.png', 'B/1.png', 'b/9.png', 'b/10.png']
    """
    parts = []
    for part in path.split("/"):
        pieces = re.split("([0-9]+)", part.casefold())
        # texts and digits take turns, so that equal places hold equal types; "007" has the length of "7"
        parts.append([(len(s := p.lstrip("0")), s) if i % 2 else p for i, p in enumerate(pieces)])
    return parts, path


class Classes:
    """Names of classes in the order of the network's outputs, found by name, by identifier or by number.

    Parameters
    ----------
    names : one per class; underscores and case do not matter when they are looked for.
    ids : WordNet identifiers such as "n01440764", one per class; may be empty.

    >>> classes = Classes(["tench", "great white shark"], ["n01440764", "n01484850"])
    >>> classes.number("n01440764"), classes.number("Great_white_shark"), classes.number(1)
    (0, 1, 1)
    """

    def __init__(self, names: Sequence[str], ids: Sequence[str] = ()) -> None:
        if ids and len(ids) != len(names):
            raise UsageError(f"{len(ids)} identifiers for {len(names)} classes", "one for each class")
        self.names = tuple(names)
        self._named: dict[str, int | None] = {}
        for number, name in enumerate(self.names):
            key = _folded(name)
            self._named[key] = None if key in self._named else number
        self.ids = {name: number for number, name in enumerate(ids)}

    @classmethod
    def of(cls, source: ClassSource) -> Classes:
        """From names, from objects with "name" and perhaps "wnid" and "index", or from a JSON file of either.

        Raises `InputError` for any other content.
        """
        if isinstance(source, Classes):
            return source
        where = "classes"
        values: Any = source
        if isinstance(source, str | os.PathLike):
            where = str(source)
            values = _json(Path(source).expanduser(), _CLASSES)
        entries = list(values) if isinstance(values, Sequence) else []
        if entries and all(isinstance(v, str) for v in entries):
            return cls(entries)
        if entries and all(isinstance(v, Mapping) and isinstance(v.get("name"), str) for v in entries):
            if any(v.get("index", i) != i for i, v in enumerate(entries)):
                raise InputError(f"{where}: the indices are not 0, 1, 2 ...", "classes in order")
            ids = [v["wnid"] for v in entries if isinstance(v.get("wnid"), str)]
            return cls([v["name"] for v in entries], ids if len(ids) == len(entries) else ())
        raise InputError(f"{where} holds no list of class names", _CLASSES)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, label: int | str) -> int | None:
        """The class number of a name, an identifier or a number; None when there is none or more than one."""
        if isinstance(label, str):
            if label in self.ids:
                return self.ids[label]
            if _folded(label) in self._named:
                return self._named[_folded(label)]
            if not re.fullmatch("[0-9]{1,9}", label):
                return None
        number = int(label)
        return number if 0 <= number < len(self.names) else None

    def number(self, label: int | str) -> int:
        """The class number of a name, an identifier or a number. Raises `UnknownNameError`."""
        found = self.find(label)
        if found is None:
            if isinstance(label, int):
                raise unknown("class", label, [], hint=f"a number from 0 to {len(self.names) - 1}")
            several = _folded(label) in self._named
            hint = "its number or identifier, since two classes have this name" if several else ""
            raise unknown("class", label, [*self.names, *self.ids], hint=hint)
        return found


class Labels(NamedTuple):
    """Class numbers (-1 where unknown), the names of the classes (may be empty), and how they were found."""

    numbers: list[int]
    classes: tuple[str, ...]
    source: str


def labels_of(names: Sequence[str], labels: LabelSource, classes: ClassSource | None) -> Labels | None:
    """The class number of every picture, or None where there are no labels.

    Parameters
    ----------
    names : relative paths of the pictures.
    labels : "folder" takes the folder a picture lies in, "prefix" its file name up to the first underscore
        ("n01440764_tench.jpg"), "auto" whichever of the two names a class for every picture, and none
        otherwise; a file or a dictionary maps relative paths, or file names where these are unique, to numbers
        or names of classes. None: no labels.
    classes : those of the network; without them folder names and names in a table become classes of their own,
        in natural order.

    Raises `UsageError`, `InputError` or `UnknownNameError` when a label cannot be found or is no class.
    """
    known = None if classes is None else Classes.of(classes)
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return _tabled(names, labels, known, "a dictionary")
    if isinstance(labels, str) and labels == "auto":
        return _automatic(names, known)
    if isinstance(labels, str) and labels == "folder":
        return _numbered([_folder(name) for name in names], known, "folder names")
    if isinstance(labels, str) and labels == "prefix":
        if known is None:
            raise UsageError("labels='prefix' without classes", _CLASSES, "classes='imagenet_classes.json'")
        return _numbered([_prefix(name) for name in names], known, "file-name prefixes")
    path = Path(labels) if isinstance(labels, str | os.PathLike) else Path()
    if path.suffix.lower() not in (".json", ".csv"):
        raise UsageError(f"labels={labels!r}", _LABELS, "labels='folder'")
    return _tabled(names, _table(path.expanduser()), known, path.name)


def _automatic(names: Sequence[str], known: Classes | None) -> Labels | None:
    ways: list[tuple[Callable[[str], str], str]] = [
        (_prefix, "file-name prefixes"),
        (_folder, "folder names"),
    ]
    for rule, words in ways:
        if known is None or (rule is _folder and not all("/" in name for name in names)):
            continue
        found = [known.find(rule(name)) for name in names]
        numbers = [number for number in found if number is not None]
        if len(numbers) == len(names):
            return Labels(numbers, known.names, words)
    return None


def _folder(name: str) -> str:
    """The folder a picture lies in."""
    if "/" not in name:
        raise UsageError(
            f"{name} lies in no class folder", "class/picture.jpg", "labels=None, or the folder above"
        )
    return name.split("/")[-2]


def _prefix(name: str) -> str:
    """The file name up to the first underscore."""
    return PurePosixPath(name).stem.split("_")[0]


def _numbered(labels: Sequence[int | str], known: Classes | None, source: str) -> Labels:
    """Labels as numbers of the known classes, or of classes made of the labels themselves; -1 stays."""
    if known is None:
        texts = {label for label in labels if isinstance(label, str)}
        if not texts:
            return Labels([int(label) for label in labels], (), source)
        if any(isinstance(label, int) and label != -1 for label in labels):
            raise InputError(f"{source}: some labels are numbers, some are names", "one kind", "classes=...")
        known = Classes(sorted(texts, key=natural))
        own = {name: number for number, name in enumerate(known.names)}
        return Labels([own.get(str(label), -1) for label in labels], known.names, source)
    of = {label: -1 if label == -1 else known.number(label) for label in dict.fromkeys(labels)}
    return Labels([of[label] for label in labels], known.names, source)


def _tabled(
    names: Sequence[str], table: Mapping[str, int | str], known: Classes | None, source: str
) -> Labels:
    """Labels of the pictures a table names, by relative path or by a file name that is unique."""
    by_name: dict[str, int | str] = {}
    for file, label in table.items():
        by_name[PurePosixPath(str(file).replace("\\", "/")).as_posix()] = _label(label, file, source)
    counts: dict[str, int] = {}
    for name in names:
        last = name.rsplit("/", 1)[-1]
        counts[last] = counts.get(last, 0) + 1
    found: list[int | str] = []
    for name in names:
        last = name.rsplit("/", 1)[-1]
        if name not in by_name and last in by_name and counts[last] > 1:
            raise InputError(f"{source}: {last} names {counts[last]} pictures", f"paths, such as {name}")
        found.append(by_name.get(name, by_name.get(last, -1)))
    missing = sum(label == -1 for label in found)
    if missing == len(names):
        raise InputError(
            f"{source} names none of the {len(names)} pictures, such as {names[0]}",
            "their paths or file names",
        )
    return _numbered(found, known, f"{source} ({missing} pictures without label)" if missing else source)


def _label(label: Any, file: str, source: str) -> int | str:
    """A label as it should be; whole numbers of numpy become Python's."""
    if isinstance(label, str):
        return label
    if isinstance(label, bool) or not isinstance(label, Integral) or int(label) < -1:
        raise InputError(f"{source}: the label of {file} is {label!r}", "a class number or name")
    return int(label)


def _table(path: Path) -> dict[str, int | str]:
    """{file: label} of a JSON or CSV file; the labels are checked by the caller."""
    if path.suffix.lower() == ".csv":
        return _rows(path)
    values = _json(path, _TABLE)
    if isinstance(values, dict):
        return values
    if isinstance(values, list) and all(
        isinstance(v, dict) and {"file", "label"} <= v.keys() for v in values
    ):
        return _once(((str(v["file"]), v["label"]) for v in values), path)
    raise InputError(f"{path} holds no labels", _TABLE)


def _rows(path: Path) -> dict[str, int | str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}", _TABLE) from error
    head = [cell.strip().casefold() for cell in rows[0]] if rows else []
    file, label = 0, 1
    if "file" in head and "label" in head:
        file, label = head.index("file"), head.index("label")
        rows = rows[1:]
    short = next((row for row in rows if len(row) <= max(file, label)), None)
    if not rows or short is not None:
        raise InputError(f"{path} holds {short if short else 'no rows'}", _TABLE)
    pairs = [(row[file].strip(), row[label].strip()) for row in rows]
    whole = all(re.fullmatch("-1|[0-9]{1,9}", text) for _, text in pairs)
    return _once(((name, int(text) if whole else text) for name, text in pairs), path)


def _once(pairs: Iterable[tuple[str, int | str]], path: Path) -> dict[str, int | str]:
    table: dict[str, int | str] = {}
    for name, label in pairs:
        if table.setdefault(name, label) != label:
            raise InputError(f"{path} gives {name} two labels: {table[name]} and {label}", "one label each")
    return table


def _json(path: Path, accepted: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", accepted) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}", accepted) from error


def _folded(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
