"""`reinfuse convert`: a public data set that the user holds becomes a cohort file."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import run_alone


class Source(StrEnum):
    """Data sets with a converter."""

    LEIPZIG = "leipzig"


class Subset(StrEnum):
    """CAR+ cells that PD-1 is taken from."""

    CD8 = "cd8"
    CD4 = "cd4"
    NONE = "none"


def command(
    name: Annotated[Source, typer.Argument(metavar="NAME", help="Data set: leipzig.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder with the published files.")],
    out: Annotated[Path, typer.Option(metavar="COHORT.csv", help="Cohort file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    transgene_lloq: Annotated[
        float, typer.Option(help="Limit at which transgene zeros are censored, copies/µg DNA.")
    ] = 50.0,
    pd1: Annotated[Subset, typer.Option(help="CAR+ cells whose PD-1 becomes the assay pd1.")] = Subset.CD8,
) -> None:
    """Convert a public data set that you hold into a cohort file.

    `leipzig`: the BCMA CAR-T cohort of Fandrei et al. 2024; SRC holds `kinetics_long.csv` and `patients.csv`.
    Says what was dropped or censored and why; writes nothing if anything is wrong.

    Example: `reinfuse convert leipzig published --out cohort.csv`
    """
    if out.exists() and not force:
        raise ReinfuseError(f"{out} exists already; choose another name or add --force")
    if not out.parent.is_dir():
        raise ReinfuseError(f"{out}: there is no folder {str(out.parent)!r}; make it first")
    if out.is_dir():
        raise ReinfuseError(f"{out} is a folder; name a file in it")

    from reinfuse.fits.cohort import write_cohort
    from reinfuse.fits.converters.leipzig import convert_leipzig

    pd1_of: Mapping[Subset, Literal["cd8", "cd4"]] = {Subset.CD8: "cd8", Subset.CD4: "cd4"}
    table, report = convert_leipzig(source, transgene_lloq=transgene_lloq, pd1=pd1_of.get(pd1))
    write_cohort(table, out)
    for note in report.notes:
        print(f"- {note}")
    infusions = int((table["EVID"] == 1).sum())
    observations = len(table) - infusions
    print(f"Wrote {out}: {table['ID'].nunique()} patients, {infusions} infusions, {observations} observations.")


if __name__ == "__main__":
    run_alone(command)
