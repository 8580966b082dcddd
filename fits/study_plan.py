"""The plan of a study's visits: which rows of which assay were due when, and how it might have gone on for who left.

Patients leave at progression or death; in the data such a patient's later visits are missing, so they have to be
invented before simulated patients can stay longer than the real one did. They are borrowed: who left at day T goes on
by the plan of a patient of the same product and infusion who was still followed after day T, drawn at random, and of
another when that one left too (redistribution to the right, as Kaplan and Meier do with survival times). It is right
when the end of follow-up has nothing to do with the measurements.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cohort import Cohort
from .problem import Problem

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]


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
