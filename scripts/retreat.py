"""`reinfuse retreat`: what a second infusion does, for virtual patients of a fit."""

import math
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import progress, run_alone

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from reinfuse.fits.retreatment.analysis import Analysis
    from reinfuse.fits.retreatment.engine import Experiment
    from reinfuse.fits.retreatment.scenarios import ScenarioFile
    from reinfuse.fits.retreatment.virtual_patients import SampledPopulation
    from reinfuse.fits.run import RunFolder


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
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of `reinfuse compare`: worlds that stand for its fits take their weights, by pseudo-BMA+.",
        ),
    ] = None,
    patients: Annotated[int, typer.Option(min=10, help="Virtual patients per scenario and world.")] = 1000,
    patient: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue this patient of the run, by its own posterior.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Draws of the population that the patients are spread over.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    prior: Annotated[bool, typer.Option("--prior", help="From the priors, without a fit.")] = False,
    options: Annotated[
        Options, typer.Option(help="With --prior: which parameter table; a RUN knows its own.")
    ] = Options.REFERENCE,
    explain: Annotated[
        bool, typer.Option(help="Also ask what drove the first relapses, and what the PFS correlation is made of.")
    ] = True,
    cores: Annotated[int | None, typer.Option(min=1, help="Processes; does not change results. [default: all]")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Scheduler of a dask.distributed cluster, tcp://HOST:PORT."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Give virtual patients a second infusion and compare arms.

    Virtual patients of the fitted population get the first product; those who
    progress get the second, under every scenario, with the same random numbers,
    in every world: with each hypothesis of relapse on and off. Prints the
    stacked answer, and the published study of ten patients beside it.

    Examples: `reinfuse retreat run --out retreat`, `reinfuse retreat --prior
    --scenarios mine.toml --out retreat`, `reinfuse retreat run --patient P7
    --out p7`, `reinfuse retreat run --weights compared --out retreat`
    """
    from rich.console import Console

    if out is None:
        raise ReinfuseError("--out is missing; name a folder for the results")
    if prior == (run is not None):
        seen = f"both {run} and --prior" if prior else "neither a RUN nor --prior"
        raise ReinfuseError(f"{seen} given; name the folder of a fit, or add --prior, not both")
    if prior and patient is not None:
        raise ReinfuseError(f"--patient {patient} has no posterior without a RUN; name the folder of its fit")
    if prior and weights is not None:
        raise ReinfuseError(
            f"--weights {weights} compares fits, and --prior has none; name the folder of a fit instead"
        )
    console = Console()
    console.print(escape(NOTICE), style="bold")
    retreat(
        run=run,
        out=out,
        scenarios=scenarios,
        weights=weights,
        patients=patients,
        patient=patient,
        draws=draws,
        seed=seed,
        options=options,
        explain=explain,
        cores=cores,
        cluster=cluster,
        force=force,
        console=console,
    )


def retreat(
    *,
    run: Path | None,
    out: Path,
    scenarios: Path | None = None,
    weights: Path | None = None,
    patients: int = 1000,
    patient: str | None = None,
    draws: int = 100,
    seed: int = 1,
    options: Options = Options.REFERENCE,
    explain: bool = True,
    cores: int | None = None,
    cluster: str | None = None,
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
    weights
        Folder of `reinfuse compare` that worlds take their weights from; None: those of the scenario file.
    patients, patient, draws, seed
        Virtual patients per arm, the real patient to continue, draws of the population, seed.
    options
        Parameter table, without a run.
    explain
        Whether to ask what drove relapses.
    cores, cluster
        Where to compute.
    force
        Write into a folder that holds other files.
    console
        Where to print.
    """
    from reinfuse.fits.retreatment import engine, folder
    from reinfuse.fits.retreatment.analysis import analyse
    from reinfuse.fits.retreatment.pictures import draw
    from reinfuse.fits.retreatment.scenarios import load
    from reinfuse.fits.run import RunFolder
    from reinfuse.fits.streams import Stream, generator

    started = time.monotonic()
    fitted = None if run is None else RunFolder.open(run)
    if fitted is not None:
        fitted.register_products()  # scenarios may name them
    file = load(scenarios)
    population = _population(fitted, file, patient, draws, seed, options)
    file = file.without(population.lacking)
    weighed: list[str] = []
    if fitted is not None and weights is not None:
        from reinfuse.fits.retreatment.world_weights import weigh

        cohort = str(fitted.provenance["cohort_sha256"])
        file, weighed = weigh(file, weights, cohort=cohort, lacking=population.lacking)
    place = folder.prepare(out, force=force)
    unfinished = place / folder.UNFINISHED_FILE
    try:
        arms = len(file.scenarios) * len(file.worlds)
        with progress("Second infusions", float(patients * arms)) as tick:
            experiment = engine.run(
                file,
                population,
                patients=patients,
                seed=seed,
                path=unfinished,
                cores=cores,
                cluster=cluster,
                progress=tick,
            )
        simulated = time.monotonic()
        rng = generator(seed, Stream.TABLES)
        with progress("Tables", 1.0) as tick:
            found = analyse(experiment, file, population, rng=rng, seed=seed, explain=explain, progress=tick)
        if weighed:
            found = replace(found, words={"How the worlds are weighed": weighed, **found.words})
        with progress("Figures", 1.0) as tick:
            figures = draw(found, experiment, file, population, rng=rng, seed=seed)
            tick(1.0)
        folder.write(
            place,
            outcomes=unfinished,
            tables=found.tables,
            figures=figures,
            provenance={
                **_provenance(fitted, population, seed),
                "scenarios": file.model_dump(exclude={"products"}),
                "scenario_file": "bundled" if scenarios is None else scenarios.name,
                "patients": patients,
                "patient": patient,
                "draws": population.n_draws,
                "weights": file.weights,
                "weights_from": None if weights is None else weights.name,
                "acceptance": folder.acceptance_table(experiment.acceptance),
                "failures": experiment.failures,
                "drawn_from_prior": sorted(population.prior_only),
                "words": found.words,
                "caveats": found.caveats,
                "wall_seconds": {"simulation": simulated - started, "post": time.monotonic() - simulated},
            },
        )
    finally:
        unfinished.unlink(missing_ok=True)
    _print_summary(console, found, experiment, file)
    for title, sentences in found.words.items():
        console.print(f"\n[bold]{escape(title)}[/]")
        for sentence in sentences:
            console.print(f"- {escape(sentence)}", highlight=False)
    console.print("\n[bold]Before you use these figures[/]")
    for caveat in found.caveats:
        console.print(f"- {escape(caveat)}", highlight=False)
    written = ", ".join(f"{name}.csv" for name, table in found.tables.items() if not table.empty)
    console.print(f"\nWrote {escape(str(place))}: {written}, outcomes.parquet, figures/, run.json.")


def _population(
    run: "RunFolder | None", file: "ScenarioFile", patient: str | None, draws: int, seed: int, options: Options
) -> "SampledPopulation":
    products = [file.product(name) for name in file.product_names]
    if run is not None:
        from reinfuse.fits.retreatment.real_patient import population_of

        return population_of(run, products=products, n_draws=draws, seed=seed, patient=patient)
    from reinfuse.fits.retreatment.virtual_patients import from_prior, population_rng

    return from_prior(rng=population_rng(seed), products=products, n_draws=draws, options=options.value)


def _provenance(run: "RunFolder | None", population: "SampledPopulation", seed: int) -> dict[str, Any]:
    from reinfuse.fits.result_folder import origin

    return {
        **origin(run, seed),
        "source": population.source,
        "options": population.options,
        "variant": population.variant.name,
        "second_infusions_in_data": population.second_infusions,
    }


def _print_summary(console: "Console", found: "Analysis", experiment: "Experiment", file: "ScenarioFile") -> None:
    """Print the stacked second course of every scenario and group, readable at 80 columns."""
    from rich import box
    from rich.table import Table

    from reinfuse.fits.retreatment.statistics import STACKED

    summary = found.tables["summary"]
    shown = summary[(summary["course"] == 2) & (summary["world"] == STACKED)]
    for scenario, of_scenario in shown.groupby("scenario", sort=False):
        shares = [seen.share for (name, _), seen in experiment.acceptance.items() if name == scenario]
        console.print(
            f"\n[bold]{escape(str(scenario))}[/]  ({min(shares):.0%} to {max(shares):.0%} of candidates met its "
            "conditions)",
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
    worlds = ", ".join(f"{name} {weight:.0%}" for name, weight in file.weights.items())
    console.print(
        f"Second courses, worlds stacked ({escape(worlds)}); each world, all intervals and Monte Carlo "
        "errors are in summary.csv.",
        style="dim",
    )


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
