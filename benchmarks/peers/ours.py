"""reinfuse: eight patients in lanes. The one place of the benchmark that calls our kernels for trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from likelihood import Task
from system import EVENT, VARIED, Problem

from reinfuse.model.course import Infusion
from reinfuse.model.derive.build import Kernel, build
from reinfuse.model.kernels.tableaux import method_for
from reinfuse.model.simulate import MAX_STEPS, simulate_population, solved

from .interface import Floats, Method, Solve

MOST_ATTEMPTS = 4000
DIFFERENCE = 1e-4  # of a parameter


def kernel(problem: Problem, tolerance: float) -> Kernel:
    """The kernel that reports the states and nothing else, with the method that a user gets at this tolerance."""
    method = method_for(tolerance)
    return build(problem.needed.model, fixed=problem.fixed, readouts=problem.needed.states, method=method)


def infusions(compiled: Kernel, n: int) -> tuple[Any, ...]:
    """Times, codes and numbers of events: everyone is infused at time 0, where the model knows infusions.

    The assessment, which sets the cumulative hazard to 0 at day 10, is left out, for us as for everyone.
    """
    infused = EVENT in compiled.events
    codes = np.full((n, 1), compiled.events.index(EVENT) if infused else 0)
    return np.zeros((n, 1)), codes, np.full(n, int(infused))


def prepare(problem: Problem, tolerance: float, threads: int) -> Solve:
    """The compiled kernel itself; `simulate_population` checks its input and calls the same."""
    compiled = kernel(problem, tolerance)
    assert compiled.states == problem.needed.states
    n, names = problem.n, problem.needed.parameters
    theta = np.ascontiguousarray(problem.theta[:, [names.index(name) for name in compiled.parameters]])
    events = infusions(compiled, n)
    out, status = np.empty((n, problem.days.size, problem.size)), np.zeros(n, dtype=np.int64)

    def solve() -> tuple[Floats, Any]:
        numba.set_num_threads(threads)
        compiled.simulate(theta, *events, problem.days, tolerance, MAX_STEPS, out, status)
        return out, status

    return solve


def read(problem: Problem, answer: tuple[Floats, Any]) -> Floats:
    """Our read-outs are in natural units; others answer in logarithms. Not part of what is timed."""
    states, status = answer[0].copy(), answer[1]
    states[:, :, ~problem.linear] = np.log(states[:, :, ~problem.linear])
    states[~solved(status)] = np.nan
    return states


def public(problem: Problem, tolerance: float, threads: int) -> Solve:
    """`simulate_population` on the same patients: checks, all read-outs and xarray included."""
    names = problem.needed.parameters
    values = {name: problem.theta[:, names.index(name)] for name in VARIED if name in names}

    def solve() -> Any:
        numba.set_num_threads(threads)
        return simulate_population(
            course=[Infusion(product="ide-cel")],
            times=problem.days,
            parameters=values,
            options="real",
            tolerance=tolerance,
        )

    return solve


def records(task: Task, compiled: Kernel) -> tuple[Any, ...]:
    """Events and records in the order of the likelihood kernel's arguments, with all of one patient in each row."""
    n = task.n
    kind = np.array([compiled.kinds.index(kind) for kind, _ in task.schedule])
    rows = (np.tile(task.problem.days, (n, 1)), np.tile(kind, (n, 1)), np.tile(task.family, (n, 1)))
    return (*infusions(compiled, n), *rows, task.value)


def likelihood_kernel(task: Task, tolerance: float) -> Kernel:
    """The kernel of the log-likelihood and its adjoint, with the method that a user gets at this tolerance."""
    model, method = task.problem.needed.model, method_for(tolerance)
    compiled = build(model, fixed=task.problem.fixed, kinds=task.kinds, readouts=(), method=method)
    assert compiled.parameters == task.problem.needed.parameters
    return compiled


def loglik(task: Task, theta: Floats, rows: Any, tolerance: float, adjoint: bool) -> Callable[[], tuple[Floats, ...]]:
    """The likelihood kernel at ``theta`` (m, parameters), row i with the records of patient ``rows[i]``."""
    compiled = likelihood_kernel(task, tolerance)
    m, length = len(theta), task.problem.days.size
    data = [np.ascontiguousarray(a[rows]) for a in records(task, compiled)]
    value, gradient, status = np.empty(m), np.empty(theta.shape), np.zeros(m, dtype=np.int64)
    order, count = np.arange(m), np.full(m, length)

    def run() -> tuple[Floats, ...]:
        compiled.loglik_grad(order, theta, *data, count, tolerance, MOST_ATTEMPTS, adjoint, value, gradient, status)
        return value, gradient, status

    return run


def prepare_adjoint(task: Task, tolerance: float, threads: int) -> Solve:
    """The discrete adjoint: value and gradient from one solve."""
    run = loglik(task, task.problem.theta, np.arange(task.n), tolerance, True)

    def solve() -> Floats:
        _, gradient, status = run()
        return np.where(solved(status)[:, None], gradient * task.scale, np.nan)

    return solve


def prepare_differences(task: Task, tolerance: float, threads: int) -> Solve:
    """Central differences: two solves for each parameter, by the same kernel without its adjoint."""
    theta, scale = task.problem.theta, task.scale
    n, m = theta.shape
    steps = np.eye(m)[None] * (DIFFERENCE * scale)[:, :, None]
    both = np.concatenate([theta[:, None] + steps, theta[:, None] - steps], axis=1).reshape(2 * n * m, m)
    run = loglik(task, both, np.repeat(np.arange(n), 2 * m), tolerance, False)

    def solve() -> Floats:
        value = run()[0].reshape(n, 2, m)
        return (value[:, 0] - value[:, 1]) / (2.0 * DIFFERENCE)

    return solve


METHODS = (
    Method(
        peer="reinfuse",
        label="reinfuse",
        prepare=prepare,
        read=read,
        tolerances=(1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10),
        note="eight patients in lanes",
    ),
)

GRADIENTS = (
    Method(
        peer="reinfuse",
        label="reinfuse, adjoint",
        prepare=prepare_adjoint,
        tolerances=(1e-3, 1e-4, 1e-5, 1e-6, 1e-8),
        patients=512,
        threads=(1,),
        note="discrete adjoint in lanes",
    ),
    Method(
        peer="reinfuse",
        label="reinfuse, central differences",
        prepare=prepare_differences,
        tolerances=(1e-4, 1e-6, 1e-8),
        patients=64,
        threads=(1,),
        note="the same kernel without its adjoint, twice for each parameter",
    ),
)
