"""The five densities of one record, as plain equations: what the residual and censoring models are.

Assays are compared on the natural-log scale with Student-t residuals of 4 degrees of freedom, whose
distribution function has a closed form that is stable in both tails: with s = z / sqrt(4 + z^2), F = (1 +
s)^2 (2 - s) / 4 and 1 + s = 4 / ((4 + z^2)(1 - s)) for s < 0. A value below the limit of quantification
contributes F (M3, Beal 2001), one above the upper limit 1 - F; nothing is ever replaced by half the limit. An
event time contributes log-hazard minus cumulative hazard, a censored one only the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from .derive.algebra import exp, log, maximum

LOG_T4 = -0.9808292530117262  # log of the density of Student's t with 4 degrees of freedom at 0: log(3/8)


class Family(IntEnum):
    """How a record enters the likelihood."""

    QUANTIFIED = 0
    BELOW = 1
    ABOVE = 2
    EVENT = 3
    NO_EVENT = 4


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


def event(location: Any, scale: Any, value: Any) -> Any:
    """An event: log-hazard minus cumulative hazard."""
    return location - scale


def no_event(location: Any, scale: Any, value: Any) -> Any:
    """Free of the event until now: minus the cumulative hazard."""
    return -scale


DENSITIES: dict[Family, Callable[[Any, Any, Any], Any]] = {
    Family.QUANTIFIED: quantified,
    Family.BELOW: below,
    Family.ABOVE: above,
    Family.EVENT: event,
    Family.NO_EVENT: no_event,
}
