"""The folder that `reinfuse sensitivity` leaves behind.

`indices.csv`, `convergence.csv`, `failures.csv`, `figures/` (PNG, and the data of each as CSV), and `run.json`, written
last: a folder without it was not finished. Results of model runs lie in `runs/` until then, to go on from.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from reinfuse.model.errors import ReinfuseError

from .. import result_folder
from .study import Found

KIND: Final = "sensitivity"
RUNS_FOLDER: Final = "runs"


def prepare(path: Path, *, resume: bool, force: bool) -> Path:
    """Make the folder, or make sure that it may be written to.

    Parameters
    ----------
    path
        The folder; its parents are made too.
    resume
        Keep the model runs of an analysis that was interrupted.
    force
        Write into a folder that holds other files; they are left alone, unless they have our names.

    Raises
    ------
    ReinfuseError
        If the path is a file, or the folder holds something else than an analysis.
    """
    result_folder.check(path, kind=KIND, force=force, passed_over=(RUNS_FOLDER,))
    if (path / RUNS_FOLDER).is_dir() and result_folder.kind_of(path) != KIND and not (resume or force):
        raise ReinfuseError(f"{path} holds an analysis that was interrupted; add --resume to go on, or --force")
    if not resume:
        shutil.rmtree(path / RUNS_FOLDER, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


def discard(path: Path) -> None:
    """Leave no model runs behind, nor the folder if nothing else is in it."""
    shutil.rmtree(path / RUNS_FOLDER, ignore_errors=True)
    if not any(path.iterdir()):
        path.rmdir()


def write(
    path: Path,
    *,
    found: Found,
    figures: Mapping[str, tuple[Figure, pd.DataFrame]],
    provenance: Mapping[str, Any],
) -> None:
    """Write everything in place of an earlier analysis; `run.json` comes last."""
    result_folder.write(
        path,
        kind=KIND,
        tables={"indices": found.indices, "convergence": found.convergence, "failures": found.failures},
        figures={name: figure for name, (figure, _) in figures.items()},
        numbers={name: data for name, (_, data) in figures.items()},
        provenance=provenance,
    )
    shutil.rmtree(path / RUNS_FOLDER, ignore_errors=True)
