"""Files of an atlas, on a disk or in an object store: each appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from cutaway.core.errors import InputError, missing
from cutaway.core.files import whole_file

SCHEMA = 2
"""Version of the layout of an atlas."""
LOCK = ".lock"
"""The file by which a local folder is held."""


class Folder:
    """A folder of whole files, by path or by a URL that fsspec knows (`s3://bucket/atlas`, `memory://atlas`).

    >>> folder = Folder("memory://example")
    >>> folder.write("a/b.json", {"k": 9})
    >>> folder.json("a/b.json"), folder.names("a"), folder.has("a/c.json")
    ({'k': 9}, ['a/b.json'], False)
    """

    def __init__(self, url: str | Path) -> None:
        import fsspec

        self.url = str(url)
        try:
            self._files, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot open {url}: {error}", "a folder, or a URL that fsspec knows") from error
        self._root = root.rstrip("/")
        self.local = (
            Path(root) if getattr(self._files, "protocol", None) in ("file", ("file", "local")) else None
        )

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)  # type: ignore[misc]

    def __str__(self) -> str:
        return self.url

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a local folder as its only writer while the block runs; other stores know no such hold.

        The hold is the operating system's: it ends with the process, however that ends. Raises `InputError` naming
        the process that holds it already.
        """
        if self.local is None:
            yield
            return
        try:
            from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
        except ImportError as error:
            raise missing("filelock", "atlas", "an atlas") from error
        path = self.local / LOCK
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            lock: BaseFileLock = FileLock(path, timeout=0, thread_local=False)
            lock.acquire()
        except Timeout as error:
            holder = ""
            with suppress(OSError, ValueError, IndexError):  # Windows lets nobody read it
                words = path.read_text().strip()
                holder = words if words.startswith("process") else f"process {words.split()[0]}"
            raise InputError(
                f"{holder or 'another process'} is at work in {self}",
                "a folder that no other run writes to",
                "wait until it ends, or another folder",
            ) from error
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}", "a folder that can be written"
            ) from error
        try:
            with suppress(OSError):
                now = datetime.now().astimezone().isoformat(" ", "seconds")
                if not isinstance(lock, SoftFileLock):  # which writes down itself whom to look for
                    path.write_text(f"process {os.getpid()} on {platform.node()}, since {now},\n")
            yield
        finally:
            with suppress(OSError):  # while it is held; who waits for it looks whether it is still there
                path.unlink()
            lock.release()

    def write(self, name: str, content: bytes | dict[str, Any] | dict[str, Tensor]) -> None:
        """Write one file: bytes, JSON for a mapping of plain values, safetensors for one of tensors.

        Raises `InputError` where it cannot be written; what stood there before is then still there.
        """
        if isinstance(content, dict):
            if name.endswith(".safetensors"):
                content = safetensors.torch.save(content)
            else:
                content = (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
        try:
            if self.local is not None:
                path = self.local / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as temporary:
                    temporary.write_bytes(content)
            else:
                self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(f"{self._root}/{name}", content)
        except OSError as error:
            full = "; the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise InputError(
                f"cannot write {self.url}/{name}: {error.strerror or error}{full}",
                "a folder that can be written and has room",
                "the same command again once there is: what was finished is kept",
            ) from error

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `InputError` where there is none."""
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
        except OSError as error:
            raise InputError(
                f"cannot read {self.url}/{name}: {error.strerror or error}", "an atlas"
            ) from error
        return content

    def json(self, name: str) -> Any:
        """A JSON file. Raises `InputError` for one that is not."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise InputError(f"{self.url}/{name} is no JSON ({error})", "an atlas") from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A file of tensors. Raises `InputError` for one that is damaged."""
        content = self.read(name)
        try:
            return safetensors.torch.load(content)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.url}/{name} is damaged ({error})",
                "a file as it was written",
                "delete it and run again",
            ) from error

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return bool(self._files.exists(f"{self._root}/{name}"))

    def names(self, under: str = "") -> list[str]:
        """The files under a name, sorted; temporary ones are none."""
        start = f"{self._root}/{under}".rstrip("/")
        if not self._files.exists(start):
            return []
        found: Iterable[str] = self._files.find(start)
        names = (path.removeprefix(self._root).lstrip("/") for path in found)
        return sorted(n for n in names if not n.rpartition("/")[2].startswith("."))

    def remove(self, under: str) -> None:
        """Delete a folder in this one, where there is one, with its files."""
        with suppress(FileNotFoundError):  # another may have been faster
            self._files.rm(f"{self._root}/{under}", recursive=True)
