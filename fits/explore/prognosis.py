"""What the patient view forecasts: progression of one patient as known on a day, as `reinfuse forecast` has it."""

import shlex
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd

from ..forecasting.answer import doubts_of_run
from ..forecasting.patient import pose_patient, read_patient
from ..forecasting.posterior import posterior_of
from ..forecasting.predictions import Predictions, days
from ..reopened import Reopened
from ..run import RunFolder
from ..streams import Stream, generators

#: Days from the latest known one that are forecast.
AHEAD: Final = 365.0


@dataclass(frozen=True, eq=False)
class Prognosis:
    """A forecast of progression.

    Attributes
    ----------
    table : DataFrame
        `progression.csv` of `reinfuse forecast`; empty where there is nothing to forecast.
    until : float
        Its `--until`.
    words : list of str
        What is to be known of it, doubts first.
    """

    table: pd.DataFrame
    until: float
    words: list[str]


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts of the patients of a run, each made once.

    Attributes
    ----------
    run
        A finished fit.
    seed
        Of the forecasts, as in `reinfuse forecast --seed`.
    """

    run: RunFolder
    seed: int = 1
    _made: dict[tuple[str, float | None], Prognosis] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def opened(self) -> Reopened:
        """The run's problem and draws."""
        return Reopened.of(self.run)

    def of(self, patient: str, known: float | None) -> Prognosis:
        """Forecast a patient as known on a day (None: by all data).

        Raises
        ------
        ReinfuseError
            If that patient cannot be forecast, or had no infusion by then.
        """
        with self._lock:
            if (patient, known) not in self._made:
                self._made[patient, known] = self._make(patient, known)
            return self._made[patient, known]

    def _make(self, patient: str, known: float | None) -> Prognosis:
        one = pose_patient(self.opened, read_patient(self.run.cohort_path, patient, seen_until=known))
        until = np.ceil(one.last_day + AHEAD)
        words = [f"By {one.rows} records until day {one.last_day:g}."]
        if one.progressed_on is not None:
            return Prognosis(pd.DataFrame(), until, [f"{patient} progressed on day {one.progressed_on:g}.", *words])
        for_patient, _ = generators(self.seed, Stream.FORECAST, 2)
        posterior = posterior_of(one, self.opened.draws, for_patient)
        free = () if one.free_until is None else (one.free_until,)
        predictions = Predictions(posterior, days(until, *free))
        table = pd.DataFrame() if predictions.hazard is None else predictions.progression(until)
        doubts = [f"Do not trust this forecast: {doubt}." for doubt in (*posterior.doubts, *doubts_of_run(self.run))]
        if one.known is not None and not one.alike:
            words.append("The run has seen this patient's later data too; the forecast takes them out by weights.")
        return Prognosis(table, until, [*doubts, *words])

    def command(self, run: str, patient: str, known: float | None, until: float) -> str:
        """Command line of a forecast; `run` is a word of it already."""
        seen = "" if known is None else f" --seen-until {known:g}"
        return (
            f"reinfuse forecast {run} {run}/cohort.csv --patient {shlex.quote(patient)}{seen} --until {until:g}"
            f" --no-benefit --seed {self.seed} --out forecast"
        )
