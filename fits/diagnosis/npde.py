"""Normalised prediction distribution errors, and their tests.

Brendel et al. (Pharmaceutical Research 2006) and Comets et al. (Computer Methods and Programs in Biomedicine 2008):
each patient's measurements of an assay are ranked among simulated ones, after both were decorrelated by the covariance
of the simulated (Cholesky). A censored value has no rank but an interval of them; it is drawn from that interval and
read back through the simulated distribution (the cdf method of Nguyen et al., Journal of Pharmacokinetics and
Pharmacodynamics 2012). Simulated values in the same interval are drawn anew likewise, so that data and simulations
are still alike under the model.

Virtual patients share the progression record of the real one (`simulated_studies.conditioned_on_events`), so that short
records of patients who progressed early are compared with their like. The population's draws saw these data, so tests
are a little kinder to the model than their p-values say.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats

from ..new_patients import NewPatients
from ..simulated_studies import conditioned_on_events, typical_predictions
from ..study_plan import Plan
from .vpc import measurements

Array = npt.NDArray[np.float64]

CANDIDATES: Final = 1000
SIMULATIONS: Final = 500
FEWEST: Final = 5  # values of an assay that can be tested
LEVEL: Final = 0.05

COLUMNS: Final = ("patient", "dvid", "product", "stratum", "since", "cens", "predicted", "pd", "npde")
TEST_COLUMNS: Final = (
    "dvid",
    "n",
    "n_censored",
    "mean",
    "mean_p",
    "variance",
    "variance_p",
    "normality_p",
    "global_p",
)


def compute(
    new: NewPatients,
    made: Plan,
    *,
    rng: np.random.Generator,
    candidates: int = CANDIDATES,
    simulations: int = SIMULATIONS,
) -> pd.DataFrame:
    """Return the npde of every measurement of a plan.

    Parameters
    ----------
    new, made
        Source of new patients, and design.
    rng
        Source of the simulations and of the ranks of censored values.
    candidates, simulations
        New patients drawn per place, and kept.

    Returns
    -------
    DataFrame
        `patient`, `dvid`, `product`, `stratum`, `since`, `cens`, `predicted` (the typical patient's value, in the
        assay's unit), `pd` (prediction discrepancy: rank among simulated values before decorrelation) and `npde`.
        Places whose simulations all failed are left out.
    """
    seen = measurements(new.problem, made)
    typical = typical_predictions(new, made, made.patient, np.arange(len(seen)))
    offset = np.array([new.problem.observables[str(name)].offset for name in made.dvid])
    low, high = _intervals(seen)
    discrepancy, error = np.full(len(seen), np.nan), np.full(len(seen), np.nan)
    for place in range(new.problem.n):
        rows = np.flatnonzero(made.patient == place)
        if rows.size == 0:
            continue
        simulated = conditioned_on_events(new, made, place=place, candidates=candidates, count=simulations, rng=rng)
        if len(simulated) == 0:
            continue
        for dvid in np.unique(made.dvid[rows]):
            mine = np.flatnonzero(made.dvid[rows] == dvid)
            at = rows[mine]
            discrepancy[at], error[at] = decorrelated(
                seen["observed"].to_numpy()[at], low[at], high[at], simulated[:, mine], rng
            )
    table = seen.assign(predicted=np.exp(typical) - offset, pd=discrepancy, npde=error)
    return table[np.isfinite(error)][list(COLUMNS)].reset_index(drop=True)


def decorrelated(
    observed: Array, low: Array, high: Array, simulated: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return prediction discrepancies and npde of one patient's measurements of one assay.

    Parameters
    ----------
    observed
        (rows,) measurements; where censored, anything.
    low, high
        (rows,) the interval that a measurement is known to lie in; NaN where it is quantified. A limit of
        minus infinity with a finite `high`: below a limit; a finite `low` with infinity: above one.
    simulated
        (simulations, rows).
    rng
        For censored values.

    Returns
    -------
    tuple
        `pd` and `npde`, (rows,) each.
    """
    count = simulated.shape[0]
    ranked = np.sort(simulated, axis=0)
    filled, drawn = observed.astype(float).copy(), simulated.copy()
    for j in range(observed.size):
        if np.isnan(low[j]) and np.isnan(high[j]):
            continue
        first = float(np.searchsorted(ranked[:, j], low[j], side="left")) / count
        last = float(np.searchsorted(ranked[:, j], high[j], side="left")) / count
        # with no simulated value in the interval, its rank is the interval's edge
        filled[j] = _read(ranked[:, j], rng.uniform(first, last)) if last > first else _edge(low[j], high[j])
        inside = (drawn[:, j] >= low[j]) & (drawn[:, j] < high[j])
        drawn[inside, j] = _read(ranked[:, j], rng.uniform(first, last, int(inside.sum())))
    share = (drawn < filled).mean(axis=0) + 0.5 * (drawn == filled).mean(axis=0)
    mean = drawn.mean(axis=0)
    covariance = np.atleast_2d(np.cov(drawn, rowvar=False))
    root = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) * np.eye(observed.size))
    z = np.linalg.solve(root, filled - mean)
    others = np.linalg.solve(root, (drawn - mean).T)
    rank = (others < z[:, None]).mean(axis=1)
    return share, np.asarray(special.ndtri(np.clip(rank, 0.5 / count, 1 - 0.5 / count)))


def tests(table: pd.DataFrame) -> pd.DataFrame:
    """Test by assay whether npde are standard normal.

    Parameters
    ----------
    table
        From `compute`.

    Returns
    -------
    DataFrame
        `dvid`, `n`, `n_censored`, `mean` with `mean_p` (Wilcoxon's signed ranks: is it 0?), `variance` with
        `variance_p` (Fisher: is it 1?), `normality_p` (Shapiro and Wilk) and `global_p`, the smallest of the three
        times three (Bonferroni), at most 1. Assays with fewer than five values are left out.
    """
    lines = []
    for dvid, rows in table.groupby("dvid", sort=True):
        values = rows["npde"].to_numpy(dtype=float)
        n = values.size
        if n < FEWEST or np.ptp(values) == 0:
            continue
        variance = float(values.var(ddof=1))
        below = float(stats.chi2.cdf((n - 1) * variance, n - 1))
        p = (
            float(stats.wilcoxon(values).pvalue),
            2 * min(below, 1 - below),
            float(stats.shapiro(values).pvalue),
        )
        lines.append(
            {
                "dvid": dvid,
                "n": n,
                "n_censored": int((rows["cens"] != 0).sum()),
                "mean": float(values.mean()),
                "mean_p": p[0],
                "variance": variance,
                "variance_p": p[1],
                "normality_p": p[2],
                "global_p": min(1.0, 3 * min(p)),
            }
        )
    return pd.DataFrame(lines, columns=list(TEST_COLUMNS))


def _intervals(seen: pd.DataFrame) -> tuple[Array, Array]:
    """Intervals of the censored measurements; NaN where quantified."""
    cens, limit = seen["cens"].to_numpy(), seen["observed"].to_numpy()
    low = np.where(cens > 0, seen["ln_lower"].to_numpy(), np.where(cens < 0, limit, np.nan))
    high = np.where(cens > 0, limit, np.where(cens < 0, np.inf, np.nan))
    return low, high


def _edge(low: float, high: float) -> float:
    return high if np.isfinite(high) else low


def _read(ranked: Array, rank: Array | float) -> Array:
    """Inverse of the simulated distribution, between its values linear."""
    return np.asarray(np.interp(rank, (np.arange(ranked.size) + 0.5) / ranked.size, ranked))
