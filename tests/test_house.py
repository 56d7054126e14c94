"""The rules of the house, read from the import statements and files themselves."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cutaway"
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = ("core", "data", "nn", "zoo", "sweep", "methods", "metrics", "commands")
"""From the ground floor up: a room may import its own and those before it."""
TOP = {"cli": "commands", "studio": "commands"}
"""Rooms on the top floor beside `commands`."""

LAZY = {("core/result.py", "view"), ("core/model.py", "methods")}
"""The two exceptions: a result draws itself, a model explains; both import inside the function."""

OPTIONAL = {
    "captum", "cv2", "datasets", "faiss", "fastapi", "fsspec", "imageio", "keras", "matplotlib", "openTSNE", "pyarrow",
    "ray", "scipy", "skimage", "sklearn", "timm", "torchvision", "tqdm", "transformers", "uvicorn",
}  # fmt: skip
"""Libraries that are imported inside the function that needs them; all but torchvision and tqdm may be absent."""

MOST_LINES = 320


def imports(tree: ast.AST, file: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module by its full name, and whether it is imported when the file is."""
    package = ["cutaway", *file.relative_to(PACKAGE).parts[:-1]]

    def walk(node: ast.AST, now: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, now) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                name = ".".join([*base, *([child.module] if child.module else [])])
                yield from ((f"{name}.{alias.name}", now) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue  # for the type checker alone
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, now and not inside)

    return walk(tree, True)


def breaches(file: Path, source: str) -> list[str]:
    """What an import statement of the file breaks, in words."""
    place = file.relative_to(PACKAGE).as_posix()
    found = []
    for module, now in imports(ast.parse(source), file):
        parts = module.split(".")
        if parts[0] == "cutaway" and len(parts) > 1:
            why = _upward(place, parts[1], now)
            found += [f"{place} imports {module}: {why}"] if why else []
        if place.startswith("view/") and parts[0] in ("torch", "torchvision"):
            found.append(f"{place} imports {module}: view sees numpy, never torch")
        if parts[0] in OPTIONAL and now:
            found.append(f"{place} imports {module} at its head: inside the function that needs it")
    return found


def _upward(place: str, room: str, now: bool) -> str:
    own = place.split("/")[0].removesuffix(".py")
    own = TOP.get(own, own)
    if (place, room) in LAZY:
        return "lazily only" if now else ""
    if own == "view":
        return "" if room in ("view", "core") else "view sees only core's torch-free files"
    if room == "view":
        return "" if own == "commands" else "only result, command line and studio draw"
    if own not in ROOMS or TOP.get(room, room) not in ROOMS:
        return ""
    floor = ROOMS.index(TOP.get(room, room))
    return "" if floor <= ROOMS.index(own) else f"{own} lies below {room}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(file: Path) -> None:
    assert breaches(file, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("core/layers.py", "from cutaway.methods import METHODS"),
        ("core/layers.py", "from ..zoo.load import load"),
        ("core/layers.py", "def f():\n    from ..zoo import load"),
        ("core/result.py", "from cutaway.view.figure import draw"),
        ("view/figure.py", "import torch.nn as nn"),
        ("view/figure.py", "from cutaway.zoo import load"),
        ("methods/gradient/saliency.py", "from cutaway.metrics import exactness"),
        ("zoo/load.py", "import timm"),
        ("zoo/load.py", "if True:\n    from torchvision import models"),
    ],
)
def test_a_breach_is_seen(place: str, source: str) -> None:
    assert breaches(PACKAGE / place, source)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("core/result.py", "def png(self):\n    from cutaway.view.figure import draw"),
        ("methods/gradient/saliency.py", "from cutaway.core.method import method"),
        ("methods/gradient/cam.py", "from .weighted import head"),
        ("zoo/load.py", "def f():\n    import timm"),
        (
            "core/tap.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cutaway.zoo import load",
        ),
        ("view/report.py", "from cutaway.core.result import Result"),
    ],
)
def test_what_is_allowed_passes(place: str, source: str) -> None:
    assert breaches(PACKAGE / place, source) == []


def test_an_optional_library_is_imported_in_one_file() -> None:
    users: dict[str, set[str]] = {}
    for file in FILES:
        for module, _ in imports(ast.parse(file.read_text(encoding="utf-8")), file):
            users.setdefault(module.split(".")[0], set()).add(file.relative_to(PACKAGE).as_posix())
    several = {name: sorted(files) for name, files in users.items() if name in OPTIONAL and len(files) > 1}
    assert several == {}


def test_files_are_short_and_none_is_called_utils() -> None:
    lengths = {f.relative_to(ROOT).as_posix(): len(f.read_text(encoding="utf-8").splitlines()) for f in FILES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}
    assert [f for f in FILES if f.stem in ("utils", "util", "helpers", "misc")] == []


def run(code: str) -> str:
    """What a fresh interpreter prints for the code."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_import_cutaway_brings_no_library_along() -> None:
    loaded = run("import sys, cutaway; print([m for m in sys.modules])")
    heavy = {"torch", "torchvision", "timm", "matplotlib", "skimage", "PIL", "rich", "typer"}
    assert heavy & set(ast.literal_eval(loaded)) == set()


def test_the_instruments_bring_neither_torchvision_nor_drawing() -> None:
    loaded = run("import sys, cutaway; cutaway.VisionModel, cutaway.METHODS; print([m for m in sys.modules])")
    names = set(ast.literal_eval(loaded))
    assert "torch" in names
    assert {"torchvision", "timm", "matplotlib", "skimage", "cutaway.view.figure"} & names == set()


def test_help_and_version_do_not_wait_for_torch() -> None:
    for argument in ("--help", "--version", "explain --help"):
        code = (
            "import sys, cutaway.cli\n"
            f"sys.argv = ['cutaway', *{argument.split()!r}]\n"
            "try:\n    cutaway.cli.main()\n"
            "except SystemExit as end:\n    assert not end.code, end.code\n"
            "print('LOADED', 'torch' in sys.modules, 'numpy' in sys.modules)"
        )
        assert run(code).splitlines()[-1] == "LOADED False False", argument


def test_a_method_is_two_files_its_own_and_its_oracle() -> None:
    """Every registered method is alone in a file of its chapter, a test names it, and the command line lists it."""
    from cutaway.methods import METHODS

    tests = {
        f: f.read_text(encoding="utf-8")
        for f in (ROOT / "tests").rglob("test_*.py")
        if f.name != Path(__file__).name
    }
    for name, method in METHODS.items():
        home = Path(method.function.__code__.co_filename)
        assert home.parent.parent == PACKAGE / "methods", f"{name} lives in {home}"
        assert any(name in text for text in tests.values()), f"no test names {name}"
    code = "import sys, cutaway.cli; sys.argv = ['cutaway', 'methods', '--json']; cutaway.cli.main()"
    listed = json.loads(run(code))["methods"]
    assert {m["name"] for m in listed} == set(METHODS)


def test_no_method_is_named_outside_its_file_and_the_bench() -> None:
    """Lists of methods are derived; the only ones kept by hand are the default bench and the drawing of names."""
    from cutaway.methods import METHODS

    allowed = {"commands/asked.py", "core/model.py"}
    found = []
    for file in FILES:
        place = file.relative_to(PACKAGE).as_posix()
        if place.startswith("methods/") or place in allowed:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        lists = [n for n in ast.walk(tree) if isinstance(n, ast.List | ast.Tuple | ast.Set | ast.Dict)]
        for node in lists:
            parts = [*node.keys, *node.values] if isinstance(node, ast.Dict) else node.elts
            named = {
                p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)
            } & set(METHODS)
            found += [f"{place}:{node.lineno} {sorted(named)}"] if len(named) > 1 else []
    assert found == []
