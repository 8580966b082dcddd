"""Trajectories per second at equal error: every peer at several tolerances, timed in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from peers.interface import Floats, Method, Solve, started
from system import Problem, numba_slope, simulation_problem
from timing import in_turn, spread

PANEL = 64  # patients on whom everyone's error is measured
CORES = os.cpu_count() or 1
PUBLIC, PUBLIC_TOLERANCE = "simulate_population", 1e-6
CHECKED = 3  # patients of the reference that are solved by another method too


@dataclass(frozen=True)
class Case:
    """One method at one tolerance on some threads, ready to be timed."""

    method: Method
    tolerance: float
    threads: int
    patients: int
    solve: Solve
    row: dict[str, Any]

    @property
    def name(self) -> str:
        """Key among the cases."""
        return f"{self.method.label} {self.tolerance:g} on {self.threads}"


def by_radau(problem: Problem) -> Floats:
    """A solution by SciPy's implicit Radau at 1e-11: slow, and shares nothing with anyone."""
    from scipy.integrate import solve_ivp

    slope, d = numba_slope(problem), np.empty(problem.size)

    def one(p: int) -> Floats:
        def rates(t: float, y: Floats) -> Floats:
            slope(t, y, problem.coefficients[p], d)
            return d.copy()

        return solve_ivp(
            rates, (0.0, problem.days[-1]), problem.start[p], "Radau", problem.days, rtol=1e-11, atol=1e-12
        ).y.T

    return np.stack([one(p) for p in range(problem.n)])


def reference(problem: Problem, peers: Mapping[str, ModuleType]) -> tuple[Floats, dict[str, Any]]:
    """States of the first patients to nearly machine precision, and how far another method is from them."""
    few = by_radau(problem.first(CHECKED))
    if "heyoka" not in peers:
        return few, {"by": "SciPy Radau at 1e-11", "patients": CHECKED}
    truth = peers["heyoka"].exact(problem)
    away = float(problem.error(few, truth).max())
    return truth, {"by": "heyoka at 1e-15", "patients": problem.n, "scipy_radau_differs_by": away}


def cases(
    problem: Problem, truth: Floats, peers: Mapping[str, ModuleType], quick: bool, say: Callable[[str], None]
) -> tuple[list[Case], dict[str, str]]:
    """All cases, compiled and called once, with their errors; and methods that failed, with the reason."""
    ready: list[Case] = []
    failed: dict[str, str] = {}
    sizes: dict[int | None, Problem] = {}
    for module in peers.values():
        for method in module.METHODS:
            few = sizes.setdefault(method.patients, problem.first(method.patients))
            try:
                for tolerance in method.at(quick):
                    for threads in (t for t in method.threads if t <= CORES):
                        ready.append(_case(method, few, truth, tolerance, threads))
                        say(_sentence(ready[-1].row))
            except Exception as error:  # a peer's failure is a result
                failed[method.label] = f"{type(error).__name__}: {error}"[:300]
                say(f"{method.label} failed: {failed[method.label]}")
    return ready, failed


def _case(method: Method, problem: Problem, truth: Floats, tolerance: float, threads: int) -> Case:
    solve, states, taken = started(method, problem, tolerance, threads)
    solved = np.isfinite(states).all(axis=(1, 2))
    errors = problem.error(states, truth)
    panel = errors[:PANEL][np.isfinite(errors[:PANEL])]
    row = {
        "peer": method.peer,
        "method": method.label,
        "note": method.note,
        "tolerance": tolerance,
        "threads": threads,
        "patients": problem.n,
        "unsolved": int((~solved).sum()),
        "error": float(panel.max()) if panel.size else None,
        "error_median": float(np.median(panel)) if panel.size else None,
        "error_everyone": float(np.nanmax(errors)) if solved.any() else None,
        "first_call_s": taken,
    }
    return Case(method, tolerance, threads, problem.n, solve, row)


def _sentence(row: Mapping[str, Any]) -> str:
    error = "no error" if row["error"] is None else f"error {row['error']:.1e}"
    return (
        f"{row['method']} at {row['tolerance']:g}, {row['threads']} thread(s): {error}, "
        f"{row['unsolved']} unsolved, first call {row['first_call_s']:.1f} s"
    )


def run(peers: Mapping[str, ModuleType], quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The section of the results."""
    problem = simulation_problem(256 if quick else 2048)
    truth, checked = reference(problem, peers)
    say(f"reference: {checked}")
    ready, failed = cases(problem, truth, peers, quick, say)
    solves: dict[str, Callable[[], Any]] = {case.name: case.solve for case in ready}
    if "ours" in peers:
        solves[PUBLIC] = peers["ours"].public(problem, PUBLIC_TOLERANCE, CORES)
        solves[PUBLIC]()
    samples = in_turn(solves, 2 if quick else 7, say)
    for case in ready:
        case.row["us"] = spread(samples[case.name], 1e6 / case.patients)
    return {
        "states": problem.size,
        "parameters": problem.theta.shape[1],
        "observations": problem.days.size,
        "panel": PANEL,
        "reference": checked,
        "rows": [case.row for case in ready],
        "failed": failed,
        "public": {
            "tolerance": PUBLIC_TOLERANCE,
            "threads": CORES,
            "us": spread(samples[PUBLIC], 1e6 / problem.n) if PUBLIC in samples else None,
        },
    }
