"""The adaptive solver in lanes, its dense output, and exact events.

Copied into the solvers' file, like `driver`. Eight patients advance together, each with its own time, step, events and
observations; a lane whose patient is done takes the next. ``stages`` is the tape: for attempt ``it`` it holds the state
at each of the method's stages, from which the reverse sweep (`backward`) recomputes what it needs. A rejected attempt
is a step of length 0. Coefficients ``c`` are constant between events; an event saves the state before it, so that the
reverse sweep can undo it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .interface import JUMP, NC, NH, NR, NS, PREPARE, RATES, START, call
from .lanes import (
    WIDTH,
    lane_exp,
    lane_log,
    lane_max,
    lane_min,
    lane_where_less,
    lanes_less,
    load,
    lowest_bit,
    splat,
    store,
)
from .policy import kernel, leaf
from .records import (
    ACCEPT,
    DIRECT,
    FIRST_STEP,
    NOT_FINITE,
    ROUNDED,
    SAME_TIME,
    SMALLEST_STEP,
    SOLVED,
    STEP_LIMIT,
    STEP_TOO_SMALL,
    decided,
    get,
    lane_array,
    put,
    record,
)
from .stub import ERROR_ORDER, SLOTS, STAGES, attempt, complete, weigh

# ---- everything below this line is copied into the solvers' file ----


@leaf
def dense(model: Any, stages: Any, base: int, k: Any, lane: int, h: float, x: float, weights: Any, y: Any) -> None:
    """The state of one lane at fraction ``x`` of the step."""
    ns = model[NS]
    weigh(x, weights)
    for i in range(ns):
        change = 0.0
        for s in range(SLOTS):
            change += weights[s] * k[(s * ns + i) * WIDTH + lane]
        y[i] = stages[(base + i) * WIDTH + lane] + h * change


@leaf
def look_ahead(ob_time: Any, j: int, n: int, land: bool, lane: int, visit: Any, later: Any) -> None:
    """When one patient's coming observation is, and when the first at another time after it; infinite if never.

    Where no step is to ``land`` on any, there is always another before a step's end.
    """
    visit[lane] = ob_time[j] if j < n else np.inf
    if not land:
        later[lane] = -np.inf
        return
    while j < n and ob_time[j] <= visit[lane] + SAME_TIME:
        j += 1
    later[lane] = ob_time[j] if j < n else np.inf


@leaf
def vacate(lane: int, patient: Any, h: Any, wish: Any, stop: Any, visit: Any) -> None:
    """Leave a lane without a patient: it takes steps of length 0 and never comes to anything."""
    patient[lane] = -1
    h[lane] = 0.0
    wish[lane] = 0.0
    stop[lane] = np.inf
    visit[lane] = np.inf


@kernel
def forward(
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
    land: bool,
    since_begin: Any,
    watch: Any,
    visits: Any,
    latest: Any,
    growth: Any,
    found: Any,
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
    out: Any,
    loglik: Any,
    grad: Any,
    status: Any,
) -> int:
    """Solve the patients in ``order``, with a tape for a likelihood, without (``hs`` is empty) for read-outs.

    A lane whose patient is done takes the next one. For the reverse sweep, ``route`` holds the attempt after which each
    patient began and who had its lane before (-1: nobody), ``end_h`` what was held at its end, and ``last`` the last
    patient of each lane. With ``land``, steps end on observations where they would pass only one. Where there is a
    ``watch``, a patient whose read-outs are `decided` gets no more of them, and ``n_ob`` says how many there are.
    Returns the number of attempts.
    """
    taped = hs.size > 0
    watched = watch.size > 0
    ns, nh, nc, nr = model[NS], model[NH], model[NC], model[NR]
    k = lane_array(SLOTS * ns, 0.0)
    t = lane_array(1, 0.0)
    begun = lane_array(1, 0.0)
    times = lane_array(1, 0.0)
    h = lane_array(1, 0.0)
    wish = lane_array(1, 0.0)  # the step that the control wants, however near the next event or visit is
    stop = lane_array(1, np.inf)  # the next event, or the last observation
    visit = lane_array(1, np.inf)  # the next observation
    later = lane_array(1, np.inf)  # the next observation at another time
    steps = lane_array(1, 0.0)
    log_old = lane_array(1, 0.0)
    patient = np.full(WIDTH, -1)
    next_ob = np.zeros(WIDTH, np.int64)
    next_ev = np.zeros(WIDTH, np.int64)
    after = np.zeros(WIDTH, np.int64)  # 1: at the start, 2: after an event
    before = lane_array(ns, 0.0)
    y = np.empty(ns)
    cc = np.empty(nc)
    weights = np.empty(SLOTS)
    pair = np.empty(2)
    pair_bar = np.empty(2)
    waiting = 0
    it = -1
    base = 0  # slot of stage 0 of the coming attempt
    active = 0  # bits of the lanes that have a patient
    due = (1 << WIDTH) - 1  # bits of the lanes that have come to their stop, or wait for a patient
    while True:
        # ---- boundaries: load waiting patients, apply events, read observations that fall on them, finish
        renewed = False
        while due != 0:
            lane = lowest_bit(due)
            due &= due - 1
            p = patient[lane]
            if p < 0 and waiting < order.size:
                p = order[waiting]
                if taped:
                    route[p, 0], route[p, 1], last[lane] = it, last[lane], p
                waiting += 1
                patient[lane] = p
                active |= 1 << lane
                after[lane] = 1
                call(model[START], y, held[lane], theta[p])
                put(stages, base, ns, lane, y)
                call(model[PREPARE], held[lane], theta[p], cc)
                put(c, 0, nc, lane, cc)
                t[lane] = 0.0
                next_ob[lane] = 0
                next_ev[lane] = 0
                steps[lane] = 0.0
                status[p] = SOLVED
            elif p < 0:
                if it < 0:  # an idle lane copies the first, so that its numbers are harmless
                    for i in range(ns):
                        stages[(base + i) * WIDTH + lane] = stages[(base + i) * WIDTH]
                    for i in range(nc):
                        c[i * WIDTH + lane] = c[i * WIDTH]
                continue
            happened = False
            while next_ev[lane] < n_ev[p] and ev_time[p, next_ev[lane]] <= t[lane] + SAME_TIME:
                e = next_ev[lane]
                get(stages, base, ns, lane, y)
                for i in range(ns):
                    ev_y[p, e, i] = y[i]
                for i in range(nh):
                    ev_h[p, e, i] = held[lane, i]
                ev_step[p, e] = it
                call(model[JUMP], ev_code[p, e], y, held[lane], theta[p])
                put(stages, base, ns, lane, y)
                next_ev[lane] += 1
                happened = True
            if happened:
                after[lane] = max(after[lane], 2 if t[lane] > 0.0 else 1)
                call(model[PREPARE], held[lane], theta[p], cc)
                put(c, 0, nc, lane, cc)
            get(stages, base, ns, lane, y)
            while next_ob[lane] < n_ob[p] and ob_time[p, next_ob[lane]] <= t[lane] + SAME_TIME:
                j = next_ob[lane]
                ob_step[p, j] = it
                ob_x[p, j] = DIRECT
                record(
                    model, p, j, t[lane], y, held[lane], theta, ob_kind, ob_family, ob_value, taped, out,
                    g_y, g_h, loglik, grad, pair, pair_bar,
                )  # fmt: skip
                next_ob[lane] += 1
                if watched and decided(out, p, j, since_begin, watch, visits, latest, growth, found):
                    n_ob[p] = j + 1
            finite = True
            for i in range(ns):
                finite = finite and np.isfinite(y[i])
            if not finite:
                status[p] = NOT_FINITE
            if next_ob[lane] >= n_ob[p] or not finite:
                active &= ~(1 << lane)
                vacate(lane, patient, h, wish, stop, visit)
                if not finite:
                    for i in range(ns):
                        stages[(base + i) * WIDTH + lane] = 0.0
                if taped:
                    for i in range(nh):
                        end_h[p, i] = held[lane, i]
                if waiting < order.size:
                    due |= 1 << lane
                continue
            renewed = True
            stop[lane] = ob_time[p, n_ob[p] - 1]
            if next_ev[lane] < n_ev[p]:
                stop[lane] = min(stop[lane], ev_time[p, next_ev[lane]])
            look_ahead(ob_time[p], next_ob[lane], n_ob[p], land, lane, visit, later)
        if active == 0:
            break
        if renewed:
            for i in range(ns):
                store(before, i * WIDTH, load(k, i * WIDTH))
            call(model[RATES], stages, base, t, c, k, 0)
            for lane in range(WIDTH):
                if after[lane] == 0:  # whoever goes on has rates: the new ones differ by the rounding of a time
                    for i in range(ns):
                        k[i * WIDTH + lane] = before[i * WIDTH + lane]
                    continue
                same = after[lane] == 2  # an event that leaves every rate as it was needs no new start
                for i in range(ns):
                    old = before[i * WIDTH + lane]
                    same = same and abs(k[i * WIDTH + lane] - old) <= ROUNDED * abs(old)
                if not same:
                    wish[lane] = FIRST_STEP
                    log_old[lane] = 0.0
                end = visit[lane] if t[lane] + wish[lane] < later[lane] else stop[lane]
                h[lane] = min(wish[lane], min(stop[lane], end) - t[lane])
                after[lane] = 0

        # ---- one attempt in all lanes
        it += 1
        length = load(h, 0)
        store(begun, 0, load(t, 0))
        square = attempt(model, stages, base, k, c, begun, h, tol, times)
        limit = splat(ACCEPT)
        accepted = lanes_less(square, limit)
        if taped:  # nothing of a rejected attempt may reach the reverse sweep
            store(hs, it * WIDTH, lane_where_less(square, limit, length, splat(0.0)))
            store(ts, it * WIDTH, load(t, 0))
        log_new = lane_log(lane_max(square, splat(1e-24)))
        factor = lane_exp(log_new * (-0.35 / ERROR_ORDER) + load(log_old, 0) * (0.2 / ERROR_ORDER)) * 0.9
        factor = lane_max(lane_min(factor, splat(8.0)), splat(0.2))
        shrink = lane_where_less(square, splat(1e300), lane_min(factor, splat(0.8)), splat(0.2))
        wanted = length * lane_where_less(square, limit, factor, shrink)
        # an accepted step that was cut short says nothing against the wish that it was cut from
        uncut = lane_where_less(length, load(wish, 0) * 0.99, load(wish, 0), splat(0.0))
        uncut = lane_where_less(square, limit, uncut, splat(0.0))
        log_new = lane_where_less(square, limit, log_new, load(log_old, 0))
        store(log_old, 0, lane_where_less(wanted, uncut, load(log_old, 0), log_new))
        wanted = lane_max(wanted, uncut)
        store(wish, 0, wanted)

        # ---- time moves on, exactly to where a step was aimed
        arrived = load(t, 0) + lane_where_less(square, limit, length, splat(0.0))
        arrived = lane_where_less(load(stop, 0), arrived + SAME_TIME, load(stop, 0), arrived)
        near = lane_where_less(load(visit, 0), arrived + SAME_TIME, load(visit, 0), arrived)
        arrived = lane_where_less(arrived, near + SAME_TIME, near, arrived)
        store(t, 0, arrived)
        store(steps, 0, load(steps, 0) + 1.0)

        # ---- observations inside accepted steps
        seen = active & accepted & ~lanes_less(arrived, load(visit, 0))
        completed = False
        while seen != 0:
            lane = lowest_bit(seen)
            seen &= seen - 1
            p = patient[lane]
            t_new = t[lane]
            event_next = next_ev[lane] < n_ev[p] and ev_time[p, next_ev[lane]] <= t_new + SAME_TIME
            at = DIRECT
            while next_ob[lane] < n_ob[p] and ob_time[p, next_ob[lane]] <= t_new:
                j = next_ob[lane]
                at_end = ob_time[p, j] > t_new - SAME_TIME
                if at_end and event_next:
                    break
                x = 1.0 if at_end else (ob_time[p, j] - begun[lane]) / h[lane]
                if x != at:  # several assays of one sample share its state
                    if at_end:
                        get(stages, base + (STAGES - 1) * ns, ns, lane, y)
                    else:
                        if not completed:
                            complete(model, stages, base, k, c, begun, h, times)
                            completed = True
                        dense(model, stages, base, k, lane, h[lane], x, weights, y)
                    at = x
                ob_step[p, j] = it
                ob_x[p, j] = DIRECT if at_end else x
                record(
                    model, p, j, ob_time[p, j], y, held[lane], theta, ob_kind, ob_family, ob_value, taped, out,
                    g_y, g_h, loglik, grad, pair, pair_bar,
                )  # fmt: skip
                next_ob[lane] += 1
                if watched and decided(out, p, j, since_begin, watch, visits, latest, growth, found):
                    n_ob[p] = j + 1
            look_ahead(ob_time[p], next_ob[lane], n_ob[p], land, lane, visit, later)
            if next_ob[lane] >= n_ob[p]:
                stop[lane] = t_new

        # ---- accepted lanes move on
        final = base + (STAGES - 1) * ns
        following = base + SLOTS * ns if taped else 0
        for i in range(ns):
            new, old = load(stages, (final + i) * WIDTH), load(stages, (base + i) * WIDTH)
            store(stages, (following + i) * WIDTH, lane_where_less(square, limit, new, old))
            new, old = load(k, ((STAGES - 1) * ns + i) * WIDTH), load(k, i * WIDTH)
            store(k, i * WIDTH, lane_where_less(square, limit, new, old))
        rejected = active & ~accepted
        while taped and rejected != 0:
            lane = lowest_bit(rejected)
            rejected &= rejected - 1
            for s in range(1, SLOTS):
                for i in range(ns):
                    stages[(base + s * ns + i) * WIDTH + lane] = stages[(base + i) * WIDTH + lane]
        base = following

        # ---- the coming step ends on a visit, unless it would pass another one too; the last two before one are even
        aim = lane_where_less(load(t, 0) + wanted, load(later, 0), load(visit, 0), load(stop, 0))
        left = lane_min(aim, load(stop, 0)) - load(t, 0)
        step = lane_where_less(wanted, left, lane_where_less(wanted * 2.0, left, wanted, left * 0.5), left)
        store(h, 0, lane_max(step, splat(0.0)))
        under_way = active & lanes_less(load(t, 0), load(stop, 0))
        stuck = under_way & ~lanes_less(splat(SMALLEST_STEP), load(h, 0))
        tired = under_way & ~lanes_less(load(steps, 0), splat(float(max_steps)))
        failed = stuck | tired
        due = active & ~under_way
        while failed != 0:
            lane = lowest_bit(failed)
            failed &= failed - 1
            p = patient[lane]
            status[p] = STEP_TOO_SMALL if stuck >> lane & 1 else STEP_LIMIT
            active &= ~(1 << lane)
            due |= 1 << lane
            t[lane] = 0.0
            vacate(lane, patient, h, wish, stop, visit)
            for i in range(ns):
                stages[(base + i) * WIDTH + lane] = 0.0
            if not taped:
                for j in range(next_ob[lane], n_ob[p]):
                    for i in range(nr):
                        out[p, j, i] = np.nan
    return it + 1
