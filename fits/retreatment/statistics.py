"""Proportions, survival and small virtual trials, with the three uncertainties kept apart.

*Published counts* have sampling uncertainty: exact binomial (Clopper-Pearson) intervals.
*Simulated figures* have two others: what the data left open about the population (posterior interval, from
the scatter between draws beyond what chance within a draw gives), and the finite number of virtual patients
(Monte Carlo error, which more patients remove). The interval of a simulated figure holds both, the Monte
Carlo error stands beside it.

Between draws we use the beta-binomial: the chance p of an outcome differs from draw to draw as a beta
distribution whose mean and intra-class correlation come from the analysis-of-variance estimator. With few
patients per draw the raw quantiles of the draws' proportions would mistake binomial noise for uncertainty.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

#: Bootstrap repeats for the Monte Carlo error of a median.
BOOTSTRAPS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A simulated figure with its uncertainties.

    Attributes
    ----------
    value : float
        Over all virtual patients; NaN if it cannot be given.
    low, high : float
        Posterior interval, widened by the Monte Carlo error; NaN if it cannot be given. +inf: not reached
        within follow-up.
    mc_error : float
        Monte Carlo standard error, the part that more patients remove; NaN if it cannot be given.
    n : int
        Virtual patients it rests on.
    """

    value: float
    low: float
    high: float
    mc_error: float
    n: int


NOTHING: Final = Estimate(value=float("nan"), low=float("nan"), high=float("nan"), mc_error=float("nan"), n=0)


# ------------------------------------------------------------------------------------ published counts


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a proportion (Clopper and Pearson 1934, Biometrika 26:404).

    Parameters
    ----------
    successes, n
        Counts, 0 <= successes <= n, n > 0.
    level
        In (0, 1).

    Raises
    ------
    ReinfuseError
        If the counts or the level are impossible.
    """
    if not (n > 0 and 0 <= successes <= n):
        raise ReinfuseError(f"{successes} of {n} is no proportion; give 0 <= successes <= n and n > 0")
    if not 0 < level < 1:
        raise ReinfuseError(f"level is {level}; give a number between 0 and 1")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


# ------------------------------------------------------------------------------------------ proportions


@dataclass(frozen=True, kw_only=True)
class BetaBinomial:
    """How the chance of an outcome is spread over draws: mean and intra-class correlation in [0, 1)."""

    mean: float
    correlation: float

    @property
    def degenerate(self) -> bool:
        """Whether draws do not differ beyond chance (or the outcome is certain)."""
        return self.correlation <= 1e-9 or not 0 < self.mean < 1

    @property
    def shapes(self) -> tuple[float, float]:
        """Shapes of the beta distribution; only where not degenerate."""
        size = (1 - self.correlation) / self.correlation
        return self.mean * size, (1 - self.mean) * size

    def counts(self, size: int) -> Floats:
        """Distribution of the number of outcomes in a trial whose patients share a draw, (size + 1,)."""
        k = np.arange(size + 1)
        if self.degenerate:
            return np.asarray(stats.binom.pmf(k, size, self.mean), dtype=np.float64)
        return np.asarray(stats.betabinom.pmf(k, size, *self.shapes), dtype=np.float64)


def between_draws(outcome: ArrayLike, draw: ArrayLike) -> BetaBinomial:
    """Estimate how the chance of an outcome is spread over draws.

    Parameters
    ----------
    outcome
        Whether each virtual patient has it, (n,).
    draw
        The draw of each, (n,).

    Notes
    -----
    Analysis-of-variance estimator of the intra-class correlation of binary data, never below 0 (Ridout,
    Demétrio and Firth 1999, Biometrics 55:137, "AOV").
    """
    x = np.asarray(outcome, dtype=np.float64)
    if x.size == 0:
        return BetaBinomial(mean=float("nan"), correlation=0.0)
    _, place = np.unique(np.asarray(draw), return_inverse=True)
    size = np.bincount(place).astype(np.float64)
    hits = np.bincount(place, weights=x)
    total, groups = float(x.size), size.size
    mean = float(x.mean())
    if groups < 2 or groups == x.size:
        return BetaBinomial(mean=mean, correlation=0.0)
    share = hits / size
    among = float((size * (share - mean) ** 2).sum()) / (groups - 1)
    within = float((size * share * (1 - share)).sum()) / (total - groups)
    typical = (total - float((size**2).sum()) / total) / (groups - 1)
    bottom = among + (typical - 1) * within
    correlation = 0.0 if bottom <= 0 else float(np.clip((among - within) / bottom, 0.0, 1 - 1e-6))
    return BetaBinomial(mean=mean, correlation=correlation)


def proportion(outcome: ArrayLike, draw: ArrayLike, level: float = 0.95) -> Estimate:
    """Proportion of virtual patients with an outcome.

    Parameters
    ----------
    outcome
        Whether each patient has it, (n,).
    draw
        The draw of each, (n,).
    level
        Of the posterior interval.

    Returns
    -------
    Estimate
        The Monte Carlo error treats draws as clusters, and never falls below what n independent patients
        would leave (Jeffreys), so that 100 of 100 is not error-free. The interval is that of a beta
        distribution with the variance between draws plus the squared Monte Carlo error, so that a group of
        eleven patients cannot look certain.
    """
    x = np.asarray(outcome, dtype=np.float64)
    if x.size == 0:
        return NOTHING
    value, error = float(x.mean()), _mc_error(x, draw)
    middle = (float(x.sum()) + 0.5) / (x.size + 1)
    chance = middle * (1 - middle)
    variance = min(chance * between_draws(x, draw).correlation + error**2, 0.999 * chance)
    size = chance / variance - 1
    low, high = stats.beta.ppf([(1 - level) / 2, (1 + level) / 2], middle * size, (1 - middle) * size)
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), mc_error=error, n=x.size)


def _mc_error(x: Floats, draw: ArrayLike) -> float:
    n, hits = x.size, float(x.sum())
    floor = float(stats.beta.std(hits + 0.5, n - hits + 0.5))
    _, place = np.unique(np.asarray(draw), return_inverse=True)
    excess = np.bincount(place, weights=x - x.mean())
    groups = excess.size
    if groups < 2:
        return floor
    return max(floor, float(np.sqrt(groups / (groups - 1) * (excess**2).sum()) / n))


# -------------------------------------------------------------------------------------------- survival


def kaplan_meier(days: ArrayLike, event: ArrayLike, level: float = 0.95) -> KaplanMeierFitter:
    """Kaplan-Meier curve in months (lifelines), for plotting and medians.

    Parameters
    ----------
    days, event
        Time and whether an event was seen, (n,), n > 0.
    level
        Of the fitter's own interval, which is that of a trial with n patients.
    """
    months = np.asarray(days, dtype=np.float64) / DAYS_PER_MONTH
    return KaplanMeierFitter(alpha=1 - level).fit(months, np.asarray(event, dtype=np.bool_))


def median_months(days: ArrayLike, event: ArrayLike) -> float:
    """Kaplan-Meier median in months; +inf if not reached, NaN without patients."""
    if np.size(days) == 0:
        return float("nan")
    curve = kaplan_meier(days, event).survival_function_
    # a product of shares may miss one half by rounding
    reached = np.flatnonzero(curve.iloc[:, 0].to_numpy() <= 0.5 + 1e-9)
    return float(curve.index[reached[0]]) if reached.size else float("inf")


def survival_at(days: ArrayLike, event: ArrayLike, draw: ArrayLike, months: float, level: float = 0.95) -> Estimate:
    """Share of virtual patients without an event at a time.

    Virtual patients are followed alike, so before the end of follow-up nobody is censored and this share is
    the Kaplan-Meier estimate.

    Raises
    ------
    ReinfuseError
        If a patient is censored before that time: the share would not be an estimate then.
    """
    t, seen = np.asarray(days, dtype=np.float64), np.asarray(event, dtype=np.bool_)
    when = months * DAYS_PER_MONTH
    if np.any(~seen & (t < when)):
        raise ReinfuseError(
            f"follow-up ends at {t[~seen].min() / DAYS_PER_MONTH:.1f} months, before {months:g}; "
            "raise settings.second_horizon_months"
        )
    return proportion(t > when, draw, level)


def survival_band(
    days: ArrayLike, event: ArrayLike, draw: ArrayLike, months: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Pointwise posterior interval of the survival curve at some months: lower and upper edge, (m,) each.

    Raises
    ------
    ReinfuseError
        As `survival_at`.
    """
    figures = [survival_at(days, event, draw, float(when), level) for when in np.atleast_1d(months)]
    return np.array([figure.low for figure in figures]), np.array([figure.high for figure in figures])


def median_survival(
    days: ArrayLike,
    event: ArrayLike,
    draw: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Estimate:
    """Median time to an event, months.

    The posterior interval inverts the pointwise posterior band of the survival curve: its ends are where the
    band's lower and upper edge cross one half. The Monte Carlo error resamples draws.

    Parameters
    ----------
    days, event, draw
        (n,); nobody censored before the end of follow-up.
    rng
        For the bootstrap.
    level
        Of the posterior interval.

    Returns
    -------
    Estimate
        Value and ends are +inf where one half is not reached within follow-up; the Monte Carlo error is NaN
        if the median is not reached in some resample.
    """
    t, seen = np.asarray(days, dtype=np.float64), np.asarray(event, dtype=np.bool_)
    labels = np.asarray(draw)
    if t.size == 0:
        return NOTHING
    value = median_months(t, seen)
    grid = np.unique(t[seen])
    low, high = np.inf, np.inf
    for when in grid:
        alive = proportion(t > when, labels, level)
        low = min(low, float(when)) if alive.low <= 0.5 else low
        if alive.high <= 0.5:
            high = float(when)
            break
    return Estimate(
        value=value,
        low=low / DAYS_PER_MONTH,
        high=high / DAYS_PER_MONTH,
        mc_error=_bootstrap_median_error(t, labels, rng),
        n=t.size,
    )


def _bootstrap_median_error(t: Floats, draw: Ints, rng: np.random.Generator) -> float:
    """Sd of the median over resamples of draws (of patients, if there is one draw)."""
    _, place = np.unique(draw, return_inverse=True)
    groups = int(place.max()) + 1
    if groups < 2:
        place, groups = np.arange(t.size), t.size
    order = np.argsort(t, kind="stable")
    months, owner = t[order] / DAYS_PER_MONTH, place[order]
    medians = np.empty(BOOTSTRAPS)
    for b in range(BOOTSTRAPS):
        weight = np.bincount(rng.integers(groups, size=groups), minlength=groups)[owner]
        total = np.cumsum(weight)
        medians[b] = months[np.searchsorted(total, 0.5 * total[-1])] if total[-1] > 0 else np.nan
    # follow-up ends alike for all, so a median there means "not reached"
    if np.any(medians >= months[-1] - 1e-9):
        return float("nan")
    return float(np.nanstd(medians, ddof=1))


# ---------------------------------------------------------------------------------------- virtual trials


def trial_counts(outcome: ArrayLike, draw: ArrayLike, size: int) -> Floats:
    """Distribution of the number of outcomes in virtual trials of a given size, (size + 1,).

    A trial happens in one world: its patients share a draw, worlds differ as `between_draws` estimates.

    Raises
    ------
    ReinfuseError
        If there are no virtual patients or the size is below 1.
    """
    if np.size(outcome) == 0 or size < 1:
        raise ReinfuseError(f"virtual trials of {size} from {np.size(outcome)} patients; give some of both")
    return between_draws(outcome, draw).counts(size)


def two_sided_tail(counts: ArrayLike, observed: int) -> float:
    """Chance of a count at least as far out as the observed one: twice the smaller tail, at most 1.

    Raises
    ------
    ReinfuseError
        If the observed count lies outside the distribution.
    """
    mass = np.asarray(counts, dtype=np.float64)
    if not 0 <= observed < mass.size:
        raise ReinfuseError(f"observed {observed} of {mass.size - 1}; give a count within the trial")
    return min(1.0, 2 * min(float(mass[: observed + 1].sum()), float(mass[observed:].sum())))


def central_counts(counts: ArrayLike, level: float = 0.95) -> tuple[int, int]:
    """Smallest and largest count of the central interval of a distribution of counts."""
    cumulated = np.cumsum(np.asarray(counts, dtype=np.float64))
    tail = (1 - level) / 2
    low = int(np.searchsorted(cumulated, tail))
    high = int(np.searchsorted(cumulated, 1 - tail - 1e-12))
    return low, min(high, cumulated.size - 1)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman correlation of two durations; NaN with fewer than three patients or no spread."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def trials_with_longer(
    longer_group: ArrayLike, days: ArrayLike, *, size: int, repeats: int, rng: np.random.Generator
) -> float:
    """Share of virtual trials in which one group has the longer mean rank of a time than the rest.

    Parameters
    ----------
    longer_group
        Whether each patient is of the group expected to do better, (n,).
    days
        The time, (n,).
    size
        Patients per trial, drawn with replacement.
    repeats
        Number of trials; those without patients on both sides are left out.
    rng
        Draws the trials.

    Returns
    -------
    float
        Ties count one half. NaN if no trial has both sides.
    """
    group, t = np.asarray(longer_group, dtype=np.bool_), np.asarray(days, dtype=np.float64)
    if t.size == 0:
        return float("nan")
    rows = rng.integers(t.size, size=(repeats, size))
    inside, times = group[rows], t[rows]
    ranks = stats.rankdata(times, axis=1)
    many = inside.sum(axis=1)
    both = (many > 0) & (many < size)
    if not both.any():
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        mine = np.where(inside, ranks, 0.0).sum(axis=1) / many
        others = np.where(inside, 0.0, ranks).sum(axis=1) / (size - many)
    return float(np.mean(np.where(mine[both] > others[both], 1.0, 0.5 * (mine[both] == others[both]))))


# --------------------------------------------------------------------------------------------- summary

#: Columns of `summary.csv`.
SUMMARY_COLUMNS: Final = (
    "scenario",
    "group",
    "course",
    "measure",
    "unit",
    "n",
    "value",
    "low",
    "high",
    "mc_error",
)


def summarise(
    outcomes: pd.DataFrame, *, groups: tuple[str, ...], rng: np.random.Generator, level: float = 0.95
) -> pd.DataFrame:
    """Summarise outcomes per scenario and first-response group.

    Parameters
    ----------
    outcomes
        As the engine gives them; patients who failed to simulate are left out, and so are those who died
        before the second infusion (in every arm alike, since the clock of death is the patient's).
    groups
        First-response groups in the order wanted; `all` comes before them.
    rng
        For bootstraps.
    level
        Of the posterior intervals.

    Returns
    -------
    DataFrame
        Columns `SUMMARY_COLUMNS`; the first course is summarised too (`course` 1 or 2). Times in months; a
        median that is not reached is `inf`.
    """
    rows: list[dict[str, object]] = []
    for scenario, of_scenario in outcomes.groupby("scenario", sort=False):
        kept = of_scenario[~of_scenario["failed"] & of_scenario["infused"]]
        for group in ("all", *groups):
            chosen = kept if group == "all" else kept[kept["group"] == group]
            if chosen.empty and group != "all":
                continue
            for course in (1, 2):
                for measure, unit, figure in _measures(chosen, course, rng, level):
                    rows.append(
                        {
                            "scenario": scenario,
                            "group": group,
                            "course": course,
                            "measure": measure,
                            "unit": unit,
                            "n": figure.n,
                            "value": figure.value,
                            "low": figure.low,
                            "high": figure.high,
                            "mc_error": figure.mc_error,
                        }
                    )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


#: Response measures of the summary and the classes that count.
RESPONSES: Final = (
    ("ORR", ("PR", "VGPR", "CR", "SCR")),
    (">=VGPR", ("VGPR", "CR", "SCR")),
    ("CR", ("CR", "SCR")),
)


def _measures(
    patients: pd.DataFrame, course: int, rng: np.random.Generator, level: float
) -> list[tuple[str, str, Estimate]]:
    """List the figures of one course of one group."""
    judged = patients[patients[f"evaluable_{course}"]]
    out = [
        (name, "proportion", proportion(judged[f"best_{course}"].isin(classes), judged["draw"], level))
        for name, classes in RESPONSES
    ]
    for name, column in (("MRD-negative 1e-5", "mrd5"), ("MRD-negative 1e-6", "mrd6")):
        out.append((name, "proportion", proportion(patients[f"{column}_{course}"], patients["draw"], level)))
    days = patients[f"pfs_days_{course}"].to_numpy()
    event = (patients[f"pfs_event_{course}"] != "none").to_numpy()
    draw = patients["draw"].to_numpy()
    out.append(("PFS median", "months", median_survival(days, event, draw, rng=rng, level=level)))
    for months in (12.0, 24.0):
        figure = survival_at(days, event, draw, months, level) if days.size else NOTHING
        out.append((f"PFS at {months:g} months", "proportion", figure))
    return out
