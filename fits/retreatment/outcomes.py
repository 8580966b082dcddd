"""One course of n patients, judged: response, durations, exposure, and the group that a first course puts a patient in.

A course is read from the day of its infusion (or, in a comparator, from the day on which it would have been). Death
without relapse comes from a clock that belongs to the patient and not to the arm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.extinction import extinction_chance
from reinfuse.model.judgement import Columns, Event, Judgement, judge
from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.response import Response, ResponseRules

from .scenarios import GROUPS, ResponseClass, Scenario

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Integers = NDArray[np.int64]
#: Places in `scenarios.GROUPS`.
type Groups = NDArray[np.int8]

#: First PFS that separates early relapse, intermediate and durable responses, months.
EARLY_MONTHS: Final = 6.0
DURABLE_MONTHS: Final = 12.0
#: Share of BCMA-low cells at relapse above which it is called antigen loss.
ANTIGEN_LOSS_SHARE: Final = 0.5
#: Cells below which a clone is as good as gone; keeps its logarithm finite.
FEWEST_CELLS: Final = 1e-12
#: What stands where a patient had no such course, if not NaN.
ABSENT: Final[Mapping[str, object]] = {
    "best": Response.NOT_EVALUABLE,
    "evaluable": False,
    "mrd5": False,
    "mrd6": False,
    "pfs_event": Event.NONE,
}
#: Fields that belong to infused cells.
EXPOSURE: Final = ("cmax", "tmax", "auc28", "persistence_days", "crs_proxy")
_COLUMNS: Final = Columns(mprotein=0, burden=1, low=2, cart=3)
_WITH_HAZARD: Final = replace(_COLUMNS, cumhaz=4)


@dataclass(frozen=True, kw_only=True, eq=False)
class CourseOutcome(Judgement):
    """One course of n patients: a `Judgement`, and the chance of a cure.

    Attributes
    ----------
    cure_chance : ndarray of float32, shape (n,)
        Chance that the last myeloma cell is gone; NaN where it was not asked for.
    """

    cure_chance: NDArray[np.float32]

    @property
    def progressed(self) -> Flags:
        """Whether the course ended with progression."""
        return np.asarray(self.pfs_event == Event.PROGRESSION)

    @property
    def died(self) -> Flags:
        """Whether the course ended with death without progression."""
        return np.asarray(self.pfs_event == Event.DEATH)

    def or_cured(self, chance: Floats, uniform: Floats, *, death_days: Floats, follow_up: float) -> Self:
        """The same, but for those whose last myeloma cell dies out by chance, who never progress.

        Parameters
        ----------
        chance
            Of extinction by the end of follow-up, (n,).
        uniform
            The patient's luck: it is extinct where this is below the chance, (n,).
        death_days, follow_up
            As in `read_course`.
        """
        gone = (uniform < chance) & self.progressed
        pfs = np.where(gone, np.minimum(death_days, follow_up), self.pfs_days)
        ended = np.where(death_days <= follow_up, Event.DEATH, Event.NONE)
        return replace(
            self,
            cure_chance=chance.astype(np.float32),
            progression_days=np.where(gone, np.inf, self.progression_days),
            pfs_days=pfs,
            pfs_event=np.where(gone, ended, self.pfs_event).astype(np.int8),
            dor_days=np.where(gone & (self.response_days < pfs), pfs - self.response_days, self.dor_days),
            antigen_low=np.where(gone, np.nan, self.antigen_low),
        )

    def take(self, rows: Integers) -> Self:
        """Some of the patients."""
        return type(self)(**{name: values[rows] for name, values in vars(self).items()})

    @classmethod
    def nobody(cls, n: int) -> Self:
        """Of n patients who had no such course."""
        return cls(**{f.name: np.full(n, ABSENT.get(f.name, np.nan)) for f in fields(cls)})

    def scattered(self, who: Integers, n: int) -> Self:
        """The same, for n patients of whom those at ``who`` had the course."""
        out = {}
        for name, values in vars(self).items():
            out[name] = np.full(n, ABSENT.get(name, np.nan), dtype=values.dtype)
            out[name][who] = values
        return type(self)(**out)

    def columns(self, course: int, *, exposed: bool = True) -> dict[str, NDArray[Any]]:
        """Columns of one course; exposure is NaN in an arm without an infusion."""
        nothing = np.full(self.best.size, np.nan)
        return {
            f"{name}_{course}": nothing if name in EXPOSURE and not exposed else values
            for name, values in vars(self).items()
            if name != "progression_days"
        }


def read_course(
    simulated: xr.Dataset,
    *,
    follow_up: float,
    death_days: Floats,
    rules: ResponseRules,
    hazard_threshold: Floats | None = None,
) -> CourseOutcome:
    """Judge one course.

    Parameters
    ----------
    simulated
        From `simulate_population`, its times counted from the infusion: `Ts`, `Tr`, `mprotein`, `cart` (patient, time),
        and `cumhaz` where progression follows the hazard. The grid has every visit (`judgement.judgement_days`).
    follow_up
        Days of follow-up.
    death_days
        Days to death without relapse, (n,).
    rules
        Thresholds of response and visits.
    hazard_threshold
        Standard exponential numbers (n,): progression comes when the hazard accumulated since the start
        exceeds them, and is found at the next visit. M-protein rules when None.

    Returns
    -------
    CourseOutcome
    """
    sensitive, low, protein, cart = (_array(simulated, name) for name in ("Ts", "Tr", "mprotein", "cart"))
    hazard = [] if hazard_threshold is None else [_array(simulated, "cumhaz")]
    found = judge(
        trajectories=np.stack([protein, sensitive + low, low, cart, *hazard], axis=-1),
        columns=_WITH_HAZARD if hazard else _COLUMNS,
        since=simulated["time"].to_numpy(),
        follow_up=follow_up,
        death_days=death_days,
        rules=rules,
        hazard_threshold=hazard_threshold,
    )
    return CourseOutcome(**vars(found), cure_chance=np.full(death_days.size, np.nan, dtype=np.float32))


def chance_of_cure(simulated: xr.Dataset, parameters: Mapping[str, Floats]) -> Floats:
    """Chance (n,) that no myeloma cell is left by the end of a course, of which `Ts` and `Tr` are read."""
    sensitive, low = (np.log(np.maximum(_array(simulated, name), FEWEST_CELLS)) for name in ("Ts", "Tr"))
    times = simulated["time"].to_numpy()
    return extinction_chance(times=times, log_sensitive=sensitive, log_low=low, parameters=parameters).both


def _array(simulated: xr.Dataset, name: str) -> Floats:
    return np.asarray(simulated[name].transpose("patient", "time").to_numpy(), dtype=np.float64)


# ----------------------------------------------------------------------------------------------- groups


def classify(first: CourseOutcome) -> Groups:
    """First-response group of each patient, as a place in `scenarios.GROUPS`.

    `non-responder`: best response below PR. Otherwise `antigen-loss` if most of the tumour was BCMA-low at
    relapse, else by first PFS: `early-relapse` (at most 6 months), `intermediate` (6 to 12), `durable`
    (above 12).
    """
    months = first.pfs_days / DAYS_PER_MONTH
    code = {name: np.int8(place) for place, name in enumerate(GROUPS)}
    group = np.where(months <= EARLY_MONTHS, code["early-relapse"], code["intermediate"])
    group[months > DURABLE_MONTHS] = code["durable"]
    group[first.antigen_low > ANTIGEN_LOSS_SHARE] = code["antigen-loss"]
    group[~responded(first)] = code["non-responder"]
    return group


def responded(course: CourseOutcome, at_least: ResponseClass = "PR") -> Flags:
    """Whether a best response reaches a class."""
    return np.asarray(course.best >= Response[at_least])


def selected(first: CourseOutcome, group: Groups, scenario: Scenario) -> Flags:
    """Whom of the patients who progressed a scenario looks at."""
    wanted = scenario.first
    keep = np.ones(group.size, dtype=np.bool_)
    if wanted.response is not None:
        keep &= np.isin(group, [GROUPS.index(name) for name in wanted.response])
    if wanted.pfs_months is not None:
        months = first.pfs_days / DAYS_PER_MONTH
        keep &= (months > wanted.pfs_months[0]) & (months <= wanted.pfs_months[1])
    if wanted.best_at_least is not None:
        keep &= first.best >= Response[wanted.best_at_least]
    if wanted.best_at_most is not None:
        keep &= first.best <= Response[wanted.best_at_most]
    return keep
