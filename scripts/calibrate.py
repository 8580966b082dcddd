"""`reinfuse calibrate`: is the inference right? Cohorts of known truth, fitted by the hundred."""

from pathlib import Path
from typing import Annotated

import typer

from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import NotTrusted, complain, progress, run_alone

#: Cohorts and patients where none are asked for.
USUAL = {"sbc": (200, 12), "recovery": (20, 30), "stein": (2, 90)}


def command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="sbc, recovery or stein.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the calibration.")],
    cohorts: Annotated[int | None, typer.Option(help="How many cohorts [200; recovery 20; stein 2].")] = None,
    patients: Annotated[int | None, typer.Option(help="Patients of each [12; recovery 30; stein 90].")] = None,
    again: Annotated[
        float,
        typer.Option(help="Share of those who progressed after ide-cel that get cilta-cel; 0: one infusion each."),
    ] = 0.0,
    truth: Annotated[str, typer.Option(help="Of recovery: reference or median.")] = "reference",
    draws: Annotated[int, typer.Option(help="Kept draws of each chain, to begin with.")] = 500,
    tune: Annotated[int, typer.Option(help="Warm-up sweeps of each chain.")] = 300,
    chains: Annotated[int, typer.Option(help="Chains of each fit.")] = 2,
    thin: Annotated[int, typer.Option(help="Sweeps per kept draw; each is repeated in small cohorts.")] = 2,
    longest: Annotated[int, typer.Option(help="A fit that has not settled goes on up to so many times --draws.")] = 4,
    ranks: Annotated[int, typer.Option(help="Draws that the truth is compared with.")] = 99,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
    cores: Annotated[int | None, typer.Option(help="Cohorts at a time [all cores]; does not change results.")] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a dask.distributed cluster, tcp://HOST:PORT.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where it was interrupted or killed, or with more --cohorts.")
    ] = False,
    docs: Annotated[
        Path | None, typer.Option(metavar="DOCS", help="Also write the page's tables and figures into DOCS.")
    ] = None,
) -> None:
    """Simulate cohorts whose truth is known, fit them all, and judge ranks and intervals.

    sbc: truth from the prior, ranks must be uniform. recovery: the same truth throughout, bias and coverage of 90 %
    intervals. stein: the published population of Stein 2019. Writes ranks.csv, uniformity.csv, coverage.csv,
    recovery.csv, fits.csv, figures, summary.md and run.json. Exit code 3: done, and the ranks or intervals are wrong.

    Examples: `reinfuse calibrate sbc --out sbc_out`, `reinfuse calibrate sbc --out sbc_out --resume --cluster
    tcp://10.0.0.1:8786`, `reinfuse calibrate recovery --out recovery_out`
    """
    from typing import Any, cast

    from rich.console import Console

    from reinfuse.model.errors import ReinfuseError

    if kind not in USUAL:
        raise ReinfuseError(f"unknown calibration {kind!r}; use one of {', '.join(USUAL)}")
    if docs is not None and not docs.is_dir():
        raise ReinfuseError(f"there is no folder {docs}; name that of the documentation")
    console = Console()
    console.print(NOTICE, style="dim")
    with progress("Starting", 1) as tick:
        from reinfuse.fits.calibration.campaign import Campaign, publish, run_campaign
        from reinfuse.fits.calibration.replicates import Effort

        tick(1)
    many, size = USUAL[kind]
    effort = Effort(draws=draws, tune=tune, chains=chains, thin=thin, ranks=ranks, longest=longest)
    campaign = Campaign(
        kind=cast(Any, kind),
        cohorts=many if cohorts is None else cohorts,
        patients=size if patients is None else patients,
        seed=seed,
        effort=effort,
        again=again,
        truth=cast(Any, truth),
    )
    try:
        with progress("Fitting cohorts", campaign.cohorts) as tick:
            outcome = run_campaign(campaign, out, resume=resume, cores=cores, cluster=cluster, tick=tick)
    except KeyboardInterrupt:
        complain(f"Interrupted. The cohorts done so far are kept in {out}; --resume goes on from there.")
        raise
    lines = (out / "summary.md").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("!["))
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if docs is not None:
        publish(outcome, out, docs)
    if outcome.doubts:
        raise NotTrusted(f"{'; '.join(outcome.doubts)}. The tables are in {out}.")


if __name__ == "__main__":
    run_alone(command)
