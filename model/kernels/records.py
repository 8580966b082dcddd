"""What both solvers share: codes and limits, copies between lanes and plain arrays, and the record at an observation.

Copied into the solvers' file, like `driver`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .interface import (
    OBSERVE,
    OBSERVE_PULLBACK,
    READOUT,
    WATCH_CELLS,
    WATCH_CONFIRM,
    WATCH_END,
    WATCH_FIRST,
    WATCH_HIGH_NADIR,
    WATCH_LIMIT,
    WATCH_MEASURABLE,
    WATCH_PROTEIN,
    WATCH_RATIO,
    WATCH_RISE,
    WATCH_RISE_HIGH,
    WATCH_ROUNDING,
    call,
)
from .lanes import WIDTH
from .policy import kernel, leaf
from .stub import density

# ---- everything below this line is copied into the solvers' file ----

SOLVED, STEP_LIMIT, STEP_TOO_SMALL, NOT_FINITE, IMPLICIT = 0, 1, 2, 3, 4  # as in `model.simulate.Status`
OUTCOMES = 5
FIRST_STEP = 0.02
SMALLEST_STEP = 1e-10
SAME_TIME = 1e-9
DIRECT = -1.0  # an observation at an event or at the start, read off the state itself
ACCEPT = 1.0000001
ROUNDED = 1e-9  # relative difference of rates that are the same but for rounding


@kernel
def lane_room(slots: int) -> Any:
    """Place for ``slots`` lane vectors, each in one cache line: a vector across two takes twice as long to load."""
    room = np.empty((slots + 1) * WIDTH)
    first = -(room.ctypes.data // 8) % WIDTH
    return room[first : first + slots * WIDTH]


@kernel
def lane_array(slots: int, value: float) -> Any:
    """`lane_room`, filled."""
    array = lane_room(slots)
    array.fill(value)
    return array


@leaf
def get(flat: Any, slot: int, n: int, lane: int, out: Any) -> None:
    """Copy one lane of ``n`` slots into a plain array."""
    for i in range(n):
        out[i] = flat[(slot + i) * WIDTH + lane]


@leaf
def put(flat: Any, slot: int, n: int, lane: int, values: Any) -> None:
    """Copy a plain array into one lane of ``n`` slots."""
    for i in range(n):
        flat[(slot + i) * WIDTH + lane] = values[i]


@leaf
def record(
    model: Any,
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
        call(model[OBSERVE], ob_kind[p, j], t, y, held, theta[p], pair)
        loglik[p] += density(ob_family[p, j], ob_value[p, j], pair, pair_bar)
        call(model[OBSERVE_PULLBACK], ob_kind[p, j], t, y, held, theta[p], pair_bar, g_y[p, j], g_h[p, j], grad[p])
    else:
        call(model[READOUT], t, y, held, theta[p], out[p, j])


@leaf
def decided(out: Any, p: int, j: int, times: Any, watch: Any, visits: Any, last: Any, growth: Any, seen: Any) -> bool:
    """Whether read-outs after the ``j``-th of a patient cannot change what is judged (`model.stopping`).

    So it is at the patient's ``last`` time, or once a visit has found progression and even the fastest ``growth`` of
    the cells would leave them below the limit. ``seen`` (n, 3) keeps the nadir, whether the last visit met the rules
    of progression, and whether it has been found.
    """
    if j >= last[p]:
        return True
    if watch[WATCH_PROTEIN] < 0.0:
        return False
    value = out[p, j, int(watch[WATCH_PROTEIN])]
    if j == 0:
        seen[p, 0], seen[p, 1] = value, 0.0
        seen[p, 2] = 0.0 if value >= watch[WATCH_MEASURABLE] else -1.0
        return False
    if visits[j] != 0:
        rise = watch[WATCH_RISE_HIGH] if seen[p, 0] >= watch[WATCH_HIGH_NADIR] else watch[WATCH_RISE]
        slack = watch[WATCH_ROUNDING] * abs(value)
        met = value >= watch[WATCH_RATIO] * seen[p, 0] - slack and value - seen[p, 0] >= rise - slack
        if met and seen[p, 2] == 0.0 and (watch[WATCH_CONFIRM] == 0.0 or seen[p, 1] > 0.0):
            seen[p, 2] = 1.0
        seen[p, 0], seen[p, 1] = min(seen[p, 0], value), 1.0 if met else 0.0
    if seen[p, 2] <= 0.0 or times[j] < watch[WATCH_FIRST]:
        return False
    most = watch[WATCH_LIMIT] * np.exp(-growth[p] * max(watch[WATCH_END] - times[j], 0.0))
    return bool(out[p, j, int(watch[WATCH_CELLS])] < most)
