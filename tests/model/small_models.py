"""A model of two states with a closed-form solution, small enough to read.

``N`` grows logistically (integrated as a logarithm), ``W`` follows a fading stimulus (integrated as it is);
the event ``cut`` leaves a share of ``N`` and changes the rate at which it grows.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np

from reinfuse.model.derive.algebra import exp, log
from reinfuse.model.derive.build import Kernel, build
from reinfuse.model.equations.definition import OdeModel, State

VALUES = {"r": 0.7, "K": 40.0, "n0": 0.5, "a": 2.0, "c": 0.9, "share": 0.1, "faster": 1.5}


def growth(name: str = "small", *, extra: float = 0.0) -> OdeModel:
    """The model; `extra` is a further loss of ``N``, which makes another model of the same shape."""

    def start(p):
        return {"N": p.n0, "W": 0.0}, {"speed": 1.0}

    def rates(t, y, h, p):
        return {"N": p.r * h.speed * (1.0 - y.N / p.K) - extra, "W": p.a * exp(-t) - p.c * y.W}

    def cut(y, h, p):
        return {"N": y.N * p.share}, {"speed": h.speed * p.faster}

    def readouts(t, y, h, p):
        return {"N": y.N, "W": y.W, "speed": h.speed, "t": t}

    def observations(t, y, h, p):
        return {"count": (log(y.N), p.sigma), "wave": (y.W, p.sigma)}

    states = (State("N", "cells"), State("W", "-", log=False))
    return OdeModel(name, states, ("speed",), start, rates, readouts, {"cut": cut}, observations)


@cache
def compiled(method: str = "tsit5") -> Kernel:
    """Its simulator, one of each method for all tests."""
    return build(growth(), method=method)


def simulate(times, *, cuts=(), tol=1e-8, max_steps=20_000, n=1, method="tsit5", **values):
    """Read-outs by name, (n, T) each, and status (n,); `values` override `VALUES`, one or n each."""
    kernel = compiled(method)
    theta = np.empty((n, len(kernel.parameters)))
    for i, name in enumerate(kernel.parameters):
        theta[:, i] = (VALUES | values)[name]
    ev_time = np.tile(np.asarray(cuts, dtype=float).reshape(1, -1), (n, 1)) if len(cuts) else np.zeros((n, 1))
    ev_code, n_ev = np.zeros(ev_time.shape, dtype=np.int64), np.full(n, len(cuts))
    out, status = np.full((n, len(times), len(kernel.readouts)), np.nan), np.zeros(n, dtype=np.int64)
    kernel.simulate(theta, ev_time, ev_code, n_ev, np.array(times, dtype=float), tol, max_steps, out, status)
    return SimpleNamespace(**{k: out[:, :, i] for i, k in enumerate(kernel.readouts)}, status=status)


def exact(t, *, cuts=(), **values) -> SimpleNamespace:
    """``N`` and ``W`` at times `t`; the row at a cut is after it."""
    p = SimpleNamespace(**(VALUES | values))
    t = np.asarray(t, dtype=float)

    def logistic(n0, rate, since):
        return p.K / (1.0 + (p.K / n0 - 1.0) * np.exp(-rate * since))

    n, rate, begin, found = p.n0, p.r, 0.0, np.full(t.shape, np.nan)
    for end in (*cuts, np.inf):
        inside = (t >= begin) & (t < end)
        found[inside] = logistic(n, rate, t[inside] - begin)
        if np.isfinite(end):
            n, rate, begin = p.share * logistic(n, rate, end - begin), rate * p.faster, end
    return SimpleNamespace(N=found, W=p.a * (np.exp(-t) - np.exp(-p.c * t)) / (p.c - 1.0))
