"""heyoka: Taylor's method compiled with LLVM, one patient in each lane of a vector (batch mode), and a thread pool."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from typing import Any

import heyoka as hy
import numpy as np
from likelihood import ChainRule, Task
from system import Problem, walk

from reinfuse.model.derive.algebra import EVALUATE, Node, ordered, substitute
from reinfuse.model.derive.trace import Needed

from .interface import Floats, Method, Solve

#: d. A Taylor series about time 0 cannot represent the gate's log(time): up to here the gate keeps the value it has
#: here. Its terms go with the 8th power of time: less than 1e-9 of the solution. A tenth of a day serves heyoka best.
NEAR = 0.1
LANES = 8  # faster here than the 4 that heyoka recommends, and than 16
LARGE = 10.0  # a linear state that starts above is counted in units of its start: heyoka's steps follow the largest


class System:
    """A problem in heyoka's expressions.

    Parameters of heyoka are, in this order: the coefficients; floor and slope of the time since infusion (the rates'
    one maximum becomes ``floor + slope * time``); the units of large linear states; and, if there are ``factors``, one
    for each coefficient, of value 1.

    Attributes
    ----------
    equations
        States with their derivatives.
    factors
        The factors' expressions.
    near
        Until when the gate stands still.
    gated
        Whether the rates depend on the time since infusion.
    units
        (n, states) what 1 is in each state.
    constants
        (n, parameters) values of all parameters but the factors.
    """

    def __init__(self, problem: Problem, factors: bool = False, near: float = NEAR) -> None:
        self.near = near
        needed, count = problem.needed, len(problem.needed.coefficients)
        large = np.flatnonzero(problem.linear & (np.median(problem.start, axis=0) > LARGE))
        self.units = np.where(np.isin(np.arange(problem.size), large), 1.0 + np.abs(problem.start), 1.0)
        self.gated = any(node.op == "max" for node in ordered(needed.rates))
        gate = np.tile([near, 0.0], (problem.n, 1))
        self.constants = np.concatenate([problem.coefficients, gate, self.units[:, large]], axis=1)

        states = hy.make_vars(*needed.states)
        unit = {int(i): hy.par[count + 2 + k] for k, i in enumerate(large)}
        self.factors = [hy.par[self.constants.shape[1] + k] for k in range(count if factors else 0)]
        symbols = {f"c.{k}": hy.par[k] * (self.factors[k] if factors else 1.0) for k in range(count)}
        symbols |= {f"y.{s}": states[i] * unit.get(i, 1.0) for i, s in enumerate(needed.states)} | {"t": hy.time}
        operations = EVALUATE | {
            "exp": hy.exp,
            "log": hy.log,
            "max": lambda a, b: hy.par[count] + hy.par[count + 1] * a,
            "gt0": lambda a: hy.select(hy.gt(a, 0.0), 1.0, 0.0),
        }
        rates, exponents = without_logistics(needed)
        for name, exponent in exponents.items():
            symbols[name] = hy.sigmoid(-walk([exponent], symbols, operations, hy.expression)[0])
        slopes = walk(rates, symbols, operations, hy.expression)
        self.equations = [(x, slopes[i] / unit.get(i, 1.0)) for i, x in enumerate(states)]


def without_logistics(needed: Needed) -> tuple[list[Node], dict[str, Node]]:
    """The rates with symbols for all ``1 / (1 + exp(x))``, and the ``x``.

    heyoka has the logistic function itself; written out, the series of its exponential would overflow where ours
    saturates.
    """
    table: dict[int, Node] = {}
    exponents: dict[str, Node] = {}
    for node in ordered(needed.rates):
        below = node.args[-1] if node.op == "inv" or (node.op == "div" and node.args[0].is_constant(1.0)) else None
        if below is not None and below.op == "add" and any(a.is_constant(1.0) for a in below.args):
            other = next(a for a in below.args if not a.is_constant(1.0))
            if other.op == "exp":
                name = f"logistic.{len(exponents)}"
                exponents[name] = substitute([other.args[0]], table)[0]
                table[node.index] = needed.graph.leaf(name)
    return substitute(list(needed.rates), table), exponents


def batched(values: Floats) -> Floats:
    """(n, k) patients as (batches, k, LANES), the last one repeated to fill the last batch."""
    n = len(values)
    rows = np.minimum(np.arange(-(-n // LANES) * LANES), n - 1)
    return np.ascontiguousarray(values[rows].reshape(-1, LANES, values.shape[1]).swapaxes(1, 2))


class Integrators:
    """Copies of one batch integrator, one for each thread, that share the patients' batches."""

    def __init__(
        self, problem: Problem, system: System, equations: Any, tolerance: float, threads: int, **options: Any
    ):
        first = hy.taylor_adaptive_batch(
            equations, np.ones((problem.size, LANES)), tol=tolerance, fast_math=True, **options
        )
        first.pars[:] = 1.0
        self.first_state = first.state.copy()  # where the derivatives, if there are any, begin
        self._copies = [first, *(deepcopy(first) for _ in range(threads - 1))]
        self._pool = ThreadPoolExecutor(threads)
        used = min(system.constants.shape[1], first.pars.shape[0])
        self._constants, self._used = batched(system.constants), used
        self._gate = problem.coefficients.shape[1] if system.gated else None
        self._days, self._near = problem.days, system.near
        self._starts = np.broadcast_to(self.first_state, (len(self._constants), *self.first_state.shape)).copy()
        self._starts[:, : problem.size] = batched(problem.start / system.units)

    def run(self) -> Floats:
        """(patients, T, variables), those that fill the last batch included."""
        out = np.empty((len(self._starts), self._days.size, *self.first_state.shape))
        todo = iter(range(len(self._starts)))
        list(self._pool.map(partial(self._work, todo, out), self._copies))
        return out.transpose(0, 3, 1, 2).reshape(-1, self._days.size, self.first_state.shape[0])

    def _work(self, batches: Iterator[int], out: Floats, ta: Any) -> None:
        for b in batches:
            out[b] = self._propagated(ta, b)

    def _propagated(self, ta: Any, b: int) -> Floats:
        """(T, variables, LANES) of one batch, from just after the infusion."""
        ta.set_time(0.0)
        ta.state[:] = self._starts[b]
        ta.pars[: self._used] = self._constants[b, : self._used]
        begin = 0.0
        if self._gate is not None:
            ta.propagate_until(self._near)
            ta.pars[self._gate], ta.pars[self._gate + 1] = 0.0, 1.0
            begin = self._near
        grid = np.concatenate(([begin], self._days[1:]))
        found = ta.propagate_grid(np.repeat(grid, LANES).reshape(-1, LANES))[-1]
        found[0] = self._starts[b]
        return np.asarray(found)


def prepare(problem: Problem, tolerance: float, threads: int, near: float = NEAR) -> Solve:
    """Batches of patients, each handed to whichever thread is free."""
    assert problem.days[0] == 0.0
    assert problem.days[1] > near
    system = System(problem, near=near)
    integrators = Integrators(problem, system, system.equations, tolerance, threads)
    return lambda: integrators.run()[: problem.n] * system.units[:, None, :]


def exact(problem: Problem) -> Floats:
    """(n, T, states) to nearly machine precision."""
    return np.asarray(prepare(problem, 1e-15, 1, near=0.01)())


def prepare_gradient(compact: bool, task: Task, tolerance: float, threads: int) -> Solve:
    """Variational equations by all that a solver is given and a parameter can move: states at the start, coefficients.

    Coefficients differ by many orders of magnitude, and with them the derivatives, from which heyoka chooses its steps;
    so the derivatives are taken by factors of the coefficients.
    """
    problem, chain, size = task.problem, ChainRule(task), task.problem.size
    system = System(problem, factors=True)
    given = [state for state, _ in system.equations] + system.factors
    equations = hy.var_ode_sys(system.equations, [given[i] for i in chain.moving], order=1)
    integrators = Integrators(problem, system, equations, tolerance, threads, compact_mode=compact)
    inside = np.concatenate([system.units, problem.coefficients], axis=1)[:, chain.moving]
    scale = system.units[:, None, :, None] / inside[:, None, None, :]

    def solve() -> Floats:
        found = integrators.run()[: task.n]
        derivatives = found[:, :, size:].reshape(task.n, problem.days.size, size, len(chain.moving))
        return chain(found[:, :, :size] * system.units[:, None, :], derivatives * scale)

    return solve


METHODS = (
    Method(
        peer="heyoka",
        label="heyoka, batch mode",
        prepare=prepare,
        tolerances=(1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12),
        note="Taylor's method, eight patients in lanes",
    ),
)


def _gradient(label: str, compact: bool, tolerances: tuple[float, ...]) -> Method:
    return Method(
        peer="heyoka",
        label=label,
        prepare=partial(prepare_gradient, compact),
        tolerances=tolerances,
        patients=64,
        threads=(1,),
        note="batch mode; by states at the start and coefficients, then the chain rule",
        quick=compact,
    )


GRADIENTS = (
    _gradient("heyoka, variational equations, compact", True, (1e-4, 1e-6, 1e-8, 1e-10)),
    _gradient("heyoka, variational equations", False, (1e-5, 1e-7)),  # each compiles for more than a minute
)
