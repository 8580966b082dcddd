"""`reinfuse identify`: what a run's data can know of its parameters, and what its outcomes hang on."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import NotTrusted, progress, run_alone

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

    from reinfuse.fits.identification.examine import Information
    from reinfuse.fits.identification.profiles import Profile
    from reinfuse.fits.reopened import Reopened

KIND = "identify"
PARTS = "profiles"  # folder of those that are done, until all is
WEAKEST = 8  # directions that are printed


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `reinfuse fit`.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for tables, figures and run.json.")] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Profile this parameter (repeatable); the four least measured if left out."),
    ] = None,
    profiles: Annotated[bool, typer.Option(help="Draw profiles at all: some minutes.")] = True,
    likelihood_only: Annotated[
        bool, typer.Option("--likelihood-only", help="Profiles without the priors of the other parameters, too.")
    ] = False,
    points: Annotated[
        int, typer.Option(min=8, help="Points of each patient's integral in a profile; their error is told.")
    ] = 256,
    product: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the elasticities; the run's most frequent one if left out.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Draws for information and elasticities.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Processes of the profiles; does not change results. [default: all]")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a dask.distributed cluster, tcp://HOST:PORT.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the profiles of what was interrupted.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Say what a run's data can know: measured, aliased, or the prior.

    The Fisher information of the run's own records (censored ones too) beside the
    posterior that was found; directions in which parameters may move together
    unseen, in words; profile likelihoods with limits; exact elasticities of the
    first course's outcomes, as a tornado plot.

    Writes identifiability.csv, directions.csv, profiles.csv, profile_limits.csv,
    elasticities.csv, figures/ and run.json. Exit code 3 if the run had not
    converged. Profiles take minutes each: they run side by side, and one that
    is done is kept (`--resume`).

    Examples: `reinfuse identify run --out identified`, `reinfuse identify run
    --profile KE --profile Bc --out identified`
    """
    from rich.console import Console

    if out is None:
        raise ReinfuseError("--out is missing; name a folder for the results")
    console = Console()
    console.print(escape(NOTICE), style="bold")
    identify(
        run=run,
        out=out,
        chosen=profile,
        profiled=profiles,
        penalised=not likelihood_only,
        points=points,
        product=product,
        draws=draws,
        seed=seed,
        cores=cores,
        cluster=cluster,
        resume=resume,
        force=force,
        console=console,
    )


def identify(
    *,
    run: Path,
    out: Path,
    chosen: list[str] | None = None,
    profiled: bool = True,
    penalised: bool = True,
    points: int = 256,
    product: str | None = None,
    draws: int = 40,
    seed: int = 1,
    cores: int | None = None,
    cluster: str | None = None,
    resume: bool = False,
    force: bool = False,
    console: "Console",
) -> None:
    """Do what the command does.

    Parameters
    ----------
    run, out
        Folder of a fit, folder for the results.
    chosen
        Parameters to profile; those least measured when None.
    profiled, penalised
        Whether profiles are drawn, and whether the other parameters' priors count in them.
    points
        Of each patient's integral in a profile.
    product
        Of the elasticities.
    draws, seed, cores, cluster, resume, force
        As the command's options.
    console
        Where to print.
    """
    import numpy as np
    import pandas as pd

    from reinfuse.fits import result_folder
    from reinfuse.fits.identification import examine, profile_tasks
    from reinfuse.fits.identification.elasticities import OUTCOMES
    from reinfuse.fits.reopened import Reopened
    from reinfuse.fits.run import RunFolder
    from reinfuse.fits.tasks import TaskFolder

    started = time.monotonic()
    place = result_folder.prepare(out, kind=KIND, parts=PARTS, resume=resume, force=force)
    opened = Reopened.of(RunFolder.open(run))
    rng, points_rng = np.random.default_rng(seed).spawn(2)
    with progress("Information", float(draws)) as tick:
        found = examine.information(opened, draws=draws, tick=tick)
    judged = examine.table(opened, found)
    names = chosen or (examine.weakest(judged, opened) if profiled else [])
    profiles: list[Profile] = []
    if names:
        profile_tasks.check(opened, names)
        recipe = profile_tasks.recipe(opened, names, seed=seed, points=points, penalised=penalised)
        folder = TaskFolder(place / PARTS, recipe, resume=resume)
        with progress("Profiles", float(len(names))) as tick:
            profiles = profile_tasks.profiles(
                opened, names, folder=folder, rng=points_rng, points=points, penalised=penalised,
                cores=cores, cluster=cluster, tick=tick,
            )  # fmt: skip
    used = product or examine.first_product(opened)
    with progress("Elasticities", float(len(OUTCOMES))) as tick:
        _, tornado = examine.local_sensitivity(opened, product=used, draws=draws, rng=rng, tick=tick)
    curves, limits = examine.profile_tables(profiles, opened)
    tables: dict[str, pd.DataFrame] = {
        "identifiability": judged,
        "directions": examine.direction_table(found),
        "profiles": curves,
        "profile_limits": limits,
        "elasticities": tornado,
    }
    result_folder.write(
        place,
        kind=KIND,
        tables=tables,
        figures=_figures(opened, found, judged, profiles, tornado, used),
        provenance={
            **result_folder.origin(opened.run, seed),
            "variant": opened.run.provenance.get("variant"),
            "draws": draws,
            "profiled": names,
            "profiles_with_priors_of_others": penalised,
            "points": points,
            "product": used,
            "wall_seconds": time.monotonic() - started,
        },
    )
    result_folder.discard(place, PARTS)
    _show(console, judged, tables, used)
    console.print(f"\nWrote {escape(str(place))}: {', '.join(f'{name}.csv' for name in tables)}, figures/, run.json.")
    doubt(opened.run)


def doubt(run: Any) -> None:
    """Raise `NotTrusted` where the diagnostics of a run say so, or are missing."""
    try:
        converged = bool(run.diagnostics().get("converged"))
    except ReinfuseError:
        raise NotTrusted(f"{run.path} has no diagnostics; run `reinfuse diagnose {run.path}` first.") from None
    if not converged:
        raise NotTrusted(f"the fit in {run.path} has not converged; see `reinfuse diagnose {run.path}`.")


def _figures(
    opened: "Reopened",
    found: "Information",
    judged: "pd.DataFrame",
    profiles: "list[Profile]",
    tornado: "pd.DataFrame",
    product: str,
) -> "dict[str, Figure]":
    import numpy as np

    from reinfuse.fits.figures import identification as figures

    made = {
        "information": figures.information_chart(judged),
        "tornado": figures.tornado_plot(tornado, product=product),
    }
    places = most_correlated(found.found)
    draws = opened.draws.hypers(1000)
    if places:
        made["ellipses"] = figures.ellipses(
            pairs=[(found.names[i], found.names[j]) for i, j in places],
            places=places,
            logs=found.logs,
            centre=found.centre,
            found=found.found,
            expected=found.covariance,
            prior_mean=found.prior_mean,
            prior_sd=found.prior_sd,
            draws=draws,
        )
    if profiles:
        at = [found.names.index(one.name) for one in profiles]
        made["profiles"] = figures.profile_curves(
            names=[one.name for one in profiles],
            value=[one.value for one in profiles],
            drop=[one.drop for one in profiles],
            best=[one.best for one in profiles],
            low=[one.low for one in profiles],
            high=[one.high for one in profiles],
            readable=[one.readable for one in profiles],
            threshold=profiles[0].threshold,
            logs=[found.logs[i] for i in at],
            posterior=[(float(found.centre[i]), float(np.sqrt(found.found[i, i]))) for i in at],
            prior=[(float(found.prior_mean[i]), float(found.prior_sd[i])) for i in at],
        )
    return made


def most_correlated(covariance: Any, count: int = 6) -> list[tuple[int, int]]:
    """Places of the most strongly correlated pairs of a covariance (d, d)."""
    import numpy as np

    sd = np.sqrt(np.diag(covariance))
    correlation = np.abs(covariance / sd[:, None] / sd[None, :])
    first, second = np.triu_indices(sd.size, 1)
    order = np.argsort(-correlation[first, second], kind="stable")[:count]
    return [(int(first[k]), int(second[k])) for k in order]


def _show(console: "Console", judged: "pd.DataFrame", tables: "dict[str, pd.DataFrame]", product: str) -> None:
    from reinfuse.fits.diagnosis.identifiability import SOURCES

    console.print("\n[bold]What gave each parameter its value[/]")
    for word, meaning in SOURCES.items():
        rows = judged[judged["value_from"] == word]
        if word == "fixed" or rows.empty:
            continue
        listed = [
            f"{row.parameter} with {row.aliased_with}" if word == "aliased" else str(row.parameter)
            for row in rows.itertuples()
        ]
        console.print(f"[bold]{word}[/] ({meaning}):", highlight=False)
        console.print(f"  {escape('; '.join(listed) if word == 'aliased' else ', '.join(listed))}", highlight=False)
    console.print("\n[bold]Directions that the records see least[/] (information over the prior's)")
    for row in tables["directions"].head(WEAKEST).itertuples():
        console.print(f"  {row.information_over_prior:.2g}  {escape(str(row.words))}", highlight=False)
    if len(tables["profile_limits"]):
        console.print("\n[bold]Profile likelihood, 95 % limits[/]")
    for row in tables["profile_limits"].itertuples():
        low, high = (
            f"{x:.3g}" if closed else "open" for x, closed in ((row.low, row.closed_low), (row.high, row.closed_high))
        )
        console.print(
            f"  {escape(f'{row.parameter}: {row.best:.3g} ({low} to {high}); {row.words}')} (error {row.mc_error:.1f})",
            highlight=False,
        )
    console.print(f"\n[bold]What outcomes hang on[/] (typical patients, {escape(product)}; ln outcome for one sd)")
    tornado = tables["elasticities"]
    for outcome, rows in tornado.groupby("outcome", sort=False):
        parts = [f"{row.parameter} {row.effect:+.2f}" for row in rows.head(4).itertuples()]
        console.print(f"  {escape(str(outcome))}: {escape(', '.join(parts))}", highlight=False)


if __name__ == "__main__":
    run_alone(command)
