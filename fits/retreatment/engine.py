"""The experiment itself: virtual patients in, one line per patient and arm out.

Candidates are drawn in blocks. Each is treated with the first product of every distinct first course, and
kept where a real patient would have been: alive, progressed within the horizon, in a group the scenario looks
at. Nobody's parameters are edited to look like a group; the share kept is reported. Those kept go through
their second course under every arm, with the same parameters and the same chance of dying.

Random numbers belong to candidates, not to arms or to the order of work: candidate i has the same numbers,
and under the same arm the same outcome to the last digit, in every scenario file and for every number of
patients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH, Parameter, table
from reinfuse.model.response import ResponseRules

from .arms import arm_parameters, first_infusion, infusion_day, second_infusion
from .outcomes import ANTIGEN_LOSS_SHARE, PEAK_DAYS, CourseOutcome, at_day, classify, read_course, selected
from .scenarios import Scenario, ScenarioFile
from .virtual_patients import MPROTEIN_ONLY, SECOND_INFUSION_ONLY, PopulationDraws, VirtualPatients

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type FirstKey = tuple[tuple[str, float | None, float, float], tuple[float, float, float, float]]

#: Candidates drawn and simulated together.
BLOCK: Final = 256
#: Second courses simulated together, sorted by day so that they share grid days.
CHUNK: Final = 64
#: Candidates per patient asked for, at most.
MOST_CANDIDATES_PER_PATIENT: Final = 40
#: Tolerance of the simulations: response classes and visits do not see more.
TOLERANCE: Final = 1e-6


class Simulator(Protocol):
    """What the engine asks of `reinfuse.model.simulate.simulate_population`."""

    def __call__(
        self,
        *,
        course: Sequence[Infusion],
        times: Floats,
        parameters: Mapping[str, float | Floats],
        options: str,
        tolerance: float,
    ) -> xr.Dataset:
        """Simulate n patients; dims patient and time, `status` per patient."""


@dataclass(kw_only=True)
class Acceptance:
    """How candidates of one scenario became its patients.

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
    kept
        Patients of the scenario.
    """

    candidates: int = 0
    not_simulated: int = 0
    not_judged: int = 0
    died: int = 0
    not_progressed: int = 0
    other_group: int = 0
    kept: int = 0

    @property
    def share(self) -> float:
        """Share of candidates that met the scenario's conditions."""
        left = self.candidates - self.not_simulated
        out = self.not_judged + self.died + self.not_progressed + self.other_group
        return (left - out) / self.candidates if self.candidates else float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Result of an experiment.

    Attributes
    ----------
    outcomes : DataFrame
        One row per scenario and virtual patient; `OUTCOME_COLUMNS` says what each column means.
    acceptance : dict of str to Acceptance
        By scenario.
    caveats : tuple of str
        What a reader must know before using the figures.
    clipped : int
        Numbers of candidates that were set to a bound (`virtual_patients.BOUNDS`).
    failures : int
        Second courses that could not be simulated.
    """

    outcomes: pd.DataFrame
    acceptance: dict[str, Acceptance]
    caveats: tuple[str, ...]
    clipped: int
    failures: int
    settings: dict[str, Any] = field(default_factory=dict)


#: Columns of `outcomes.parquet`.
OUTCOME_COLUMNS: Final[Mapping[str, str]] = {
    "scenario": "name of the scenario",
    "patient": "number of the virtual patient; equal numbers are the same patient",
    "draw": "number of the draw of the population",
    "group": "first-response group",
    "antigen_loss": "whether most of the tumour was BCMA-low at the first relapse",
    "first_product": "name",
    "second_product": "name, or none",
    "infused": "whether the patient lived to the second infusion (or its day, in the comparator)",
    "failed": "whether the second course could not be simulated",
    "infusion_day": "day of the second infusion since the first",
    "q_apheresis": "host dysfunction when the second product's cells were taken; NaN without one",
    **{
        f"{name}_{course}": f"{words} ({'first' if course == 1 else 'second'} course)"
        for course in (1, 2)
        for name, words in (
            ("best", "best response"),
            ("evaluable", "whether a response class could be given"),
            ("response_days", "days to the first response, inf without"),
            ("mrd5", "MRD-negative at 1e-5"),
            ("mrd6", "MRD-negative at 1e-6"),
            ("pfs_days", "days to progression, death or end of follow-up"),
            ("pfs_event", "progression, death or none"),
            ("dor_days", "days from response to progression, death or end of follow-up; NaN without"),
            ("cmax", "peak of all CAR-T, cells/µL"),
            ("tmax", "days to the peak"),
            ("auc28", "area to day 28, cells/µL times days"),
            ("antigen_low", "share of BCMA-low cells at progression; NaN without"),
        )
    },
}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Luck:
    """Chance events of n candidates: standard exponential numbers, the same in every arm, (n,) each."""

    death_1: Floats
    death_2: Floats
    hazard_1: Floats
    hazard_2: Floats

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> "_Luck":
        # eight per candidate, so that later courses can be added without moving these
        numbers = rng.standard_exponential((n, 8))
        return cls(death_1=numbers[:, 0], death_2=numbers[:, 1], hazard_1=numbers[:, 2], hazard_2=numbers[:, 3])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Followed:
    """Candidates of one block after one kind of first course."""

    outcome: CourseOutcome
    group: NDArray[np.str_]
    simulated: Flags
    judged: Flags
    progressed: Flags
    died: Flags

    @property
    def eligible(self) -> Flags:
        return np.asarray(self.simulated & self.judged & self.progressed & ~self.died)


def run(
    file: ScenarioFile,
    population: PopulationDraws,
    *,
    patients: int,
    seed: int,
    simulate: Simulator | None = None,
    progress: Callable[[float], None] | None = None,
) -> Experiment:
    """Run every scenario of a file on virtual patients of a population.

    Parameters
    ----------
    file
        The scenarios.
    population
        Where virtual patients come from.
    patients
        Virtual patients per scenario.
    seed
        With it, the numbers of every candidate are fixed.
    simulate
        Simulator of populations; the model's own when None.
    progress
        Called with the number of patient courses done since the last call; `patients` times the number of
        scenarios in all.

    Returns
    -------
    Experiment

    Raises
    ------
    ReinfuseError
        If no candidate at all meets any scenario, or `patients` is below 1.
    """
    if patients < 1:
        raise ReinfuseError(f"patients is {patients}; give at least 1")
    _Engine.check(file, population)
    engine = _Engine(file, population, patients, seed, simulate or _model_simulator(), progress)
    return engine.run()


def _model_simulator() -> Simulator:
    from reinfuse.model.simulate import simulate_population

    # times are everyone's days together: a patient's numbers must not depend on who else there is
    return partial(simulate_population, land=False)


class _Engine:
    """State of one experiment while it runs."""

    def __init__(
        self,
        file: ScenarioFile,
        population: PopulationDraws,
        patients: int,
        seed: int,
        simulate: Simulator,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.file, self.population, self.patients, self.seed = file, population, patients, seed
        self.simulate, self.progress = simulate, progress
        settings = file.settings
        self.rules = ResponseRules(visit_interval=float(settings.visit_every_days))
        self.first_days = float(np.ceil(settings.first_horizon_months * DAYS_PER_MONTH))
        self.second_days = float(np.ceil(settings.second_horizon_months * DAYS_PER_MONTH))
        self.rows: Mapping[str, Parameter] = table(population.options)
        self.acceptance = {scenario.name: Acceptance() for scenario in file.scenarios}
        self.tables: dict[str, list[pd.DataFrame]] = {scenario.name: [] for scenario in file.scenarios}
        self.clipped = self.failures = 0

    @staticmethod
    def check(file: ScenarioFile, population: PopulationDraws) -> None:
        """Refuse what the population cannot answer."""
        if file.settings.progression == "hazard" and population.options != "real":
            raise ReinfuseError(
                "settings.progression is 'hazard', but these numbers belong to the reference model, which "
                "has no hazard of progression; use 'mprotein'"
            )

    def run(self) -> Experiment:
        """Go through blocks of candidates until every scenario has its patients."""
        most = max(MOST_CANDIDATES_PER_PATIENT * self.patients, 4 * BLOCK)
        block = 0
        while block * BLOCK < most and any(self._wants(s) for s in self.file.scenarios):
            self._one_block(block)
            block += 1
        made = [frame for scenario in self.file.scenarios for frame in self.tables[scenario.name]]
        if not made:
            raise ReinfuseError(
                f"none of {block * BLOCK} virtual patients progressed as any scenario wants; "
                "widen first.response or first.pfs_months, or raise settings.first_horizon_months"
            )
        outcomes = pd.concat(made, ignore_index=True)[list(OUTCOME_COLUMNS)]
        return Experiment(
            outcomes=outcomes,
            acceptance=self.acceptance,
            caveats=tuple(caveats(self.file, self.population, self.acceptance, self.patients)),
            clipped=self.clipped,
            failures=self.failures,
            settings=self.file.settings.model_dump(),
        )

    def _wants(self, scenario: Scenario) -> bool:
        return self.acceptance[scenario.name].kept < self.patients

    def _one_block(self, block: int) -> None:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(block,)))
        virtual = self.population.sample(BLOCK, rng, first=block * BLOCK)
        luck = _Luck.draw(BLOCK, rng)
        numbers = block * BLOCK + np.arange(BLOCK, dtype=np.int64)
        self.clipped += virtual.clipped
        followed: dict[FirstKey, _Followed] = {}
        for scenario in self.file.scenarios:
            if not self._wants(scenario):
                continue
            if scenario.first_key not in followed:
                followed[scenario.first_key] = self._first_course(scenario, virtual, luck)
            rows = self._keep(scenario, followed[scenario.first_key])
            if rows.size:
                frame = self._second_course(scenario, virtual, luck, followed[scenario.first_key], rows, numbers)
                self.tables[scenario.name].append(frame)
            if self.progress is not None:
                self.progress(float(rows.size))

    # ------------------------------------------------------------------------------------- courses

    def _death_days(self, virtual: VirtualPatients, luck: Floats) -> Floats:
        """Days to death without relapse: a constant hazard, `hD`."""
        hazard = virtual.parameters.get("hD")
        if hazard is None:
            return luck / self.rows["hD"].median
        with np.errstate(divide="ignore"):
            return luck / hazard

    def _simulate(
        self, course: Sequence[Infusion], times: Floats, virtual: VirtualPatients, scenario: Scenario
    ) -> xr.Dataset:
        parameters = arm_parameters(virtual, scenario, course, self.rows)
        return self.simulate(
            course=course,
            times=times,
            parameters=parameters,
            options=self.population.options,
            tolerance=TOLERANCE,
        )

    def _first_course(self, scenario: Scenario, virtual: VirtualPatients, luck: _Luck) -> _Followed:
        times = np.unique(np.concatenate([[0.0], self._offsets(self.first_days)]))
        simulated = self._simulate([first_infusion(scenario, self.file)], times, virtual, scenario)
        death = self._death_days(virtual, luck.death_1)
        outcome = read_course(
            simulated,
            start=np.zeros(virtual.n),
            follow_up=self.first_days,
            death_days=death,
            rules=self.rules,
            hazard_threshold=luck.hazard_1 if self.file.settings.progression == "hazard" else None,
        )
        return _Followed(
            outcome=outcome,
            group=classify(outcome),
            simulated=simulated["status"].to_numpy() == 0,
            judged=~np.isnan(outcome.progression_days),
            progressed=outcome.pfs_event == "progression",
            died=outcome.pfs_event == "death",
        )

    def _keep(self, scenario: Scenario, followed: _Followed) -> NDArray[np.int64]:
        """Candidates of a block that become patients of a scenario, counted."""
        seen = self.acceptance[scenario.name]
        chosen = followed.eligible & selected(followed.outcome, followed.group, scenario)
        rows = np.flatnonzero(chosen)[: self.patients - seen.kept]
        simulated, judged = followed.simulated, followed.simulated & followed.judged
        seen.candidates += int(simulated.size)
        seen.not_simulated += int(np.count_nonzero(~simulated))
        seen.not_judged += int(np.count_nonzero(simulated & ~followed.judged))
        seen.died += int(np.count_nonzero(judged & followed.died))
        seen.not_progressed += int(np.count_nonzero(judged & ~followed.died & ~followed.progressed))
        seen.other_group += int(np.count_nonzero(followed.eligible & ~chosen))
        seen.kept += int(rows.size)
        return rows

    def _second_course(
        self,
        scenario: Scenario,
        virtual: VirtualPatients,
        luck: _Luck,
        followed: _Followed,
        rows: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> pd.DataFrame:
        day = infusion_day(followed.outcome.progression_days[rows], scenario)
        frames = []
        order = np.argsort(day, kind="stable")
        for part in np.array_split(order, int(np.ceil(order.size / CHUNK))):
            chosen = rows[part]
            frames.append(
                self._second_chunk(scenario, virtual.subset(chosen), luck, followed, chosen, day[part], numbers)
            )
        return pd.concat(frames, ignore_index=True).sort_values("patient", ignore_index=True)

    def _second_chunk(
        self,
        scenario: Scenario,
        virtual: VirtualPatients,
        luck: _Luck,
        followed: _Followed,
        rows: NDArray[np.int64],
        day: Floats,
        numbers: NDArray[np.int64],
    ) -> pd.DataFrame:
        times = np.unique(np.append(day[:, None] + self._offsets(self.second_days), 0.0))
        course = [first_infusion(scenario, self.file)]
        second = second_infusion(scenario, self.file, day)
        if second is not None:
            course.append(second)
        simulated = self._simulate(course, times, virtual, scenario)
        waited = day - followed.outcome.progression_days[rows]
        death = self._death_days(virtual, luck.death_2[rows]) - waited
        outcome = read_course(
            simulated,
            start=day,
            follow_up=self.second_days,
            death_days=np.maximum(death, 0.0),
            rules=self.rules,
            hazard_threshold=luck.hazard_2[rows] if self.file.settings.progression == "hazard" else None,
        )
        failed = simulated["status"].to_numpy() != 0
        self.failures += int(np.count_nonzero(failed))
        dysfunction = np.full(day.size, np.nan) if second is None else at_day(simulated, "Qaph2", day)
        group = followed.group[rows]
        first = followed.outcome
        return pd.DataFrame(
            {
                "scenario": scenario.name,
                "patient": numbers[rows],
                "draw": virtual.draw,
                "group": group,
                "antigen_loss": first.antigen_low[rows] > ANTIGEN_LOSS_SHARE,
                "first_product": scenario.first.product,
                "second_product": scenario.second_label,
                "infused": death > 0,
                "failed": failed,
                "infusion_day": day,
                "q_apheresis": dysfunction,
                **_columns(first, 1, rows),
                **_columns(outcome, 2, np.arange(day.size), exposed=second is not None),
            }
        )

    def _offsets(self, until: float) -> Floats:
        """Grid days after an infusion: daily at first, then at visits, and the last day of follow-up."""
        fine = np.arange(0.0, min(PEAK_DAYS, until) + 1.0)
        visits = np.arange(0.0, until + 0.5, self.rules.visit_interval)
        return np.unique(np.concatenate([fine, visits, [until]]))


def _columns(
    outcome: CourseOutcome, course: int, rows: NDArray[np.int64], *, exposed: bool = True
) -> dict[str, NDArray[Any]]:
    """Columns of one course; exposure is NaN in an arm without an infusion."""
    nothing = np.full(rows.size, np.nan)
    return {
        f"best_{course}": outcome.best[rows],
        f"evaluable_{course}": outcome.evaluable[rows],
        f"response_days_{course}": outcome.response_days[rows],
        f"mrd5_{course}": outcome.mrd5[rows],
        f"mrd6_{course}": outcome.mrd6[rows],
        f"pfs_days_{course}": outcome.pfs_days[rows],
        f"pfs_event_{course}": outcome.pfs_event[rows],
        f"dor_days_{course}": outcome.dor_days[rows],
        f"cmax_{course}": outcome.cmax[rows] if exposed else nothing,
        f"tmax_{course}": outcome.tmax[rows] if exposed else nothing,
        f"auc28_{course}": outcome.auc28[rows] if exposed else nothing,
        f"antigen_low_{course}": outcome.antigen_low[rows],
    }


# --------------------------------------------------------------------------------------------- caveats


def caveats(
    file: ScenarioFile,
    population: PopulationDraws,
    acceptance: Mapping[str, Acceptance],
    patients: int,
) -> list[str]:
    """Say in words what a reader must know before using the figures."""
    said = [
        "The correlation between first and second PFS is mostly frailty: the same patient has the same "
        "tumour and the same T cells twice. It is no evidence for retained exhaustion or dysfunction.",
        "The hypotheses (host dysfunction, antigen loss, anti-CAR immunity, microenvironment) are "
        "assumptions of the model, not findings. Compare arms with a hypothesis on and off before drawing a "
        "conclusion.",
    ]
    no_data = "B0" in population.prior_only
    if no_data:
        said.append("Every figure comes from priors alone: no data stand behind any of them.")
    retreatment = [name for name in SECOND_INFUSION_ONLY if name in population.prior_only]
    if retreatment and not no_data:
        behind = (
            "the cohort has second infusions, but the fit did not estimate these numbers"
            if population.second_infusions
            else "no data with second infusions stand behind it"
        )
        said.append(
            f"What changes from the first infusion to the second ({', '.join(retreatment)}) comes from the "
            f"prior alone: {behind}."
        )
    protein = [name for name in MPROTEIN_ONLY if name in population.prior_only]
    if protein and not no_data and file.settings.progression == "mprotein":
        said.append(
            f"Responses and progression follow M-protein, whose parameters ({', '.join(protein)}) come from "
            "the prior alone: the data had no M-protein."
        )
    if population.variant.name != "full":
        said.append(f"The numbers belong to a restricted model: {population.variant.describe()}.")
    if any(s.first.product != s.second_label for s in file.scenarios if not s.no_second):
        said.append(
            "A second product differs from the first in its own numbers only. Differences between the "
            "patients who got one or the other product (tumour burden) are not carried over."
        )
    if any(scenario.no_second for scenario in file.scenarios):
        said.append(
            "Death from myeloma is not in the model, and a tumour at its carrying capacity cannot progress "
            "any more: the later part of the comparator without a second infusion is too good."
        )
    for name, seen in acceptance.items():
        if seen.kept < patients:
            said.append(
                f"Scenario {name!r}: only {seen.kept} of {patients} patients were found among "
                f"{seen.candidates} candidates ({seen.share:.1%} met its conditions)."
            )
        if seen.not_simulated > 0.01 * max(seen.candidates, 1):
            said.append(
                f"Scenario {name!r}: {seen.not_simulated} of {seen.candidates} first courses could not be "
                "simulated and are missing from the figures."
            )
    return said
