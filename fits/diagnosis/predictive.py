"""Predictive checks: what the fitted model says the laboratory should have seen, against what it saw.

The draws in `/posterior_predictive` are new measurements of the same patients at the same times, so a patient
who left the study is compared over the time he or she was seen, and no dropout has to be simulated. They are
kinder to a model than a forecast: the patient's own data shaped the patient's parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from reinfuse.model.errors import ReinfuseError

from ..assays import LOG_OFFSET, log_offset
from . import scores

Array = npt.NDArray[np.float64]

WINDOWS: Final[tuple[tuple[float, str], ...]] = (
    (0.5, "day 0 or before"),
    (10.5, "day 1 to 10"),
    (20.5, "day 11 to 20"),
    (45.5, "day 21 to 45"),
    (75.5, "day 46 to 75"),
    (135.5, "day 76 to 135"),
    (250.5, "day 136 to 250"),
    (float("inf"), "after day 250"),
)
"""Visit windows by days since the latest infusion: upper edge and name."""

FEWEST: Final = 3
"""Windows with fewer observations are not tested: a median of two says nothing."""


def to_log(value: npt.ArrayLike, dvid: npt.ArrayLike) -> Array:
    """Return values of an assay on the scale of its residual error, ln(value + offset of the assay)."""
    offset = log_offset(np.asarray(dvid))
    return np.asarray(np.log(np.maximum(np.asarray(value, dtype=float) + offset, np.finfo(float).tiny)))


def window_of(days: npt.ArrayLike) -> list[str]:
    """Return the name of the visit window of each day since the latest infusion."""
    edges = [edge for edge, _ in WINDOWS[:-1]]
    return [WINDOWS[place][1] for place in np.searchsorted(edges, np.asarray(days, dtype=float))]


def per_observation(tree: xr.DataTree, infusions: Mapping[str, Sequence[float]] | None = None) -> pd.DataFrame:
    """Return every observation beside its prediction.

    Parameters
    ----------
    tree
        A run's posterior with `/posterior_predictive` and `/observed_data`.
    infusions
        Days of the infusions by patient; one infusion at day 0 when None.

    Returns
    -------
    DataFrame
        One row per observation, in order: `patient`, `time` (days since the first infusion), `since` (days
        since the latest), `window`, `dvid`, `product`, `value`, `cens`, `lloq` (NaN where no limit is known),
        and on the scale of the residuals (ln, but for absolute errors of a user's own model) `observed`,
        `predicted` (median prediction), `lower`, `upper` (95 % predictive
        interval), `rank_low`, `rank_high`, `residual` (observed less predicted) and `deviate` (quantile
        residual, standard normal under the model); the last two are NaN for censored rows. Rows the model
        does not predict (progression, death) are left out.

    Raises
    ------
    ReinfuseError
        If observations and predictions do not match.
    """
    draws, centre = _draws(tree, "y"), _draws(tree, "prediction")
    observed = _predicted_rows(tree["observed_data"].to_dataset(), draws.shape[1])
    table = pd.DataFrame(
        {
            "patient": observed["patient"].values.astype(str),
            "time": observed["time"].values.astype(float),
            "dvid": observed["dvid"].values.astype(str),
            "product": observed["product"].values.astype(str),
            "value": observed["value"].values.astype(float),
            "cens": observed["cens"].values.astype(int),
        }
    )
    table.insert(2, "since", _since(table, infusions or {}))
    table.insert(3, "window", window_of(table["since"]))
    given = observed["lloq"].values.astype(float) if "lloq" in observed else None
    table["lloq"] = _limits(table, given)
    value = table["value"].to_numpy()
    logged = observed["log"].values.astype(bool) if "log" in observed else np.ones(len(table), dtype=bool)
    log_value = np.where(logged, to_log(np.where(logged, value, 1.0), table["dvid"]), value)
    low, high = scores.rank_bounds(draws, log_value, table["cens"], lower_ends(observed))
    table["observed"] = log_value
    table["predicted"] = np.median(centre, axis=0)
    table["lower"], table["upper"] = np.quantile(draws, [0.025, 0.975], axis=0)
    table["rank_low"], table["rank_high"] = low, high
    quantified = table["cens"].to_numpy() == 0
    table["residual"] = np.where(quantified, log_value - table["predicted"], np.nan)
    table["deviate"] = np.where(quantified, scores.normal_rank(low, high), np.nan)
    keep = np.isfinite(draws).all(axis=0) & ~table["dvid"].isin(["progression", "death"]).to_numpy()
    return table[keep]


def lower_ends(observed: xr.Dataset) -> Array | None:
    """Return lower ends of intervals on the scale of the residuals, NaN elsewhere; None where the data hold none."""
    if "lower" not in observed:
        return None
    lower = observed["lower"].values.astype(float)
    logged = np.isfinite(lower)
    if "log" in observed:
        logged &= observed["log"].values.astype(bool)
    return np.where(logged, to_log(np.where(logged, lower, 1.0), observed["dvid"].values.astype(str)), lower)


def coverage_table(observations: pd.DataFrame) -> pd.DataFrame:
    """Return by assay how many observations lie in central predictive intervals.

    Parameters
    ----------
    observations
        From `per_observation`.

    Returns
    -------
    DataFrame
        `dvid`, `n`, `n_censored`, and `inside_50`, `inside_80`, `inside_95`: shares of all observations,
        censored ones counted by the part of their possible ranks (see `scores.coverage`).
    """
    lines = []
    for dvid, rows in observations.groupby("dvid", sort=True):
        low, high = rows["rank_low"].to_numpy(), rows["rank_high"].to_numpy()
        line: dict[str, object] = {"dvid": dvid, "n": len(rows), "n_censored": int((rows["cens"] != 0).sum())}
        for level in scores.LEVELS:
            line[f"inside_{level * 100:.0f}"] = float(scores.coverage(low, high, level).mean())
        lines.append(line)
    return pd.DataFrame(lines)


def blq_table(tree: xr.DataTree, observations: pd.DataFrame) -> pd.DataFrame:
    """Return observed and predicted shares of values below the limit of quantification.

    Parameters
    ----------
    tree
        The run's posterior.
    observations
        From `per_observation`; rows without a known limit are left out.

    Returns
    -------
    DataFrame
        `dvid`, `product`, `window`, `n`, `observed`, `predicted` (median over draws), `lower`, `upper` (95 %
        interval over draws).
    """
    draws = _draws(tree, "y")
    lines = []
    limited = observations[np.isfinite(observations["lloq"])]
    for (dvid, product, window), rows in _grouped(limited):
        limit = to_log(rows["lloq"], rows["dvid"])
        shares = (draws[:, rows.index.to_numpy()] < limit).mean(axis=1)
        low, middle, high = np.quantile(shares, [0.025, 0.5, 0.975])
        lines.append(
            {
                "dvid": dvid,
                "product": product,
                "window": window,
                "n": len(rows),
                "observed": float((rows["cens"] > 0).mean()),
                "predicted": middle,
                "lower": low,
                "upper": high,
            }
        )
    return pd.DataFrame(lines, columns=["dvid", "product", "window", "n", "observed", "predicted", "lower", "upper"])


def median_table(tree: xr.DataTree, observations: pd.DataFrame) -> pd.DataFrame:
    """Return observed and predicted medians by assay, product and visit window, with p-values.

    Values below a limit are set to the limit, in the data and in the draws alike.

    Parameters
    ----------
    tree
        The run's posterior.
    observations
        From `per_observation`.

    Returns
    -------
    DataFrame
        `dvid`, `product`, `window`, `n`, `observed`, `predicted`, `lower`, `upper` (95 % interval; all
        natural scale) and `p_value`: two-sided posterior predictive p-value of the median.
    """
    draws = _draws(tree, "y")
    lines = []
    for (dvid, product, window), rows in _grouped(observations):
        if len(rows) < FEWEST:
            continue
        floor = np.where(np.isfinite(rows["lloq"]), to_log(rows["lloq"].fillna(1.0), rows["dvid"]), -np.inf)
        seen = float(np.median(np.maximum(rows["observed"], floor)))
        medians = np.median(np.maximum(draws[:, rows.index.to_numpy()], floor), axis=1)
        above, below = float((medians >= seen).mean()), float((medians <= seen).mean())
        low, middle, high = np.quantile(medians, [0.025, 0.5, 0.975])
        offset = LOG_OFFSET.get(str(dvid), 0.0)
        lines.append(
            {
                "dvid": dvid,
                "product": product,
                "window": window,
                "n": len(rows),
                "observed": np.exp(seen) - offset,
                "predicted": np.exp(middle) - offset,
                "lower": np.exp(low) - offset,
                "upper": np.exp(high) - offset,
                "p_value": min(1.0, 2 * min(above, below)),
            }
        )
    columns = ["dvid", "product", "window", "n", "observed", "predicted", "lower", "upper", "p_value"]
    return pd.DataFrame(lines, columns=columns)


def _predicted_rows(observed: xr.Dataset, count: int) -> xr.Dataset:
    """Return the observed rows that predictions exist for: all of them, or all but progression and death."""
    if observed.sizes["observation"] != count:
        events = np.isin(observed["dvid"].values.astype(str), ("progression", "death"))
        observed = observed.isel(observation=np.flatnonzero(~events))
    if observed.sizes["observation"] != count:
        raise ReinfuseError(
            f"/posterior_predictive holds {count} observations, /observed_data "
            f"{observed.sizes['observation']} "
            "besides progression and death. Fit again."
        )
    return observed


def _draws(tree: xr.DataTree, variable: str) -> Array:
    """Return draws as (sample, observation)."""
    array = tree["posterior_predictive"].to_dataset()[variable].transpose("chain", "draw", "observation")
    return np.asarray(array.values, dtype=float).reshape(-1, array.sizes["observation"])


def _grouped(observations: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Return the rows by assay, product and window, windows in the order of time."""
    order = {name: place for place, (_, name) in enumerate(WINDOWS)}
    groups = [
        ((str(key[0]), str(key[1]), str(key[2])), rows)
        for key, rows in observations.groupby(["dvid", "product", "window"], sort=True)
    ]
    return sorted(groups, key=lambda item: (item[0][0], item[0][1], order[item[0][2]]))


def _since(table: pd.DataFrame, infusions: Mapping[str, Sequence[float]]) -> Array:
    """Return days since the patient's latest infusion; as in the fit, a row on an infusion's day is after it."""
    since = np.empty(len(table))
    for i, (patient, time) in enumerate(zip(table["patient"], table["time"], strict=True)):
        earlier = [day for day in infusions.get(patient, (0.0,)) if day <= time]
        since[i] = time - max(earlier) if earlier else time
    return since


def _limits(table: pd.DataFrame, given: Array | None) -> Array:
    """Return the lower limit of each row: as given, its own value if censored, else the assay's usual one."""
    limits = np.full(len(table), np.nan) if given is None else given.copy()
    censored = (table["cens"] > 0).to_numpy()
    limits[censored] = table["value"].to_numpy()[censored]
    for dvid in table["dvid"].unique():
        rows = (table["dvid"] == dvid).to_numpy()
        known = limits[rows & np.isfinite(limits)]
        if len(known):
            limits[rows & ~np.isfinite(limits)] = float(np.median(known))
    return limits
