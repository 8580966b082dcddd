"""The unit of work of an experiment: one block of candidates, through every course of every arm.

A block is known by its number and the seed; all its random numbers come from these two, so it gives the same rows on
whatever machine, and beside whatever other blocks, it is done. Candidates are treated with the first product of every
distinct first course and kept where a real patient would have been: alive, progressed within the horizon, in a group
that the scenario looks at. Those kept go through their later courses under every arm with the same parameters and the
same luck. Nothing here edits a patient.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.branch import states
from reinfuse.model.course import Engager, Infusion
from reinfuse.model.judgement import judgement_days
from reinfuse.model.parameters import DAYS_PER_MONTH, table
from reinfuse.model.simulate import simulate_population, solved

from .arms import (
    arm_parameters,
    first_infusion,
    later_infusion,
    product_of,
    slot_parameters,
)
from .later import First, Later
from .luck import Luck
from .outcomes import (
    CourseOutcome,
    Floats,
    Groups,
    Integers,
    chance_of_cure,
    classify,
    read_course,
    selected,
)
from .scenarios import Scenario, ScenarioFile, World
from .virtual_patients import PopulationDraws, VirtualPatients

#: `reinfuse.model.simulate.simulate_population`, or what stands in for it: course, times, parameters, options,
#: tolerance, read-outs, since, engager by name; dims patient and time, `status` per patient. What stands in simulates
#: every course as a whole: only the model's own gets a start and a stopping.
type Simulator = Callable[..., xr.Dataset]
#: Places of a scenario and of a world in the file: an arm.
type Arm = tuple[int, int]

#: Candidates drawn and simulated together.
BLOCK: Final = 1024
#: Tolerance of the simulations: response classes and visits do not see more (`docs/retreatment.md`).
TOLERANCE: Final = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """What is to be done: picklable, so that any process can do it.

    Attributes
    ----------
    number, seed : int
        Fix all random numbers.
    count : int
        Blocks from this number on that are done together, which is faster and changes nothing.
    file : ScenarioFile
    population : PopulationDraws
    arms : tuple of Arm
        Those that still want patients.
    most : int
        Patients of an arm that are wanted from each block at most.
    simulate : callable, optional
        The model's own simulator when None.
    """

    number: int
    seed: int
    file: ScenarioFile
    population: PopulationDraws
    arms: tuple[Arm, ...]
    most: int = BLOCK
    simulate: Simulator | None = None
    count: int = 1


@dataclass(kw_only=True)
class Acceptance:
    """How candidates of an arm became its patients.

    Attributes
    ----------
    candidates
        Virtual patients treated with the first product.
    not_simulated
        Of these, those whose simulation failed.
    not_judged
        Those without measurable M-protein at the start.
    died
        Those who died without relapse before progression.
    not_progressed
        Those free of progression at the end of the first horizon.
    other_group
        Those who progressed but whose first response the scenario does not look at.
    met
        Those who met all conditions.
    kept
        Patients of the arm: as many of these as were asked for.
    """

    candidates: int = 0
    not_simulated: int = 0
    not_judged: int = 0
    died: int = 0
    not_progressed: int = 0
    other_group: int = 0
    met: int = 0
    kept: int = 0

    @property
    def share(self) -> float:
        """Share of candidates that met the scenario's conditions."""
        return self.met / self.candidates if self.candidates else float("nan")

    def add(self, other: "Acceptance") -> None:
        """Count another block's candidates too; whom to keep is decided by whoever adds."""
        for name in ("candidates", "not_simulated", "not_judged", "died", "not_progressed", "other_group", "met"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What a block gave for an arm: how candidates fared, and the rows of those kept, by column."""

    arm: Arm
    acceptance: Acceptance
    columns: dict[str, NDArray[Any]]

    @property
    def rows(self) -> int:
        """How many patients."""
        return len(self.columns["patient"])


def run_block(task: Block) -> list[Part]:
    """Do a block.

    Parameters
    ----------
    task
        What is to be done: one block.

    Returns
    -------
    list of Part
        One for each arm of the task, in its order.
    """
    return run_blocks(task)[0]


def run_blocks(task: Block) -> list[list[Part]]:
    """Do some blocks together: for each of them what `run_block` would give."""
    return Work(task).parts()


class Work:
    """A block, or some of them together, while it is done."""

    def __init__(self, task: Block) -> None:
        self.task, self.file, self.population = task, task.file, task.population
        drawn = [self._drawn(number) for number in range(task.number, task.number + task.count)]
        self.virtual = drawn[0][0] if task.count == 1 else _together([virtual for virtual, _ in drawn])
        self.luck = Luck.together([luck for _, luck in drawn])
        self.size = task.count * BLOCK
        self.numbers = task.number * BLOCK + np.arange(self.size, dtype=np.int64)
        self.simulate = task.simulate or _models_own()
        own = getattr(self.simulate, "func", None) is simulate_population
        self.branching = own and task.simulate is None  # who stands in for the model's own simulates the whole
        self.rows = table(task.population.options)
        settings = task.file.settings
        self.rules = settings.rules
        self.first_days = float(np.ceil(settings.first_horizon_months * DAYS_PER_MONTH))
        self.later_days = float(np.ceil(settings.second_horizon_months * DAYS_PER_MONTH))
        self.by_hazard = settings.progression == "hazard"

    def _drawn(self, number: int) -> tuple[VirtualPatients, Luck]:
        """Candidates of a block and their luck."""
        rng = np.random.default_rng(np.random.SeedSequence(self.task.seed, spawn_key=(number,)))
        virtual = self.population.sample(BLOCK, rng, first=number * BLOCK)
        return virtual, Luck.draw(BLOCK, rng)

    def parts(self) -> list[list[Part]]:
        """Go through the arms; those with the same first course share it. Parts by block and arm."""
        firsts: dict[Any, First] = {}
        found: list[list[Part]] = [[] for _ in range(self.task.count)]
        for arm in self.task.arms:
            scenario, world = self.file.scenarios[arm[0]], self.file.worlds[arm[1]]
            key = scenario.first_key(world)
            if key not in firsts:
                firsts[key] = self._first(scenario, world)
            acceptance, rows = self._keep(scenario, firsts[key])
            columns = Later(self, scenario, world, firsts[key], rows).columns()
            ends = np.searchsorted(rows, BLOCK * np.arange(self.task.count + 1))
            for b, (low, high) in enumerate(pairwise(ends)):
                own = {name: values[low:high] for name, values in columns.items()}
                found[b].append(Part(arm=arm, acceptance=acceptance[b], columns=own))
        return found

    def relapsed(self, arm: Arm) -> tuple[Integers, Groups]:
        """Candidates who become patients of an arm, and their first-response groups."""
        scenario, world = self.file.scenarios[arm[0]], self.file.worlds[arm[1]]
        first = self._first(scenario, world)
        rows = self._keep(scenario, first)[1]
        return rows, first.group[rows]

    def later(self, arm: Arm) -> Later:
        """Patients of an arm, and the courses that follow their first."""
        scenario, world = self.file.scenarios[arm[0]], self.file.worlds[arm[1]]
        first = self._first(scenario, world)
        return Later(self, scenario, world, first, self._keep(scenario, first)[1])

    def without(self, names: Iterable[str]) -> Self:
        """The same candidates with the same luck, some of their parameters at 0."""
        held = {name: np.zeros(self.size) for name in names}
        other = copy(self)
        other.virtual = replace(self.virtual, parameters={**self.virtual.parameters, **held})
        return other

    def first_again(self, scenario: Scenario, rows: Integers) -> Callable[[VirtualPatients], CourseOutcome]:
        """What follows the first courses of the same candidates with other parameters, which are taken as they are."""
        infusion = self.first_infusion(scenario)

        def follow(patients: VirtualPatients) -> CourseOutcome:
            parameters = {**patients.parameters, **slot_parameters(patients, [product_of(infusion)])}
            simulated = self.follow([infusion], parameters, days=self.first_days)
            death = self.death_days(self.luck.death(1), rows)
            return self.judge(1, simulated, rows, parameters, days=self.first_days, death=death)

        return follow

    def trajectories(
        self,
        scenario: Scenario,
        world: World,
        rows: Integers,
        day: Floats,
        *,
        times: Floats,
        since: Floats | None = None,
    ) -> xr.Dataset:
        """Both courses of some candidates, the second infusion on each one's day (n,): cells by product and burden.

        Times are days from the first infusion, or from each one's day ``since`` (n,).
        """
        patients = self.virtual.subset(rows)
        course = [self.first_infusion(scenario)]
        if scenario.later:
            course.append(later_infusion(scenario.later[0], self.file, day))
        cells = [f"{cell}{slot}" for slot in range(1, len(course) + 1) for cell in "EMX"]
        return self.simulate(
            course=course,
            times=times,
            parameters=arm_parameters(patients, scenario, world, course, self.rows),
            options=self.population.options,
            readouts=["Ts", "Tr", "mprotein", *cells],
            tolerance=TOLERANCE,
            since=since,
        )

    def first_infusion(self, scenario: Scenario) -> Infusion:
        """The first infusion: as it was given to a real patient, else as the scenario says."""
        observed = self.population.observed
        return first_infusion(scenario, self.file) if observed is None else observed.infusion(self.file)

    # ------------------------------------------------------------------------------------- courses

    @cached_property
    def _death_rate(self) -> Floats:
        """Hazard of death without relapse, (size,)."""
        given = self.virtual.parameters.get("hD")
        return np.full(self.size, self.rows["hD"].median) if given is None else given

    def death_days(self, luck: Floats, rows: Integers) -> Floats:
        """Days to death without relapse."""
        with np.errstate(divide="ignore"):
            return luck[rows] / self._death_rate[rows]

    def visits(self, until: float) -> Floats:
        """Days of visits, the infusion's own among them."""
        return np.concatenate([[0.0], self.rules.schedule(until)])

    def follow(
        self,
        course: Sequence[Infusion],
        parameters: Mapping[str, Floats],
        *,
        days: float,
        since: Floats | None = None,
        antibody: Engager | None = None,
        **more: Any,
    ) -> xr.Dataset:
        """Simulate patients for so many days from a day of each on; ``more`` as in the model's own simulator."""
        wanted = ["Ts", "Tr", "mprotein", "cart", *(["cumhaz"] if self.by_hazard else [])]
        wanted += [f"Qaph{len(course)}"] if len(course) > 1 else []
        if len(course) == 1 and "start" not in more:
            wanted += [name for name in self.states if name not in wanted]
        return self.simulate(
            course=course,
            times=judgement_days(follow_up=days, rules=self.rules),
            parameters=parameters,
            options=self.population.options,
            readouts=wanted,
            tolerance=TOLERANCE,
            since=since,
            engager=antibody,
            **more,
        )

    @property
    def states(self) -> list[str]:
        """Read-outs of a first course that later ones branch from."""
        if not self.branching:
            return []
        return [*states(1), *(["cumhaz"] if self.by_hazard else [])]

    def judge(
        self,
        k: int,
        simulated: xr.Dataset,
        rows: Integers,
        parameters: Mapping[str, Floats],
        *,
        days: float,
        death: Floats,
    ) -> CourseOutcome:
        """Judge course ``k`` of some candidates, from the day that their times count from."""
        outcome = read_course(
            simulated,
            follow_up=days,
            death_days=death,
            rules=self.rules,
            hazard_threshold=self._clock(k, simulated, rows) if self.by_hazard else None,
        )
        if not self.file.settings.extinction:
            return outcome
        chance = chance_of_cure(simulated, parameters)
        return outcome.or_cured(chance, self.luck.extinct[rows, k - 1], death_days=death, follow_up=days)

    def _clock(self, k: int, simulated: xr.Dataset, rows: Integers) -> Floats:
        """Accumulated hazard at which progression comes; a real patient has outlived a part of the first course's."""
        observed, clock = self.population.observed, self.luck.hazard(k)[rows]
        return clock if observed is None or k > 1 else clock + observed.outlived(simulated)

    def _first(self, scenario: Scenario, world: World) -> First:
        everyone = np.arange(self.size)
        infusion = self.first_infusion(scenario)
        parameters = arm_parameters(self.virtual, scenario, world, [infusion], self.rows)
        simulated = self.follow([infusion], parameters, days=self.first_days)
        death = self.death_days(self.luck.death(1), everyone)
        outcome = self.judge(1, simulated, everyone, parameters, days=self.first_days, death=death)
        if self.population.observed is not None:
            outcome = self.population.observed.condition(outcome)
        at = np.searchsorted(simulated["time"].to_numpy(), self.visits(self.first_days))
        return First(
            outcome=outcome,
            group=classify(outcome),
            simulated=solved(simulated["status"].to_numpy()),
            judged=~np.isnan(outcome.progression_days),
            visits={
                name: simulated[name].transpose("patient", "time").to_numpy()[:, at]
                for name in ("mprotein", *self.states)
            },
        )

    def _keep(self, scenario: Scenario, first: First) -> tuple[list[Acceptance], Integers]:
        """Candidates that become patients of an arm, and by block the others counted by reason."""
        if self.population.observed is None:
            chosen = first.eligible & selected(first.outcome, first.group, scenario)
        else:
            chosen = first.eligible
        judged = first.simulated & first.judged
        reasons = {
            "not_simulated": ~first.simulated,
            "not_judged": first.simulated & ~first.judged,
            "died": judged & first.outcome.died,
            "not_progressed": judged & ~first.outcome.died & ~first.outcome.progressed,
            "other_group": first.eligible & ~chosen,
            "met": chosen,
        }
        counts = {name: who.reshape(-1, BLOCK).sum(axis=1) for name, who in reasons.items()}
        acceptance = [
            Acceptance(candidates=BLOCK, **{name: int(count[b]) for name, count in counts.items()})
            for b in range(self.task.count)
        ]
        wanted = chosen.reshape(-1, BLOCK)
        return acceptance, np.flatnonzero(wanted & (wanted.cumsum(axis=1) <= self.task.most))


def _together(groups: Sequence[VirtualPatients]) -> VirtualPatients:
    """Groups of candidates joined into one."""
    first = groups[0]
    return VirtualPatients(
        parameters={name: np.concatenate([group.parameters[name] for group in groups]) for name in first.parameters},
        draw=np.concatenate([group.draw for group in groups]),
        fields={key: np.concatenate([group.fields[key] for group in groups]) for key in first.fields},
        occasion=np.concatenate([group.occasion for group in groups]),
        favourable={name: np.concatenate([group.favourable[name] for group in groups]) for name in first.favourable},
        clipped=sum(group.clipped for group in groups),
    )


def _models_own() -> Simulator:
    # steps that do not end on visits: a patient's numbers must not depend on what else is asked for
    return partial(simulate_population, land=False)
