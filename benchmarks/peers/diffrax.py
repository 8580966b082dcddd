"""diffrax on JAX, 64-bit: patients by `vmap`, one device of XLA for each thread."""

from __future__ import annotations

import os

# read when JAX starts: two devices, each with one thread
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=2")

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from likelihood import Task
from system import Problem, walk

from reinfuse.model.derive.algebra import EVALUATE

from .interface import Floats, Method, Solve

jax.config.update("jax_enable_x64", True)

MAX_STEPS = 4096
WIDTH = 32  # patients solved in step; wider waits longer for the slowest, narrower loads XLA's loop less well
GRADIENT_WIDTH = 4
OPERATIONS = EVALUATE | {
    "exp": jnp.exp,
    "log": jnp.log,
    "max": jnp.maximum,
    "gt0": lambda a: jnp.where(a > 0, 1.0, 0.0),
}


def vector_field(problem: Problem) -> Callable[[Any, Any, Any], Any]:
    """``f(t, y, c)`` of one patient."""
    needed = problem.needed

    def rates(t: Any, y: Any, c: Any) -> Any:
        symbols = {f"y.{s}": y[i] for i, s in enumerate(needed.states)} | {"t": t}
        symbols |= {f"c.{k}": c[k] for k in range(len(needed.coefficients))}
        return jnp.stack(walk(needed.rates, symbols, OPERATIONS))

    return rates


def trajectory(problem: Problem, solver: Any, **options: Any) -> Callable[[Any, Any, Any], Any]:
    """``solve(y0, c, tolerance) -> (T, states)`` of one patient, with tolerances by state as ours."""
    relative, absolute = map(jnp.array, problem.weights(1.0))
    term, days = dfx.ODETerm(vector_field(problem)), jnp.array(problem.days)

    def solve(y0: Any, c: Any, tolerance: Any) -> Any:
        controller = dfx.PIDController(rtol=tolerance * relative, atol=tolerance * absolute, pcoeff=0.3, icoeff=0.4)
        solution = dfx.diffeqsolve(
            term, solver, 0.0, problem.days[-1], 0.02, y0, c, saveat=dfx.SaveAt(ts=days),
            stepsize_controller=controller, max_steps=MAX_STEPS, throw=False, **options,
        )  # fmt: skip
        return solution.ys

    return solve


@cache
def compiled(solver: Any, problem: Problem) -> Any:
    """``everyone(y0, c, tolerance)``, of patients in groups."""
    one = jax.vmap(trajectory(problem, solver), in_axes=(0, 0, None))
    return jax.jit(lambda y0, c, tolerance: jax.lax.map(lambda pair: one(*pair, tolerance), (y0, c)))


def prepare(solver: Any, problem: Problem, tolerance: float, threads: int) -> Solve:
    """Patients in groups of `WIDTH`, shared out to the devices."""
    everyone, shares = compiled(solver, problem), []
    for device, rows in zip(jax.devices()[:threads], np.array_split(np.arange(problem.n), threads), strict=True):
        arrays = [jax.device_put(grouped(a[rows], WIDTH), device) for a in (problem.start, problem.coefficients)]
        shares.append((rows.size, arrays))

    def solve() -> Floats:
        pending = [(size, everyone(*arrays, tolerance)) for size, arrays in shares]  # they run in the background
        return np.concatenate([np.asarray(ys).reshape(-1, *ys.shape[2:])[:size] for size, ys in pending])

    return solve


def grouped(values: Floats, width: int) -> Floats:
    """(n, k) patients as (groups, width, k), the last one repeated to fill the last group."""
    width = min(width, len(values))
    rows = np.minimum(np.arange(-(-len(values) // width) * width), len(values) - 1)
    return values[rows].reshape(-1, width, values.shape[1])


def log_likelihood(task: Task, solver: Any, adjoint: Any) -> Callable[[Any, Any, Any], Any]:
    """``loglik(theta, value, tolerance)`` of one patient."""
    needed, days = task.problem.needed, task.problem.days
    solve = trajectory(task.problem, solver, adjoint=adjoint)
    groups, given, size = list(task.groups()), task.solved_from, task.problem.size

    def loglik(theta: Any, value: Any, tolerance: Any) -> Any:
        parameters = {f"p.{name}": theta[i] for i, name in enumerate(needed.parameters)}
        start = [jnp.asarray(v) for v in walk(given, parameters, OPERATIONS)]
        ys = solve(jnp.stack(start[:size]), jnp.stack(start[size:]), tolerance)
        total = 0.0
        for rows, density in groups:
            symbols = parameters | {"t": days[rows], "value": value[rows]}
            symbols |= {f"y.{s}": ys[rows, i] for i, s in enumerate(needed.states)}
            total = total + jnp.sum(walk([density], symbols, OPERATIONS)[0])
        return total

    return loglik


@cache
def compiled_gradient(adjoint: Any, derivative: Any, task: Task) -> Any:
    """``everyone(theta, value, tolerance)``, of patients in groups."""
    one = jax.vmap(derivative(log_likelihood(task, dfx.Tsit5(), adjoint)), in_axes=(0, 0, None))
    return jax.jit(lambda theta, value, tolerance: jax.lax.map(lambda pair: one(*pair, tolerance), (theta, value)))


def prepare_gradient(adjoint: Any, derivative: Any, task: Task, tolerance: float, threads: int) -> Solve:
    """Gradients of patients in groups of `GRADIENT_WIDTH`, on one thread."""
    everyone = compiled_gradient(adjoint, derivative, task)
    arrays = [jnp.asarray(grouped(a, GRADIENT_WIDTH)) for a in (task.problem.theta, task.value)]

    def solve() -> Floats:
        found = np.asarray(everyone(*arrays, tolerance))
        return found.reshape(-1, found.shape[-1])[: task.n] * task.scale

    return solve


METHODS = tuple(
    Method(
        peer="diffrax",
        label=f"diffrax {name}",
        prepare=partial(prepare, solver),
        tolerances=(1e-4, 1e-6, 1e-8, 1e-10),
        patients=512,
        note=f"jit and vmap over {WIDTH} patients",
    )
    for name, solver in (("Tsit5", dfx.Tsit5()), ("Dopri8", dfx.Dopri8()))
)

GRADIENTS = tuple(
    Method(
        peer="diffrax",
        label=f"diffrax, {name}",
        prepare=partial(prepare_gradient, adjoint, derivative),
        tolerances=(1e-4, 1e-6, 1e-8),
        patients=32,
        threads=(1,),
        note=f"Tsit5, jit and vmap over {GRADIENT_WIDTH} patients",
    )
    for name, adjoint, derivative in (
        ("adjoint", dfx.RecursiveCheckpointAdjoint(), jax.grad),
        ("forward mode", dfx.ForwardMode(), jax.jacfwd),
    )
)
