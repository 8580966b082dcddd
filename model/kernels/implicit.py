"""The implicit solver, one patient at a time, for systems too stiff for the explicit one; and its discrete adjoint.

Copied into the solvers' file, like `driver`. The method is Radau IIA of order 5 (E. Hairer, G. Wanner,
Solving Ordinary Differential Equations II, 2nd edition, Springer 1996, section IV.8), L-stable and stiffly accurate.
Steps end on every event and observation, so it needs no interpolant. Lanes serve another purpose here: they hold the
three stages of a step, or the rows of a Jacobian, which comes from the adjoint of the rates.

The adjoint solves the transposed stage equations with the Jacobians at the stages themselves: it is the derivative of
what the forward sweep computed, as far as Newton's iteration has converged (`NEWTON_TOLERANCE`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .interface import (
    JUMP,
    JUMP_PULLBACK,
    NC,
    NH,
    NS,
    PREPARE,
    PREPARE_PULLBACK,
    RATES,
    RATES_PULLBACK,
    SCALE,
    START,
    START_PULLBACK,
    call,
    floats,
)
from .lanes import WIDTH
from .policy import kernel
from .records import IMPLICIT, SAME_TIME, get, lane_array, lane_room, record

# ---- everything below this line is copied into the solvers' file ----

ROOT = np.sqrt(6.0)
RADAU_NODES = np.array([(4.0 - ROOT) / 10.0, (4.0 + ROOT) / 10.0, 1.0])
RADAU = np.array(
    [
        [(88.0 - 7.0 * ROOT) / 360.0, (296.0 - 169.0 * ROOT) / 1800.0, (-2.0 + 3.0 * ROOT) / 225.0],
        [(296.0 + 169.0 * ROOT) / 1800.0, (88.0 + 7.0 * ROOT) / 360.0, (-2.0 - 3.0 * ROOT) / 225.0],
        [(16.0 - ROOT) / 36.0, (16.0 + ROOT) / 36.0, 1.0 / 9.0],
    ]
)
RADAU_ERROR = np.array([-13.0 - 7.0 * ROOT, -13.0 + 7.0 * ROOT, -1.0]) / 3.0
RADAU_REAL = 3.0 + 3.0 ** (2.0 / 3.0) - 3.0 ** (1.0 / 3.0)  # the real eigenvalue of the inverse of RADAU
NEWTON_TOLERANCE = 1e-3
NEWTON_ITERATIONS = 10
ROUNDING = 0.03  # of the tolerance: where rounding stops the iteration, this is near enough
FIRST_IMPLICIT_STEP = 1e-4


@kernel
def spread(array: Any, n: int, values: Any) -> None:
    """Copy a plain array into every lane of ``n`` slots."""
    for i in range(n):
        for lane in range(WIDTH):
            array[i * WIDTH + lane] = values[i]


@kernel
def factor(matrix: Any, pivots: Any) -> None:
    """LU decomposition in place, with row pivots; a singular matrix gives infinities."""
    n = pivots.size
    for j in range(n):
        best = j
        for i in range(j + 1, n):
            if abs(matrix[i, j]) > abs(matrix[best, j]):
                best = i
        pivots[j] = best
        if best != j:
            for i in range(n):
                matrix[j, i], matrix[best, i] = matrix[best, i], matrix[j, i]
        for i in range(j + 1, n):
            matrix[i, j] /= matrix[j, j]
            if matrix[i, j] != 0.0:
                for m in range(j + 1, n):
                    matrix[i, m] -= matrix[i, j] * matrix[j, m]


@kernel
def solve(matrix: Any, pivots: Any, b: Any) -> None:
    """Solve a linear system in place, after `factor`."""
    n = pivots.size
    for j in range(n):
        other = pivots[j]
        b[j], b[other] = b[other], b[j]
    for j in range(n):
        for i in range(j + 1, n):
            b[i] -= matrix[i, j] * b[j]
    for j in range(n - 1, -1, -1):
        b[j] /= matrix[j, j]
        for i in range(j):
            b[i] -= matrix[i, j] * b[j]


@kernel
def jacobians(model: Any, points: Any, times: Any, c: Any, seeds: Any, bars: Any, scratch: Any, out: Any) -> None:
    """Derivatives of the rates at each of ``points`` (P, ns) and ``times`` (P,): writes ``out`` (P, ns, ns)."""
    ns = model[NS]
    y = lane_room(ns)
    t = lane_room(1)
    for point in range(times.size):
        spread(y, ns, points[point])
        t.fill(times[point])
        for first in range(0, ns, WIDTH):
            seeds.fill(0.0)
            for lane in range(min(WIDTH, ns - first)):
                seeds[(first + lane) * WIDTH + lane] = 1.0
            call(model[RATES_PULLBACK], y, 0, t, c, seeds, 0, bars, 0, scratch)
            for lane in range(min(WIDTH, ns - first)):
                for i in range(ns):
                    out[point, first + lane, i] = bars[i * WIDTH + lane]


@kernel
def stage_rates(model: Any, points: Any, times: Any, c: Any, y: Any, k: Any, out: Any) -> None:
    """Rates at up to eight points (P, ns) and times (P,) at once: writes ``out`` (P, ns)."""
    ns = model[NS]
    t = lane_room(1)
    for lane in range(WIDTH):
        point = min(lane, times.size - 1)
        t[lane] = times[point]
        for i in range(ns):
            y[i * WIDTH + lane] = points[point, i]
    call(model[RATES], y, 0, t, c, k, 0)
    for point in range(times.size):
        get(k, 0, ns, point, out[point])


@kernel
def scaled(model: Any, values: Any, before: Any, tol: float) -> float:
    """Root mean square of ``values`` (P, ns) in units of the tolerance."""
    ns = model[NS]
    scales = floats(model[SCALE], ns)
    total = 0.0
    for point in range(values.shape[0]):
        for i in range(ns):
            scale = tol if scales[i] == 0.0 else tol * (abs(before[i]) + scales[i])
            total += (values[point, i] / scale) ** 2
    return float(np.sqrt(total / (values.shape[0] * ns)))


@kernel
def newton(
    model: Any,
    y: Any, t: float, h: float, slope: Any, tol: float, c: Any, z: Any, points: Any, k: Any, matrix: Any, pivots: Any,
    flat: Any, lanes_y: Any, lanes_k: Any,
) -> int:  # fmt: skip
    """Solve the stage equations for the increments ``z`` (3, ns). Returns the iterations, or -1 if they diverge."""
    ns = model[NS]
    for i in range(3):
        for m in range(3):
            for a in range(ns):
                for b in range(ns):
                    unit = 1.0 if i == m and a == b else 0.0
                    matrix[i * ns + a, m * ns + b] = unit - h * RADAU[i, m] * slope[a, b]
    factor(matrix, pivots)
    z.fill(0.0)
    times = np.empty(3)
    for i in range(3):
        times[i] = t + h * RADAU_NODES[i]
    old = 0.0
    for iteration in range(NEWTON_ITERATIONS):
        for i in range(3):
            for a in range(ns):
                points[i, a] = y[a] + z[i, a]
        stage_rates(model, points, times, c, lanes_y, lanes_k, k)
        for i in range(3):
            for a in range(ns):
                total = 0.0
                for m in range(3):
                    total += RADAU[i, m] * k[m, a]
                flat[i * ns + a] = h * total - z[i, a]
        solve(matrix, pivots, flat)
        for i in range(3):
            for a in range(ns):
                points[i, a] = flat[i * ns + a]
        size = scaled(model, points, y, tol)
        if not np.isfinite(size):
            return -1
        for i in range(3):
            for a in range(ns):
                z[i, a] += points[i, a]
        rate = size / old if iteration > 0 else 0.0
        if size == 0.0 or (iteration > 0 and rate < 1.0 and rate / (1.0 - rate) * size < NEWTON_TOLERANCE):
            return iteration + 1
        if iteration > 0 and rate >= 1.0:  # diverging, or as near as rounding lets it come
            return iteration + 1 if size < ROUNDING else -1
        old = size
    return -1


@kernel
def implicit_forward(
    model: Any,
    p: int,
    theta: Any,
    ev_time: Any,
    ev_code: Any,
    n_ev: Any,
    ob_time: Any,
    ob_kind: Any,
    ob_family: Any,
    ob_value: Any,
    n_ob: Any,
    tol: float,
    max_steps: int,
    tape: Any,
    hs: Any,
    ts: Any,
    c: Any,
    held: Any,
    ev_step: Any,
    ev_y: Any,
    ev_h: Any,
    ob_step: Any,
    g_y: Any,
    g_h: Any,
    out: Any,
    loglik: Any,
    grad: Any,
) -> int:
    """Solve one patient; returns the number of accepted steps, or -1.

    ``tape`` (max_steps, 3, ns), ``hs`` and ``ts`` (max_steps,) keep the stages, lengths and starts of the steps; for
    read-outs they are empty.
    """
    taped = hs.size > 0
    ns, nh, nc = model[NS], model[NH], model[NC]
    y, f, cc = np.empty(ns), np.empty((1, ns)), np.empty(nc)
    z, points, k = np.empty((3, ns)), np.empty((3, ns)), np.empty((3, ns))
    slope = np.empty((1, ns, ns))
    matrix, pivots, flat = np.empty((3 * ns, 3 * ns)), np.empty(3 * ns, np.int64), np.empty(3 * ns)
    real, real_pivots, error = np.empty((ns, ns)), np.empty(ns, np.int64), np.empty((1, ns))
    lanes_y, lanes_k = lane_room(ns), lane_room(ns)
    seeds, scratch = lane_room(ns), lane_array(nc, 0.0)
    now, row, again = np.empty(1), np.empty((1, ns)), np.empty((1, ns))
    pair, pair_bar = np.empty(2), np.empty(2)
    call(model[START], y, held, theta[p])
    call(model[PREPARE], held, theta[p], cc)
    spread(c, nc, cc)
    t, h = 0.0, FIRST_IMPLICIT_STEP
    next_ob, next_ev, steps, attempts = 0, 0, 0, 0
    while True:
        # ---- at an event or an observation
        happened = False
        while next_ev < n_ev[p] and ev_time[p, next_ev] <= t + SAME_TIME:
            for i in range(ns):
                ev_y[p, next_ev, i] = y[i]
            for i in range(nh):
                ev_h[p, next_ev, i] = held[i]
            ev_step[p, next_ev] = steps
            call(model[JUMP], ev_code[p, next_ev], y, held, theta[p])
            next_ev += 1
            happened = True
        if happened:
            call(model[PREPARE], held, theta[p], cc)
            spread(c, nc, cc)
            h = FIRST_IMPLICIT_STEP
        while next_ob < n_ob[p] and ob_time[p, next_ob] <= t + SAME_TIME:
            ob_step[p, next_ob] = steps
            record(
                model, p, next_ob, t, y, held, theta, ob_kind, ob_family, ob_value, taped, out,
                g_y, g_h, loglik, grad, pair, pair_bar,
            )  # fmt: skip
            next_ob += 1
        for i in range(ns):
            if not np.isfinite(y[i]):
                return -1
        if next_ob >= n_ob[p]:
            return steps
        stop = ob_time[p, next_ob]
        if next_ev < n_ev[p]:
            stop = min(stop, ev_time[p, next_ev])

        # ---- steps up to the next one
        while t < stop:
            now[0] = t
            for i in range(ns):
                row[0, i] = y[i]
            jacobians(model, row, now, c, seeds, lanes_y, scratch, slope)
            stage_rates(model, row, now, c, lanes_y, lanes_k, f)
            tried = False
            while True:
                attempts += 1
                if attempts > max_steps:
                    return -1
                whole = stop - t <= h * (1.0 + 1e-9)
                step = stop - t if whole else h
                if not t + step > t:
                    return -1
                used = newton(
                    model, y, t, step, slope[0], tol, c, z, points, k, matrix, pivots, flat, lanes_y, lanes_k
                )  # fmt: skip
                if used < 0:
                    h = 0.3 * step
                    tried = True
                    continue
                for a in range(ns):
                    for b in range(ns):
                        real[a, b] = (RADAU_REAL / step if a == b else 0.0) - slope[0, a, b]
                factor(real, real_pivots)
                size = 0.0
                for correction in range(2):
                    if correction == 1:  # the second estimate filters out what is stiff
                        for i in range(ns):
                            row[0, i] = y[i] + error[0, i]
                        stage_rates(model, row, now, c, lanes_y, lanes_k, again)
                    for i in range(ns):
                        total = f[0, i] if correction == 0 else again[0, i]
                        for m in range(3):
                            total += RADAU_ERROR[m] * z[m, i] / step
                        error[0, i] = total
                    solve(real, real_pivots, error[0])
                    size = scaled(model, error, y, tol)
                    if size < 1.0 or not (steps == 0 or tried):
                        break
                if not np.isfinite(size):
                    h = 0.3 * step
                    tried = True
                    continue
                safety = 0.9 * (2.0 * NEWTON_ITERATIONS + 1.0) / (2.0 * NEWTON_ITERATIONS + used)
                wanted = step * min(8.0, max(0.2, safety * max(size, 1e-12) ** -0.25))
                if size >= 1.0:
                    h = min(wanted, 0.9 * step)
                    tried = True
                    continue
                h = max(wanted, h) if whole and not tried else wanted
                break
            if taped:
                hs[steps] = step
                ts[steps] = t
                for i in range(3):
                    for a in range(ns):
                        tape[steps, i, a] = y[a] + z[i, a]
            for a in range(ns):
                y[a] += z[2, a]
            t = stop if whole else t + step
            steps += 1


@kernel
def implicit_backward(
    model: Any,
    steps: int,
    p: int,
    theta: Any,
    ev_code: Any,
    n_ev: Any,
    n_ob: Any,
    tape: Any,
    hs: Any,
    ts: Any,
    c: Any,
    held: Any,
    ev_step: Any,
    ev_y: Any,
    ev_h: Any,
    ob_step: Any,
    g_y: Any,
    g_h: Any,
    grad: Any,
) -> None:
    """The discrete adjoint of `implicit_forward`: adds the patient's derivatives to ``grad``."""
    ns, nh, nc = model[NS], model[NH], model[NC]
    lam, hb, cc = np.zeros(ns), np.zeros(nh), np.empty(nc)
    cb, scratch, kb, yb = lane_array(nc, 0.0), lane_array(nc, 0.0), lane_array(ns, 0.0), lane_array(ns, 0.0)
    seeds, y, t = lane_room(ns), lane_room(ns), lane_room(1)
    slopes, times = np.empty((3, ns, ns)), np.empty(3)
    matrix, pivots, flat = np.empty((3 * ns, 3 * ns)), np.empty(3 * ns, np.int64), np.empty(3 * ns)
    ob, ev = n_ob[p] - 1, n_ev[p] - 1
    while ev >= 0 and ev_step[p, ev] < 0:
        ev -= 1
    for it in range(steps, -1, -1):
        while ob >= 0 and ob_step[p, ob] == it:
            for i in range(ns):
                lam[i] += g_y[p, ob, i]
            for i in range(nh):
                hb[i] += g_h[p, ob, i]
            ob -= 1
        if ev >= 0 and ev_step[p, ev] == it:
            gather(cb, cc)
            call(model[PREPARE_PULLBACK], held, theta[p], cc, hb, grad[p])
            cb.fill(0.0)
            while ev >= 0 and ev_step[p, ev] == it:
                call(model[JUMP_PULLBACK], ev_code[p, ev], ev_y[p, ev], ev_h[p, ev], theta[p], lam, hb, grad[p])
                for i in range(nh):
                    held[i] = ev_h[p, ev, i]
                ev -= 1
            call(model[PREPARE], held, theta[p], cc)
            spread(c, nc, cc)
        if it == 0:
            break
        h = hs[it - 1]
        for i in range(3):
            times[i] = ts[it - 1] + h * RADAU_NODES[i]
        jacobians(model, tape[it - 1], times, c, seeds, yb, scratch, slopes)
        for i in range(3):
            for m in range(3):
                for a in range(ns):
                    for b in range(ns):
                        unit = 1.0 if i == m and a == b else 0.0
                        matrix[i * ns + a, m * ns + b] = unit - h * RADAU[m, i] * slopes[i, b, a]
        factor(matrix, pivots)
        flat.fill(0.0)
        for a in range(ns):
            flat[2 * ns + a] = lam[a]
        solve(matrix, pivots, flat)  # adjoints of the stages' states
        for lane in range(WIDTH):
            point = min(lane, 2)
            t[lane] = times[point]
            for a in range(ns):
                y[a * WIDTH + lane] = tape[it - 1, point, a]
                total = 0.0
                if lane < 3:
                    for m in range(3):
                        total += h * RADAU[m, lane] * flat[m * ns + a]
                kb[a * WIDTH + lane] = total
        call(model[RATES_PULLBACK], y, 0, t, c, kb, 0, yb, 0, cb)
        for a in range(ns):
            lam[a] = flat[a] + flat[ns + a] + flat[2 * ns + a]
    gather(cb, cc)
    call(model[PREPARE_PULLBACK], held, theta[p], cc, hb, grad[p])
    call(model[START_PULLBACK], theta[p], lam, hb, grad[p])


@kernel
def gather(array: Any, out: Any) -> None:
    """The sum over the lanes of every slot."""
    for i in range(out.size):
        total = 0.0
        for lane in range(WIDTH):
            total += array[i * WIDTH + lane]
        out[i] = total


@kernel
def solve_implicitly(
    model: Any,
    p: int,
    theta: Any,
    ev_time: Any,
    ev_code: Any,
    n_ev: Any,
    ob_time: Any,
    ob_kind: Any,
    ob_family: Any,
    ob_value: Any,
    n_ob: Any,
    tol: float,
    max_steps: int,
    adjoint: bool,
    ev_step: Any,
    ev_y: Any,
    ev_h: Any,
    ob_step: Any,
    g_y: Any,
    g_h: Any,
    out: Any,
    loglik: Any,
    grad: Any,
    status: Any,
) -> None:
    """Take over a patient whom the explicit solver gave up; ``status`` tells whether it worked.

    For read-outs ``loglik`` is empty.
    """
    ns, nh, nc = model[NS], model[NH], model[NC]
    taped = loglik.size > 0
    size = max_steps if taped else 0
    tape, hs, ts = np.empty((size, 3, ns)), np.empty(size), np.empty(size)
    c, held = lane_array(nc, 0.0), np.zeros(nh)
    for i in range(ev_step.shape[1]):
        ev_step[p, i] = -2
    if taped:
        loglik[p] = 0.0
        grad[p].fill(0.0)
    steps = implicit_forward(
        model, p, theta, ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob, tol, max_steps,
        tape, hs, ts, c, held, ev_step, ev_y, ev_h, ob_step, g_y, g_h, out, loglik, grad,
    )  # fmt: skip
    if steps >= 0:
        status[p] = IMPLICIT
        if adjoint:
            implicit_backward(
                model, steps, p, theta, ev_code, n_ev, n_ob, tape, hs, ts, c, held,
                ev_step, ev_y, ev_h, ob_step, g_y, g_h, grad,
            )  # fmt: skip
