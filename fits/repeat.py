"""A run done once more from its own folder, and whether it came out the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from reinfuse.model.errors import ReinfuseError

from .run import COHORT_FILE, MODEL_FILE, PRODUCTS_FILE, RunFolder, git_revision, versions
from .sampling import Settings


@dataclass(frozen=True)
class Recipe:
    """What a run was made of.

    Attributes
    ----------
    run
        The run.
    cohort
        Its copy of the cohort.
    model, products
        Its copies of files of the user's own, if there were any.
    variant
        Restriction of the model.
    settings
        How it was sampled.
    """

    run: RunFolder
    cohort: Path
    model: Path | None
    products: Path | None
    variant: str
    settings: Settings

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read it from a run folder.

        Raises
        ------
        ReinfuseError
            If the folder is no run, the run is not finished, or a file in it was changed.
        """
        run = RunFolder.open(path)
        written = run.provenance
        if written["status"] != "done":
            raise ReinfuseError(
                f"the run in {path} is not finished (status: {written['status']}), so there are no draws to compare "
                "with. Finish it with `reinfuse fit … --resume` first."
            )
        model, products = (path / name if (path / name).is_file() else None for name in (MODEL_FILE, PRODUCTS_FILE))
        settings = Settings(**written["settings"])
        variant = "no-exhaustion" if model is not None else str(written["variant"])
        return cls(run, path / COHORT_FILE, model, products, variant, settings)

    def differences(self) -> list[str]:
        """What is not as it was when the run was made: versions, and the revision of the source."""
        written = self.run.provenance
        then, now = written["versions"], versions()
        found = [
            f"{name} {then[name]} then, {now[name]} now" for name in now if name in then and then[name] != now[name]
        ]
        revision = git_revision()
        if revision != written["git"]:
            found.append("another revision of the source")
        return found

    def same_draws(self, other: RunFolder) -> bool:
        """Whether another run has the same draws, to the last bit."""
        mine, theirs = (run.posterior()["posterior"].to_dataset() for run in (self.run, other))
        return set(mine.data_vars) == set(theirs.data_vars) and all(
            np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine.data_vars
        )
