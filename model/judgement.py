"""Courses of many patients judged at once: response, progression, MRD, durations, expansion.

`judge` is compiled and makes one pass over each patient's trajectory; `judge_plainly` says the same in the words of
`model.response`, slowly, and tests hold the two equal. Both read one course on the clock of its infusion, on a grid
that all patients share and that holds every visit (`judgement_days` makes one).

What comes on top of `model.response`: death ends a course, and what follows it counts for nothing; progression may
follow the model's hazard instead of M-protein; exposure and the antigen at progression stand beside the response.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .equations.bcma import EARLY
from .errors import ReinfuseError
from .kernels import judge as kernel
from .response import (
    ROUNDING,
    Response,
    ResponseRules,
    assess,
    crs_proxy,
    duration_of_response,
    kinetics,
    persistence,
    progression_free,
)

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Singles = NDArray[np.float32]
type Codes = NDArray[np.int8]

#: Days after an infusion in which its peak is looked for.
PEAK_DAYS: Final = 60.0
#: Days of the area under the curve.
AUC_DAYS: Final = 28.0


class Event(IntEnum):
    """What ended progression-free survival; NONE: free of both at the end of follow-up."""

    NONE = kernel.NONE
    PROGRESSION = kernel.PROGRESSION
    DEATH = kernel.DEATH


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where the variables lie along the last axis of the trajectories.

    Attributes
    ----------
    mprotein : int
        Serum M-protein, g/dL.
    burden, low : int
        All myeloma cells and the BCMA-low ones among them, whole body.
    cart : int
        CAR+ cells/µL.
    cumhaz : int, optional
        Cumulative hazard of progression; needed where progression follows it.
    """

    mprotein: int
    burden: int
    low: int
    cart: int
    cumhaz: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """One course of n patients; every field has shape (n,), days count from the infusion.

    A patient whose burden is not finite throughout was not solved: NOT_EVALUABLE, no event, NaN for progression and
    survival, nothing reached. Where progression follows M-protein and its baseline is not measurable, nobody would see
    progression: no event either, and NaN for progression and survival; MRD is read from the marrow all the same.
    Exposure is judged by itself.

    Attributes
    ----------
    best : ndarray of int8
        Best `Response` before progression.
    evaluable : ndarray of bool
        Whether a class could be given.
    response_days : ndarray of float32
        To the first response (at least PR); +inf without one.
    progression_days : ndarray of float32
        To the visit in life that finds progression; +inf if none does, NaN if it cannot be judged.
    mrd5, mrd6 : ndarray of bool
        MRD-negative at the two limits at a visit before progression.
    mrd5_days, mrd6_days : ndarray of float32
        To the first such visit; +inf without one.
    pfs_days : ndarray of float32
        To progression, death or the end of follow-up; NaN if progression cannot be told.
    pfs_event : ndarray of int8
        Which `Event` that was.
    dor_days : ndarray of float32
        From the first response to the end of `pfs_days`; NaN without a response.
    cmax, tmax, auc28 : ndarray of float32
        Peak of CAR+ cells (cells/µL) in the first `PEAK_DAYS` days, days to it, area to day 28 (cells/µL times days).
        NaN where they cannot be told.
    persistence_days : ndarray of float32
        Last grid day, in life and in the follow-up, at or above `flow_limit`; 0 if none, NaN if it cannot be told.
    crs_proxy : ndarray of float32
        `reinfuse.model.response.crs_proxy` of `cmax`: a rank of expansion between 0 and 1, no probability.
    antigen_low : ndarray of float32
        Share of BCMA-low cells in the tumour at progression; NaN without progression.
    deepest : ndarray of float32
        Lowest M-protein over the baseline at visits up to and with progression; NaN where it cannot be told.
    """

    best: Codes
    evaluable: Flags
    response_days: Singles
    progression_days: Singles
    mrd5: Flags
    mrd6: Flags
    mrd5_days: Singles
    mrd6_days: Singles
    pfs_days: Singles
    pfs_event: Codes
    dor_days: Singles
    cmax: Singles
    tmax: Singles
    auc28: Singles
    persistence_days: Singles
    crs_proxy: Singles
    antigen_low: Singles
    deepest: Singles


def judgement_days(*, follow_up: float, rules: ResponseRules | None = None) -> Floats:
    """Days since an infusion at which trajectories are needed to judge it.

    Parameters
    ----------
    follow_up : float
        Days of follow-up.
    rules : ResponseRules, optional
        Gives the visits.

    Returns
    -------
    ndarray, shape (T,)
        Daily to `PEAK_DAYS`, all visits, and the last day of follow-up.

    Raises
    ------
    ReinfuseError
        If `follow_up` is not positive and finite.
    """
    rules = ResponseRules() if rules is None else rules
    _check_follow_up(follow_up)
    daily = np.arange(0.0, min(PEAK_DAYS, follow_up) + 1.0)
    visits = rules.schedule(follow_up)
    days = np.unique(np.concatenate([daily, visits, [follow_up]]))
    return np.asarray(days[days <= max(follow_up, visits.max(initial=0.0))])


def judge(
    *,
    trajectories: Floats,
    columns: Columns,
    since: ArrayLike,
    follow_up: float,
    death_days: ArrayLike,
    rules: ResponseRules | None = None,
    hazard_threshold: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
) -> Judgement:
    """Judge one course of n patients, compiled, on all threads of Numba.

    Parameters
    ----------
    trajectories : ndarray of float64, shape (n, T, R)
        From the infusion on; only the columns named are read. Nothing is written, and nothing is copied if the array
        is in C order and may be written (other arrays are copied: the kernel is compiled for one kind).
    columns : Columns
        Where they are.
    since : array_like, shape (T,)
        Days since the infusion, from 0, rising; every visit day is one of them.
    follow_up : float
        Days of follow-up, within `since`.
    death_days : float or array_like, shape (n,)
        Days to death without relapse; +inf: never.
    rules : ResponseRules, optional
        Thresholds and visits.
    hazard_threshold : array_like, shape (n,), optional
        Standard exponential numbers: progression comes when the hazard accumulated since day `EARLY` exceeds them,
        and is found at the next visit. M-protein rules if left out.
    baseline : array_like, shape (n,), optional
        M-protein that ratios refer to, g/dL; its value on day 0 if left out.

    Returns
    -------
    Judgement

    Raises
    ------
    ReinfuseError
        If shapes, columns or days do not fit, or a visit is missing from `since`.
    """
    task = _Task.checked(trajectories, columns, since, follow_up, death_days, rules, hazard_threshold, baseline)
    numbers = np.empty((kernel.NUMBERS, task.n), dtype=np.float32)
    codes = np.empty((kernel.CODES, task.n), dtype=np.int8)
    kernel.judge(
        task.trajectories,
        _places(columns),
        task.since,
        task.visit_days,
        np.searchsorted(task.since, task.visit_days),
        task.death_days,
        np.empty(0) if task.threshold is None else task.threshold,
        np.empty(0) if task.baseline is None else task.baseline,
        task.follow_up,
        _flat(task.rules),
        numbers,
        codes,
    )
    return Judgement(
        best=codes[kernel.BEST],
        evaluable=codes[kernel.EVALUABLE].view(np.bool_),
        response_days=numbers[kernel.RESPONSE_DAYS],
        progression_days=numbers[kernel.PROGRESSION_DAYS],
        mrd5=codes[kernel.MRD5].view(np.bool_),
        mrd6=codes[kernel.MRD6].view(np.bool_),
        mrd5_days=numbers[kernel.MRD5_DAYS],
        mrd6_days=numbers[kernel.MRD6_DAYS],
        pfs_days=numbers[kernel.PFS_DAYS],
        pfs_event=codes[kernel.PFS_EVENT],
        dor_days=numbers[kernel.DOR_DAYS],
        cmax=numbers[kernel.CMAX],
        tmax=numbers[kernel.TMAX],
        auc28=numbers[kernel.AUC28],
        persistence_days=numbers[kernel.PERSISTENCE_DAYS],
        crs_proxy=numbers[kernel.CRS_PROXY],
        antigen_low=numbers[kernel.ANTIGEN_LOW],
        deepest=numbers[kernel.DEEPEST],
    )


def judge_plainly(
    *,
    trajectories: Floats,
    columns: Columns,
    since: ArrayLike,
    follow_up: float,
    death_days: ArrayLike,
    rules: ResponseRules | None = None,
    hazard_threshold: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
) -> Judgement:
    """As `judge`, in NumPy and the words of `model.response`: to be read, and to test the other against."""
    task = _Task.checked(trajectories, columns, since, follow_up, death_days, rules, hazard_threshold, baseline)
    protein, burden, low, cart = (
        task.trajectories[:, :, c] for c in (columns.mprotein, columns.burden, columns.low, columns.cart)
    )
    death, visit_days = task.death_days, task.visit_days
    solved = np.isfinite(burden).all(axis=1)

    until = np.minimum(task.follow_up, death)
    found = np.full(task.n, np.inf)
    if task.threshold is not None and columns.cumhaz is not None:
        found = _found_by_hazard(task, task.trajectories[:, :, columns.cumhaz], task.threshold)
        # visits from progression on count for nothing, whoever found it
        earlier = np.concatenate([[0.0], visit_days[:-1]])
        place = np.searchsorted(visit_days, found[np.isfinite(found)])
        until[np.isfinite(found)] = 0.5 * (earlier[place] + visit_days[place])
    assessment = assess(
        times=task.since, mprotein=protein, burden=burden, baseline=task.baseline, until=until, rules=task.rules
    )
    at_once = np.isfinite(found) & (found <= visit_days.min(initial=np.inf))  # no visit before progression: that is PD
    best = np.where(at_once, Response.PD, assessment.best)
    best = np.where(solved, best, Response.NOT_EVALUABLE)
    progression = assessment.progression_day if task.threshold is None else found
    progression = np.where(solved, progression, np.nan)

    measurable = assessment.baseline >= task.rules.measurable * (1 - ROUNDING)
    told = solved & (measurable | (task.threshold is not None))
    known = np.nan_to_num(progression, nan=np.inf, posinf=np.inf)
    pfs, _ = progression_free(known, death, task.follow_up)
    event = np.where((death < known) & (death <= task.follow_up), Event.DEATH, Event.NONE)
    event = np.where(known <= np.minimum(death, task.follow_up), Event.PROGRESSION, event)
    response = np.where(solved & np.isfinite(assessment.response_day), assessment.response_day, np.inf)
    duration, _ = duration_of_response(response, known, death, task.follow_up)
    mrd5_days, mrd6_days = (
        np.where(solved & np.isfinite(day), day, np.inf) for day in (assessment.mrd5_day, assessment.mrd6_day)
    )

    exposure = kinetics(task.since, cart, end=min(PEAK_DAYS, task.since[-1]), auc_days=AUC_DAYS)
    ended = np.fmin(known, assessment.progression_day)
    last_seen = persistence(task.since, cart, end=np.minimum(task.follow_up, death), rules=task.rules)
    return Judgement(
        best=best.astype(np.int8),
        evaluable=np.asarray(best >= Response.PD),
        response_days=response.astype(np.float32),
        progression_days=progression.astype(np.float32),
        mrd5=np.isfinite(mrd5_days),
        mrd6=np.isfinite(mrd6_days),
        mrd5_days=mrd5_days.astype(np.float32),
        mrd6_days=mrd6_days.astype(np.float32),
        pfs_days=np.where(told, pfs, np.nan).astype(np.float32),
        pfs_event=np.where(told, event, Event.NONE).astype(np.int8),
        dor_days=duration.astype(np.float32),
        cmax=exposure.cmax.astype(np.float32),
        tmax=exposure.tmax.astype(np.float32),
        auc28=exposure.auc.astype(np.float32),
        persistence_days=last_seen.astype(np.float32),
        crs_proxy=crs_proxy(exposure.cmax, rules=task.rules).astype(np.float32),
        antigen_low=_share_at(task.since, burden, low, known).astype(np.float32),
        deepest=np.where(solved, _deepest(task, protein, ended), np.nan).astype(np.float32),
    )


# ------------------------------------------------------------------------------------- the readable twin


def _found_by_hazard(task: "_Task", accumulated: Floats, threshold: Floats) -> Floats:
    """Days to the first visit in life at which the hazard since `EARLY` exceeds the threshold; +inf without.

    The model resets its hazard on that day: before it, a tumour that the infused cells have yet to reach would look
    like progression.
    """
    days = task.visit_days[task.visit_days > EARLY]
    found = np.full(task.n, np.inf)
    for i in range(task.n):
        origin = np.interp(EARLY, task.since, accumulated[i])
        beyond = np.interp(days, task.since, accumulated[i]) - origin >= threshold[i]
        if beyond.any():
            found[i] = days[np.argmax(beyond)]
    return np.where(found <= task.death_days, found, np.inf)


def _share_at(since: Floats, burden: Floats, low: Floats, when: Floats) -> Floats:
    """Share of BCMA-low cells on days of the grid; NaN where `when` is not finite."""
    there = np.isfinite(when)
    place = np.searchsorted(since, np.where(there, when, 0.0))
    rows = np.arange(when.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = low[rows, place] / burden[rows, place]
    return np.where(there, share, np.nan)


def _deepest(task: "_Task", protein: Floats, ended: Floats) -> Floats:
    """Lowest M-protein over the baseline at visits in life, up to and with the day progression is found."""
    base = protein[:, 0] if task.baseline is None else task.baseline
    at_visits = protein[:, np.searchsorted(task.since, task.visit_days)]
    alive = np.minimum(task.follow_up, task.death_days) * (1 + ROUNDING) + ROUNDING * task.rules.visit_interval
    seen = task.visit_days <= np.minimum(alive, ended)[:, None]
    told = np.isfinite(base) & (base >= task.rules.measurable * (1 - ROUNDING)) & seen.any(axis=1)
    told &= np.all(~seen | np.isfinite(at_visits), axis=1)
    lowest = np.where(seen, at_visits, np.inf).min(axis=1, initial=np.inf)
    return np.where(told, lowest, np.nan) / np.where(told, base, np.nan)


# ---------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True, eq=False)
class _Task:
    """What is to be judged, checked: shapes agree, days lie on the grid."""

    trajectories: Floats
    since: Floats
    visit_days: Floats
    follow_up: float
    death_days: Floats
    rules: ResponseRules
    threshold: Floats | None
    baseline: Floats | None

    @property
    def n(self) -> int:
        return len(self.trajectories)

    @classmethod
    def checked(
        cls,
        trajectories: Floats,
        columns: Columns,
        since: ArrayLike,
        follow_up: float,
        death_days: ArrayLike,
        rules: ResponseRules | None,
        hazard_threshold: ArrayLike | None,
        baseline: ArrayLike | None,
    ) -> "_Task":
        rules = ResponseRules() if rules is None else rules
        grid = np.array(since, dtype=np.float64)
        _check_follow_up(follow_up)
        _check_grid(grid, follow_up)
        _check_trajectories(trajectories, grid, columns)
        n = trajectories.shape[0]
        if hazard_threshold is not None and columns.cumhaz is None:
            raise ReinfuseError("hazard_threshold is given, but columns.cumhaz is not; name the column of the hazard")
        death = _per_patient("death_days", death_days, n)
        if not np.all(death >= 0):
            raise ReinfuseError(f"death_days is {death[~(death >= 0)][0]:g}; count days from the infusion, >= 0 or inf")
        visit_days = rules.schedule(follow_up)
        absent = visit_days[~np.isin(visit_days, grid)]
        if absent.size:
            raise ReinfuseError(
                f"the visit of day {absent[0]:g} is not in `since`; put every visit on the grid (`judgement_days`)"
            )
        return cls(
            trajectories=np.require(trajectories, requirements=["C", "W"]),  # what the kernel is compiled for
            since=grid,
            visit_days=visit_days,
            follow_up=float(follow_up),
            death_days=death,
            rules=rules,
            threshold=None if hazard_threshold is None else _per_patient("hazard_threshold", hazard_threshold, n),
            baseline=None if baseline is None else _per_patient("baseline", baseline, n),
        )


def _check_follow_up(follow_up: float) -> None:
    if not (np.isfinite(follow_up) and follow_up > 0):
        raise ReinfuseError(f"follow_up is {follow_up}; give a number of days > 0")


def _check_grid(grid: Floats, follow_up: float) -> None:
    if grid.ndim != 1 or grid.size < 2:
        raise ReinfuseError(f"since has shape {grid.shape}; give at least two days in one row")
    if not (grid[0] == 0 and np.all(np.isfinite(grid)) and np.all(np.diff(grid) > 0)):
        raise ReinfuseError(f"since starts on day {grid[0]:g}; give days that rise strictly from 0, all finite")
    if follow_up > grid[-1]:
        raise ReinfuseError(f"follow_up is {follow_up:g} days, since ends on day {grid[-1]:g}; simulate for longer")


def _check_trajectories(trajectories: Floats, grid: Floats, columns: Columns) -> None:
    if trajectories.ndim != 3 or trajectories.shape[1] != grid.size or trajectories.dtype != np.float64:
        raise ReinfuseError(
            f"trajectories has shape {trajectories.shape} of {trajectories.dtype}, since has {grid.size} days; "
            "give float64 of shape (patients, days, variables)"
        )
    for name, column in vars(columns).items():
        if column is not None and not 0 <= column < trajectories.shape[2]:
            raise ReinfuseError(
                f"columns.{name} is {column}, trajectories has {trajectories.shape[2]} variables; count from 0"
            )


def _per_patient(name: str, value: ArrayLike, n: int) -> Floats:
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.shape not in ((), (n,)):
        raise ReinfuseError(f"{name} has shape {numbers.shape} for {n} patients; give one number or one each")
    return np.array(np.broadcast_to(numbers, (n,)))  # a copy: the kernel is compiled for arrays that may be written


def _places(columns: Columns) -> NDArray[np.int64]:
    """Columns in the kernel's order."""
    places = np.full(kernel.COLUMNS, -1, dtype=np.int64)
    places[kernel.MPROTEIN], places[kernel.BURDEN] = columns.mprotein, columns.burden
    places[kernel.LOW], places[kernel.CART] = columns.low, columns.cart
    if columns.cumhaz is not None:
        places[kernel.CUMHAZ] = columns.cumhaz
    return places


def _flat(rules: ResponseRules) -> Floats:
    """Rules in the kernel's order, limits of the marrow in cells."""
    flat = np.empty(kernel.RULES)
    flat[kernel.MR_RATIO] = rules.mr_ratio
    flat[kernel.PR_RATIO] = rules.pr_ratio
    flat[kernel.VGPR_RATIO] = rules.vgpr_ratio
    flat[kernel.CR_MPROTEIN] = rules.cr_mprotein
    flat[kernel.CR_CELLS] = rules.cr_marrow * rules.marrow_cells
    flat[kernel.SCR_CELLS] = rules.scr_marrow * rules.marrow_cells
    flat[kernel.MRD5_CELLS] = rules.mrd_shallow * rules.marrow_cells
    flat[kernel.MRD6_CELLS] = rules.mrd_deep * rules.marrow_cells
    flat[kernel.PD_RATIO] = rules.pd_ratio
    flat[kernel.PD_RISE] = rules.pd_rise
    flat[kernel.PD_RISE_HIGH] = rules.pd_rise_high
    flat[kernel.PD_HIGH_NADIR] = rules.pd_high_nadir
    flat[kernel.MEASURABLE] = rules.measurable
    flat[kernel.CONFIRM_RESPONSE] = rules.confirm_response
    flat[kernel.CONFIRM_PROGRESSION] = rules.confirm_progression
    flat[kernel.VISIT_SLACK] = ROUNDING * rules.visit_interval
    flat[kernel.EARLY] = EARLY
    flat[kernel.PEAK_DAYS] = PEAK_DAYS
    flat[kernel.AUC_DAYS] = AUC_DAYS
    flat[kernel.FLOW_LIMIT] = rules.flow_limit
    flat[kernel.CRS_CMAX] = rules.crs_cmax
    flat[kernel.CRS_SLOPE] = rules.crs_slope
    return flat
