"""Output files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes its place, on failure it vanishes.

    Raises `InputError` when the folder is missing or cannot be written.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as d:
    ...     with whole_file(f"{d}/a.txt") as p:
    ...         _ = p.write_text("all")
    ...     pathlib.Path(d, "a.txt").read_text()
    'all'
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder", "a file name to write", f"{path / 'out'}{path.suffix}")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}",
            "a file in a folder that exists and is writable",
            "another output path",
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        try:
            os.replace(temporary, path)  # noqa: PTH105 - the atomic one
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}", "a writable file", ""
            ) from error
    finally:
        temporary.unlink(missing_ok=True)
