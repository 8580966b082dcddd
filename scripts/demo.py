"""`reinfuse demo`: the whole job on the bundled synthetic cohort."""

from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import NotTrusted, run_alone


def command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything the demo makes.")],
    quick: Annotated[bool, typer.Option("--quick", help="A minute instead of a few: a fit not to trust.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
    cores: Annotated[int, typer.Option(help="Chains at a time; does not change the result.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier demo.")] = False,
) -> None:
    """Do the whole job on the bundled cohort: check, fit, second infusions, sensitivity, report.

    The cohort is synthetic: simulated from the model, with the visits and assays of a real study.

    Examples: `reinfuse demo --out demo`, `reinfuse demo --quick --out demo`
    """
    import sys

    from rich.console import Console

    from reinfuse.fits.cohort import read_cohort, summarise
    from reinfuse.fits.fitting import fit
    from reinfuse.fits.sampling import Settings
    from reinfuse.scripts.check import show
    from reinfuse.scripts.diagnose import judge
    from reinfuse.scripts.fit import shown
    from reinfuse.scripts.report import command as report
    from reinfuse.scripts.retreat import retreat
    from reinfuse.scripts.sensitivity import sensitivity

    console = Console()
    console.print(NOTICE, style="bold")
    source = Path(str(files("reinfuse.fits").joinpath("data/synthetic_cohort.csv")))
    cohort = read_cohort(source)
    show(cohort, summarise(cohort), console)
    settings = (
        Settings(draws=50, tune=60, thin=1, seed=seed)
        if quick
        else Settings(draws=500, tune=300, thin=1, seed=seed, extensions=0)
    )
    run = fit(
        cohort,
        out=out / "run",
        source=source,
        settings=settings,
        cores=cores,
        overwrite=force,
        progress=shown,
        command=list(sys.argv),
    )
    doubt = ""
    try:
        judge(run, console)
    except NotTrusted as error:
        doubt = str(error)
    retreat(
        run=out / "run",
        out=out / "retreat",
        patients=200 if quick else 1000,
        draws=50 if quick else 100,
        explain=not quick,
        seed=seed,
        force=force,
        console=console,
    )
    with suppress(NotTrusted):  # said above
        report(out / "run", out / "retreat")
    sensitivity(
        run=out / "run",
        out=out / "sensitivity",
        outcomes=["cmax", "pfs1"],
        samples=256 if quick else 1024,
        draws=50 if quick else 1000,
        seed=seed,
        force=force,
        console=console,
    )
    console.print()
    console.print("Where to look:", style="bold")
    for place, what in (
        ("run/report.html", "the fit and the second infusions in words and pictures"),
        ("run/figures", "individual fits, predictive checks, chains"),
        ("run/summary.csv", "every parameter with its interval and diagnostics"),
        ("retreat/summary.csv", "outcomes of the second infusion"),
        ("retreat/contrasts.csv", "what each arm gains or loses, patient by patient"),
        ("sensitivity/indices.csv", "which numbers the peak and the first PFS answer to"),
        ("retreat/figures", "survival, swimmer and waterfall plots, the anchor study beside the simulation"),
    ):
        console.print(f"  {out / place}: {what}", highlight=False)
    if doubt:
        console.print(f"The demo's fit is short, to spare your time; its diagnosis says: {doubt}", style="yellow")


if __name__ == "__main__":
    run_alone(command)
