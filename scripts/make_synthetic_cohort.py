"""Make the bundled synthetic cohort anew.

`python scripts/make_synthetic_cohort.py --out fits/data/synthetic_cohort.csv`

For maintainers, no command of `reinfuse`. Run it when the model, its parameters or `fits.synthetic` change;
the tests say when the bundled files are out of date. The truth goes beside the cohort, as
`synthetic_truth.json`.
"""

from pathlib import Path
from typing import Annotated

import typer

from reinfuse.model.errors import ReinfuseError
from reinfuse.scripts._shell import run_alone

# Of the seeds from 1, the first whose ide-cel patients have a median PFS of 3 to 9 months (really about 6).
SEED = 2


def command(
    out: Annotated[Path, typer.Option(metavar="COHORT.csv", help="Cohort file to write or replace.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 24,
    second_infusions: Annotated[int, typer.Option(help="How many of them are infused again.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = SEED,
) -> None:
    """Simulate a cohort from the model; write it and the truth behind it (synthetic_truth.json beside it)."""
    if not out.parent.is_dir():
        raise ReinfuseError(f"{out}: there is no folder {str(out.parent)!r}; make it first")
    if out.is_dir():
        raise ReinfuseError(f"{out} is a folder; name a file in it")

    from reinfuse.fits.synthetic import BUNDLED_TRUTH, synthetic_cohort, write_synthetic

    table, truth = synthetic_cohort(patients=patients, second_infusions=second_infusions, seed=seed)
    beside = out.parent / BUNDLED_TRUTH.name
    write_synthetic(table, truth, out, beside)
    print(f"Wrote {out} ({patients} synthetic patients, {len(table)} rows) and {beside}.")


if __name__ == "__main__":
    run_alone(command)
