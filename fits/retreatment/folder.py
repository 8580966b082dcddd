"""The folder that `reinfuse retreat` leaves behind: tables, figures, provenance.

`outcomes.parquet` (one row per scenario, world and virtual patient), `TABLES`, `figures/`, and `run.json`, written
last: a folder without it was not finished.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from .. import result_folder

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
    folder = result_folder.check(path, kind=KIND, force=force, passed_over=(UNFINISHED_FILE,))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
    (folder / result_folder.RUN_FILE).unlink(missing_ok=True)  # from here on it is no earlier experiment any more
    outcomes.replace(folder / OUTCOMES_FILE)
    result_folder.write(
        folder,
        kind=KIND,
        tables={name: table for name, table in tables.items() if not table.empty},
        figures=figures,
        provenance=provenance,
        earlier=[f"{table}.csv" for table in TABLES],
    )


def acceptance_table(acceptance: Mapping[tuple[str, str], Any]) -> list[dict[str, Any]]:
    """Acceptance by scenario and world as plain numbers, with the share of candidates that met the conditions."""
    return [
        {"scenario": scenario, "world": world, **asdict(seen), "share": seen.share}
        for (scenario, world), seen in acceptance.items()
    ]
