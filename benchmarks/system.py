"""The problem that everyone solves: one pruned model, virtual patients just after their infusion, days of observation.

The right-hand side is the graph that our own kernels are made of: logarithms of cells as states, and as ``c.k`` all
that changes at infusions only, computed once per patient for everyone. Each peer walks the same nodes with `walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.course import Infusion, resolve
from reinfuse.model.derive import emit
from reinfuse.model.derive.algebra import EVALUATE, Node, ordered
from reinfuse.model.derive.trace import Needed, Trace, prune
from reinfuse.model.equations import bcma
from reinfuse.model.equations.definition import OdeModel
from reinfuse.model.parameters import REAL_COHORT
from reinfuse.model.schedule import slot_parameters

type Floats = NDArray[np.float64]

MODEL = bcma.build(1, bcma.OPTIONS["real"])
COURSE = resolve([Infusion(product="ide-cel")])
EVENT = "infusion_1"
DAYS = np.array(
    [0.0, 1, 3, 5, 7, 10, 14, 17, 21, 28, 42, 60, 90, 120, 180, 240, 300, 360, 420, 480, 600, 720],
)
VARIED = ("rho", "tg", "dM", "KE", "B0", "kS", "sS", "Sbg", "kP", "P0", "dE", "psi", "kX", "dX")
LOG_SD = 0.3

#: The operations of `algebra` on NumPy arrays.
ARRAYS: Mapping[str, Callable[..., Any]] = EVALUATE | {
    "exp": np.exp,
    "log": np.log,
    "max": np.maximum,
    "gt0": lambda a: np.where(a > 0, 1.0, 0.0),
}


def walk(
    roots: Sequence[Node],
    symbols: Mapping[str, Any],
    operations: Mapping[str, Callable[..., Any]],
    constant: Callable[[float], Any] = float,
) -> list[Any]:
    """The roots in another language: symbols by the names of the leaves, one function for each operation."""
    values: dict[int, Any] = {}
    for node in ordered(roots):
        if node.op == "const":
            values[node.index] = constant(node.value)
        elif node.op == "leaf":
            values[node.index] = symbols[node.name]
        else:
            values[node.index] = operations[node.op](*(values[a.index] for a in node.args))
    return [values[root.index] for root in roots]


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: compiled functions are kept by it
class Problem:
    """Patients to solve.

    Attributes
    ----------
    needed
        The pruned model.
    theta
        (n, parameters) natural scale, columns as ``needed.parameters``.
    days
        (T,) when everyone is observed.
    fixed
        Parameters that are numbers in the equations.
    """

    needed: Needed
    theta: Floats
    days: Floats
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of patients."""
        return self.theta.shape[0]

    @property
    def size(self) -> int:
        """Number of states."""
        return len(self.needed.states)

    @cached_property
    def linear(self) -> NDArray[np.bool_]:
        """(states,) which states are not logarithms."""
        return np.array([not self.needed.model.state(s).log for s in self.needed.states])

    @cached_property
    def parameters(self) -> dict[str, Floats]:
        """Parameters as symbols."""
        return {f"p.{name}": self.theta[:, i] for i, name in enumerate(self.needed.parameters)}

    @cached_property
    def after_infusion(self) -> dict[str, Floats]:
        """States and held values just after the infusion, as symbols."""
        return after_infusion(self.needed, self.parameters, ARRAYS)

    @cached_property
    def start(self) -> Floats:
        """(n, states) states just after the infusion."""
        return self._columns([self.after_infusion[f"y.{s}"] for s in self.needed.states])

    @cached_property
    def coefficients(self) -> Floats:
        """(n, coefficients) what stays constant between events."""
        return self._columns(walk(self.needed.coefficients, self.parameters | self.after_infusion, ARRAYS))

    def _columns(self, values: Sequence[Any]) -> Floats:
        return np.stack([np.broadcast_to(v, self.n) for v in values], axis=1).astype(np.float64)

    def first(self, n: int | None) -> Problem:
        """The first ``n`` patients (None: all)."""
        return self if n is None or n >= self.n else replace(self, theta=np.ascontiguousarray(self.theta[:n]))

    def weights(self, tolerance: float) -> tuple[Floats, Floats]:
        """Relative and absolute tolerance by state: as ours, absolute on logarithms, for others that of 1 + |y|."""
        return np.where(self.linear, tolerance, 0.0), np.full(self.size, tolerance)

    def error(self, found: Floats, truth: Floats) -> Floats:
        """(n,) largest error of each patient: of logarithms as such, of other states relative to 1 + |y|."""
        m = min(len(found), len(truth))
        scale = np.where(self.linear, 1.0 + np.abs(truth[:m]), 1.0)
        return np.asarray((np.abs(found[:m] - truth[:m]) / scale).max(axis=(1, 2)))


def after_infusion(
    needed: Needed,
    parameters: Mapping[str, Any],
    operations: Mapping[str, Callable[..., Any]],
    constant: Callable[[float], Any] = float,
) -> dict[str, Any]:
    """States and held values just after the infusion, in any language."""
    names = [f"y.{s}" for s in needed.states] + [f"h.{h}" for h in needed.held]
    symbols = dict(zip(names, walk(needed.start, parameters, operations, constant), strict=True))
    if EVENT in needed.jumps:
        states, held = needed.jumps[EVENT]
        changed = [f"y.{s}" for s in states] + [f"h.{h}" for h in held]
        values = walk([*states.values(), *held.values()], {**parameters, **symbols}, operations, constant)
        symbols |= dict(zip(changed, values, strict=True))
    return symbols


def median_parameters() -> dict[str, Any]:
    """Every parameter at its prior median, with the course's own."""
    return {name: row.median for name, row in REAL_COHORT.items()} | slot_parameters(COURSE, "real")


def pose(
    model: OdeModel,
    n: int,
    *,
    kinds: Sequence[str] = (),
    readouts: Sequence[str] = (),
    fixed: Mapping[str, float] | None = None,
    medians: Mapping[str, Any] | None = None,
    varied: Sequence[str] = VARIED,
    days: Floats = DAYS,
) -> Problem:
    """A model, pruned to what is asked of it, with ``n`` virtual patients around the medians."""
    needed = prune(Trace(model, fixed or {}), kinds, readouts)
    rng = np.random.default_rng(1)
    factors = {name: np.exp(LOG_SD * rng.standard_normal(n)) for name in varied}
    table = median_parameters() if medians is None else medians
    columns = [np.broadcast_to(table[name] * factors.get(name, 1.0), n) for name in needed.parameters]
    theta = np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float64)
    return Problem(needed=needed, theta=theta, days=days, fixed=fixed or {})


def simulation_problem(n: int, days: Floats = DAYS) -> Problem:
    """The full unified model after one infusion of ide-cel, all states kept."""
    return pose(MODEL, n, readouts=[s.name for s in MODEL.states], days=days)


def slope_source(problem: Problem) -> str:
    """Source of ``slope(t, y, c, d)``, which writes the derivatives of one patient into ``d``."""
    needed = problem.needed
    places: dict[str, emit.Slot | str] = {"t": "t"}
    places |= {f"y.{s}": emit.Slot("y", i) for i, s in enumerate(needed.states)}
    places |= {f"c.{k}": emit.Slot("c", k) for k in range(len(needed.coefficients))}
    writes = [emit.Write(emit.Slot("d", i), rate) for i, rate in enumerate(needed.rates)]
    return emit.function("slope(t, y, c, d)", emit.body(emit.SCALAR, places, writes), decorator="")


@cache
def numba_slope(problem: Problem) -> Any:
    """``slope(t, y, c, d)`` of one patient, compiled by Numba with the flags of our own kernels."""
    import numba

    from reinfuse.model.kernels.policy import FLAGS

    space: dict[str, Any] = {"np": np}
    exec(slope_source(problem), space)  # the text is our own, a line above
    return numba.njit(fastmath=FLAGS, error_model="numpy", nogil=True)(space["slope"])
