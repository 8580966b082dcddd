"""What every command shares: exit codes, one place for failures, progress.

Imported by each command at its top, so nothing heavy may be imported here at module level.
"""

import enum
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import typer

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE


class ExitCode(enum.IntEnum):
    """How a command ended; the process's exit status."""

    DONE = 0
    OUR_FAULT = 1
    BAD_INPUT = 2
    NOT_TRUSTED = 3
    INTERRUPTED = 130


class NotTrusted(Exception):
    """The work is done and saved, but its diagnostics say not to trust it.

    The message says which diagnostic failed and what to try.
    """


def complain(message: str) -> None:
    """Write a line for the user on standard error."""
    print(message, file=sys.stderr)


def guarded(action: Callable[[], Any]) -> int:
    """Run an action and turn the way it ends into an exit code and one message.

    Parameters
    ----------
    action
        A Typer/Click command's `main`, or any callable without arguments. It may raise `SystemExit` (Typer
        does so for usage errors, with code 2, and for Ctrl-C, with code 130).

    Returns
    -------
    int
        One of `ExitCode`, or the code of a `SystemExit`.
    """
    try:
        action()
    except SystemExit as exit_:
        return _status(exit_)
    except KeyboardInterrupt:
        complain("Interrupted.")
        return ExitCode.INTERRUPTED
    except NotTrusted as doubt:
        complain(f"Done and saved, but do not trust it yet: {doubt}")
        return ExitCode.NOT_TRUSTED
    except ReinfuseError as error:
        complain(f"Error: {error}")
        return ExitCode.BAD_INPUT
    except OSError as error:
        if not _is_users_path(error.filename):
            return _our_fault(error)
        complain(f"Error: cannot use {error.filename!r}: {error.strerror}. Check the path and your permissions.")
        return ExitCode.BAD_INPUT
    except Exception as error:
        return _our_fault(error)
    return ExitCode.DONE


def _status(exit_: SystemExit) -> int:
    """Exit status that Python would give the process for this `SystemExit`."""
    if exit_.code is None:
        return ExitCode.DONE
    if isinstance(exit_.code, int):
        return exit_.code
    complain(exit_.code)
    return ExitCode.OUR_FAULT


def _is_users_path(filename: object) -> bool:
    """Whether an `OSError` is about a path the user gave, not a file of this package or of a library."""
    if not isinstance(filename, str | bytes):
        return False
    path = Path(filename.decode(errors="replace") if isinstance(filename, bytes) else filename).absolute()
    ours = (Path(__file__).absolute().parents[1] / part for part in ("model", "fits", "scripts"))
    return not any(path.is_relative_to(folder) for folder in (*ours, Path(sys.prefix)))


def _our_fault(error: Exception) -> int:
    """Tell that the program is at fault, with the traceback a report needs."""
    traceback.print_exception(error)
    complain(
        f"\nThis is a fault of reinfuse, not of your input: {type(error).__name__}: {error}\n"
        "Please report it with the lines above and the command you typed."
    )
    return ExitCode.OUR_FAULT


def run_alone(command: Callable[..., Any]) -> NoReturn:
    """Run one command's file by itself (`python scripts/NAME.py`) with the exit codes of `reinfuse NAME`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(epilog=NOTICE)(command)
    sys.exit(guarded(lambda: typer.main.get_command(app).main()))


class Tick(Protocol):
    """What `progress` hands out: call it, or its `advance`, when some of the work is done."""

    def __call__(self, amount: float = 1.0, /) -> None:
        """Advance by an amount of the total."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Advance by an amount of the total, with a short note to show beside the bar."""


@contextmanager
def progress(title: str, total: float) -> Iterator[Tick]:
    """Show how far a long piece of work is, with time left, on standard error.

    On a terminal: a bar. Elsewhere (a log file, CI): one plain line at the start and one for every tenth of
    the work. Safe to advance from several threads.

    Parameters
    ----------
    title
        What is being done, for example "Sampling".
    total
        Amount of work, > 0, in the unit that the ticks use.

    Yields
    ------
    Tick
        Call it with the amount of work done since the last call.

    Raises
    ------
    ValueError
        If the total is not positive.
    """
    if not total > 0:
        raise ValueError(f"progress of {title!r} needs a total > 0, got {total}; leave the bar out for no work")
    if sys.stderr.isatty():
        with _bar(title, total) as bar:
            yield bar
    else:
        yield _PlainLines(title, total)


class _PlainLines:
    """Progress for what is not a terminal."""

    def __init__(self, title: str, total: float) -> None:
        self.title, self.total = title, total
        self.done, self.tenths = 0.0, 0
        self.start = time.monotonic()
        self.lock = threading.Lock()
        complain(f"{title}: started")

    def __call__(self, amount: float = 1.0, /) -> None:
        self.advance(amount)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        with self.lock:
            self.done = min(self.done + amount, self.total)
            share = self.done / self.total
            # a sum of many small ticks may fall short of a tenth by rounding
            tenths = int(10 * share + 1e-9)
            if tenths == self.tenths:
                return
            self.tenths = tenths
            elapsed = time.monotonic() - self.start
            left = elapsed * (1 - share) / share
            complain(
                f"{self.title}: {share:4.0%}, {clock(elapsed)} elapsed, {clock(left)} left"
                + (f", {note}" if note else "")
            )


@contextmanager
def _bar(title: str, total: float) -> Iterator[Tick]:
    """Progress bar for a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeftColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeLeftColumn(),
        TextColumn("left  {task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(title, total=total, note="")

        class Bar:
            def __call__(self, amount: float = 1.0, /) -> None:
                self.advance(amount)

            def advance(self, amount: float = 1.0, note: str = "") -> None:
                if note:
                    shown.update(task, advance=amount, note=note)
                else:
                    shown.update(task, advance=amount)

        yield Bar()


def clock(seconds: float) -> str:
    """Write a duration as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
