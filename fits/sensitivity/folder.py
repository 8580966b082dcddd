"""The folder that `reinfuse sensitivity` leaves behind.

`indices.csv`, `convergence.csv`, `failures.csv`, `figures/` (PNG, and the data of each as CSV), and `run.json`, written
last: a folder without it was not finished. Results of model runs lie in `runs/` until then, to go on from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from .. import result_folder
from .study import Found

KIND: Final = "sensitivity"
RUNS_FOLDER: Final = "runs"


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
    result_folder.discard(path, RUNS_FOLDER)
