"""`reinfuse report`: a run as one HTML file that needs no network."""

from pathlib import Path
from typing import Annotated

import typer

from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import NotTrusted, progress, run_alone


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `reinfuse fit`.")],
    retreat: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of `reinfuse retreat` on this run, to be shown too.")
    ] = None,
    pdf: Annotated[
        Path | None,
        typer.Option(metavar="FILE.pdf", help="Also print it to A4, by an installed Chromium, Chrome or Edge."),
    ] = None,
) -> None:
    """Write RUN/report.html: one self-contained file with figures, diagnostics in words, and limits.

    Examples: `reinfuse report run --retreat retreat`, `reinfuse report run --pdf report.pdf`

    Exit code 3 if the run did not converge; the report is written all the same, and says so.
    """
    from rich.console import Console

    from reinfuse.fits.diagnosis.findings import examine, record
    from reinfuse.fits.figures.plates import count_plates
    from reinfuse.fits.report.build import build_report
    from reinfuse.fits.report.printing import browser, print_pdf
    from reinfuse.fits.report.retreatment import read_retreatment
    from reinfuse.fits.run import RunFolder

    folder = RunFolder.open(run)
    if pdf is not None:
        browser()  # before any work
        if not pdf.parent.is_dir():
            raise ReinfuseError(f"--pdf {pdf}: there is no folder {pdf.parent}; make it, or name another")
    experiment = None
    if retreat is not None:
        experiment = read_retreatment(retreat, cohort_sha256=folder.provenance["cohort_sha256"])
    with progress("Examining", 1) as tick:
        found = examine(folder)
        record(folder, found)
        tick()
    with progress("Report", count_plates(found)) as tick:
        page = build_report(folder, found, retreatment=experiment, tick=tick)
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    Console(soft_wrap=True).print(f"Written: {page} ({size}, self-contained)", highlight=False)
    if pdf is not None:
        print_pdf(page, pdf)
        Console(soft_wrap=True).print(f"Printed: {pdf} ({pdf.stat().st_size / 1e6:.1f} MB)", highlight=False)
    if not found.diagnostics.converged:
        raise NotTrusted(" ".join(found.diagnostics.advice) or "The run did not converge.")


if __name__ == "__main__":
    run_alone(command)
