"""Progression: observed against predicted, and whether the model tells who progresses early.

Everything takes arrays, so that predictions of a fit that did not see a patient's outcome can be judged with
the same functions as those of the fit itself. Death without progression is a competing event: it ends the
time at risk of progression (`event` 2), and counts as an event for progression-free survival.
"""

from collections.abc import Sequence
from typing import Final

import lifelines
import lifelines.utils
import numpy as np
import numpy.typing as npt
import pandas as pd

from ..cohort import Cohort
from . import scores

Array = npt.NDArray[np.float64]

DAYS: Final = (30.0, 90.0, 180.0, 365.0)
"""Days since the infusion at which observed and predicted curves are compared."""

RESPONSES: Final = ("MR", "PR", "VGPR", "CR", "SCR")
"""Response classes that count as a response; SD and PD do not."""

RESPONSE_DAY: Final = 30.0
"""Day at which the burden is compared with the response recorded a month after infusion."""

FREE, PROGRESSED, DIED = 0, 1, 2


def first_course(cohort: Cohort) -> pd.DataFrame:
    """Return how the course after each patient's first infusion ended.

    Parameters
    ----------
    cohort
        A checked cohort.

    Returns
    -------
    DataFrame
        `patient`, `product`, `time` (days since the first infusion), `event`: 0 last known free of
        progression, 1 progression, 2 death without progression. A patient without rows of progression or
        death is left out; a second infusion ends the course.
    """
    infusions = cohort.infusions
    start = infusions[infusions["SLOT"] == 1].set_index("ID")
    second = infusions[infusions["SLOT"] == 2].set_index("ID")["TIME"]
    rows = cohort.observations.assign(SLOT=cohort.observation_slots)
    rows = rows[rows["DVID"].isin(["progression", "death"])]
    lines = []
    for patient, own in rows.groupby("ID", sort=False):
        end = float(second.get(patient, np.inf))
        course = own[own["SLOT"] == 1]
        progressed = course[(course["DVID"] == "progression") & (course["DV"] == 1)]
        died = own[(own["DVID"] == "death") & (own["DV"] == 1) & (own["TIME"] <= end)]
        free = course[(course["DVID"] == "progression") & (course["DV"] == 0)]
        if len(progressed):
            time, event = float(progressed["TIME"].min()), PROGRESSED
        elif len(died) and (len(free) == 0 or float(died["TIME"].min()) <= float(free["TIME"].max()) + 1.0):
            time, event = float(died["TIME"].min()), DIED
        elif len(free):
            time, event = min(float(free["TIME"].max()), end), FREE
        else:
            continue
        lines.append(
            {
                "patient": str(patient),
                "product": str(start["PRODUCT"][patient]),
                "time": time - float(start["TIME"][patient]),
                "event": event,
            }
        )
    return pd.DataFrame(lines, columns=["patient", "product", "time", "event"])


def kaplan_meier(time: npt.ArrayLike, event: npt.ArrayLike, at: npt.ArrayLike | None = None) -> pd.DataFrame:
    """Return the Kaplan-Meier estimate with its 95 % interval (Greenwood on the log-log scale).

    Parameters
    ----------
    time
        (n,) days to the event or to the end of follow-up.
    event
        (n,) true where the event happened.
    at
        Days to evaluate at; the days where the curve may step, from 0, when None.

    Returns
    -------
    DataFrame
        `time`, `survival`, `lower`, `upper`, `at_risk` (patients under observation just before that day).
        Beyond the last follow-up survival is NaN: nobody is there to tell.
    """
    days, happened = np.asarray(time, dtype=float), np.asarray(event, dtype=bool)
    fitter = lifelines.KaplanMeierFitter(alpha=0.05).fit(days, happened)
    steps = np.unique(np.concatenate([[0.0], days])) if at is None else np.asarray(at, dtype=float)
    survival = fitter.survival_function_at_times(steps).to_numpy(dtype=float)
    limits = fitter.confidence_interval_survival_function_
    place = np.searchsorted(limits.index.to_numpy(dtype=float), steps, side="right") - 1
    lower, upper = limits.to_numpy(dtype=float)[np.maximum(place, 0)].T
    beyond = steps > days.max()
    return pd.DataFrame(
        {
            "time": steps,
            "survival": np.where(beyond, np.nan, survival),
            "lower": np.where(beyond, np.nan, lower),
            "upper": np.where(beyond, np.nan, upper),
            "at_risk": [(days >= step).sum() for step in steps],
        }
    )


def first_course_hazard(
    cumulative_hazard: npt.ArrayLike, times: npt.ArrayLike, patients: Sequence[str], cohort: Cohort
) -> Array:
    """Return the cumulative hazard of the first course alone: at a second infusion it stops, and stays as it is.

    Parameters
    ----------
    cumulative_hazard, times
        (sample, patient, time) from `/curves/cumhaz`, which begins anew at every infusion, and its days, ascending.
    patients
        Their names, in that order.
    cohort
        Says when each had the second infusion.

    Returns
    -------
    array
        (sample, patient, time), never falling from the first infusion on.
    """
    infusions = cohort.infusions
    second = infusions[infusions["SLOT"] == 2].set_index("ID")["TIME"]
    ends = np.array([float(second.get(name, np.inf)) for name in patients])
    grid = np.asarray(times, dtype=float)
    last = np.maximum(np.searchsorted(grid, ends) - 1, 0)  # the last day before the second infusion
    place = np.minimum(np.arange(grid.size), last[:, None])
    return np.take_along_axis(np.asarray(cumulative_hazard, dtype=float), place[None], axis=2)


def predicted_survival(cumulative_hazard: npt.ArrayLike, times: npt.ArrayLike, at: npt.ArrayLike) -> Array:
    """Return the share free of progression by draw: the mean over patients of exp(-cumulative hazard).

    Parameters
    ----------
    cumulative_hazard
        (sample, patient, time) from `first_course_hazard`; a patient whose solver failed is NaN and left out.
    times
        (time,) days, ascending.
    at
        (k,) days wanted; NaN beyond the last of `times`.

    Returns
    -------
    array
        (sample, k).
    """
    hazard = np.asarray(cumulative_hazard, dtype=float)
    grid, wanted = np.asarray(times, dtype=float), np.asarray(at, dtype=float)
    place = np.clip(np.searchsorted(grid, wanted), 1, len(grid) - 1)
    share = np.clip((wanted - grid[place - 1]) / (grid[place] - grid[place - 1]), 0.0, 1.0)
    between = hazard[:, :, place - 1] * (1 - share) + hazard[:, :, place] * share
    survival = np.exp(-between)
    counted = np.isfinite(survival).sum(axis=1)
    mean = np.where(counted > 0, np.nansum(survival, axis=1) / np.maximum(counted, 1), np.nan)
    return np.where(wanted > grid[-1], np.nan, mean)


def compare_survival(
    course: pd.DataFrame,
    cumulative_hazard: npt.ArrayLike,
    patients: Sequence[str],
    times: npt.ArrayLike,
    *,
    at: Sequence[float] = DAYS,
    deaths_count: bool = False,
) -> pd.DataFrame:
    """Return observed Kaplan-Meier against predicted survival, by first product.

    Parameters
    ----------
    course
        From `first_course`.
    cumulative_hazard, patients, times
        (sample, patient, time) predictions, the patients' names in that order, and days. The predicted curve
        averages the patients that `course` holds.
    at
        Days to compare at.
    deaths_count
        Observed events are progressions alone (False), or deaths too (True: progression-free survival).

    Returns
    -------
    DataFrame
        `product`, `day`, `at_risk`, `observed`, `observed_lower`, `observed_upper`, `predicted`,
        `predicted_lower`, `predicted_upper` (95 % intervals).
    """
    hazard = np.asarray(cumulative_hazard, dtype=float)
    place = {str(name): i for i, name in enumerate(patients)}
    lines = []
    for product, rows in course.groupby("product", sort=True):
        members = [place[name] for name in rows["patient"] if name in place]
        happened = rows["event"] > 0 if deaths_count else rows["event"] == PROGRESSED
        seen = kaplan_meier(rows["time"], happened, at)
        if members:
            draws = predicted_survival(hazard[:, members], times, at)
            low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975], axis=0)
        else:
            low = middle = high = np.full(len(at), np.nan)
        lines.append(
            pd.DataFrame(
                {
                    "product": product,
                    "day": seen["time"],
                    "at_risk": seen["at_risk"],
                    "observed": seen["survival"],
                    "observed_lower": seen["lower"],
                    "observed_upper": seen["upper"],
                    "predicted": middle,
                    "predicted_lower": low,
                    "predicted_upper": high,
                }
            )
        )
    return pd.concat(lines, ignore_index=True) if lines else pd.DataFrame()


def concordance(time: npt.ArrayLike, risk: npt.ArrayLike, event: npt.ArrayLike) -> float:
    """Return Harrell's concordance: how often, of two patients, the one at higher risk progresses first.

    Parameters
    ----------
    time
        (n,) days.
    risk
        (n,) predicted risk, higher is worse; a patient without one (NaN) is left out.
    event
        (n,) true where progression was seen.

    Returns
    -------
    float
        0.5 is chance, 1 perfect; NaN when no two patients can be compared.
    """
    days, scored = np.asarray(time, dtype=float), -np.asarray(risk, dtype=float)
    seen, known = np.asarray(event, dtype=bool), np.isfinite(scored)
    try:
        return float(lifelines.utils.concordance_index(days[known], scored[known], seen[known]))
    except ZeroDivisionError:
        return float("nan")


def concordance_with_interval(
    time: npt.ArrayLike, risk: npt.ArrayLike, event: npt.ArrayLike, *, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return `concordance` and its 95 % bootstrap interval over patients."""
    arrays = np.asarray(time, dtype=float), np.asarray(risk, dtype=float), np.asarray(event, dtype=bool)
    low, high = scores.bootstrap_interval(concordance, *arrays, rng=rng)
    return concordance(*arrays), low, high


def separation(
    burden: npt.ArrayLike, response: Sequence[str], *, rng: np.random.Generator
) -> tuple[float, float, float, int, int]:
    """Return how well a burden separates SD and PD from responders.

    Parameters
    ----------
    burden
        (n,) model burden (cells) near the day of the assessment.
    response
        (n,) recorded class, any case; a patient with another or an empty class is left out.
    rng
        For the bootstrap over patients.

    Returns
    -------
    tuple
        Area under the curve, its 95 % interval, the number of SD/PD and of responders.
    """
    named = [str(word).strip().upper() for word in response]
    known = np.array([word in RESPONSES or word in ("SD", "PD") for word in named])
    worse = np.array([word in ("SD", "PD") for word in named])[known]
    load = np.asarray(burden, dtype=float)[known]
    low, high = scores.bootstrap_interval(scores.area_under_curve, load, worse, rng=rng)
    return scores.area_under_curve(load, worse), low, high, int(worse.sum()), int((~worse).sum())


def value_at(curve: npt.ArrayLike, times: npt.ArrayLike, day: float) -> Array:
    """Return the median over draws of a curve (sample, patient, time) near a day; NaN if all failed."""
    grid = np.asarray(times, dtype=float)
    values = np.asarray(curve, dtype=float)[:, :, int(np.abs(grid - day).argmin())]
    known = np.isfinite(values).any(axis=0)
    found = np.full(values.shape[1], np.nan)
    found[known] = np.nanmedian(values[:, known], axis=0)
    return found
