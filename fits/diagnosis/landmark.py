"""Progression forecast from a cut-off day for those still free of it, against simple rivals.

Whoever has progressed, died or left follow-up by the cut-off is no longer forecast. Death without progression ends
the time at risk, as everywhere in `progression`. Rivals are fitted to other patients than those they forecast.
"""

import warnings
from typing import Final

import lifelines
import lifelines.exceptions
import numpy as np
import numpy.typing as npt
import pandas as pd

from . import progression

Array = npt.NDArray[np.float64]

THIRDS: Final = ("low", "middle", "high")
FEWEST: Final = 12  # patients at risk at a cut-off
FOLDS: Final = 10  # of the patients, for the rival Cox model
PENALTY: Final = 0.1  # ridge on the one coefficient of the rival Cox model: its events are few


def brier(time: npt.ArrayLike, event: npt.ArrayLike, free: npt.ArrayLike, day: float) -> Array:
    """Return each patient's part of the Brier score at a day; their mean is the score, less is better.

    Squared errors of the predicted chance to be free, weighted by the inverse Kaplan-Meier probability of not being
    censored (Graf 1999): patients censored before the day count through the others.

    Parameters
    ----------
    time, event
        (n,) days to progression or to the end of follow-up, and true where it was progression.
    free
        (n,) predicted chance of no progression until the day.
    day
        The horizon.
    """
    days, happened, chance = np.asarray(time, float), np.asarray(event, bool), np.asarray(free, float)
    # at a tie progression comes first, so who progressed on a day was observed if uncensored before it
    observed = lifelines.KaplanMeierFitter().fit(days + 1e-6 * ~happened, ~happened)
    at_end = float(observed.predict(day))
    before = np.asarray(observed.predict(days), dtype=float)
    early, late = happened & (days <= day), days > day
    squares = np.where(early, chance**2, (1.0 - chance) ** 2)
    weights = np.where(early, 1.0 / np.maximum(before, 1e-9), np.where(late, 1.0 / max(at_end, 1e-9), 0.0))
    return np.asarray(weights * squares)


def at_risk(course: pd.DataFrame, cutoff: float) -> pd.DataFrame:
    """Return the rows of `progression.first_course` whose patients are free of progression and seen after a day."""
    return course[course["time"] > cutoff].reset_index(drop=True)


def by_kaplan_meier(course: pd.DataFrame, cutoff: float, day: float) -> Array:
    """Return each patient's chance of being free at a day: Kaplan-Meier of the product's others, from a cut-off."""
    free = np.full(len(course), np.nan)
    for place, row in course.iterrows():
        others = course[(course.index != place) & (course["product"] == row["product"])]
        if len(others):
            curve = progression.kaplan_meier(
                others["time"] - cutoff, others["event"] == progression.PROGRESSED, [day - cutoff]
            )
            free[int(str(place))] = float(curve["survival"].iloc[0])
    # beyond the last follow-up nobody can tell: the last known value would flatter, the pooled one does not
    pooled = progression.kaplan_meier(
        course["time"] - cutoff, course["event"] == progression.PROGRESSED, [day - cutoff]
    )
    return np.where(np.isfinite(free), free, float(pooled["survival"].iloc[0]))


def risk_score(rows: pd.DataFrame, cutoff: float) -> "pd.Series[float]":
    """Return each patient's z-score of ln sBCMA before infusion less that of the peak of CAR+ cells seen so far.

    Parameters
    ----------
    rows
        `patient`, `time`, `dvid`, `value`.
    cutoff
        Last day that may be used. A missing value counts as average.
    """
    start = rows[(rows["dvid"] == "sbcma") & (rows["time"] <= 0)].groupby("patient")["value"].last()
    peak = rows[(rows["dvid"] == "cart") & (rows["time"] <= cutoff)].groupby("patient")["value"].max()
    patients = pd.Index(rows["patient"].unique())
    return _standard(start, patients) - _standard(peak, patients)


def by_cox(course: pd.DataFrame, risk: Array, cutoff: float, day: float) -> Array:
    """Return each patient's chance of being free at a day by a Cox model of one number, fitted to other folds."""
    frame = pd.DataFrame(
        {"time": course["time"] - cutoff, "event": course["event"] == progression.PROGRESSED, "risk": risk}
    )
    free = np.full(len(frame), np.nan)
    for fold in range(FOLDS):
        mine = np.arange(len(frame)) % FOLDS == fold
        others = frame[~mine]
        try:
            with warnings.catch_warnings():  # it calls Python and pandas in ways that they will give up
                warnings.simplefilter("ignore", DeprecationWarning)
                fitted = lifelines.CoxPHFitter(penalizer=PENALTY).fit(others, "time", "event")
        except (lifelines.exceptions.ConvergenceError, ValueError):
            continue
        free[mine] = fitted.predict_survival_function(frame[mine], times=[day - cutoff]).to_numpy()[0]
    return free


def compare(
    course: pd.DataFrame, free: Array, rows: pd.DataFrame, *, cutoff: float, day: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the model's forecast of progression beside its rivals' at one cut-off.

    Parameters
    ----------
    course
        From `at_risk`.
    free
        (n,) chance of no progression until the day, for those rows.
    rows
        Assay rows, for the rival that uses two of them.
    cutoff, day
        Where the forecast starts and the day it is judged at.
    rng
        For the bootstrap of the concordance.

    Returns
    -------
    DataFrame
        `model`, `n`, `progressed` (by the day), `concordance`, `lower`, `upper`, `brier`, `brier_se`, and `gain` with
        `gain_se`: the Brier score of Kaplan-Meier less one's own on the same patients.
    """
    happened = (course["event"] == progression.PROGRESSED).to_numpy()
    score: Array = np.asarray(risk_score(rows, cutoff).reindex(course["patient"]).fillna(0.0), dtype=float)
    plain = by_kaplan_meier(course, cutoff, day)
    cox = by_cox(course, score, cutoff, day)
    rivals = {
        "this model": (free, -free),
        "Kaplan-Meier by product": (plain, -plain),
        "Cox: day-0 sBCMA and peak CAR+ cells": (np.where(np.isfinite(cox), cox, plain), score),
    }
    reference = brier(course["time"], happened, plain, day)
    lines = []
    for name, (chance, risk) in rivals.items():
        parts = brier(course["time"], happened, chance, day)
        value, low, high = progression.concordance_with_interval(course["time"], risk, happened, rng=rng)
        lines.append(
            {
                "cutoff": cutoff,
                "model": name,
                "n": len(course),
                "progressed": int((happened & (course["time"] <= day)).sum()),
                "concordance": value,
                "lower": low,
                "upper": high,
                "brier": float(parts.mean()),
                "brier_se": _error_of_mean(parts),
                "gain": float((reference - parts).mean()),
                "gain_se": _error_of_mean(reference - parts),
            }
        )
    return pd.DataFrame(lines)


def thirds(course: pd.DataFrame, free: Array, *, cutoff: float, day: float) -> pd.DataFrame:
    """Return predicted against observed progression in thirds of the predicted risk.

    Returns
    -------
    DataFrame
        `cutoff`, `third`, `n`, `predicted` (mean chance of progression by the day), `observed`, `lower`, `upper`
        (Kaplan-Meier, 95 % interval).
    """
    order = np.argsort(1.0 - np.asarray(free), kind="stable")
    lines = []
    for name, members in zip(THIRDS, np.array_split(order, len(THIRDS)), strict=True):
        own = course.iloc[members]
        happened = own["event"] == progression.PROGRESSED
        by_then = (happened & (own["time"] <= day)).any()
        seen = progression.kaplan_meier(own["time"], happened, [day]).iloc[0]
        lines.append(
            {
                "cutoff": cutoff,
                "third": name,
                "n": len(own),
                "predicted": float((1.0 - np.asarray(free)[members]).mean()),
                "observed": 1.0 - float(seen["survival"]),
                "lower": 1.0 - float(seen["upper"]),
                # without an event Greenwood's interval has no width; the exact binomial one has
                "upper": 1.0 - float(seen["lower"] if by_then else 0.025 ** (1.0 / max(len(own), 1))),
            }
        )
    return pd.DataFrame(lines)


def _error_of_mean(parts: Array) -> float:
    return float(parts.std(ddof=1) / np.sqrt(parts.size)) if parts.size > 1 else float("nan")


def _standard(values: "pd.Series[float]", patients: "pd.Index[str]") -> "pd.Series[float]":
    """z-scores of logarithms by patient; 0 without a value."""
    logs = pd.Series(np.log(values.to_numpy(dtype=float)), index=values.index)
    return ((logs - logs.mean()) / logs.std(ddof=1)).reindex(patients).fillna(0.0)
