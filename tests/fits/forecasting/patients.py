"""Simulated patients: the course and the days of one of a small cohort, data from parameters that are known."""

import numpy as np

from reinfuse.fits.forecasting.patient import NewPatient, alone
from reinfuse.fits.holdout import early
from reinfuse.fits.population import estimated
from reinfuse.fits.problem import Problem
from reinfuse.fits.results import DEGREES, Draws, simulate_draws
from reinfuse.model.densities import Family

from ..small_cohorts import Posed


def populations(posed: Posed, count: int, rng: np.random.Generator, spread: float = 0.5) -> np.ndarray:
    """Population vectors around the prior's, (count, d)."""
    posterior = posed.posterior
    return posterior.prior_mean + spread * posterior.prior_sd * rng.standard_normal((count, posterior.prior_mean.size))


def drawn(posed: Posed, h: np.ndarray) -> Draws:
    """Draws of a run, one chain, whose own patients do not matter."""
    x = np.zeros((1, len(h), posed.layout.size))
    x[..., posed.layout.hyper] = h
    return Draws(posed.problem, x)


def patient(problem: Problem, cohort=None, **changes) -> NewPatient:
    """A newcomer of whom the run knows nothing."""
    given = {"known": None, "left_out": (), "limits": {}, "alike": False} | changes
    return NewPatient(name=problem.patients[0], cohort=cohort, problem=problem, **given)


def without_data(posed: Posed, row: int = 0) -> Problem:
    """One patient before anything was measured."""
    problem = alone(posed.problem, row, "P")
    return _with(problem, n_ob=np.zeros(1, dtype=np.int64))


def simulated(posed: Posed, row: int, h: np.ndarray, b: np.ndarray, rng: np.random.Generator, until=1e9) -> Problem:
    """Assays of one patient until a day, measured anew at a population and deviations; limits stay limits (M3)."""
    problem = early(alone(posed.problem, row, "P"), until)
    posterior = posed.posterior
    x = posterior.design.offset[row] + posterior.by_hyper[row] @ h + posterior.design.by_deviation[row] @ b
    theta = posterior.design.back(x)
    labels = estimated(posed.problem)
    count = int(problem.n_ob[0])
    times = np.unique(problem.ob_time[0, :count])
    curves = simulate_draws(problem, theta[None, None], times)
    value, family = problem.ob_value.copy(), problem.ob_family.copy()
    for j in range(count):
        name = problem.kernel.kinds[problem.ob_kind[0, j]]
        how = problem.observables[name]
        at = curves[name][0, 0, np.searchsorted(times, problem.ob_time[0, j])]
        y = how.compared(at) + np.exp(h[labels.index(how.sd)]) * rng.standard_t(DEGREES)
        limit = LIMITS.get(name, -np.inf)
        value[0, j], family[0, j] = max(y, limit), Family.BELOW if y < limit else Family.QUANTIFIED
    return _with(problem, ob_value=value, ob_family=family)


#: Limits of quantification of the simulated assays, logarithms.
LIMITS = {"transgene": np.log(50.0), "cart": np.log(0.1), "sbcma": np.log(1.0)}


def _with(problem: Problem, **changes) -> Problem:
    import dataclasses

    return dataclasses.replace(problem, **changes)
