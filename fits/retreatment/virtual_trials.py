"""What can a study of ten show? Trials of a given size, drawn from a simulated population by the thousand."""

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .survival import Pairs, check_follow_up

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Ints = NDArray[np.int64]

#: Level of the test in virtual trials.
ALPHA: Final = 0.05
#: Exchanges of labels that are gone through, or drawn, at most.
MOST_EXCHANGES: Final = 2000
ROUNDING: Final = 1e-9


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
        (comparable,) of the exact log-rank test (`exact_log_rank`).
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
    check_follow_up(pairs, rmst_months)
    rows, shared = _trial_members(pairs.draw, size, repeats, rng)
    days, event, durable = pairs.days[rows], pairs.event[rows], pairs.durable[rows]
    ratio, _ = log_rank(days, event, durable)
    p_value = exact_log_rank(days, event, durable, rng=rng)
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


def exact_log_rank(days: Floats, event: Flags, group: Flags, *, rng: np.random.Generator) -> Floats:
    """Log-rank test of many small trials by all exchanges of the groups' labels, or by many drawn ones.

    The test statistic is the sum over a group of the patients' scores, events less expected ones; without any effect,
    and where follow-up has nothing to do with the group, all choices of as many patients are equally likely.

    Parameters
    ----------
    days, event, group
        (trials, size): time, whether it ended in an event, and whether the patient is of the first group.
    rng
        Draws exchanges where there are more than `MOST_EXCHANGES`.

    Returns
    -------
    ndarray
        (trials,) two-sided p-values; NaN where a group is empty or nothing can be learnt.
    """
    scores, many = _scores(days, event), group.sum(axis=1)
    seen = np.abs((scores * group).sum(axis=1))
    p_value = np.full(len(days), np.nan)
    size = days.shape[1]
    for count in np.unique(many[(many > 0) & (many < size)]):
        rows = np.flatnonzero((many == count) & (np.ptp(scores, axis=1) > ROUNDING))
        exchanged = np.abs(scores[rows] @ _exchanges(size, int(count), rng).T)
        as_far = (exchanged >= seen[rows, None] - ROUNDING).sum(axis=1)
        drawn = int(math.comb(size, int(count)) > MOST_EXCHANGES)  # then the trial itself is one of the choices, too
        p_value[rows] = (as_far + drawn) / (exchanged.shape[1] + drawn)
    return p_value


def _exchanges(size: int, count: int, rng: np.random.Generator) -> Floats:
    """Choices (choices, size) of so many patients as 0 and 1: all, or `MOST_EXCHANGES` drawn ones."""
    if math.comb(size, count) > MOST_EXCHANGES:
        drawn = rng.permuted(np.tile(np.arange(size) < count, (MOST_EXCHANGES, 1)), axis=1)
        return drawn.astype(np.float64)
    places = np.array(list(itertools.combinations(range(size), count)))
    chosen = np.zeros((len(places), size))
    np.put_along_axis(chosen, places, 1.0, axis=1)
    return chosen


def _scores(days: Floats, event: Flags) -> Floats:
    """Log-rank scores (trials, size): a patient's event less those expected of it (Nelson-Aalen) until its time."""
    at_risk = (days[:, None, :] >= days[:, :, None]).sum(axis=2)  # when the time of patient i comes
    rise = event / at_risk
    before = days[:, None, :] <= days[:, :, None]
    return np.asarray(event - (before * rise[:, None, :]).sum(axis=2))


def log_rank(days: Floats, event: Flags, group: Flags) -> tuple[Floats, Floats]:
    """Log-rank test of many trials at once, by its approximation for large ones.

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
        In small trials use `exact_log_rank`.
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
