"""The command line: `cutaway explain`, `methods`, `layers`, `judge`, `matrix`, `demo` and more. Importing it costs no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from cutaway import __version__
from cutaway.commands.activations import activations
from cutaway.commands.atlas import atlas
from cutaway.commands.attack import attack
from cutaway.commands.console import guarded, robust_streams
from cutaway.commands.demo import demo
from cutaway.commands.dissect import dissect
from cutaway.commands.dream import dream
from cutaway.commands.explain import explain
from cutaway.commands.filters import filters
from cutaway.commands.invert import invert
from cutaway.commands.judge import judge
from cutaway.commands.listing import layers, methods
from cutaway.commands.matrix import matrix
from cutaway.commands.unit import unit

app = typer.Typer(
    name="cutaway",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with [bold]cutaway demo[/bold]: it needs no network, no weights and no pictures of yours.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cutaway {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """See what a vision network has learned, why it gave this answer, and where it breaks.

    Data goes to stdout, talk and progress to stderr.
    """


for _command in (
    demo,
    explain,
    methods,
    layers,
    filters,
    activations,
    dissect,
    dream,
    invert,
    attack,
    judge,
    matrix,
    unit,
):
    app.command()(guarded(_command))
app.add_typer(atlas)


def main() -> None:
    """Entry point of the `cutaway` command; exits with the codes listed in `docs/command-line.md`."""
    robust_streams()
    app()


if __name__ == "__main__":
    main()
