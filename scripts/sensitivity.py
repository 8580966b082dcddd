"""`reinfuse sensitivity`: which numbers drive an outcome, over their whole range."""

import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import NotTrusted, progress, run_alone
from reinfuse.scripts.retreat import Options

if TYPE_CHECKING:
    from rich.console import Console

    from reinfuse.fits.retreatment.virtual_patients import SampledPopulation
    from reinfuse.fits.run import RunFolder
    from reinfuse.fits.sensitivity.designs import Design
    from reinfuse.fits.sensitivity.inputs import Inputs
    from reinfuse.fits.sensitivity.study import Found

#: Inputs of the printed table.
SHOWN = 8


class Method(StrEnum):
    """Methods of `reinfuse.fits.sensitivity.designs`."""

    SOBOL = "sobol"
    MORRIS = "morris"
    PAWN = "pawn"
    SHAPLEY = "shapley"
    SHAPLEY_KNN = "shapley-knn"
    FAST = "fast"
    RBD_FAST = "rbd-fast"
    DELTA = "delta"
    DGSM = "dgsm"


class Spread(StrEnum):
    """What varies."""

    BOTH = "both"
    PATIENTS = "patients"
    POPULATION = "population"


class Dependence(StrEnum):
    """What methods for independent inputs do with dependent ones."""

    REFUSE = "refuse"
    INDEPENDENT = "independent"
    ROSENBLATT = "rosenblatt"


#: Units at the start, by method: blocks, trajectories, rows, walks, replicates.
SAMPLES = {
    Method.SOBOL: 1024,
    Method.MORRIS: 64,
    Method.SHAPLEY: 2048,
    Method.FAST: 4,
    Method.DGSM: 256,
}
ROWS = 8192


def command(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Folder of `reinfuse fit`; not with --prior or --cohort."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for tables, figures and run.json.")] = None,
    outcome: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="May be repeated: cmax, tmax, auc28, persistence, nadir, best, deepest, pfs1, cmax2, auc28_2, best2, "
            "pfs2, benefit, and the curves transgene and burden.",
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="How to look.")] = Method.SHAPLEY,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Blocks, trajectories, walks, replicates or rows; a power of 2. [default: by method]"),
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME", help="Vary these alone; may be repeated.")
    ] = None,
    spread: Annotated[
        Spread, typer.Option(help="Vary patients and their population, patients of the median population, or it alone.")
    ] = Spread.BOTH,
    dependence: Annotated[
        Dependence,
        typer.Option(help="Sobol, Morris, FAST, DGSM and correlated inputs: refuse, or ask otherwise."),
    ] = Dependence.REFUSE,
    second_order: Annotated[bool, typer.Option("--second-order", help="Sobol: pairs too, at twice the runs.")] = False,
    until_stable: Annotated[
        bool, typer.Option("--until-stable", help="Double the samples until ranking and intervals are stable.")
    ] = False,
    most: Annotated[int, typer.Option(min=1000, help="With --until-stable: model runs at most.")] = 2_000_000,
    prior: Annotated[bool, typer.Option("--prior", help="From the priors, without a fit.")] = False,
    cohort: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="A virtual cohort: a row for each patient, parameters as columns."),
    ] = None,
    options: Annotated[
        Options, typer.Option(help="With --prior or --cohort: which parameter table; a RUN knows its own.")
    ] = Options.REFERENCE,
    scenarios: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Scenario file of `reinfuse retreat`; the bundled one.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of its scenarios; the first that has a second infusion.")
    ] = None,
    world: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Hypotheses of its worlds under which the same patients are looked at; may be repeated, or all. "
            "[default: the first]",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Draws of the posterior that patients are spread over.")] = 1000,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Level of the intervals.")] = 0.89,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    cores: Annotated[int | None, typer.Option(min=1, help="Processes; does not change results. [default: all]")] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a dask.distributed cluster, tcp://HOST:PORT.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an analysis that was interrupted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Ask which numbers drive an outcome: global sensitivity analysis.

    Varies all numbers of a virtual patient at once, as the posterior of a run
    (or the priors, or a virtual cohort) has them, and says how much of an
    outcome's spread goes with each, with intervals. A posterior is correlated:
    Shapley effects, PAWN and delta take it as it is; Sobol's indices, Morris,
    FAST and DGSM need independent inputs.

    Examples: `reinfuse sensitivity run --outcome pfs1 --out gsa`, `reinfuse
    sensitivity --prior --outcome cmax --outcome auc28 --method sobol
    --second-order --out gsa`, `reinfuse sensitivity run --outcome transgene
    --method shapley --until-stable --out curves`
    """
    from rich.console import Console

    if out is None:
        raise ReinfuseError("--out is missing; name a folder for the results")
    if not outcome:
        raise ReinfuseError("--outcome is missing; name at least one, such as --outcome pfs1")
    given = [name for name, there in (("a RUN", run), ("--prior", prior), ("--cohort", cohort)) if there]
    if len(given) != 1:
        raise ReinfuseError(f"{' and '.join(given) or 'nothing'} given; name one of RUN, --prior and --cohort")
    console = Console()
    console.print(escape(NOTICE), style="bold")
    sensitivity(
        run=run, cohort=cohort, out=out, outcomes=outcome, method=method, samples=samples, vary=vary or [],
        spread=spread, dependence=dependence, second_order=second_order, until_stable=until_stable, most=most,
        options=options, scenarios=scenarios, scenario=scenario, worlds=world or [], draws=draws, level=level,
        seed=seed, cores=cores, cluster=cluster, resume=resume, force=force, console=console,
    )  # fmt: skip


def sensitivity(
    *,
    run: Path | None,
    out: Path,
    outcomes: list[str],
    method: Method = Method.SHAPLEY,
    samples: int | None = None,
    cohort: Path | None = None,
    vary: list[str] | None = None,
    spread: Spread = Spread.BOTH,
    dependence: Dependence = Dependence.REFUSE,
    second_order: bool = False,
    until_stable: bool = False,
    most: int = 2_000_000,
    options: Options = Options.REFERENCE,
    scenarios: Path | None = None,
    scenario: str | None = None,
    worlds: list[str] | None = None,
    draws: int = 1000,
    level: float = 0.89,
    seed: int = 1,
    cores: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    force: bool = False,
    console: "Console",
) -> None:
    """Do what the command does; `reinfuse demo` calls this too. Parameters are those of the command.

    Raises
    ------
    NotTrusted
        If too many runs failed, or, with ``until_stable``, no ranking was stable in the end.
    """
    from reinfuse.fits import result_folder
    from reinfuse.fits.retreatment.scenarios import load
    from reinfuse.fits.run import RunFolder
    from reinfuse.fits.sensitivity import folder, words
    from reinfuse.fits.sensitivity.designs import Design
    from reinfuse.fits.sensitivity.outcomes import expanded
    from reinfuse.fits.sensitivity.pictures import draw
    from reinfuse.fits.sensitivity.reader import Reader
    from reinfuse.fits.sensitivity.study import MOST_LEFT_OUT, analyse, check_suits

    started = time.monotonic()
    names = expanded([part for name in outcomes for part in name.split(",") if part])
    check_suits(method.value, names)
    if second_order and method is not Method.SOBOL:
        raise ReinfuseError(f"--second-order goes with --method sobol, not {method.value}")
    units = samples or SAMPLES.get(method, ROWS)
    if units & (units - 1):
        raise ReinfuseError(f"--samples is {units}; give a power of 2, such as {1 << units.bit_length()}")
    fitted = None if run is None else RunFolder.open(run)
    if fitted is not None:
        fitted.register_products()  # scenarios may name them
    file = load(scenarios)
    chosen = _scenario(file.scenarios, scenario)
    inputs, population, table = _inputs(fitted, cohort, file, spread, options, draws, seed)
    inputs = inputs.only(vary or [])
    design = Design(method.value, inputs, seed=seed, second_order=second_order, dependence=dependence.value)
    looked_at = _worlds(file.worlds, worlds or [])
    reader = Reader(inputs=design.inputs, asked=names, file=file, scenario=chosen, worlds=looked_at, options=table)
    recipe: dict[str, Any] = {
        "outcomes": list(names), "method": method.value, "second_order": second_order, "inputs": list(inputs.names),
        "source": inputs.source, "spread": spread.value, "dependence": design.dependence, "seed": seed,
        "scenario": chosen.model_dump(), "worlds": [world.model_dump() for world in looked_at],
        "settings": file.settings.model_dump(), "draws": draws, "options": table, "digest": _digest(inputs),
    }  # fmt: skip
    place = result_folder.prepare(out, kind=folder.KIND, parts=folder.RUNS_FOLDER, resume=resume, force=force)
    try:
        found = analyse(
            design, reader, units=units, seed=seed, folder=place / folder.RUNS_FOLDER, recipe=recipe, cores=cores,
            cluster=cluster, until_stable=until_stable, most_runs=most, level=level,
            watch=partial(progress, "Model runs"),
        )  # fmt: skip
    except ReinfuseError:  # what cannot be answered leaves nothing behind, but for what was there before
        if not resume:
            result_folder.discard(place, folder.RUNS_FOLDER)
        raise
    ran = time.monotonic()
    prior_only = [] if population is None else sorted(population.prior_only)
    said = words.sentences(found, design, prior_only, has_data=design.inputs.draws is not None or run is not None)
    folder.write(
        place,
        found=found,
        figures=draw(found, design),
        provenance={
            **result_folder.origin(fitted, seed),
            **recipe,
            "units": found.units,
            "runs": found.runs,
            "courses_per_run": reader.courses,
            "left_out": found.left_out,
            "reasons": found.reasons,
            "rule": "a unit with a failed run is left out whole",
            "unstable": found.unstable,
            "stable": not found.unstable,
            "correlated": [list(pair) for pair in inputs.dependent],
            "held": dict(inputs.held),
            "prior_only": prior_only,
            "words": said,
            "wall_seconds": {"runs": ran - started, "post": time.monotonic() - ran},
        },
    )
    _print(console, found, design)
    for sentence in said:
        console.print(f"- {escape(sentence)}", highlight=False)
    files = "indices.csv, convergence.csv, failures.csv, figures/, run.json"
    console.print(f"\n{found.runs:,} model runs. Wrote {escape(str(place))}: {files}.")
    if found.share_left_out > MOST_LEFT_OUT:
        raise NotTrusted(
            f"{found.share_left_out:.1%} of the units were left out: runs failed (more than {MOST_LEFT_OUT:.0%}); "
            "failures.csv says which inputs they had"
        )
    if until_stable and found.unstable:
        name, reason = next(iter(found.unstable.items()))
        raise NotTrusted(f"the ranking for {name} is not stable after {found.runs:,} runs: {reason}; raise --most")


def _scenario(known: Any, name: str | None) -> Any:
    """The scenario by name; else the first with a second infusion."""
    for one in known:
        if (one.name == name) if name is not None else bool(one.later):
            if not one.later:
                raise ReinfuseError(f"scenario {one.name!r} has no second infusion; name one that has")
            return one
    raise ReinfuseError(f"no scenario {name!r} in the file; there are {', '.join(one.name for one in known)}")


def _worlds(known: Any, names: list[str]) -> tuple[Any, ...]:
    """Worlds by name, each once; all of them for ``all``, the first for none."""
    by_name = {one.name: one for one in known}
    if names == ["all"]:
        return tuple(known)
    for name in names:
        if name not in by_name:
            raise ReinfuseError(f"no world {name!r} in the file; there are {', '.join(by_name)}, or say all")
    return tuple(by_name[name] for name in dict.fromkeys(names)) or (known[0],)


def _inputs(
    run: "RunFolder | None", cohort: Path | None, file: Any, spread: Spread, options: Options, draws: int, seed: int
) -> "tuple[Inputs, SampledPopulation | None, Any]":
    from reinfuse.fits.retreatment.virtual_patients import from_prior, from_run
    from reinfuse.fits.sensitivity.inputs import TABULATED, from_cohort, from_population
    from reinfuse.fits.streams import Stream, generators

    extinction = file.settings.extinction
    rng, other = generators(seed, Stream.SENSITIVITY, 2)
    if cohort is not None:
        return from_cohort(cohort, options=options.value, rng=rng, extinction=extinction), None, options.value
    products = [file.product(name) for name in file.product_names]
    if run is None:
        population = from_prior(rng=rng, products=products, n_draws=TABULATED, options=options.value)
    else:
        population = from_run(run, rng=rng, products=products, n_draws=draws)
    found = from_population(population, rng=other, spread=spread.value, extinction=extinction)
    return found, population, population.options


def _digest(inputs: "Inputs") -> str:
    import hashlib

    return hashlib.sha256(inputs.quantiles.tobytes() + inputs.correlation.tobytes()).hexdigest()[:16]


def _print(console: "Console", found: "Found", design: "Design") -> None:
    """The foremost inputs of every outcome, readable at 80 columns."""
    from rich import box
    from rich.table import Table

    from reinfuse.fits.sensitivity.indices import MAIN

    main = MAIN[design.method]
    shown = found.indices[(found.indices["index"] == main) & ~found.indices["outcome"].str.contains("@")]
    for name, rows in shown.groupby("outcome", sort=False):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False, title=escape(str(name)))
        table.add_column("input", no_wrap=True)
        table.add_column(main, justify="right")
        table.add_column("interval", justify="right", no_wrap=True)
        for row in rows.nlargest(SHOWN, "value").to_dict("records"):
            table.add_row(row["parameter"], f"{row['value']:.3f}", f"{row['lower']:.3f} to {row['upper']:.3f}")
        console.print(table)


if __name__ == "__main__":
    run_alone(command)
