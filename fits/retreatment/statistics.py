"""Proportions, durations and small virtual trials, with the three uncertainties kept apart; the table `summary.csv`.

*Published counts* have sampling uncertainty: exact binomial (Clopper-Pearson) intervals.
*Simulated figures* have others: what the data left open about the population (posterior interval, from the scatter
between draws beyond what chance within a draw gives), the finite number of virtual patients (Monte Carlo error, which
more patients remove) and, over several worlds, which hypothesis of relapse holds. The interval of a simulated figure
holds all of them, the Monte Carlo error stands beside it.

Between draws we use the beta-binomial: the chance p of an outcome differs from draw to draw as a beta distribution
whose mean and intra-class correlation come from the analysis-of-variance estimator. With few patients per draw the raw
quantiles of the draws' proportions would mistake binomial noise for uncertainty. All is worked out from counts per
draw (`counts`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from threadpoolctl import threadpool_limits

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .counts import (
    DAYS,
    MAGNITUDES,
    NOTHING,
    BetaBinomial,
    Estimate,
    Layout,
    Mean,
    Median,
    Scale,
    Share,
    between,
    resamples_of,
    spread,
)
from .outcome_table import infusion_day

__all__ = [
    "NOTHING",
    "STACKED",
    "SUMMARY_COLUMNS",
    "BetaBinomial",
    "Estimate",
    "between_draws",
    "central_counts",
    "checked_weights",
    "clopper_pearson",
    "counted",
    "followed",
    "median_survival",
    "proportion",
    "rank_correlation",
    "reaches",
    "summarise",
    "survival_at",
    "survival_band",
    "trial_counts",
    "trials_with_longer",
    "two_sided_tail",
]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

#: What the mixture over worlds is called in the column `world`.
STACKED: Final = "stacked"


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
    return between(*_hits(outcome, draw))


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
    share = Share.of(*_hits(outcome, draw))
    return NOTHING if share is None else share.estimate(level)


def _hits(outcome: ArrayLike, draw: ArrayLike) -> tuple[Floats, Floats]:
    """Patients with the outcome, and patients, by draw."""
    layout = Layout(draw)
    return layout.count(np.asarray(outcome, dtype=np.bool_))[0], layout.count()[0]


# -------------------------------------------------------------------------------------------- survival


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
    _check_follow_up(t, seen, months)
    return proportion(t > months * DAYS_PER_MONTH, draw, level)


def survival_band(
    days: ArrayLike, event: ArrayLike, draw: ArrayLike, months: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Pointwise posterior interval of the survival curve at some months: lower and upper edge, (m,) each.

    Parameters
    ----------
    days, event, draw
        (n,), n > 0.
    months
        (m,) increasing.
    level
        Of the interval.

    Raises
    ------
    ReinfuseError
        As `survival_at`.
    """
    t, seen = np.asarray(days, dtype=np.float64), np.asarray(event, dtype=np.bool_)
    at = np.atleast_1d(np.asarray(months, dtype=np.float64))
    if at.size == 0:
        return np.empty(0), np.empty(0)
    _check_follow_up(t, seen, float(at.max()))
    layout = Layout(draw)
    place = np.searchsorted(at * DAYS_PER_MONTH, t, side="left").astype(np.int64)  # first month by which it is over
    by_draw = layout.by_draw(place, at.size + 1)[0]
    size = by_draw.sum(axis=1)
    found = spread(size[:, None] - np.cumsum(by_draw[:, :-1], axis=1), size)
    tail = (1 - level) / 2
    low, high = special.betaincinv(found.a, found.b, tail), special.betaincinv(found.a, found.b, 1 - tail)
    return np.minimum(low, found.value), np.maximum(high, found.value)


def _check_follow_up(t: Floats, seen: Flags, months: float) -> None:
    if np.any(~seen & (t < months * DAYS_PER_MONTH)):
        raise ReinfuseError(
            f"follow-up ends at {t[~seen].min() / DAYS_PER_MONTH:.1f} months, before {months:g}; "
            "raise settings.second_horizon_months"
        )


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
        if the median is not reached in some resample. Times count in quarters of a day.
    """
    t = np.where(np.asarray(event, dtype=np.bool_), np.asarray(days, dtype=np.float64), np.inf)
    found = Median.by_group(Layout(draw), t, DAYS, resamples_of(rng))[0]
    return NOTHING if found is None else found.estimate(level, DAYS_PER_MONTH)


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
    "world",
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
#: Response classes, worst to best; what is not among them reaches none.
CLASSES: Final = ("PD", "SD", "MR", "PR", "VGPR", "CR", "SCR")
#: Response measures of the summary, and the class that must be reached.
RESPONSES: Final = (("ORR", "PR"), (">=VGPR", "VGPR"), ("CR", "CR"), ("sCR", "SCR"))
#: Patients without measurable M-protein at the infusion: nobody would see their progression by it.
UNTOLD: Final = "progression cannot be told"
#: Months to which the restricted mean PFS goes.
RMST_MONTHS: Final = 24.0

type Figure = Share | Mean | Median


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measure of one course in one world: for everyone, then for each group; None where there is nobody."""

    course: int
    measure: str
    unit: str
    figures: Sequence[Figure | None]
    divisor: float = 1.0


def summarise(
    parts: Iterable[tuple[str, str, pd.DataFrame]],
    *,
    groups: Sequence[str],
    weights: Mapping[str, float],
    rng: np.random.Generator,
    level: float = 0.95,
) -> pd.DataFrame:
    """Summarise outcomes per scenario, world and first-response group.

    Parameters
    ----------
    parts
        Scenario, world and its outcomes, one row per virtual patient; read one at a time. All worlds of a scenario come
        one after another. Patients who failed to simulate are left out, and so are those who died before the second
        infusion. Measures whose column is missing are left out.
    groups
        First-response groups in the order wanted; `all` comes before them.
    weights
        Of the worlds, summing to 1; shared out again among the worlds that a scenario (or group) has.
    rng
        For bootstraps.
    level
        Of the posterior intervals.

    Returns
    -------
    DataFrame
        Columns `SUMMARY_COLUMNS`. For each scenario the world `stacked` comes first: the mixture of worlds, whose
        interval holds the spread between them and whose `n` is that of its largest world, since worlds have the same
        patients. A median that is not reached is `inf`.

    Raises
    ------
    ReinfuseError
        If weights are no weights, a world has none, or a scenario comes back after another.

    Notes
    -----
    CR counts CR and better. Medians of PFS and DOR treat the end of follow-up as not reached; those of times to
    response and to MRD negativity are of the patients who reach it. Times count in quarters of a day, peaks and areas
    to 0.2 %.
    """
    share = checked_weights(weights)
    resamples = resamples_of(rng)
    rows: list[dict[str, object]] = []
    done: set[str] = set()
    with threadpool_limits(1):  # thousands of small products: threads wait for each other longer than they work
        for scenario, members in groupby(parts, key=lambda part: part[0]):
            if scenario in done:
                raise ReinfuseError(
                    f"scenario {scenario!r} comes twice; give all worlds of a scenario one after another"
                )
            done.add(scenario)
            worlds: dict[str, list[Measured]] = {}
            for _, world, frame in members:
                if world not in share:
                    raise ReinfuseError(f"world {world!r} has no weight; weights are given for {', '.join(share)}")
                worlds[world] = list(_measured(frame, groups, resamples))
            rows += _rows(scenario, STACKED, _stacked(worlds, share), groups, level)
            for world, measured in worlds.items():
                rows += _rows(scenario, world, measured, groups, level)
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights of worlds, if that is what they are.

    Raises
    ------
    ReinfuseError
        If there are none, one is negative or not finite, or they do not sum to 1.
    """
    values = np.array(list(weights.values()), dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or values.min() < 0 or abs(values.sum() - 1) > 1e-6:
        shown = ", ".join(f"{world} {weight:g}" for world, weight in weights.items()) or "none"
        raise ReinfuseError(f"weights of worlds are {shown}; give numbers from 0 to 1 that sum to 1")
    return {world: float(weight) for world, weight in weights.items()}


def counted(frame: pd.DataFrame) -> Flags:
    """Whose rows count: simulated, and alive at the second infusion."""
    return np.asarray(~frame["failed"].to_numpy(dtype=np.bool_) & frame["infused"].to_numpy(dtype=np.bool_))


def followed(frame: pd.DataFrame) -> Flags:
    """Whose rows count and whose second PFS can be told: by M-protein, only if that was measurable at infusion."""
    return np.asarray(counted(frame) & np.isfinite(frame["pfs_days_2"].to_numpy(dtype=np.float64)))


def reaches(best: pd.Series, at_least: str) -> Flags:
    """Whether each best response, a name of `CLASSES`, reaches a class; other names reach none."""
    labels = best.astype("category")
    wanted = CLASSES[CLASSES.index(at_least) :]
    known = np.append(np.isin(labels.cat.categories.to_numpy().astype(str), wanted), False)  # code -1: missing
    return np.asarray(known[labels.cat.codes.to_numpy()], dtype=np.bool_)


def _rows(
    scenario: str, world: str, measured: Sequence[Measured], groups: Sequence[str], level: float
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for place, group in enumerate(("all", *groups)):
        if group != "all" and all(one.figures[place] is None for one in measured):
            continue
        for one in measured:
            figure = _estimated(one.figures[place], level, one.divisor)
            rows.append(
                {
                    "scenario": scenario,
                    "world": world,
                    "group": group,
                    "course": one.course,
                    "measure": one.measure,
                    "unit": one.unit,
                    "n": figure.n,
                    "value": figure.value,
                    "low": figure.low,
                    "high": figure.high,
                    "mc_error": figure.mc_error,
                }
            )
    return rows


def _estimated(figure: Figure | None, level: float, divisor: float) -> Estimate:
    if figure is None:
        return NOTHING
    return figure.estimate(level, divisor) if isinstance(figure, Median) else figure.estimate(level)


def _stacked(worlds: Mapping[str, Sequence[Measured]], share: Mapping[str, float]) -> list[Measured]:
    """Mixture over worlds of every measure that one of them has."""
    found: dict[tuple[int, str], list[tuple[float, Measured]]] = {}
    for world, measured in worlds.items():
        for one in measured:
            found.setdefault((one.course, one.measure), []).append((share[world], one))
    out = []
    for (course, measure), several in found.items():
        first = several[0][1]
        figures = [_mixed([(w, one.figures[k]) for w, one in several]) for k in range(len(first.figures))]
        out.append(Measured(course=course, measure=measure, unit=first.unit, figures=figures, divisor=first.divisor))
    return out


def _mixed(figures: Sequence[tuple[float, Figure | None]]) -> Figure | None:
    there = [(weight, figure) for weight, figure in figures if figure is not None and weight > 0]
    if not there:
        return None
    total = sum(weight for weight, _ in there)
    shares = [weight / total for weight, _ in there]
    several = [figure for _, figure in there]
    return type(several[0]).mixed(several, shares)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ measures of a course


def _measured(frame: pd.DataFrame, groups: Sequence[str], resamples: Floats) -> Iterator[Measured]:
    """Every measure of every course that the columns of one scenario and world have."""
    kept = counted(frame)
    labels = frame["group"].astype("category")
    order = {name: place for place, name in enumerate(groups)}
    places = np.array([*(order.get(str(name), len(groups)) for name in labels.cat.categories), len(groups)])
    of_patient = places[labels.cat.codes.to_numpy()]
    # one group more than asked for: who belongs to none of them still belongs to all
    layout = Layout(frame["draw"].to_numpy(), of_patient, len(groups) + 1)
    for course in sorted(int(name[5:]) for name in frame.columns if name[:5] == "best_" and name[5:].isdigit()):
        yield from _Course(frame=frame, kept=kept, layout=layout, course=course, resamples=resamples).measured()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Course:
    """One course of one scenario and world."""

    frame: pd.DataFrame
    kept: Flags
    layout: Layout
    course: int
    resamples: Floats

    def measured(self) -> Iterator[Measured]:
        days = self._column("pfs_days")
        if days is None:
            return
        given = self.kept
        if self.course > 2:
            given = given & np.isfinite(self.frame[infusion_day(self.course)].to_numpy(dtype=np.float64))
        told = given & np.isfinite(days)
        yield from self._responses(given)
        for name, column in (("MRD-negative 1e-5", "mrd5"), ("MRD-negative 1e-6", "mrd6")):
            if self._has(column):
                flags = self.frame[f"{column}_{self.course}"].to_numpy(dtype=np.bool_)
                yield self._share(name, flags, given)
        yield self._share(UNTOLD, ~np.isfinite(days), given)
        yield from self._durations(days, told)
        yield from self._times(given)
        yield from self._kinetics(given)

    def _responses(self, given: Flags) -> Iterator[Measured]:
        judged = given & self.frame[f"evaluable_{self.course}"].to_numpy(dtype=np.bool_)
        for name, least in RESPONSES:
            yield self._share(name, reaches(self.frame[f"best_{self.course}"], least), judged)

    def _durations(self, days: Floats, given: Flags) -> Iterator[Measured]:
        event = np.asarray(self.frame[f"pfs_event_{self.course}"] != "none")
        times = np.where(event, days, np.inf)
        yield self._median("PFS median", "months", times, given, divisor=DAYS_PER_MONTH)
        open_ended = given & ~event
        follow_up = float(days[open_ended].min()) if open_ended.any() else np.inf
        for months in (12.0, 24.0):
            # a share at a time before which some are censored is no estimate
            who = given if months * DAYS_PER_MONTH <= follow_up else np.zeros_like(given)
            yield self._share(f"PFS at {months:g} months", days > months * DAYS_PER_MONTH, who)
        who = given if RMST_MONTHS * DAYS_PER_MONTH <= follow_up else np.zeros_like(given)
        limited = np.minimum(days / DAYS_PER_MONTH, RMST_MONTHS)
        name = f"restricted mean PFS at {RMST_MONTHS:g} months"
        yield self._mean(name, "months", limited, who, (0.0, RMST_MONTHS))
        duration = self._column("dor_days")
        if duration is not None:
            lasting = np.where(event, duration, np.inf)
            yield self._median("DOR median", "months", lasting, given & ~np.isnan(duration), divisor=DAYS_PER_MONTH)

    def _times(self, given: Flags) -> Iterator[Measured]:
        for name, column in (
            ("time to response median", "response_days"),
            ("time to MRD-negative 1e-5 median", "mrd5_days"),
            ("time to MRD-negative 1e-6 median", "mrd6_days"),
        ):
            value = self._column(column)
            if value is not None:
                yield self._median(name, "days", value, given & np.isfinite(value))

    def _kinetics(self, given: Flags) -> Iterator[Measured]:
        for name, column, unit, scale in (
            ("Cmax median", "cmax", "cells/µL", MAGNITUDES),
            ("Tmax median", "tmax", "days", DAYS),
            ("AUC0-28 median", "auc28", "cells/µL·days", MAGNITUDES),
            ("persistence median", "persistence_days", "days", DAYS),
        ):
            value = self._column(column)
            if value is not None:
                yield self._median(name, unit, value, given & np.isfinite(value), scale)
        for name, column, top in (
            ("CRS proxy mean", "crs_proxy", np.inf),
            ("cure chance mean", "cure_chance", 1.0),
        ):
            value = self._column(column)
            if value is not None and (column != "cure_chance" or np.isfinite(value).any()):
                yield self._mean(name, "1", value, given & np.isfinite(value), (0.0, top))

    def _has(self, column: str) -> bool:
        return f"{column}_{self.course}" in self.frame

    def _column(self, column: str) -> Floats | None:
        if not self._has(column):
            return None
        return self.frame[f"{column}_{self.course}"].to_numpy(dtype=np.float64)

    def _share(self, measure: str, flags: Flags, who: Flags) -> Measured:
        hits, size = self.layout.count(who & flags), self.layout.count(who)
        figures = [Share.of(hits[k], size[k]) for k in range(self.layout.groups)]
        return Measured(course=self.course, measure=measure, unit="proportion", figures=figures)

    def _mean(self, measure: str, unit: str, value: Floats, who: Flags, bounds: tuple[float, float]) -> Measured:
        some, own = self.layout.only(who), value[who]
        total, squares, size = some.add(own), some.add(own**2), some.count()
        figures = [Mean.of(total[k], squares[k], size[k], bounds) for k in range(some.groups)]
        return Measured(course=self.course, measure=measure, unit=unit, figures=figures)

    def _median(
        self, measure: str, unit: str, value: Floats, who: Flags, scale: Scale = DAYS, divisor: float = 1.0
    ) -> Measured:
        figures = Median.by_group(self.layout.only(who), value[who], scale, self.resamples)[:-1]
        return Measured(course=self.course, measure=measure, unit=unit, figures=figures, divisor=divisor)
