"""The compiled reader of courses: trajectories in, response, progression, MRD and expansion out, one pass.

The rules are those of `model.response`; `model.judgement` is the public face and holds the readable twin. Days count
from the infusion; every visit is a grid day, so nothing is interpolated but the hazard's origin and the last piece of
the area. Nothing is allocated per patient.
"""

from typing import Any, Final

import numpy as np
from numba import prange

from ..response import ROUNDING, Response
from .policy import leaf, parallel_kernel

#: Places in `columns`; the last is -1 where progression does not follow the hazard.
MPROTEIN, BURDEN, LOW, CART, CUMHAZ, COLUMNS = range(6)

#: Places in `rules`; limits of the marrow in cells.
(
    MR_RATIO, PR_RATIO, VGPR_RATIO, CR_MPROTEIN, CR_CELLS, SCR_CELLS, MRD5_CELLS, MRD6_CELLS,
    PD_RATIO, PD_RISE, PD_RISE_HIGH, PD_HIGH_NADIR, MEASURABLE, CONFIRM_RESPONSE, CONFIRM_PROGRESSION,
    VISIT_SLACK, EARLY, PEAK_DAYS, AUC_DAYS, FLOW_LIMIT, CRS_CMAX, CRS_SLOPE, RULES,
) = range(23)  # fmt: skip

#: Rows of `numbers` (float32).
(
    RESPONSE_DAYS, PROGRESSION_DAYS, MRD5_DAYS, MRD6_DAYS, PFS_DAYS, DOR_DAYS,
    CMAX, TMAX, AUC28, PERSISTENCE_DAYS, CRS_PROXY, ANTIGEN_LOW, DEEPEST, NUMBERS,
) = range(14)  # fmt: skip

#: Rows of `codes` (int8).
BEST, PFS_EVENT, EVALUABLE, MRD5, MRD6, CODES = range(6)

#: What ended progression-free survival.
NONE, PROGRESSION, DEATH = range(3)

_NOT_EVALUABLE: Final = int(Response.NOT_EVALUABLE)
_UNMEASURABLE: Final = int(Response.UNMEASURABLE)
_PD: Final = int(Response.PD)
_SD: Final = int(Response.SD)
_MR: Final = int(Response.MR)
_PR: Final = int(Response.PR)
_VGPR: Final = int(Response.VGPR)
_CR: Final = int(Response.CR)
_SCR: Final = int(Response.SCR)


@parallel_kernel
def judge(
    out: Any,
    columns: Any,
    since: Any,
    visit_days: Any,
    visit_places: Any,
    death_days: Any,
    thresholds: Any,
    baseline: Any,
    follow_up: float,
    rules: Any,
    numbers: Any,
    codes: Any,
) -> None:
    """Judge all patients: writes ``numbers`` (NUMBERS, n) and ``codes`` (CODES, n).

    ``out`` (n, T, R) trajectories, ``columns`` (COLUMNS,) where in R; ``since`` (T,) from 0; ``visit_days``,
    ``visit_places`` (v,) days and places in ``since`` of all visits of the follow-up; ``death_days`` (n,);
    ``thresholds`` and ``baseline`` (n,) or empty; ``rules`` (RULES,).
    """
    for p in prange(out.shape[0]):
        _judge_one(
            p, out, columns, since, visit_days, visit_places, death_days[p], thresholds, baseline, follow_up, rules,
            numbers, codes,
        )  # fmt: skip


@leaf
def _judge_one(
    p: int,
    out: Any,
    columns: Any,
    since: Any,
    visit_days: Any,
    visit_places: Any,
    death: float,
    thresholds: Any,
    baseline: Any,
    follow_up: float,
    rules: Any,
    numbers: Any,
    codes: Any,
) -> None:
    solved = _expansion(p, out, columns, since, min(follow_up, death), rules, numbers)
    base = baseline[p] if baseline.size > 0 else out[p, 0, columns[MPROTEIN]]

    n_visits = visit_days.size
    found = n_visits  # visit at which the hazard's progression is found; n_visits: none
    if thresholds.size > 0:
        found = _hazard_visit(p, out, columns, since, visit_days, visit_places, death, thresholds[p], rules)
    by_hazard = found < n_visits
    due = 0
    reach = min(follow_up, death) * (1 + ROUNDING) + rules[VISIT_SLACK]
    while due < found and visit_days[due] <= reach:
        due += 1

    whole, relapse = _relapse_visit(p, out, columns, visit_places, due, base, rules)
    measurable = base >= rules[MEASURABLE] * (1 - ROUNDING)
    judged = whole and measurable
    if not judged:
        relapse = due
    best, response = _best(p, out, columns, visit_places, relapse, base, rules)
    if not whole:
        best = _NOT_EVALUABLE
    elif not judged:
        best = _UNMEASURABLE
    if by_hazard and found == 0:  # no visit before progression: that is PD
        best = _PD

    place = n_visits
    progression = np.inf if judged else np.nan
    if thresholds.size > 0:
        place = found
        progression = np.inf
    elif relapse < due:
        place = relapse
    if place < n_visits:
        progression = visit_days[place]
    if not solved:
        best, progression, place = _NOT_EVALUABLE, np.nan, n_visits

    codes[BEST, p] = best
    codes[EVALUABLE, p] = best >= _PD
    numbers[PROGRESSION_DAYS, p] = progression
    responded = solved and judged and response < relapse
    response_day = visit_days[response] if responded else np.inf
    numbers[RESPONSE_DAYS, p] = response_day
    told = solved and (measurable or thresholds.size > 0)
    _durations(p, progression, response_day, death, follow_up, told, numbers, codes)
    _mrd(p, out, columns, visit_days, visit_places, relapse if solved and whole else 0, rules, numbers, codes)

    share = np.nan
    if place < n_visits:
        there = visit_places[place]
        share = out[p, there, columns[LOW]] / out[p, there, columns[BURDEN]]
    numbers[ANTIGEN_LOW, p] = share
    seen = relapse + 1 if relapse < due else due + (1 if by_hazard else 0)
    measured = solved and np.isfinite(base) and measurable
    numbers[DEEPEST, p] = _deepest(p, out, columns, visit_places, seen if measured else 0, base)


@leaf
def _expansion(p: int, out: Any, columns: Any, since: Any, last: float, rules: Any, numbers: Any) -> bool:
    """Write the peak, the area and how long cells are seen; tell whether the burden is finite throughout."""
    burden, cart = columns[BURDEN], columns[CART]
    solved, known, watched = True, True, True
    cmax, peak, seen = -np.inf, 0, 0
    limit = rules[FLOW_LIMIT]
    t = 0
    while t < since.size and since[t] <= rules[PEAK_DAYS]:
        cells = out[p, t, cart]
        known &= abs(cells) < np.inf  # false for NaN; cheaper here than isfinite
        if cells > cmax:
            cmax, peak = cells, t
        t += 1
    t = 0
    while t < since.size and since[t] <= last:
        cells = out[p, t, cart]
        watched &= abs(cells) < np.inf
        seen = t if cells >= limit else seen
        t += 1
    for t in range(since.size):
        solved &= abs(out[p, t, burden]) < np.inf
    numbers[CMAX, p] = cmax if known else np.nan
    numbers[TMAX, p] = since[peak] if known else np.nan
    end = min(rules[PEAK_DAYS], since[since.size - 1])
    covered = known and rules[AUC_DAYS] <= end * (1 + ROUNDING)
    numbers[AUC28, p] = _area(p, out, cart, since, min(rules[AUC_DAYS], end)) if covered else np.nan
    numbers[PERSISTENCE_DAYS, p] = since[seen] if watched else np.nan
    odds = (rules[CRS_CMAX] / max(cmax, 0.0)) ** rules[CRS_SLOPE]
    numbers[CRS_PROXY, p] = 1.0 / (1.0 + odds) if known else np.nan
    return solved


@leaf
def _area(p: int, out: Any, column: int, since: Any, end: float) -> float:
    """Trapezoids from day 0 to the day ``end``; the last one is cut where it lies."""
    area = 0.0
    t = 0
    while t + 1 < since.size and since[t] < end:
        left, right = out[p, t, column], out[p, t + 1, column]
        width = since[t + 1] - since[t]
        if since[t + 1] > end:
            right = left + (right - left) * ((end - since[t]) / width)
            width = end - since[t]
        area += 0.5 * (left + right) * width
        t += 1
    return area


@leaf
def _hazard_visit(
    p: int,
    out: Any,
    columns: Any,
    since: Any,
    visit_days: Any,
    visit_places: Any,
    death: float,
    threshold: float,
    rules: Any,
) -> int:
    """Place of the first visit in life at which the hazard since the day EARLY exceeds the threshold."""
    column = columns[CUMHAZ]
    t = 0
    while t + 1 < since.size and since[t + 1] <= rules[EARLY]:
        t += 1
    origin = out[p, t, column]
    if since[t] < rules[EARLY] and t + 1 < since.size:
        share = (rules[EARLY] - since[t]) / (since[t + 1] - since[t])
        origin += share * (out[p, t + 1, column] - origin)
    for v in range(visit_days.size):
        if visit_days[v] > death:
            break
        if visit_days[v] > rules[EARLY] and out[p, visit_places[v], column] - origin >= threshold:
            return v
    return int(visit_days.size)


@leaf
def _relapse_visit(
    p: int, out: Any, columns: Any, visit_places: Any, due: int, base: float, rules: Any
) -> tuple[bool, int]:
    """Whether all visits due can be read, and the place of the first that is progression (``due``: none)."""
    whole = due > 0 and np.isfinite(base)
    relapse, met_before, nadir = due, False, base
    for v in range(due):
        there = visit_places[v]
        value = out[p, there, columns[MPROTEIN]]
        whole = whole and np.isfinite(value) and np.isfinite(out[p, there, columns[BURDEN]])
        rise = rules[PD_RISE_HIGH] if nadir >= rules[PD_HIGH_NADIR] else rules[PD_RISE]
        slack = ROUNDING * abs(value)
        met = value >= rules[PD_RATIO] * nadir - slack and value - nadir >= rise - slack
        if relapse == due and met:
            if rules[CONFIRM_PROGRESSION] == 0:
                relapse = v
            elif met_before:
                relapse = v - 1
        met_before = met
        nadir = min(nadir, value)
    return whole, relapse


@leaf
def _best(p: int, out: Any, columns: Any, visit_places: Any, relapse: int, base: float, rules: Any) -> tuple[int, int]:
    """Best response before the visit ``relapse``, and the place of the first at PR or better (``relapse``: none)."""
    best = _SD if relapse > 0 else _PD
    response = relapse
    held = _PD
    for v in range(relapse - 1, -1, -1):
        there = visit_places[v]
        reached = _class(out[p, there, columns[MPROTEIN]], out[p, there, columns[BURDEN]], base, rules)
        lasting = reached if rules[CONFIRM_RESPONSE] == 0 else min(reached, held)
        held = reached
        best = max(best, lasting)
        if lasting >= _PR:
            response = v
    return best, response


@leaf
def _class(value: float, cells: float, base: float, rules: Any) -> int:
    """Class of one visit, progression aside."""
    if value < rules[CR_MPROTEIN] and cells < rules[CR_CELLS]:
        return _SCR if cells < rules[SCR_CELLS] else _CR
    reference = base * (1 + ROUNDING)
    if value <= rules[VGPR_RATIO] * reference:
        return _VGPR
    if value <= rules[PR_RATIO] * reference:
        return _PR
    return _MR if value <= rules[MR_RATIO] * reference else _SD


@leaf
def _durations(
    p: int,
    progression: float,
    response_day: float,
    death: float,
    follow_up: float,
    told: bool,
    numbers: Any,
    codes: Any,
) -> None:
    known = np.inf if np.isnan(progression) else progression
    event = NONE
    if known <= min(death, follow_up):
        event = PROGRESSION
    elif death <= follow_up:
        event = DEATH
    pfs = min(known, death, follow_up)
    codes[PFS_EVENT, p] = event if told else NONE
    numbers[PFS_DAYS, p] = pfs if told else np.nan
    numbers[DOR_DAYS, p] = pfs - response_day if response_day <= pfs else np.nan


@leaf
def _mrd(
    p: int,
    out: Any,
    columns: Any,
    visit_days: Any,
    visit_places: Any,
    before: int,
    rules: Any,
    numbers: Any,
    codes: Any,
) -> None:
    """Write the first visits below the limits of MRD among the first ``before``."""
    shallow = deep = np.inf
    for v in range(before - 1, -1, -1):
        cells = out[p, visit_places[v], columns[BURDEN]]
        if cells < rules[MRD5_CELLS]:
            shallow = visit_days[v]
        if cells < rules[MRD6_CELLS]:
            deep = visit_days[v]
    numbers[MRD5_DAYS, p] = shallow
    numbers[MRD6_DAYS, p] = deep
    codes[MRD5, p] = shallow < np.inf
    codes[MRD6, p] = deep < np.inf


@leaf
def _deepest(p: int, out: Any, columns: Any, visit_places: Any, seen: int, base: float) -> float:
    """Lowest M-protein over the baseline among the first ``seen`` visits; NaN without any or if one cannot be read."""
    lowest = np.inf
    for v in range(seen):
        value = out[p, visit_places[v], columns[MPROTEIN]]
        if not np.isfinite(value):
            return np.nan
        lowest = min(lowest, value)
    return lowest / base if seen > 0 else np.nan
