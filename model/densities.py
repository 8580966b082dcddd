"""The six densities of one record, as plain equations: what the residual and censoring models are.

Assays are compared on the natural-log scale with Student-t residuals of 4 degrees of freedom, whose
distribution function has a closed form that is stable in both tails: with s = z / sqrt(4 + z^2), F = (1 +
s)^2 (2 - s) / 4 and 1 + s = 4 / ((4 + z^2)(1 - s)) for s < 0. A value below the limit of quantification
contributes F (M3, Beal 2001), one above the upper limit 1 - F, one between two limits the difference of
their F; nothing is ever replaced by half the limit. An event time contributes log-hazard minus cumulative
hazard, a censored one only the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .derive.algebra import exp, log, maximum

LOG_T4 = -0.9808292530117262  # log of the density of Student's t with 4 degrees of freedom at 0: log(3/8)


class Family(IntEnum):
    """How a record enters the likelihood."""

    QUANTIFIED = 0
    BELOW = 1
    ABOVE = 2
    EVENT = 3
    NO_EVENT = 4
    INTERVAL = 5


#: Width, in the units of the value, that one step of an interval's code stands for.
RESOLUTION: Final = 2.0**-40
WIDEST: Final = 2.0**20


def interval_code(width: ArrayLike) -> NDArray[np.int64]:
    """What a record of an interval carries as its family: `Family.INTERVAL` plus its width in steps of `RESOLUTION`.

    A kernel's record has one value, the upper end of the interval; its width travels in the code.

    Parameters
    ----------
    width
        On the scale of the value, above 0 and at most `WIDEST`.

    Raises
    ------
    ValueError
        If a width is none.
    """
    numbers = np.asarray(width, dtype=np.float64)
    steps = np.rint(numbers / RESOLUTION)
    if not np.all((numbers <= WIDEST) & (steps >= 1)):
        raise ValueError(f"widths of intervals lie above 0 and up to {WIDEST:g}, not at {numbers}")
    return np.asarray(int(Family.INTERVAL) + steps.astype(np.int64))


def interval_width(code: ArrayLike) -> NDArray[np.float64]:
    """Width that a code of `interval_code` stands for."""
    return np.asarray((np.asarray(code, dtype=np.int64) - int(Family.INTERVAL)) * RESOLUTION)


def quantified(location: Any, scale: Any, value: Any) -> Any:
    """Log density of a quantified value; ``value`` and ``location`` on the log scale."""
    z = (value - location) / scale
    return LOG_T4 - log(scale) - 2.5 * log(1.0 + 0.25 * z * z)


def below(location: Any, scale: Any, value: Any) -> Any:
    """Log probability of lying below ``value`` (M3)."""
    z = (value - location) / scale
    right = maximum(z, 0.0)
    left = right - z  # one of them is 0; written so that the derivative at z = 0 is that of the left branch
    down, up = left / exp(0.5 * log(4.0 + left * left)), right / exp(0.5 * log(4.0 + right * right))
    lower = 4.0 / ((4.0 + left * left) * (1.0 + down))  # 1 + s where s < 0, else 1
    return 2.0 * log(lower + up) + log(2.0 + down - up) - log(4.0)


def above(location: Any, scale: Any, value: Any) -> Any:
    """Log probability of lying above ``value``."""
    return below(-location, scale, -value)


def interval(location: Any, scale: Any, value: Any, width: Any) -> Any:
    """Log probability of lying between ``value - width`` and ``value``.

    With u = z / 2 at the two ends, R^2 = 1 + u^2 and s = u / R the difference of F = (2 + 3 s - s^3) / 4 is (s1 - s0)
    (1/R1^2 + 1/R0^2 + 1 - s1 s0) / 4, and s1 - s0 = (u1 - u0) / (R1 R0) times the root of (1 + R1 R0 - u1 u0) / (1 +
    R1 R0 + u1 u0): written so that nothing cancels, in both tails and for narrow intervals too.
    """
    half = 0.5 / scale
    high, low = (value - location) * half, (value - width - location) * half
    both = high * low
    same = maximum(both, 0.0)
    other = same - both  # one of them is 0
    square_high, square_low = 1.0 + high * high, 1.0 + low * low
    log_product = 0.5 * (log(square_high) + log(square_low))
    product = exp(log_product)
    sides = 1.0 + high * high + low * low
    less = other + (sides + other * other) / (product + same)  # R1 R0 - u1 u0
    more = same + (sides + same * same) / (product + other)  # R1 R0 + u1 u0
    rest = 1.0 / square_high + 1.0 / square_low + less / product
    return log(width * half) - log_product + 0.5 * (log(1.0 + less) - log(1.0 + more)) + log(rest) - log(4.0)


def event(location: Any, scale: Any, value: Any) -> Any:
    """An event: log-hazard minus cumulative hazard."""
    return location - scale


def no_event(location: Any, scale: Any, value: Any) -> Any:
    """Free of the event until now: minus the cumulative hazard."""
    return -scale


#: Densities of (location, scale, value); that of an interval takes the width, too.
DENSITIES: dict[Family, Callable[[Any, Any, Any], Any]] = {
    Family.QUANTIFIED: quantified,
    Family.BELOW: below,
    Family.ABOVE: above,
    Family.EVENT: event,
    Family.NO_EVENT: no_event,
}
