"""What the solvers are called for: log-likelihoods with gradients, and read-outs of populations.

`derive.build` copies this text, with `records`, `implicit`, `forward`, `backward` and the written-out steps of a
method, into one real file, so that Numba's disk cache sees everything that the solvers depend on. As it stands, it has
the steps of `stub`. A patient that the explicit method cannot finish within its steps is handed to `implicit`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, prange

from .backward import backward
from .forward import forward
from .implicit import solve_implicitly
from .interface import LOGLIK_SIGNATURE, NC, NH, NS, NT, SOLVER_SIGNATURE, TABLE_SIZE, call
from .lanes import WIDTH, address
from .policy import c_function, kernel, parallel_kernel
from .records import IMPLICIT, NOT_FINITE, OUTCOMES, SOLVED, STEP_LIMIT, STEP_TOO_SMALL, lane_array, lane_room
from .stub import SLOTS

# ---- everything below this line is copied into the solvers' file ----

WAVE = 32  # patients of a likelihood on one tape: enough to fill the lanes evenly, few enough for the cache


@kernel
def loglik_grad(
    model: Any,
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

    Writes ``loglik`` (n,), ``grad`` (n, nt) and ``status`` (n,); without ``adjoint`` what stands in ``grad`` is not
    the gradient.

    A patient that cannot be solved gets minus infinity, a zero gradient and a status that is not 0.
    """
    ns, nh, nt, nc = model[NS], model[NH], model[NT], model[NC]
    n, m = ob_time.shape
    e = max(ev_time.shape[1], 1)
    waves = max(1, (order.size + WAVE - 1) // WAVE)
    wave = max(1, (order.size + waves - 1) // waves)
    # however the patients fall into lanes; who has no steps left may still arrive at events, and at the end
    room = (max_steps + e + 1) * (wave // WIDTH + 1)
    stages = lane_room((room + 1) * SLOTS * ns)
    hs = lane_room(room)
    ts = lane_room(room)
    route = np.empty((n, 2), np.int64)
    end_h = np.empty((n, nh))
    last = np.empty(WIDTH, np.int64)
    c = lane_array(nc, 0.0)
    held = np.zeros((WIDTH, nh))
    ev_step = np.full((n, e), -2)
    ev_y = np.empty((n, e, ns))
    ev_h = np.empty((n, e, nh))
    ob_step = np.full((n, m), -2)
    ob_x = np.empty((n, m))
    g_y = np.empty((n, m, ns))
    g_h = np.empty((n, m, nh))
    out = np.empty((1, 1, 1))
    land = n >= 0  # not the constant, for which Numba would compile `forward` once more
    nothing, nowhere, no_table = np.empty(0), np.empty(0, np.int64), np.empty((0, 0))
    loglik.fill(0.0)
    grad.fill(0.0)
    for first in range(0, order.size, wave):
        group = order[first : first + wave]
        last.fill(-1)
        attempts = forward(
            model, group, theta, ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob,
            tol, max_steps, land, nothing, nothing, nowhere, nowhere, nothing, no_table, stages, hs, ts, c, held,
            ev_step, ev_y, ev_h, ob_step, ob_x, g_y, g_h, route, end_h, last, out, loglik, grad, status,
        )  # fmt: skip
        if adjoint:
            backward(
                model, attempts, theta, ev_code, n_ev, n_ob, stages, hs, ts, c, held,
                ev_step, ev_y, ev_h, ob_step, ob_x, g_y, g_h, route, end_h, last, grad, status,
            )  # fmt: skip
        for p in group:
            if status[p] == STEP_LIMIT or status[p] == STEP_TOO_SMALL:
                solve_implicitly(
                    model, p, theta, ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob,
                    tol, max_steps, adjoint,
                    ev_step, ev_y, ev_h, ob_step, g_y, g_h, out, loglik, grad, status,
                )  # fmt: skip
            solved = status[p] == SOLVED or status[p] == IMPLICIT
            good = solved and np.isfinite(loglik[p])
            for i in range(nt):
                good = good and np.isfinite(grad[p, i])
            if not good:
                if solved:
                    status[p] = NOT_FINITE
                loglik[p] = -np.inf
                grad[p].fill(0.0)


@parallel_kernel
def simulate(
    model: Any,
    theta: Any,
    ev_time: Any,
    ev_code: Any,
    n_ev: Any,
    times: Any,
    tol: float,
    max_steps: int,
    out: Any,
    status: Any,
    land: bool,
    since: Any,
    watch: Any,
    visits: Any,
    latest: Any,
    growth: Any,
    chunk: int,
) -> None:
    """Read-outs of all patients at ``times`` (T,): writes ``out`` (n, T, nr), NaN if unsolved, ``status``.

    Patient ``i`` counts the times from day ``since[i]`` (n,); ``land`` as in `forward`. Where there is a ``watch``, a
    patient is simulated until what is judged is `records.decided` by it, ``visits`` (T,), ``latest`` and ``growth``
    (n,); at the later times stands what was found at the last.
    A thread takes ``chunk`` patients at a time.
    """
    ns, nh, nc = model[NS], model[NH], model[NC]
    n = theta.shape[0]
    m = times.size
    e = max(ev_time.shape[1], 1)
    for block in prange((n + chunk - 1) // chunk):
        low = block * chunk
        high = min(n, low + chunk)
        b = high - low
        ob_time = np.empty((b, m))
        for p in range(b):
            for j in range(m):
                ob_time[p, j] = since[low + p] + times[j]
        never = b < 0  # not the constant, for which Numba would compile the implicit solver once more
        whole = np.zeros((1, 1), np.int64)
        real = np.zeros((1, 1))
        n_ob = np.full(b, m)
        ev_step, ev_y, ev_h = np.empty((b, e), np.int64), np.empty((b, e, ns)), np.empty((b, e, nh))
        ob_step, g_y, g_h = np.empty((b, m), np.int64), np.empty((1, 1, ns)), np.empty((1, 1, nh))
        loglik, grad = np.empty(0), np.empty((0, 0))
        forward(
            model, np.arange(b), theta[low:high], ev_time[low:high], ev_code[low:high], n_ev[low:high], ob_time,
            whole, whole, real, n_ob, tol, max_steps, land,
            times, watch, visits, latest[low:high], growth[low:high], np.empty((b, 3)),
            lane_room(SLOTS * ns), np.empty(0), np.empty(0), lane_array(nc, 0.0), np.zeros((WIDTH, nh)),
            ev_step, ev_y, ev_h, ob_step, np.empty((b, m)), g_y, g_h,
            np.empty((1, 2), np.int64), np.empty((1, nh)), np.empty(1, np.int64),
            out[low:high], loglik, grad, status[low:high],
        )  # fmt: skip
        for p in range(b):
            if status[low + p] == STEP_LIMIT or status[low + p] == STEP_TOO_SMALL:
                solve_implicitly(
                    model, p, theta[low:high], ev_time[low:high], ev_code[low:high], n_ev[low:high], ob_time,
                    whole, whole, real, n_ob, tol, max_steps, never,
                    ev_step, ev_y, ev_h, ob_step, g_y, g_h, out[low:high], loglik, grad, status[low:high],
                )  # fmt: skip
            for j in range(n_ob[p], m):
                for i in range(out.shape[2]):
                    out[low + p, j, i] = out[low + p, n_ob[p] - 1, i]


def loglik_grad_entry(
    model: int,
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
    adjoint: int,
) -> None:
    """`loglik_grad` behind a C address: graphs that call it never compile it anew. Counts outcomes of ``order``."""
    status = np.zeros(n, np.int64)
    chosen = carray(address(order), (size,), np.int64)
    table = carray(address(model), (TABLE_SIZE,), np.int64)
    nt = table[NT]
    loglik_grad(
        table,
        chosen,
        carray(address(theta), (n, nt), np.float64),
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
        adjoint != 0,
        carray(address(loglik), (n,), np.float64),
        carray(address(grad), (n, nt), np.float64),
        status,
    )
    count = carray(address(outcomes), (OUTCOMES,), np.int64)
    for p in chosen:
        count[status[p]] += 1


@cache
def solver_address() -> int:
    """Address of `loglik_grad_entry`, compiled at the first call."""
    entry: Any = c_function(SOLVER_SIGNATURE)(loglik_grad_entry)
    return int(entry.address)


def entry_for(table: Any) -> Any:
    """`loglik_grad_entry` with its first argument given: a C function of one model, valid as long as its table."""
    solver, model = solver_address(), table.ctypes.data

    @cfunc(LOGLIK_SIGNATURE)
    def entry(
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
        call(
            solver, model, order, theta, ev_time, ev_code, n_ev, ob_time, ob_kind, ob_family, ob_value, n_ob,
            loglik, grad, outcomes, size, n, e, m, tol, max_steps, 1 if adjoint else 0,
        )  # fmt: skip

    return entry
