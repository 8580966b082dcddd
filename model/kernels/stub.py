"""What `derive.steps` and `derive.source.density` write for the solvers, as loops that are easy to read: Tsit5.

The solvers' text imports it, so that it can be read, checked and run as it stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .interface import NS, RATES, RATES_PULLBACK, SCALE, call, floats
from .lanes import WIDTH, lane_abs, lane_max, load, splat, store
from .policy import leaf
from .tableaux import TSIT5

STAGES, SLOTS, ERROR_ORDER = TSIT5.stages, TSIT5.slots, TSIT5.error_order
MATRIX, NODES, ERROR, DENSE = TSIT5.matrix, TSIT5.nodes, TSIT5.error, TSIT5.dense


@leaf
def attempt(model: Any, stages: Any, base: int, k: Any, c: Any, t: Any, h: Any, tol: float, times: Any) -> Any:
    """One Runge-Kutta step in all lanes, from times ``t`` by ``h``; returns the mean square of the scaled error.

    ``k`` comes with the rates of stage 0; ``times`` is a place for the times of stages.
    """
    ns = model[NS]
    for s in range(1, STAGES):
        for i in range(ns):
            total = load(k, i * WIDTH) * MATRIX[s, 0]
            for j in range(1, s):
                total = total + load(k, (j * ns + i) * WIDTH) * MATRIX[s, j]
            store(stages, (base + s * ns + i) * WIDTH, load(stages, (base + i) * WIDTH) + load(h, 0) * total)
        store(times, 0, load(t, 0) + load(h, 0) * NODES[s])
        call(model[RATES], stages, base + s * ns, times, c, k, s * ns)
    scales = floats(model[SCALE], ns)
    square = splat(0.0)
    for i in range(ns):
        error = load(k, i * WIDTH) * ERROR[0]
        for s in range(1, STAGES):
            error = error + load(k, (s * ns + i) * WIDTH) * ERROR[s]
        error = load(h, 0) * error * (1.0 / tol)
        if scales[i] > 0.0:
            before = lane_abs(load(stages, (base + i) * WIDTH))
            after = lane_abs(load(stages, (base + (STAGES - 1) * ns + i) * WIDTH))
            error = error / (lane_max(before, after) + scales[i])
        square = square + error * error
    return square * (1.0 / float(ns))


@leaf
def complete(model: Any, stages: Any, base: int, k: Any, c: Any, t: Any, h: Any, times: Any) -> None:
    """Add the stages that only the interpolant needs."""


@leaf
def weigh(x: float, weights: Any) -> None:
    """Weights (SLOTS,) of the stages in the change up to fraction ``x`` of a step, per unit of its length."""
    for s in range(SLOTS):
        weights[s] = x * (DENSE[s, 0] + x * (DENSE[s, 1] + x * (DENSE[s, 2] + x * DENSE[s, 3])))


@leaf
def attempt_pullback(
    model: Any,
    stages: Any,
    base: int,
    kb: Any,
    yb: Any,
    lam: Any,
    direct: Any,
    touched: bool,
    c: Any,
    cb: Any,
    t: Any,
    h: Any,
    times: Any,
) -> None:
    """Adjoint of a step: ``lam`` goes from its end to its start; accumulate into ``cb``.

    Where an observation lies inside the step (``touched``), ``kb`` and ``direct`` come with what its interpolated
    value owes to the rates of the stages and to the state at the start.
    """
    ns, last = model[NS], STAGES - 1
    if touched:
        store(times, 0, load(t, 0) + load(h, 0))
        call(model[RATES_PULLBACK], stages, base + last * ns, times, c, kb, last * ns, yb, last * ns, cb)
        for i in range(ns):
            store(lam, i * WIDTH, load(lam, i * WIDTH) + load(yb, (last * ns + i) * WIDTH))
    for s in range(last - 1, -1, -1):
        for i in range(ns):
            total = load(lam, i * WIDTH) * MATRIX[last, s]
            for r in range(s + 1, last):
                total = total + load(yb, (r * ns + i) * WIDTH) * MATRIX[r, s]
            total = load(h, 0) * total
            if touched:
                total = total + load(kb, (s * ns + i) * WIDTH)
            store(kb, (s * ns + i) * WIDTH, total)
        store(times, 0, load(t, 0) + load(h, 0) * NODES[s])
        call(model[RATES_PULLBACK], stages, base + s * ns, times, c, kb, s * ns, yb, s * ns, cb)
    for i in range(ns):
        total = load(lam, i * WIDTH)
        for s in range(last):
            total = total + load(yb, (s * ns + i) * WIDTH)
        if touched:
            total = total + load(direct, i * WIDTH)
        store(lam, i * WIDTH, total)


@leaf
def density(family: int, value: float, out: Any, ob: Any) -> float:
    """Log density of one record, and its derivatives by the two numbers of `observe` in ``ob``: here, a Gaussian's."""
    z = (value - out[0]) / out[1]
    ob[0] = z / out[1]
    ob[1] = (z * z - 1.0) / out[1]
    return float(-0.5 * z * z - np.log(out[1]))
