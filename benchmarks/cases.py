"""The posteriors that are sampled: synthetic cohorts of first infusions, and a cohort file of the user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from reinfuse.fits.cohort import Cohort, read_cohort, write_cohort
from reinfuse.fits.problem import Problem, Specification, pose
from reinfuse.fits.synthetic import synthetic_cohort
from reinfuse.model.parameters import RANDOM_EFFECTS

MOST_STEPS = 20_000
SEED = 1  # of the synthetic cohorts
FEW = ("rho", "B0")  # random effects of the small case


@dataclass(frozen=True, eq=False)
class Case:
    """A posterior.

    Attributes
    ----------
    name
        In tables.
    path
        The cohort file, first infusions only.
    random_effects
        Which parameters vary between patients.
    """

    name: str
    path: Path
    random_effects: tuple[str, ...] = RANDOM_EFFECTS

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort."""
        return read_cohort(self.path)

    @property
    def specification(self) -> Specification:
        """What is fitted: the default variant."""
        return Specification(random_effects=self.random_effects)

    def problem(self, tolerance: float | None = None) -> Problem:
        """The posed cohort; ``tolerance`` None: that of fits, else with as many steps as it may take."""
        if tolerance is None:
            return pose(self.cohort, self.specification)
        return replace(pose(self.cohort, self.specification, tolerance=tolerance), max_steps=MOST_STEPS)


def synthetic(patients: int, folder: Path, random_effects: tuple[str, ...] = RANDOM_EFFECTS) -> Case:
    """A synthetic cohort of first infusions, whose patients differ in these effects, written into a folder."""
    path = folder / f"synthetic_{patients}_{len(random_effects)}.csv"
    table, _ = synthetic_cohort(patients=patients, second_infusions=0, seed=SEED, random_effects=random_effects)
    write_cohort(table, path)
    return Case(f"{patients} patients, {len(random_effects)} random effects", path, random_effects)


def own(source: Path, folder: Path) -> Case:
    """A cohort file of the user's own, cut before every patient's second infusion, written into a folder."""
    table = first_infusions(read_cohort(source))
    path = folder / "own.csv"
    write_cohort(table, path)
    return Case(f"{table['ID'].nunique()} patients of a file", path)


def first_infusions(cohort: Cohort) -> pd.DataFrame:
    """The table without second infusions and without all that was seen after them.

    The progression of the day of a second infusion belongs to the first, and stays; so do no other rows of that day.
    """
    table = cohort.table
    second = cohort.infusions.query("SLOT == 2").set_index("ID")["TIME"]
    until = table["ID"].map(second)
    progression = (table["DVID"] == "progression") & (table["TIME"] == until)
    kept = table[until.isna() | (table["TIME"] < until) | progression]
    return kept.reset_index(drop=True)
