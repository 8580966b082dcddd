"""Fit a cohort as it was known on a day, and judge the forecast of what came later.

`python scripts/temporal_holdout.py cohort.csv --day 30 --out run_30`

For maintainers, no command of `reinfuse`: every fit forecasts each patient from early data with the others' full
courses known (`reinfuse diagnose`); this is the harsher question, once. Leaves `strictly.json` in the run, too.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reinfuse.scripts._shell import run_alone

if TYPE_CHECKING:
    import pandas as pd


def command(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT.csv", help="Cohort file.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    day: Annotated[float, typer.Option(help="Everything after this day is withheld from everybody.")] = 30.0,
    draws: Annotated[int, typer.Option(help="Kept draws of each chain.")] = 400,
    tune: Annotated[int, typer.Option(help="Warm-up sweeps of each chain.")] = 400,
    chains: Annotated[int, typer.Option(help="Number of chains.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
) -> None:
    """Fit the cohort as known on a day; print the scores of what it says of later rows, beside simple rivals."""
    import numpy as np
    from rich.console import Console

    from reinfuse.scripts.fit import shown

    with shown("Starting", 1):  # the libraries of statistics take a second or two
        from reinfuse.fits.fitting import FORECAST_UNTIL, fit
    from reinfuse.fits.cohort import read_cohort
    from reinfuse.fits.diagnosis import yardsticks
    from reinfuse.fits.diagnosis.convergence import diagnose
    from reinfuse.fits.holdout import CUTOFFS
    from reinfuse.fits.problem import pose
    from reinfuse.fits.results import observed, restored
    from reinfuse.fits.sampling import Settings
    from reinfuse.fits.temporal import forecast_from, known_on
    from reinfuse.fits.whole_file import write_whole

    full = read_cohort(cohort)
    known, problem = known_on(full, day), pose(full)
    settings = Settings(draws=draws, tune=tune, chains=chains, seed=seed)
    run = fit(known, out=out, settings=settings, progress=shown)
    fitted = restored(pose(known), run.posterior()["posterior"].to_dataset())
    found = forecast_from(problem, fitted, day=day, after=max(CUTOFFS), until=FORECAST_UNTIL)
    run.write_forecast(found)
    rng = np.random.default_rng(seed)
    table, progressed = yardsticks.strictly(full, observed(problem), found, rng)
    verdict = diagnose(run.posterior())
    records = {"forecast": _records(table), "progression": _records(progressed)}
    left = json.dumps({"day": day, "fit": verdict.to_json()} | records, indent=1)
    write_whole(out / "strictly.json", lambda file: file.write_text(left + "\n", encoding="utf-8"))
    table["n_censored"] = table["n_censored"].map(lambda count: "-" if np.isnan(count) else f"{count:.0f}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"Data of everybody until day {day:g}; {'converged' if verdict.converged else 'NOT CONVERGED'}: largest R-hat "
        f"{verdict.max_rhat:.3f}, smallest ESS {verdict.min_ess_bulk:.0f} (bulk) and {verdict.min_ess_tail:.0f} (tail)."
    )
    for one in (each for each in (table, progressed) if len(each)):
        console.print(one.drop(columns="cutoff").to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    if not len(progressed):
        console.print("Progression is not compared: too few patients were at risk on the day and followed after it.")


def _records(table: "pd.DataFrame") -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(table.to_json(orient="records"))
    return found


if __name__ == "__main__":
    run_alone(command)
