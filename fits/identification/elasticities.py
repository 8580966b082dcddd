"""Exact elasticities: by how much a read-out of a course changes when a parameter does, from the adjoint at any draw.

A peak or nadir moves in height only through the curve at its day (its day does not matter to first order); the day
itself, and the median of the time to progression, follow from the implicit function theorem. Parameters are never
differenced (a curve is, in time, for its second derivative at a peak).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import REAL_COHORT

from ..retreatment.arms import slot_parameters
from ..retreatment.virtual_patients import VirtualPatients
from .readouts import Posed, pose

type Floats = NDArray[np.float64]

#: Outcomes of a first course: name -> what it is. All are on a logarithmic scale, days too.
OUTCOMES: Final[Mapping[str, str]] = {
    "Cmax": "peak of CAR+ cells/µL",
    "Tmax": "day of that peak",
    "AUC0-28": "area under CAR+ cells to day 28, cells·d/µL",
    "transgene": "transgene on day 100, copies/µg DNA",
    "nadir": "fewest myeloma cells within a year",
    "sbcma": "soluble BCMA on day 30, ng/mL",
    "mprotein": "M-protein on day 100 plus the assay's offset of 0.05 g/dL",
    "PFS": "expected days free of progression within a year",
    "median PFS": "day by which progression is as likely as not",
}
DAY: Final[Mapping[str, float]] = {"transgene": 100.0, "sbcma": 30.0, "mprotein": 100.0, "AUC0-28": 28.0, "PFS": 365.0}
#: Days within which a peak of cells, a nadir of burden, and a median are looked for.
PEAK_UNTIL, NADIR_UNTIL, MEDIAN_UNTIL = 60.0, 365.0, 3650.0
HALF: Final = float(np.log(2.0))
HALVINGS: Final = 40
#: Step in days over which the second derivative of a curve by time is taken, for the day of its peak.
CURVATURE_STEP: Final = 0.05


@dataclass(frozen=True, eq=False)
class Elasticities:
    """An outcome of n patients and how it answers to their parameters.

    Attributes
    ----------
    outcome
        Of `OUTCOMES`.
    value
        (n,) natural scale; NaN where there is none (no median within `MEDIAN_UNTIL`, or the solver failed).
    slope
        (n, columns) of its logarithm by the parameters on their transformed scales: for one on a logarithmic scale,
        the elasticity.
    parameters
        Names of the columns.
    """

    outcome: str
    value: Floats
    slope: Floats
    parameters: tuple[str, ...]

    def of(self, name: str) -> Floats:
        """Slopes (n,) by one parameter."""
        return np.asarray(self.slope[:, self.parameters.index(name)])


def elasticities(posed: Posed, outcome: str, *, day: float | None = None) -> Elasticities:
    """Exact elasticities of an outcome of patients' first courses.

    Parameters
    ----------
    posed
        The patients.
    outcome
        A name of `OUTCOMES`.
    day
        Another day than `DAY` says, where the outcome has one.

    Raises
    ------
    ReinfuseError
        If the outcome is unknown, or has no day and one is given.
    """
    if outcome not in OUTCOMES:
        raise ReinfuseError(f"unknown outcome {outcome!r}; use one of {', '.join(OUTCOMES)}")
    if day is not None and outcome not in DAY:
        raise ReinfuseError(f"{outcome!r} is not read on a day of one's choice; leave the day out")
    if outcome in DAY:
        log_value, slope = posed.read({"AUC0-28": "area", "PFS": "free"}.get(outcome, outcome), day or DAY[outcome])
    else:
        log_value, slope = _EXTREMES[outcome](posed)
    return Elasticities(outcome, np.exp(log_value), slope * _back(posed), posed.parameters)


def transform_of(name: str) -> str:
    """Scale of a parameter, also of those that carry an infusion's number."""
    stem = name.rpartition("_")[0] if name.rpartition("_")[2].isdigit() else name
    if name in REAL_COHORT:
        return str(REAL_COHORT[name].transform)
    return "identity" if stem in ("occ", "aT", "bT", "day") else "log"


def _back(posed: Posed) -> Floats:
    """Derivative of natural values by transformed ones, (n, columns)."""
    kinds = np.array([transform_of(name) for name in posed.parameters])
    theta = posed.theta
    return np.where(kinds == "log", theta, np.where(kinds == "logit", theta * (1.0 - theta), 1.0))


def _peak_day(posed: Posed) -> Floats:
    """Day (n,) of the highest CAR+ cells, to rounding: where their rate is 0."""
    days = np.arange(0.5, PEAK_UNTIL + 0.25, 0.5)
    curve = posed.curve("cart", days)
    return _turning(posed, "rate of cart", days, np.nan_to_num(curve, nan=-np.inf).argmax(axis=1), 1.0)


def _turning(posed: Posed, rate: str, days: Floats, at: NDArray[np.int64], sign: float) -> Floats:
    """Day (n,) near grid points at which a rate passes 0 (falling for sign 1): by halving; a border stays a border."""
    low, high = days[np.maximum(at - 1, 0)], days[np.minimum(at + 1, days.size - 1)]
    first = sign * posed.read(rate, low, slope=False)[0]
    last = sign * posed.read(rate, high, slope=False)[0]
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        rising = sign * posed.read(rate, middle, slope=False)[0] > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    found = 0.5 * (low + high)
    return np.where((first > 0) & (last < 0), found, days[at])


def _cmax(posed: Posed) -> tuple[Floats, Floats]:
    return posed.read("cart", _peak_day(posed))


def _tmax(posed: Posed) -> tuple[Floats, Floats]:
    """Where the rate is 0: dt = -(d rate / d theta) / (d rate / dt)."""
    day = _peak_day(posed)
    _, slope = posed.read("rate of cart", day)
    after, _ = posed.read("rate of cart", day + CURVATURE_STEP, slope=False)
    before, _ = posed.read("rate of cart", np.maximum(day - CURVATURE_STEP, 0.0), slope=False)
    curvature = (after - before) / (2.0 * CURVATURE_STEP)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(day), -slope / curvature[:, None] / day[:, None]


def _nadir(posed: Posed) -> tuple[Floats, Floats]:
    days = np.arange(0.0, NADIR_UNTIL + 0.5, 1.0)
    curve = posed.curve("burden", days)
    at = np.nan_to_num(curve, nan=np.inf).argmin(axis=1)
    return posed.read("burden", _turning(posed, "rate of burden", days, at, -1.0))


def _median(posed: Posed) -> tuple[Floats, Floats]:
    """Where the cumulative hazard is ln 2: dt = -(dH / d theta) / h."""
    days = np.concatenate([np.arange(10.0, 400.0, 2.0), np.arange(400.0, MEDIAN_UNTIL + 1.0, 10.0)])
    passed = posed.curve("H", days) >= HALF
    reached = passed.any(axis=1)
    at = passed.argmax(axis=1)
    low, high = days[np.maximum(at - 1, 0)], days[at]
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        over = posed.read("cumulative hazard", middle, slope=False)[0] >= HALF
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    day = np.where(reached, 0.5 * (low + high), np.nan)
    _, slope = posed.read("cumulative hazard", day)
    log_hazard, _ = posed.read("hazard", day, slope=False)
    return np.log(day), -slope / np.exp(log_hazard)[:, None] / day[:, None]


_EXTREMES: Final[Mapping[str, Callable[[Posed], tuple[Floats, Floats]]]] = {
    "Cmax": _cmax,
    "Tmax": _tmax,
    "nadir": _nadir,
    "median PFS": _median,
}


def of_patients(patients: VirtualPatients, infusion: Infusion, *, variant: str) -> Posed:
    """Virtual patients (of a run's posterior, or of the prior) under one infusion, ready to be read."""
    from ..retreatment.arms import product_of

    made = pose(course=[infusion], parameters={}, variant=variant)
    known = {*REAL_COHORT, *(name for name in made.parameters if name.endswith("_1"))}
    values = {**patients.parameters, **slot_parameters(patients, [product_of(infusion)])}
    used = {name: value for name, value in values.items() if name in known}
    return pose(course=[infusion], parameters=used, variant=variant, n=patients.n)


def tornado(
    found: Sequence[Elasticities], sds: Mapping[str, float], *, level: float = 0.89, most: int = 12
) -> pd.DataFrame:
    """Elasticities over draws, and what one sd of each parameter does to each outcome.

    Parameters
    ----------
    found
        Of several outcomes, at the same draws.
    sds
        Sd of each parameter on its transformed scale; parameters without one are left out.
    level
        Of the intervals over draws.
    most
        Parameters listed for each outcome, those with the largest effect.

    Returns
    -------
    DataFrame
        ``outcome``, ``parameter``, ``transform``, ``elasticity`` (median; for a parameter that is not on a logarithmic
        scale, per unit of its transformed scale), ``low``, ``high``, ``sd``, ``effect`` (median change of the ln
        outcome for one sd), ``effect_low``, ``effect_high``, ``n`` (draws), ``missing`` (draws without the outcome).
    """
    rows = []
    tails = [(1.0 - level) / 2.0, 0.5, (1.0 + level) / 2.0]
    for one in found:
        good = np.isfinite(one.value) & np.isfinite(one.slope).all(axis=1)
        lines = []
        for name, sd in sds.items():
            if name not in one.parameters or not good.any():
                continue
            low, middle, high = np.quantile(one.of(name)[good], tails)
            line = (one.outcome, name, transform_of(name), middle, low, high, sd, middle * sd, low * sd, high * sd)
            lines.append((*line, int(good.sum()), int((~good).sum())))
        lines.sort(key=lambda line: -abs(line[7]))
        rows += lines[:most]
    columns = ["outcome", "parameter", "transform", "elasticity", "low", "high", "sd", "effect", "effect_low"]
    return pd.DataFrame(rows, columns=[*columns, "effect_high", "n", "missing"])
