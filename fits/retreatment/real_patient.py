"""One real patient of a run, continued: its own posterior in place of a population's.

Every virtual patient is then a draw of this one's parameters, as the fit left them uncertain; what the fit did not hold
is drawn as for anybody. What was seen of the first course stays as it was seen: the infusion, the day of progression,
or the last day known to be without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.course import Infusion
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.judgement import Event
from reinfuse.model.products import Product, product

from ..cohort import Cohort, read_cohort
from ..run import RunFolder
from .outcomes import CourseOutcome
from .scenarios import ScenarioFile
from .virtual_patients import SampledPopulation, VirtualPatients, from_run, population_rng, posterior_rows

type Floats = NDArray[np.float64]

#: Draws of one patient's posterior, at least: each continuation is one of them.
FEWEST_DRAWS: Final = 400


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was seen of a real patient's first course.

    Attributes
    ----------
    patient : str
    product : str
    dose : float or None
        CAR+ cells; None: the product's reference dose.
    lymphodepletion : float
    progression_day : float
        Days from the infusion; +inf if none was seen.
    free_until : float
        Last day known to be without progression; 0 if nothing is known.
    """

    patient: str
    product: str
    dose: float | None
    lymphodepletion: float
    progression_day: float
    free_until: float

    @classmethod
    def of(cls, cohort: Cohort, patient: str) -> Self:
        """Read what a cohort says of a patient.

        Raises
        ------
        ReinfuseError
            If there is no such patient, it had more than one infusion, or it died.
        """
        rows = cohort.table[cohort.table["ID"] == patient]
        if rows.empty:
            known = cohort.patients
            shown = ", ".join(known[:5]) + (" …" if len(known) > 5 else "")
            raise ReinfuseError(f"patient is {patient!r}; the run's cohort has {shown}. Name one of them.")
        infusions = rows[rows["EVID"] == 1]
        if len(infusions) > 1:
            raise ReinfuseError(
                f"patient {patient} had {len(infusions)} infusions already; a second one can only be tried in a "
                "patient with one. Name another patient."
            )
        if (rows[rows["DVID"] == "death"]["DV"] == 1).any():
            raise ReinfuseError(f"patient {patient} died; name a patient who can be treated")
        first = infusions.iloc[0]
        seen = rows[rows["DVID"] == "progression"]
        relapsed, free = (seen[seen["DV"] == value]["TIME"] for value in (1, 0))
        dose, depletion = first["AMT"], first["LD"]
        return cls(
            patient=patient,
            product=str(first["PRODUCT"]),
            dose=None if pd.isna(dose) else float(dose),
            lymphodepletion=1.0 if pd.isna(depletion) else float(depletion),
            progression_day=float(relapsed.min()) if len(relapsed) else float("inf"),
            free_until=float(free.max()) if len(free) else 0.0,
        )

    def infusion(self, file: ScenarioFile) -> Infusion:
        """The first infusion as it was given."""
        return Infusion(product=file.product(self.product), dose=self.dose, lymphodepletion=self.lymphodepletion)

    def outlived(self, simulated: xr.Dataset) -> Floats:
        """Hazard of progression (n,) accumulated in a first course until the last day known to be without it.

        The posterior has counted those days already. So no draw may progress within them, and none may be left out for
        it: given a draw, progression comes a standard exponential number beyond this.
        """
        hazard = simulated["cumhaz"].transpose("patient", "time").to_numpy()
        if np.isfinite(self.progression_day) or self.free_until <= EARLY:
            return np.zeros(len(hazard))
        times = simulated["time"].to_numpy()
        early, free = (np.array([np.interp(day, times, one) for one in hazard]) for day in (EARLY, self.free_until))
        return np.asarray(np.maximum(free - early, 0.0))

    def condition(self, outcome: CourseOutcome) -> CourseOutcome:
        """Put what was seen in place of what was simulated.

        Where progression was not seen yet, draws whose M-protein would have shown it already contradict what was seen;
        they count as not progressed, and so are not continued.
        """
        judged = ~np.isnan(outcome.progression_days)
        if np.isfinite(self.progression_day):
            day = np.where(judged, self.progression_day, np.nan)
            duration = np.where(outcome.response_days < day, day - outcome.response_days, np.nan)
            event = np.where(judged, Event.PROGRESSION, Event.NONE).astype(np.int8)
            return replace(outcome, progression_days=day, pfs_days=day, pfs_event=event, dor_days=duration)
        contradicts = outcome.progression_days <= self.free_until
        died = outcome.died & (outcome.pfs_days <= self.free_until)
        event = np.where(contradicts | died, Event.NONE, outcome.pfs_event).astype(np.int8)
        return replace(
            outcome, pfs_event=event, progression_days=np.where(contradicts, np.inf, outcome.progression_days)
        )

    @property
    def sentence(self) -> str:
        """What was seen, in words."""
        what = f"Patient {self.patient}: {self.product}, "
        if np.isfinite(self.progression_day):
            return what + f"progression seen on day {self.progression_day:g}."
        return what + f"no progression seen until day {self.free_until:g}; its day is simulated."


@dataclass(frozen=True, kw_only=True, eq=False)
class PatientPopulation(SampledPopulation):
    """Draws of one patient: a population in which everybody is this patient, as uncertain as the fit left it.

    Attributes
    ----------
    own : dict of str to ndarray (D,)
        The patient's fitted parameters, natural scale, by draw.
    """

    own: dict[str, Floats]

    def sample(self, n: int, rng: np.random.Generator, *, first: int = 0) -> VirtualPatients:
        """Draw n continuations; as for a population, continuation i belongs to draw (first + i) modulo `n_draws`."""
        virtual = super().sample(n, rng, first=first)
        mine = {name: values[virtual.draw] for name, values in self.own.items()}
        return replace(virtual, parameters={**virtual.parameters, **mine})


def population_of(
    run: RunFolder, *, products: Iterable[Product], n_draws: int, seed: int, patient: str | None = None
) -> SampledPopulation:
    """The population that an experiment on a run takes: of all its patients, or of one.

    Parameters
    ----------
    run
        A run folder with `posterior.nc`.
    products
        Every product a scenario uses, in order.
    n_draws
        Draws of the posterior; of one patient at least `FEWEST_DRAWS`.
    seed
        Of the experiment.
    patient
        ID in the run's cohort; None: everybody.

    Raises
    ------
    ReinfuseError
        As `of_patient`.
    """
    rng = population_rng(seed)
    if patient is None:
        return from_run(run, rng=rng, products=products, n_draws=n_draws)
    return of_patient(run, patient, rng=rng, products=products, n_draws=max(n_draws, FEWEST_DRAWS))


def of_patient(
    run: RunFolder,
    patient: str,
    *,
    rng: np.random.Generator,
    products: Iterable[Product],
    n_draws: int = 400,
) -> PatientPopulation:
    """Make the population of one patient's continuations.

    Parameters
    ----------
    run
        A run folder with `posterior.nc`.
    patient
        ID in the run's cohort.
    rng, products, n_draws
        As `virtual_patients.from_run`; the product that the patient had is added.

    Raises
    ------
    ReinfuseError
        As `Observed.of` and `virtual_patients.from_run`.
    """
    observed = Observed.of(read_cohort(run.cohort_path), patient)
    wanted = {one.name: one for one in products}
    wanted.setdefault(observed.product, product(observed.product))
    population = from_run(run, rng=rng, products=wanted.values(), n_draws=n_draws)
    posterior, chosen = posterior_rows(run, n_draws)
    individual = posterior["individual"].sel(patient=patient).transpose("sample", "effect").to_numpy()[chosen]
    names = [str(name) for name in posterior["effect"].to_numpy()]
    own = {name: individual[:, j].astype(np.float64) for j, name in enumerate(names) if name in population.rows}
    made = PatientPopulation(**{**vars(population), "own": own, "observed": observed})
    return replace(made, source=f"{population.source}; patient {patient}'s own posterior for {', '.join(own)}")
