"""From simulated trajectories to one line per patient: both courses' responses, durations and exposure.

A first course is judged from day 0, a second from the day of the second infusion (or, in the comparator, from
the day on which it would have been). Death without relapse comes from a clock that belongs to the patient and
not to the arm.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.response import (
    Response,
    ResponseRules,
    assess,
    duration_of_response,
    kinetics,
    progression_free,
)

from .scenarios import Scenario

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Labels = NDArray[np.str_]

#: First PFS that separates early relapse, intermediate and durable responses, months.
EARLY_MONTHS: Final = 6.0
DURABLE_MONTHS: Final = 12.0
#: Share of BCMA-low cells at relapse above which it is called antigen loss.
ANTIGEN_LOSS_SHARE: Final = 0.5
#: Days after an infusion in which its peak is looked for, on a daily grid.
PEAK_DAYS: Final = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class CourseOutcome:
    """One course of n patients; every field has shape (n,), days count from its start.

    Attributes
    ----------
    best : ndarray of str
        Best response, a name of `model.response.Response`.
    evaluable : ndarray of bool
        Whether a class could be given.
    response_days : ndarray
        To the first response (at least PR); +inf without one.
    progression_days : ndarray
        To progression; +inf if none was seen, NaN if it cannot be judged.
    mrd5, mrd6 : ndarray of bool
        MRD-negative at 1e-5, 1e-6 at a visit before progression.
    pfs_days : ndarray
        To progression, death or the end of follow-up.
    pfs_event : ndarray of str
        `progression`, `death` or `none` (still free of both at the end of follow-up).
    dor_days : ndarray
        From the first response to progression, death or the end of follow-up; NaN without a response.
    cmax, tmax, auc28 : ndarray
        Peak of all CAR-T (cells/µL), days to it, area to day 28 (cells/µL times days).
    antigen_low : ndarray
        Share of BCMA-low cells in the tumour at progression; NaN without progression.
    """

    best: Labels
    evaluable: Flags
    response_days: Floats
    progression_days: Floats
    mrd5: Flags
    mrd6: Flags
    pfs_days: Floats
    pfs_event: Labels
    dor_days: Floats
    cmax: Floats
    tmax: Floats
    auc28: Floats
    antigen_low: Floats


def read_course(
    simulated: xr.Dataset,
    *,
    start: Floats,
    follow_up: float,
    death_days: Floats,
    rules: ResponseRules,
    hazard_threshold: Floats | None = None,
) -> CourseOutcome:
    """Judge one course.

    Parameters
    ----------
    simulated
        From `simulate_population`: `Ts`, `Tr`, `mprotein`, `cart` (patient, time), and `cumhaz` where
        progression follows the hazard.
    start
        Day of the infusion on the clock of `simulated`, (n,).
    follow_up
        Days of follow-up.
    death_days
        Days from the start to death without relapse, (n,).
    rules
        Thresholds of response; its `visit_interval` sets the visits.
    hazard_threshold
        Standard exponential numbers (n,): progression comes when the hazard accumulated since the start
        exceeds them, and is found at the next visit. M-protein rules when None.

    Returns
    -------
    CourseOutcome
    """
    times = simulated["time"].to_numpy().astype(np.float64)
    sensitive, low = (simulated[name].transpose("patient", "time").to_numpy() for name in ("Ts", "Tr"))
    protein, cart = (simulated[name].transpose("patient", "time").to_numpy() for name in ("mprotein", "cart"))
    burden = sensitive + low
    end = start + follow_up
    until = np.minimum(end, start + death_days)
    hazard_progression: Floats | None = None
    if hazard_threshold is not None:
        accumulated = simulated["cumhaz"].transpose("patient", "time").to_numpy()
        hazard_progression = _first_visit_beyond(times, accumulated, start, hazard_threshold, follow_up, rules)
        # visits from progression on count for nothing, whoever found it
        until = np.minimum(until, start + hazard_progression - 0.5 * rules.visit_interval)
    assessment = assess(times=times, mprotein=protein, burden=burden, start=start, until=until, rules=rules)
    failed = ~np.isfinite(burden).all(axis=1)
    if hazard_progression is None:
        progression = assessment.time_to_progression
        best = assessment.best
    else:
        progression = hazard_progression
        # progression at the first visit leaves no visit before it: that is PD
        at_once = hazard_progression <= rules.visit_interval * (1 + 1e-9)
        best = np.where(at_once, np.int8(Response.PD), assessment.best)
    best = np.where(failed, np.int8(Response.NOT_EVALUABLE), best)
    progression = np.where(failed, np.nan, progression)
    known = np.where(np.isnan(progression), np.inf, progression)
    pfs, _ = progression_free(known, death_days, follow_up)
    event = np.where(known <= np.minimum(death_days, follow_up), "progression", "none")
    event = np.where((death_days < known) & (death_days <= follow_up), "death", event)
    response = np.where(np.isnan(assessment.time_to_response), np.inf, assessment.time_to_response)
    duration, _ = duration_of_response(response, known, death_days, follow_up)
    # on each patient's own clock, so that the grid days of others leave the area's last digit alone
    since = np.arange(PEAK_DAYS + 1.0)
    exposure = kinetics(since, _on_days(times, cart, start[:, None] + since))
    return CourseOutcome(
        best=np.array([Response(int(code)).name for code in best], dtype=np.str_),
        evaluable=np.asarray(best >= Response.PD),
        response_days=response,
        progression_days=progression,
        mrd5=assessment.mrd5,
        mrd6=assessment.mrd6,
        pfs_days=np.where(failed, np.nan, pfs),
        pfs_event=event.astype(np.str_),
        dor_days=duration,
        cmax=exposure.cmax,
        tmax=exposure.tmax,
        auc28=exposure.auc,
        antigen_low=_share_at(times, sensitive, low, start + progression),
    )


def _first_visit_beyond(
    times: Floats,
    accumulated: Floats,
    start: Floats,
    threshold: Floats,
    follow_up: float,
    rules: ResponseRules,
) -> Floats:
    """Days from the start to the first visit at which the accumulated hazard exceeds the threshold.

    It counts from `EARLY` days after the start, where the model resets it at an infusion: before that, a
    tumour that the infused cells have yet to reach would look like progression.
    """
    count = int(np.floor(follow_up / rules.visit_interval + 1e-9))
    days = rules.visit_interval * np.arange(1, count + 1)
    days = days[days > EARLY]
    found = np.full(start.size, np.inf)
    for i in range(start.size):
        origin = np.interp(start[i] + EARLY, times, accumulated[i])
        since = np.interp(start[i] + days, times, accumulated[i]) - origin
        beyond = np.flatnonzero(since >= threshold[i])
        if beyond.size:
            found[i] = days[beyond[0]]
    return found


def _share_at(times: Floats, sensitive: Floats, low: Floats, when: Floats) -> Floats:
    """Share of BCMA-low cells on the last grid day at or before `when`; NaN where `when` is not finite."""
    there = np.isfinite(when)
    place = np.clip(np.searchsorted(times, np.where(there, when, times[0]), side="right") - 1, 0, None)
    rows = np.arange(when.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = low[rows, place] / (sensitive[rows, place] + low[rows, place])
    return np.where(there, share, np.nan)


def at_day(simulated: xr.Dataset, name: str, day: Floats) -> Floats:
    """Value of a variable on the last grid day at or before a day per patient, (n,)."""
    times = simulated["time"].to_numpy().astype(np.float64)
    values = simulated[name].transpose("patient", "time").to_numpy()
    return _on_days(times, values, day[:, None])[:, 0]


def _on_days(times: Floats, values: Floats, days: Floats) -> Floats:
    """Values (n, T) on the last grid day at or before days (n, m)."""
    place = np.clip(np.searchsorted(times, days, side="right") - 1, 0, None)
    return np.asarray(np.take_along_axis(values, place, axis=1), dtype=np.float64)


# ----------------------------------------------------------------------------------------------- groups


def classify(first: CourseOutcome) -> Labels:
    """First-response group of each patient.

    `non-responder`: best response below PR. Otherwise `antigen-loss` if most of the tumour was BCMA-low at
    relapse, else by first PFS: `early-relapse` (at most 6 months), `intermediate` (6 to 12), `durable`
    (above 12).
    """
    months = first.pfs_days / DAYS_PER_MONTH
    group = np.where(months <= EARLY_MONTHS, "early-relapse", "intermediate").astype("<U16")
    group[months > DURABLE_MONTHS] = "durable"
    group[first.antigen_low > ANTIGEN_LOSS_SHARE] = "antigen-loss"
    group[~responded(first.best)] = "non-responder"
    return group.astype(np.str_)


def responded(best: Labels, at_least: Literal["MR", "PR", "VGPR", "CR", "SCR"] = "PR") -> Flags:
    """Whether a best response reaches a class."""
    reached = [response.name for response in Response if response >= Response[at_least]]
    return np.isin(best, reached)


def selected(first: CourseOutcome, group: Labels, scenario: Scenario) -> Flags:
    """Whom of the patients who progressed a scenario looks at."""
    wanted = scenario.first
    keep = np.ones(group.size, dtype=np.bool_)
    if wanted.response is not None:
        keep &= np.isin(group, wanted.response)
    if wanted.pfs_months is not None:
        months = first.pfs_days / DAYS_PER_MONTH
        keep &= (months > wanted.pfs_months[0]) & (months <= wanted.pfs_months[1])
    rank = np.array([int(Response[name]) for name in first.best])
    if wanted.best_at_least is not None:
        keep &= rank >= Response[wanted.best_at_least]
    if wanted.best_at_most is not None:
        keep &= rank <= Response[wanted.best_at_most]
    return keep
