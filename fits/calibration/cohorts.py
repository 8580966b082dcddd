"""Cohorts drawn from exactly the density that the likelihood has, with the truth behind them.

Simulation-based calibration compares a sampler with a model, so the cohorts must come from that model and from no
neighbour of it. `synthetic` draws what looks like a real study: progression is noticed on whole days, M-protein is
followed where it is measurable, and values are rounded. Each of these is a small departure from the likelihood. Here:

- Population values, spreads and product effects are drawn from their priors (or given), patients' deviations given the
  spreads, individual parameters by the design of the fit.
- Progression is the exact time at which the cumulative hazard, which counts from day 10 after the latest infusion,
  reaches an exponential variate; death without progression comes with the constant hazard ``hD``, and competes.
- Visits, which assays are taken at them, limits of quantification and ends of follow-up are drawn without a look at
  parameters. Sampling ends with progression, death or follow-up, and some of those who progress are infused again: both
  depend on what is in the table already, so the likelihood may ignore them.
- Residuals are Student t on the log scale and are censored at the limits; nothing is rounded.

A cohort is drawn anew, population and all, where the *table* says so: nobody progressed after ide-cel although some
are to be infused again, somebody chosen died before the second infusion (the likelihood counts those who lived to have
it, and would have to know of those who did not), an assay is missing altogether, or `reinfuse check` would refuse the
table. Conditioning on an event of the data alone leaves the posterior as it is, and calibration with it. It is drawn
anew as well where a trajectory cannot be solved; the likelihood is zero there, so prior and fit agree once more. How
often each happened is counted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import brentq

from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError

from ..assays import ASSAYS, LOG_OFFSET
from ..cohort import Cohort, CohortError, cohort_from_frame
from ..cohort_terms import ASSAY_TABLE, EVENTS, WRITTEN_COLUMNS
from ..geometry import Posterior
from ..likelihood_op import loglik_and_gradient
from ..population import estimated
from ..problem import Problem, pose
from ..results import DEGREES, simulate_draws
from ..synthetic import (
    CART_LLOQ,
    CART_LLOQ_LOG_SD,
    FIRST,
    FOLLOW_UP,
    LLOQ,
    MPROTEIN_EVERY,
    MPROTEIN_JITTER,
    MULTIPLIERS,
    PUNCTUAL,
    SAMPLED,
    SECOND,
    TO_SECOND,
    VISITS,
)

type Floats = NDArray[np.float64]
type Row = tuple[Any, ...]

TOLERANCE: Final = 1e-7  # of the trajectories that make the data
NOT_YET: Final = FOLLOW_UP[1] + 50.0  # day of second infusions that lie behind every follow-up
MOST_DRAWS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Study:
    """The plan of a simulated study.

    Attributes
    ----------
    patients
        How many; at least 3.
    cilta_share
        Share whose first product is cilta-cel; at least one patient has, at least two have not.
    again_share
        Share of the ide-cel patients with a progression who get cilta-cel afterwards, at least one; 0: one infusion
        each, and no deviations between infusions.
    mprotein_share
        Share of the patients whose M-protein is followed, chosen by chance.
    """

    patients: int = 12
    cilta_share: float = 1 / 3
    again_share: float = 0.0
    mprotein_share: float = 2 / 3

    def __post_init__(self) -> None:
        for name in ("cilta_share", "again_share", "mprotein_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ReinfuseError(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        if self.patients < 3:
            raise ReinfuseError(f"patients is {self.patients}; give at least 3, so that both products are there")

    @property
    def products(self) -> tuple[str, ...]:
        """Everyone's first product."""
        cilta = min(max(round(self.patients * self.cilta_share), 1), self.patients - 2)
        return (FIRST,) * (self.patients - cilta) + (SECOND,) * cilta


@dataclass(frozen=True)
class Drawn:
    """A simulated cohort and its truth.

    Attributes
    ----------
    cohort, problem
        The table, and what the fit makes of it.
    h, b
        Population values in the order of `geometry.Posterior`, deviations (n, q).
    rejected
        How many cohorts were drawn anew, by reason.
    """

    cohort: Cohort
    problem: Problem
    h: Floats
    b: Floats
    rejected: Mapping[str, int] = field(default_factory=dict)


class _DrawAnew(Exception):
    """The cohort is not taken, for a reason."""


def draw_cohort(study: Study, rng: np.random.Generator, *, h: Floats | None = None) -> Drawn:
    """A cohort of the model.

    Parameters
    ----------
    study
        Its plan.
    rng
        Source of everything.
    h
        Population values in the order of `geometry.Posterior` (`labels` names them); None: drawn from the prior.

    Returns
    -------
    Drawn

    Raises
    ------
    ReinfuseError
        If ``h`` has another length, or `MOST_DRAWS` cohorts in a row had to be drawn anew.
    """
    posterior = Posterior(_template(study.products, study.again_share > 0))
    if h is not None and h.shape != posterior.prior_mean.shape:
        raise ReinfuseError(f"{h.size} population values for {posterior.prior_mean.size}: {', '.join(labels(study))}")
    rejected: Counter[str] = Counter()
    for _ in range(MOST_DRAWS):
        drawn = posterior.prior_mean + posterior.prior_sd * rng.standard_normal(posterior.prior_mean.size)
        try:
            return _attempt(study, posterior, drawn if h is None else h, rejected, rng)
        except _DrawAnew as reason:
            rejected[str(reason)] += 1
    raise ReinfuseError(f"none of {MOST_DRAWS} cohorts could be taken ({dict(rejected)}); change the study")


def labels(study: Study) -> tuple[str, ...]:
    """Names of the population values of a study, in the order of `geometry.Posterior`."""
    return names_of(_template(study.products, study.again_share > 0))


def names_of(problem: Problem) -> tuple[str, ...]:
    """Names of the population values of a problem, in the order of `geometry.Posterior`."""
    spreads = [f"omega {name}" for name in problem.random] + ["omega occasion"] * problem.occasions
    return (*estimated(problem), *spreads, *(effect.label for effect in problem.effects))


def prior_centre(study: Study) -> Floats:
    """Population values at their prior medians."""
    return Posterior(_template(study.products, study.again_share > 0)).prior_mean.copy()


def reference_truth(study: Study) -> Floats:
    """Population values of the bundled synthetic cohort: prior medians, and the product effects that made it."""
    h, names = prior_centre(study), labels(study)
    for label, multiplier in MULTIPLIERS.items():
        if label in names:
            h[names.index(label)] = np.log(multiplier)
    return h


# ---------------------------------------------------------------------------------------------- one attempt


def _attempt(study: Study, posterior: Posterior, h: Floats, rejected: Counter[str], rng: np.random.Generator) -> Drawn:
    n = study.patients
    b = np.exp(h[posterior.log_sd]) * rng.standard_normal((n, posterior.q))
    hazard_of_death = float(np.exp(h[estimated(posterior.problem).index("hD")]))
    death = rng.exponential(1.0 / hazard_of_death, n)
    resistance = rng.exponential(size=(n, 2))
    follow_up = rng.integers(*FOLLOW_UP, size=(n, 2), endpoint=True).astype(np.float64)
    first = _progressions(posterior, h, b, np.zeros(n), resistance[:, 0], FOLLOW_UP[1])[0]
    second_day = _infused_again(study, first, np.minimum(follow_up[:, 0], death), death, rng)

    starts = np.stack([np.zeros(n), second_day], axis=1)
    later = Posterior(pose(_plan(study.products, starts)))
    until = float(np.max(np.where(np.isfinite(second_day), second_day, 0.0) + follow_up[:, 1]))
    until = max(until, float(follow_up[:, 0].max()))
    second, curves = _progressions(later, h, b, second_day, resistance[:, 1], until)
    sigma = _residual_sd(later.problem, h)
    rows: list[Row] = []
    for i, product in enumerate(study.products):
        slots = 2 if np.isfinite(second_day[i]) else 1
        course = _Course(
            products=(product, SECOND)[:slots],
            starts=tuple(starts[i, :slots]),
            progressions=(first[i], second[i])[:slots],
            ends=(follow_up[i, 0], second_day[i] + follow_up[i, 1])[:slots],
            death=death[i],
        )
        mine = {assay: values[i] for assay, values in curves.items()}
        rows += _rows(_name(i), course, mine, sigma, bool(rng.uniform() < study.mprotein_share), rng)
    try:
        cohort = cohort_from_frame(_table(rows), name="simulated cohort")
    except CohortError as fault:
        raise _DrawAnew(f"no cohort: {fault.faults[0].what.split(':')[0]}") from None
    problem = pose(cohort)
    if names_of(problem) != names_of(posterior.problem):
        raise _DrawAnew("an assay is missing altogether")
    made = Posterior(problem)
    theta = made.design.theta(h[: made.d], h[made.d + made.spreads :], b)
    if not np.isfinite(loglik_and_gradient(theta, problem)[0]).all():
        raise _DrawAnew("not solved")
    return Drawn(cohort, problem, h, b, dict(rejected))


def _infused_again(study: Study, first: Floats, last: Floats, death: Floats, rng: np.random.Generator) -> Floats:
    """Days of the second infusions, (n,); infinite for who has none."""
    n = first.size
    if study.again_share == 0:
        return np.full(n, np.inf)
    candidates = np.flatnonzero((np.array(study.products) == FIRST) & (first <= last))
    interval = rng.integers(*TO_SECOND, size=n, endpoint=True)
    if candidates.size == 0:
        raise _DrawAnew("nobody to infuse again")
    count = min(max(1, round(study.again_share * candidates.size)), study.products.count(FIRST) - 1)
    chosen = rng.choice(candidates, size=count, replace=False)
    day = np.full(n, np.inf)
    day[chosen] = np.ceil(first[chosen]) + interval[chosen]
    if np.any(death[chosen] <= day[chosen]):
        raise _DrawAnew("death before the second infusion")
    return day


def _progressions(
    posterior: Posterior, h: Floats, b: Floats, start: Floats, resistance: Floats, until: float
) -> tuple[Floats, dict[str, Floats]]:
    """Exact days of progression after the infusions at ``start``, infinite if later than ``until``; daily curves."""
    made, problem = posterior.design, posterior.problem
    theta = made.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
    days = np.arange(np.floor(until) + 1.0)
    simulated = simulate_draws(problem, theta[None], days, TOLERANCE)
    curves = {name: values[0] for name, values in simulated.items()}
    if not all(np.isfinite(values).all() for values in curves.values()):
        raise _DrawAnew("not solved")
    found = np.full(start.size, np.inf)
    for i in np.flatnonzero(np.isfinite(start)):
        counts = days >= start[i] + EARLY
        found[i] = crossing(days[counts], curves["H"][i, counts], curves["hazard"][i, counts], resistance[i])
    return found, curves


def crossing(days: Floats, cumulative: Floats, hazard: Floats, level: float) -> float:
    """When a cumulative hazard, known with its slope on a grid (T,), first reaches a level; infinite if it does not."""
    if days.size < 2 or cumulative[-1] < level:
        return float("inf")
    after = max(int(np.searchsorted(cumulative, level)), 1)
    place = slice(after - 1, after + 1)
    curve = CubicHermiteSpline(days[place], cumulative[place] - level, hazard[place])
    return float(brentq(curve, days[after - 1], days[after], xtol=1e-10))


def _residual_sd(problem: Problem, h: Floats) -> dict[str, float]:
    names = estimated(problem)
    return {name.removeprefix("sigma_"): float(np.exp(h[names.index(name)])) for name in problem.residual}


# ---------------------------------------------------------------------------------------------- what is seen


@dataclass(frozen=True)
class _Course:
    """One patient's infusions: product, day, day of progression (infinite: never) and end of follow-up of each."""

    products: tuple[str, ...]
    starts: tuple[float, ...]
    progressions: tuple[float, ...]
    ends: tuple[float, ...]
    death: float


def _rows(
    name: str,
    course: _Course,
    curves: Mapping[str, Floats],
    sigma: Mapping[str, float],
    followed: bool,
    rng: np.random.Generator,
) -> list[Row]:
    rows: list[Row] = [
        _infusion(name, day, product) for day, product in zip(course.starts, course.products, strict=True)
    ]
    last = 0.0
    for product, start, progression, end in zip(
        course.products, course.starts, course.progressions, course.ends, strict=True
    ):
        last = min(progression, end, course.death)
        plan = _visits(product, start, rng) + (_monthly(start, end, rng) if followed else [])
        for day, assay in plan:
            row = _measured(name, day, assay, curves, sigma, rng)  # drawn whether it is taken or not
            if day <= last:
                rows.append(row)
        rows.append(_seen(name, last, "progression", float(progression == last)))
    return [*rows, _seen(name, last, "death", float(course.death == last))]


def _visits(product: str, start: float, rng: np.random.Generator) -> list[tuple[float, str]]:
    """Planned samples of a study's visits after an infusion: day and assay."""
    plan = []
    before = -1
    for visit, (earliest, planned, latest) in {0: (0, 0, 0), **VISITS}.items():
        spread = int(rng.integers(earliest, latest, endpoint=True))
        day = planned if rng.uniform() < PUNCTUAL else spread
        before = day = max(day, before + 1)
        plan += [
            (start + day, assay) for assay, shares in SAMPLED.items() if rng.uniform() < shares[product].get(visit, 0.0)
        ]
    return plan


def _monthly(start: float, end: float, rng: np.random.Generator) -> list[tuple[float, str]]:
    """Planned M-protein samples, from the day of an infusion to the end of follow-up."""
    planned = np.arange(start + MPROTEIN_EVERY, end + 1, MPROTEIN_EVERY)
    jitter = rng.integers(-MPROTEIN_JITTER, MPROTEIN_JITTER, size=planned.size, endpoint=True)
    return [(float(day), "mprotein") for day in (start, *np.minimum(planned + jitter, end))]


def _measured(
    name: str,
    day: float,
    assay: str,
    curves: Mapping[str, Floats],
    sigma: Mapping[str, float],
    rng: np.random.Generator,
) -> Row:
    """A value with residual error, censored at the assay's limits."""
    offset = LOG_OFFSET.get(assay, 0.0)
    location = np.log(curves[assay][int(day)] + offset)
    value = float(np.exp(location + sigma[assay] * rng.standard_t(DEGREES))) - offset
    limit = LLOQ.get(assay) or CART_LLOQ * float(np.exp(CART_LLOQ_LOG_SD * rng.standard_normal()))
    highest = ASSAY_TABLE[assay].highest
    if value < limit:
        return _seen(name, day, assay, limit, 1, limit)
    return _seen(name, day, assay, highest, -1, limit) if value > highest else _seen(name, day, assay, value, 0, limit)


def _infusion(name: str, day: float, product: str) -> Row:
    return (name, day, 1, np.nan, product, 1.0, "", np.nan, 0, np.nan)


def _seen(name: str, day: float, assay: str, value: float, censored: int = 0, limit: float = np.nan) -> Row:
    return (name, day, 0, np.nan, "", np.nan, assay, value, censored, limit)


def _name(i: int) -> str:
    return f"SIM-{i + 1:03d}"


def _table(rows: list[Row]) -> pd.DataFrame:
    rank = {assay: position for position, assay in enumerate(("", *ASSAY_TABLE))}
    ordered = sorted(rows, key=lambda row: (row[0], row[1], rank[row[6]]))
    return pd.DataFrame.from_records(ordered, columns=list(WRITTEN_COLUMNS))


def _plan(products: tuple[str, ...], starts: Floats) -> Cohort:
    """A cohort with these infusions (n, 2) and, so that it can be posed, a record of every kind for everyone."""
    rows: list[Row] = []
    for i, product in enumerate(products):
        for slot, day in enumerate(starts[i]):
            if np.isfinite(day):
                rows.append(_infusion(_name(i), day, (product, SECOND)[slot]))
        last = float(starts[i][np.isfinite(starts[i])].max()) + 30.0
        rows += [_seen(_name(i), last, kind, 0.0 if kind in EVENTS else 10.0) for kind in ASSAYS]
    return cohort_from_frame(_table(rows), name="plan of a simulated cohort")


@cache
def _template(products: tuple[str, ...], again: bool) -> Problem:
    """The problem of a study before anything has happened: all ide-cel patients but one are infused again, far off.

    With ``again`` false nobody is.
    """
    starts = np.zeros((len(products), 2))
    starts[:, 1] = np.where(again & (np.array(products) == FIRST), NOT_YET, np.inf)
    starts[0, 1] = np.inf
    return pose(_plan(products, starts))


def censored_shares(problem: Problem) -> dict[str, float]:
    """Share of the values of each assay that lie below their limit."""
    rec = problem.observed
    return {
        assay: float((rec.family[rec.dvid == assay] == Family.BELOW).mean())
        for assay in ASSAYS
        if assay not in EVENTS and np.any(rec.dvid == assay)
    }
