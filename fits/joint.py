"""Hamiltonian trajectories of population and patients at once, in the coordinates of `coordinates`.

Population and patients hold each other; only a move of both at once goes far. But it needs the steps of its oddest
patient. So time has two scales (Tuckerman, Berne & Martyna 1992): patients whose geometry allows only short steps pull
more often, at a few solves of their own, and everybody else at every full step; the patients in question are also
heavier, so that they move less. The trajectory is reversible and keeps volume, whatever the division.

`Joint` says in NumPy what is meant; `KernelJoint` does the same in compiled code, without Python's lock.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.lanes import WIDTH
from reinfuse.model.kernels.policy import kernel

from .conditional import solve
from .coordinates import Coordinates, backward, forward
from .likelihood_op import entry_of, kernel_data
from .problem import Problem

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

INNER: Final = 4  # short steps in a full one
HARD: Final = 0.3  # patients with shorter steps of their own are hard
LIGHT: Final = 0.45  # patients with longer ones are as light as the population


class Likelihood(Protocol):
    """What `Joint` wants to know of the statistical model: `geometry.Posterior`."""

    prior_mean: Floats
    prior_sd: Floats
    log_sd: Integers

    def likelihood(self, h: Floats, b: Floats, order: Integers) -> tuple[Floats, Floats, Floats]:
        """Log-likelihood (n,) of the patients in ``order``, its slopes by ``b`` (n, q) and, summed, by ``h``."""
        ...


@dataclass(frozen=True)
class End:
    """Where a trajectory came to: ``w``, what it gained in energy; all patients' log-likelihoods and their slopes.

    `error` is infinite where the trajectory ran away; then `loglik` and `slope` mean nothing.
    """

    w: Floats
    error: float
    loglik: Floats
    slope: Floats


@dataclass
class Joint:
    """The move, of every patient and the population.

    Attributes
    ----------
    posterior, coordinates
        The statistical model, and where to move.
    hard, easy
        Patients with finer steps, and all others.
    speed
        (n,) how far patients go in a step, in units of their sites.
    """

    posterior: Likelihood
    coordinates: Coordinates
    hard: Integers = field(init=False)
    easy: Integers = field(init=False)
    speed: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.divide(np.full(self.order.size, LIGHT))

    @property
    def order(self) -> Integers:
        """All patients, in the order in which they are best solved."""
        return np.arange(self.coordinates.layout.block.shape[0])

    def divide(self, steps: Floats) -> None:
        """Say who is hard, by the steps (n,) that suit each patient alone: at most a quarter, or a lane of them."""
        hardest = np.argsort(steps, kind="stable")[: max(WIDTH, steps.size // 4)]
        self.take(hardest[steps[hardest] < HARD], np.minimum(1.0, steps / LIGHT))

    def take(self, hard: Integers, speed: Floats) -> None:
        """Take these patients as hard, and these speeds (n,)."""
        mine = np.isin(self.order, hard)
        self.hard, self.easy = self.order[mine].astype(np.int64), self.order[~mine].astype(np.int64)
        self.speed = speed

    def trajectory(self, w: Floats, momentum: Floats, step: float, count: int) -> tuple[End, End]:
        """A trajectory of ``count`` full steps.

        Parameters
        ----------
        w, momentum
            Where it starts.
        step
            Length of a full step.
        count
            Number of full steps.

        Returns
        -------
        start, end
            The start's error is 0.
        """
        speed = np.concatenate([np.ones(w.size - self.speed.size * self._q), np.repeat(self.speed, self._q)])
        loglik, slope = np.zeros(self.order.size), np.zeros((self.order.size, self._q))
        fine = step / INNER
        with np.errstate(over="ignore", invalid="ignore"):  # what runs away is rejected by its energy
            value_easy, by_easy = self._force(w, self.easy, True, loglik, slope)
            value_hard, by_hard = self._force(w, self.hard, False, loglik, slope)
            energy = value_easy + value_hard - 0.5 * momentum @ momentum
            start = End(w, 0.0, loglik.copy(), slope.copy())
            p = momentum
            for _ in range(count):
                p = p + 0.5 * step * speed * by_easy
                for _ in range(INNER):
                    p = p + 0.5 * fine * speed * by_hard
                    w = w + fine * speed * p
                    value_hard, by_hard = self._force(w, self.hard, False, loglik, slope)
                    p = p + 0.5 * fine * speed * by_hard
                value_easy, by_easy = self._force(w, self.easy, True, loglik, slope)
                p = p + 0.5 * step * speed * by_easy
                if not np.isfinite(value_easy + value_hard):
                    return start, End(w, np.inf, loglik, slope)
            error = energy - (value_easy + value_hard - 0.5 * p @ p)
        return start, End(w, np.inf if np.isnan(error) else float(error), loglik, slope)

    @property
    def _q(self) -> int:
        return int(self.coordinates.layout.block.shape[1])

    def _force(self, w: Floats, order: Integers, whole: bool, loglik: Floats, slope: Floats) -> tuple[float, Floats]:
        """Log-likelihood of some patients, with all priors and the Jacobian if ``whole``, and its gradient by ``w``."""
        at, posterior = self.coordinates, self.posterior
        h, b, factor, mean, logdet = forward(w, at.centre, at.scale, *at.sites.arrays, at.layout.log_sd)
        value, by_h, by_b = 0.0, np.zeros(h.size), np.zeros(b.shape)
        if order.size:
            found, slopes, by_h = posterior.likelihood(h, b, order)
            loglik[order], slope[order] = found[order], slopes[order]
            by_b[order] = slopes[order]
            value = float(found[order].sum())
        if whole:
            score, precision = (h - posterior.prior_mean) / posterior.prior_sd, np.exp(-2.0 * h[posterior.log_sd])
            square = b * b * precision
            value += logdet - 0.5 * float(score @ score + square.sum()) - len(b) * float(h[posterior.log_sd].sum())
            by_h = by_h - score / posterior.prior_sd
            np.add.at(by_h, posterior.log_sd, square.sum(axis=0) - len(b))
            by_b -= b * precision
        back = backward(
            h, b, factor, mean, by_h, by_b, at.scale, *at.sites.arrays, at.layout.log_sd, 1.0 if whole else 0.0
        )
        return value, back


class KernelJoint(Joint):
    """The same with a posed cohort's kernel; see `Joint`.

    Parameters
    ----------
    posterior, coordinates
        As for `Joint`.
    problem
        The posed cohort.
    offset, by_hyper, by_deviation
        Individual parameters on their transformed scales: (n, columns), and what population values and deviations add,
        (n, columns, values) and (n, columns, q).
    log, logit
        (columns,) the scales.
    outcomes
        Counter of how the solver ended, by `reinfuse.model.simulate.Status`; added to.
    """

    def __init__(
        self,
        posterior: Likelihood,
        coordinates: Coordinates,
        problem: Problem,
        *,
        offset: Floats,
        by_hyper: Floats,
        by_deviation: Floats,
        log: NDArray[np.bool_],
        logit: NDArray[np.bool_],
        outcomes: Integers,
    ) -> None:
        self._order, *data = kernel_data(problem)
        self._entry = entry_of(problem)
        self._posed = (*data, outcomes), (problem.tolerance, problem.max_steps)
        self._made = offset, by_hyper, by_deviation
        self._scales = log, logit
        super().__init__(posterior, coordinates)

    @property
    def order(self) -> Integers:
        """As `Joint.order`."""
        return self._order

    def trajectory(self, w: Floats, momentum: Floats, step: float, count: int) -> tuple[End, End]:
        """As `Joint.trajectory`."""
        at, posterior = self.coordinates, self.posterior
        n, q = at.layout.block.shape
        first, last = End(w, 0.0, np.zeros(n), np.zeros((n, q))), (w.copy(), np.zeros(n), np.zeros((n, q)))
        error = _trajectory(
            self._entry, self.easy, self.hard, self._posed, self._scales, self._made,
            (posterior.prior_mean, posterior.prior_sd, posterior.log_sd), (at.centre, at.scale, *at.sites.arrays),
            self.speed, step, count, momentum.copy(), (first.loglik, first.slope), last,
        )  # fmt: skip
        return first, End(last[0], float(error), last[1], last[2])


@kernel
def _force(
    entry: Any,
    order: Integers,
    whole: bool,
    posed: Any,
    scales: Any,
    made: Any,
    prior: Any,
    sites: Any,
    w: Floats,
    loglik: Floats,
    slope: Floats,
) -> tuple[float, Floats]:
    """As `Joint._force`."""
    offset, by_hyper, by_deviation = made
    prior_mean, prior_sd, log_sd = prior
    centre, scale, precision, linear, cross = sites
    n, c, q = by_deviation.shape
    h, b, factor, mean, logdet = forward(w, centre, scale, precision, linear, cross, log_sd)
    by_h, by_b = np.zeros(h.size), np.zeros((n, q))
    value = 0.0
    if order.size > 0:
        x, by_x, found = np.empty((n, c)), np.empty((n, c)), np.empty(n)
        for i in order:
            for j in range(c):
                x[i, j] = offset[i, j]
                for k in range(h.size):
                    x[i, j] += by_hyper[i, j, k] * h[k]
                for k in range(q):
                    x[i, j] += by_deviation[i, j, k] * b[i, k]
        solve(entry, order, posed, scales, x, True, found, by_x)
        for i in order:
            value += found[i]
            loglik[i] = found[i]
            for j in range(c):
                for k in range(q):
                    by_b[i, k] += by_x[i, j] * by_deviation[i, j, k]
                for k in range(h.size):
                    by_h[k] += by_x[i, j] * by_hyper[i, j, k]
            for k in range(q):
                slope[i, k] = by_b[i, k]
    if whole:
        value += logdet
        for k in range(h.size):
            score = (h[k] - prior_mean[k]) / prior_sd[k]
            value -= 0.5 * score * score
            by_h[k] -= score / prior_sd[k]
        for k in range(q):
            place = log_sd[k]
            inverse = np.exp(-2.0 * h[place])
            value -= n * h[place]
            by_h[place] -= n
            for i in range(n):
                pull = b[i, k] * inverse
                value -= 0.5 * b[i, k] * pull
                by_h[place] += b[i, k] * pull
                by_b[i, k] -= pull
    jacobian = 1.0 if whole else 0.0
    return value, backward(h, b, factor, mean, by_h, by_b, scale, precision, linear, cross, log_sd, jacobian)


@kernel
def _kick(p: Floats, step: float, speed: Floats, gradient: Floats, first: int, q: int) -> None:
    for k in range(first):
        p[k] += step * gradient[k]
    for i in range(speed.size):
        for k in range(first + i * q, first + (i + 1) * q):
            p[k] += step * speed[i] * gradient[k]


@kernel
def _trajectory(
    entry: Any,
    easy: Integers,
    hard: Integers,
    posed: Any,
    scales: Any,
    made: Any,
    prior: Any,
    sites: Any,
    speed: Floats,
    step: float,
    count: int,
    p: Floats,
    start: Any,
    end: Any,
) -> float:
    """As `Joint.trajectory`, in place; what it gained in energy."""
    w, loglik, slope = end
    first, q = prior[0].size, slope.shape[1]
    fine = step / INNER
    value_easy, by_easy = _force(entry, easy, True, posed, scales, made, prior, sites, w, loglik, slope)
    value_hard, by_hard = _force(entry, hard, False, posed, scales, made, prior, sites, w, loglik, slope)
    start[0][:], start[1][:] = loglik, slope
    energy = value_easy + value_hard - 0.5 * np.sum(p * p)
    for _ in range(count):
        _kick(p, 0.5 * step, speed, by_easy, first, q)
        for _ in range(INNER):
            _kick(p, 0.5 * fine, speed, by_hard, first, q)
            _kick(w, fine, speed, p, first, q)
            if hard.size > 0:
                value_hard, by_hard = _force(entry, hard, False, posed, scales, made, prior, sites, w, loglik, slope)
            _kick(p, 0.5 * fine, speed, by_hard, first, q)
        value_easy, by_easy = _force(entry, easy, True, posed, scales, made, prior, sites, w, loglik, slope)
        _kick(p, 0.5 * step, speed, by_easy, first, q)
        if not np.isfinite(value_easy + value_hard):
            return np.inf
    error = energy - (value_easy + value_hard - 0.5 * np.sum(p * p))
    return np.inf if np.isnan(error) else error
