"""What the views of population, patient and sensitivity show, as tables and arrays from a run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from ..cohort import Cohort, read_cohort
from ..diagnosis import progression, vpc
from ..diagnosis.vpc import Vpc
from ..identification.examine import first_product, local_sensitivity
from ..new_patients import NewPatients, population_draws
from ..reopened import Reopened
from ..run import RunFolder
from ..simulated_studies import replicate_studies
from ..study_plan import plan
from .second_infusion import PERCENTILES

type Floats = NDArray[np.float64]

#: Simulated studies behind the predictive check of the page: fewer than the report's, which takes longer.
STUDIES: Final = 100
#: Assays that the patient view shows, as the curves of a run call them.
ASSAYS: Final = ("transgene", "cart", "sbcma", "mprotein")


@dataclass(frozen=True, eq=False)
class Views:
    """A run, read when a view first needs it, and each answer kept.

    Attributes
    ----------
    run
        A finished fit of the built-in model.
    seed
        Of what is drawn.
    sensitivity
        Folder of `reinfuse sensitivity`; None: elasticities are computed.
    """

    run: RunFolder
    seed: int = 1
    sensitivity: Path | None = None

    @cached_property
    def cohort(self) -> Cohort:
        """Of the run."""
        return read_cohort(self.run.cohort_path)

    @cached_property
    def tree(self) -> xr.DataTree:
        """Posterior and curves."""
        return self.run.posterior()

    @property
    def patients(self) -> tuple[str, ...]:
        """IDs in the order of the cohort."""
        return tuple(self.cohort.patients)

    @property
    def curves(self) -> xr.Dataset:
        """Posterior curves of the patients (sample, patient, time).

        Raises
        ------
        ReinfuseError
            If the run has none.
        """
        if "curves" not in self.tree.children:
            raise ReinfuseError(f"{self.run.path.name} holds no curves of its patients; fit again with this version")
        return self.tree["curves"].to_dataset().transpose("sample", "patient", "time")

    @cached_property
    def vpc(self) -> Vpc:
        """Predictive check of the assays with `STUDIES` studies of new patients."""
        opened = Reopened.of(self.run)
        new = NewPatients(opened.problem, population_draws(opened.problem, self.tree["posterior"].to_dataset()))
        made = plan(self.cohort, opened.problem)
        return vpc.check(new, made, replicate_studies(new, made, count=STUDIES, rng=np.random.default_rng(self.seed)))

    def fit(self, patient: str, assay: str) -> tuple[Floats, Floats, pd.DataFrame]:
        """Days, percentiles `PERCENTILES` of the posterior curves (5, time), and measurements of an assay."""
        curves = self.curves.sel(patient=patient)
        observed = self.tree["observed_data"].to_dataset()[["patient", "time", "dvid", "value", "cens"]].to_dataframe()
        own = observed[(observed["patient"] == patient) & (observed["dvid"] == assay)]
        bands = np.nanpercentile(curves[assay].to_numpy(), PERCENTILES, axis=0)
        return curves["time"].to_numpy(), bands, own.reset_index(drop=True)

    def risk(self, patient: str) -> tuple[Floats, Floats]:
        """Days, and percentiles of the probability of progression since the latest infusion (5, time)."""
        curves = self.curves.sel(patient=patient)
        chance = -np.expm1(-curves["cumhaz"].to_numpy())
        return curves["time"].to_numpy(), np.nanpercentile(chance, PERCENTILES, axis=0)

    def progression(self) -> tuple[pd.DataFrame, Floats, Floats]:
        """Kaplan-Meier table of the first courses; days, and 95 % interval and median of the predicted share free."""
        course = progression.first_course(self.cohort)
        seen = progression.kaplan_meier(course["time"], course["event"] == progression.PROGRESSED)
        days = np.linspace(0.0, float(course["time"].max()), 61)
        grid, patients = self.curves["time"].to_numpy(), [str(name) for name in self.curves["patient"].values]
        hazard = progression.first_course_hazard(self.curves["cumhaz"].to_numpy(), grid, patients, self.cohort)
        free = progression.predicted_survival(hazard, grid, days)
        return seen, days, np.quantile(free, [0.025, 0.5, 0.975], axis=0)

    @cached_property
    def drivers(self) -> tuple[pd.DataFrame, str]:
        """What drives the outcomes: ``outcome``, ``parameter``, ``value``, ``low``, ``high``; and what a value is."""
        if self.sensitivity is not None:
            return _indices(self.sensitivity), "total Sobol index"
        opened = Reopened.of(self.run)
        rng = np.random.default_rng(self.seed)
        _, table = local_sensitivity(opened, product=first_product(opened), rng=rng)
        names = {"effect": "value", "effect_low": "low", "effect_high": "high"}
        table = table.drop(columns=["low", "high"]).rename(columns=names)
        return table[["outcome", "parameter", "value", "low", "high"]], "change of the ln outcome for one sd"


def _indices(folder: Path) -> pd.DataFrame:
    """Total indices of a sensitivity analysis."""
    file = folder / "indices.csv"
    if not file.is_file():
        raise ReinfuseError(f"{folder} has no indices.csv; name a finished folder of `reinfuse sensitivity`")
    table = pd.read_csv(file)
    table = table[table["index"] == "total"].rename(columns={"lower": "low", "upper": "high"})
    if table.empty:
        raise ReinfuseError(f"{file} has no total indices; name an analysis by Sobol's method")
    found = table[["outcome", "parameter", "value", "low", "high"]]
    return found.sort_values(["outcome", "value"], ascending=[True, False], kind="stable")
