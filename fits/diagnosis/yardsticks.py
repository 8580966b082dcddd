"""Yardsticks: simple rivals and plain questions that a mechanistic fit has to stand beside.

Forecast of later rows against Stein's empirical curve and against the last value carried forward; progression
against Kaplan-Meier; who progresses first; whether the burden a month after infusion tells SD and PD from a
response. Figures whose prediction saw the patient's own outcome are called in-sample and flatter the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from ..cohort import Cohort
from . import forecasts, landmark, progression

HORIZON: Final = 180.0
"""Day whose predicted cumulative hazard ranks the patients."""

RESPONSE_COLUMN: Final = "resp_30d"


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """What was computed, and a sentence for each thing that could not be.

    Attributes
    ----------
    rows, forecast, differences
        From `forecasts.score`: by row, by model and assay, and against each rival; empty when there is nothing to
        forecast.
    landmark, thirds
        From `landmark.compare` and `landmark.thirds`: forecasts of progression by cut-off.
    survival
        From `progression.compare_survival`.
    discrimination
        `measure`, `basis`, `value`, `lower`, `upper`, `n`, `note`.
    missing
        Sentences.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    forecast: pd.DataFrame = field(default_factory=pd.DataFrame)
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    landmark: pd.DataFrame = field(default_factory=pd.DataFrame)
    thirds: pd.DataFrame = field(default_factory=pd.DataFrame)
    survival: pd.DataFrame = field(default_factory=pd.DataFrame)
    discrimination: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: tuple[str, ...] = ()


def compute(tree: xr.DataTree, cohort: Cohort, *, forecast: xr.Dataset | None, rng: np.random.Generator) -> Yardsticks:
    """Compute the yardsticks of a run.

    Parameters
    ----------
    tree
        The run's posterior.
    cohort
        Its cohort.
    forecast
        `RunFolder.forecast()`: predictions of withheld rows, if the run has them.
    rng
        For folds, draws and bootstraps.
    """
    rows = _first_course_rows(tree["observed_data"].to_dataset(), infusion_days(cohort))
    scored = forecasts.score(rows, forecast, rng)
    missing = list(scored.missing)
    course = progression.first_course(cohort)
    survival, lines = pd.DataFrame(), []
    if len(course) == 0:
        missing.append("The cohort has no rows of progression: nothing to compare survival with.")
    elif "curves" not in tree.children or "cumhaz" not in tree["curves"].to_dataset():
        missing.append("The run has no predicted curves of progression.")
    else:
        curves = tree["curves"].to_dataset()
        patients = [str(name) for name in curves["patient"].values]
        days = curves["time"].values.astype(float)
        restarting = curves["cumhaz"].transpose("sample", "patient", "time").values
        hazard = progression.first_course_hazard(restarting, days, patients, cohort)
        survival = progression.compare_survival(course, hazard, patients, days)
        at = min(HORIZON, float(days[-1]))
        risk = pd.Series(progression.value_at(hazard, days, at), index=patients)
        lines.append(_ranked(course, risk, f"in-sample, cumulative hazard at day {at:.0f}", rng))
    if forecast is not None and "risk" in forecast and len(course):
        latest = forecast["risk"].sel(cutoff=forecast["cutoff"].max())
        withheld = pd.Series(latest.values, index=[str(name) for name in forecast["subject"].values])
        lines.append(_ranked(course, withheld, "each patient's own outcome withheld", rng))
    from_cutoffs, thirds = _landmarks(course, rows, forecast, rng)
    lines += _separated(tree, cohort, rng, missing)
    return Yardsticks(
        rows=scored.rows,
        forecast=scored.table,
        differences=scored.differences,
        landmark=from_cutoffs,
        thirds=thirds,
        survival=survival,
        discrimination=pd.DataFrame(lines),
        missing=tuple(missing),
    )


def strictly(
    cohort: Cohort, observed: xr.Dataset, forecast: xr.Dataset, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score a forecast of a fit whose data end on a day for everybody; Stein's curve sees as little.

    Parameters
    ----------
    cohort, observed
        The whole cohort, and its assay rows as `results.observed` gives them.
    forecast
        From `temporal.forecast_from`.
    rng
        For draws and bootstraps.

    Returns
    -------
    tuple
        The columns of `forecasts.score`'s table, and of `landmark.compare` (whose rivals know the others' outcomes).
        The last value has no spread here: nobody's later change has been seen.
    """
    rows = _first_course_rows(observed, infusion_days(cohort))
    scored = forecasts.score(rows, forecast, rng, folds=1)
    table = scored.table
    carried = table["model"] == forecasts.LAST
    table.loc[carried, [name for name in table if name not in ("cutoff", "model", "dvid", "n", "error_in_ln")]] = np.nan
    compared, _ = _landmarks(progression.first_course(cohort), rows, forecast, rng)
    return table[table["model"] != forecasts.CHANGED], compared


def infusion_days(cohort: Cohort) -> dict[str, list[float]]:
    """Return the days of the infusions by patient."""
    return {
        str(name): sorted(float(day) for day in rows["TIME"])
        for name, rows in cohort.infusions.groupby("ID", sort=False)
    }


def _first_course_rows(observed: xr.Dataset, infusions: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return the rows the fit used that come before the patient's second infusion; one on its day is after it."""
    table = pd.DataFrame(
        {name: observed[name].values for name in ("patient", "time", "dvid", "value", "cens", "product")}
    ).astype({"patient": str, "dvid": str, "product": str})
    second = {name: days[1] for name, days in infusions.items() if len(days) > 1}
    ends = table["patient"].map(second).astype(float).fillna(np.inf)
    return table[table["time"] < ends].reset_index(drop=True)


def _landmarks(
    course: pd.DataFrame, rows: pd.DataFrame, forecast: xr.Dataset | None, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Progression forecast from each cut-off for those at risk there."""
    if forecast is None or "free" not in forecast or len(course) == 0:
        return pd.DataFrame(), pd.DataFrame()
    compared, thirds = [], []
    for cutoff in forecast["cutoff"].values.astype(float):
        chance = forecast["free"].sel(cutoff=cutoff, horizon=HORIZON)
        known = pd.Series(chance.values, index=[str(name) for name in forecast["subject"].values]).dropna()
        left = landmark.at_risk(course[course["patient"].isin(known.index)], cutoff)
        if len(left) < landmark.FEWEST or not (left["time"] > HORIZON).any():
            continue
        free = known[left["patient"]].to_numpy()
        compared.append(landmark.compare(left, free, rows, cutoff=cutoff, day=HORIZON, rng=rng))
        thirds.append(landmark.thirds(left, free, cutoff=cutoff, day=HORIZON))
    if not compared:
        return pd.DataFrame(), pd.DataFrame()
    return pd.concat(compared, ignore_index=True), pd.concat(thirds, ignore_index=True)


def _ranked(course: pd.DataFrame, risk: "pd.Series[float]", basis: str, rng: np.random.Generator) -> dict[str, object]:
    known = course[course["patient"].isin(risk.index)]
    value, low, high = progression.concordance_with_interval(
        known["time"], risk[known["patient"]].to_numpy(), known["event"] == progression.PROGRESSED, rng=rng
    )
    events = int((known["event"] == progression.PROGRESSED).sum())
    return {
        "measure": "concordance of predicted progression",
        "basis": basis,
        "value": value,
        "lower": low,
        "upper": high,
        "n": len(known),
        "note": f"{events} progressions",
    }


def _separated(
    tree: xr.DataTree, cohort: Cohort, rng: np.random.Generator, missing: list[str]
) -> list[dict[str, object]]:
    columns = {str(name).lower(): name for name in cohort.covariates.columns}
    if RESPONSE_COLUMN not in columns:
        missing.append(f"The cohort has no covariate {RESPONSE_COLUMN}: burden is not compared with response.")
        return []
    if "curves" not in tree.children or "burden" not in tree["curves"].to_dataset():
        return []
    curves = tree["curves"].to_dataset()
    patients = [str(name) for name in curves["patient"].values]
    recorded = cohort.covariates[columns[RESPONSE_COLUMN]].astype(str)
    burden = progression.value_at(
        curves["burden"].transpose("sample", "patient", "time").values,
        curves["time"].values,
        progression.RESPONSE_DAY,
    )
    response = [str(recorded.get(name, "")) for name in patients]
    value, low, high, worse, better = progression.separation(burden, response, rng=rng)
    if not np.isfinite(value):
        missing.append("No patient with SD or PD at day 30, or none with a response: burden cannot separate them.")
        return []
    return [
        {
            "measure": "area under the curve: burden at day 30, SD or PD against response",
            "basis": "in-sample",
            "value": value,
            "lower": low,
            "upper": high,
            "n": worse + better,
            "note": f"{worse} SD or PD, {better} responders",
        }
    ]
