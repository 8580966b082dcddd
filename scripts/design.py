"""`reinfuse design`: which schedule of samples teaches most, before anybody is sampled."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import NotTrusted, progress, run_alone
from reinfuse.scripts.identify import doubt

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from reinfuse.fits.identification.designs import DesignFile

KIND = "design"
PARTS = "populations"  # folder of those that are done, until all is
PANELS = 8  # parameters that are drawn
SHOWN = 12  # parameters that are printed
FAILED = 0.01  # share of patients that may fail


def command(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of `reinfuse fit`; left out with --prior.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for tables, figures and run.json.")] = None,
    designs: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Schedules; the bundled ones if left out.")
    ] = None,
    prior: Annotated[bool, typer.Option("--prior", help="From the priors, without a fit.")] = False,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Patients of every design, whatever the file says.")
    ] = None,
    populations: Annotated[int, typer.Option(min=4, help="Draws of the population over which is averaged.")] = 40,
    benefit: Annotated[bool, typer.Option(help="Also ask for the benefit of a second infusion.")] = True,
    scenarios: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="What the benefit is: its first scenario less its second."),
    ] = None,
    benefit_draws: Annotated[int, typer.Option(min=50, help="Draws over which the benefit is regressed.")] = 400,
    virtual: Annotated[int, typer.Option(min=100, help="Virtual patients of the benefit, per arm.")] = 16_000,
    variant: Annotated[
        str, typer.Option(help="With --prior: which restriction of the model; a RUN knows its own.")
    ] = "no-exhaustion",
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    cores: Annotated[int | None, typer.Option(min=1, help="Processes; does not change results. [default: all]")] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a dask.distributed cluster, tcp://HOST:PORT.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the populations of what was interrupted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Compare sampling schedules by what they may be expected to teach.

    Starts from what is known now (a run's posterior, or the priors), simulates
    patients, and adds the information of their samples under every schedule:
    expected posterior sds of the parameters, and of the mean benefit of a second
    infusion. Nobody is sampled after progression or death; values below the
    limit count by M3.

    Writes parameters.csv, benefit.csv, shrinkage.csv, designs.csv, figures/ and run.json. Exit
    code 3 if the run had not converged or patients could not be simulated.

    Examples: `reinfuse design run --out designs`, `reinfuse design --prior
    --designs mine.toml --patients 30 --out designs`
    """
    from rich.console import Console

    if out is None:
        raise ReinfuseError("--out is missing; name a folder for the results")
    if prior == (run is not None):
        seen = f"both {run} and --prior" if prior else "neither a RUN nor --prior"
        raise ReinfuseError(f"{seen} given; name the folder of a fit, or add --prior, not both")
    console = Console()
    console.print(escape(NOTICE), style="bold")
    compare(
        run=run,
        out=out,
        designs=designs,
        patients=patients,
        populations=populations,
        benefit=benefit,
        scenarios=scenarios,
        benefit_draws=benefit_draws,
        virtual=virtual,
        variant=variant,
        seed=seed,
        cores=cores,
        cluster=cluster,
        resume=resume,
        force=force,
        console=console,
    )


def compare(
    *,
    run: Path | None,
    out: Path,
    designs: Path | None = None,
    patients: int | None = None,
    populations: int = 40,
    benefit: bool = True,
    scenarios: Path | None = None,
    benefit_draws: int = 400,
    virtual: int = 16_000,
    variant: str = "no-exhaustion",
    seed: int = 1,
    cores: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    force: bool = False,
    console: "Console",
) -> None:
    """Do what the command does; parameters are its options.

    Parameters
    ----------
    run
        Folder of a fit; None: from the priors.
    out, designs, scenarios
        Folder for the results, files of schedules and of the benefit.
    patients, populations, benefit, benefit_draws, virtual, variant, seed, cores, cluster, resume, force
        As the command's options.
    console
        Where to print.
    """
    import pandas as pd

    from reinfuse.fits import result_folder
    from reinfuse.fits.figures.identification import design_bars
    from reinfuse.fits.identification import benefit as second
    from reinfuse.fits.identification.designs import load, pose_designs
    from reinfuse.fits.identification.preposterior import Knowledge, expect, predicted, telling
    from reinfuse.fits.identification.records import Instrument
    from reinfuse.fits.reopened import Reopened
    from reinfuse.fits.run import POSTERIOR_FILE, RunFolder, sha256_of
    from reinfuse.fits.streams import Stream, generators
    from reinfuse.fits.tasks import TaskFolder

    started = time.monotonic()
    file = load(designs)
    if patients is not None:
        same = [one.model_copy(update={"patients": patients}) for one in file.design]
        file = file.model_copy(update={"design": same})
    opened = None if run is None else Reopened.of(RunFolder.open(run))  # scenarios may name its products
    scenario = second.scenario(scenarios) if benefit else None
    place = result_folder.prepare(out, kind=KIND, parts=PARTS, resume=resume, force=force)
    if opened is not None:
        variant = str(opened.run.provenance.get("variant", variant))
    rng, patients_rng, draws_rng, resampling = generators(seed, Stream.DESIGN, 4)
    instrument = Instrument(pose_designs(file, variant=variant))
    if opened is None:
        knowledge = Knowledge.of_prior(instrument, populations, rng)
    else:
        knowledge = Knowledge.of_run(instrument, opened, populations, rng)
    recipe = {
        "source": None if opened is None else sha256_of(opened.run.path / POSTERIOR_FILE),
        "designs": file.model_dump(), "populations": populations, "variant": variant, "seed": seed,
    }  # fmt: skip
    folder = TaskFolder(place / PARTS, recipe, resume=resume)
    with progress("Designs", float(populations)) as tick:
        complete = partial(folder.complete, cores=cores, cluster=cluster, tick=tick)
        expected = expect(file, instrument, knowledge, patients_rng, variant=variant, complete=complete)
    parameters = expected.table()
    tables = {"parameters": parameters, "shrinkage": expected.shrinkage_table(), "designs": _listed(file)}
    prediction: pd.DataFrame | None = None
    if scenario is not None:
        population = second.population_of(
            None if opened is None else opened.run, scenario, benefit_draws, draws_rng, variant=variant
        )
        with progress("Second infusions", 2.0 * virtual) as tick:
            found = second.benefit(
                file=scenario,
                population=population,
                names=knowledge.names,
                patients=virtual,
                seed=seed,
                cores=cores,
                cluster=cluster,
                tick=tick,
            )
        prediction = predicted(expected, found, resampling)
        tables["benefit"] = prediction
    result_folder.write(
        place,
        kind=KIND,
        tables=tables,
        figures={"designs": design_bars(parameters, prediction, chosen=telling(parameters, PANELS))},
        provenance={
            **result_folder.origin(None if opened is None else opened.run, seed),
            "source": knowledge.source,
            "variant": variant,
            "designs": file.model_dump(),
            "populations": populations,
            "benefit_draws": benefit_draws if benefit else None,
            "virtual": virtual if benefit else None,
            "failed": expected.failed,
            "wall_seconds": time.monotonic() - started,
        },
    )
    result_folder.discard(place, PARTS)
    _show(console, parameters, prediction, knowledge.source)
    console.print(f"\nWrote {escape(str(place))}: {', '.join(f'{name}.csv' for name in tables)}, figures/, run.json.")
    if expected.failed > FAILED:
        raise NotTrusted(
            f"{expected.failed:.1%} of the patients could not be simulated at some sample and count as not sampled; "
            "their parameters are far out: start from a fit, or narrow the priors."
        )
    if opened is not None:
        doubt(opened.run)


def _listed(file: "DesignFile") -> "pd.DataFrame":
    """The schedules as a table: design, assay, days, limit."""
    import pandas as pd

    from reinfuse.fits.identification.designs import SAMPLED

    rows = []
    for design in file.design:
        for assay in SAMPLED:
            if days := getattr(design, assay):
                limit = file.lloq(design).get(assay)
                listed = " ".join(f"{day:g}" for day in sorted(days))
                rows.append((design.name, file.patients(design), file.follow_up(design), assay, listed, limit))
    return pd.DataFrame(rows, columns=["design", "patients", "follow_up_days", "assay", "days", "lloq"])


def _show(console: "Console", parameters: "pd.DataFrame", prediction: "pd.DataFrame | None", source: str) -> None:
    """Print expected sds over those of now, parameters in which designs differ most first."""
    from rich import box
    from rich.table import Table

    from reinfuse.fits.identification.preposterior import telling

    designs = [str(name) for name in dict.fromkeys(parameters["design"])][1:]
    wide = parameters.pivot(index="parameter", columns="design", values="ratio")[designs]
    console.print(f"\n[bold]Expected sd as a share of the sd now[/] ({escape(source)})")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    table.add_column("parameter", no_wrap=True)
    for name in designs:
        table.add_column(escape(name), justify="right")
    if prediction is not None:
        ratios = prediction.set_index("design")[["ratio", "ratio_error"]].loc[designs].to_numpy(dtype=float)
        cells = [f"{ratio:.2f} ± {1.6 * error:.2f}" for ratio, error in ratios]
        table.add_row("benefit", *cells, style="bold")
    chosen = telling(parameters, SHOWN)
    for name, line in zip(chosen, wide.loc[chosen].to_numpy(dtype=float), strict=True):
        table.add_row(escape(name), *(f"{ratio:.2f}" for ratio in line))
    console.print(table)
    if prediction is not None:
        first = prediction.iloc[0]
        console.print(
            f"• benefit: the {first['prediction']}; sd now {first['sd_now']:.2f} {first['unit']}. "
            f"{100 * first['explained']:.0f} % of its variance lies in parameters that such samples can inform; "
            "the rest is out of reach of any of these designs.",
            highlight=False,
        )


if __name__ == "__main__":
    run_alone(command)
