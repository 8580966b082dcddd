"""Survival after a second infusion: curves, hazard ratios, what the first duration foretells.

Fits are by lifelines. Hazard ratios and concordance of a large table come from a subsample (`subsample`); everything
else uses every patient. All association found here holds within the simulation: a long first response that goes before
a long second one is mostly frailty, and no evidence of exhaustion.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter, LogNormalAFTFitter, WeibullAFTFitter
from lifelines.utils import concordance_index
from numpy.typing import ArrayLike, NDArray
from scipy import special

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .counts import NOTHING, Estimate, Layout
from .outcomes import DURABLE_MONTHS, EARLY_MONTHS
from .statistics import followed

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
        Outcomes; who failed, died before the second infusion or could not be followed does not count.
    follow_up_months
        End of follow-up of the second course, if it is to be earlier than simulated.

    Raises
    ------
    ReinfuseError
        If the follow-up is not positive.
    """
    if follow_up_months is not None and not follow_up_months > 0:
        raise ReinfuseError(f"follow-up is {follow_up_months:g} months; give more than 0")
    own = frame[followed(frame)]
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
    check_follow_up(pairs, months)
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
    check_follow_up(pairs, months)
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


def check_follow_up(pairs: Pairs, months: float) -> None:
    """Refuse patients who are censored before so many months."""
    ends = pairs.days[~pairs.event]
    if ends.size and ends.min() < months * DAYS_PER_MONTH * (1 - 1e-6):
        raise ReinfuseError(
            f"follow-up ends at {ends.min() / DAYS_PER_MONTH:.1f} months, before {months:g}; "
            "raise settings.second_horizon_months"
        )
