"""The `reinfuse` command: gathers the files of this folder, one command each.

A command's module must be cheap to import (Typer and `_shell` only; the heavy libraries inside the function):
`reinfuse --help` imports them all.
"""

import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer

from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import guarded

#: Commands in the order of the work; each is a module of this folder that has a function `command`.
COMMANDS = (
    "demo",
    "check",
    "convert",
    "simulate",
    "fit",
    "diagnose",
    "forecast",
    "retreat",
    "sensitivity",
    "compare",
    "identify",
    "calibrate",
    "models",
    "report",
    "explore",
    "design",
)


def available() -> tuple[str, ...]:
    """Names of the commands whose module is there."""
    return tuple(name for name in COMMANDS if find_spec(f"reinfuse.scripts.{name}") is not None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"reinfuse {metadata.version('reinfuse')}\n{NOTICE}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """CAR-T cells in myeloma: serial measurements, a hierarchical Bayesian fit, virtual second infusions.

    Start with `reinfuse demo --out demo_out`, or `reinfuse check COHORT.csv` on a table of your own.

    Exit codes: 0 done; 1 a fault of ours; 2 bad input or usage; 3 done and saved, but not to be trusted yet
    (the message says why); 130 interrupted.
    """


def build() -> typer.Typer:
    """Gather the commands into one application."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog=NOTICE)(_about)
    for name in available():
        app.command(name, epilog=NOTICE)(import_module(f"reinfuse.scripts.{name}").command)
    return app


def run() -> NoReturn:
    """Entry point of the `reinfuse` command."""
    command = typer.main.get_command(build())
    sys.exit(guarded(lambda: command.main(prog_name="reinfuse")))


if __name__ == "__main__":
    run()
