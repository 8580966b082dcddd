"""Survival after a second infusion: curves, hazard ratios, what the first duration foretells, virtual trials of ten.

Fits are by lifelines. Hazard ratios and concordance of a large table come from a subsample (`subsample`); everything
else uses every patient. All association found here holds within the simulation: a long first response that goes before
a long second one is mostly frailty, and no evidence of exhaustion.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter, LogNormalAFTFitter, WeibullAFTFitter
from lifelines.utils import concordance_index
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .counts import NOTHING, Estimate, Layout
from .outcomes import DURABLE_MONTHS, EARLY_MONTHS
from .statistics import counted, proportion

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

#: Patients of a subsample, for fits that look at every patient many times.
AT_MOST: Final = 20_000
#: Months at which the time-dependent AUC is given.
AUC_MONTHS: Final = (6.0, 12.0, 24.0)
#: Rows from which a Kaplan-Meier curve is fitted to times rounded up to quarters of a day.
MANY: Final = 20_000
#: Draws that are fitted one by one to see how they differ, and least events of each group in one.
DRAWS_FITTED: Final = 30
LEAST_EVENTS: Final = 5
#: Parts of the jackknife.
PARTS: Final = 10
#: Significance of a log-rank test in a virtual trial.
ALPHA: Final = 0.05


# -------------------------------------------------------------------------------------------------- curves


def kaplan_meier(days: ArrayLike, event: ArrayLike, level: float = 0.95) -> KaplanMeierFitter:
    """Kaplan-Meier curve in months (lifelines), for plotting and medians.

    Parameters
    ----------
    days, event
        Time and whether an event was seen, (n,), n > 0. Of more than 20,000, times are rounded up to quarters of a
        day, so that the curve has a few thousand steps.
    level
        Of the fitter's own interval, which is that of a trial with n patients.

    Raises
    ------
    ReinfuseError
        If there are no patients.
    """
    t, seen = np.asarray(days, dtype=np.float64), np.asarray(event, dtype=np.bool_)
    if t.size == 0:
        raise ReinfuseError("a Kaplan-Meier curve of no patients; ask for more with --patients")
    if t.size <= MANY:
        return KaplanMeierFitter(alpha=1 - level).fit(t / DAYS_PER_MONTH, seen)
    quarter = np.ceil(4 * t - 1e-6).astype(np.int64)
    cells, many = np.unique(2 * quarter + seen, return_counts=True)
    months = (cells // 2) / 4 / DAYS_PER_MONTH
    return KaplanMeierFitter(alpha=1 - level).fit(months, cells % 2 == 1, weights=many)


# ------------------------------------------------------------------------------------- first against second


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """First duration and second PFS of the patients that count, (n,) each.

    Attributes
    ----------
    first : ndarray
        First duration of response, days; first PFS where there was no response.
    days, event : ndarray
        Second PFS, and whether it ended in progression or death.
    draw : ndarray
        The draw of each.
    """

    first: Floats
    days: Floats
    event: Flags
    draw: Ints

    @property
    def durable(self) -> Flags:
        """First duration above 12 months."""
        return self.first > DURABLE_MONTHS * DAYS_PER_MONTH

    @property
    def early(self) -> Flags:
        """First duration of at most 6 months."""
        return self.first <= EARLY_MONTHS * DAYS_PER_MONTH

    def only(self, who: Flags | Ints) -> "Pairs":
        """The same of some patients."""
        return Pairs(first=self.first[who], days=self.days[who], event=self.event[who], draw=self.draw[who])


def pairs_of(frame: pd.DataFrame, *, follow_up_months: float | None = None) -> Pairs:
    """First duration and second PFS of one scenario and world, patients in the order of their numbers.

    Parameters
    ----------
    frame
        Outcomes; failed patients and those who died before the second infusion do not count.
    follow_up_months
        End of follow-up of the second course, if it is to be earlier than simulated.

    Raises
    ------
    ReinfuseError
        If the follow-up is not positive.
    """
    if follow_up_months is not None and not follow_up_months > 0:
        raise ReinfuseError(f"follow-up is {follow_up_months:g} months; give more than 0")
    kept = counted(frame) & np.isfinite(frame["pfs_days_2"].to_numpy(dtype=np.float64))
    own = frame[kept]
    own = own.iloc[np.argsort(own["patient"].to_numpy(), kind="stable")]
    lasting, until = own["dor_days_1"].to_numpy(dtype=np.float64), own["pfs_days_1"].to_numpy(dtype=np.float64)
    days = own["pfs_days_2"].to_numpy(dtype=np.float64)
    event = np.asarray(own["pfs_event_2"] != "none", dtype=np.bool_)
    if follow_up_months is not None:
        end = follow_up_months * DAYS_PER_MONTH
        event, days = event & (days <= end), np.minimum(days, end)
    first = np.where(np.isnan(lasting), until, lasting)
    return Pairs(first=first, days=days, event=event, draw=own["draw"].to_numpy().astype(np.int64))


def subsample(pairs: Pairs, *, rng: np.random.Generator, at_most: int = AT_MOST) -> Pairs:
    """A simple random sample without replacement of at most so many patients; everyone if there are no more."""
    n = pairs.days.size
    return pairs if n <= at_most else pairs.only(np.sort(rng.choice(n, size=at_most, replace=False)))


# ----------------------------------------------------------------------------------------- durable or early


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Second PFS after a durable (above 12 months) against after an early-ending (up to 6) first response.

    Attributes
    ----------
    hazard_ratio : Estimate
        Cox, durable against early: below 1 favours durable. `mc_error` is that of its logarithm (sandwich, draws as
        clusters); the interval also holds how much draws differ.
    model : str
        The accelerated failure-time model of the lower AIC, `Weibull` or `log-normal`.
    time_ratio : Estimate
        By how much it stretches time after a durable response; errors as of the hazard ratio, without the spread
        between draws.
    aic : dict
        By model.
    rmst_difference : Estimate
        Months of restricted mean PFS, durable less early; of every patient.
    rmst_months : float
        To which time.
    between : float
        Sd of the logarithm of the hazard ratio between draws; NaN where draws have too few events to tell, and the
        interval of the hazard ratio holds the Monte Carlo error alone.
    fitted : int
        Patients that Cox and the failure-time models saw.
    """

    hazard_ratio: Estimate
    model: str
    time_ratio: Estimate
    aic: dict[str, float]
    rmst_difference: Estimate
    rmst_months: float
    between: float
    fitted: int


def durable_against_early(
    pairs: Pairs,
    *,
    rng: np.random.Generator,
    rmst_months: float = 24.0,
    level: float = 0.95,
    at_most: int = AT_MOST,
) -> Comparison | None:
    """Compare second PFS after a durable and after an early-ending first response.

    Parameters
    ----------
    pairs
        From `pairs_of`; patients between the two limits do not take part.
    rng
        Draws the subsample.
    rmst_months
        To which time PFS is averaged.
    level
        Of the intervals.
    at_most
        Patients fitted (`subsample`).

    Returns
    -------
    Comparison or None
        None where a group has fewer than five events: no ratio can be given.
    """
    extreme = pairs.only(pairs.durable | pairs.early)
    some = subsample(extreme, rng=rng, at_most=at_most)
    if not _enough(some):
        return None
    hazard = _log_hazard(some, cluster=True)
    apart = _sd_between(some)
    models = {"Weibull": WeibullAFTFitter, "log-normal": LogNormalAFTFitter}
    fits = {name: _accelerated(some, fitter) for name, fitter in models.items()}
    best = min(fits, key=lambda name: fits[name][2])
    return Comparison(
        hazard_ratio=_ratio(*hazard, apart, level, some.days.size),
        model=best,
        time_ratio=_ratio(*fits[best][:2], 0.0, level, some.days.size),
        aic={name: found[2] for name, found in fits.items()},
        rmst_difference=rmst_difference(extreme, months=rmst_months, level=level),
        rmst_months=rmst_months,
        between=apart,
        fitted=some.days.size,
    )


def rmst_difference(pairs: Pairs, *, months: float, level: float = 0.95) -> Estimate:
    """Months of restricted mean second PFS after a durable less after an early-ending first response.

    Draws are clusters of its Monte Carlo error; how much draws differ is the scatter of their differences beyond it.

    Raises
    ------
    ReinfuseError
        If someone is censored before that time.
    """
    _check_follow_up(pairs, months)
    durable, early = pairs.durable, pairs.early
    limited = np.minimum(pairs.days / DAYS_PER_MONTH, months)
    if not durable.any() or not early.any():
        return NOTHING
    layout = Layout(pairs.draw)
    means, by_draw, errors, lean = [], [], [], []
    for who in (durable, early):
        own, x = layout.only(who), limited[who]
        total, squares, size = own.add(x)[0], own.add(x**2)[0], own.count()[0]
        mean = float(x.mean())
        means.append(mean)
        lean.append((total - mean * size) / x.size)
        with np.errstate(invalid="ignore", divide="ignore"):
            here = total / size
            by_draw.append(here)
            errors.append((squares / size - here**2) / (size - 1))
    value = means[0] - means[1]
    joint = lean[0] - lean[1]
    error = _clustered(joint[layout.count()[0] > 0])
    apart = _random_effects(by_draw[0] - by_draw[1], np.sqrt(np.maximum(errors[0] + errors[1], 0.0)))
    sd = float(np.hypot(error, 0.0 if np.isnan(apart) else apart))
    z = float(special.ndtri((1 + level) / 2))
    n = int(durable.sum() + early.sum())
    low, high = np.clip([value - z * sd, value + z * sd], -months, months)
    return Estimate(value=value, low=float(low), high=float(high), mc_error=error, n=n)


def _enough(pairs: Pairs) -> bool:
    events = pairs.event
    return min(int((events & pairs.durable).sum()), int((events & pairs.early).sum())) >= LEAST_EVENTS


def _table(pairs: Pairs) -> pd.DataFrame:
    columns = {"months": pairs.days / DAYS_PER_MONTH, "event": pairs.event, "durable": pairs.durable.astype(float)}
    return pd.DataFrame(columns)


def _log_hazard(pairs: Pairs, *, cluster: bool) -> tuple[float, float]:
    """Logarithm of the hazard ratio by Cox, and its standard error."""
    table, clustered = _table(pairs), {}
    if cluster and np.unique(pairs.draw).size > 1:
        table["draw"], clustered = pairs.draw, {"cluster_col": "draw"}
    found = _quietly(lambda: CoxPHFitter().fit(table, "months", "event", **clustered))
    return float(found.params_["durable"]), float(found.standard_errors_["durable"])


def _accelerated(pairs: Pairs, fitter: type) -> tuple[float, float, float]:
    """Logarithm of the time ratio, its standard error, and AIC."""
    found = _quietly(
        lambda: fitter().fit(_table(pairs).assign(months=lambda t: t["months"].clip(1e-6)), "months", "event")
    )
    location = found.summary.loc[(found._primary_parameter_name, "durable")]
    return float(location["coef"]), float(location["se(coef)"]), float(found.AIC_)


def _sd_between(pairs: Pairs) -> float:
    """Sd of the log hazard ratio between draws, beyond chance within a draw; NaN where it cannot be told."""
    found: list[tuple[float, float]] = []
    draws, sizes = np.unique(pairs.draw, return_counts=True)
    for draw in draws[np.argsort(-sizes, kind="stable")][:DRAWS_FITTED]:
        own = pairs.only(pairs.draw == draw)
        if _enough(own):
            found.append(_log_hazard(own, cluster=False))
    if len(found) < PARTS:
        return float("nan")
    values, errors = np.array(found).T
    return _random_effects(values, errors)


def _random_effects(values: Floats, errors: Floats) -> float:
    """Sd of effects beyond their errors (DerSimonian and Laird 1986, Control Clin Trials 7:177); NaN of under 2."""
    there = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    if there.sum() < 2:
        return float("nan")
    y, w = values[there], errors[there] ** -2
    middle = float((w * y).sum() / w.sum())
    excess = float((w * (y - middle) ** 2).sum()) - (y.size - 1)
    return float(np.sqrt(max(0.0, excess / (w.sum() - (w**2).sum() / w.sum()))))


def _ratio(value: float, error: float, apart: float, level: float, n: int) -> Estimate:
    reach = float(special.ndtri((1 + level) / 2)) * float(np.hypot(error, 0.0 if np.isnan(apart) else apart))
    low, middle, high = np.exp([value - reach, value, value + reach])
    return Estimate(value=float(middle), low=float(low), high=float(high), mc_error=error, n=n)


def _quietly[T](fit: Callable[[], T]) -> T:
    """Run a fit of lifelines, whose use of an old clock and of approximations warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit()


# ------------------------------------------------------------------------------------------------ foretelling


def concordance(pairs: Pairs, *, rng: np.random.Generator, level: float = 0.95, at_most: int = AT_MOST) -> Estimate:
    """How often the patient with the longer first duration has the longer second PFS (Harrell's C, lifelines).

    Parameters
    ----------
    pairs
        From `pairs_of`.
    rng
        Draws the subsample.
    level
        Of the interval, which holds the Monte Carlo error alone.
    at_most
        Patients looked at (`subsample`).

    Returns
    -------
    Estimate
        One half is chance. The Monte Carlo error is a jackknife over ten parts of the draws (of the patients, where
        there are fewer draws). NOTHING where no two patients can be compared.
    """
    some = subsample(pairs, rng=rng, at_most=at_most)
    if some.days.size < 2 or not some.event.any() or np.ptp(some.days) == 0:
        return NOTHING
    part = np.unique(some.draw, return_inverse=True)[1] % PARTS
    if np.unique(part).size < PARTS:
        part = np.arange(some.days.size) % PARTS
    value = _concordance(some)
    left = np.array([_concordance(some.only(part != one)) for one in range(PARTS)])
    error = float(np.sqrt((PARTS - 1) / PARTS * ((left - left.mean()) ** 2).sum()))
    return _symmetric(value, error, level, some.days.size)


def _concordance(pairs: Pairs) -> float:
    return float(concordance_index(pairs.days, pairs.first, pairs.event))


def auc_at(pairs: Pairs, *, months: float, level: float = 0.95) -> Estimate:
    """Cumulative/dynamic AUC of the first duration: chance that it was longer in who is still free of an event.

    Parameters
    ----------
    pairs
        From `pairs_of`.
    months
        Since the second infusion.
    level
        Of the interval, which holds the Monte Carlo error alone.

    Returns
    -------
    Estimate
        Ties count one half. The Monte Carlo error takes draws as clusters of DeLong's components (Obuchowski 1997,
        Biometrics 53:567). NOTHING where all, or none, have had an event by then.

    Raises
    ------
    ReinfuseError
        If someone is censored before: weights would be needed then.

    Notes
    -----
    Heagerty, Lumley and Pepe 2000 (Biometrics 56:337); without censoring it is the Mann-Whitney statistic.
    """
    _check_follow_up(pairs, months)
    case = pairs.days <= months * DAYS_PER_MONTH
    short, long = np.sort(pairs.first[case]), np.sort(pairs.first[~case])
    if not short.size or not long.size:
        return NOTHING
    component = np.where(case, 1 - _share_below(long, pairs.first), _share_below(short, pairs.first))
    value = float(component[case].mean())
    lean = (component - value) / np.where(case, short.size, long.size)
    layout = Layout(pairs.draw)
    there = layout.count()[0] > 0
    error = _clustered(layout.add(lean)[0][there] if there.sum() > 1 else lean)
    return _symmetric(value, error, level, pairs.days.size)


def _clustered(lean: Floats) -> float:
    """Standard error of a mean from what each cluster adds to its error."""
    return float(np.sqrt(lean.size / max(lean.size - 1, 1) * (lean**2).sum()))


def _share_below(ordered: Floats, values: Floats) -> Floats:
    """Share of `ordered` below each value, ties by half."""
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return np.asarray(below / (2 * ordered.size))


def _symmetric(value: float, error: float, level: float, n: int) -> Estimate:
    reach = float(special.ndtri((1 + level) / 2)) * error
    return Estimate(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach), mc_error=error, n=n)


def _check_follow_up(pairs: Pairs, months: float) -> None:
    ends = pairs.days[~pairs.event]
    if ends.size and ends.min() < months * DAYS_PER_MONTH * (1 - 1e-6):
        raise ReinfuseError(
            f"follow-up ends at {ends.min() / DAYS_PER_MONTH:.1f} months, before {months:g}; "
            "raise settings.second_horizon_months"
        )


# --------------------------------------------------------------------------------------------- virtual trials


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """Virtual trials of one size: second PFS after a first duration above 12 months against the others.

    Attributes
    ----------
    size : int
        Patients of each.
    repeats : int
        Trials drawn.
    hazard_ratio : ndarray
        (comparable,) durable against others, from the log-rank test: observed over expected events of one group over
        those of the other; 0 or +inf where a group has no event.
    rmst_difference : ndarray
        (comparable,) months, durable less others.
    p_value : ndarray
        (comparable,) of the log-rank test.
    rmst_months : float
        To which time PFS is averaged.
    shared : bool
        Whether the patients of a trial share a draw; not where no draw has as many patients.
    """

    size: int
    repeats: int
    hazard_ratio: Floats
    rmst_difference: Floats
    p_value: Floats
    rmst_months: float
    shared: bool

    @property
    def comparable(self) -> float:
        """Share of trials with patients and information on both sides."""
        return self.p_value.size / self.repeats

    @property
    def significant(self) -> float:
        """Share of comparable trials whose log-rank test says p < 0.05; NaN without any."""
        return float((self.p_value < ALPHA).mean()) if self.p_value.size else float("nan")

    @property
    def wrong_way(self) -> float:
        """Share of comparable trials in which the durable do worse (hazard ratio above 1)."""
        return float((self.hazard_ratio > 1).mean()) if self.p_value.size else float("nan")

    def interval(self, values: Floats, level: float = 0.95) -> tuple[float, float]:
        """Central interval of a number over trials; infinite ratios count as infinite."""
        if not values.size:
            return float("nan"), float("nan")
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        return float(low), float(high)


def virtual_trials(
    pairs: Pairs, *, rng: np.random.Generator, size: int = 10, repeats: int = 2000, rmst_months: float = 24.0
) -> Trials:
    """What a study of so many patients would find: its spread is what the size implies.

    Parameters
    ----------
    pairs
        From `pairs_of`, with the follow-up that such a study would have.
    rng
        Draws the trials.
    size
        Patients of each, drawn without replacement from one draw, the draw by its number of patients.
    repeats
        Trials.
    rmst_months
        To which time PFS is averaged.

    Raises
    ------
    ReinfuseError
        If there are fewer patients than a trial needs, or someone is censored before `rmst_months`.
    """
    n = pairs.days.size
    if size < 2 or repeats < 1 or n < size:
        raise ReinfuseError(
            f"{repeats} virtual trials of {size} from {n} patients; give at least 2 and as many patients"
        )
    _check_follow_up(pairs, rmst_months)
    rows, shared = _trial_members(pairs.draw, size, repeats, rng)
    days, event, durable = pairs.days[rows], pairs.event[rows], pairs.durable[rows]
    ratio, p_value = log_rank(days, event, durable)
    limited = np.minimum(days / DAYS_PER_MONTH, rmst_months)
    many = durable.sum(axis=1)
    kept = np.isfinite(p_value)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = (limited * durable).sum(axis=1) / many - (limited * ~durable).sum(axis=1) / (size - many)
    return Trials(
        size=size,
        repeats=repeats,
        hazard_ratio=ratio[kept],
        rmst_difference=difference[kept],
        p_value=p_value[kept],
        rmst_months=rmst_months,
        shared=shared,
    )


def _trial_members(draw: Ints, size: int, repeats: int, rng: np.random.Generator) -> tuple[Ints, bool]:
    """Rows of each trial's patients (repeats, size), and whether they share a draw."""
    order = np.argsort(draw, kind="stable")
    _, start, many = np.unique(draw[order], return_index=True, return_counts=True)
    large = many >= size
    if not large.any():
        start, many, order = np.array([0]), np.array([draw.size]), np.arange(draw.size)
    else:
        start, many = start[large], many[large]
    which = rng.choice(many.size, size=repeats, p=many / many.sum())
    # without replacement: the j-th patient is one of those left, counted past the ones taken before
    taken = np.empty((repeats, size), dtype=np.int64)
    for j in range(size):
        place = rng.integers(many[which] - j)
        for before in np.sort(taken[:, :j], axis=1).T:
            place += place >= before
        taken[:, j] = place
    return order[start[which][:, None] + taken], bool(large.any())


def log_rank(days: Floats, event: Flags, group: Flags) -> tuple[Floats, Floats]:
    """Log-rank test of many small trials at once.

    Parameters
    ----------
    days, event, group
        (trials, size): time, whether it ended in an event, and whether the patient is of the first group.

    Returns
    -------
    ratio : ndarray
        (trials,) hazard ratio of the first group to the rest: observed over expected events of one over the other's.
    p_value : ndarray
        (trials,) two-sided, chi-squared of one degree of freedom; NaN where a group is empty or nothing can be learnt.
        With ten patients that approximation is loose: without any effect it falls below 0.05 in 5 to 9 % of trials.
    """
    # for the event of patient i: who is at risk then, and how many of them are of the group
    at_risk = days[:, None, :] >= days[:, :, None]
    same = (days[:, None, :] == days[:, :, None]) & event[:, None, :]
    risk = at_risk.sum(axis=2).astype(np.float64)
    of_group = (at_risk & group[:, None, :]).sum(axis=2)
    tied = same.sum(axis=2).astype(np.float64)
    # each tied event carries its share of the time's expectation and variance
    weight = np.where(event, 1.0, 0.0)
    share = of_group / risk
    expected = (weight * share).sum(axis=1)
    loss = np.where(risk > 1, (risk - tied) / np.maximum(risk - 1, 1), 0.0)
    variance = (weight * share * (1 - share) * loss).sum(axis=1)
    observed, total = (event & group).sum(axis=1), event.sum(axis=1)
    told = variance > 1e-12
    z = np.divide(observed - expected, np.sqrt(np.maximum(variance, 1e-12)))
    p_value = np.where(told, 2 * stats.norm.sf(np.abs(z)), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (observed / expected) / ((total - observed) / (total - expected))
    return ratio, p_value


# --------------------------------------------------------------------------------------------------- table

#: Columns of `survival.csv`.
SURVIVAL_COLUMNS: Final = ("scenario", "world", "measure", "months", "n", "value", "low", "high", "mc_error", "remark")


def survival_table(
    parts: Iterable[tuple[str, str, pd.DataFrame]],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    trial_size: int = 10,
    follow_up_months: float | None = None,
    at_most: int = AT_MOST,
) -> pd.DataFrame:
    """How the first duration goes with second PFS, in every scenario and world, and what trials of ten would find.

    Parameters
    ----------
    parts
        Scenario, world and its outcomes, read one at a time.
    rng
        Draws subsamples and trials.
    level
        Of the intervals.
    trial_size
        Patients of a virtual trial.
    follow_up_months
        End of follow-up, if it is to be earlier than simulated.
    at_most
        Patients that Cox, failure-time models and concordance see (`subsample`).

    Returns
    -------
    DataFrame
        Columns `SURVIVAL_COLUMNS`; what a table is too small, or followed too shortly, to tell has no row. The rows of
        virtual trials give the median trial and the central interval over trials.
    """
    rows: list[dict[str, object]] = []
    for scenario, world, frame in parts:
        pairs = pairs_of(frame, follow_up_months=follow_up_months)
        for measure, months, figure, remark in _figures(pairs, rng, level, trial_size, at_most):
            row = {"scenario": scenario, "world": world, "measure": measure, "months": months}
            rows.append(row | {**asdict(figure), "remark": remark})
    return pd.DataFrame(rows, columns=list(SURVIVAL_COLUMNS))


def _figures(
    pairs: Pairs, rng: np.random.Generator, level: float, trial_size: int, at_most: int
) -> Iterator[tuple[str, float, Estimate, str]]:
    ends = pairs.days[~pairs.event].min(initial=np.inf) / DAYS_PER_MONTH * (1 + 1e-6)
    reached = [months for months in AUC_MONTHS if months <= ends]
    longest = max(reached, default=float(ends))
    if pairs.days.size == 0:
        return
    found = durable_against_early(pairs, rng=rng, rmst_months=longest, level=level, at_most=at_most)
    if found is not None:
        told = "spread between draws not known" if np.isnan(found.between) else f"sd {found.between:.2f} between draws"
        yield "hazard ratio, durable to early", float("nan"), found.hazard_ratio, f"Cox, {found.fitted} fitted, {told}"
        aic = ", ".join(f"AIC {value:.1f} {name}" for name, value in found.aic.items())
        yield f"time ratio, durable to early ({found.model})", float("nan"), found.time_ratio, aic
        yield "RMST difference, durable less early", longest, found.rmst_difference, "months"
    sampled = f"of {min(at_most, pairs.days.size)} patients"
    yield (
        "concordance of first duration",
        float("nan"),
        concordance(pairs, rng=rng, level=level, at_most=at_most),
        sampled,
    )
    for months in reached:
        yield "AUC of first duration", months, auc_at(pairs, months=months, level=level), "cumulative/dynamic"
    if pairs.days.size >= trial_size:
        trials = virtual_trials(pairs, rng=rng, size=trial_size, rmst_months=longest)
        yield from _trial_figures(trials, level)


def _trial_figures(trials: "Trials", level: float) -> Iterator[tuple[str, float, Estimate, str]]:
    of_size, whose = f"trials of {trials.size}", "" if trials.shared else "patients of a trial do not share a draw"
    many = trials.p_value.size
    for measure, months, values in (
        ("hazard ratio, durable to others", float("nan"), trials.hazard_ratio),
        ("RMST difference, durable less others", trials.rmst_months, trials.rmst_difference),
    ):
        low, high = trials.interval(values, level)
        middle = trials.interval(values, 0.0)[0]
        figure = Estimate(value=middle, low=low, high=high, mc_error=float("nan"), n=many)
        yield f"{of_size}: {measure}", months, figure, whose
    for measure, flags in (
        ("both groups present and events to compare", np.arange(trials.repeats) < many),
        (f"log-rank p < {ALPHA:g}", trials.p_value < ALPHA),
        ("hazard ratio above 1", trials.hazard_ratio > 1),
    ):
        yield f"{of_size}: {measure}", float("nan"), proportion(flags, np.arange(flags.size), level), whose
