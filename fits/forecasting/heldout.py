"""Are such forecasts calibrated? Every patient of a run, forecast by the others from its own data up to a day.

The run's population is freed of the patient by weights (`posterior`), and then given the patient's rows up to the day,
as `temporal.known_on` has them. What came later is scored as every forecast is (`diagnosis.forecasts`,
`diagnosis.landmark`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from ..cohort import Cohort, read_cohort
from ..diagnosis import forecasts, landmark
from ..diagnosis.progression import first_course
from ..holdout import late_rows
from ..problem import Problem
from ..reopened import Reopened
from ..results import DEGREES
from ..temporal import known_on
from .patient import alone, one_patient, pose_patient
from .posterior import Integral, PatientPosterior, integral_of, populations_of, weighed
from .predictions import Predictions

CUTOFFS: Final = (14.0, 30.0, 60.0)
HORIZONS: Final = (90.0, 180.0, 365.0)
UNTIL: Final = 365.0  # rows after it are not scored
RELIABILITY_DAY: Final = 180.0


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Scores of all forecasts.

    Attributes
    ----------
    measurements : DataFrame
        By cut-off and assay: `diagnosis.forecasts.by_assay`.
    progression : DataFrame
        By cut-off and horizon: the columns of `landmark.compare`, and the chance predicted on average.
    reliability : DataFrame
        By cut-off, at `RELIABILITY_DAY`: `landmark.thirds`.
    draws : DataFrame
        `patient`, `cutoff`, `effective`, `pareto_k`, `trusted`.
    own : DataFrame
        `patient`, `deviation`, `shift`, `ratio`: each patient's deviations, all its rows given, beside those of the run
        itself: difference of the means in sds, ratio of the sds.
    """

    measurements: pd.DataFrame
    progression: pd.DataFrame
    reliability: pd.DataFrame
    draws: pd.DataFrame
    own: pd.DataFrame


def hold_out(
    run: Reopened,
    rng: np.random.Generator,
    *,
    cutoffs: Sequence[float] = CUTOFFS,
    cores: int = 1,
    tick: Callable[[float], None] = lambda _: None,
) -> HeldOut:
    """Forecast every patient of a run from every cut-off by the others.

    Parameters
    ----------
    run
        A finished run.
    rng
        Every random number comes from it.
    cutoffs
        Last days that forecasts see; none below day 10.
    cores
        Threads; they do not change the result.
    tick
        Told of each patient, and of each forecast.
    """
    cohort = read_cohort(run.run.cohort_path)
    known = {cutoff: known_on(cohort, cutoff) for cutoff in cutoffs}
    later = {cutoff: late_rows(run.problem, cutoff, UNTIL) for cutoff in cutoffs}
    place, hyper = populations_of(run.draws)
    scored, free, draws, own = [], [], [], []
    for name, stream in zip(cohort.patients, rng.spawn(len(cohort.patients)), strict=True):
        full = integral_of(_known(run, cohort, name), hyper, stream, cores=cores)
        own += _own(run, name, full)
        tick(1.0)
        for cutoff in cutoffs:
            if _alive(known[cutoff], name):
                posed = pose_patient(run, one_patient(known[cutoff], name), same=True)
                now = integral_of(posed.problem, hyper, stream, cores=cores)
                found = weighed(posed, place, hyper, now, full)
                draws.append(_quality(found, name, cutoff))
                rows = later[cutoff]
                rows = rows.isel(row=np.flatnonzero(rows["patient"].values.astype(str) == name))
                predictions = Predictions(found, np.unique([0.0, cutoff, *HORIZONS, *rows["time"].values]))
                if rows.sizes["row"]:
                    scored.append(forecasts.own(_as_forecast(predictions, rows, cutoff)))
                free.append(_free(predictions, name, cutoff))
            tick(1.0)
    progressed, reliable = _progression(cohort, pd.DataFrame(free), rng)
    rows_scored = pd.concat(scored, ignore_index=True).sort_values("cutoff", kind="stable")
    quality = pd.DataFrame(draws).sort_values("cutoff", kind="stable")
    return HeldOut(forecasts.by_assay(rows_scored), progressed, reliable, quality, pd.DataFrame(own))


def _known(run: Reopened, cohort: Cohort, name: str) -> Problem:
    """A patient as the run has seen it, who may have died since."""
    return alone(run.problem, cohort.patients.index(name), name)


def _alive(cohort: Cohort, name: str) -> bool:
    """Whether a patient has rows and is not known to have died."""
    rows = cohort.table[cohort.table["ID"] == name]
    return len(rows) > 0 and not ((rows["DVID"] == "death") & (rows["DV"] == 1)).any()


def _quality(found: PatientPosterior, name: str, cutoff: float) -> dict[str, Any]:
    return {
        "patient": name,
        "cutoff": cutoff,
        "effective": found.effective,
        "pareto_k": found.pareto_k,
        "trusted": not found.doubts,
    }


def _as_forecast(predictions: Predictions, rows: xr.Dataset, cutoff: float) -> xr.Dataset:
    """Predictions of later rows in the form that is scored (`RunFolder.write_forecast`)."""
    at = np.searchsorted(predictions.times, rows["time"].values)
    names = rows["dvid"].values.astype(str)
    parts = [predictions.centre(name) for name in names]
    centre = np.stack([part[0][:, k] for part, k in zip(parts, at, strict=True)], axis=1)
    weight = np.where(np.isfinite(centre), predictions.weights[:, at], 0.0)
    with np.errstate(divide="ignore"):
        log_weight = np.log(weight)
    data: dict[str, Any] = {str(name): rows[name] for name in rows.data_vars}
    data |= {
        "prediction": (("sample", "row"), np.nan_to_num(centre)),
        "sigma": (("sample", "row"), np.broadcast_to(np.hstack([part[1] for part in parts]), centre.shape)),
        "log_weight": (("sample", "row"), log_weight),
        "cutoff_day": ("row", np.full(rows.sizes["row"], cutoff)),
        "nu": ((), DEGREES),
    }
    return xr.Dataset(data)


def _free(predictions: Predictions, name: str, cutoff: float) -> dict[str, Any]:
    """Chance of being free at each horizon, given that the patient is so on the cut-off day."""
    hazard, weight = predictions.hazard, predictions.posterior.weight
    found: dict[str, Any] = {"patient": name, "cutoff": cutoff}
    for day in HORIZONS:
        chance = np.full(weight.size, np.nan)
        if hazard is not None and predictions.posterior.patient.progressed_on is None:
            chance = np.exp(-hazard[:, np.searchsorted(predictions.times, day)])
        solved = np.isfinite(chance)
        found[f"{day:g}"] = float(weight[solved] @ chance[solved] / weight[solved].sum()) if solved.any() else np.nan
    return found


def _progression(cohort: Cohort, chances: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of the chances by cut-off and horizon, and their reliability."""
    rows = cohort.observations.rename(columns={"ID": "patient", "TIME": "time", "DVID": "dvid", "DV": "value"})
    tables, thirds = [], []
    for cutoff in np.unique(chances["cutoff"]).tolist():
        own = chances[chances["cutoff"] == cutoff]
        course = landmark.at_risk(first_course(cohort), cutoff)
        free, reliable = own.set_index("patient").reindex(course["patient"]), f"{RELIABILITY_DAY:g}"
        seen = free[reliable].notna().to_numpy()
        course, free = course[seen].reset_index(drop=True), free[seen]
        if len(course) < landmark.FEWEST:
            continue
        for day in HORIZONS:
            if day > cutoff:
                chance = free[f"{day:g}"].to_numpy()
                table = landmark.compare(course, chance, rows, cutoff=cutoff, day=day, rng=rng)
                predicted = np.where(table["model"] == forecasts.MODEL, 1.0 - chance.mean(), np.nan)
                tables.append(table.assign(day=day, predicted=predicted))
        thirds.append(landmark.thirds(course, free[reliable].to_numpy(), cutoff=cutoff, day=RELIABILITY_DAY))
    if not tables:  # too few patients at risk
        return pd.DataFrame(), pd.DataFrame()
    return pd.concat(tables, ignore_index=True), pd.concat(thirds, ignore_index=True)


def _own(run: Reopened, name: str, full: Integral) -> list[dict[str, Any]]:
    """A patient's deviations with all its rows, beside the run's own."""
    place = run.problem.patients.index(name)
    mean, sd = full.deviation.mean(axis=0), full.deviation.std(axis=0)
    theirs = run.draws.deviation[:, :, place].reshape(-1, mean.size)
    names = [*run.problem.random, *("occasion" for _ in range(mean.size - len(run.problem.random)))]
    return [
        {
            "patient": name,
            "deviation": label,
            "shift": (mean[k] - theirs[:, k].mean()) / theirs[:, k].std(),
            "ratio": sd[k] / theirs[:, k].std(),
        }
        for k, label in enumerate(names)
    ]
