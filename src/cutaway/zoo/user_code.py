"""`path/net.py:build`: the user's own code as a model spec."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from cutaway.core.errors import CutawayError, InputError, UsageError, unknown
from cutaway.core.model import VisionModel


def build_from_file(file: str, function: str) -> nn.Module | VisionModel:
    """Import a Python file and call one of its functions, which returns a module or a `VisionModel`.

    The file's folder can be imported from while it runs. Raises `InputError` when the file is missing or its
    code fails, `UnknownNameError` when it has no such function, `UsageError` when that gives no network.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {path}", "path/net.py:build", "check the path")
    names = _functions(path)
    if not function:
        hint = f"{file}:{names[0]}" if names else "a function that returns the network"
        raise UsageError(f"{file} names no function", "path/net.py:build", hint)
    with _importable(path.resolve().parent), _explained(path):
        module = _imported(path.resolve())
        found = getattr(module, function, None)
        if found is None:
            raise unknown(f"function in {path}", function, names)
        if isinstance(found, nn.Module | VisionModel):
            return found
        network = found()
    if isinstance(network, nn.Module | VisionModel):
        return network
    raise UsageError(
        f"{file}:{function} returned a {type(network).__name__}", "a torch.nn.Module or a cutaway.VisionModel"
    )


def _functions(path: Path) -> list[str]:
    """Names of the functions and classes at the top of a file, without running it."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not Python: {error}", "a Python file") from error
    kinds = ast.FunctionDef | ast.ClassDef
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _imported(path: Path) -> Any:
    """The file as a fresh module, known to `sys.modules` so that its classes can be found again."""
    name = f"cutaway_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported", "a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of the user's code, with the line of the user's file they came from."""
    try:
        yield
    except CutawayError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename) in (path, path.resolve())]
        where = f" in line {lines[-1]}" if lines else ""
        raise InputError(
            f"{path} failed{where}: {type(error).__name__}: {error}",
            "code that runs by itself",
            f"python {path}",
        ) from error
