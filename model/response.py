"""What a clinic would say of a simulated course: response class, MRD, progression, durations, kinetics.

IMWG rules on serum M-protein at scheduled visits, with the marrow read from the whole-body burden.
Trajectories in, one answer per patient out; all days are on the clock of `times` unless a name says
`time_to` or `duration`. `model.judgement` does the same for many patients at once, compiled.

What is not modelled: urine, free light chains, marrow and extramedullary progression. Stringent CR is CR with
a marrow in which flow cytometry of low sensitivity sees no clone; the ratio of free light chains is left out.
Reappearance of M-protein after CR is relapse from CR, not progression, until the rules for progression are
met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ReinfuseError

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]

#: Comparisons with a ratio or a visit's day forgive this relative rounding, so that 0.07 g/dL is 10 % of 0.7 g/dL.
ROUNDING: Final = 1e-9


class Response(IntEnum):
    """IMWG best response, worst to best; negative where there is none to give.

    `NOT_EVALUABLE`: no visit, or a trajectory that is not finite. `UNMEASURABLE`: baseline M-protein below
    the measurable limit, so that no ratio means anything.
    """

    NOT_EVALUABLE = -2
    UNMEASURABLE = -1
    PD = 0
    SD = 1
    MR = 2
    PR = 3
    VGPR = 4
    CR = 5
    SCR = 6


@dataclass(frozen=True, kw_only=True)
class ResponseRules:
    """Thresholds of response and of expansion; `RULE_SOURCES` says where each comes from.

    Attributes
    ----------
    visit_interval : float
        Days between visits.
    visit_days : tuple of float
        Days of the first visits since the infusion, rising; later ones follow every `visit_interval` days. Empty:
        every `visit_interval` days from the infusion on.
    mr_ratio, pr_ratio, vgpr_ratio : float
        M-protein over baseline at or below which the class is reached.
    cr_mprotein : float
        g/dL below which immunofixation is taken to be negative.
    cr_marrow : float
        Share of nucleated marrow cells below which CR is possible.
    scr_marrow : float
        Share of nucleated marrow cells below which CR is stringent: no clone by flow of low sensitivity.
    marrow_cells : float
        Nucleated marrow cells of the whole body.
    mrd_shallow, mrd_deep : float
        MRD limits as shares of marrow cells (`mrd5`, `mrd6`).
    pd_ratio : float
        M-protein over nadir at or above which progression is possible, and
    pd_rise, pd_rise_high : float
        g/dL above the nadir that it takes too; the second from a nadir of
    pd_high_nadir : float
        g/dL upwards.
    measurable : float
        g/dL of baseline M-protein from which response can be judged.
    confirm_response, confirm_progression : bool
        Whether a class better than SD, or progression, has to hold at the next visit too. It is dated at the
        first of the two.
    flow_limit : float
        CAR+ cells/µL that flow cytometry can just see; ends `persistence`.
    crs_cmax, crs_slope : float
        Peak of CAR+ cells/µL at which `crs_proxy` is one half, and its steepness in ln Cmax.

    Raises
    ------
    ReinfuseError
        If a threshold is not positive and finite, ratios or limits are not in order, or visits do not rise.
    """

    visit_interval: float = 28.0
    visit_days: tuple[float, ...] = ()
    mr_ratio: float = 0.75
    pr_ratio: float = 0.5
    vgpr_ratio: float = 0.1
    cr_mprotein: float = 0.05
    cr_marrow: float = 0.05
    scr_marrow: float = 1e-4
    marrow_cells: float = 1e12
    mrd_shallow: float = 1e-5
    mrd_deep: float = 1e-6
    pd_ratio: float = 1.25
    pd_rise: float = 0.5
    pd_rise_high: float = 1.0
    pd_high_nadir: float = 5.0
    measurable: float = 0.5
    confirm_response: bool = True
    confirm_progression: bool = False
    flow_limit: float = 1.0
    crs_cmax: float = 500.0
    crs_slope: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool | tuple):
                continue
            if not (np.isfinite(value) and value > 0):
                raise ReinfuseError(f"response rules: {name} is {value}; give a finite number > 0")
        days = np.array([0.0, *self.visit_days])
        if not (np.all(np.isfinite(days)) and np.all(np.diff(days) > 0)):
            raise ReinfuseError(
                f"response rules: visit_days are {self.visit_days}; give days since the infusion, > 0 and rising"
            )
        if not self.vgpr_ratio < self.pr_ratio < self.mr_ratio < 1:
            raise ReinfuseError(
                f"response rules: ratios VGPR {self.vgpr_ratio}, PR {self.pr_ratio}, MR {self.mr_ratio}; "
                "each must lie below the next, and MR below 1"
            )
        if self.pd_ratio <= 1:
            raise ReinfuseError(f"response rules: pd_ratio is {self.pd_ratio}; give a rise, above 1")
        if self.mrd_deep > self.mrd_shallow:
            raise ReinfuseError(
                f"response rules: mrd_deep {self.mrd_deep} is above mrd_shallow {self.mrd_shallow}; swap them"
            )
        if self.scr_marrow > self.cr_marrow:
            raise ReinfuseError(
                f"response rules: scr_marrow {self.scr_marrow} is above cr_marrow {self.cr_marrow}; "
                "a stringent CR takes the cleaner marrow"
            )

    def schedule(self, length: float) -> Floats:
        """Days of the visits since the infusion, (v,), up to and with the day `length`."""
        return visits(0.0, length, self.visit_interval, self.visit_days)


_IMWG: Final = "READ: IMWG criteria as tabulated in PMC9954856 table 1 and PMC2627786 table 5"

RULE_SOURCES: Final = MappingProxyType(
    {
        "visit_interval": "ASSUMED, monthly visits",
        "visit_days": "ASSUMED none of their own: the same interval throughout",
        "mr_ratio": f"{_IMWG} (a fall of at least 25 %)",
        "pr_ratio": f"{_IMWG} (a fall of at least 50 %)",
        "vgpr_ratio": f"{_IMWG} (a fall of at least 90 %)",
        "cr_mprotein": "ASSUMED detection limit of immunofixation",
        "cr_marrow": f"{_IMWG} (fewer than 5 % plasma cells)",
        "scr_marrow": "ASSUMED sensitivity of the flow cytometry that sCR asks for, 1 in 1e4 cells",
        "marrow_cells": "RECALLED order of magnitude",
        "mrd_shallow": f"{_IMWG} (1 in 1e5 nucleated marrow cells)",
        "mrd_deep": "ASSUMED second limit, ten times deeper",
        "pd_ratio": f"{_IMWG} (25 % above the nadir)",
        "pd_rise": f"{_IMWG} (and at least 0.5 g/dL)",
        "pd_rise_high": f"{_IMWG} (at least 1 g/dL from a high nadir)",
        "pd_high_nadir": f"{_IMWG} (nadir of 5 g/dL or more)",
        "measurable": "READ: CARTITUDE-4 took 0.5 to 1 g/dL; the lower figure",
        "confirm_response": f"{_IMWG} (two consecutive assessments)",
        "confirm_progression": "ASSUMED off: the first visit that meets the rules dates progression",
        "flow_limit": "ASSUMED: CAR+ cells are seen from 0.1 % of CD3+ cells on, of which there are 1000/µL",
        "crs_cmax": "ASSUMED: between the reference model's median peaks of ide-cel (424/µL) and cilta-cel (796/µL)",
        "crs_slope": "ASSUMED: the odds rise in proportion to the peak",
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """Response of n patients to one infusion; every field has shape (n,).

    Attributes
    ----------
    start : ndarray
        Day of the infusion.
    baseline : ndarray
        M-protein that ratios refer to, g/dL.
    best : ndarray of int8
        Best `Response` before progression.
    response_day : ndarray
        First visit at PR or better; +inf if never, NaN if not evaluable or unmeasurable.
    progression_day : ndarray
        Visit at which progression is found; +inf if none by the end, NaN as above.
    mrd5, mrd6 : ndarray of bool
        Whether burden was below the limit at a visit before progression. Unmeasurable patients are judged
        too; patients who are not evaluable are False.
    mrd5_day, mrd6_day : ndarray
        First such visit; +inf if none, NaN if not evaluable.
    """

    start: Floats
    baseline: Floats
    best: NDArray[np.int8]
    response_day: Floats
    progression_day: Floats
    mrd5: Flags
    mrd5_day: Floats
    mrd6: Flags
    mrd6_day: Floats

    @property
    def evaluable(self) -> Flags:
        """Whether a class could be given; the denominator of response rates."""
        return np.asarray(self.best >= Response.PD)

    @property
    def labels(self) -> NDArray[np.str_]:
        """Names of `best`."""
        return np.array([Response(code).name for code in self.best.tolist()], dtype=np.str_)

    @property
    def time_to_response(self) -> Floats:
        """Days from the infusion to the first response, +inf or NaN as `response_day`."""
        return self.response_day - np.where(np.isfinite(self.start), self.start, 0.0)

    @property
    def time_to_progression(self) -> Floats:
        """Days from the infusion to progression, +inf or NaN as `progression_day`."""
        return self.progression_day - np.where(np.isfinite(self.start), self.start, 0.0)

    def at_least(self, response: Response) -> Flags:
        """Tell who reached a class or better (False for patients without one: see `evaluable`)."""
        return np.asarray(self.best >= response)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kinetics:
    """Exposure of n patients to one infusion; every field has shape (n,), NaN where it cannot be told.

    Attributes
    ----------
    cmax : ndarray
        Highest value in the window, unit of the trajectory.
    tmax : ndarray
        Days from the infusion to it.
    auc : ndarray
        Area under the curve from the infusion over the window asked for, unit times days. NaN if the window
        ends after the patient's trajectory.
    tlast : ndarray
        Days from the infusion to the last grid point at or above the limit of quantification; NaN if there is
        none.
    """

    cmax: Floats
    tmax: Floats
    auc: Floats
    tlast: Floats


# ---------------------------------------------------------------------------------------------- visits


def visits(start: ArrayLike, until: ArrayLike, every: float = 28.0, first: Sequence[float] = ()) -> Floats:
    """Days of scheduled visits after an infusion.

    Parameters
    ----------
    start, until : float or array_like, shape (n,)
        Day of the infusion (not a visit) and last day of follow-up (a visit if it falls on one).
    every : float
        Days between visits.
    first : sequence of float
        Days of the first visits since the infusion, rising; the interval counts from the last of them.

    Returns
    -------
    ndarray, shape (v,) for two numbers, else (n, v)
        None if `until` comes before the first visit. Patients with fewer visits, or a start that is not
        finite, are filled up with NaN.

    Raises
    ------
    ReinfuseError
        If `every` is not positive, or a finite start has an infinite end.
    """
    if not (np.isfinite(every) and every > 0):
        raise ReinfuseError(f"visit interval is {every}; give a number of days > 0")
    begin, end = np.broadcast_arrays(np.asarray(start, dtype=np.float64), np.asarray(until, dtype=np.float64))
    if np.any(np.isfinite(begin) & np.isposinf(end)):
        raise ReinfuseError("visits without an end: `until` is inf; give the last day of follow-up")
    known = np.isfinite(begin) & np.isfinite(end)
    length = np.where(known, end, 0.0) - np.where(known, begin, 0.0)
    reach = np.where(known, length * (1 + ROUNDING) + ROUNDING * every, 0.0)
    offsets = _offsets(float(reach.max(initial=0.0)), every, first)
    due = known[..., None] & (offsets <= reach[..., None])
    return np.asarray(np.where(known, begin, 0.0)[..., None] + np.where(due, offsets, np.nan))


def _offsets(reach: float, every: float, first: Sequence[float]) -> Floats:
    """Days of visits since an infusion, not beyond the day `reach`."""
    own = np.array(first, dtype=np.float64)
    last = own[-1] if own.size else 0.0
    steps = np.arange(1, max(int((reach - last) // every) + 2, 1), dtype=np.float64)
    days = np.concatenate([own, last + every * steps])
    return days[days <= reach]


def _at(times: Floats, values: Floats, when: Floats) -> Floats:
    """Interpolate (n, T) linearly at (n, v); NaN stays NaN, days beyond the grid take its last value."""
    right = np.clip(np.searchsorted(times, when, side="left"), 1, times.size - 1)
    left = right - 1
    share = np.clip((when - times[left]) / (times[right] - times[left]), 0.0, 1.0)
    low = np.take_along_axis(values, left, axis=1)
    high = np.take_along_axis(values, right, axis=1)
    # a grid point takes its own value, so that a jump or a NaN next to it cannot leak in
    with np.errstate(invalid="ignore"):  # inf - inf: not finite, hence not evaluable
        mixed = low + share * (high - low)
    return np.asarray(np.where(share == 1.0, high, np.where(share == 0.0, low, mixed)))


# -------------------------------------------------------------------------------------------- response


def assess(
    *,
    times: ArrayLike,
    mprotein: ArrayLike,
    burden: ArrayLike,
    start: ArrayLike = 0.0,
    baseline: ArrayLike | None = None,
    until: ArrayLike | None = None,
    rules: ResponseRules | None = None,
) -> Assessment:
    """Judge response, MRD and progression after one infusion.

    M-protein is read at visits by linear interpolation, burden by linear interpolation of its logarithm. The
    nadir runs over the baseline and all earlier visits. Visits from progression on do not count for anything.

    Parameters
    ----------
    times : array_like, shape (T,)
        Days, rising.
    mprotein : array_like, shape (n, T) or (T,)
        Serum M-protein, g/dL.
    burden : array_like, shape (n, T) or (T,)
        Myeloma cells, whole body.
    start : float or array_like, shape (n,)
        Day of the infusion; NaN or inf: the patient did not get it (not evaluable).
    baseline : array_like, shape (n,), optional
        M-protein that ratios refer to; its value at `start` if left out.
    until : float or array_like, shape (n,), optional
        Last day that counts (for example that of the next infusion); the end of `times` if left out.
    rules : ResponseRules, optional

    Returns
    -------
    Assessment

    Raises
    ------
    ReinfuseError
        If shapes disagree, times do not rise, or start or until lie outside `times`.
    """
    rules = ResponseRules() if rules is None else rules
    clock, (protein, cells) = _trajectories(times, mprotein=mprotein, burden=burden)
    n = protein.shape[0]
    begin = _per_patient("start", start, n)
    given = np.isfinite(begin)
    end = np.full(n, clock[-1]) if until is None else _per_patient("until", until, n)
    _within(clock, "start", begin[given])
    _within(clock, "until", end[given])

    origin = np.where(given, begin, clock[0])
    at_start = _at(clock, protein, origin[:, None])[:, 0]
    base = at_start if baseline is None else _per_patient("baseline", baseline, n)
    base = np.where(given, base, np.nan)

    when = visits(begin, np.where(given, end, np.nan), rules.visit_interval, rules.visit_days)
    due = ~np.isnan(when)
    safe = np.where(due, when, clock[0])
    value = np.where(due, _at(clock, protein, safe), np.nan)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(cells, 0.0))
    tumour = np.where(due, _at(clock, np.maximum(logs, -700.0), safe), np.nan)  # ln cells

    whole = np.isfinite(base) & due.any(axis=1)
    whole &= np.all(~due | (np.isfinite(value) & np.isfinite(tumour)), axis=1)
    measurable = base >= rules.measurable * (1 - ROUNDING)
    judged = whole & measurable

    progressing = _progressing(value, base, due, rules) & judged[:, None]
    before = due & ~np.logical_or.accumulate(progressing, axis=1)
    progression_day = _first(when, progressing)

    classes = np.where(before, _classes(value, tumour, base, rules), Response.PD).astype(np.int8)
    held = _also_next(classes) if rules.confirm_response else classes
    lasting = np.where(before, np.maximum(held, Response.SD), Response.PD)
    best = lasting.max(axis=1, initial=Response.PD)
    best = np.where(judged, best, np.where(whole, Response.UNMEASURABLE, Response.NOT_EVALUABLE))

    shallow = whole[:, None] & before & (tumour < np.log(rules.mrd_shallow * rules.marrow_cells))
    deep = whole[:, None] & before & (tumour < np.log(rules.mrd_deep * rules.marrow_cells))
    return Assessment(
        start=begin,
        baseline=base,
        best=best.astype(np.int8),
        response_day=np.where(judged, _first(when, lasting >= Response.PR), np.nan),
        progression_day=np.where(judged, progression_day, np.nan),
        mrd5=shallow.any(axis=1),
        mrd5_day=np.where(whole, _first(when, shallow), np.nan),
        mrd6=deep.any(axis=1),
        mrd6_day=np.where(whole, _first(when, deep), np.nan),
    )


def _classes(value: Floats, tumour: Floats, base: Floats, rules: ResponseRules) -> NDArray[np.int8]:
    """Class at each visit, progression aside, shape (n, v); `tumour` in ln cells."""
    reference = base[:, None] * (1 + ROUNDING)
    out = np.full(value.shape, Response.SD, dtype=np.int8)
    out[value <= rules.mr_ratio * reference] = Response.MR
    out[value <= rules.pr_ratio * reference] = Response.PR
    out[value <= rules.vgpr_ratio * reference] = Response.VGPR
    undetectable = value < rules.cr_mprotein
    out[undetectable & (tumour < np.log(rules.cr_marrow * rules.marrow_cells))] = Response.CR
    out[undetectable & (tumour < np.log(rules.scr_marrow * rules.marrow_cells))] = Response.SCR
    return out


def _progressing(value: Floats, base: Floats, due: Flags, rules: ResponseRules) -> Flags:
    """Visits that meet the rules for progression against the nadir before them, shape (n, v)."""
    seen = np.where(due, value, np.inf)
    nadir = np.minimum.accumulate(np.concatenate([base[:, None], seen], axis=1), axis=1)[:, :-1]
    rise = np.where(nadir >= rules.pd_high_nadir, rules.pd_rise_high, rules.pd_rise)
    slack = ROUNDING * np.abs(value)
    met = due & (value >= rules.pd_ratio * nadir - slack) & (value - nadir >= rise - slack)
    return _also_next(met.astype(np.int8)).astype(bool) if rules.confirm_progression else met


def _also_next(held: NDArray[np.int8]) -> NDArray[np.int8]:
    """Lower of each visit and the next, shape (n, v); the last visit has no next and falls to 0 (PD, no)."""
    following = np.zeros_like(held)
    following[:, :-1] = held[:, 1:]
    return np.asarray(np.minimum(held, following), dtype=np.int8)


def _first(when: Floats, flags: Flags) -> Floats:
    return np.where(flags, when, np.inf).min(axis=1, initial=np.inf)


# ------------------------------------------------------------------------------------------- durations


def progression_free(progression_day: ArrayLike, death_day: ArrayLike, follow_up: ArrayLike) -> tuple[Floats, Flags]:
    """Progression-free survival: days to progression or death, or to the end of follow-up if that is first.

    Parameters
    ----------
    progression_day, death_day : array_like
        Days from the infusion; +inf if it never happens. The caller draws death without relapse.
    follow_up : array_like
        Days from the infusion to the last day that is seen.

    Returns
    -------
    time : ndarray, broadcast shape
        Days. NaN where an input is NaN (patients who cannot be judged).
    event : ndarray of bool
        Whether progression or death was seen; one on the last day of follow-up is.

    Raises
    ------
    ReinfuseError
        If a day is negative.
    """
    progression, death, seen = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (progression_day, death_day, follow_up))
    )
    for name, days in (("progression_day", progression), ("death_day", death), ("follow_up", seen)):
        if np.any(days < 0):
            raise ReinfuseError(f"{name} is {days[days < 0].flat[0]:g}; count days from the infusion, >= 0")
    first = np.minimum(progression, death)
    time = np.minimum(first, seen)
    return np.asarray(time), np.asarray((first <= seen) & np.isfinite(first))


def duration_of_response(
    response_day: ArrayLike, progression_day: ArrayLike, death_day: ArrayLike, follow_up: ArrayLike
) -> tuple[Floats, Flags]:
    """Duration of response: days from the first response (>= PR) to progression or death.

    Parameters
    ----------
    response_day, progression_day, death_day, follow_up : array_like
        Days from the infusion, as for `progression_free`.

    Returns
    -------
    time : ndarray, broadcast shape
        Days from the response. NaN without a response, or if it comes after death or the end of follow-up.
    event : ndarray of bool
        Whether progression or death was seen; False where `time` is NaN.

    Raises
    ------
    ReinfuseError
        If a day is negative.
    """
    time, event = progression_free(progression_day, death_day, follow_up)
    response = np.asarray(response_day, dtype=np.float64)
    if np.any(response < 0):
        raise ReinfuseError(f"response_day is {response[response < 0].flat[0]:g}; count days from the infusion")
    response, time, event = np.broadcast_arrays(response, time, event)
    responded = response <= time
    lasted = np.where(responded, time, np.nan) - np.where(responded, response, 0.0)
    return np.asarray(lasted), np.asarray(event & responded)


# -------------------------------------------------------------------------------------------- kinetics


def kinetics(
    times: ArrayLike,
    cart: ArrayLike,
    start: ArrayLike = 0.0,
    end: ArrayLike | None = None,
    *,
    lloq: float = 0.0,
    auc_days: float = 28.0,
) -> Kinetics:
    """Cmax, Tmax, AUC and last quantifiable day of one infusion.

    The curve is read as piecewise linear on its grid (trapezoid with exact end points). The value at an
    infusion that falls between two grid points is that of the next one: a curve jumps there and cannot be
    interpolated.

    Parameters
    ----------
    times : array_like, shape (T,)
        Days, rising.
    cart : array_like, shape (n, T) or (T,)
        CAR-T cells/µL or transgene copies/µg. May be NaN before the infusion.
    start, end : float or array_like, shape (n,)
        Window: the day of the infusion (NaN or inf: not given) and the last day (end of `times` if left out).
    lloq : float
        Limit of quantification for `tlast`; a value equal to it counts. 0: every positive value.
    auc_days : float
        Length of the window of the AUC, days.

    Returns
    -------
    Kinetics

    Raises
    ------
    ReinfuseError
        If shapes disagree, times do not rise, the window lies outside `times`, or `lloq` or `auc_days` is
        bad.
    """
    if not (np.isfinite(lloq) and lloq >= 0):
        raise ReinfuseError(f"lloq is {lloq}; give a number >= 0")
    if not (np.isfinite(auc_days) and auc_days > 0):
        raise ReinfuseError(f"auc_days is {auc_days}; give a number of days > 0")
    clock, (curve,) = _trajectories(times, cart=cart)
    n = curve.shape[0]
    begin = _per_patient("start", start, n)
    given = np.isfinite(begin)
    stop = np.full(n, clock[-1]) if end is None else _per_patient("end", end, n)
    _within(clock, "start", begin[given])
    _within(clock, "end", stop[given])

    window = given[:, None] & (clock >= begin[:, None]) & (clock <= stop[:, None])
    inside = np.where(window, curve, np.nan)
    fine = window.any(axis=1) & np.all(~window | np.isfinite(curve), axis=1)
    peak = np.argmax(np.where(np.isfinite(inside), inside, -np.inf), axis=1)
    cmax = np.where(fine, np.take_along_axis(curve, peak[:, None], axis=1)[:, 0], np.nan)
    tmax = np.where(fine, clock[peak] - np.where(given, begin, 0.0), np.nan)

    quantified = window & ((curve >= lloq) if lloq > 0 else (curve > 0))
    last = clock.size - 1 - np.argmax(quantified[:, ::-1], axis=1)
    seen = fine & quantified.any(axis=1)
    tlast = np.where(seen, clock[last] - np.where(given, begin, 0.0), np.nan)

    close = begin + auc_days
    covered = fine & (close <= stop * (1 + ROUNDING))
    with np.errstate(invalid="ignore"):  # a curve that is not finite has no area
        auc = np.where(covered, _area(clock, curve, begin, np.minimum(close, stop)), np.nan)
    return Kinetics(cmax=cmax, tmax=tmax, auc=auc, tlast=tlast)


def persistence(
    times: ArrayLike,
    cart: ArrayLike,
    start: ArrayLike = 0.0,
    end: ArrayLike | None = None,
    *,
    rules: ResponseRules | None = None,
) -> Floats:
    """Days from the infusion to the last grid day on which flow cytometry still sees CAR+ cells.

    Parameters
    ----------
    times, cart, start, end
        As in `kinetics`; `cart` in cells/µL.
    rules : ResponseRules, optional
        Gives `flow_limit`; a value equal to it counts.

    Returns
    -------
    ndarray, shape (n,)
        0 if they are never seen in the window, NaN where it cannot be told.

    Raises
    ------
    ReinfuseError
        As in `kinetics`.
    """
    limit = (ResponseRules() if rules is None else rules).flow_limit
    found = kinetics(times, cart, start, end, lloq=limit)
    return np.where(np.isfinite(found.cmax) & np.isnan(found.tlast), 0.0, found.tlast)


def crs_proxy(cmax: ArrayLike, *, rules: ResponseRules | None = None) -> Floats:
    """Proxy of the risk of cytokine release syndrome: a number between 0 and 1 that rises with the peak.

    Logistic in ln Cmax, one half at `crs_cmax`. It orders courses by their expansion and says nothing else: it is
    fitted to no patient, knows neither burden nor grade, and is not a probability.

    Parameters
    ----------
    cmax : array_like
        Peak of CAR+ cells/µL.
    rules : ResponseRules, optional
        Gives `crs_cmax` and `crs_slope`.

    Returns
    -------
    ndarray, shape of `cmax`
        0 without a peak above 0; NaN where `cmax` is.
    """
    rules = ResponseRules() if rules is None else rules
    peak = np.asarray(cmax, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1.0 / (1.0 + (rules.crs_cmax / np.maximum(peak, 0.0)) ** rules.crs_slope))


def _area(clock: Floats, curve: Floats, begin: Floats, close: Floats) -> Floats:
    """Integral of the piecewise linear curve between two days per patient, shape (n,)."""
    low = np.clip(clock[:-1], begin[:, None], close[:, None])
    high = np.clip(clock[1:], begin[:, None], close[:, None])
    width = high - low
    step = np.diff(clock)
    left, right = curve[:, :-1], curve[:, 1:]
    # before the first grid point of the window the curve is taken as flat: the infusion's jump lies there
    partial = low > clock[:-1]
    left = np.where(partial, right, left)
    slope = (right - left) / step
    at_low = np.where(partial, right, left)
    at_high = right - slope * (clock[1:] - high)
    return np.where(width > 0, 0.5 * (at_low + at_high) * width, 0.0).sum(axis=1)


# ---------------------------------------------------------------------------------------------- checks


def _trajectories(times: ArrayLike, **values: ArrayLike) -> tuple[Floats, list[Floats]]:
    clock = np.asarray(times, dtype=np.float64)
    if clock.ndim != 1 or clock.size < 2:
        raise ReinfuseError(f"times has shape {clock.shape}; give at least two days in one row")
    if not (np.all(np.isfinite(clock)) and np.all(np.diff(clock) > 0)):
        raise ReinfuseError("times do not rise strictly, or are not finite; sort them and drop duplicates")
    out: list[Floats] = []
    for name, value in values.items():
        rows = np.atleast_2d(np.asarray(value, dtype=np.float64))
        if rows.ndim != 2 or rows.shape[1] != clock.size:
            raise ReinfuseError(f"{name} has shape {rows.shape}, times has {clock.size} days; give one row per patient")
        out.append(rows)
    counts = {rows.shape[0] for rows in out}
    if len(counts) > 1:
        listed = ", ".join(f"{name} {rows.shape[0]}" for name, rows in zip(values, out, strict=True))
        raise ReinfuseError(f"numbers of patients differ: {listed}; give the same patients in each")
    return clock, out


def _per_patient(name: str, value: ArrayLike, n: int) -> Floats:
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.shape not in ((), (n,)):
        raise ReinfuseError(f"{name} has shape {numbers.shape} for {n} patients; give one number or one each")
    return np.array(np.broadcast_to(numbers, (n,)))


def _within(clock: Floats, name: str, days: Floats) -> None:
    bad = ~((days >= clock[0]) & (days <= clock[-1]))
    if np.any(bad):
        raise ReinfuseError(
            f"{name} is day {days[bad][0]:g}, the trajectory runs from {clock[0]:g} to {clock[-1]:g}; "
            "simulate for longer, or ask for less"
        )
