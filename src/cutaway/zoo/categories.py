"""Class names from a file or a sequence."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutaway.core.errors import InputError

_ACCEPTED = (
    'a JSON list of names, a JSON object {"0": "cat", ...}, a JSON list of {"name": ...}, or one name a line'
)


def read_classes(source: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Names in the order of the network's outputs.

    A string is the path of a file. Besides the accepted shapes, {"0": ["n01440764", "tench"]} (Keras) and
    {"tench": 0} (a `class_to_idx`) are understood. Raises `InputError` for any other content.

    >>> read_classes(["cat", "dog"])
    ('cat', 'dog')
    """
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source).expanduser())
    if not isinstance(source, Sequence) or not all(isinstance(name, str) for name in source):
        raise InputError(f"class names given as {type(source).__name__}", "a sequence of strings, or a file")
    return tuple(source)


def _read_file(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", _ACCEPTED) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8", _ACCEPTED) from error
    if text.lstrip()[:1] in ("[", "{") or path.suffix.lower() == ".json":
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}", _ACCEPTED) from error
        names = _from_object(values, path) if isinstance(values, dict) else _from_list(values, path)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not names or not all(names):
        gap = f"no name for class {names.index('')}" if names else "no names"
        raise InputError(f"{path} holds {gap}", _ACCEPTED)
    return tuple(names)


def _from_object(values: dict[str, Any], path: Path) -> list[str]:
    if values and all(isinstance(v, int) for v in values.values()):
        values = {str(index): name for name, index in values.items()}
    wanted = [str(i) for i in range(len(values))]
    absent = [key for key in wanted if key not in values]
    if absent:
        raise InputError(f"{path} has {len(values)} entries but none for class {absent[0]}", _ACCEPTED)
    return _from_list([values[key] for key in wanted], path)


def _from_list(values: Any, path: Path) -> list[str]:
    if not isinstance(values, list):
        raise InputError(f"{path} holds a {type(values).__name__}", _ACCEPTED)
    names = []
    for index, value in enumerate(values):
        if isinstance(value, dict):
            value = value.get("name")
        if isinstance(value, list) and value:
            value = value[-1]
        if not isinstance(value, str):
            raise InputError(f"{path}: entry {index} is no name", _ACCEPTED)
        names.append(value.strip())
    return names
