"""From values of inputs to outcomes: a virtual patient's courses, simulated and judged as the laboratory does.

The first course, then the second for those who relapsed, and no second infusion beside it for the benefit. Both go on
from the first course at the last visit before they part, and every course stops once nothing left can change what is
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.branch import Start, states
from reinfuse.model.course import Infusion, resolve
from reinfuse.model.judgement import AUC_DAYS, PEAK_DAYS, judgement_days
from reinfuse.model.parameters import DAYS_PER_MONTH, table
from reinfuse.model.response import kinetics
from reinfuse.model.simulate import simulate_population, solved
from reinfuse.model.stopping import Stopping

from ..retreatment.arms import BEFORE_THERAPY, arm_parameters, first_infusion, later_infusion, next_infusion_day
from ..retreatment.block import TOLERANCE
from ..retreatment.later import last_visit
from ..retreatment.outcomes import CourseOutcome, chance_of_cure, read_course
from ..retreatment.scenarios import Scenario, ScenarioFile, World
from ..retreatment.virtual_patients import OptionsName, VirtualPatients
from .inputs import CLOCKS, Inputs
from .outcomes import CURVE_DAYS, CURVES, FLOORS, UNDEFINED, Outcome, describe, in_world

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """From values of inputs to outcomes: picklable, so that any process can do it.

    Attributes
    ----------
    inputs : Inputs
    asked : tuple of str
        From `expanded`.
    file, scenario
        The course that patients go through.
    worlds : tuple of World
        Hypotheses under which the same patients go through it.
    options : str
        Table of the model.
    """

    inputs: Inputs
    asked: tuple[str, ...]
    file: ScenarioFile
    scenario: Scenario
    worlds: tuple[World, ...]
    options: OptionsName

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of what is read; with their world if there are several."""
        if len(self.worlds) == 1:
            return self.asked
        return tuple(in_world(name, world.name) for world in self.worlds for name in self.asked)

    @property
    def by_world(self) -> "tuple[Reader, ...]":
        """A reader for each world, in the order of the outcomes."""
        return tuple(replace(self, worlds=(world,)) for world in self.worlds)

    @property
    def needs(self) -> frozenset[str]:
        """What has to be simulated."""
        return frozenset(describe(name).needs for name in self.asked)

    @property
    def courses(self) -> int:
        """Solves of the equations for a patient at most."""
        return len(self.worlds) * (3 if "benefit" in self.needs else 2 if "second" in self.needs else 1)

    @property
    def times(self) -> Floats:
        """Days on which a first course is read."""
        return np.union1d(judgement_days(follow_up=self._days[0], rules=self.file.settings.rules), CURVE_DAYS)

    def read(self, values: Floats) -> tuple[Floats, Integers]:
        """Outcomes (n, q) of patients with inputs ``values`` (n, k), NaN where there is none, and status (n,).

        The status is that of the first solve that failed (`Status`), `UNDEFINED` where an outcome that everybody has
        could not be told, else 0. Who fails in one world is left out of all.
        """
        if len(self.worlds) > 1:
            parts, states = zip(*(one.read(values) for one in self.by_world), strict=True)
            failed = np.stack(states)
            first = np.take_along_axis(failed, (failed != 0).argmax(axis=0)[None], axis=0)[0]
            return np.where(first[:, None] == 0, np.hstack(parts), np.nan), first
        patients, clocks = self.inputs.patients(values)
        if self.needs == {"cart"}:
            found, status = self._kinetics(patients)
        else:
            found, status = self._courses(patients, clocks)
        missing = [describe(name).relapsed_only for name in self.asked]
        undefined = (~np.isfinite(found) & ~np.array(missing)).any(axis=1)
        status = np.where(undefined & solved(status), UNDEFINED, np.where(solved(status), 0, status))
        found[status != 0] = np.nan
        return found, status

    # -------------------------------------------------------------------------------- one course after the other

    def _kinetics(self, patients: VirtualPatients) -> tuple[Floats, Integers]:
        times = np.arange(0.0, PEAK_DAYS + 1.0)
        course = [first_infusion(self.scenario, self.file)]
        simulated = self._simulate(course, patients, times, ["cart"])
        cart = simulated["cart"].transpose("patient", "time").to_numpy()
        seen = kinetics(times, cart, end=PEAK_DAYS, auc_days=AUC_DAYS)
        by_name = {"cmax": seen.cmax, "tmax": seen.tmax, "auc28": seen.auc}
        found = np.column_stack([_scaled(by_name[name], describe(name)) for name in self.asked])
        return found, simulated["status"].to_numpy().astype(np.int64)

    def _courses(self, patients: VirtualPatients, clocks: Floats) -> tuple[Floats, Integers]:
        more = ["transgene"] if any(name.startswith("transgene@") for name in self.asked) else []
        again = bool(self.needs & {"second", "benefit"})
        death = self._death_days(patients, clocks, 1)
        seen = any(name == "nadir" or name.partition("@")[0] in CURVES for name in self.asked)
        simulated = self._simulate(
            [first_infusion(self.scenario, self.file)], patients, self.times, [*self._judged, *more],
            branched=again, stopping=self._stopping(death, 1, whole_until=CURVE_DAYS[-1] if seen else PEAK_DAYS),
        )  # fmt: skip
        first = self._judge(simulated, patients, [first_infusion(self.scenario, self.file)], clocks, 1, death)
        status = simulated["status"].to_numpy().astype(np.int64)
        relapsed = np.flatnonzero(first.progressed & solved(status))
        second, gain = None, np.zeros(patients.n)
        if again:
            second, gain = self._second(patients, clocks, simulated, first, relapsed, status)
        found = np.column_stack([self._column(name, simulated, first, second, gain) for name in self.asked])
        return found, status

    def _second(
        self,
        patients: VirtualPatients,
        clocks: Floats,
        before: xr.Dataset,
        first: CourseOutcome,
        who: Integers,
        status: Integers,
    ) -> tuple[CourseOutcome, Floats]:
        """The second course of those who relapsed, and what it gains over none; writes their status."""
        n = patients.n
        gain, second = np.zeros(n), CourseOutcome.nobody(n)
        if not who.size:
            return second, gain
        some, luck = patients.subset(who), clocks[who]
        progression = first.progression_days[who].astype(np.float64)
        day = next_infusion_day(progression, self.scenario)
        times = judgement_days(follow_up=self._days[1], rules=self.file.settings.rules)
        infusion = first_infusion(self.scenario, self.file)
        again = later_infusion(self.scenario.later[0], self.file, day)
        start = self._start(before, who, [infusion, again], progression)
        death = np.maximum(self._death_days(some, luck, 2) - (day - progression), 0.0)
        judged = []
        for course in [[infusion, again], [infusion]][: 1 + ("benefit" in self.needs)]:
            simulated = self._simulate(
                course, some, times, self._judged, since=day, start=start, stopping=self._stopping(death, 2)
            )
            judged.append(self._judge(simulated, some, course, luck, 2, death))
            failed = ~solved(simulated["status"].to_numpy())
            status[who[failed]] = simulated["status"].to_numpy()[failed]
        if len(judged) > 1:
            gain[who] = (judged[0].pfs_days - judged[1].pfs_days) / DAYS_PER_MONTH
        return judged[0].scattered(who, n), gain

    def _start(self, before: xr.Dataset, who: Integers, course: Sequence[Infusion], progression: Floats) -> Start:
        """The first course at the last visit at which courses are still one: both after it go on from there."""
        again = resolve(course)[1]
        taken = np.where(again.apheresis_day > BEFORE_THERAPY, again.apheresis_day, np.inf)
        until = np.minimum(np.minimum(progression, taken), np.nextafter(again.day, 0.0))
        visits = np.concatenate([[0.0], self.file.settings.rules.schedule(self._days[0])])
        day = visits[last_visit(visits, until)]
        at = np.searchsorted(before["time"].to_numpy(), day)
        return Start(day=day, state={name: before[name].to_numpy()[who, at] for name in self._states})

    def _simulate(
        self,
        course: Sequence[Infusion],
        patients: VirtualPatients,
        times: Floats,
        wanted: Sequence[str],
        *,
        branched: bool = False,
        **more: Any,
    ) -> xr.Dataset:
        return simulate_population(
            course=course,
            times=times,
            parameters=self._parameters(patients, course),
            options=self.options,
            readouts=list(dict.fromkeys([*wanted, *(self._states if branched else ())])),
            tolerance=TOLERANCE,
            land=False,
            **more,
        )

    def _parameters(self, patients: VirtualPatients, course: Sequence[Infusion]) -> dict[str, Floats]:
        return arm_parameters(patients, self.scenario, self.worlds[0], course, table(self.options))

    def _judge(
        self,
        simulated: xr.Dataset,
        patients: VirtualPatients,
        course: Sequence[Infusion],
        clocks: Floats,
        k: int,
        death: Floats,
    ) -> CourseOutcome:
        follow_up = self._days[k - 1]
        found = read_course(
            simulated,
            follow_up=follow_up,
            death_days=death,
            rules=self.file.settings.rules,
            hazard_threshold=clocks[:, CLOCKS.index("hazard"), k - 1] if self._by_hazard else None,
        )
        if not self.file.settings.extinction:
            return found
        chance = chance_of_cure(simulated, self._parameters(patients, course))
        uniform = -np.expm1(-clocks[:, CLOCKS.index("extinct"), k - 1])
        return found.or_cured(chance, uniform, death_days=death, follow_up=follow_up)

    def _stopping(self, death: Floats, k: int, whole_until: float = PEAK_DAYS) -> Stopping | None:
        """When a course may end early; never where extinction is asked for, which reads the whole of it."""
        if self.file.settings.extinction:
            return None
        rules = None if self._by_hazard else self.file.settings.rules
        return Stopping(death_days=death, follow_up=self._days[k - 1], rules=rules, whole_until=whole_until)

    def _death_days(self, patients: VirtualPatients, clocks: Floats, k: int) -> Floats:
        """Days to death without relapse, from where its clock begins."""
        rate = patients.parameters.get("hD", np.full(patients.n, table(self.options)["hD"].median))
        return np.asarray(clocks[:, CLOCKS.index("death"), k - 1] / rate)

    @property
    def _days(self) -> tuple[float, float]:
        """Days of follow-up of both courses."""
        horizons = (self.file.settings.first_horizon_months, self.file.settings.second_horizon_months)
        first, second = np.ceil(np.array(horizons) * DAYS_PER_MONTH)
        return float(first), float(second)

    @property
    def _judged(self) -> list[str]:
        """Read-outs that a judgement needs."""
        return ["Ts", "Tr", "mprotein", "cart", *(["cumhaz"] if self._by_hazard else [])]

    @property
    def _states(self) -> list[str]:
        """Read-outs that a second course goes on from."""
        return [*states(1), *(["cumhaz"] if self._by_hazard else [])]

    @property
    def _by_hazard(self) -> bool:
        return self.file.settings.progression == "hazard"

    def _column(
        self, name: str, simulated: xr.Dataset, first: CourseOutcome, second: CourseOutcome | None, gain: Floats
    ) -> Floats:
        kind, _, day = name.partition("@")
        outcome = describe(name)
        if kind in CURVES or kind == "nadir":
            curve = _curve(simulated, "transgene" if kind == "transgene" else "burden")
            if day:
                return np.asarray(curve[:, np.searchsorted(simulated["time"].to_numpy(), float(day))])
            return np.asarray(curve[:, simulated["time"].to_numpy() <= CURVE_DAYS[-1]].min(axis=1))
        if kind == "benefit":
            return gain
        course = second if outcome.needs == "second" and second is not None else first
        if kind in ("pfs1", "pfs2"):
            return np.asarray(course.pfs_days / DAYS_PER_MONTH, dtype=np.float64)
        if outcome.column == "best":
            return np.where(course.evaluable, course.best.astype(np.float64), np.nan)
        return _scaled(np.asarray(getattr(course, outcome.column), dtype=np.float64), outcome)


def _curve(simulated: xr.Dataset, kind: str) -> Floats:
    """Log10 of a curve, (n, T)."""
    cells = simulated["transgene"] if kind == "transgene" else simulated["Ts"] + simulated["Tr"]
    return np.asarray(np.log10(np.maximum(cells.transpose("patient", "time").to_numpy(), FLOORS[kind])))


def _scaled(values: Floats, outcome: Outcome) -> Floats:
    if not outcome.log:
        return values.astype(np.float64)
    return np.asarray(np.log10(np.maximum(values, 1e-12)), dtype=np.float64)
