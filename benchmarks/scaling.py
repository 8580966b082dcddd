"""How the cost of a trajectory and of a gradient grows with states, parameters and observations, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from likelihood import SCHEDULE, Schedule, gradient_problem, recorded
from peers.interface import started
from system import Floats, Problem, median_parameters, pose, simulation_problem
from timing import in_turn, spread

from reinfuse.model.densities import Family
from reinfuse.model.derive.algebra import log
from reinfuse.model.equations.definition import OdeModel, State, Values

TOLERANCE = {"reinfuse": 1e-6, "heyoka": 1e-7}  # errors near 1e-5 (`simulation`)
PATIENTS = 256


def row_of_species(n: int) -> OdeModel:
    """``n`` species in a row, each prey of the next (Volterra): they oscillate for ever, whatever their number."""
    names = [f"y{i}" for i in range(n)]

    def start(p: Any) -> tuple[Values, Values]:
        return {name: p.above if i % 2 else p.below for i, name in enumerate(names)}, {}

    def rates(t: Any, y: Any, h: Any, p: Any) -> Values:
        around = [1.0, *(getattr(y, name) for name in names), 1.0]
        return {name: getattr(p, f"k{i}") * (around[i] - around[i + 2]) for i, name in enumerate(names)}

    return OdeModel(
        name=f"row{n}",
        states=tuple(State(name, "-") for name in names),
        held=(),
        start=start,
        rates=rates,
        readouts=lambda t, y, h, p: {name: getattr(y, name) for name in names},
        observations=lambda t, y, h, p: {"last": (log(getattr(y, names[-1])), p.sigma)},
    )


def row_medians(n: int) -> dict[str, float]:
    """Parameters of `row_of_species`: periods of some months."""
    return {f"k{i}": 0.05 for i in range(n)} | {"above": 1.5, "below": 0.7, "sigma": 0.3}


def reported_row(states: int, n: int) -> Problem:
    """A row of species, all states reported."""
    model = row_of_species(states)
    medians, varied = row_medians(states), [f"k{i}" for i in range(states)]
    return pose(model, n, readouts=[s.name for s in model.states], medians=medians, varied=varied)


def observed_row(states: int, n: int) -> tuple[Problem, Schedule]:
    """A row of species of which the last is counted on each day."""
    medians, varied = row_medians(states), [f"k{i}" for i in range(states)]
    problem = pose(row_of_species(states), n, kinds=("last",), medians=medians, varied=varied)
    return problem, (("last", Family.QUANTIFIED),) * problem.days.size


def medians_but(free: int) -> dict[str, float]:
    """Medians of all parameters of the gradient's problem but the first ``free``, which stay parameters."""
    names, table = gradient_problem(1).needed.parameters, median_parameters()
    return {name: float(table[name]) for name in names[free:]}


class Series:
    """Cases of one picture: prepared, called once, then timed in turn."""

    def __init__(self, peers: Mapping[str, ModuleType], say: Callable[[str], None]) -> None:
        self._peers = [name for name in ("ours", "heyoka") if name in peers]
        self._modules, self._say = peers, say
        self.rows: list[dict[str, Any]] = []
        self._solves: dict[str, Callable[[], Any]] = {}

    def trajectory(self, along: str, x: int, problem: Problem) -> None:
        """A point of the cost of a trajectory."""
        for name in self._peers:
            method = self._modules[name].METHODS[0]
            self._add(along, x, "trajectory", method, problem)

    def gradient(self, along: str, x: int, problem: Problem, schedule: Schedule = SCHEDULE) -> None:
        """A point of the cost of a gradient."""
        ours = self._modules["ours"].METHODS[0]
        states: Floats = ours.read(problem, ours.prepare(problem, 1e-8, 1)())
        task = recorded(problem, states, schedule)
        for name in self._peers:
            self._add(along, x, "gradient", self._modules[name].GRADIENTS[0], task)

    def _add(self, along: str, x: int, what: str, method: Any, posed: Any) -> None:
        tolerance = TOLERANCE[method.peer]
        solve, _, taken = started(method, posed.first(method.patients), tolerance, 1)
        row = {"along": along, "x": x, "what": what, "method": method.label, "tolerance": tolerance}
        row |= {"patients": min(method.patients or posed.n, posed.n), "first_call_s": taken}
        self._solves[str(len(self.rows))] = solve
        self.rows.append(row)
        self._say(f"{what} by {method.label}, {along} = {x}: first call {row['first_call_s']:.1f} s")

    def timed(self, repeats: int) -> list[dict[str, Any]]:
        """The rows, with microseconds for each patient."""
        samples = in_turn(self._solves, repeats, self._say)
        for i, row in enumerate(self.rows):
            row["us"] = spread(samples[str(i)], 1e6 / row["patients"])
        return self.rows


def run(peers: Mapping[str, ModuleType], quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The section of the results."""
    if "ours" not in peers:
        raise RuntimeError("scaling is about reinfuse: run with it")
    n = 64 if quick else PATIENTS
    series = Series(peers, say)
    for states in (2, 8) if quick else (2, 4, 8, 16, 24):
        series.trajectory("states", states, reported_row(states, n))
        series.gradient("states", states, *observed_row(states, n))
    for free in (10,) if quick else (10, 30, 50):
        series.gradient("parameters", free, gradient_problem(n, medians_but(free)))
    everything = gradient_problem(n)
    series.gradient("parameters", everything.theta.shape[1], everything)
    for count in (5, 100) if quick else (5, 22, 100, 400):
        series.trajectory("observations", count, simulation_problem(n, np.linspace(0.0, 720.0, count)))
    return {"tolerance": TOLERANCE, "rows": series.timed(2 if quick else 5)}
