"""A patient's records, and their log-likelihood as a graph of parameters and states: what gradients are taken of.

22 records: copies of the transgene, CAR+ cells and soluble BCMA, the late ones below their limits, and one patient-time
free of progression. Gradients are by the logarithm of a parameter (by the parameter itself where it is 0), so that
parameters from 1e-12 to 1e12 can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from system import ARRAYS, MODEL, Floats, Problem, after_infusion, pose, walk

from reinfuse.model.densities import DENSITIES, Family
from reinfuse.model.derive.algebra import Node, leaves
from reinfuse.model.derive.reverse import pullback

type Schedule = tuple[tuple[str, Family], ...]

NOISE = 0.3
FIXED = {"day_1": 0.0}  # the day of an infusion is no parameter to fit

#: (kind, family) at each of `DAYS`.
SCHEDULE: Schedule = (
    ("sbcma", Family.QUANTIFIED),
    *(("transgene", Family.QUANTIFIED), ("cart", Family.QUANTIFIED)) * 4,
    ("sbcma", Family.QUANTIFIED),
    *(("transgene", Family.QUANTIFIED), ("sbcma", Family.QUANTIFIED)) * 3,
    ("transgene", Family.BELOW),
    ("cart", Family.BELOW),
    ("transgene", Family.BELOW),
    ("sbcma", Family.QUANTIFIED),
    ("transgene", Family.BELOW),
    ("progression", Family.NO_EVENT),
)


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Task:
    """Patients with records.

    Attributes
    ----------
    problem
        Who is solved, and when.
    value
        (n, T) recorded values, on the logarithmic scale of the assays.
    schedule
        Kind and family of the record on each day.
    """

    problem: Problem
    value: Floats
    schedule: Schedule = SCHEDULE

    def first(self, n: int | None) -> Task:
        """The first ``n`` patients (None: all)."""
        return replace(self, problem=self.problem.first(n), value=self.value[:n])

    @property
    def n(self) -> int:
        """Number of patients."""
        return self.problem.n

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of records."""
        return tuple(dict.fromkeys(kind for kind, _ in self.schedule))

    @cached_property
    def family(self) -> NDArray[np.int64]:
        """(T,) codes of families."""
        return np.array([int(family) for _, family in self.schedule])

    @cached_property
    def scale(self) -> Floats:
        """(n, parameters) what turns a derivative by a parameter into one by its logarithm."""
        return np.where(self.problem.theta == 0.0, 1.0, np.abs(self.problem.theta))

    def groups(self) -> Iterator[tuple[NDArray[np.int64], Node]]:
        """Records that share kind and family, and their log density by ``p.*``, ``y.*``, ``t`` and ``value``."""
        for kind, family in dict.fromkeys(self.schedule):
            rows = np.array([j for j, pair in enumerate(self.schedule) if pair == (kind, family)])
            yield rows, self._density(kind, family)

    def _density(self, kind: str, family: Family) -> Node:
        needed = self.problem.needed
        location, scale = needed.observations[kind]
        symbols = {f"h.{h}": self.begin[f"h.{h}"] for h in needed.held}
        symbols |= {f"y.{s}": needed.graph.leaf(f"y.{s}") for s in needed.states}
        symbols |= self._parameters | {"t": needed.graph.leaf("t")}
        a, b = walk([location, scale], symbols, self._operations, needed.graph.constant)
        density: Node = DENSITIES[family](a, b, needed.graph.leaf("value"))
        return density

    @cached_property
    def _operations(self) -> dict[str, Any]:
        graph = self.problem.needed.graph
        return {op: (lambda *args, op=op: graph.apply(op, *args)) for op in ARRAYS}

    @cached_property
    def _parameters(self) -> dict[str, Node]:
        needed = self.problem.needed
        return {f"p.{name}": needed.graph.leaf(f"p.{name}") for name in needed.parameters}

    @cached_property
    def begin(self) -> dict[str, Node]:
        """States and held values just after the infusion, as nodes of the parameters alone."""
        needed = self.problem.needed
        return after_infusion(needed, self._parameters, self._operations, needed.graph.constant)

    @cached_property
    def solved_from(self) -> list[Node]:
        """What a solver is given: states at the start, then coefficients, as nodes of the parameters alone."""
        needed = self.problem.needed
        coefficients = walk(needed.coefficients, self._parameters | self.begin, self._operations, needed.graph.constant)
        return [self.begin[f"y.{s}"] for s in needed.states] + coefficients


class ChainRule:
    """From states and their derivatives by what a solver is given to the gradient by the parameters.

    Attributes
    ----------
    moving
        Which of `Task.solved_from` depend on parameters: derivatives are wanted by these.
    """

    def __init__(self, task: Task) -> None:
        needed = task.problem.needed
        graph = needed.graph
        self._task = task
        self._leaves = [f"p.{name}" for name in needed.parameters]
        wanted = [f"y.{s}" for s in needed.states] + self._leaves
        self._groups = [(rows, pullback([node], [graph.constant(1.0)], wanted)) for rows, node in task.groups()]
        self.moving = [i for i, node in enumerate(task.solved_from) if leaves([node])]
        seeds = [graph.leaf(f"seed.{i}") for i in range(len(self.moving))]
        self._given = pullback([task.solved_from[i] for i in self.moving], seeds, self._leaves)

    def __call__(self, states: Floats, derivatives: Floats) -> Floats:
        """Gradient (n, parameters) by logarithms.

        ``states`` (n, T, states); ``derivatives`` (n, T, states, moving).
        """
        task, size = self._task, self._task.problem.size
        parameters = {name: values[:, None] for name, values in task.problem.parameters.items()}
        by_state = np.zeros(states.shape)
        gradient = np.zeros(task.problem.theta.shape)
        for rows, backs in self._groups:
            symbols = parameters | {"t": task.problem.days[rows], "value": task.value[:, rows]}
            symbols |= {f"y.{s}": states[:, rows, i] for i, s in enumerate(task.problem.needed.states)}
            values = walk(backs, symbols, ARRAYS)
            for i, value in enumerate(values[:size]):
                by_state[:, rows, i] += value
            for column, value in enumerate(values[size:]):
                gradient[:, column] += np.broadcast_to(value, (task.n, rows.size)).sum(axis=1)
        by_given = np.einsum("pti,ptij->pj", by_state, derivatives, optimize=True)
        symbols = task.problem.parameters | {f"seed.{i}": by_given[:, i] for i in range(by_given.shape[1])}
        for column, value in enumerate(walk(self._given, symbols, ARRAYS)):
            gradient[:, column] += value
        return gradient * task.scale


def gradient_error(found: Floats, truth: Floats) -> Floats:
    """(n,) largest difference of each patient's gradient, relative to 1 + the derivative."""
    m = min(len(found), len(truth))
    return np.asarray((np.abs(found[:m] - truth[:m]) / (1.0 + np.abs(truth[:m]))).max(axis=1))


def recorded(problem: Problem, states: Floats, schedule: Schedule = SCHEDULE) -> Task:
    """Records of patients whose trajectories (n, T, states) are known: predictions with noise."""
    rng = np.random.default_rng(2)
    parameters = {name: values[:, None] for name, values in problem.parameters.items()}
    held = {name: np.reshape(v, (-1, 1)) for name, v in problem.after_infusion.items() if name.startswith("h.")}
    value = NOISE * rng.standard_normal((problem.n, problem.days.size))
    for j, (kind, _) in enumerate(schedule):
        symbols = parameters | held | {"t": problem.days[[j]]}
        symbols |= {f"y.{s}": states[:, [j], i] for i, s in enumerate(problem.needed.states)}
        value[:, [j]] += walk([problem.needed.observations[kind][0]], symbols, ARRAYS)[0]
    return Task(problem, value, schedule)


def gradient_problem(n: int, more_fixed: Mapping[str, float] | None = None) -> Problem:
    """The full unified model after one infusion of ide-cel, as far as the records depend on it."""
    kinds = tuple(dict.fromkeys(kind for kind, _ in SCHEDULE))
    return pose(MODEL, n, kinds=kinds, fixed=FIXED | dict(more_fixed or {}))
