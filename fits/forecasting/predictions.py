"""What a patient's posterior says of the days to come: measurements, and progression by month.

A measurement is forecast *given that it is taken without progression before*: draws count by their chance to be free
of it on its day, as in `fits.holdout` and for the same reason (rows after progression reflect other therapy, and are
not in the fit). Of a patient who has progressed already, the forecast is of what no further therapy would show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.parameters import DAYS_PER_MONTH

from ..assays import LOG_OFFSET
from ..cohort_terms import ASSAY_TABLE
from ..population import estimated
from ..results import DEGREES, simulate_draws
from .posterior import PatientPosterior

type Floats = NDArray[np.float64]

LEVELS: Final = (0.50, 0.80, 0.95)
TAILS: Final = tuple(end for level in LEVELS for end in (0.5 - level / 2, 0.5 + level / 2))  # of the intervals
#: Probabilities between whose neighbours a quantile stands for the residual: the closer, the further out.
CELLS: Final = (1.0 - np.cos(np.linspace(0.0, np.pi, 49))) / 2.0
DAILY: Final = 60.0  # days, every one of them in the table
LATER: Final = 60  # days beyond, at most
CURVE, MEASUREMENT = "curve", "measurement"
ENDS: Final = tuple(f"{end}_{100 * level:.0f}" for level in LEVELS for end in ("low", "high"))
FORECAST_COLUMNS: Final = ("time", "assay", "unit", "of", "median", *ENDS)
PROGRESSION_COLUMNS: Final = ("month", "day", "probability", *ENDS, "mc_error")


def days(until: float, *others: float) -> Floats:
    """Days of the tables: daily at first, every month's, and some others."""
    later = np.linspace(DAILY, until, LATER).round() if until > DAILY else np.empty(0)
    every = np.concatenate([np.arange(0.0, min(DAILY, until) + 1.0), later, months(until), [until], others])
    return np.asarray(np.unique(every[(every >= 0) & (every <= max(until, *others, 0.0))]))


def months(until: float) -> Floats:
    """Days on which a month is over; a year is twelve, though 365 days are a little less."""
    return np.asarray(np.minimum(np.arange(1, int(until / DAYS_PER_MONTH + 0.05) + 1) * DAYS_PER_MONTH, until))


def weighted_quantiles(values: Floats, weights: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles (levels, columns) of values (S, columns) with weights of that shape; NaN where all weights are 0."""
    order = np.argsort(values, axis=0)
    ordered, share = np.take_along_axis(values, order, axis=0), np.take_along_axis(weights, order, axis=0)
    total = share.sum(axis=0)
    found = np.full((len(levels), values.shape[1]), np.nan)
    for j in np.flatnonzero(total > 0):
        some = share[:, j] > 0
        own = share[some, j]
        found[:, j] = np.interp(levels, (np.cumsum(own) - 0.5 * own) / total[j], ordered[some, j])
    return found


@dataclass(frozen=True, eq=False)
class Predictions:
    """Everything that follows from a patient's posterior at given days.

    Attributes
    ----------
    posterior : PatientPosterior
    times : ndarray (T,)
        Days since the first infusion.
    """

    posterior: PatientPosterior
    times: Floats

    @cached_property
    def simulated(self) -> dict[str, Floats]:
        """Read-outs (S, T); NaN where a draw could not be solved."""
        problem = self.posterior.patient.problem
        found = simulate_draws(problem, np.ascontiguousarray(self.posterior.theta[:, None]), self.times)
        return {name: values[:, 0] for name, values in found.items()}

    @property
    def assays(self) -> list[str]:
        """Assays that the run has a model of."""
        return list(self.posterior.patient.problem.observables)

    @cached_property
    def cumulative(self) -> Floats | None:
        """Cumulative hazard (S, T) from the first assessment after the latest infusion on; None: not modelled."""
        if "H" not in self.simulated:
            return None
        assessed = self.times >= self.posterior.patient.last_infusion + EARLY
        return np.where(assessed, self.simulated["H"], 0.0)

    @property
    def survived(self) -> Floats:
        """Cumulative hazard (S,) until the last day known to be free of progression, one of the times."""
        since = self.posterior.patient.free_until
        if self.cumulative is None or since is None:
            return np.zeros(len(self.posterior.hyper))
        return np.asarray(self.cumulative[:, np.searchsorted(self.times, since)])

    @cached_property
    def hazard(self) -> Floats | None:
        """The same from the last day known to be free of it on (S, T); 0 before."""
        return None if self.cumulative is None else np.maximum(self.cumulative - self.survived[:, None], 0.0)

    @cached_property
    def weights(self) -> Floats:
        """Weights (S, T) of the draws for a measurement of each day."""
        weights = np.repeat(self.posterior.weight[:, None], self.times.size, axis=1)
        if self.hazard is not None and self.posterior.patient.progressed_on is None:
            weights = weights * np.exp(-self.hazard)
        return np.nan_to_num(weights)

    def centre(self, assay: str) -> tuple[Floats, Floats]:
        """Predictions (S, T) on the scale of the residuals, without them, and the residuals' scale (S, 1)."""
        problem = self.posterior.patient.problem
        how = problem.observables[assay]
        labels = estimated(problem)
        sigma = np.exp(self.posterior.hyper[:, labels.index(how.sd)])
        return how.compared(self.simulated[assay]), sigma[:, None]

    def quantiles(self, assay: str, levels: Sequence[float], *, measured: bool) -> Floats:
        """Quantiles (levels, T) in the assay's unit, of the curve or of a measurement (with residual error)."""
        centre, sigma = self.centre(assay)
        weights = np.where(np.isfinite(centre), self.weights, 0.0)
        centre = np.nan_to_num(centre)
        if measured:
            noise, share = stdtrit(DEGREES, (CELLS[1:] + CELLS[:-1]) / 2.0), np.diff(CELLS)
            centre = (centre[None] + sigma * noise[:, None, None]).reshape(-1, self.times.size)
            weights = (share[:, None, None] * weights).reshape(-1, self.times.size)
        found = weighted_quantiles(centre, weights, levels)
        return np.maximum(np.exp(found) - LOG_OFFSET.get(assay, 0.0), 0.0)

    def forecast(self) -> pd.DataFrame:
        """`forecast.csv`: `FORECAST_COLUMNS`."""
        levels = [0.5, *TAILS]
        parts = []
        for assay in self.assays:
            for of in (CURVE, MEASUREMENT):
                found = self.quantiles(assay, levels, measured=of == MEASUREMENT)
                part = pd.DataFrame(found.T, columns=list(FORECAST_COLUMNS[4:]))
                head = {"time": self.times, "assay": assay, "unit": ASSAY_TABLE[assay].unit, "of": of}
                parts.append(pd.DataFrame(head).join(part))
        return pd.concat(parts, ignore_index=True)

    def progression(self, until: float) -> pd.DataFrame:
        """`progression.csv`: `PROGRESSION_COLUMNS`; the chance of progression by the end of each month to come.

        The intervals say how far the chance itself is uncertain, for the patient is known in part only; the Monte Carlo
        error is that of the chance, their mean.
        """
        patient = self.posterior.patient
        rows = []
        since = patient.last_infusion if patient.free_until is None else patient.free_until
        for number, day in enumerate(months(until), start=1):
            if patient.progressed_on is not None:
                if day >= patient.progressed_on:
                    rows.append((number, day, 1.0, *(1.0,) * len(TAILS), 0.0))
            elif self.hazard is not None and day > since:
                chance = -np.expm1(-self.hazard[:, np.searchsorted(self.times, day)])
                solved = np.isfinite(chance)
                weight = self.posterior.weight[solved] / self.posterior.weight[solved].sum()
                chance = chance[solved]
                mean = float(weight @ chance)
                error = float(np.sqrt(weight**2 @ (chance - mean) ** 2))
                ends = weighted_quantiles(chance[:, None], weight[:, None], TAILS)[:, 0]
                rows.append((number, day, mean, *ends, error))
        return pd.DataFrame(rows, columns=list(PROGRESSION_COLUMNS))
