"""`reinfuse retreat`: what a second infusion does, for virtual patients of a fit."""

import math
import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import NOTICE, progress, run_alone

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

    from reinfuse.fits.retreatment.engine import Experiment
    from reinfuse.fits.retreatment.scenarios import ScenarioFile
    from reinfuse.fits.retreatment.virtual_patients import SampledPopulation


#: Measures of the printed table, with their short names.
MEASURES = {
    "ORR": "ORR",
    ">=VGPR": "≥VGPR",
    "CR": "CR",
    "MRD-negative 1e-5": "MRD-neg.",
    "PFS median": "PFS, mo",
}


class Options(StrEnum):
    """Parameter tables of the model."""

    REFERENCE = "reference"
    REAL = "real"


def command(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of `reinfuse fit`; left out with --prior.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for tables, figures and run.json.")] = None,
    scenarios: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Scenarios; the bundled sequential ide-cel, cilta-cel study if left out.",
        ),
    ] = None,
    patients: Annotated[int, typer.Option(min=10, help="Virtual patients per scenario.")] = 1000,
    draws: Annotated[int, typer.Option(min=2, help="Draws of the population that the patients are spread over.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    prior: Annotated[bool, typer.Option("--prior", help="From the priors, without a fit.")] = False,
    options: Annotated[
        Options, typer.Option(help="With --prior: which parameter table; a RUN knows its own.")
    ] = Options.REFERENCE,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Give virtual patients a second infusion and compare arms.

    Virtual patients of the fitted population get the first product; those who
    progress get the second, under every scenario, with the same random numbers.
    Prints the tables, and the published study of ten patients beside them.
    """
    from rich.console import Console

    if out is None:
        raise ReinfuseError("--out is missing; name a folder for the results")
    if prior == (run is not None):
        seen = f"both {run} and --prior" if prior else "neither a RUN nor --prior"
        raise ReinfuseError(f"{seen} given; name the folder of a fit, or add --prior, not both")
    console = Console()
    console.print(escape(NOTICE), style="bold")
    retreat(
        run=run,
        out=out,
        scenarios=scenarios,
        patients=patients,
        draws=draws,
        seed=seed,
        options=options,
        force=force,
        console=console,
    )


def retreat(
    *,
    run: Path | None,
    out: Path,
    scenarios: Path | None = None,
    patients: int = 1000,
    draws: int = 100,
    seed: int = 1,
    options: Options = Options.REFERENCE,
    force: bool = False,
    console: "Console",
) -> None:
    """Do what the command does; `reinfuse demo` calls this too.

    Parameters
    ----------
    run
        Folder of a fit; None: from the priors of the table `options`.
    out
        Folder for the results.
    scenarios
        Scenario file; the bundled one when None.
    patients, draws, seed
        Virtual patients per scenario, draws of the population, seed.
    options
        Parameter table, without a run.
    force
        Write into a folder that holds other files.
    console
        Where to print.
    """
    import numpy as np
    import pandas as pd

    from reinfuse.fits.retreatment import anchor, engine, folder, statistics
    from reinfuse.fits.retreatment.scenarios import GROUPS, load

    started = time.monotonic()
    file = load(scenarios)
    population = _population(run, file, draws, seed, options)
    place = folder.prepare(out, force=force)
    total = float(patients * len(file.scenarios))
    with progress("Second infusions", total) as tick:
        experiment = engine.run(file, population, patients=patients, seed=seed, progress=tick)
    simulated = time.monotonic()
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31,)))
    level = file.settings.level
    summary = statistics.summarise(experiment.outcomes, groups=GROUPS, rng=rng, level=level)
    beside = None
    if file.anchor is not None:
        tables = [
            anchor.compare(experiment.outcomes, file.anchor, responders=only, level=level) for only in (False, True)
        ]
        beside = pd.concat(tables, ignore_index=True)
    direction = None if file.anchor is None else anchor.direction(experiment.outcomes, file.anchor, rng=rng)
    folder.write(
        place,
        outcomes=experiment.outcomes,
        summary=summary,
        anchor=beside,
        figures=_figures(experiment, file, beside),
        provenance={
            **_provenance(run, population, seed),
            "scenarios": file.model_dump(exclude={"products"}),
            "scenario_file": "bundled" if scenarios is None else scenarios.name,
            "patients": patients,
            "draws": population.n_draws,
            "acceptance": folder.acceptance_table(experiment.acceptance),
            "failures": experiment.failures,
            "clipped": experiment.clipped,
            "drawn_from_prior": sorted(population.prior_only),
            "caveats": [*experiment.caveats, *([anchor.UNKNOWN] if file.anchor else [])],
            "direction": None if direction is None else direction.sentence,
            "wall_seconds": {"simulation": simulated - started, "post": time.monotonic() - simulated},
        },
    )
    _print_summary(console, summary, experiment)
    if beside is not None and direction is not None:
        console.print("\n[bold]Beside the published study of ten patients[/]")
        for whom, rows in beside.groupby("patients", sort=False):
            console.print(f"Virtual patients: {whom}", style="italic", highlight=False)
            for _, row in rows.iterrows():
                console.print(f"- {escape(anchor.words(row))}", highlight=False)
        console.print("The direction (all who progressed)", style="italic", highlight=False)
        console.print(f"- {escape(direction.sentence)}", highlight=False)
        console.print(f"Source: {escape(anchor.SOURCE)}.", style="dim", highlight=False)
    console.print("\n[bold]Before you use these figures[/]")
    for caveat in [*experiment.caveats, *([anchor.UNKNOWN] if file.anchor else [])]:
        console.print(f"- {escape(caveat)}", highlight=False)
    console.print(f"\nWrote {escape(str(place))}: summary.csv, outcomes.parquet, figures/, run.json.")


def _population(run: Path | None, file: "ScenarioFile", draws: int, seed: int, options: Options) -> "SampledPopulation":
    import numpy as np

    from reinfuse.fits.retreatment.virtual_patients import from_prior, from_run
    from reinfuse.fits.run import RunFolder

    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31 + 1,)))
    products = [file.product(name) for name in file.product_names]
    if run is None:
        return from_prior(rng=rng, products=products, n_draws=draws, options=options.value)
    return from_run(RunFolder.open(run), rng=rng, products=products, n_draws=draws)


def _provenance(run: Path | None, population: "SampledPopulation", seed: int) -> dict[str, Any]:
    from reinfuse.fits.run import RunFolder, git_revision, versions

    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": shlex.join(words),
        "versions": versions(),
        "git": git_revision(),
        "seed": seed,
        "source": population.source,
        "cohort_sha256": None if run is None else RunFolder.open(run).provenance["cohort_sha256"],
        "options": population.options,
        "variant": population.variant.name,
        "second_infusions_in_data": population.second_infusions,
        "status": "done",
    }


def _figures(experiment: "Experiment", file: "ScenarioFile", beside: "pd.DataFrame | None") -> dict[str, "Figure"]:
    """Draw what can be drawn, by file name."""
    from reinfuse.fits.figures import retreatment as draw
    from reinfuse.fits.retreatment import anchor
    from reinfuse.fits.retreatment.scenarios import GROUPS
    from reinfuse.fits.retreatment.statistics import trial_counts

    counted = experiment.outcomes[~experiment.outcomes["failed"] & experiment.outcomes["infused"]]
    if counted.empty:
        return {}
    by_scenario = {str(name): rows for name, rows in counted.groupby("scenario", sort=False)}
    main = file.anchor if file.anchor in by_scenario else next(iter(by_scenario))
    patients = by_scenario[main]
    by_group: dict[str, pd.DataFrame] = {"all": patients}
    for group in GROUPS:
        by_group[group] = patients[patients["group"] == group]
    level, months = file.settings.level, file.settings.second_horizon_months
    figures = {"swimmer": draw.swimmer(patients, title=main, horizon_months=months)}
    if counted["evaluable_2"].any():
        figures["best_response"] = draw.best_response(counted, groups=GROUPS)
    if len(patients) >= draw.FEWEST:
        figures["pfs_by_group"] = draw.survival(
            by_group,
            title=f"{main}: second PFS by first-response group",
            months=months,
            level=level,
            colours=draw.GROUP_COLOURS,
        )
        figures["pfs_by_scenario"] = draw.survival(
            by_scenario, title="Second PFS by scenario", months=months, level=level
        )
    if beside is not None and main == file.anchor:
        counts = [
            trial_counts(outcome, of_draw, anchor.SIZE) for outcome, of_draw in anchor.simulated_outcomes(patients)
        ]
        whom = beside["patients"]
        responders = beside[whom == anchor.RESPONDERS].reset_index(drop=True)
        figures["anchor"] = draw.anchor(
            beside[whom == anchor.EVERYONE],
            counts,
            responders=responders if (responders["n_simulated"] > 0).all() else None,
            level=level,
        )
    return figures


def _print_summary(console: "Console", summary: "pd.DataFrame", experiment: "Experiment") -> None:
    """Print the second course of every scenario and group, readable at 80 columns."""
    from rich import box
    from rich.table import Table

    shown = summary[summary["course"] == 2]
    for scenario, of_scenario in shown.groupby("scenario", sort=False):
        seen = experiment.acceptance[str(scenario)]
        console.print(
            f"\n[bold]{escape(str(scenario))}[/]  ({seen.share:.0%} of candidates met its conditions)",
            highlight=False,
        )
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
        table.add_column("first response", no_wrap=True)
        for column in ("n", *MEASURES.values()):
            table.add_column(column, justify="right", no_wrap=True)
        for group, rows in of_scenario.groupby("group", sort=False):
            by_measure = {str(row["measure"]): row for _, row in rows.iterrows()}
            figures = [by_measure[name] for name in MEASURES]
            table.add_row(str(group), str(int(rows["n"].max())), *(_value(row) for row in figures))
            if group == "all":
                table.add_row("  interval", "", *(_interval(row) for row in figures), style="dim")
        console.print(table)
    console.print("Second courses; all intervals and Monte Carlo errors are in summary.csv.", style="dim")


def _value(row: "pd.Series[Any]") -> str:
    value = float(row["value"])
    if math.isnan(value):
        return "–"
    return f"{value:.0%}" if row["unit"] == "proportion" else _months(value)


def _interval(row: "pd.Series[Any]") -> str:
    low, high = float(row["low"]), float(row["high"])
    if math.isnan(low):
        return "–"
    return f"{100 * low:.0f}–{high:.0%}" if row["unit"] == "proportion" else f"{_months(low)}–{_months(high)}"


def _months(value: float) -> str:
    return "NR" if math.isinf(value) else f"{value:.1f}"


if __name__ == "__main__":
    run_alone(command)
