"""Patients given the population: their log densities and Hamiltonian trajectories.

Given the population, patients are independent, so all is patient by patient: deviations ``b`` are (n, q), a log density
is (n,), its gradient (n, q). `Conditional` says in NumPy what is meant; `KernelConditional` does the same in compiled
code around a model's kernel, without Python's lock, so that chains can share a process.

The likelihood depends on population and deviations through each patient's own values alone. Whatever moves both and
leaves those as they are leaves the likelihood and its slope by the deviations, too; so these two are what is handed
on, and the prior is added where a density is wanted.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.policy import kernel

from .likelihood_op import entry_of, kernel_data
from .problem import Problem

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

#: Deviations, in their sds, beyond which nobody is followed: such solves are dear, and no posterior reaches there.
FARTHEST: Final = 30.0


class Conditional:
    """Each patient's log density of data and deviations, given a population.

    Parameters
    ----------
    likelihood
        Log-likelihood (n,) and its slope by the deviations (n, q), at deviations; minus infinity where there is none.
    log_sd
        (q,) logarithms of the deviations' sd.
    n
        Number of patients.
    """

    def __init__(self, likelihood: Callable[[Floats], tuple[Floats, Floats]], log_sd: Floats, n: int) -> None:
        self.likelihood, self.n = likelihood, n
        self.precision: Floats = np.exp(-2.0 * log_sd)
        self.constant = float(log_sd.sum())

    def loglik(self, b: Floats) -> Floats:
        """The log-likelihood alone."""
        return self.likelihood(b)[0]

    def logliks(self, b: Floats, who: Integers) -> Floats:
        """The log-likelihood of some patients, each as often as it is in ``who`` (m,), at deviations (m, q): (m,)."""
        found = np.empty(who.size)
        for row, patient in enumerate(who):
            everyone = np.zeros((self.n, b.shape[1]))
            everyone[patient] = b[row]
            found[row] = self.loglik(everyone)[patient]
        return found

    def value(self, b: Floats, loglik: Floats) -> Floats:
        """The log density, (n,), up to the normal prior's constant."""
        with np.errstate(over="ignore"):
            return np.asarray(loglik - 0.5 * (b * b) @ self.precision - self.constant)

    def energy_error(self, start: tuple[Floats, Floats, Floats], end: tuple[Floats, Floats, Floats]) -> Floats:
        """What a trajectory gained in energy, (n,), from deviations, momenta and log-likelihoods at start and end.

        Infinite where the trajectory ran away; minus infinity where it left a start without a density.
        """
        (b, momentum, loglik), (y, p, new) = start, end
        with np.errstate(over="ignore", invalid="ignore"):
            error = self.value(b, loglik) - self.value(y, new)
            error += 0.5 * (p**2).sum(axis=1) - 0.5 * (momentum**2).sum(axis=1)
        return np.where(np.isnan(error), np.inf, error)

    def trajectory(
        self, b: Floats, slope: Floats, momentum: Floats, step: Floats, root: Floats, count: int
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Hamiltonian trajectories (leapfrog) of all patients, each with its own step and scale.

        Parameters
        ----------
        b, slope, momentum
            (n, q) where the trajectories begin; ``slope`` of the log-likelihood.
        step
            (n,) step sizes.
        root
            (n, q, q) scales: roots of the inverse masses.
        count
            Number of steps.

        Returns
        -------
        b, momentum, loglik, slope
            At the end. A trajectory that ran away, beyond `FARTHEST` at any step, has a log-likelihood that is not
            finite. That depends on where it went alone, so the way back is the same.
        """
        h, p, loglik, lost = step[:, None], momentum, np.empty(0), np.zeros(len(b), dtype=bool)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever runs away is rejected by its energy
            for _ in range(count):
                p = p + 0.5 * h * np.einsum("nqr,nq->nr", root, slope - b * self.precision)
                b = b + h * np.einsum("nqr,nr->nq", root, p)
                lost |= ~(b * b * self.precision <= FARTHEST**2).all(axis=1)
                loglik, slope = self.likelihood(b)
                p = p + 0.5 * h * np.einsum("nqr,nq->nr", root, slope - b * self.precision)
        return b, p, np.where(lost, -np.inf, loglik), slope


class KernelConditional(Conditional):
    """The same with a posed cohort's kernel; see `Conditional`.

    Parameters
    ----------
    problem
        The posed cohort.
    offset
        (n, columns) individual parameters on their transformed scales where all deviations are 0.
    by_deviation
        (n, columns, q) what a deviation adds there.
    log, logit
        (columns,) the scales.
    log_sd
        (q,) logarithms of the deviations' sd.
    order
        Patients to evaluate; None: all. The others' log-likelihood and slope are 0.
    outcomes
        Counter of how the solver ended, by `reinfuse.model.simulate.Status`; added to.
    """

    def __init__(
        self,
        problem: Problem,
        offset: Floats,
        by_deviation: Floats,
        log: NDArray[np.bool_],
        logit: NDArray[np.bool_],
        log_sd: Floats,
        order: Integers | None,
        outcomes: Integers,
    ) -> None:
        super().__init__(self._likelihood, log_sd, problem.n)
        everyone, *data = kernel_data(problem)
        self._entry = entry_of(problem)  # alone, for Numba calls functions inside tuples experimental
        self._order = everyone if order is None else order
        self._posed = (*data, outcomes), (problem.tolerance, problem.max_steps)
        self._made = np.ascontiguousarray(offset), by_deviation
        self._scales = log, logit

    def _likelihood(self, b: Floats) -> tuple[Floats, Floats]:
        loglik, slope = np.empty(b.shape[0]), np.empty(b.shape)
        self._evaluate(self._order, self._posed, self._made, b, loglik, slope)
        return loglik, slope

    def loglik(self, b: Floats) -> Floats:
        """The log-likelihood alone, which costs half."""
        loglik = np.empty(b.shape[0])
        self._evaluate(self._order, self._posed, self._made, b, loglik)
        return loglik

    def logliks(self, b: Floats, who: Integers) -> Floats:
        """As `Conditional.logliks`, in one call."""
        (*data, outcomes), solver = self._posed
        made = tuple(array[who] for array in self._made)
        loglik = np.empty(who.size)
        self._evaluate(np.arange(who.size), ((*(array[who] for array in data), outcomes), solver), made, b, loglik)
        return loglik

    def _evaluate(
        self, order: Integers, posed: Any, made: Any, b: Floats, loglik: Floats, slope: Floats | None = None
    ) -> None:
        none = np.empty((0, 0)) if slope is None else slope
        _evaluate(
            self._entry, order, posed, self._scales, made, np.ascontiguousarray(b), slope is not None, loglik, none
        )

    def trajectory(
        self, b: Floats, slope: Floats, momentum: Floats, step: Floats, root: Floats, count: int
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """As `Conditional.trajectory`."""
        b, p, slope, loglik = b.copy(), momentum.copy(), slope.copy(), np.empty(b.shape[0])
        _trajectory(
            self._entry, self._order, self._posed, self._scales, self._made,
            self.precision, step, root, count, b, p, loglik, slope,
        )  # fmt: skip
        return b, p, loglik, slope


@kernel
def solve(
    entry: Any, order: Integers, posed: Any, scales: Any, x: Floats, adjoint: bool, loglik: Floats, by_x: Floats
) -> None:
    """Log-likelihood (n,) of the patients in ``order`` and, with ``adjoint``, its slope (n, columns).

    Parameters
    ----------
    entry
        A kernel's C function.
    order
        Patients to evaluate; the others' values and slopes are 0.
    posed
        The kernel's data but for ``order``, a counter of outcomes last; tolerance and largest number of steps.
    scales
        (columns,) whether a column is on a logarithmic or a logit scale.
    x
        (n, columns) individual parameters on their transformed scales; becomes those on natural scales.
    """
    data, (tolerance, max_steps) = posed
    log, logit = scales
    n, c = x.shape
    grad = np.empty((n, c))
    for i in order:
        for j in range(c):
            if log[j]:
                x[i, j] = np.exp(x[i, j])
            elif logit[j]:
                x[i, j] = 1.0 / (1.0 + np.exp(-x[i, j]))
    loglik[:] = 0.0
    ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob, outcomes = data
    entry(
        order.ctypes.data, x.ctypes.data, ev_time.ctypes.data, ev_code.ctypes.data, n_ev.ctypes.data,
        ob_time.ctypes.data, ob_kind.ctypes.data, ob_family.ctypes.data, ob_value.ctypes.data, n_ob.ctypes.data,
        loglik.ctypes.data, grad.ctypes.data, outcomes.ctypes.data,
        order.size, n, ev_time.shape[1], ob_time.shape[1], tolerance, max_steps, adjoint,
    )  # fmt: skip
    if adjoint:
        by_x[:] = 0.0
        for i in order:
            for j in range(c):
                back = x[i, j] if log[j] else x[i, j] * (1.0 - x[i, j]) if logit[j] else 1.0
                by_x[i, j] = grad[i, j] * back


@kernel
def _evaluate(
    entry: Any,
    order: Integers,
    posed: Any,
    scales: Any,
    made: Any,
    b: Floats,
    adjoint: bool,
    loglik: Floats,
    slope: Floats,
) -> None:
    """Log-likelihood at deviations and, with ``adjoint``, its slope by them."""
    offset, by_deviation = made
    n, c, q = by_deviation.shape
    x, by_x = np.empty((n, c)), np.empty((n, c))
    for i in order:
        for j in range(c):
            x[i, j] = offset[i, j]
            for k in range(q):
                x[i, j] += by_deviation[i, j, k] * b[i, k]
    solve(entry, order, posed, scales, x, adjoint, loglik, by_x)
    if adjoint:
        slope[:] = 0.0
        for i in order:
            for j in range(c):
                for k in range(q):
                    slope[i, k] += by_x[i, j] * by_deviation[i, j, k]


@kernel
def _kick(half: Floats, root: Floats, slope: Floats, b: Floats, precision: Floats, p: Floats) -> None:
    n, q = b.shape
    for i in range(n):
        for r in range(q):
            total = 0.0
            for k in range(q):
                total += root[i, k, r] * (slope[i, k] - b[i, k] * precision[k])
            p[i, r] += half[i] * total


@kernel
def _trajectory(
    entry: Any,
    order: Integers,
    posed: Any,
    scales: Any,
    made: Any,
    precision: Floats,
    step: Floats,
    root: Floats,
    count: int,
    b: Floats,
    p: Floats,
    loglik: Floats,
    slope: Floats,
) -> None:
    """Leapfrog steps, in place; whoever runs away is solved no more."""
    n, q = b.shape
    half, near, left = 0.5 * step, order.copy(), order.size
    for _ in range(count):
        _kick(half, root, slope, b, precision, p)
        for i in range(n):
            for k in range(q):
                total = 0.0
                for r in range(q):
                    total += root[i, k, r] * p[i, r]
                b[i, k] += step[i] * total
        kept = 0
        for i in near[:left]:
            inside = True
            for k in range(q):
                inside = inside and b[i, k] * b[i, k] * precision[k] <= FARTHEST**2
            if inside:
                near[kept] = i
                kept += 1
        left = kept
        _evaluate(entry, near[:left], posed, scales, made, b, True, loglik, slope)
        _kick(half, root, slope, b, precision, p)
    for i in order:
        if not np.any(near[:left] == i):
            loglik[i] = -np.inf
