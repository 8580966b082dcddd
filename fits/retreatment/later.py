"""The courses that follow a first one, for the patients of an arm: the same patients and luck, whatever is given.

A later course goes on from the state of the first at the last visit before cells are taken for the next infusion. From
there on it can also be followed with the parameters and the state of another patient (`frailty`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.branch import Start
from reinfuse.model.course import Infusion, resolve
from reinfuse.model.simulate import solved
from reinfuse.model.stopping import Stopping

from .arms import BEFORE_THERAPY, arm_parameters, engager, later_infusion, next_infusion_day
from .outcome_table import infusion_day
from .outcomes import ANTIGEN_LOSS_SHARE, CourseOutcome, Flags, Floats, Groups, Integers
from .scenarios import Scenario, SecondCourse, World
from .virtual_patients import VirtualPatients

if TYPE_CHECKING:
    from .block import Work


@dataclass(frozen=True, kw_only=True, eq=False)
class First:
    """First courses of n candidates under one treatment and one set of hypotheses.

    Attributes
    ----------
    outcome : CourseOutcome
    group : ndarray (n,)
        First-response groups.
    simulated, judged : ndarray of bool (n,)
        Whether the solver got through, and whether progression can be told.
    visits : dict of str to ndarray (n, visits)
        M-protein, of the untreated relapse too, and the states to branch from.
    """

    outcome: CourseOutcome
    group: Groups
    simulated: Flags
    judged: Flags
    visits: dict[str, Floats]

    @property
    def eligible(self) -> Flags:
        """Who progressed, as far as anyone can tell."""
        return np.asarray(self.simulated & self.judged & self.outcome.progressed)


class Later:
    """Later courses of the patients of one arm, or of some of them.

    Attributes
    ----------
    virtual : VirtualPatients
        The n patients.
    outcome : CourseOutcome
        Of their first courses.
    day : ndarray (n,)
        Of the second infusion, or of what stands in its place; +inf where there is none.
    death : ndarray (n,)
        Days from it to death without relapse; at most 0 for who does not live to see it.
    """

    def __init__(self, work: "Work", scenario: Scenario, world: World, first: First, rows: Integers) -> None:
        self.work, self.scenario, self.world, self.first, self.rows = work, scenario, world, first, rows
        self.virtual, self.outcome = work.virtual.subset(rows), first.outcome.take(rows)
        self.plans: Sequence[SecondCourse | None] = scenario.later or (None,)
        self._progression = self.outcome.progression_days.astype(np.float64)
        self.day = self._next_day(self._progression, self.plans[0])
        self.death = self._until(2, self._progression, self.day)[1]

    @property
    def infused(self) -> Flags:
        """Who lives to the second infusion (in a comparator: to its day)."""
        return np.isfinite(self.day) & (self.death > 0)

    def only(self, who: Flags) -> "Later":
        """The same of some patients."""
        return Later(self.work, self.scenario, self.world, self.first, self.rows[who])

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arm's rows, by column of `outcome_table`, labels as codes."""
        course: list[Infusion] = [self.work.first_infusion(self.scenario)]
        out: dict[str, NDArray[Any]] = {
            "patient": self.work.numbers[self.rows],
            "draw": self.virtual.draw,
            "group": self.first.group[self.rows],
            "antigen_loss": self.outcome.antigen_low > ANTIGEN_LOSS_SHARE,
            "infusion_day": self.day,
        }
        courses: dict[str, NDArray[Any]] = dict(self.outcome.columns(1))
        given = np.ones(self.rows.size, dtype=np.int8)
        failed = np.zeros(self.rows.size, dtype=np.bool_)
        progression = self._progression
        for k, plan in enumerate(self.plans, start=2):
            day = self.day if k == 2 else self._next_day(progression, plan)
            waited, death = self._until(k, progression, day)
            infused = np.isfinite(day) & (death > 0) & (given == k - 1)
            if k > 2:
                day = np.where(infused, day, np.inf)
                out[infusion_day(k)] = np.where(infused, day, np.nan)
            if plan is not None:
                course.append(later_infusion(plan, self.work.file, day))
            outcome, dysfunction, lost = self._one(k, course, day, death)
            failed |= lost
            courses |= outcome.columns(k, exposed=plan is not None)
            if k == 2:
                out |= {"infused": infused, "q_apheresis": dysfunction}
                courses["pfs_from_relapse_days"] = waited + outcome.pfs_days
            given = np.where(infused, k, given).astype(np.int8)
            over = infused & (outcome.progressed)
            progression = np.where(over, day + outcome.progression_days, np.inf)
        return out | {"failed": failed, "courses": given} | courses

    def second(
        self,
        plan: SecondCourse | None = None,
        *,
        patients: VirtualPatients | None = None,
        state: Mapping[str, Floats] | None = None,
    ) -> CourseOutcome:
        """Follow the second infusion's course alone, as it was or as another's.

        Parameters
        ----------
        plan
            What is given, on the same day; the scenario's when None.
        patients, state
            Parameters, and read-outs on the day of `before`, from then on; their own when None.

        Returns
        -------
        CourseOutcome
            With the same luck; NaN for who gets no second infusion.
        """
        return self._one(2, self._two(plan), self.day, self.death, patients=patients, state=state)[0]

    @property
    def before(self) -> Start:
        """Where patients who all get a second infusion stand at the last visit before cells are taken for it."""
        return self._start(np.arange(self.rows.size), self._two(None), self.day)

    def _two(self, plan: SecondCourse | None) -> list[Infusion]:
        second = plan or self.scenario.later[0]
        return [self.work.first_infusion(self.scenario), later_infusion(second, self.work.file, self.day)]

    def _until(self, k: int, progression: Floats, day: Floats) -> tuple[Floats, Floats]:
        """Days from progression to the beginning of course ``k``, and from there to death without relapse."""
        waited = np.where(np.isfinite(day), day, np.inf) - np.where(np.isfinite(day), progression, 0.0)
        return waited, self.work.death_days(self.work.luck.death(k), self.rows) - waited

    def _next_day(self, progression: Floats, plan: SecondCourse | None) -> Floats:
        """Day of the next infusion; +inf where there is none."""
        begin = progression
        if self.scenario.wait_and_see and plan is self.scenario.second:
            begin = self._risen(progression)
        return next_infusion_day(begin, self.scenario if plan is None else plan)

    def _risen(self, progression: Floats) -> Floats:
        """First visit from progression on at which M-protein has risen as far as the scenario waits for."""
        protein, visits = self.first.visits["mprotein"][self.rows], self.work.visits(self.work.first_days)
        at = np.searchsorted(visits, np.where(np.isfinite(progression), progression, 0.0))
        then = np.take_along_axis(protein, np.minimum(at, visits.size - 1)[:, None], axis=1)
        beyond = (protein >= self.scenario.wait_rise * then) & (visits >= progression[:, None])
        return np.where(beyond.any(axis=1), visits[beyond.argmax(axis=1)], np.inf)

    def _one(
        self,
        k: int,
        course: Sequence[Infusion],
        day: Floats,
        death: Floats,
        *,
        patients: VirtualPatients | None = None,
        state: Mapping[str, Floats] | None = None,
    ) -> tuple[CourseOutcome, Floats, Flags]:
        """Course ``k`` of those who get to it, dysfunction at its apheresis, and who could not be simulated.

        The others have the outcome of nobody.
        """
        work, who = self.work, np.flatnonzero(np.isfinite(day))
        dysfunction, failed = np.full(day.size, np.nan), np.zeros(day.size, dtype=np.bool_)
        if not who.size:
            return CourseOutcome.nobody(day.size), dysfunction, failed
        infused = len(course) == k
        antibody = None
        if not infused and self.scenario.bispecific:
            antibody = engager(work.file.bispecific, day[who], work.luck.antibody[self.rows[who]])
        some = [course[0], *(_of_some(infusion, who) for infusion in course[1:])]
        own = (self.virtual if patients is None else patients).subset(who)
        parameters = arm_parameters(own, self.scenario, self.world, some, work.rows)
        alive = np.maximum(death[who], 0.0)
        more = self._shortcuts(who, some, day, alive) if work.branching else {}
        if state is not None:
            more["start"] = replace(more["start"], state={name: values[who] for name, values in state.items()})
        simulated = work.follow(some, parameters, days=work.later_days, since=day[who], antibody=antibody, **more)
        outcome = work.judge(k, simulated, self.rows[who], parameters, days=work.later_days, death=alive)
        failed[who] = ~solved(simulated["status"].to_numpy())
        if infused:
            dysfunction[who] = simulated[f"Qaph{k}"].transpose("patient", "time").to_numpy()[:, 0]
        return outcome.scattered(who, day.size), dysfunction, failed

    def _shortcuts(self, who: Integers, course: Sequence[Infusion], day: Floats, death: Floats) -> dict[str, Any]:
        """What spares the simulator the past, and what cannot change the judgement."""
        work, more = self.work, {"start": self._start(who, course, day)}
        if work.file.settings.extinction:  # that reads the whole course
            return more
        rules = None if work.by_hazard else work.rules
        return more | {"stopping": Stopping(death_days=death, follow_up=work.later_days, rules=rules)}

    def _start(self, who: Integers, course: Sequence[Infusion], day: Floats) -> Start:
        """The first course at the last visit before cells are taken for the next infusion, or a comparator begins."""
        until = day[who]
        for item in resolve(course)[1:]:
            taken = np.where(item.apheresis_day > BEFORE_THERAPY, item.apheresis_day, np.inf)
            until = np.minimum(until, np.minimum(taken, np.nextafter(item.day, 0.0)))
        days = self.work.visits(self.work.first_days)
        at = last_visit(days, until)
        rows = self.rows[who]
        return Start(day=days[at], state={name: self.first.visits[name][rows, at] for name in self.work.states})


def last_visit(days: Floats, until: Floats) -> Integers:
    """Place of the last visit up to and with each day; the first visit is the infusion itself."""
    return np.asarray(np.searchsorted(days, until, side="right") - 1)


def _of_some(infusion: Infusion, who: Integers) -> Infusion:
    """The same infusion, for some of the patients."""
    return replace(infusion, day=np.asarray(infusion.day)[who])
