"""The folder that `reinfuse retreat` leaves behind: tables, figures, provenance.

`outcomes.parquet` (one row per scenario, world and virtual patient), `TABLES`, `figures/`, and `run.json`, written
last: a folder without it was not finished.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reinfuse.model.errors import ReinfuseError

from ..figures import style
from ..whole_file import write_whole

RUN_FILE: Final = "run.json"
OUTCOMES_FILE: Final = "outcomes.parquet"
#: Where outcomes are while they are made.
UNFINISHED_FILE: Final = ".outcomes.parquet.part"
#: Tables that an experiment may have, one file each, and what they hold.
TABLES: Final[Mapping[str, str]] = {
    "summary": "read-outs per scenario, world and first-response group",
    "contrasts": "differences between arms, patient by patient",
    "choices": "which arm is best on average, and what choosing it for all costs",
    "survival": "first response as a predictor of the second",
    "anchor": "beside the study of ten patients",
    "published": "beside published series",
    "drivers": "what drove the first relapses",
    "frailty": "what the correlation of first and second PFS is made of",
}
FIGURES_FOLDER: Final = "figures"
#: What `kind` says in `run.json`, so that a folder is known as ours.
KIND: Final = "retreat"


def prepare(path: str | Path, *, force: bool = False) -> Path:
    """Make the folder, or make sure that it may be written to; what it holds stays until `write`.

    Parameters
    ----------
    path
        The folder; its parents are made too.
    force
        Write into a folder that holds other files. They are left alone, unless they have our names.

    Raises
    ------
    ReinfuseError
        If the path is a file, or the folder holds something else than an earlier experiment. Nothing is
        changed then.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ReinfuseError(f"{folder} is a file; --out needs a folder. Name a folder that is new or empty.")
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if name != UNFINISHED_FILE]
    if names and not force and not is_ours(folder):
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise ReinfuseError(
            f"{folder} holds other files ({shown}). Name a folder that is new or empty, or add --force."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_ours(folder: Path) -> bool:
    """Whether a folder holds an earlier experiment of `reinfuse retreat`."""
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def is_empty_or_figures(folder: Path) -> bool:
    """Whether a folder holds nothing but PNG files, so that it can only be ours."""
    return folder.is_dir() and all(entry.suffix == ".png" and entry.is_file() for entry in folder.iterdir())


def write(
    folder: Path,
    *,
    outcomes: Path,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
    provenance: Mapping[str, Any],
) -> None:
    """Write everything in place of an earlier experiment; `run.json` comes last.

    Parameters
    ----------
    folder
        From `prepare`.
    outcomes
        The table of outcomes, in the same folder under another name: it is renamed.
    tables
        By name, of `TABLES`; empty ones are left out.
    figures
        By file name without ending.
    provenance
        What `run.json` says beside its `kind`.
    """
    for name in (RUN_FILE, OUTCOMES_FILE, *(f"{table}.csv" for table in TABLES)):
        (folder / name).unlink(missing_ok=True)
    if is_empty_or_figures(folder / FIGURES_FOLDER):
        shutil.rmtree(folder / FIGURES_FOLDER, ignore_errors=True)
    outcomes.replace(folder / OUTCOMES_FILE)
    for name, table in tables.items():
        if not table.empty:
            write_whole(folder / f"{name}.csv", partial(_csv, table))
    (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
    for name, figure in figures.items():
        style.save(figure, folder / FIGURES_FOLDER, name)
    text = json.dumps({"kind": KIND, **_plain(dict(provenance))}, indent=2, ensure_ascii=False)
    write_whole(folder / RUN_FILE, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def acceptance_table(acceptance: Mapping[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """Acceptance by scenario and world as plain numbers, with the share of candidates that met the conditions."""
    return [
        {"scenario": scenario, "world": world, **asdict(seen), "share": seen.share}
        for (scenario, world), seen in acceptance.items()
    ]


def _csv(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")


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
