"""Profile likelihood of population values: how far each can be pushed while everything else gives way.

The likelihood is the marginal one. Each patient's deviations are integrated out by importance sampling from the mixture
that a run's own draws have taught (`proposals`), at points that are drawn once: given these, the log-likelihood is a
smooth function of the population with an exact gradient, so that everything else can be put at its best for each value
of the profiled one, and most of the Monte Carlo error of the integrals is shared by all values; what is not is seen at
a second, independent set of points. (A joint mode of population and deviations would not do: on the Leipzig run, with
the prior put back, it lay up to one and a half posterior sds off the posterior.)

The prior of the profiled value is left out, those of the others count unless that is asked for: a profile that stays
flat is a parameter that the data, with what is known of the others, do not limit. Limits are where twice the drop from
the maximum is the quantile of chi-squared with one degree of freedom. Where the profile does not drop so far within
`WIDEST` prior sds the limit is open.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp
from scipy.stats import chi2, qmc

from ..coordinates import Layout
from ..proposals import Mixture, centres, learnt

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]
#: Log-likelihood of a population vector (d,), and its gradient (d,).
type LogLikelihood = Callable[[Floats], tuple[float, Floats]]

LEVEL: Final = 0.95
WIDEST: Final = 4.0  # prior sds to either side of where the search begins
FIRST_STEP: Final = 0.75  # in sds of the posterior
GROWTH: Final = 1.4
MOST_STEPS: Final = 12  # to each side
ITERATIONS: Final = 40
TIGHT: Final = 1e-6  # relative gain of the target from which a search has ended
POINTS: Final = 256  # of each patient's integral: with 32, limits of weak parameters differed by a posterior sd
TRUSTED: Final = 1.0  # Monte Carlo error of a drop up to which limits mean anything
TINY: Final = 1e-12  # uniform numbers keep so far from 0 and 1


class Patients(Protocol):
    """What integrals need of `geometry.Posterior`."""

    def patients(self, h: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """Log density of data and deviations (n,), its gradients by ``b`` (n, q) and ``h`` (n, d)."""


class Marginal:
    """A cohort's log-likelihood given the population, deviations integrated out, with its gradient.

    Parameters
    ----------
    posterior
        The statistical model patient by patient.
    layout
        Of its vectors.
    h, b
        Draws of the population (S, d) and the deviations (S, n, q), of a posterior.
    rng
        Of the integrals' points.
    count
        How many, for each patient.
    """

    def __init__(
        self, posterior: Patients, layout: Layout, h: Floats, b: Floats, rng: np.random.Generator, count: int = POINTS
    ) -> None:
        coordinates = learnt(layout, h, b)
        mixture = Mixture.learn(coordinates, h, b, rng)
        self.posterior, self.centre = posterior, coordinates.centre
        self.mean, root = centres(coordinates, self.centre)
        total = coordinates.sites.precision + np.diag(np.exp(-2.0 * self.centre[layout.log_sd]))
        self.response: Floats = -np.linalg.solve(total, coordinates.sites.cross)
        n = len(self.mean)
        sequence = qmc.Sobol(mixture.inputs, scramble=True, rng=rng).random(count)
        shift = rng.uniform(size=(n, mixture.inputs))
        z = np.stack([mixture.draw(np.clip((point + shift) % 1.0, TINY, 1.0 - TINY)) for point in sequence])
        self.away: Floats = np.einsum("nqr,snr->snq", root, z)
        constant = np.linalg.slogdet(root)[1] - 0.5 * z.shape[2] * np.log(2.0 * np.pi)
        self.log_weight: Floats = constant - mixture.log_density(z)

    def __call__(self, h: Floats) -> tuple[float, Floats]:
        """Value and gradient at a population vector."""
        centre = self.mean + self.response @ (h - self.centre)
        value, slope = np.empty(self.log_weight.shape), np.empty((*self.log_weight.shape, h.size))
        for s, away in enumerate(self.away):
            each, by_b, by_h = self.posterior.patients(h, centre + away)
            value[s] = np.where(np.isfinite(each), each, -np.inf) + self.log_weight[s]
            slope[s] = by_h + np.einsum("nqd,nq->nd", self.response, by_b)
        total = logsumexp(value, axis=0)
        with np.errstate(invalid="ignore"):
            share = np.nan_to_num(np.exp(value - total))
        gradient = np.einsum("sn,snd->d", share, np.where(share[:, :, None] > 0, slope, 0.0))
        return float(total.sum() - total.size * np.log(len(value))), gradient


@dataclass(frozen=True, eq=False)
class Profile:
    """One parameter's profile.

    Attributes
    ----------
    name
        Of the parameter.
    value
        (k,) at which it was held, rising, on the transformed scale.
    drop
        (k,) twice the loss of log-likelihood against the best.
    best
        Where the profile is highest.
    low, high
        Confidence limits; minus or plus infinity: open.
    threshold
        Drop at the limits.
    error
        Monte Carlo error of a drop: root mean square difference from independent integrals, over values inside the
        limits; NaN where there are none.
    """

    name: str
    value: Floats
    drop: Floats
    best: float
    low: float
    high: float
    threshold: float
    error: float = float("nan")

    @property
    def readable(self) -> bool:
        """Whether the integrals' error, where it is known, lets limits mean anything."""
        return not self.error > TRUSTED

    @property
    def words(self) -> str:
        """What the limits say."""
        if not self.readable:
            return f"not to be read: the integrals' error is {self.error:.1f} in a drop; ask for more points"
        if np.isfinite(self.low) and np.isfinite(self.high):
            return "limited on both sides"
        if not np.isfinite(self.low) and not np.isfinite(self.high):
            return f"open on both sides within {WIDEST:g} prior sds: the data do not limit it"
        side = "above" if np.isfinite(self.low) else "below"
        return f"open {side}: within {WIDEST:g} prior sds the data give no limit there"


class Profiler:
    """Profiles of a likelihood.

    Parameters
    ----------
    loglik
        The marginal log-likelihood.
    prior_mean, prior_sd
        (d,) of the population values.
    centre, covariance
        (d,), (d, d) of their posterior: where searches begin, and the scales they go by.
    penalised
        Whether the priors of the other population values count.
    again
        The same log-likelihood by independent integrals, to see their error.
    """

    def __init__(
        self,
        loglik: LogLikelihood,
        *,
        prior_mean: Floats,
        prior_sd: Floats,
        centre: Floats,
        covariance: Floats,
        penalised: bool = True,
        again: LogLikelihood | None = None,
    ) -> None:
        self.loglik, self.penalised, self.independent = loglik, penalised, again
        self.prior_mean, self.prior_sd = prior_mean, prior_sd
        self.centre, self.covariance = centre, covariance

    def profile(self, name: str, place: int) -> Profile:
        """Profile the population value at a place of the population vector."""
        threshold = float(chi2.ppf(LEVEL, 1))
        search = _Search(self, place)
        points: dict[float, float] = {search.centre: search.best(search.centre)}
        for side in (-1.0, 1.0):
            search.again()
            self._walk(search, points, side, threshold)
        if (highest := _vertex(*_sorted(points))) not in points:
            search.again()
            points[highest] = search.best(highest)
        value, height = _sorted(points)
        best, top = float(value[np.argmax(height)]), float(height.max())
        curve = PchipInterpolator(value, height) if value.size > 1 else lambda x: np.full(np.shape(x), height[0])
        fine = np.linspace(value[0], value[-1], 2001)

        def beyond(x: float) -> float:
            return float(2.0 * (top - curve(x)) - threshold)

        low, high = (_limit(beyond, fine, best, side) for side in (-1, 1))
        error = self._error(search, value, height, threshold)
        return Profile(name, value, 2.0 * (top - height), best, low, high, threshold, error)

    def _error(self, search: "_Search", value: Floats, height: Floats, threshold: float) -> float:
        """Root mean square difference of drops by the independent integrals, at the same populations."""
        inside = np.flatnonzero(2.0 * (height.max() - height) <= threshold)
        if self.independent is None or inside.size < 2:
            return float("nan")
        differences = np.array([self.independent(search.found[value[k]])[0] for k in inside])
        differences -= np.array([self.loglik(search.found[value[k]])[0] for k in inside])
        return float(2.0 * differences.std(ddof=1))

    def _walk(self, search: "_Search", points: dict[float, float], side: float, threshold: float) -> None:
        """Go out to one side, in steps that suit the curve, until it has dropped or the widest value is reached."""
        step, at, edge = FIRST_STEP * search.sd, search.centre, WIDEST * search.prior_sd
        last = points[at]
        for _ in range(MOST_STEPS):
            at = search.centre + side * min(side * (at - search.centre) + step, edge)
            points[at] = search.best(at)
            if 2.0 * (max(points.values()) - points[at]) > 1.3 * threshold or abs(at - search.centre) >= edge - 1e-12:
                return
            slow = 2.0 * abs(last - points[at]) < 0.3 * threshold
            left = (edge - side * (at - search.centre)) / MOST_STEPS  # so that the edge is reached in time
            step = max(step * GROWTH if slow else FIRST_STEP * search.sd, left)
            last = points[at]


class _Search:
    """The best of everything else, with one population value held; each search begins where the last one ended."""

    def __init__(self, profiler: Profiler, place: int) -> None:
        self.profiler, self.place = profiler, place
        self.centre = float(profiler.centre[place])
        covariance = profiler.covariance
        self.prior_sd = float(profiler.prior_sd[place])
        self.sd = float(min(np.sqrt(covariance[place, place]), self.prior_sd))
        self.free = np.delete(np.arange(profiler.centre.size), place)
        self.follow: Floats = covariance[self.free, place] / covariance[place, place]
        given = covariance[np.ix_(self.free, self.free)] - np.outer(self.follow, covariance[place, self.free])
        self.scale = np.linalg.cholesky(given + 1e-9 * np.diag(np.diag(covariance)[self.free]))
        self.u = self.begin = np.zeros(self.free.size)
        self.found: dict[float, Floats] = {}  # the population that is best at each value

    def again(self) -> None:
        """Begin where the very first search ended."""
        self.u = self.begin

    def _at(self, value: float, u: Floats) -> Floats:
        h = self.profiler.centre.copy()
        h[self.place] = value
        h[self.free] += self.follow * (value - self.centre) + self.scale @ u
        return h

    def best(self, value: float) -> float:
        """Highest log-likelihood with the parameter held at a value."""
        profiler = self.profiler

        def negative(u: Floats) -> tuple[float, Floats]:
            h = self._at(value, u)
            total, slope = profiler.loglik(h)
            if profiler.penalised:
                score = (h - profiler.prior_mean) / profiler.prior_sd
                score[self.place] = 0.0
                total -= 0.5 * float(score @ score)
                slope = slope - score / profiler.prior_sd
            if not np.isfinite(total):
                return 1e10, np.zeros(u.size)
            return -total, -(self.scale.T @ slope[self.free])

        options = {"maxiter": ITERATIONS, "maxcor": 20, "ftol": TIGHT, "gtol": 1e-3}
        found = minimize(negative, self.u, jac=True, method="L-BFGS-B", options=options)
        self.u = found.x
        self.found[value] = self._at(value, found.x)
        if value == self.centre:
            self.begin = self.u
        return -float(found.fun)


def _sorted(points: Mapping[float, float]) -> tuple[Floats, Floats]:
    """Values, rising, and the heights there."""
    value = np.array(sorted(points))
    return value, np.array([points[x] for x in value])


def _vertex(value: Floats, height: Floats) -> float:
    """Where the highest point is, by a parabola through the three around the highest."""
    k = int(np.argmax(height))
    if not 0 < k < value.size - 1:
        return float(value[k])
    x, y = value[k - 1 : k + 2] - value[k], height[k - 1 : k + 2]
    a, b, _ = np.linalg.solve(np.vander(x, 3), y)
    return float(value[k]) + (float(np.clip(-b / (2.0 * a), x[0], x[2])) if a < 0 else 0.0)


def _limit(beyond: Callable[[float], float], fine: Floats, best: float, side: int) -> float:
    """Where the drop first passes the threshold to one side of the best; infinite if it never does."""
    outward = fine[side * (fine - best) > 0][::side]
    before = best
    for x in outward:
        if beyond(float(x)) > 0:
            return float(brentq(beyond, min(before, x), max(before, x))) if beyond(before) < 0 else float(x)
        before = float(x)
    return float(side) * np.inf
