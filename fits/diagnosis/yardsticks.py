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
from . import predictive, progression, scores, stein

CUTOFF: Final = 40.0
"""Last day that a forecast may see, unless the run's own forecast says otherwise."""

UNTIL: Final = 130.0
"""Last day that is forecast: the visits of about day 100."""

FOLDS: Final = 10  # of the patients, for the empirical rival; our own forecasts leave out one patient
FEWEST_PATIENTS: Final = 8
FEWEST_ROWS: Final = 4
HORIZON: Final = 180.0
"""Day whose predicted cumulative hazard ranks the patients."""

EMPIRICAL: Final = ("transgene", "cart")
CARRIED: Final = "sbcma"
RESPONSE_COLUMN: Final = "resp_30d"


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """What was computed, and a sentence for each thing that could not be.

    Attributes
    ----------
    forecast
        From `stein.forecast_table`, one row per model and assay; empty when there is nothing to forecast.
    differences
        `dvid`, `n`, `difference` and `difference_se` of elpd, model less rival on the same rows.
    survival
        From `progression.compare_survival`.
    discrimination
        `measure`, `basis`, `value`, `lower`, `upper`, `n`, `note`.
    missing
        Sentences.
    """

    forecast: pd.DataFrame = field(default_factory=pd.DataFrame)
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
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
    missing: list[str] = []
    table, differences = _forecasts(tree, cohort, forecast, rng, missing)
    course = progression.first_course(cohort)
    survival, lines = pd.DataFrame(), []
    if len(course) == 0:
        missing.append("The cohort has no rows of progression: nothing to compare survival with.")
    elif "curves" not in tree.children or "cumhaz" not in tree["curves"].to_dataset():
        missing.append("The run has no predicted curves of progression.")
    else:
        curves = tree["curves"].to_dataset()
        patients = [str(name) for name in curves["patient"].values]
        hazard = curves["cumhaz"].transpose("sample", "patient", "time").values
        days = curves["time"].values.astype(float)
        survival = progression.compare_survival(course, hazard, patients, days)
        at = min(HORIZON, float(days[-1]))
        risk = pd.Series(progression.value_at(hazard, days, at), index=patients)
        lines.append(_ranked(course, risk, f"in-sample, cumulative hazard at day {at:.0f}", rng))
    if forecast is not None and "risk" in forecast and len(course):
        withheld = pd.Series(forecast["risk"].values, index=[str(name) for name in forecast["subject"].values])
        lines.append(_ranked(course, withheld, "each patient's own outcome withheld", rng))
    lines += _separated(tree, cohort, rng, missing)
    return Yardsticks(
        forecast=table,
        differences=differences,
        survival=survival,
        discrimination=pd.DataFrame(lines),
        missing=tuple(missing),
    )


def infusion_days(cohort: Cohort) -> dict[str, list[float]]:
    """Return the days of the infusions by patient."""
    return {
        str(name): sorted(float(day) for day in rows["TIME"])
        for name, rows in cohort.infusions.groupby("ID", sort=False)
    }


def _forecasts(
    tree: xr.DataTree,
    cohort: Cohort,
    forecast: xr.Dataset | None,
    rng: np.random.Generator,
    missing: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the run's own forecast, Stein's curve and the last value carried forward on the same rows."""
    cutoff = float(forecast.attrs.get("cutoff_day", CUTOFF)) if forecast is not None else CUTOFF
    rows = _first_course_rows(tree, infusion_days(cohort))
    tables: list[pd.DataFrame] = []
    scored: dict[str, pd.DataFrame] = {}
    if forecast is not None:
        own = _own_forecast(forecast)
        scored["model"] = own
        tables.append(stein.forecast_table(own, own["dvid"].to_numpy(dtype=str), model="this model"))
    else:
        missing.append(
            "The run holds no forecast of withheld rows (forecast.nc): the rivals are scored, the model is not."
        )
    rival = []
    for dvid in EMPIRICAL:
        part = _stein_forecast(rows[rows["dvid"] == dvid], cutoff, rng)
        if part is None:
            missing.append(f"Too few later rows of {dvid} to forecast.")
        else:
            rival.append(part)
    if rival:
        scored["stein"] = _same_rows(pd.concat(rival, ignore_index=True), scored.get("model"))
        kinds = scored["stein"]["dvid"].to_numpy(dtype=str)
        tables.append(stein.forecast_table(scored["stein"], kinds, model="Stein 2019, empirical"))
    carried = _carried(rows[rows["dvid"] == CARRIED], cutoff)
    if carried is not None:
        tables.append(carried)
    differences = _paired(scored["model"], scored["stein"]) if {"model", "stein"} <= set(scored) else pd.DataFrame()
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()), differences


def _first_course_rows(tree: xr.DataTree, infusions: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return the rows the fit used, up to the patient's second infusion."""
    observed = tree["observed_data"].to_dataset()
    table = pd.DataFrame(
        {name: observed[name].values for name in ("patient", "time", "dvid", "value", "cens", "product")}
    ).astype({"patient": str, "dvid": str, "product": str})
    second = {name: days[1] for name, days in infusions.items() if len(days) > 1}
    ends = table["patient"].map(second).astype(float).fillna(np.inf)
    return table[table["time"] <= ends].reset_index(drop=True)


def _own_forecast(forecast: xr.Dataset) -> pd.DataFrame:
    value = predictive.to_log(forecast["value"].values, forecast["dvid"].values.astype(str))
    nu = float(forecast["nu"]) if "nu" in forecast else stein.NU
    scored = stein.score_forecast(
        value=value,
        cens=forecast["cens"].values,
        centre=forecast["prediction"].transpose("sample", "row").values,
        sigma=forecast["sigma"].transpose("sample", "row").values,
        nu=nu,
        lower=predictive.lower_ends(forecast),
    )
    names = {name: forecast[name].values for name in ("patient", "time", "dvid")}
    return scored.assign(**names).astype({"patient": str, "dvid": str})


def _stein_forecast(rows: pd.DataFrame, cutoff: float, rng: np.random.Generator) -> pd.DataFrame | None:
    later = rows[(rows["time"] > cutoff) & (rows["time"] <= UNTIL)]
    if rows["patient"].nunique() < FEWEST_PATIENTS or len(later) < FEWEST_ROWS:
        return None
    used = rows[rows["time"] <= UNTIL].reset_index(drop=True)
    place, centre, weights, sigma = stein.forecast_by_fold(
        patient=used["patient"].to_numpy(dtype=str),
        product=used["product"].to_numpy(dtype=str),
        time=used["time"].to_numpy(),
        value=used["value"].to_numpy(),
        cens=used["cens"].to_numpy(),
        cutoff=cutoff,
        until=UNTIL,
        folds=FOLDS,
        rng=rng,
    )
    if len(place) < FEWEST_ROWS:
        return None
    held = used.iloc[place].reset_index(drop=True)
    scored = stein.score_forecast(
        value=np.log(held["value"].to_numpy(dtype=float)),
        cens=held["cens"].to_numpy(),
        centre=centre,
        sigma=sigma,
        log_weights=weights,
    )
    return scored.assign(patient=held["patient"], time=held["time"], dvid=held["dvid"])


def _same_rows(rival: pd.DataFrame, own: pd.DataFrame | None) -> pd.DataFrame:
    if own is None:
        return rival
    wanted = set(zip(own["patient"], own["time"], own["dvid"], strict=True))
    keys = zip(rival["patient"], rival["time"], rival["dvid"], strict=True)
    return rival[[key in wanted for key in keys]].reset_index(drop=True)


def _paired(own: pd.DataFrame, rival: pd.DataFrame) -> pd.DataFrame:
    joined = own.merge(rival, on=["patient", "time", "dvid"], suffixes=("", "_rival"))
    lines = []
    for dvid, rows in joined.groupby("dvid", sort=True):
        gap = rows["elpd"] - rows["elpd_rival"]
        spread = float(np.sqrt(len(gap)) * gap.std(ddof=1)) if len(gap) > 1 else float("nan")
        lines.append({"dvid": dvid, "n": len(gap), "difference": float(gap.sum()), "difference_se": spread})
    return pd.DataFrame(lines)


def _carried(rows: pd.DataFrame, cutoff: float) -> pd.DataFrame | None:
    used = rows[rows["time"] <= UNTIL].reset_index(drop=True)
    place, value = stein.last_value_carried_forward(
        patient=used["patient"].to_numpy(dtype=str), time=used["time"], value=used["value"], cutoff=cutoff
    )
    if len(place) < FEWEST_ROWS:
        return None
    held = used.iloc[place]
    error = scores.error_in_log(np.log(held["value"].to_numpy(dtype=float)), held["cens"], np.log(value))
    line = {
        "model": "last value carried forward",
        "dvid": CARRIED,
        "n": len(place),
        "n_censored": int((held["cens"] != 0).sum()),
        "error_in_ln": float(np.median(error)),
    }
    return pd.DataFrame([line])


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
