"""Where results are written: a report, a figure, a folder of figures, raw arrays; each whole or not."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cutaway.core.errors import InputError, UsageError
from cutaway.core.files import whole_file

from .console import say

if TYPE_CHECKING:
    from cutaway.core.result import Array, Panel, Result

    from .bench import Explained

ENDINGS = (".html", ".png")
TITLE = "What the network looked at"


def array_name(number: int, path: str, method: str) -> str:
    """The name of a raw array: `<image number>/<image stem>/<method>`, numbers from 0 in the order given.

    >>> array_name(1, "photos/tabby.jpg", "saliency")
    '1/tabby/saliency'
    """
    return f"{number}/{stem(path)}/{method}"


def stem(path: str) -> str:
    """The file's name without folder and ending, in characters every archive can hold.

    >>> stem("photos/tabby.cat.jpg")
    'tabby.cat'
    """
    return Path(path).stem.encode("utf-8", "replace").decode()


class _Nothing(Exception):  # noqa: N818 - no error: it discards the temporary file
    """No result was made, so no file of arrays takes its place."""


class Outputs:
    """The files one command writes; made, and so checked, before any long work begins.

    Raises `UsageError` for an ending it cannot write or an output that is one of the inputs, and `InputError`
    when the folder is missing or closed to writing.
    """

    def __init__(self, output: Path | None, arrays: Path | None, inputs: Sequence[str] = ()) -> None:
        check_outputs(output, arrays, inputs, folders=True)
        self.output, self.arrays = output, arrays
        self.folder = output is not None and _is_folder(output)
        self.written: list[Path] = []
        self._explained: list[Explained] = []
        self._stack = ExitStack()
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> Outputs:
        if self.arrays is not None:
            temporary = self._stack.enter_context(whole_file(self.arrays))
            self._archive = self._stack.enter_context(zipfile.ZipFile(temporary, "w"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._archive is not None and not self._archive.namelist():
            nothing = _Nothing()
            self._stack.__exit__(_Nothing, nothing, None)  # an earlier file of that name stays as it was
            return
        self._stack.__exit__(kind, error, trace)
        if kind is None and self.arrays is not None:
            self.written.append(self.arrays)

    def add(self, one: Explained) -> None:
        """Take the results of one picture; figures in a folder and raw arrays are written at once."""
        for result in one.results:
            if self._archive is not None:
                _store(self._archive, array_name(one.number, one.path, result.method), result)
            if self.folder and self.output is not None:
                self.output.mkdir(exist_ok=True)
                figure = self.output / f"{one.number}-{stem(one.path)}-{result.method}.png"
                self.written.append(result.save(figure))
        if self.output is not None and not self.folder:
            self._explained.append(one)

    def finish(self) -> None:
        """Write the report or the figure of everything taken so far; nothing when there is nothing."""
        results = [r for one in self._explained for r in one.results]
        if self.output is None or not results:
            return
        with whole_file(self.output) as temporary:
            if self.output.suffix.lower() == ".html":
                temporary.write_text(page(self._explained), encoding="utf-8")
            elif len(results) == 1:
                temporary.write_bytes(results[0].png())
            else:
                from cutaway.view.figure import contact_sheet

                contact_sheet(results).save(temporary, format="PNG", optimize=True)
        self.written.append(self.output)


def page(
    explained: Sequence[Explained],
    truths: Mapping[int, Array] | None = None,
    title: str = TITLE,
    lead: str = "",
    code: str = "",
) -> str:
    """The HTML report of everything that was explained; `truths` holds true evidence by picture number."""
    from cutaway.methods import METHODS
    from cutaway.view.report import Prediction, Refusal, picture_names, report

    results = [r for one in explained for r in one.results]
    names, predictions, known, refused = iter(picture_names(results)), {}, {}, []
    for one in explained:
        own = [next(names) for _ in one.results] or [Path(one.path).name]
        refused += [Refusal(method, str(error), own[0]) for method, error in one.refused.items()]
        if one.results:
            predictions[own[0]] = [Prediction(p.index, p.name, p.probability) for p in one.prediction]
            if truths and one.number in truths:
                known[own[0]] = truths[one.number]
    return report(
        results,
        predictions=predictions,
        truths=known,
        catalogue=METHODS,
        refused=refused,
        title=title,
        lead=lead,
        code=code,
    )


def _store(archive: zipfile.ZipFile, name: str, result: Result) -> None:
    import numpy as np

    panels = {f"{name}/{key}": panel.values for key, panel in panels_of(result).items()}
    for path, array in {name: result.arrays()["values"], **panels}.items():
        values = np.ascontiguousarray(array, dtype=np.float32)
        with archive.open(f"{path}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, values, allow_pickle=False)


def store_arrays(results: Sequence[Result], path: Path) -> Path:
    """Raw float32 arrays of results that belong to no list of pictures, under the names of `made_name`."""
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number, result in enumerate(results):
            _store(archive, made_name(number, result), result)
    return path


def made_name(number: int, result: Result) -> str:
    """`<result number>/<picture's stem or target>/<method>`, the target in plain characters."""
    what = stem(result.provenance.image) if result.provenance.image else result.target or "network"
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in what.replace("'", ""))
    return f"{number}/{plain.strip('-')}/{result.method}"


def panels_of(result: Result) -> Mapping[str, Panel]:
    """The further pictures of a result, by name; none for kinds that have no panels."""
    panels: Mapping[str, Panel] = getattr(result, "panels", {})
    return panels


def check_outputs(
    output: Path | None,
    arrays: Path | None,
    inputs: Sequence[str | Path] = (),
    *,
    endings: Sequence[str] = ENDINGS,
    folders: bool = False,
) -> None:
    """Raise now, rather than after the work, what writing would meet in the end."""
    if output is not None and output.suffix.lower() not in endings and not (folders and _is_folder(output)):
        folder = ", or a folder" if folders else ""
        raise UsageError(
            f"cannot write {output.suffix or 'a folder'} ({output})",
            f"an output ending in {' or '.join(endings)}{folder}",
            f"-o {output.with_suffix('.html')}",
        )
    if arrays is not None and arrays.suffix.lower() != ".npz":
        raise UsageError(
            f"--arrays {arrays}", "a name ending in .npz", f"--arrays {arrays.with_suffix('.npz')}"
        )
    sources = {Path(i).absolute() for i in inputs}
    for path in (output, arrays):
        if path is not None:
            if path.absolute() in sources:
                raise UsageError(
                    f"{path} is one of the pictures", "another name for the output", "-o report.html"
                )
            _check_writable(path, folder=folders and path is output and _is_folder(path))


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _check_writable(path: Path, *, folder: bool) -> None:
    """Raise `InputError` now rather than after the work when nothing can be written there."""
    where = path if folder and path.is_dir() else path.absolute().parent
    if not folder and path.is_dir():
        raise InputError(f"{path} is a folder", "a file name to write", str(path / f"out{path.suffix}"))
    try:
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}",
            "a place in a folder that exists and is writable",
            f"mkdir -p {where}" if not where.exists() else "another output path",
        ) from error


def write_page(results: Sequence[Result], output: Path, title: str, lead: str) -> None:
    """Write results that belong together as one page, `.html` or `.png`, whole or not at all, and say so."""
    from cutaway.view.figure import stacked
    from cutaway.view.report import report

    with whole_file(output) as temporary:
        if output.suffix.lower() == ".png":
            temporary.write_bytes(stacked(results))
        else:
            temporary.write_text(report(results, title=title, lead=lead), encoding="utf-8")
    say(f"wrote {output}")
