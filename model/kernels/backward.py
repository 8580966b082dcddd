"""The discrete adjoint of the solver in lanes: `forward`'s tape, backwards.

Copied into the solvers' file, like `driver`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .interface import JUMP_PULLBACK, NC, NH, NS, PREPARE, PREPARE_PULLBACK, START_PULLBACK, call
from .lanes import WIDTH
from .policy import kernel
from .records import DIRECT, SOLVED, get, lane_array, put
from .stub import SLOTS, attempt_pullback, weigh

# ---- everything below this line is copied into the solvers' file ----


@kernel
def backward(
    model: Any,
    attempts: int,
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
    route: Any,
    end_h: Any,
    last: Any,
    grad: Any,
    status: Any,
) -> None:
    """The discrete adjoint of `forward`: adds each patient's derivatives to ``grad``."""
    ns, nh, nc = model[NS], model[NH], model[NC]
    lam = lane_array(ns, 0.0)
    cb = lane_array(nc, 0.0)
    hb = np.zeros((WIDTH, nh))
    kb = lane_array(SLOTS * ns, 0.0)
    yb = lane_array(SLOTS * ns, 0.0)
    weights = np.empty(SLOTS)
    direct = lane_array(ns, 0.0)
    times = lane_array(1, 0.0)
    y = np.empty(ns)
    cc = np.empty(nc)
    ob = np.full(WIDTH, -1)
    ev = np.full(WIDTH, -1)
    patient = np.full(WIDTH, -1)
    for it in range(attempts - 1, -2, -1):
        for lane in range(WIDTH):
            while True:
                p = patient[lane]
                if p < 0:  # come to the end of the lane's last patient that is left
                    p = last[lane]
                    if p < 0:
                        break
                    patient[lane] = p
                    ob[lane] = n_ob[p] - 1 if status[p] == SOLVED else -1
                    ev[lane] = n_ev[p] - 1 if status[p] == SOLVED else -1
                    while ev[lane] >= 0 and ev_step[p, ev[lane]] < -1:
                        ev[lane] -= 1
                    if status[p] == SOLVED:
                        for i in range(nh):
                            held[lane, i] = end_h[p, i]
                        call(model[PREPARE], held[lane], theta[p], cc)
                        put(c, 0, nc, lane, cc)
                while ob[lane] >= 0 and ob_step[p, ob[lane]] == it and ob_x[p, ob[lane]] == DIRECT:
                    for i in range(ns):
                        lam[i * WIDTH + lane] += g_y[p, ob[lane], i]
                    for i in range(nh):
                        hb[lane, i] += g_h[p, ob[lane], i]
                    ob[lane] -= 1
                if ev[lane] >= 0 and ev_step[p, ev[lane]] == it:
                    get(cb, 0, nc, lane, cc)
                    call(model[PREPARE_PULLBACK], held[lane], theta[p], cc, hb[lane], grad[p])
                    for i in range(nc):
                        cb[i * WIDTH + lane] = 0.0
                    get(lam, 0, ns, lane, y)
                    while ev[lane] >= 0 and ev_step[p, ev[lane]] == it:
                        e = ev[lane]
                        call(
                            model[JUMP_PULLBACK], ev_code[p, e], ev_y[p, e], ev_h[p, e], theta[p], y, hb[lane], grad[p]
                        )
                        for i in range(nh):
                            held[lane, i] = ev_h[p, e, i]
                        ev[lane] -= 1
                    put(lam, 0, ns, lane, y)
                    call(model[PREPARE], held[lane], theta[p], cc)
                    put(c, 0, nc, lane, cc)
                if route[p, 0] != it:
                    break
                if status[p] == SOLVED:
                    get(cb, 0, nc, lane, cc)
                    call(model[PREPARE_PULLBACK], held[lane], theta[p], cc, hb[lane], grad[p])
                    get(lam, 0, ns, lane, y)
                    call(model[START_PULLBACK], theta[p], y, hb[lane], grad[p])
                for i in range(ns):
                    lam[i * WIDTH + lane] = 0.0
                for i in range(nc):
                    cb[i * WIDTH + lane] = 0.0
                for i in range(nh):
                    hb[lane, i] = 0.0
                last[lane] = route[p, 1]
                patient[lane] = -1
        if it < 0:
            break
        base = it * SLOTS * ns
        h = hs[it * WIDTH : (it + 1) * WIDTH]
        t = ts[it * WIDTH : (it + 1) * WIDTH]
        touched = False
        for lane in range(WIDTH):
            p = patient[lane]
            while ob[lane] >= 0 and ob_step[p, ob[lane]] == it:
                j = ob[lane]
                if not touched:
                    kb.fill(0.0)
                    direct.fill(0.0)
                    touched = True
                x = ob_x[p, j]
                y.fill(0.0)
                while j >= 0 and ob_step[p, j] == it and ob_x[p, j] == x:  # several assays of one sample
                    for i in range(ns):
                        y[i] += g_y[p, j, i]
                    for i in range(nh):
                        hb[lane, i] += g_h[p, j, i]
                    j -= 1
                ob[lane] = j
                weigh(x, weights)
                for s in range(SLOTS):
                    for i in range(ns):
                        kb[(s * ns + i) * WIDTH + lane] += hs[it * WIDTH + lane] * weights[s] * y[i]
                for i in range(ns):
                    direct[i * WIDTH + lane] += y[i]
        attempt_pullback(model, stages, base, kb, yb, lam, direct, touched, c, cb, t, h, times)
