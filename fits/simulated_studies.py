"""Studies that could have been: new patients on the schedule of a real study, simulated from draws of a population.

One replicate is one study: one draw of the population, deviations drawn anew for everyone, residual error, and dropout.
A patient leaves at progression or death, which are drawn from the model's hazards; how the schedule might have gone on
for who left in the data, `study_plan` says. Who has a second infusion in the data had progressed before it. Patients
simulated for such a place are drawn until one has, too.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.define import SMALLEST
from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import EARLY

from .new_patients import NewPatients
from .results import DEGREES
from .study_plan import Plan, Schedules

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

ATTEMPTS: Final = 20  # to find a new patient who progressed before the next infusion of the design


@dataclass(frozen=True, kw_only=True)
class Studies:
    """Simulated studies, one row per measurement that was taken.

    Attributes
    ----------
    count
        Number of studies.
    study, place, row
        (m,) number of the study, place of the patient in the design, planned row (`Plan`).
    y, centre
        (m,) measurement and prediction without residual error, on the scale of the residuals (ln as a rule).
    dropped
        Share of planned measurements that dropout took away.
    failed
        Simulated patients left out because the solver failed, or because none was found who progressed before
        the next infusion of the design.
    """

    count: int
    study: Integers
    place: Integers
    row: Integers
    y: Floats
    centre: Floats
    dropped: float
    failed: int


def replicate_studies(
    new: NewPatients, made: Plan, *, count: int, rng: np.random.Generator, dropout: bool = True
) -> Studies:
    """Simulate studies of the same design in new patients.

    Parameters
    ----------
    new
        Source of patients.
    made
        The design.
    count
        Number of studies; each has its own draw of the population, evenly spaced over the draws.
    rng
        Source of deviations, schedules, events and residuals.
    dropout
        Whether patients leave at progression (where the model has its hazard) and at death (where the data
        have deaths).
    """
    problem = new.problem
    with_hazard = dropout and "H" in problem.kernel.readouts
    schedules = Schedules(made, problem.slot_products, goes_on=with_hazard)
    population = np.linspace(0, len(new.draws) - 1, count).round().astype(np.int64)
    places, rows = zip(*(schedules.draw(rng) for _ in range(count)), strict=True)
    sizes = [each.size for each in places]
    study, place, row = np.repeat(np.arange(count), sizes), np.concatenate(places), np.concatenate(rows)
    y, centre = np.full(place.size, np.nan), np.full(place.size, np.nan)
    stays = np.ones(place.size, dtype=bool)
    failed = 0
    several = np.isfinite(made.starts).sum(axis=1) > 1
    for some in (~several, several):
        patients = np.flatnonzero(some)
        chosen = np.flatnonzero(some[place])
        if patients.size == 0 or chosen.size == 0:
            continue
        at, draw = np.tile(patients, count), np.repeat(population, patients.size)
        thetas, found = _conditioned(new, made, at, draw, rng, with_hazard)
        luck = _Luck.draw(at.size, problem.slots, rng)
        times = np.unique(np.concatenate([made.time(place[chosen], row[chosen]), made.starts[patients].ravel()]))
        times = times[np.isfinite(times)]
        # rows in the order of the simulated patients
        number = study[chosen] * patients.size + np.searchsorted(patients, place[chosen])
        order = np.argsort(number, kind="stable")
        chosen, number = chosen[order], number[order]
        column = np.searchsorted(times, made.time(place[chosen], row[chosen]))
        for part, simulated in new.in_chunks(thetas, at, times):
            low, high = np.searchsorted(number, [part.start, part.stop])
            mine, who = chosen[low:high], number[low:high] - part.start
            centre[mine], y[mine] = _measured(new, made, simulated, thetas[part], who, column[low:high], row[mine], rng)
            if with_hazard:
                stays[mine] = _stays(
                    new, made, simulated, thetas[part], at[part], luck.of(part), who, column[low:high], row[mine], times
                )
        lost = ~found
        lost[np.unique(number[np.isnan(centre[chosen])])] = True
        failed += int(lost.sum())
        centre[chosen[lost[number]]] = np.nan
    keep = stays & np.isfinite(centre) & np.isfinite(y)
    return Studies(
        count=count,
        study=study[keep],
        place=place[keep],
        row=row[keep],
        y=y[keep],
        centre=centre[keep],
        dropped=1.0 - float(stays[np.isfinite(centre)].mean()) if np.isfinite(centre).any() else 0.0,
        failed=failed,
    )


@dataclass(frozen=True)
class _Luck:
    """Uniform numbers that decide on progression (m, slots), and exponential ones that decide on death (m,)."""

    progression: Floats
    death: Floats

    @classmethod
    def draw(cls, m: int, slots: int, rng: np.random.Generator) -> "_Luck":
        return cls(rng.uniform(size=(m, slots)), rng.standard_exponential(m))

    def of(self, part: slice) -> "_Luck":
        return _Luck(self.progression[part], self.death[part])


def _conditioned(
    new: NewPatients, made: Plan, place: Integers, draw: Integers, rng: np.random.Generator, with_hazard: bool
) -> tuple[Floats, NDArray[np.bool_]]:
    """New patients who progressed before every further infusion of their place, and whether one was found."""
    thetas = new.thetas(place, draw, rng)
    later = made.starts[:, 1:]
    pending = np.flatnonzero(np.isfinite(later[place]).any(axis=1)) if with_hazard else np.empty(0, dtype=np.int64)
    times = np.unique(later[np.isfinite(later)])
    for attempt in range(ATTEMPTS):
        if pending.size == 0:
            break
        if attempt:
            thetas[pending] = new.thetas(place[pending], draw[pending], rng)
        chance = np.ones(pending.size)
        for part, simulated in new.in_chunks(thetas[pending], place[pending], times):
            for slot in range(later.shape[1]):
                day = later[place[pending[part]], slot]
                given = np.isfinite(day)
                column = np.searchsorted(times, np.where(given, day, times[0]))
                hazard = simulated["H"][np.arange(day.size), column]
                chance[part] *= np.where(given, -np.expm1(-hazard), 1.0)
        taken = rng.uniform(size=pending.size) < chance  # never for a failed one: NaN
        pending = pending[~taken]
    found = np.ones(place.size, dtype=bool)
    found[pending] = False
    return thetas, found


def _measured(
    new: NewPatients,
    made: Plan,
    simulated: dict[str, Floats],
    thetas: Floats,
    who: Integers,
    column: Integers,
    row: Integers,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Predictions and measurements (m,) of planned rows."""
    centre, sigma = np.empty(row.size), np.empty(row.size)
    for dvid in new.problem.observables:
        mine = np.flatnonzero(made.dvid[row] == dvid)
        centre[mine] = new.problem.observables[dvid].compared(simulated[dvid][who[mine], column[mine]])
        sigma[mine] = new.sd(dvid, thetas)[who[mine]]
    return centre, centre + sigma * rng.standard_t(DEGREES, row.size)


def _stays(
    new: NewPatients,
    made: Plan,
    simulated: dict[str, Floats],
    thetas: Floats,
    place: Integers,
    luck: _Luck,
    who: Integers,
    column: Integers,
    row: Integers,
    times: Floats,
) -> NDArray[np.bool_]:
    """Whether patients were still in the study when rows (m,) were due."""
    hazard = simulated["H"]
    threshold = np.empty(luck.progression.shape)
    for slot in range(threshold.shape[1]):
        most = np.ones(place.size)  # chance of progression before the next infusion, which has happened
        if slot + 1 < threshold.shape[1]:
            following = made.starts[place, slot + 1]
            given = np.isfinite(following)
            at = np.searchsorted(times, np.where(given, following, times[0]))
            most = np.where(given, -np.expm1(-hazard[np.arange(place.size), at]), 1.0)
        threshold[:, slot] = -np.log1p(-luck.progression[:, slot] * most)
    counted = np.where(made.since[row] < EARLY, 0.0, hazard[who, column])
    stays = counted <= threshold[who, made.slot[row] - 1]
    rate = new.problem.column("hD")
    if "death" in new.problem.kernel.kinds and rate is not None:
        last = np.where(np.isfinite(made.starts), made.starts, 0.0).max(axis=1)[place]
        death = last + luck.death / thetas[:, rate]  # who was infused had lived to it
        stays &= times[column] <= death[who]
    return stays


def conditioned_on_events(
    new: NewPatients, made: Plan, *, place: int, candidates: int, count: int, rng: np.random.Generator
) -> Floats:
    """Simulate the measurements of one place by patients whose progression record is the real one's.

    New patients are weighted by the likelihood of the progression record of the place and resampled, so that
    measurements of who left early are compared with those of virtual patients who left early.

    Parameters
    ----------
    new, made
        Source of patients, and design.
    place
        Index of the patient of the design.
    candidates, count
        How many are drawn, and how many are kept.
    rng
        Source of deviations, residuals and of the resampling.

    Returns
    -------
    array
        (count, rows) measurements at the place's rows of the plan, on the scale of the residuals; no rows where every
        candidate failed.
    """
    problem = new.problem
    rows = np.flatnonzero(made.patient == place)
    at = np.full(candidates, place)
    draw = rng.integers(0, len(new.draws), candidates)
    thetas = new.thetas(at, draw, rng)
    own = slice(0, int(problem.n_ob[place]))
    kinds = problem.kernel.kinds
    event = np.flatnonzero(np.array([kinds[k] == "progression" for k in problem.ob_kind[place, own]], dtype=bool))
    event = event if "H" in problem.kernel.readouts else event[:0]
    days = made.time(np.full(rows.size, place), rows)
    times = np.unique(np.concatenate([days, problem.ob_time[place, event]]))
    column, event_column = np.searchsorted(times, days), np.searchsorted(times, problem.ob_time[place, event])
    y, log_weight = np.full((candidates, rows.size), np.nan), np.zeros(candidates)
    for part, simulated in new.in_chunks(thetas, at, times):
        who = np.repeat(np.arange(part.stop - part.start), rows.size)
        wide = np.tile(column, part.stop - part.start), np.tile(rows, part.stop - part.start)
        _, measured = _measured(new, made, simulated, thetas[part], who, *wide, rng)
        y[part] = measured.reshape(-1, rows.size)
        for k, when in zip(event, event_column, strict=True):
            log_weight[part] -= simulated["H"][:, when]
            if problem.ob_family[place, k] == Family.EVENT:
                log_weight[part] += np.log(np.maximum(simulated["hazard"][:, when], SMALLEST))
    good = np.isfinite(y).all(axis=1) & np.isfinite(log_weight)
    if not good.any():
        return np.empty((0, rows.size))
    y, log_weight = y[good], log_weight[good]
    weight = np.exp(log_weight - log_weight.max())
    grid = (rng.uniform() + np.arange(count)) / count * weight.sum()
    chosen = np.minimum(np.searchsorted(np.cumsum(weight), grid), weight.size - 1)
    return np.asarray(y[rng.permutation(chosen)])


def typical_predictions(new: NewPatients, made: Plan, place: Integers, row: Integers) -> Floats:
    """Predictions (m,) of the typical patient: population medians, no deviations, each place's own dose and course."""
    patients, thetas = _typical(new)
    days = made.time(place, row)
    times = np.unique(days)
    column = np.searchsorted(times, days)
    out = np.full(row.size, np.nan)
    for part, simulated in new.in_chunks(thetas, patients, times):
        inside = np.flatnonzero((place >= part.start) & (place < part.stop))
        for dvid in new.problem.observables:
            mine = inside[made.dvid[row[inside]] == dvid]
            out[mine] = new.problem.observables[dvid].compared(simulated[dvid][place[mine] - part.start, column[mine]])
    return out


def typical_curves(new: NewPatients, times: Floats) -> dict[str, Floats]:
    """Curves (n, T) of the typical patient in every place, by assay, natural scale."""
    patients, thetas = _typical(new)
    out = {dvid: np.full((patients.size, times.size), np.nan) for dvid in new.problem.observables}
    for part, simulated in new.in_chunks(thetas, patients, times):
        for dvid, curve in out.items():
            curve[part] = simulated[dvid]
    return out


def _typical(new: NewPatients) -> tuple[Integers, Floats]:
    """Every place, and the individual parameters of the typical patient there."""
    patients = np.arange(new.problem.n)
    nobody_differs = np.random.default_rng(0)  # its numbers are multiplied by 0
    typical = NewPatients(new.problem, new.draws.typical())
    return patients, typical.thetas(patients, np.zeros(patients.size, dtype=np.int64), nobody_differs)
