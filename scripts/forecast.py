"""`reinfuse forecast`: one new patient, from a run and that patient's data so far."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from reinfuse.model.notice import NOTICE
from reinfuse.scripts._shell import NotTrusted, progress, run_alone


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `reinfuse fit`: the population.")],
    patient_file: Annotated[
        Path, typer.Argument(metavar="PATIENT.csv", help="Cohort file with the patient's rows so far.")
    ],
    until: Annotated[float, typer.Option(metavar="DAY", help="Day to which is forecast, from the first infusion.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables, figures and summary.md.")],
    patient: Annotated[str | None, typer.Option(metavar="ID", help="Which patient, if the file has several.")] = None,
    previous: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An earlier forecast of the patient, to be set beside this one.")
    ] = None,
    seen_until: Annotated[
        float | None, typer.Option(metavar="DAY", help="Forget what came after this day: a forecast in hindsight.")
    ] = None,
    scenarios: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options after progression; left out: ide-cel, cilta-cel, bispecific."),
    ] = None,
    benefit: Annotated[bool, typer.Option(help="Whether to ask what options after progression would gain.")] = True,
    draws: Annotated[int, typer.Option(min=10, help="Draws of the patient that each option is tried on.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 1,
    cores: Annotated[int, typer.Option(min=1, help="Threads; does not change results.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Forecast one patient by the run's population and the patient's own data.

    The population's uncertainty is carried: its draws are weighed by how
    well they explain the patient. Writes forecast.csv (measurements to
    come), progression.csv (chance by month), benefit.csv (options after
    progression against none), figures, summary.md and run.json. When a
    visit has come, add its rows and run it again, with `--previous` for
    what has changed.

    The file is a cohort file (`reinfuse check`). A row with DVID
    progression, DV 0 says until when the patient is known to be free of
    it. Exit code 3: saved, but too few draws of the population fit the
    patient, or the run has not converged.

    Examples: `reinfuse forecast run p7.csv --until 365 --out p7`,
    `reinfuse forecast run p7.csv --until 365 --previous p7 --out p7_b`,
    `reinfuse forecast run cohort.csv --patient P7 --until 180 --out p7`
    """
    begun = time.monotonic()
    from rich.console import Console
    from rich.markdown import Markdown

    from reinfuse.fits.forecasting.answer import Clock, forecast

    console = Console()
    console.print(escape(NOTICE), style="bold")
    clock = Clock()
    clock.parts["starting"] = {
        "wall": round(time.monotonic() - begun, 2),
        "processor": round(time.process_time(), 2),
    }
    answer = forecast(
        run,
        patient_file,
        until=until,
        out=out,
        progress=progress,
        patient=patient,
        seen_until=seen_until,
        scenarios=scenarios,
        with_benefit=benefit,
        previous=previous,
        draws=draws,
        seed=seed,
        cores=cores,
        force=force,
        clock=clock,
    )
    console.print(Markdown(answer.summary))
    written = ", ".join(f"{name}.csv" for name in answer.tables)
    seconds = sum(part["processor"] for part in clock.parts.values())
    console.print(
        f"\nWrote {escape(str(out))}: {written}, summary.md, figures/, run.json; {seconds:.0f} processor seconds.",
        highlight=False,
    )
    if answer.doubts:
        raise NotTrusted("; ".join(answer.doubts))


if __name__ == "__main__":
    run_alone(command)
