"""Models of two states with closed-form solutions, small enough to compile in a few seconds.

``N`` grows logistically (integrated as a logarithm), ``W`` follows a wave (integrated as it is); the event
``cut`` leaves a share of ``N`` and changes the rate at which it grows.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from reinfuse.model.derive.algebra import exp, log
from reinfuse.model.equations.definition import OdeModel, State

VALUES = {"r": 0.7, "K": 40.0, "n0": 0.5, "a": 2.0, "c": 0.9, "share": 0.1, "faster": 1.5, "sigma": 0.3}


def growth(name: str = "small", *, extra: float = 0.0, wave: Callable = None) -> OdeModel:
    """The model; `extra` is a further loss of ``N``, so that there can be another model of the same shape."""

    def start(p):
        return {"N": p.n0, "W": 0.0}, {"speed": 1.0}

    def rates(t, y, h, p):
        forcing = (wave or (lambda t: exp(-t)))(t)
        return {"N": p.r * h.speed * (1.0 - y.N / p.K) - extra, "W": p.a * forcing - p.c * y.W}

    def cut(y, h, p):
        return {"N": y.N * p.share}, {"speed": h.speed * p.faster}

    def readouts(t, y, h, p):
        return {"N": y.N, "W": y.W, "speed": h.speed, "t": t}

    def observations(t, y, h, p):
        return {"count": (log(y.N), p.sigma), "wave": (y.W, p.sigma), "event": (log(p.r * y.N), p.r * t)}

    states = (State("N", "cells"), State("W", "-", log=False))
    return OdeModel(name, states, ("speed",), start, rates, readouts, {"cut": cut}, observations)


def exact(t, *, cut_at: float = np.inf) -> SimpleNamespace:
    """``N`` and ``W`` at times `t` with `VALUES` and the default wave; the row at the cut is after it."""
    p = SimpleNamespace(**VALUES)
    t = np.asarray(t, dtype=float)

    def logistic(n0, rate, since):
        return p.K / (1.0 + (p.K / n0 - 1.0) * np.exp(-rate * since))

    before = logistic(p.n0, p.r, np.minimum(t, cut_at))
    n = before
    if np.isfinite(cut_at):
        n = np.where(t < cut_at, before, logistic(before * p.share, p.r * p.faster, np.maximum(t - cut_at, 0.0)))
    return SimpleNamespace(N=n, W=p.a * (np.exp(-t) - np.exp(-p.c * t)) / (p.c - 1.0))
