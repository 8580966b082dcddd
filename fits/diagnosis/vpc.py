"""Visual predictive checks with new patients: percentiles of simulated studies against those of the data.

Plain and prediction-corrected (Bergstrand et al., AAPS Journal 2011). A value below its limit of quantification has a
rank and no value: it counts below all others, in the data and in the simulations alike, and a percentile that falls
among such values is not shown. Their share is checked by itself. Times are days since the latest infusion; products,
and first and further infusions, are told apart, for the patients of a second infusion are those who progressed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..assays import LOG_OFFSET, above_limit, below_limit, log_offset
from ..new_patients import NewPatients
from ..problem import Problem
from ..simulated_studies import Studies, typical_predictions
from ..study_plan import Plan
from .predictive import WINDOWS

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

PERCENTILES: Final = (0.1, 0.5, 0.9)
INTERVAL: Final = (0.025, 0.5, 0.975)
FEWEST: Final = 5
"""Bins have at least so many measurements, unless the whole stratum has fewer; then it is left out."""

PERCENTILE_COLUMNS: Final = (
    "dvid",
    "stratum",
    "corrected",
    "bin",
    "day",
    "first",
    "last",
    "n",
    "percentile",
    "observed",
    "lower",
    "predicted",
    "upper",
    "limit",
)
BLQ_COLUMNS: Final = ("dvid", "stratum", "bin", "day", "first", "last", "n", "observed", "lower", "predicted", "upper")


@dataclass(frozen=True, kw_only=True)
class Vpc:
    """What a visual predictive check found; empty tables where there was nothing to check.

    Attributes
    ----------
    percentiles
        One row per assay, stratum, bin, percentile, and whether predictions were corrected for: `day` (median of
        the measurements), `first` and `last` day of the bin, `n`, `observed`, and the median and 95 % interval of the
        simulated studies' percentiles (`predicted`, `lower`, `upper`); all in the assay's unit. NaN: the percentile
        lies below the limit of quantification. `limit`: median limit of the bin.
    blq
        Shares below the limit, likewise.
    points
        Measurements: `dvid`, `stratum`, `since`, `value` (a limit where censored), `corrected` (prediction-corrected
        value, NaN where censored), `cens`.
    studies
        Number of simulated studies.
    dropped
        Share of planned measurements that simulated dropout took away.
    failed
        Simulated patients left out.
    """

    percentiles: pd.DataFrame
    blq: pd.DataFrame
    points: pd.DataFrame
    studies: int
    dropped: float
    failed: int

    @property
    def outside(self) -> tuple[int, int]:
        """How many observed percentiles (uncorrected) lie outside their intervals, and of how many."""
        rows = self.percentiles[~self.percentiles["corrected"].astype(bool)]
        rows = rows[np.isfinite(rows["observed"]) & np.isfinite(rows["upper"])]
        beyond = (rows["observed"] < rows["lower"].fillna(-np.inf)) | (rows["observed"] > rows["upper"])
        return int(beyond.sum()), len(rows)


def check(new: NewPatients, made: Plan, studies: Studies) -> Vpc:
    """Compare a cohort with simulated studies of the same design.

    Parameters
    ----------
    new
        Source of the simulated patients, for typical predictions.
    made
        The design.
    studies
        From `simulated_studies.replicate_studies`.
    """
    seen = measurements(new.problem, made)
    seen["predicted"] = typical_predictions(new, made, made.patient, np.arange(len(seen)))
    seen["bin"] = bins_of(seen)
    reference = seen.groupby(["dvid", "stratum", "bin"])["predicted"].transform("median").to_numpy()
    below = seen["below"].to_numpy()
    y = np.where(below, -np.inf, np.where(seen["cens"] < 0, np.inf, seen["observed"]))
    limit = seen["ln_lloq"].to_numpy()
    blq = studies.y < limit[studies.row]  # False where no limit is known
    ranked = _Ranked(
        limit=limit,
        below=below,
        y=y,
        corrected=y + (reference - seen["predicted"].to_numpy()),
        blq=blq,
        simulated=np.where(blq, -np.inf, studies.y),
        # the bin of a borrowed row is that of the row it is a copy of: the same product, infusion and day
        correction=reference[studies.row] - typical_predictions(new, made, studies.place, studies.row),
    )
    percentiles: list[dict[str, object]] = []
    shares: list[dict[str, object]] = []
    for head, mine, copies in _bins(seen, studies):
        percentiles += _percentile_rows(head, ranked, studies, mine, copies)
        shares += _blq_rows(head, ranked, studies, mine, copies)
    return Vpc(
        percentiles=pd.DataFrame(percentiles, columns=list(PERCENTILE_COLUMNS)),
        blq=pd.DataFrame(shares, columns=list(BLQ_COLUMNS)),
        points=_points(seen, ranked.corrected),
        studies=studies.count,
        dropped=studies.dropped,
        failed=studies.failed,
    )


def measurements(problem: Problem, made: Plan) -> pd.DataFrame:
    """Return the measurements of a plan, in its order.

    Returns
    -------
    DataFrame
        `patient`, `dvid`, `product`, `stratum`, `since` (days since the latest infusion), `value`, `cens`,
        `observed` and `ln_lloq` (on the scale of the residuals; a limit that a row does not give is the assay's
        median one, NaN where none is known), `ln_lower` (lower end of an interval, minus infinity without one),
        `below` (under the limit).
    """
    rec = problem.observed
    rows = np.flatnonzero(np.isin(rec.dvid, list(problem.observables)))
    family, dvid = rec.family[rows], made.dvid
    offset = np.array([problem.observables[str(name)].offset for name in dvid])
    limit = rec.lloq[rows].copy()
    for name in np.unique(dvid):
        mine = dvid == name
        known = limit[mine & np.isfinite(limit)]
        if known.size:
            limit[mine & ~np.isfinite(limit)] = float(np.median(known))
    several = made.starts.shape[1] > 1
    stratum = [f"{p}, infusion {s}" if several else str(p) for p, s in zip(made.product, made.slot, strict=True)]
    below = below_limit(family)
    with np.errstate(divide="ignore"):
        lower = np.log(np.where(np.isnan(rec.lower[rows]), 0.0, rec.lower[rows] + offset))
    return pd.DataFrame(
        {
            "patient": np.array(problem.patients)[made.patient],
            "dvid": dvid.astype(str),
            "product": made.product.astype(str),
            "stratum": stratum,
            "since": made.since,
            "value": rec.value[rows],
            "cens": np.where(below, 1, np.where(above_limit(family), -1, 0)),
            "observed": np.log(rec.value[rows] + offset),
            "ln_lloq": np.log(limit + offset),
            "ln_lower": lower,
            "below": below,
        }
    )


def bins_of(seen: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the bin of each measurement: a visit window, or several small ones in a row; -1: too few to show.

    The day of infusion, before any cell has acted, is never joined with what follows.
    """
    edges = [edge for edge, _ in WINDOWS[:-1]]
    window = np.searchsorted(edges, seen["since"].to_numpy(dtype=float))
    bins = np.full(len(seen), -1, dtype=np.int64)
    for _, rows in pd.Series(range(len(seen))).groupby([seen["dvid"], seen["stratum"]], sort=False):
        mine = rows.to_numpy()
        for number, windows in enumerate(_joined(window[mine])):
            bins[mine[np.isin(window[mine], windows)]] = number
    return bins


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """Values on the scale of the residuals; infinite where censored, so that they have ranks.

    Of measurements (rows,): `limit`, whether `below` it, `y`, prediction-corrected `corrected`; of simulated ones
    (m,): whether below the limit (`blq`), `simulated`, and the `correction` to add to it.
    """

    limit: Array
    below: npt.NDArray[np.bool_]
    y: Array
    corrected: Array
    blq: npt.NDArray[np.bool_]
    simulated: Array
    correction: Array


def _bins(seen: pd.DataFrame, studies: Studies) -> Iterator[tuple[dict[str, object], Indices, Indices]]:
    """Each bin that is shown: what heads its rows in the tables, its measurements, and their simulated copies."""
    order = np.argsort(studies.row, kind="stable")
    bounds = np.searchsorted(studies.row[order], np.arange(len(seen) + 1))
    since = seen["since"].to_numpy()
    groups = pd.Series(range(len(seen))).groupby([seen["dvid"], seen["stratum"], seen["bin"]], sort=False)
    for (dvid, stratum, number), rows in groups:
        if int(str(number)) < 0:
            continue
        mine: Indices = np.asarray(rows, dtype=np.int64)
        days = since[mine]
        head = {
            "dvid": str(dvid),
            "stratum": str(stratum),
            "bin": int(str(number)),
            "day": float(np.median(days)),
            "first": float(days.min()),
            "last": float(days.max()),
            "n": mine.size,
        }
        yield head, mine, np.concatenate([order[bounds[k] : bounds[k + 1]] for k in mine])


def _percentile_rows(
    head: dict[str, object], ranked: _Ranked, studies: Studies, mine: Indices, copies: Indices
) -> list[dict[str, object]]:
    """Percentiles of one bin, observed and simulated: plain ones, then prediction-corrected ones."""
    offset = LOG_OFFSET.get(str(head["dvid"]), 0.0)
    known = ranked.limit[mine][np.isfinite(ranked.limit[mine])]
    floor = float(np.exp(np.median(known)) - offset) if known.size else float("nan")
    simulated = ranked.simulated[copies]
    lines: list[dict[str, object]] = []
    for corrected, values, replicated in (
        (False, ranked.y[mine], simulated),
        (True, ranked.corrected[mine], simulated + ranked.correction[copies]),
    ):
        bands = quantiles(by_study(replicated, studies.study[copies], PERCENTILES), INTERVAL)
        for k, percentile in enumerate(PERCENTILES):
            found = _natural(np.array([quantiles(values[:, None], (percentile,))[0, 0], *bands[:, k]]), offset)
            numbers = dict(zip(("observed", "lower", "predicted", "upper"), found.tolist(), strict=True))
            lines.append({**head, "corrected": corrected, "percentile": percentile, **numbers, "limit": floor})
    return lines


def _blq_rows(
    head: dict[str, object], ranked: _Ranked, studies: Studies, mine: Indices, copies: Indices
) -> list[dict[str, object]]:
    """Share of one bin below the limit, observed and simulated; no row where no limit is known."""
    limited = np.isfinite(ranked.limit[mine])
    if not limited.any():
        return []
    counted = copies[np.isfinite(ranked.limit[studies.row[copies]])]
    total = np.bincount(studies.study[counted], minlength=studies.count)
    under = np.bincount(studies.study[counted], weights=ranked.blq[counted], minlength=studies.count)
    low, middle, high = np.quantile((under / np.maximum(total, 1))[total > 0], INTERVAL)
    observed = float(ranked.below[mine][limited].mean())
    return [{**head, "observed": observed, "lower": low, "predicted": middle, "upper": high}]


def _points(seen: pd.DataFrame, corrected: Array) -> pd.DataFrame:
    """The measurements as a figure shows them."""
    offsets = log_offset(seen["dvid"].to_numpy(dtype=np.str_))
    points = seen[["dvid", "stratum", "since", "value"]].assign(corrected=_natural(corrected, offsets))
    return points.assign(cens=seen["cens"])


def _joined(window: npt.NDArray[np.int64]) -> list[list[int]]:
    """Windows that make a bin of at least `FEWEST` measurements each, in order of time."""
    done: list[list[int]] = []
    small: list[int] = []
    for name, size in zip(*(each.tolist() for each in np.unique(window, return_counts=True)), strict=True):
        if size >= FEWEST:
            done.append([name])
            small = []
        elif name > 0:
            small.append(name)
            if np.isin(window, small).sum() >= FEWEST:
                done.append(small)
                small = []
    return done


def quantiles(values: Array, levels: tuple[float, ...]) -> Array:
    """Return quantiles over the first axis, (levels, columns), where infinities have ranks like any number.

    A quantile between a number and an infinity is that infinity: it lies among censored values.
    """
    ranked = np.sort(values, axis=0)
    out = np.empty((len(levels), values.shape[1]))
    for k, level in enumerate(levels):
        place = level * (values.shape[0] - 1)
        low = int(np.floor(place + 1e-12))
        share = max(place - low, 0.0)
        out[k] = ranked[low] if share < 1e-12 else _between(ranked[low], ranked[low + 1], share)
    return out


def by_study(values: Array, study: npt.NDArray[np.int64], levels: tuple[float, ...]) -> Array:
    """Return quantiles of every study that has values, (studies, levels)."""
    order = np.lexsort((values, study))
    ranked, groups = values[order], study[order]
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(np.append(starts, groups.size))
    out = np.empty((starts.size, len(levels)))
    for k, level in enumerate(levels):
        place = level * (sizes - 1)
        low = np.floor(place + 1e-12).astype(np.int64)
        share = np.maximum(place - low, 0.0)
        at, after = ranked[starts + low], ranked[starts + np.minimum(low + 1, sizes - 1)]
        out[:, k] = np.where(share < 1e-12, at, _between(at, after, share))
    return out


def _between(low: Array, high: Array, share: Array | float) -> Array:
    finite = np.isfinite(low) & np.isfinite(high)
    mixed = np.where(finite, low, 0.0) * (1 - share) + np.where(finite, high, 0.0) * share
    return np.where(finite, mixed, np.where(np.isfinite(low), high, low))


def _natural(values: Array, offset: Array | float) -> Array:
    """From the scale of the residuals to the assay's unit; NaN where among censored values."""
    finite = np.isfinite(values)
    return np.where(finite, np.exp(np.where(finite, values, 0.0)) - offset, np.nan)
