"""What a .keras file may hold, seen before Keras opens it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cutaway.core.errors import InputError

ACCEPTED = "a file that Keras 3 wrote with model.save('FILE.keras')"
_RUNS_CODE = {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}
_MOST = 8 << 30  # bytes of a file once unpacked


def check(path: Path) -> None:
    """Refuse what is no .keras file, what is too large, and what would run code; nothing is unpacked for it."""
    if path.suffix.lower() in (".h5", ".hdf5"):
        raise InputError(
            f"{path} is of the format before Keras 3, which can hold code",
            ACCEPTED,
            f"where you trust it, once: keras.models.load_model({path.name!r}).save('{path.stem}.keras')",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if not {"config.json", "model.weights.h5"} <= set(sizes):
                raise InputError(f"{path} is a zip file without a Keras model in it", ACCEPTED)
            if sum(sizes.values()) > min(_MOST, 64 * path.stat().st_size + (1 << 26)):
                raise InputError(
                    f"{path} unpacks to {sum(sizes.values()) / 2**30:.1f} GiB",
                    f"at most {_MOST >> 30} GiB, and at most 64 times the file",
                )
            config = json.loads(archive.read("config.json"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", ACCEPTED) from error
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is no .keras file, or a damaged one: {error}", ACCEPTED) from error
    for module, kind in _objects(config):
        own = module is None or module == "builtins" or module.split(".")[0] == "keras"
        if kind in _RUNS_CODE or not own:
            raise InputError(
                f"{path} holds {'.'.join(filter(None, (module, kind)))}, which is code of its own",
                "a model of Keras's own layers",
                "path/net.py:build, where build() returns the network as a torch module",
            )


def _objects(config: Any) -> Iterator[tuple[str | None, str]]:
    """The module (of a class registered by its author, the package) and class of all that would be made."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            module = config.get("module")
            package, registered, _ = str(config.get("registered_name")).partition(">")
            if registered:
                module = package
            yield (None if module is None else str(module)), config["class_name"]
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)
