"""scikit-SUNDAE: CVODE of SUNDIALS, with the right-hand side compiled by Numba."""

from __future__ import annotations

from functools import partial

import numpy as np
from sksundae.cvode import CVODE
from system import Problem, numba_slope

from .interface import Floats, Method, Solve


def prepare(method: str, problem: Problem, tolerance: float, threads: int) -> Solve:
    """One patient after the other. Tolerances by state are absolute: for linear states, that of 1 + |start|."""
    slope, days = numba_slope(problem), problem.days
    start, coefficients = problem.start, problem.coefficients

    def one(p: int) -> Floats:
        c = coefficients[p]

        def rates(t: float, y: Floats, d: Floats) -> None:
            slope(t, y, c, d)

        absolute = tolerance * np.where(problem.linear, 1.0 + np.abs(start[p]), 1.0)
        solver = CVODE(rates, method=method, rtol=1e-15, atol=absolute, max_num_steps=20_000)
        found = solver.solve(days, start[p])
        return found.y if found.success else np.full((days.size, problem.size), np.nan)

    return lambda: np.stack([one(p) for p in range(problem.n)])


METHODS = tuple(
    Method(
        peer="scikit-sundae",
        label=f"scikit-sundae CVODE {method}",
        prepare=partial(prepare, method),
        tolerances=(1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
        patients=64,
        threads=(1,),
        note="right-hand side by Numba",
    )
    for method in ("Adams", "BDF")
)
