"""The folder that a command leaves behind: tables, figures, and `run.json`, written last.

A folder without `run.json` was not finished; its `kind` says whose it is, so that nobody else's is written over.
"""

import json
import shutil
import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reinfuse.model.errors import ReinfuseError

from .figures import style
from .run import RunFolder, command_line, git_revision, versions
from .whole_file import write_whole

RUN_FILE: Final = "run.json"
FIGURES_FOLDER: Final = "figures"


def check(path: str | Path, *, kind: str, force: bool = False, passed_over: Collection[str] = ()) -> Path:
    """Say whether a folder may be written to, before anything is computed; nothing is written yet.

    Parameters
    ----------
    path
        The folder.
    kind
        Command whose folder it is: an earlier one of the same kind may be replaced.
    force
        Write beside other files, too.
    passed_over
        Names in the folder that are nobody else's: of what was interrupted.

    Raises
    ------
    ReinfuseError
        If the path is a file, or the folder holds something else.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ReinfuseError(f"{folder} is a file; --out needs a folder. Name a folder that is new or empty.")
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if name not in passed_over]
    if names and not force and kind_of(folder) != kind:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise ReinfuseError(
            f"{folder} holds other files ({shown}). Name a folder that is new or empty, or add --force."
        )
    return folder


def prepare(path: str | Path, *, kind: str, parts: str, resume: bool, force: bool) -> Path:
    """`check` for a command whose parts are kept in a folder of their own until all is done.

    Parameters
    ----------
    path, kind, force
        As for `check`; with ``force``, parts that are there are done again.
    parts
        Name of that folder.
    resume
        Keep the parts of what was interrupted.

    Raises
    ------
    ReinfuseError
        As `check`; and if there are such parts, and nobody said what to do with them.
    """
    folder = check(path, kind=kind, force=force, passed_over=(parts,))
    if (folder / parts).is_dir() and kind_of(folder) != kind and not (resume or force):
        raise ReinfuseError(f"{folder} holds what was interrupted; add --resume to go on, or --force to begin again")
    if not resume:
        shutil.rmtree(folder / parts, ignore_errors=True)
    return folder


def discard(folder: Path, parts: str) -> None:
    """Leave no parts behind, nor the folder if nothing else is in it."""
    shutil.rmtree(folder / parts, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def kind_of(folder: Path) -> str | None:
    """Whose finished folder it is; None: nobody's."""
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return str(content.get("kind")) if isinstance(content, dict) else None


def write(
    folder: Path,
    *,
    kind: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
    provenance: Mapping[str, Any],
    numbers: Mapping[str, pd.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
    earlier: Collection[str] = (),
) -> None:
    """Write everything in place of an earlier result; `run.json` comes last.

    Parameters
    ----------
    folder
        From `check`; made if need be.
    kind
        Whose it is.
    tables
        `NAME.csv`, by name.
    figures
        `figures/NAME.png`, by name.
    provenance
        What `run.json` says beside its ``kind``.
    numbers
        `figures/NAME.csv`, by name: what a figure shows.
    texts
        Further files, by name.
    earlier
        Files of an earlier result that this one may not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RUN_FILE, *earlier):
        (folder / name).unlink(missing_ok=True)
    pictures = folder / FIGURES_FOLDER
    endings = (".png",) if numbers is None else (".png", ".csv")
    if pictures.is_dir() and all(entry.suffix in endings and entry.is_file() for entry in pictures.iterdir()):
        shutil.rmtree(pictures)  # what holds nothing else is ours alone
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", partial(_csv, table))
    pictures.mkdir(exist_ok=True)
    for name, figure in figures.items():
        style.save(figure, pictures, name)
    for name, table in (numbers or {}).items():
        write_whole(pictures / f"{name}.csv", partial(_csv, table))
    for name, content in (texts or {}).items():
        write_whole(folder / name, partial(_text, content))
    text = json.dumps({"kind": kind, **_plain(dict(provenance))}, indent=2, ensure_ascii=False)
    write_whole(folder / RUN_FILE, partial(_text, text + "\n"))


def origin(run: RunFolder | None, seed: int) -> dict[str, Any]:
    """What every `run.json` says of where a result comes from; without a run it comes from the priors."""
    return {
        "command": command_line(sys.argv),
        "versions": versions(),
        "git": git_revision(),
        "seed": seed,
        "cohort_sha256": None if run is None else run.provenance["cohort_sha256"],
        "status": "done",
    }


def _csv(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")


def _text(content: str, file: Path) -> None:
    file.write_text(content, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Turn NumPy numbers, tuples and sets into what JSON can hold; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
