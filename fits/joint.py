"""Hamiltonian trajectories of population and patients at once, in the coordinates of `coordinates`.

Population and patients hold each other; only a move of both at once goes far. Patients whose geometry allows only
short steps are heavier, so that they move less.

`Joint` says in NumPy what is meant; `KernelJoint` does the same in compiled code, without Python's lock.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.policy import kernel

from .conditional import solve
from .coordinates import Coordinates, backward, forward
from .likelihood_op import entry_of, kernel_data
from .problem import Problem

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

LIGHT: Final = 0.45  # patients with steps of their own as long as this are as light as the population


class Likelihood(Protocol):
    """What `Joint` wants to know of the statistical model: `geometry.Posterior`."""

    prior_mean: Floats
    prior_sd: Floats
    log_sd: Integers

    def likelihood(self, h: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """Log-likelihood (n,), its slopes by ``b`` (n, q) and, summed over patients, by ``h``."""
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
    speed
        (n,) how far patients go in a step, in units of their sites.
    """

    posterior: Likelihood
    coordinates: Coordinates
    speed: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.speed = np.ones(len(self.coordinates.layout.block))

    def weigh(self, steps: Floats) -> None:
        """Set the speeds by the steps (n,) that suit each patient alone."""
        self.speed = np.minimum(1.0, steps / LIGHT)

    def trajectory(self, w: Floats, momentum: Floats, step: float, count: int) -> tuple[End, End]:
        """A trajectory of ``count`` steps (leapfrog).

        Parameters
        ----------
        w, momentum
            Where it starts.
        step
            Length of a step.
        count
            Number of steps.

        Returns
        -------
        start, end
            The start's error is 0.
        """
        q = self.coordinates.layout.block.shape[1]
        speed = np.concatenate([np.ones(w.size - self.speed.size * q), np.repeat(self.speed, q)])
        with np.errstate(over="ignore", invalid="ignore"):  # what runs away is rejected by its energy
            value, force, loglik, slope = self._force(w)
            energy, start = value - 0.5 * momentum @ momentum, End(w, 0.0, loglik, slope)
            p = momentum
            for _ in range(count):
                p = p + 0.5 * step * speed * force
                w = w + step * speed * p
                value, force, loglik, slope = self._force(w)
                p = p + 0.5 * step * speed * force
                if not np.isfinite(value):
                    return start, End(w, np.inf, loglik, slope)
            error = energy - (value - 0.5 * p @ p)
        return start, End(w, np.inf if np.isnan(error) else float(error), loglik, slope)

    def _force(self, w: Floats) -> tuple[float, Floats, Floats, Floats]:
        """The target at ``w`` and its gradient; all patients' log-likelihoods and their slopes."""
        at, posterior = self.coordinates, self.posterior
        h, b, factor, mean, logdet = forward(w, at.centre, at.scale, *at.sites.arrays, at.layout.log_sd)
        loglik, slope, by_h = posterior.likelihood(h, b)
        score, precision = (h - posterior.prior_mean) / posterior.prior_sd, np.exp(-2.0 * h[posterior.log_sd])
        square = b * b * precision
        value = float(loglik.sum()) + logdet - 0.5 * float(score @ score + square.sum())
        value -= len(b) * float(h[posterior.log_sd].sum())
        by_h = by_h - score / posterior.prior_sd
        np.add.at(by_h, posterior.log_sd, square.sum(axis=0) - len(b))
        by_b = slope - b * precision
        back = backward(h, b, factor, mean, by_h, by_b, at.scale, *at.sites.arrays, at.layout.log_sd)
        return value, back, loglik, slope


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

    def trajectory(self, w: Floats, momentum: Floats, step: float, count: int) -> tuple[End, End]:
        """As `Joint.trajectory`."""
        at, posterior = self.coordinates, self.posterior
        n, q = at.layout.block.shape
        first, last = End(w, 0.0, np.zeros(n), np.zeros((n, q))), (w.copy(), np.zeros(n), np.zeros((n, q)))
        error = _trajectory(
            self._entry, self._order, self._posed, self._scales, self._made,
            (posterior.prior_mean, posterior.prior_sd, posterior.log_sd), (at.centre, at.scale, *at.sites.arrays),
            self.speed, step, count, momentum.copy(), (first.loglik, first.slope), last,
        )  # fmt: skip
        return first, End(last[0], float(error), last[1], last[2])


@kernel
def _force(
    entry: Any,
    order: Integers,
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
    by_h, by_b = np.zeros(h.size), np.empty((n, q))
    x, by_x = np.empty((n, c)), np.empty((n, c))
    for i in range(n):
        for j in range(c):
            x[i, j] = offset[i, j]
            for k in range(h.size):
                x[i, j] += by_hyper[i, j, k] * h[k]
            for k in range(q):
                x[i, j] += by_deviation[i, j, k] * b[i, k]
    solve(entry, order, posed, scales, x, True, loglik, by_x)
    value = logdet
    slope[:] = 0.0
    for i in range(n):
        value += loglik[i]
        for j in range(c):
            for k in range(q):
                slope[i, k] += by_x[i, j] * by_deviation[i, j, k]
            for k in range(h.size):
                by_h[k] += by_x[i, j] * by_hyper[i, j, k]
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
            by_b[i, k] = slope[i, k] - pull
    return value, backward(h, b, factor, mean, by_h, by_b, scale, precision, linear, cross, log_sd)


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
    order: Integers,
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
    value, force = _force(entry, order, posed, scales, made, prior, sites, w, loglik, slope)
    start[0][:], start[1][:] = loglik, slope
    energy = value - 0.5 * np.sum(p * p)
    for _ in range(count):
        _kick(p, 0.5 * step, speed, force, first, q)
        _kick(w, step, speed, p, first, q)
        value, force = _force(entry, order, posed, scales, made, prior, sites, w, loglik, slope)
        _kick(p, 0.5 * step, speed, force, first, q)
        if not np.isfinite(value):
            return np.inf
    error = energy - (value - 0.5 * np.sum(p * p))
    return np.inf if np.isnan(error) else error
