"""The adaptive solver in lanes, its dense output, exact events, and its discrete adjoint.

This text is a template: `derive.build` puts it below a model's generated functions, in one real file, so that
Numba's disk cache sees everything that a kernel depends on. Run as it is, it solves the one-state model of
`stub`.

Eight patients advance together, each with its own time, step, events and observations. ``stages`` is the
tape: for attempt ``it`` it holds the state at each of the seven stages, from which the reverse sweep
recomputes what it needs. A rejected attempt is a step of length 0. Coefficients ``c`` are constant between
events; an event saves the state before it, so that the reverse sweep can undo it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, prange

from .lanes import (
    LOGLIK_SIGNATURE,
    WIDTH,
    address,
    lane_abs,
    lane_exp,
    lane_log,
    lane_max,
    lane_min,
    lane_where_less,
    load,
    splat,
    store,
)
from .policy import kernel, parallel_kernel
from .stub import (
    NC,
    NH,
    NR,
    NS,
    NT,
    VALUE_SCALED,
    density,
    jump,
    jump_pullback,
    observe,
    observe_pullback,
    prepare,
    prepare_pullback,
    rates,
    rates_pullback,
    readout,
    start,
    start_pullback,
)
from .tableaux import DENSE, ERROR, MATRIX, NODES, STAGES

# ---- everything below this line is copied under a model's generated functions ----

SOLVED, STEP_LIMIT, STEP_TOO_SMALL, NOT_FINITE = 0, 1, 2, 3
FIRST_STEP = 0.02
SMALLEST_STEP = 1e-10
SAME_TIME = 1e-9
DIRECT = -1.0  # an observation at an event or at the start, read off the state itself
ACCEPT = 1.0000001


@kernel
def get(flat: Any, slot: int, n: int, lane: int, out: Any) -> None:
    """Copy one lane of ``n`` slots into a plain array."""
    for i in range(n):
        out[i] = flat[(slot + i) * WIDTH + lane]


@kernel
def put(flat: Any, slot: int, n: int, lane: int, values: Any) -> None:
    """Copy a plain array into one lane of ``n`` slots."""
    for i in range(n):
        flat[(slot + i) * WIDTH + lane] = values[i]


@kernel
def attempt(stages: Any, base: int, k: Any, c: Any, t: Any, h: Any, tol: float) -> Any:
    """One Runge-Kutta step in all lanes; returns the mean square of the scaled error."""
    for s in range(1, STAGES):
        for i in range(NS):
            total = load(k, i * WIDTH) * MATRIX[s, 0]
            for j in range(1, s):
                total = total + load(k, (j * NS + i) * WIDTH) * MATRIX[s, j]
            store(stages, (base + s * NS + i) * WIDTH, load(stages, (base + i) * WIDTH) + h * total)
        rates(stages, base + s * NS, t + h * NODES[s], c, k, s * NS)
    square = splat(0.0)
    for i in range(NS):
        error = load(k, i * WIDTH) * ERROR[0]
        for s in range(1, STAGES):
            error = error + load(k, (s * NS + i) * WIDTH) * ERROR[s]
        error = h * error * (1.0 / tol)
        if VALUE_SCALED[i] > 0.0:
            before = lane_abs(load(stages, (base + i) * WIDTH))
            after = lane_abs(load(stages, (base + (STAGES - 1) * NS + i) * WIDTH))
            error = error / (lane_max(before, after) + 1.0)
        square = square + error * error
    return square * (1.0 / NS)


@kernel
def dense(stages: Any, base: int, k: Any, lane: int, h: float, x: float, weights: Any, y: Any) -> None:
    """The state of one lane at fraction ``x`` of the step."""
    for s in range(STAGES):
        weights[s] = h * x * (DENSE[s, 0] + x * (DENSE[s, 1] + x * (DENSE[s, 2] + x * DENSE[s, 3])))
    for i in range(NS):
        value = stages[(base + i) * WIDTH + lane]
        for s in range(STAGES):
            value += weights[s] * k[(s * NS + i) * WIDTH + lane]
        y[i] = value


@kernel
def record(
    p: int,
    j: int,
    t: float,
    y: Any,
    held: Any,
    theta: Any,
    ob_kind: Any,
    ob_family: Any,
    ob_value: Any,
    taped: bool,
    out: Any,
    g_y: Any,
    g_h: Any,
    loglik: Any,
    grad: Any,
    pair: Any,
    pair_bar: Any,
) -> None:
    """Evaluate one observation: its log density and derivatives (taped), or the read-outs (not taped)."""
    if taped:
        observe(ob_kind[p, j], t, y, held, theta[p], pair)
        loglik[p] += density(ob_family[p, j], ob_value[p, j], pair, pair_bar)
        observe_pullback(ob_kind[p, j], t, y, held, theta[p], pair_bar, g_y[p, j], g_h[p, j], grad[p])
    else:
        readout(t, y, held, theta[p], out[p, j])


@kernel
def forward(
    order: Any,
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
    taped: bool,
    stages: Any,
    hs: Any,
    ts: Any,
    c: Any,
    held: Any,
    ev_step: Any,
    ev_y: Any,
    ev_h: Any,
    ob_step: Any,
    ob_x: Any,
    g_y: Any,
    g_h: Any,
    out: Any,
    loglik: Any,
    grad: Any,
    status: Any,
) -> int:
    """Solve the patients in ``order`` (at most eight when ``taped``). Returns the number of attempts."""
    k = np.zeros(STAGES * NS * WIDTH)
    t = np.zeros(WIDTH)
    h = np.zeros(WIDTH)
    stop = np.zeros(WIDTH)
    error = np.zeros(WIDTH)
    log_old = np.zeros(WIDTH)
    patient = np.full(WIDTH, -1)
    next_ob = np.zeros(WIDTH, np.int64)
    next_ev = np.zeros(WIDTH, np.int64)
    steps = np.zeros(WIDTH, np.int64)
    y = np.empty(NS)
    cc = np.empty(NC)
    weights = np.empty(STAGES)
    pair = np.empty(2)
    pair_bar = np.empty(2)
    waiting = 0
    active = 0
    it = -1
    base = 0  # slot of stage 0 of the coming attempt
    fresh = True
    while True:
        # ---- boundaries: load waiting patients, apply events, read observations that fall on them, finish
        renewed = False
        for lane in range(WIDTH):
            p = patient[lane]
            if p < 0 and not fresh and taped:
                continue
            if p < 0 and waiting < order.size:
                p = order[waiting]
                waiting += 1
                patient[lane] = p
                active += 1
                renewed = True
                start(y, held[lane], theta[p])
                put(stages, base, NS, lane, y)
                prepare(held[lane], theta[p], cc)
                put(c, 0, NC, lane, cc)
                t[lane] = 0.0
                stop[lane] = 0.0
                next_ob[lane] = 0
                next_ev[lane] = 0
                steps[lane] = 0
                status[p] = SOLVED
            elif p < 0:
                if fresh:  # an idle lane copies the first, so that its numbers are harmless
                    for i in range(NS):
                        stages[(base + i) * WIDTH + lane] = stages[(base + i) * WIDTH]
                    for i in range(NC):
                        c[i * WIDTH + lane] = c[i * WIDTH]
                continue
            if t[lane] < stop[lane]:
                continue
            happened = False
            while next_ev[lane] < n_ev[p] and ev_time[p, next_ev[lane]] <= t[lane] + SAME_TIME:
                e = next_ev[lane]
                get(stages, base, NS, lane, y)
                for i in range(NS):
                    ev_y[p, e, i] = y[i]
                for i in range(NH):
                    ev_h[p, e, i] = held[lane, i]
                ev_step[p, e] = it
                jump(ev_code[p, e], y, held[lane], theta[p])
                put(stages, base, NS, lane, y)
                next_ev[lane] += 1
                happened = True
            if happened:
                prepare(held[lane], theta[p], cc)
                put(c, 0, NC, lane, cc)
            get(stages, base, NS, lane, y)
            while next_ob[lane] < n_ob[p] and ob_time[p, next_ob[lane]] <= t[lane] + SAME_TIME:
                j = next_ob[lane]
                ob_step[p, j] = it
                ob_x[p, j] = DIRECT
                record(
                    p, j, t[lane], y, held[lane], theta, ob_kind, ob_family, ob_value, taped, out,
                    g_y, g_h, loglik, grad, pair, pair_bar,
                )  # fmt: skip
                next_ob[lane] += 1
            finite = True
            for i in range(NS):
                finite = finite and np.isfinite(y[i])
            if not finite:
                status[p] = NOT_FINITE
            if next_ob[lane] >= n_ob[p] or not finite:
                patient[lane] = -1
                active -= 1
                h[lane] = 0.0
                stop[lane] = t[lane]
                if not finite:
                    for i in range(NS):
                        stages[(base + i) * WIDTH + lane] = 0.0
                continue
            renewed = True
            h[lane] = FIRST_STEP
            log_old[lane] = 0.0
            stop[lane] = ob_time[p, n_ob[p] - 1]
            if next_ev[lane] < n_ev[p]:
                stop[lane] = min(stop[lane], ev_time[p, next_ev[lane]])
            h[lane] = min(h[lane], stop[lane] - t[lane])
        fresh = False
        if active == 0:
            if taped or waiting >= order.size:
                break
            continue
        if renewed:
            rates(stages, base, load(t, 0), c, k, 0)

        # ---- one attempt in all lanes
        it += 1
        if taped and it >= max_steps:
            for lane in range(WIDTH):
                if patient[lane] >= 0:
                    status[patient[lane]] = STEP_LIMIT
            return it
        if taped:
            store(hs, it * WIDTH, load(h, 0))
            store(ts, it * WIDTH, load(t, 0))
        square = attempt(stages, base, k, c, load(t, 0), load(h, 0), tol)
        store(error, 0, square)
        log_new = lane_log(lane_max(square, splat(1e-24)))
        factor = lane_exp(log_new * -0.07 + load(log_old, 0) * 0.04) * 0.9
        factor = lane_max(lane_min(factor, splat(8.0)), splat(0.2))
        limit = splat(ACCEPT)
        shrink = lane_where_less(square, splat(1e300), lane_min(factor, splat(0.8)), splat(0.2))
        h_next = load(h, 0) * lane_where_less(square, limit, factor, shrink)
        store(log_old, 0, lane_where_less(square, limit, log_new, load(log_old, 0)))

        # ---- observations inside accepted steps
        for lane in range(WIDTH):
            p = patient[lane]
            if p < 0:
                continue
            steps[lane] += 1
            if error[lane] < ACCEPT:
                t_new = t[lane] + h[lane]
                if stop[lane] - t_new < SAME_TIME:
                    t_new = stop[lane]
                event_next = next_ev[lane] < n_ev[p] and ev_time[p, next_ev[lane]] <= t_new + SAME_TIME
                while next_ob[lane] < n_ob[p] and ob_time[p, next_ob[lane]] <= t_new:
                    j = next_ob[lane]
                    if event_next and ob_time[p, j] > t_new - SAME_TIME:
                        break
                    x = (ob_time[p, j] - t[lane]) / h[lane]
                    dense(stages, base, k, lane, h[lane], x, weights, y)
                    ob_step[p, j] = it
                    ob_x[p, j] = x
                    record(
                        p, j, ob_time[p, j], y, held[lane], theta, ob_kind, ob_family, ob_value, taped, out,
                        g_y, g_h, loglik, grad, pair, pair_bar,
                    )  # fmt: skip
                    next_ob[lane] += 1
                t[lane] = t_new
            elif taped:  # nothing of a rejected attempt may reach the reverse sweep
                hs[it * WIDTH + lane] = 0.0
                for s in range(1, STAGES):
                    for i in range(NS):
                        stages[(base + s * NS + i) * WIDTH + lane] = stages[(base + i) * WIDTH + lane]

        # ---- accepted lanes move on
        last = base + (STAGES - 1) * NS
        following = base + STAGES * NS if taped else 0
        for i in range(NS):
            new, old = load(stages, (last + i) * WIDTH), load(stages, (base + i) * WIDTH)
            store(stages, (following + i) * WIDTH, lane_where_less(square, limit, new, old))
            new, old = load(k, ((STAGES - 1) * NS + i) * WIDTH), load(k, i * WIDTH)
            store(k, i * WIDTH, lane_where_less(square, limit, new, old))
        base = following
        store(h, 0, lane_max(lane_min(h_next, load(stop, 0) - load(t, 0)), splat(0.0)))
        for lane in range(WIDTH):
            p = patient[lane]
            if p < 0:
                h[lane] = 0.0
                continue
            if next_ob[lane] >= n_ob[p]:
                stop[lane] = t[lane]
            failed = SOLVED
            if t[lane] < stop[lane] and not h[lane] > SMALLEST_STEP:
                failed = STEP_TOO_SMALL
            elif steps[lane] >= max_steps:
                failed = STEP_LIMIT
            if failed != SOLVED:
                status[p] = failed
                patient[lane] = -1
                active -= 1
                h[lane] = 0.0
                t[lane] = 0.0
                stop[lane] = 0.0
                for i in range(NS):
                    stages[(base + i) * WIDTH + lane] = 0.0
                if not taped:
                    for j in range(next_ob[lane], n_ob[p]):
                        for i in range(NR):
                            out[p, j, i] = np.nan
    return it + 1


@kernel
def backward(
    attempts: int,
    order: Any,
    theta: Any,
    ev_code: Any,
    n_ev: Any,
    n_ob: Any,
    stages: Any,
    hs: Any,
    ts: Any,
    c: Any,
    held: Any,
    ev_step: Any,
    ev_y: Any,
    ev_h: Any,
    ob_step: Any,
    ob_x: Any,
    g_y: Any,
    g_h: Any,
    grad: Any,
    status: Any,
) -> None:
    """The discrete adjoint of `forward`: adds each patient's derivatives to ``grad``."""
    lam = np.zeros(NS * WIDTH)
    cb = np.zeros(NC * WIDTH)
    hb = np.zeros((WIDTH, NH))
    kb = np.zeros(STAGES * NS * WIDTH)
    yb = np.zeros(STAGES * NS * WIDTH)
    direct = np.zeros(NS * WIDTH)
    y = np.empty(NS)
    cc = np.empty(NC)
    ob = np.full(WIDTH, -1)
    ev = np.full(WIDTH, -1)
    for lane in range(order.size):
        if status[order[lane]] == SOLVED:
            ob[lane] = n_ob[order[lane]] - 1
            ev[lane] = n_ev[order[lane]] - 1
            while ev[lane] >= 0 and ev_step[order[lane], ev[lane]] < -1:
                ev[lane] -= 1
    for it in range(attempts - 1, -2, -1):
        for lane in range(order.size):
            p = order[lane]
            if status[p] != SOLVED:
                continue
            while ob[lane] >= 0 and ob_step[p, ob[lane]] == it and ob_x[p, ob[lane]] == DIRECT:
                for i in range(NS):
                    lam[i * WIDTH + lane] += g_y[p, ob[lane], i]
                for i in range(NH):
                    hb[lane, i] += g_h[p, ob[lane], i]
                ob[lane] -= 1
            if ev[lane] >= 0 and ev_step[p, ev[lane]] == it:
                get(cb, 0, NC, lane, cc)
                prepare_pullback(held[lane], theta[p], cc, hb[lane], grad[p])
                for i in range(NC):
                    cb[i * WIDTH + lane] = 0.0
                get(lam, 0, NS, lane, y)
                while ev[lane] >= 0 and ev_step[p, ev[lane]] == it:
                    e = ev[lane]
                    jump_pullback(ev_code[p, e], ev_y[p, e], ev_h[p, e], theta[p], y, hb[lane], grad[p])
                    for i in range(NH):
                        held[lane, i] = ev_h[p, e, i]
                    ev[lane] -= 1
                put(lam, 0, NS, lane, y)
                prepare(held[lane], theta[p], cc)
                put(c, 0, NC, lane, cc)
        if it < 0:
            break
        base = it * STAGES * NS
        h = load(hs, it * WIDTH)
        t = load(ts, it * WIDTH)
        touched = False
        for lane in range(order.size):
            p = order[lane]
            while ob[lane] >= 0 and ob_step[p, ob[lane]] == it:
                j = ob[lane]
                if not touched:
                    kb[:] = 0.0
                    direct[:] = 0.0
                    touched = True
                x = ob_x[p, j]
                step = hs[it * WIDTH + lane]
                for s in range(STAGES):
                    w = step * x * (DENSE[s, 0] + x * (DENSE[s, 1] + x * (DENSE[s, 2] + x * DENSE[s, 3])))
                    for i in range(NS):
                        kb[(s * NS + i) * WIDTH + lane] += w * g_y[p, j, i]
                for i in range(NS):
                    direct[i * WIDTH + lane] += g_y[p, j, i]
                for i in range(NH):
                    hb[lane, i] += g_h[p, j, i]
                ob[lane] -= 1
        last = STAGES - 1
        if touched:
            rates_pullback(stages, base + last * NS, t + h * NODES[last], c, kb, last * NS, yb, last * NS, cb)
            for i in range(NS):
                store(lam, i * WIDTH, load(lam, i * WIDTH) + load(yb, (last * NS + i) * WIDTH))
        for s in range(STAGES - 2, -1, -1):
            for i in range(NS):
                total = load(lam, i * WIDTH) * MATRIX[last, s]
                for r in range(s + 1, STAGES - 1):
                    total = total + load(yb, (r * NS + i) * WIDTH) * MATRIX[r, s]
                total = h * total
                if touched:
                    total = total + load(kb, (s * NS + i) * WIDTH)
                store(kb, (s * NS + i) * WIDTH, total)
            rates_pullback(stages, base + s * NS, t + h * NODES[s], c, kb, s * NS, yb, s * NS, cb)
        for i in range(NS):
            total = load(lam, i * WIDTH)
            for s in range(STAGES - 1):
                total = total + load(yb, (s * NS + i) * WIDTH)
            if touched:
                total = total + load(direct, i * WIDTH)
            store(lam, i * WIDTH, total)
    for lane in range(order.size):
        p = order[lane]
        if status[p] == SOLVED:
            get(cb, 0, NC, lane, cc)
            prepare_pullback(held[lane], theta[p], cc, hb[lane], grad[p])
            get(lam, 0, NS, lane, y)
            start_pullback(theta[p], y, hb[lane], grad[p])


@kernel
def loglik_grad(
    order: Any,
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
    loglik: Any,
    grad: Any,
    status: Any,
) -> None:
    """Log-likelihood and, with ``adjoint``, its gradient by ``theta``, of the patients in ``order``.

    Writes ``loglik`` (n,), ``grad`` (n, NT) and ``status`` (n,); without ``adjoint`` what stands in ``grad`` is not
    the gradient.

    A patient that cannot be solved gets minus infinity, a zero gradient and a status that is not 0.
    """
    n, m = ob_time.shape
    e = max(ev_time.shape[1], 1)
    stages = np.empty((max_steps + 1) * STAGES * NS * WIDTH)
    hs = np.empty(max_steps * WIDTH)
    ts = np.empty(max_steps * WIDTH)
    c = np.zeros(NC * WIDTH)
    held = np.zeros((WIDTH, NH))
    ev_step = np.full((n, e), -2)
    ev_y = np.empty((n, e, NS))
    ev_h = np.empty((n, e, NH))
    ob_step = np.full((n, m), -2)
    ob_x = np.empty((n, m))
    g_y = np.empty((n, m, NS))
    g_h = np.empty((n, m, NH))
    out = np.empty((1, 1, 1))
    loglik[:] = 0.0
    grad[:] = 0.0
    for first in range(0, order.size, WIDTH):
        group = order[first : first + WIDTH]
        attempts = forward(
            group, theta, ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob,
            tol, max_steps, True,
            stages, hs, ts, c, held, ev_step, ev_y, ev_h, ob_step, ob_x, g_y, g_h, out, loglik, grad, status,
        )  # fmt: skip
        if adjoint:
            backward(
                attempts, group, theta, ev_code, n_ev, n_ob, stages, hs, ts, c, held,
                ev_step, ev_y, ev_h, ob_step, ob_x, g_y, g_h, grad, status,
            )  # fmt: skip
        for p in group:
            good = status[p] == SOLVED and np.isfinite(loglik[p])
            for i in range(NT):
                good = good and np.isfinite(grad[p, i])
            if not good:
                if status[p] == SOLVED:
                    status[p] = NOT_FINITE
                loglik[p] = -np.inf
                grad[p, :] = 0.0


@parallel_kernel
def simulate(
    theta: Any,
    ev_time: Any,
    ev_code: Any,
    n_ev: Any,
    times: Any,
    tol: float,
    max_steps: int,
    out: Any,
    status: Any,
) -> None:
    """Read-outs of all patients at ``times`` (T,): writes ``out`` (n, T, NR), NaN if unsolved, ``status``."""
    n = theta.shape[0]
    m = times.size
    e = max(ev_time.shape[1], 1)
    chunk = 64
    for block in prange((n + chunk - 1) // chunk):
        low = block * chunk
        high = min(n, low + chunk)
        b = high - low
        ob_time = np.empty((b, m))
        for p in range(b):
            ob_time[p, :] = times
        whole = np.zeros((1, 1), np.int64)
        real = np.zeros((1, 1))
        forward(
            np.arange(b), theta[low:high], ev_time[low:high], ev_code[low:high], n_ev[low:high], ob_time,
            whole, whole, real, np.full(b, m), tol, max_steps, False,
            np.empty(STAGES * NS * WIDTH), real[0], real[0], np.zeros(NC * WIDTH), np.zeros((WIDTH, NH)),
            np.empty((b, e), np.int64), np.empty((b, e, NS)), np.empty((b, e, NH)),
            np.empty((b, m), np.int64), np.empty((b, m)), np.empty((1, 1, NS)), np.empty((1, 1, NH)),
            out[low:high], np.empty(1), np.empty((1, 1)), status[low:high],
        )  # fmt: skip


# ---- everything below this line is copied only where there is a likelihood ----


@cfunc(LOGLIK_SIGNATURE, cache=True, error_model="numpy")
def loglik_grad_entry(
    order: int,
    theta: int,
    ev_time: int,
    ev_code: int,
    n_ev: int,
    ob_time: int,
    ob_kind: int,
    ob_family: int,
    ob_value: int,
    n_ob: int,
    loglik: int,
    grad: int,
    outcomes: int,
    size: int,
    n: int,
    e: int,
    m: int,
    tol: float,
    max_steps: int,
    adjoint: bool,
) -> None:
    """`loglik_grad` behind a C address: graphs that call it never compile it anew. Counts outcomes of ``order``."""
    status = np.zeros(n, np.int64)
    chosen = carray(address(order), (size,), np.int64)
    loglik_grad(
        chosen,
        carray(address(theta), (n, NT), np.float64),
        carray(address(ev_time), (n, e), np.float64),
        carray(address(ev_code), (n, e), np.int64),
        carray(address(n_ev), (n,), np.int64),
        carray(address(ob_time), (n, m), np.float64),
        carray(address(ob_kind), (n, m), np.int64),
        carray(address(ob_family), (n, m), np.int64),
        carray(address(ob_value), (n, m), np.float64),
        carray(address(n_ob), (n,), np.int64),
        tol,
        max_steps,
        adjoint,
        carray(address(loglik), (n,), np.float64),
        carray(address(grad), (n, NT), np.float64),
        status,
    )
    count = carray(address(outcomes), (4,), np.int64)
    for p in chosen:
        count[status[p]] += 1
