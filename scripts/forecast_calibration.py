"""Forecast every patient of a run by the others, and score what came later.

`python scripts/forecast_calibration.py RUN --out DIR`

For maintainers, no command of `reinfuse`: `make forecasts RUN=...` writes its tables into the documentation.
"""

from pathlib import Path
from typing import Annotated

import typer

from reinfuse.scripts._shell import progress, run_alone


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `reinfuse fit`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables and figures.")],
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
    cores: Annotated[int, typer.Option(min=1, help="Threads; does not change results.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Hold every patient out, forecast it from days 14, 30 and 60, and write scores, coverage and reliability."""
    import numpy as np
    from rich.console import Console

    from reinfuse.fits import result_folder
    from reinfuse.fits.figures import forecasts as pictures
    from reinfuse.fits.forecasting.heldout import CUTOFFS, hold_out
    from reinfuse.fits.reopened import Reopened
    from reinfuse.fits.run import RunFolder

    kind = "forecast calibration"
    folder = result_folder.check(out, kind=kind, force=force)
    opened = Reopened.of(RunFolder.open(run))
    total = opened.problem.n * (len(CUTOFFS) + 1)
    with progress("Forecasts by the others", float(total)) as tick:
        found = hold_out(opened, np.random.default_rng(seed), cores=cores, tick=tick)
    figures = {"coverage": pictures.by_cutoff(found.measurements, title="Patients forecast by the others")}
    if len(found.reliability):
        figures["reliability"] = pictures.calibration(found.reliability)
    result_folder.write(
        folder,
        kind=kind,
        tables={
            "measurements": found.measurements,
            "progression": found.progression,
            "reliability": found.reliability,
            "draws": found.draws,
            "own": found.own,
        },
        figures=figures,
        provenance=result_folder.origin(opened.run, seed) | {"patients": opened.problem.n},
    )
    console = Console(soft_wrap=True, highlight=False)
    for table in (found.measurements, found.progression, found.reliability):
        console.print(table.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    console.print(f"Wrote {out}.", markup=False)


if __name__ == "__main__":
    run_alone(command)
