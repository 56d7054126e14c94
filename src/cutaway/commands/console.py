"""How the command line speaks: data on stdout, talk on stderr, errors in three parts."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeAlias

import typer

from cutaway.core.errors import CutawayError
from cutaway.core.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
Show: TypeAlias = Callable[[int, str], Callable[[Progress], None]]
PIPED_WIDTH = 140
REFUSED, INTERRUPTED = 6, 130


def robust_streams() -> None:
    """Let text that the terminal's encoding lacks come out as a replacement instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def console(*, error: bool = False) -> Console:
    """A Rich console on stdout or stderr that takes text as it is: no markup, no guessing at highlights."""
    from rich.console import Console

    class Piped(Console):
        """Lets a reader that went away be met by `guarded`; Rich itself would end with an error."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Piped(stderr=error, markup=False, highlight=False, emoji=False, width=width)


def say(text: str) -> None:
    """One line of talk on stderr."""
    console(error=True).print(text, soft_wrap=True)


def show_error(error: CutawayError, about: str = "") -> None:
    """An error on stderr in its three parts: found, accepted, try; a method's refusal is no error and looks so."""
    from rich.text import Text

    talk = console(error=True)
    one_line = not sys.stderr.isatty()
    refused = error.exit_code == REFUSED
    head = Text("refused: " if refused else "error: ", style="bold yellow" if refused else "bold red")
    head.append(f"{about}: " if about else "", style="bold").append(error.found, style="bold")
    talk.print(head, soft_wrap=one_line)
    for name, part in (("accepted", error.accepted), ("try", error.hint)):
        if part:
            talk.print(Text(f"  {name:<9} ", style="dim").append(part, style="not dim"), soft_wrap=one_line)


def command_line(context: typer.Context) -> str:
    """The command that is running, to be typed again: what was given and no default."""
    words = ["cutaway", str(context.info_name)]
    for parameter in context.command.params:
        name, source = str(parameter.name), context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        given = context.params[name]
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if parameter.param_type_name == "option":
                words.append(max(parameter.opts, key=len))
            if value is not True:
                words.append(str(value))
    return shlex.join(words)


@contextmanager
def bar(pieces: int) -> Iterator[Show]:
    """A progress bar on stderr while the block runs; silent where stderr is not a terminal.

    Gives `show(done, title)`, the watcher of the next piece when `done` of all `pieces` are finished.
    """
    if not sys.stderr.isatty():
        yield lambda done, title: lambda step: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console(error=True), transient=True) as drawn:
        task = drawn.add_task("", total=pieces)

        def show(done: int, title: str) -> Callable[[Progress], None]:
            def watch(step: Progress) -> None:
                text = f"{title}  {step.note}" if step.note else title
                drawn.update(task, completed=done + step.fraction, description=text)

            return watch

        yield show


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command with errors turned into words and exit codes; `CUTAWAY_DEBUG=1` adds the traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except CutawayError as error:
            _trace()
            show_error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _trace()
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            _trace()
            if type(error).__module__.startswith(("click.", "typer.")):  # usage errors print themselves
                raise
            show_error(
                CutawayError(
                    f"this is a fault of cutaway: {type(error).__name__}: {error}",
                    "",
                    "CUTAWAY_DEBUG=1 in the environment shows where it happened",
                )
            )
            raise typer.Exit(1) from error

    return run


def _trace() -> None:
    if os.environ.get("CUTAWAY_DEBUG") == "1":
        traceback.print_exc()
