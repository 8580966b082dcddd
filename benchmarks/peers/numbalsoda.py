"""numbalsoda: LSODA in C++ and DOP853 in Fortran, called from Numba, patients shared out by `prange`."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numba
import numbalsoda
import numpy as np
from system import Problem, numba_slope

from .interface import Floats, Method, Solve

MOST_STEPS = 20_000


def right_hand_side(problem: Problem) -> Any:
    """The C function that numbalsoda calls."""
    slope = numba_slope(problem)
    size, count = problem.size, len(problem.needed.coefficients)

    @numba.cfunc(numbalsoda.lsoda_sig)
    def rates(t, y, d, c):
        slope(t, numba.carray(y, (size,)), numba.carray(c, (count,)), numba.carray(d, (size,)))

    return rates


@cache
def compiled(name: str, problem: Problem) -> Any:
    """``everyone(start, coefficients, tolerance, out)`` and the C function, which must outlive its address."""
    rates = right_hand_side(problem)
    solver, address, days = getattr(numbalsoda, name), rates.address, problem.days

    @numba.njit(parallel=True)
    def everyone(start, coefficients, tolerance, out):
        for p in numba.prange(start.shape[0]):
            found, success = solver(address, start[p], days, coefficients[p], tolerance, tolerance, MOST_STEPS)
            if success:
                out[p] = found
            else:
                out[p] = np.nan

    return everyone, rates


def prepare(name: str, problem: Problem, tolerance: float, threads: int) -> Solve:
    """The same number as relative and absolute tolerance: numbalsoda has none by state."""
    everyone, _ = compiled(name, problem)

    def solve() -> Floats:
        numba.set_num_threads(threads)
        out = np.empty((problem.n, problem.days.size, problem.size))
        everyone(problem.start, problem.coefficients, tolerance, out)
        return out

    return solve


METHODS = tuple(
    Method(
        peer="numbalsoda",
        label=f"numbalsoda {name}",
        prepare=partial(prepare, name),
        tolerances=(1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
        patients=1024,
        note="right-hand side by Numba, prange over patients",
    )
    for name in ("dop853", "lsoda")
)
