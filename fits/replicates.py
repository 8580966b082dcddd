"""Studies that could have been: new patients on the schedule of a real study, simulated from draws of a population.

One replicate is one study: one draw of the population, deviations drawn anew for everyone, residual error, and dropout.
A patient leaves at progression or death, which are drawn from the model's hazards; in the data such a patient's later
visits are missing, so they have to be invented before simulated patients can stay longer than the real one did. They
are borrowed: who left at day T goes on by the plan of a patient of the same product and infusion who was still followed
after day T, drawn at random, and of another when that one left too (redistribution to the right, as Kaplan and Meier do
with survival times). It is right when the end of follow-up has nothing to do with the measurements.

Who has a second infusion in the data had progressed before it. Patients simulated for such a place are drawn until one
has, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.define import SMALLEST
from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import to_transformed
from reinfuse.model.schedule import FAR
from reinfuse.model.simulate import solved

from .assays import ASSAYS
from .cohort import Cohort
from .population import Design, design, estimated
from .problem import Problem
from .results import DEGREES, MAX_STEPS

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

TOLERANCE: Final = 1e-5
CHUNK_NUMBERS: Final = 4_000_000  # of simulated read-outs held at a time
CHUNK_PATIENTS: Final = 4096
ATTEMPTS: Final = 20  # to find a new patient who progressed before the next infusion of the design


@dataclass(frozen=True, kw_only=True)
class PopulationDraws:
    """Draws of a population on transformed scales.

    Attributes
    ----------
    population, effect
        (draws, parameters) and (draws, product effects), in the order of the problem.
    omega
        (draws, deviations): sds of the random effects and, with several infusions, of each infusion's deviation.
    """

    population: Floats
    effect: Floats
    omega: Floats

    def __len__(self) -> int:
        """Number of draws."""
        return int(self.population.shape[0])

    def typical(self) -> "PopulationDraws":
        """One draw: the median of every number, and no spread between patients."""
        return PopulationDraws(
            population=np.median(self.population, axis=0, keepdims=True),
            effect=np.median(self.effect, axis=0, keepdims=True),
            omega=np.zeros((1, self.omega.shape[1])),
        )


def population_draws(problem: Problem, group: xr.Dataset) -> PopulationDraws:
    """Take the population out of a `/posterior` or `/prior` group.

    Parameters
    ----------
    problem
        The posed cohort of the run.
    group
        With `population`, `omega` and, where the problem has them, `product_effect` and `omega_occasion`.

    Raises
    ------
    ReinfuseError
        If a number of the problem is not in the group: the run is of another version or specification.
    """
    labels = estimated(problem)
    natural = _labelled(group, "population", "parameter", labels)
    rows = [problem.population[label] for label in labels]
    columns = [to_transformed(natural[:, j], transform=row.transform) for j, row in enumerate(rows)]
    omega = _labelled(group, "omega", "effect", list(problem.random))
    if problem.occasions:
        if "omega_occasion" not in group:
            raise ReinfuseError("the run does not hold omega_occasion; fit again with this version")
        each = group["omega_occasion"].transpose("chain", "draw").values.reshape(-1, 1)
        omega = np.hstack([omega, np.repeat(each, problem.slots, axis=1)])
    effect = np.zeros((natural.shape[0], 0))
    if problem.effects:
        effect = _labelled(group, "product_effect", "contrast", [e.label for e in problem.effects])
    return PopulationDraws(population=np.stack(columns, axis=1), effect=effect, omega=omega)


def _labelled(group: xr.Dataset, variable: str, dim: str, labels: list[str]) -> Floats:
    """Draws (draws, labels) of a variable."""
    held = [str(label) for label in group[dim].values] if variable in group else []
    if missing := [label for label in labels if label not in held]:
        raise ReinfuseError(
            f"the run does not hold {', '.join(missing[:4])} in {variable}; it was fitted otherwise: fit again"
        )
    array = group[variable].sel({dim: labels}).transpose("chain", "draw", dim).values
    return np.asarray(array, dtype=float).reshape(-1, len(labels))


# ------------------------------------------------------------------------------------------ new patients


class NewPatients:
    """Individual parameters and trajectories of new patients, each in the place of a patient of the design.

    Parameters
    ----------
    problem
        The posed cohort.
    draws
        Its population.
    """

    def __init__(self, problem: Problem, draws: PopulationDraws) -> None:
        self.problem, self.draws = problem, draws
        self.design: Design = design(problem)

    def thetas(self, place: Integers, draw: Integers, rng: np.random.Generator) -> Floats:
        """Individual parameters (m, columns) of patients in places (m,) of the design, from draws (m,)."""
        made, draws = self.design, self.draws
        deviation = rng.standard_normal((place.size, draws.omega.shape[1])) * draws.omega[draw]
        out = np.empty((place.size, made.offset.shape[1]))
        for low in range(0, place.size, CHUNK_PATIENTS):
            part = slice(low, low + CHUNK_PATIENTS)
            i, d = place[part], draw[part]
            x = made.offset[i] + np.einsum("mcp,mp->mc", made.by_population[i], draws.population[d])
            x += np.einsum("mce,me->mc", made.by_effect[i], draws.effect[d])
            x += np.einsum("mcq,mq->mc", made.by_deviation[i], deviation[part])
            out[part] = np.where(made.log, np.exp(np.where(made.log, x, 0.0)), x)
            if made.logit.any():
                out[part] = np.where(made.logit, 1.0 / (1.0 + np.exp(-x)), out[part])
        return out

    def simulate(self, thetas: Floats, place: Integers, times: Floats) -> dict[str, Floats]:
        """Read-outs (m, T) at common times; NaN where the solver failed."""
        problem, kernel = self.problem, self.problem.kernel
        out = np.full((place.size, times.size, len(kernel.readouts)), np.nan)
        status = np.zeros(place.size, dtype=np.int64)
        kernel.simulate(
            np.ascontiguousarray(thetas),
            np.ascontiguousarray(problem.ev_time[place]),
            np.ascontiguousarray(problem.ev_code[place]),
            np.ascontiguousarray(problem.n_ev[place]),
            times,
            TOLERANCE,
            MAX_STEPS,
            out,
            status,
        )
        out[~solved(status)] = np.nan
        return {name: out[..., k] for k, name in enumerate(kernel.readouts)}

    def in_chunks(self, thetas: Floats, place: Integers, times: Floats) -> Iterator[tuple[slice, dict[str, Floats]]]:
        """`simulate`, so many patients at a time that the read-outs stay small."""
        size = max(1, CHUNK_NUMBERS // max(1, times.size * len(self.problem.kernel.readouts)))
        for low in range(0, place.size, size):
            part = slice(low, min(place.size, low + size))
            yield part, self.simulate(thetas[part], place[part], times)

    def sd(self, dvid: str, thetas: Floats) -> Floats:
        """Residual sd (m,) of an assay."""
        column = self.problem.column(self.problem.observables[dvid].sd)
        assert column is not None
        return thetas[:, column]

    def compared(self, dvid: str, value: Floats) -> Floats:
        """A read-out on the scale of its residuals."""
        how = self.problem.observables[dvid]
        return np.log(np.maximum(value + how.offset, SMALLEST)) if how.log else value


# ------------------------------------------------------------------------------------------------ design


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Rows of assays that a study planned, and the courses they belong to.

    Attributes
    ----------
    patient, slot
        (rows,) index of the patient, number of the latest infusion.
    dvid, product
        (rows,) assay, and product of that infusion.
    since
        (rows,) days since that infusion.
    starts
        (n, slots) days of the infusions; +inf where not given.
    end
        (n, slots) days from an infusion to the end of its course.
    left
        (n, slots) whether progression or death ended it.
    """

    patient: Integers
    slot: Integers
    dvid: NDArray[np.str_]
    product: NDArray[np.str_]
    since: Floats
    starts: Floats
    end: Floats
    left: NDArray[np.bool_]

    def time(self, place: Integers, row: Integers) -> Floats:
        """Days since the first infusion of planned rows (m,) when patients in places (m,) follow them."""
        return np.asarray(self.starts[place, self.slot[row] - 1] + self.since[row])


def plan(cohort: Cohort, problem: Problem) -> Plan:
    """Read the plan of a cohort's assays: those of `problem.observed`, in their order, events left out."""
    rec = problem.observed
    rows = np.flatnonzero(np.isin(rec.dvid, list(problem.observables)))
    starts = np.full((problem.n, problem.slots), np.inf)
    index = {name: i for i, name in enumerate(problem.patients)}
    infusions = cohort.infusions
    for name, slot, day in zip(infusions["ID"], infusions["SLOT"], infusions["TIME"], strict=True):
        starts[index[str(name)], int(slot) - 1] = float(day)
    patient, time = rec.patient[rows], rec.time[rows]
    slot = np.maximum((starts[patient] <= time[:, None]).sum(axis=1), 1)
    since = time - starts[patient, slot - 1]
    end, left = _ends(cohort, index, starts)
    np.maximum.at(end, (patient, slot - 1), since)
    return Plan(
        patient=patient,
        slot=slot,
        dvid=rec.dvid[rows],
        product=rec.product[rows],
        since=since,
        starts=starts,
        end=end,
        left=left,
    )


def _ends(cohort: Cohort, index: dict[str, int], starts: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Days from each infusion to the end of its course, and whether progression or death ended it."""
    end, left = np.zeros(starts.shape), np.zeros(starts.shape, dtype=bool)
    rows = cohort.observations.assign(SLOT=cohort.observation_slots)
    events = rows[rows["DVID"].isin(["progression", "death"])]
    for name, slot, day, value in zip(events["ID"], events["SLOT"], events["TIME"], events["DV"], strict=True):
        i, j = index[str(name)], int(slot) - 1
        since = float(day) - starts[i, j]
        if value == 1 and (not left[i, j] or since < end[i, j]):
            end[i, j], left[i, j] = since, True
        elif not left[i, j]:
            end[i, j] = max(end[i, j], since)
    return end, left


class Schedules:
    """Random schedules: the plan, and for who left, how it might have gone on.

    Parameters
    ----------
    made
        The plan.
    slot_products
        (n, slots) products, "" where not infused.
    goes_on
        Whether courses that progression or death ended are continued at all.
    """

    def __init__(self, made: Plan, slot_products: NDArray[np.str_], *, goes_on: bool) -> None:
        self.plan, self.goes_on = made, goes_on
        n, slots = made.starts.shape
        key = made.patient * slots + made.slot - 1
        order = np.argsort(key, kind="stable")
        bounds = np.searchsorted(key[order], np.arange(n * slots + 1))
        self.rows = [order[bounds[k] : bounds[k + 1]] for k in range(n * slots)]
        self.alike: dict[tuple[str, int], Integers] = {}
        for slot in range(slots):
            for product in np.unique(slot_products[:, slot]):
                self.alike[str(product), slot] = np.flatnonzero(slot_products[:, slot] == product)
        self.slot_products = slot_products
        following = np.concatenate([made.starts[:, 1:], np.full((n, 1), np.inf)], axis=1)
        self.next = following - np.where(np.isfinite(made.starts), made.starts, 0.0)

    def draw(self, rng: np.random.Generator) -> tuple[Integers, Integers]:
        """Places and planned rows (m,) of one replicate, by patient."""
        places, rows = [self.plan.patient], [np.arange(self.plan.patient.size)]
        if self.goes_on:
            for i, j in np.argwhere(self.plan.left).tolist():
                borrowed = self._continued(i, j, rng)
                places.append(np.full(borrowed.size, i))
                rows.append(borrowed)
        return np.concatenate(places), np.concatenate(rows)

    def _continued(self, i: int, j: int, rng: np.random.Generator) -> Integers:
        """Rows that patient i might have had after leaving course j + 1."""
        made, slots = self.plan, self.plan.starts.shape[1]
        found: list[Integers] = []
        donor = i
        while made.left[donor, j]:
            at = made.end[donor, j]
            others = self.alike[str(self.slot_products[i, j]), j]
            others = others[made.end[others, j] > at]
            if others.size == 0:
                break
            donor = int(rng.choice(others))
            mine = self.rows[donor * slots + j]
            upto = made.end[donor, j] if made.left[donor, j] else np.inf
            since = made.since[mine]
            found.append(mine[(since > at) & (since <= upto) & (since < self.next[i, j])])
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


# --------------------------------------------------------------------------------------------- replicates


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
        centre[mine] = new.compared(dvid, simulated[dvid][who[mine], column[mine]])
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
    typical = NewPatients(new.problem, new.draws.typical())
    patients = np.arange(new.problem.n)
    thetas = typical.thetas(patients, np.zeros(patients.size, dtype=np.int64), np.random.default_rng(0))
    days = made.time(place, row)
    times = np.unique(days)
    column = np.searchsorted(times, days)
    out = np.full(row.size, np.nan)
    for part, simulated in typical.in_chunks(thetas, patients, times):
        inside = np.flatnonzero((place >= part.start) & (place < part.stop))
        for dvid in new.problem.observables:
            mine = inside[made.dvid[row[inside]] == dvid]
            out[mine] = typical.compared(dvid, simulated[dvid][place[mine] - part.start, column[mine]])
    return out


def typical_curves(new: NewPatients, times: Floats) -> dict[str, Floats]:
    """Curves (n, T) of the typical patient in every place, by assay, natural scale."""
    typical = NewPatients(new.problem, new.draws.typical())
    patients = np.arange(new.problem.n)
    thetas = typical.thetas(patients, np.zeros(patients.size, dtype=np.int64), np.random.default_rng(0))
    out = {dvid: np.full((patients.size, times.size), np.nan) for dvid in new.problem.observables}
    for part, simulated in typical.in_chunks(thetas, patients, times):
        for dvid, curve in out.items():
            curve[part] = simulated[dvid]
    return out


# ------------------------------------------------------------------------------------------------- courses


def first_infusion_only(problem: Problem, base: Floats) -> Problem:
    """The same problem without the events of further infusions, and with other individual constants (n, columns)."""
    names = np.array([str(name).endswith("_1") for name in problem.kernel.events])
    keep = names[problem.ev_code] & (np.arange(problem.ev_time.shape[1]) < problem.n_ev[:, None])
    times = np.where(keep, problem.ev_time, FAR)
    order = np.argsort(times, axis=1, kind="stable")
    changed: dict[str, Any] = {
        "base": base,
        "ev_time": np.take_along_axis(times, order, axis=1),
        "ev_code": np.take_along_axis(problem.ev_code, order, axis=1),
        "n_ev": keep.sum(axis=1).astype(np.int64),
    }
    return replace(problem, **changed)


def has_progression(problem: Problem) -> bool:
    """Whether the problem's model follows the hazard of progression."""
    return "H" in problem.kernel.readouts and ASSAYS.index("progression") in problem.observed.kind
