"""The experiment itself: blocks of virtual patients in, one line per patient and arm out.

Blocks are done on this machine or on a cluster, in any order; their rows are written in the order of their numbers, as
many of each arm as were asked for. Random numbers belong to candidates, not to arms, workers or the order of work:
candidate i has the same numbers, and under the same arm the same outcome to the last digit, in every scenario file, for
every number of patients, and on however many machines.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from reinfuse.model.errors import ReinfuseError

from ..tasks import run_tasks
from .block import BLOCK, Acceptance, Block, Part, Simulator, run_block, run_blocks
from .mechanisms import FAVOURABLE, MECHANISMS
from .outcome_table import OutcomeTable, OutcomeWriter
from .scenarios import ScenarioFile
from .virtual_patients import MPROTEIN_ONLY, SECOND_INFUSION_ONLY, PopulationDraws

#: Candidates per patient asked for, at most.
MOST_CANDIDATES_PER_PATIENT: Final = 40
#: Share of candidates that is guessed to meet a scenario's conditions before any is seen.
GUESS: Final = 0.5
#: Patients times arms from which blocks are given to processes of their own; below, starting these takes longer.
WORTH_PROCESSES: Final = 100_000
#: Blocks that a worker takes at once, at most, and tasks below which it takes one.
MOST_TOGETHER: Final = 4
FEWEST_TASKS: Final = 64


class NobodyProgressed(ReinfuseError):
    """No candidate at all progressed as any scenario wants."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Result of an experiment.

    Attributes
    ----------
    outcomes : OutcomeTable
        One row per scenario, world and virtual patient.
    acceptance : dict of (str, str) to Acceptance
        By scenario and world.
    caveats : tuple of str
        What a reader must know before using the figures.
    failures : int
        Later courses that could not be simulated.
    """

    outcomes: OutcomeTable
    acceptance: dict[tuple[str, str], Acceptance]
    caveats: tuple[str, ...]
    failures: int
    settings: dict[str, Any] = field(default_factory=dict)


def run(
    file: ScenarioFile,
    population: PopulationDraws,
    *,
    patients: int,
    seed: int,
    path: Path,
    cores: int | None = None,
    cluster: str | None = None,
    simulate: Simulator | None = None,
    progress: Callable[[float], None] | None = None,
) -> Experiment:
    """Run every scenario of a file, in every world, on virtual patients of a population.

    Parameters
    ----------
    file
        The scenarios.
    population
        Where virtual patients come from.
    patients
        Virtual patients per arm.
    seed
        With it, the numbers of every candidate are fixed.
    path
        Parquet file for the outcomes.
    cores
        Processes on this machine; None: one for each core. They do not change the results.
    cluster
        Address of the scheduler of a dask.distributed cluster to run on instead, such as ``tcp://10.0.0.1:8786``.
    simulate
        Simulator of populations; the model's own when None. Another one works in this process alone.
    progress
        Called with the number of patient courses done since the last call; `patients` times the number of arms in all.

    Returns
    -------
    Experiment

    Raises
    ------
    NobodyProgressed
        If no candidate at all meets any scenario.
    ReinfuseError
        If `patients` is below 1, or the cluster does not answer.
    """
    if patients < 1:
        raise ReinfuseError(f"patients is {patients}; give at least 1")
    _check(file, population)
    arms = [(s, w) for s in range(len(file.scenarios)) for w in range(len(file.worlds))]
    names = {arm: (file.scenarios[arm[0]].name, file.worlds[arm[1]].name) for arm in arms}
    acceptance = {arm: Acceptance() for arm in arms}
    most = max(-(-MOST_CANDIDATES_PER_PATIENT * patients // BLOCK), 4)
    failures, done = 0, 0
    first_product = None if population.observed is None else population.observed.product
    with OutcomeWriter(path, file, first_product=first_product) as writer:
        while done < most and (left := tuple(arm for arm in arms if acceptance[arm].kept < patients)):
            count = min(_blocks(patients, [acceptance[arm] for arm in left]), most - done)
            tasks = {
                number: Block(
                    number=number,
                    seed=seed,
                    file=file,
                    population=population,
                    arms=left,
                    most=min(patients, BLOCK),
                    simulate=simulate,
                )
                for number in range(done, done + count)
            }
            alone = simulate is not None or (cluster is None and patients * len(arms) < WORTH_PROCESSES)
            with closing(_in_order(tasks, alone=alone, cores=cores, cluster=cluster)) as coming:
                for parts in coming:
                    for part in parts:
                        kept = _take(acceptance[part.arm], part, patients)
                        writer.add(file.scenarios[part.arm[0]], file.worlds[part.arm[1]], part.columns, kept)
                        failures += int(np.count_nonzero(part.columns["failed"][:kept]))
                        if progress is not None and kept:
                            progress(float(kept))
                    if all(acceptance[arm].kept >= patients for arm in left):  # blocks still to come have no use
                        break
            done += count
    if not any(seen.kept for seen in acceptance.values()):
        path.unlink(missing_ok=True)
        raise NobodyProgressed(
            f"none of {done * BLOCK} virtual patients progressed as any scenario wants; "
            "widen first.response or first.pfs_months, or raise settings.first_horizon_months"
        )
    by_name = {names[arm]: seen for arm, seen in acceptance.items()}
    return Experiment(
        outcomes=OutcomeTable(path),
        acceptance=by_name,
        caveats=tuple(caveats(file, population, by_name, patients)),
        failures=failures,
        settings=file.settings.model_dump(),
    )


def _check(file: ScenarioFile, population: PopulationDraws) -> None:
    """Refuse what the population cannot answer."""
    if file.settings.progression == "hazard" and population.options != "real":
        raise ReinfuseError(
            "settings.progression is 'hazard', but these numbers belong to the reference model, which "
            "has no hazard of progression; use 'mprotein'"
        )


def _blocks(patients: int, seen: list[Acceptance]) -> int:
    """Blocks to do next, so that the arms which lack most patients probably get them."""
    need = 1.0
    for one in seen:
        share = max(one.share, 1.0 / BLOCK / 16) if one.candidates else GUESS
        need = max(need, (patients - one.kept) / (share * BLOCK))
    return int(np.ceil(need))


def _take(acceptance: Acceptance, part: Part, patients: int) -> int:
    """Count a block in, and say how many of its patients are kept; once an arm is full, nothing counts any more."""
    if acceptance.kept >= patients:
        return 0
    acceptance.add(part.acceptance)
    kept = min(part.rows, patients - acceptance.kept)
    acceptance.kept += kept
    return kept


def _in_order(
    tasks: Mapping[int, Block], *, alone: bool, cores: int | None, cluster: str | None
) -> Generator[list[Part]]:
    """Results of blocks in the order of their numbers, whoever does them when."""
    if alone:
        for task in tasks.values():
            yield run_block(task)
        return
    together = max(1, min(MOST_TOGETHER, len(tasks) // FEWEST_TASKS))
    numbers = sorted(tasks)
    bundles = {
        place: replace(tasks[numbers[place]], count=len(numbers[place : place + together]))
        for place in range(0, len(numbers), together)
    }
    waiting: dict[int, list[list[Part]]] = {}
    following = 0
    with closing(_generator(run_tasks(run_blocks, bundles, cores=cores, cluster=cluster))) as done:
        for number, results in done:
            waiting[number] = results
            while following in waiting:
                yield from waiting.pop(following)
                following += together


def _generator[T](iterator: Iterator[T]) -> Generator[T]:
    """The same, to be closed."""
    yield from iterator


# --------------------------------------------------------------------------------------------- caveats


def caveats(
    file: ScenarioFile,
    population: PopulationDraws,
    acceptance: Mapping[tuple[str, str], Acceptance],
    patients: int,
) -> list[str]:
    """Say in words what a reader must know before using the figures."""
    said = [
        "The correlation between first and second PFS is mostly frailty: the same patient has the same "
        "tumour and the same T cells twice. It is no evidence for retained exhaustion or dysfunction.",
        f"The hypotheses ({', '.join(mechanism.words for mechanism in MECHANISMS)}) are "
        "assumptions of the model, not findings. Every arm is run with them on and off; the stacked answer weighs "
        "these worlds, it does not choose between them.",
    ]
    missing = [mechanism.words for mechanism in population.lacking if not mechanism.better]
    if missing:
        said.append(
            f"The model of this run has no {' and no '.join(missing)}: no figure here says what it would do. Fit "
            "another variant (`reinfuse fit --variant`) and compare."
        )
    bounds = {world.name: world.weight for world in file.worlds if world.is_bound}
    if bounds:
        weighed = ", ".join(f"{name!r}" for name, weight in bounds.items() if weight) or "none of them"
        said.append(
            f"Bounds, and no possible populations: {', '.join(map(repr, bounds))}. There, every patient kills, or "
            f"keeps CAR-T cells, at least as well as the best {1 - FAVOURABLE:.0%} of the population. In the stacked "
            f"answer counts {weighed}."
        )
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
    if any(plan.product != s.first.product for s in file.scenarios for plan in s.later):
        said.append(
            "A second product differs from the first in its own numbers only. Differences between the "
            "patients who got one or the other product (tumour burden) are not carried over."
        )
    if any(scenario.no_second for scenario in file.scenarios):
        said.append(
            "Death from myeloma is not in the model, and a tumour at its carrying capacity cannot progress "
            "any more: the later part of the comparator without a second infusion is too good."
        )
    if len({(scenario.days_after_progression, scenario.wait_and_see) for scenario in file.scenarios}) > 1:
        said.append(
            "Some arms wait longer than others. Contrasts, choices and the best arm count second PFS from each arm's "
            "own infusion, in patients infused in both arms: waiting costs nothing there, nor who dies or is never "
            "infused meanwhile. They do not say when to infuse."
        )
    if any(scenario.bispecific for scenario in file.scenarios):
        said.append(
            "The bispecific antibody is a killing rate times the fitness of the host's T cells, set so that responses "
            "come near a published series; it has no pharmacokinetics and no infections."
        )
    said.extend(_shortfalls(acceptance, patients))
    return said


def _shortfalls(acceptance: Mapping[tuple[str, str], Acceptance], patients: int) -> list[str]:
    """Arms that have fewer patients than asked for, or lost some to the solver."""
    said = []
    for (scenario, world), seen in acceptance.items():
        if seen.kept < patients:
            said.append(
                f"Scenario {scenario!r}, {world}: only {seen.kept} of {patients} patients were found among "
                f"{seen.candidates} candidates ({seen.share:.1%} met its conditions)."
            )
        if seen.not_simulated > 0.01 * max(seen.candidates, 1):
            said.append(
                f"Scenario {scenario!r}, {world}: {seen.not_simulated} of {seen.candidates} first courses could not be "
                "simulated and are missing from the figures."
            )
    return said
