"""CyRK: explicit Runge-Kutta methods in C++, called from Numba, patients shared out by `prange`."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import CyRK
import numba
import numpy as np
from system import Problem, numba_slope

from .interface import Floats, Method, Solve

MOST_STEPS = 20_000
TIGHTEST = 3e-14


def right_hand_side(problem: Problem) -> Any:
    """The C function that CyRK calls."""
    slope = numba_slope(problem)
    size, count = problem.size, len(problem.needed.coefficients)

    def rates(d, t, y, c):
        slope(t, numba.carray(y, (size,)), numba.carray(c, (count,)), numba.carray(d, (size,)))

    return CyRK.cyjit(rates)


@cache
def compiled(name: str, problem: Problem) -> Any:
    """``everyone(start, coefficients, relative, absolute, out)`` and the C function, which must outlive its address."""
    rates = right_hand_side(problem)
    address, solver, days = rates.address, CyRK.nbsolve2_ivp, problem.days
    span = (float(days[0]), float(days[-1]))

    @numba.njit(parallel=True)
    def everyone(start, coefficients, relative, absolute, out):
        for p in numba.prange(start.shape[0]):
            found = solver(
                address, span, start[p], name, days, False, coefficients[p], 1e-3, 1e-6, relative, absolute,
                max_num_steps=MOST_STEPS,
            )  # fmt: skip
            if found.success:
                out[p] = found.y.T
            else:
                out[p] = np.nan
            found.free()

    return everyone, rates


def prepare(name: str, problem: Problem, tolerance: float, threads: int) -> Solve:
    """Patients one by one in each thread."""
    everyone, _ = compiled(name, problem)
    relative, absolute = problem.weights(tolerance)
    relative = np.maximum(relative, TIGHTEST)

    def solve() -> Floats:
        numba.set_num_threads(threads)
        out = np.empty((problem.n, problem.days.size, problem.size))
        everyone(problem.start, problem.coefficients, relative, absolute, out)
        return out

    return solve


METHODS = tuple(
    Method(
        peer="CyRK",
        label=f"CyRK {name}",
        prepare=partial(prepare, name),
        tolerances=(1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
        patients=1024,
        note="right-hand side by Numba, prange over patients",
    )
    for name in ("Tsit5", "DOP853", "Vern7")
)
