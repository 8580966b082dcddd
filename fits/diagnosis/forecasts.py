"""Forecasts of withheld rows scored beside simple rivals, for every cut-off day of a run's forecast.

Rivals: Stein's empirical curve, fitted to the other patients and to the patient's early rows; and the last value
carried forward, with the spread of the other patients' changes, as it stands or with their typical change added.
All are scored on the same rows with the same residual law, so that elpd and CRPS compare.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy.optimize import minimize

from . import predictive, scores, stein

Array = npt.NDArray[np.float64]

CUTOFF: Final = 40.0
"""Last day that a forecast may see, where a run has none of its own."""

UNTIL: Final = 130.0
"""Last day that is forecast: the visits of about day 100."""

FOLDS: Final = 10  # of the patients, for the empirical curve; our own forecasts leave out one patient
FEWEST_PATIENTS: Final = 8
FEWEST_ROWS: Final = 4
FEWEST_CHANGES: Final = 5  # of other patients, for the spread of the last value
EMPIRICAL: Final = ("transgene", "cart")
CARRIED: Final = ("transgene", "cart", "sbcma", "mprotein")
KEYS: Final = ["cutoff", "patient", "time", "dvid"]
NAMES: Final = ("patient", "time", "dvid", "product")

MODEL: Final = "this model"
CURVE: Final = "Stein 2019, empirical"
LAST: Final = "last value"
CHANGED: Final = "last value + typical change"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was scored.

    Attributes
    ----------
    rows
        By forecast row and model: `cutoff`, `model`, `patient`, `time`, `dvid`, `product` and the columns of
        `stein.score_forecast`.
    table
        By cut-off, model and assay: those of `stein.forecast_table`, on the rows that each model has (`n`).
    differences
        `cutoff`, `rival`, `dvid`, `n`, `difference`, `difference_se` of elpd, model less rival, and the same of
        CRPS, rival less model (`crps_difference`, `crps_difference_se`): positive is in our favour.
    missing
        Sentences on what could not be scored.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: tuple[str, ...] = ()


def score(rows: pd.DataFrame, forecast: xr.Dataset | None, rng: np.random.Generator, *, folds: int = FOLDS) -> Scored:
    """Score a run's forecast and its rivals.

    Parameters
    ----------
    rows
        All assay rows of first infusions: `patient`, `time`, `dvid`, `value`, `cens`, `product`.
    forecast
        `RunFolder.forecast()`; None: the rivals alone, from `CUTOFF`.
    rng
        Deals the patients into folds and draws the curve's parameters.
    folds
        Of the empirical curve; 1: it sees nobody's later rows.
    """
    missing: list[str] = []
    cutoffs = [CUTOFF] if forecast is None else sorted({float(day) for day in forecast["cutoff_day"].values})
    after = max(*cutoffs, CUTOFF)
    parts: list[pd.DataFrame] = []
    if forecast is None:
        missing.append(
            "The run holds no forecast of withheld rows (forecast.nc): the rivals are scored, the model is not."
        )
    else:
        parts.append(own(forecast))
    for cutoff in cutoffs:
        for dvid in EMPIRICAL:
            part = by_curve(rows[rows["dvid"] == dvid], cutoff, rng, after=after, folds=folds)
            if part is None:
                missing.append(f"Too few later rows of {dvid} to forecast from day {cutoff:.0f}.")
            else:
                parts.append(part)
        for dvid in CARRIED:
            for model in (LAST, CHANGED):
                part = by_last_value(rows[rows["dvid"] == dvid], cutoff, after=after, change=model == CHANGED)
                if part is not None:
                    parts.append(part)
    scored = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return Scored(rows=scored, table=by_assay(scored), differences=_differences(scored), missing=tuple(missing))


def own(forecast: xr.Dataset) -> pd.DataFrame:
    """Return the rows of a run's forecast, scored."""
    value = predictive.to_log(forecast["value"].values, forecast["dvid"].values.astype(str))
    scored = stein.score_forecast(
        value=value,
        cens=forecast["cens"].values,
        centre=forecast["prediction"].transpose("sample", "row").values,
        sigma=forecast["sigma"].transpose("sample", "row").values,
        nu=float(forecast["nu"]) if "nu" in forecast else stein.NU,
        lower=predictive.lower_ends(forecast),
        log_weights=forecast["log_weight"].transpose("sample", "row").values,
    )
    names = {name: forecast[name].values for name in ("patient", "time", "dvid", "product") if name in forecast}
    return scored.assign(model=MODEL, cutoff=forecast["cutoff_day"].values, **names).astype(
        {"patient": str, "dvid": str}
    )


def by_curve(
    rows: pd.DataFrame,
    cutoff: float,
    rng: np.random.Generator,
    *,
    after: float | None = None,
    folds: int = FOLDS,
) -> pd.DataFrame | None:
    """Return the later rows of one assay forecast by Stein's curve, scored; None where there are too few.

    Parameters
    ----------
    rows
        Of one assay.
    cutoff, after
        Last day that is seen, and the day after which rows are forecast (the same when None).
    rng
        Deals the patients into folds and draws the curve's parameters.
    folds
        Their number.
    """
    used = rows[rows["time"] <= UNTIL].reset_index(drop=True)
    begin = cutoff if after is None else after
    if used["patient"].nunique() < FEWEST_PATIENTS or (used["time"] > begin).sum() < FEWEST_ROWS:
        return None
    place, centre, weights, sigma = stein.forecast_by_fold(
        patient=used["patient"].to_numpy(dtype=str),
        product=used["product"].to_numpy(dtype=str),
        time=used["time"].to_numpy(),
        value=used["value"].to_numpy(),
        cens=used["cens"].to_numpy(),
        cutoff=cutoff,
        until=UNTIL,
        folds=folds,
        rng=rng,
    )
    late = used["time"].to_numpy()[place] > begin
    if late.sum() < FEWEST_ROWS:
        return None
    held = used.iloc[place[late]].reset_index(drop=True)
    scored = stein.score_forecast(
        value=np.log(held["value"].to_numpy(dtype=float)),
        cens=held["cens"].to_numpy(),
        centre=centre[:, late],
        sigma=sigma[late],
        log_weights=weights[:, late],
    )
    return scored.assign(model=CURVE, cutoff=cutoff, **{name: held[name] for name in NAMES})


def by_last_value(
    rows: pd.DataFrame, cutoff: float, *, after: float | None = None, change: bool = False
) -> pd.DataFrame | None:
    """Return the later rows of one assay forecast by the patient's last value, scored; None where there are too few.

    The spread is that of the other patients' changes from their own last value, Student's t on the ln scale, fitted
    by maximum likelihood with censored rows as M3; with ``change`` their location is fitted as well and added.

    Parameters
    ----------
    rows, cutoff, after
        As for `by_curve`.
    change
        Whether to add the others' typical change.
    """
    used = rows[rows["time"] <= UNTIL].reset_index(drop=True)
    kinds = used["dvid"].to_numpy(dtype=str)
    begin = cutoff if after is None else after
    place, last = stein.last_value_carried_forward(
        patient=used["patient"].to_numpy(dtype=str), time=used["time"], value=used["value"], cutoff=cutoff
    )
    late = used["time"].to_numpy()[place] > begin
    place, last = place[late], last[late]
    held = used.iloc[place].reset_index(drop=True)
    if held["patient"].nunique() <= FEWEST_CHANGES:
        return None
    value = predictive.to_log(held["value"].to_numpy(dtype=float), kinds[place])
    start, flags = predictive.to_log(last, kinds[place]), held["cens"].to_numpy()
    location, scale = np.empty(len(held)), np.empty(len(held))
    for patient in held["patient"].unique():
        mine = (held["patient"] == patient).to_numpy()
        location[mine], scale[mine] = spread((value - start)[~mine], flags[~mine], change=change)
    scored = stein.score_forecast(value=value, cens=flags, centre=(start + location)[None], sigma=scale)
    return scored.assign(model=CHANGED if change else LAST, cutoff=cutoff, **{name: held[name] for name in NAMES})


def spread(changes: Array, cens: npt.NDArray[np.int64], *, change: bool) -> tuple[float, float]:
    """Return location and scale of changes by maximum likelihood; the location is 0 unless ``change``."""

    def negative(x: Array) -> float:
        centre = np.full((1, changes.size), x[1] if change else 0.0)
        density = scores.log_density(changes, cens, centre=centre, sigma=np.exp(x[0]), nu=stein.NU)
        return -float(density.sum())

    start = [np.log(np.std(changes) + 0.1), float(np.median(changes))][: 2 if change else 1]
    found = minimize(negative, start, method="Nelder-Mead").x
    return float(found[1]) if change else 0.0, float(np.exp(found[0]))


def by_assay(scored: pd.DataFrame) -> pd.DataFrame:
    """Return scores by cut-off, model and assay: `Scored.table`."""
    lines = []
    for (_, model), rows in scored.groupby(["cutoff", "model"], sort=False) if len(scored) else ():
        table = stein.forecast_table(rows, rows["dvid"].to_numpy(dtype=str), model=str(model))
        table.insert(0, "cutoff", rows["cutoff"].iloc[0])
        lines.append(table)
    if not lines:
        return pd.DataFrame()
    found = pd.concat(lines, ignore_index=True)
    order = found["dvid"].map({name: place for place, name in enumerate(CARRIED)})
    return found.iloc[np.lexsort((order, found["cutoff"]))].reset_index(drop=True)


def _differences(scored: pd.DataFrame) -> pd.DataFrame:
    """Paired over rows: model against each rival, on the rows that both have."""
    lines = []
    mine = scored[scored["model"] == MODEL] if len(scored) else scored
    for rival in (CURVE, LAST, CHANGED) if len(mine) else ():
        joined = mine.merge(scored[scored["model"] == rival], on=KEYS, suffixes=("", "_rival"))
        for (cutoff, dvid), rows in joined.groupby(["cutoff", "dvid"], sort=False):
            better, closer = rows["elpd"] - rows["elpd_rival"], rows["crps_rival"] - rows["crps"]
            lines.append(
                {
                    "cutoff": cutoff,
                    "rival": rival,
                    "dvid": dvid,
                    "n": len(rows),
                    "difference": float(better.sum()),
                    "difference_se": _error_of_sum(better),
                    "crps_difference": float(closer.mean()),
                    "crps_difference_se": _error_of_sum(closer) / len(rows),
                }
            )
    return pd.DataFrame(lines)


def _error_of_sum(parts: "pd.Series[float]") -> float:
    return float(np.sqrt(len(parts)) * parts.std(ddof=1)) if len(parts) > 1 else float("nan")
