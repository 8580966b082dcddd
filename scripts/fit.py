"""`reinfuse fit`: a hierarchical Bayesian fit of a cohort."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import complain, progress, run_alone

#: Options that say what a fit is; how it is run may differ.
RECIPE = ("cohort", "products", "model", "variant", "draws", "tune", "thin", "chains", "seed", "sampler", "extensions")


@contextmanager
def shown(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """The house's progress display, as `fits.fitting` wants it."""
    with progress(title, total) as tick:
        yield lambda n: tick(n)


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    cohort: Annotated[
        Path | None,
        typer.Argument(metavar="COHORT.csv", help="Cohort file; see `reinfuse check`. With --model: your table."),
    ] = None,
    products: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="TOML file of products of your own, one table each.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME|FILE.py", help="Model: bcma, or a Python file that defines one of your own.")
    ] = "bcma",
    variant: Annotated[
        str, typer.Option(help="Restriction of the model: no-exhaustion, full, no-dysfunction or neither.")
    ] = "no-exhaustion",
    compare: Annotated[bool, typer.Option(help="Also fit the model with exhaustion, and compare the two.")] = False,
    null: Annotated[
        bool,
        typer.Option(help="Compare with the null model, without host dysfunction; fitted where the data can tell."),
    ] = True,
    draws: Annotated[int, typer.Option(help="Kept draws of each chain.")] = 400,
    tune: Annotated[int, typer.Option(help="Warm-up sweeps of each chain.")] = 400,
    thin: Annotated[int, typer.Option(help="Sweeps per kept draw; each is repeated in small cohorts.")] = 3,
    chains: Annotated[int, typer.Option(help="Number of chains.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
    sampler: Annotated[str, typer.Option(help="blocks (default) or nutpie.")] = "blocks",
    extensions: Annotated[
        int,
        typer.Option(
            help="How often sampling may go on for as long again, every second draw kept, until it converges."
        ),
    ] = 2,
    cores: Annotated[int, typer.Option(help="Chains at a time; does not change the result.")] = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this run where it was interrupted or killed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier run.")] = False,
    repeat: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Do this run once more, from its own folder, and compare the draws."),
    ] = None,
) -> None:
    """Fit a cohort; write RUN with draws, diagnostics, figures and a report.

    Exit code 3: done and saved, but not converged; the message says what to try.

    Examples: `reinfuse fit cohort.csv --out run --seed 1`, `reinfuse fit pk.csv --model my_model.py --out run`,
    `reinfuse fit --repeat run --out again`
    """
    import sys

    from rich.console import Console

    console = Console()
    console.print(NOTICE, style="dim")
    with progress("Starting", 1) as tick:  # the libraries of statistics take a second or two
        from reinfuse.fits.fitting import compare_null, compare_variants, fit

        tick(1)
    from reinfuse.fits.cohort import read_cohort
    from reinfuse.fits.own_model import load_model, read_data
    from reinfuse.fits.problem import Specification
    from reinfuse.fits.repeat import Recipe
    from reinfuse.fits.sampling import Settings
    from reinfuse.model.errors import ReinfuseError
    from reinfuse.model.products import load_products, register
    from reinfuse.scripts.diagnose import judge

    settings = Settings(
        draws=draws, tune=tune, thin=thin, chains=chains, seed=seed, sampler=sampler, extensions=extensions
    )
    recipe = None
    if repeat is not None:
        sources = {name: context.get_parameter_source(name) for name in RECIPE}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            raise ReinfuseError(f"--repeat takes everything from the run; leave out {', '.join(given)}")
        recipe = Recipe.of(repeat)
        cohort, products, variant, settings = recipe.cohort, recipe.products, recipe.variant, recipe.settings
        model = "bcma" if recipe.model is None else str(recipe.model)
        for difference in recipe.differences():
            console.print(f"Not as it was: {difference}. The draws may differ.")
    if cohort is None:
        raise ReinfuseError("no cohort is named; give COHORT.csv, or --repeat RUN")
    own = load_model(model) if model.endswith(".py") else None
    if own is None and model != "bcma":
        raise ReinfuseError(f"model {model!r} cannot be fitted; use bcma, or name a Python file that defines a Model")
    if own is not None and (compare or products or variant != "no-exhaustion"):
        raise ReinfuseError(
            "--compare, --products and --variant are of the model bcma; leave them out with --model FILE.py"
        )
    for product in load_products(products) if products else ():
        register(product)
    read = read_cohort(cohort) if own is None else read_data(cohort, model=own)
    try:
        run = fit(
            read,
            out=out,
            model=own,
            model_file=None if own is None else Path(model),
            products_file=products,
            source=cohort,
            specification=Specification(variant=variant),
            settings=settings,
            cores=cores,
            resume=resume,
            overwrite=force,
            progress=shown,
            command=list(sys.argv),
        )
    except KeyboardInterrupt:
        complain(
            f"Interrupted. What there is so far is kept in {out}; the same command with --resume goes on from there."
        )
        raise
    seconds = run.provenance["wall_seconds"]
    console.print("Wall seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items()))
    others = ("full",) if compare else ()
    if null and own is None and recipe is None:
        compare_null(run, read, settings, others=others, cores=cores, progress=shown)
    elif others:
        compare_variants(run, read, settings, others=others, cores=cores, progress=shown)
    if recipe is not None:
        same = recipe.same_draws(run)
        console.print(f"The draws are {'the same as' if same else 'NOT the same as'} those of {repeat}.")
    judge(run, console)


if __name__ == "__main__":
    run_alone(command)
