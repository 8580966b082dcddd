"""SciPy's solvers, with the right-hand side compiled by Numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.integrate import odeint, solve_ivp
from system import Problem, numba_slope

from .interface import Floats, Method, Solve

TIGHTEST = 3e-14  # below, solve_ivp warns


def by_solve_ivp(method: str, problem: Problem, tolerance: float, threads: int) -> Solve:
    """`solve_ivp`, one patient after the other."""
    slope, days = numba_slope(problem), problem.days
    relative, absolute = problem.weights(tolerance)
    start, coefficients = problem.start, problem.coefficients

    def one(p: int) -> Floats:
        c, d = coefficients[p], np.empty(problem.size)

        def rates(t: float, y: Floats) -> Floats:
            slope(t, y, c, d)
            return d.copy()

        found = solve_ivp(
            rates, (0.0, days[-1]), start[p], method, days, rtol=np.maximum(relative, TIGHTEST), atol=absolute
        )
        return found.y.T if found.success else np.full((days.size, problem.size), np.nan)

    return lambda: np.stack([one(p) for p in range(problem.n)])


def by_odeint(problem: Problem, tolerance: float, threads: int) -> Solve:
    """`odeint` (LSODA in Fortran), one patient after the other."""
    slope, days = numba_slope(problem), problem.days
    relative, absolute = problem.weights(tolerance)
    start, coefficients = problem.start, problem.coefficients

    def one(p: int) -> Floats:
        c, d = coefficients[p], np.empty(problem.size)

        def rates(t: float, y: Floats) -> Floats:
            slope(t, y, c, d)
            return d

        found, more = odeint(
            rates, start[p], days, tfirst=True, rtol=relative, atol=absolute, mxstep=20_000, full_output=True
        )
        return found if "successful" in more["message"] else np.full_like(found, np.nan)

    return lambda: np.stack([one(p) for p in range(problem.n)])


def _method(label: str, prepare: Callable[[Problem, float, int], Solve]) -> Method:
    return Method(
        peer="scipy",
        label=label,
        prepare=prepare,
        tolerances=(1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
        patients=64,
        threads=(1,),
        note="right-hand side by Numba",
    )


METHODS = (
    _method("scipy solve_ivp DOP853", partial(by_solve_ivp, "DOP853")),
    _method("scipy solve_ivp LSODA", partial(by_solve_ivp, "LSODA")),
    _method("scipy odeint", by_odeint),
)
