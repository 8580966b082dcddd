"""From records of patients, made or planned, to lines through their parameters: locations, slopes, who is still there.

Slopes come from the adjoint at each patient's own parameters (`readouts`); nothing is differenced.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError

from ..assays import LOG_OFFSET
from ..cohort_terms import EVENTS
from ..geometry import Posterior
from ..population import estimated
from ..problem import Problem, competing_deaths
from .information import Lines, Structure, censored
from .readouts import Reader

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]
type Flags = NDArray[np.bool_]

TOLERANCE: Final = 1e-5
#: Steps into which the time of an event is divided: each has the chance of an event, and the slope at its middle.
EVENT_STEPS: Final = 24
HAZARD: Final = "hazard"


def hyper_names(problem: Problem) -> list[str]:
    """Names of the population vector of `geometry.Posterior`: as those of a run's scalars."""
    spreads = [f"omega:{name}" for name in problem.random] + (["omega_occasion"] if problem.occasions else [])
    return [*estimated(problem), *spreads, *(effect.label for effect in problem.effects)]


def hyper_logs(problem: Problem) -> list[bool]:
    """Whether each of them is a logarithm: products and ratios of two such mean something."""
    values = [problem.population[label].transform == "log" for label in estimated(problem)]
    return [*values, *[True] * (len(problem.random) + int(problem.occasions) + len(problem.effects))]


@dataclass(frozen=True, eq=False)
class Readings:
    """What n patients would show at records r, each at its own parameters.

    Attributes
    ----------
    assay
        (R,) name of the assay, or `progression`, `death`.
    day
        (n, R).
    location
        (n, R) of an assay, on the scale of its residuals.
    slope
        (n, R, columns) by individual parameters on their transformed scales.
    sigma
        (n, R) residual sd; 1 for events.
    place
        (R,) of ln sigma in the population vector, -1 for events.
    follow
        (n, R) probability that the record is made: of being free of progression and alive, or of the event.
    """

    assay: NDArray[np.str_]
    day: Floats
    location: Floats
    slope: Floats
    sigma: Floats
    place: Integers
    follow: Floats

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.day.shape[0])

    @property
    def failed(self) -> Flags:
        """Patients (n,) for whom the solver failed at a record."""
        return np.asarray(~np.isfinite(self.slope).all(axis=(1, 2)) | ~np.isfinite(self.location).all(axis=1))

    def lines(self, limit: Floats) -> Lines:
        """With limits of quantification (R,) or (n, R) on the scale of the residuals; minus infinity: none."""
        is_event = np.isin(self.assay, EVENTS)
        away = np.where(is_event, -np.inf, (limit - np.nan_to_num(self.location)) / self.sigma)
        location, scale = censored(away)
        follow = np.where(self.failed[:, None], 0.0, self.follow)
        weight = np.where(is_event, 1.0, location / self.sigma**2) * follow
        sigma = np.broadcast_to(self.place, weight.shape)
        return Lines(np.nan_to_num(self.slope), weight, np.where(is_event, 0.0, scale) * follow, sigma)

    def only(self, taken: Flags) -> Self:
        """The same with some records (R,) only."""
        return replace(
            self,
            assay=self.assay[taken],
            day=self.day[:, taken],
            location=self.location[:, taken],
            slope=self.slope[:, taken],
            sigma=self.sigma[:, taken],
            place=self.place[taken],
            follow=self.follow[:, taken],
        )


class Instrument:
    """Reads patients of a posed problem.

    Parameters
    ----------
    problem
        Its kernel's parameters are the columns.

    Raises
    ------
    ReinfuseError
        If it is a model of one's own.
    """

    def __init__(self, problem: Problem) -> None:
        if problem.own:
            raise ReinfuseError(
                "information of a design is computed for the CAR-T model; for a model of your own use "
                "reinfuse.model.experiment.sensitivity"
            )
        self.problem, self.posterior = problem, Posterior(problem)
        self.kinds = [kind for kind in problem.kernel.kinds if kind not in EVENTS]
        events = [HAZARD, "cumulative hazard"] if "progression" in problem.kernel.kinds else []
        self.reader = Reader.of(problem.slots, problem.fixed, (*self.kinds, *events), TOLERANCE)
        mine, theirs = problem.kernel.parameters, self.reader.kernel.parameters
        if missing := [name for name in theirs if name not in mine]:
            raise ReinfuseError(f"the posed model has no {', '.join(missing)}; this version cannot read it")
        self.columns = np.array([mine.index(name) for name in theirs], dtype=np.int64)
        self.names = hyper_names(problem)

    @cached_property
    def structure(self) -> Structure:
        """How the problem's patients are made."""
        made = self.posterior
        return Structure(made.by_hyper, made.design.by_deviation, made.log_sd)

    def read(self, name: str, theta: Floats, patient: Integers, day: Floats) -> tuple[Floats, Floats]:
        """A read-out of individuals (m, columns), each in the place of a patient of the problem, on days (m,).

        Returns its value (m,) and slope (m, columns) by parameters on their transformed scales.
        """
        problem = self.problem
        course = problem.ev_time[patient], problem.ev_code[patient], problem.n_ev[patient]
        mapped = self._codes(course)
        value, gradient = self.reader.read(name, theta[:, self.columns], mapped, day)
        slope = np.zeros(theta.shape)
        slope[:, self.columns] = gradient
        return value, slope * self.posterior.design.slope(theta)

    def cumulative_hazard(self, theta: Floats, patient: Integers, days: Floats) -> Floats:
        """Of progression at common, rising days (T,): (m, T); 0 before anybody looks for it."""
        problem = self.problem
        course = self._codes((problem.ev_time[patient], problem.ev_code[patient], problem.n_ev[patient]))
        found = self.reader.curve("H", theta[:, self.columns], course, days)
        return np.where(days < EARLY, 0.0, found)

    def _codes(self, course: tuple[Floats, Integers, Integers]) -> tuple[Floats, Integers, Integers]:
        """Events in the reader's codes."""
        mine, theirs = self.problem.kernel.events, self.reader.kernel.events
        if mine == theirs:
            return course
        code = np.array([theirs.index(name) for name in mine], dtype=np.int64)
        return course[0], code[course[1]], course[2]

    def sigma_of(self, assay: str, theta: Floats) -> tuple[Floats, int]:
        """Residual sd (m,) of an assay, and the place of its logarithm in the population vector (-1: known)."""
        column = self.problem.column(f"sigma_{assay}")
        label = f"sigma_{assay}"
        place = self.names.index(label) if label in self.names else -1
        given = np.full(theta.shape[0], self.problem.fixed.get(label, np.nan)) if column is None else theta[:, column]
        return given, place

    # ---------------------------------------------------------------------------------------- what was measured

    def measured(self, theta: Floats) -> Lines:
        """The problem's own records as lines, at individual parameters (n, columns).

        A progression or death that happened is one record of information 1 on its log hazard, one that did not is none:
        over studies, that is the expected information. Samples count as they were taken.
        """
        rec = competing_deaths(self.problem.observed)
        keep = np.flatnonzero(~(np.isin(rec.dvid, EVENTS) & (rec.family != int(Family.EVENT))))
        patient, day = rec.patient[keep], rec.time[keep]
        who = theta[patient]
        location, sigma = np.zeros(keep.size), np.ones(keep.size)
        place, slope = np.full(keep.size, -1, dtype=np.int64), np.zeros((keep.size, theta.shape[1]))
        for assay in np.unique(rec.dvid[keep]):
            mine = np.flatnonzero(rec.dvid[keep] == assay)
            if assay in EVENTS:
                slope[mine] = self._event_slope(str(assay), who[mine], patient[mine], day[mine])
                continue
            location[mine], slope[mine] = self.read(str(assay), who[mine], patient[mine], day[mine])
            sigma[mine], place[mine] = self.sigma_of(str(assay), who[mine])
        limit = np.array([_limit(str(a), x) for a, x in zip(rec.dvid[keep], rec.lloq[keep], strict=True)])
        one = Readings(
            assay=np.asarray(rec.dvid[keep]),
            day=day[:, None],
            location=location[:, None],
            slope=slope[:, None],
            sigma=sigma[:, None],
            place=np.zeros(1, dtype=np.int64),
            follow=np.ones((keep.size, 1)),
        )
        return _padded(_flat_lines(one, limit, place), patient, self.problem.n)

    def _event_slope(self, name: str, theta: Floats, patient: Integers, day: Floats) -> Floats:
        """Slope of the log hazard of an event."""
        if name == "progression":
            return self.read(HAZARD, theta, patient, day)[1]
        slope, column = np.zeros(theta.shape), self.problem.column("hD")
        if column is not None:
            slope[:, column] = 1.0
        return slope

    # ---------------------------------------------------------------------------------------- what is planned

    def planned(self, theta: Floats, patient: Integers, samples: Sequence[tuple[str, float]], until: float) -> Readings:
        """What individuals would show at planned samples, and when they would progress or die.

        Parameters
        ----------
        theta
            (m, columns).
        patient
            (m,) patients of the problem in whose places they are.
        samples
            Assay and day.
        until
            End of the follow-up of progression and death, days; 0: they are not followed.

        Returns
        -------
        Readings
            The samples, then `EVENT_STEPS` records of progression and as many of death.
        """
        m = theta.shape[0]
        edges = np.linspace(np.sqrt(EARLY), np.sqrt(max(until, EARLY + 1.0)), EVENT_STEPS + 1) ** 2
        middle = 0.5 * (edges[1:] + edges[:-1])
        days = np.array([day for _, day in samples], dtype=np.float64)
        grid = np.unique(np.concatenate([edges, days]))
        rate = np.zeros(m) if (column := self.problem.column("hD")) is None else theta[:, column]
        there = np.exp(-self.cumulative_hazard(theta, patient, grid) - rate[:, None] * grid)
        at_edges = there[:, np.searchsorted(grid, edges)]
        passed = self.cumulative_hazard(theta, patient, edges)
        risk = np.diff(passed, axis=1)
        death = rate[:, None] * np.diff(edges)
        gone = at_edges[:, :-1] - at_edges[:, 1:]
        share = risk / np.maximum(risk + death, 1e-300)
        parts = [self._sampled(theta, patient, assay, day) for assay, day in samples]
        follow = [there[:, np.searchsorted(grid, day)] for day in days]
        for k, day in enumerate(middle):
            parts.append(("progression", *self._event(theta, patient, "progression", float(day))))
            follow.append(gone[:, k] * share[:, k])
        for k, day in enumerate(middle):
            parts.append(("death", *self._event(theta, patient, "death", float(day))))
            follow.append(gone[:, k] * (1.0 - share[:, k]))
        return Readings(
            assay=np.array([part[0] for part in parts]),
            day=np.stack([part[1] for part in parts], axis=1),
            location=np.stack([part[2] for part in parts], axis=1),
            slope=np.stack([part[3] for part in parts], axis=1),
            sigma=np.stack([part[4] for part in parts], axis=1),
            place=np.array([part[5] for part in parts], dtype=np.int64),
            follow=np.nan_to_num(np.stack(follow, axis=1)),
        )

    def _sampled(
        self, theta: Floats, patient: Integers, assay: str, day: float
    ) -> tuple[str, Floats, Floats, Floats, Floats, int]:
        days = np.full(theta.shape[0], day)
        location, slope = self.read(assay, theta, patient, days)
        return assay, days, location, slope, *self.sigma_of(assay, theta)

    def _event(
        self, theta: Floats, patient: Integers, name: str, day: float
    ) -> tuple[Floats, Floats, Floats, Floats, int]:
        m = theta.shape[0]
        days = np.full(m, day)
        return days, np.zeros(m), self._event_slope(name, theta, patient, days), np.ones(m), -1


def _limit(assay: str, lloq: float) -> float:
    """A limit of quantification on the scale of the residuals; minus infinity where there is none."""
    offset = LOG_OFFSET.get(assay, 0.0)
    return float(np.log(lloq + offset)) if lloq + offset > 0 and np.isfinite(lloq) else -np.inf


def limits(readings: Readings, lloq: dict[str, float]) -> Floats:
    """Limits (R,) of the records, by assay."""
    return np.array([_limit(str(name), lloq.get(str(name), np.nan)) for name in readings.assay])


def _flat_lines(readings: Readings, limit: Floats, place: Integers) -> Lines:
    """Lines of m records of one record a row, each with its own assay; ``readings.assay`` is (m,) here."""
    is_event = np.isin(readings.assay, EVENTS)
    good = np.isfinite(readings.slope[:, 0]).all(axis=1) & np.isfinite(readings.location[:, 0])
    away = np.where(is_event, -np.inf, (limit - np.nan_to_num(readings.location[:, 0])) / readings.sigma[:, 0])
    location, scale = censored(away)
    weight = np.where(is_event, 1.0, location / readings.sigma[:, 0] ** 2) * good
    return Lines(
        np.nan_to_num(readings.slope), weight[:, None], (np.where(is_event, 0.0, scale) * good)[:, None], place[:, None]
    )


def _padded(flat: Lines, patient: Integers, n: int) -> Lines:
    """Lines of one record a row, laid out as one row a patient."""
    order = np.argsort(patient, kind="stable")
    count = np.bincount(patient, minlength=n)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    at = patient[order], np.arange(patient.size) - first[patient[order]]
    width = int(count.max(initial=1))
    slope = np.zeros((n, width, flat.slope.shape[2]))
    weight, scale = np.zeros((n, width)), np.zeros((n, width))
    sigma = np.full((n, width), -1, dtype=np.int64)
    slope[at], weight[at], scale[at] = flat.slope[order, 0], flat.weight[order, 0], flat.scale[order, 0]
    sigma[at] = flat.sigma[order, 0]
    return Lines(slope, weight, scale, sigma)
