"""`reinfuse check`: is this file a cohort, and what is in it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from reinfuse.scripts._shell import ExitCode, complain, run_alone

if TYPE_CHECKING:
    from rich.console import Console

    from reinfuse.fits.cohort import Cohort, CohortSummary


def command(
    cohort: Annotated[Path, typer.Argument(metavar="COHORT.csv", help="Cohort file, CSV or Parquet.")],
    products: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="TOML file of products of your own, one table each."),
    ] = None,
) -> None:
    """Validate a cohort; list every fault, or say what the cohort holds.

    A fault reads `file:row:column: what, value seen; what to do` (the header is row 1). With faults the exit
    code is 2.

    Examples: `reinfuse check cohort.csv`, `reinfuse check cohort.csv --products own.toml`
    """
    from rich.console import Console

    from reinfuse.fits.cohort import CohortError, read_cohort, summarise
    from reinfuse.model.products import PRODUCTS, load_products

    own = {product.name: product for product in load_products(products)} if products else {}
    try:
        read = read_cohort(cohort, products={**PRODUCTS, **own})
    except CohortError as error:
        complain(str(error))
        count = len(error.faults)
        complain(f"{count} fault{'s' if count > 1 else ''} in {cohort}: mend and check again.")
        raise typer.Exit(ExitCode.BAD_INPUT) from None
    show(read, summarise(read), Console())


def show(cohort: "Cohort", summary: "CohortSummary", console: "Console") -> None:
    """Print the description of a cohort, readable at 80 columns.

    Parameters
    ----------
    cohort
        A checked cohort.
    summary
        Its tables.
    console
        Where to print.
    """
    console.print(f"[bold]{escape(cohort.name)}[/] is a cohort without faults.", highlight=False)
    console.print(f"SHA-256 {cohort.sha256}", style="dim", highlight=False, soft_wrap=True)
    lines: list[Sequence[str]] = [
        (line["product"], str(line["patients"]), str(line["with_samples"]))
        for line in summary.patients.to_dict("records")
    ]
    _print_table(console, "Patients", ("product", "patients", "with samples"), lines)
    counts = (f"{n} of {patients} patients" for n, patients in summary.infusions.to_numpy().tolist())
    console.print(f"Infusions per patient: {', '.join(counts)}.", highlight=False)
    _print_assays(console, summary)
    _print_follow_up(console, summary)
    if len(summary.after_progression):
        lines = [
            (line["assay"], line["product"], str(line["samples"]))
            for line in summary.after_progression.to_dict("records")
        ]
        title = "Samples after progression (the fit leaves them out)"
        _print_table(console, title, ("assay", "product", "samples"), lines, words=2)


def _print_assays(console: "Console", summary: "CohortSummary") -> None:
    lines: list[Sequence[str]] = []
    for assay, group in summary.assays.groupby("assay", sort=False):
        rows = group.to_dict("records")
        names = [str(assay), rows[0]["unit"], *[""] * len(rows)]
        if len(rows) == 1:
            names = ["\n".join(names[:2])]
        for name, row in zip(names, rows, strict=False):
            lines.append(
                (
                    name,
                    row["product"],
                    f"{row['samples']} in {row['patients']}",
                    f"{row['blq']:.0f}",
                    f"{short(row['median'])} ({short(row['lowest'])} to {short(row['highest'])})",
                    f"{row['first_day']:g} to {row['last_day']:g}",
                )
            )
    header = ("assay", "product", "samples", "% BLQ", "median (range)", "days")
    _print_table(console, "Assays", header, lines, words=2)
    console.print("samples: number in so many patients; BLQ: below the limit of quantification", style="dim")


def _print_follow_up(console: "Console", summary: "CohortSummary") -> None:
    lines: list[Sequence[str]] = []
    for row in summary.follow_up.to_dict("records"):
        counts = [f"{row[name]:g}" for name in ("courses", "last_day", "progressions", "deaths", "pfs_events")]
        median = "not reached" if math.isinf(row["pfs_median"]) else short(row["pfs_median"])
        lines.append((row["product"], *counts, median))
    header = ("product", "courses", "last day", "progressed", "died", "PFS events", "PFS median")
    _print_table(console, "Follow-up, by infusion course", header, lines)
    console.print("last day: median; PFS: progression or death, Kaplan-Meier; days since the infusion", style="dim")


def _print_table(
    console: "Console", title: str, header: Sequence[str], lines: Sequence[Sequence[str]], *, words: int = 1
) -> None:
    """Print a table whose first `words` columns are words and the rest numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < words else "right")
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    console.print(f"\n[bold]{title}[/]", highlight=False)
    console.print(table)


def short(number: float) -> str:
    """Write a number with three significant digits, and a dash for none."""
    if math.isnan(number):
        return "–"
    if number == 0:
        return "0"
    if abs(number) >= 1e6:
        return f"{number:.2e}".replace("e+0", "e").replace("e+", "e")
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


if __name__ == "__main__":
    run_alone(command)
