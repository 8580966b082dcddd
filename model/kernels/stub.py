"""What a generated file supplies to `driver`: here for one state that decays, so that the driver runs alone.

`derive.build` writes the same names for a model and puts the driver's text below them. Shapes: ``y`` (NS,),
``h`` (NH,), ``p`` (NT,), ``c`` (NC,) are plain arrays in scalar functions and flat lane arrays in lane
functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .lanes import WIDTH, load, store
from .policy import kernel

NS, NH, NT, NC, NR = 1, 1, 2, 1, 1
VALUE_SCALED = np.zeros(1)  # 1 for states on a linear scale: their tolerance grows with their value


@kernel
def start(y: Any, h: Any, p: Any) -> None:
    """Write state and held values at the start."""
    y[0] = np.log(p[1])
    h[0] = 1.0


@kernel
def start_pullback(p: Any, yb: Any, hb: Any, pb: Any) -> None:
    """Adjoint of `start`: accumulate into ``pb``."""
    pb[1] += yb[0] / p[1]


@kernel
def prepare(h: Any, p: Any, c: Any) -> None:
    """Write everything that stays constant between events."""
    c[0] = h[0] * p[0]


@kernel
def prepare_pullback(h: Any, p: Any, cb: Any, hb: Any, pb: Any) -> None:
    """Adjoint of `prepare`: accumulate into ``hb`` and ``pb``."""
    hb[0] += cb[0] * p[0]
    pb[0] += cb[0] * h[0]


@kernel
def rates(y: Any, oy: int, t: Any, c: Any, d: Any, od: int) -> None:
    """Time derivatives, in lanes."""
    store(d, od * WIDTH, -load(c, 0))


@kernel
def rates_pullback(y: Any, oy: int, t: Any, c: Any, db: Any, odb: int, yb: Any, oyb: int, cb: Any) -> None:
    """Adjoint of `rates`, in lanes: write ``yb``, accumulate into ``cb``."""
    store(yb, oyb * WIDTH, load(db, odb * WIDTH) * 0.0)
    store(cb, 0, load(cb, 0) - load(db, odb * WIDTH))


@kernel
def jump(code: int, y: Any, h: Any, p: Any) -> None:
    """Apply an event in place."""
    if code == 1:
        h[0] = 2.0 * h[0]


@kernel
def jump_pullback(code: int, y: Any, h: Any, p: Any, yb: Any, hb: Any, pb: Any) -> None:
    """Adjoint of `jump` at the state before it: ``yb``, ``hb`` in place, accumulate into ``pb``."""
    if code == 1:
        hb[0] = 2.0 * hb[0]


@kernel
def readout(t: float, y: Any, h: Any, p: Any, out: Any) -> None:
    """Write what a simulation reports."""
    out[0] = np.exp(y[0])


@kernel
def observe(kind: int, t: float, y: Any, h: Any, p: Any, out: Any) -> None:
    """Write the two numbers that a density needs: location and scale, or log-hazard and cumulative hazard."""
    out[0] = y[0]
    out[1] = 0.5


@kernel
def observe_pullback(kind: int, t: float, y: Any, h: Any, p: Any, ob: Any, yb: Any, hb: Any, pb: Any) -> None:
    """Adjoint of `observe`: write ``yb`` and ``hb``, accumulate into ``pb``."""
    yb[0] = ob[0]
    hb[0] = 0.0


@kernel
def density(family: int, value: float, out: Any, ob: Any) -> float:
    """Log density of one record, and its derivatives by the two numbers of `observe` in ``ob``."""
    z = (value - out[0]) / out[1]
    ob[0] = z / out[1]
    ob[1] = (z * z - 1.0) / out[1]
    return float(-0.5 * z * z - np.log(out[1]))
