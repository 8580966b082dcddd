"""What an experiment says: its tables, arm by arm from disk, ready to be written, drawn and printed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from reinfuse.model.parameters import table

from .anchor import COLUMNS as ANCHOR_COLUMNS
from .anchor import beside_study, tally
from .block import BLOCK, Block, Work
from .drivers import attribute, favourable_values, summarise_drivers
from .outcome_table import OutcomeTable
from .scenarios import GROUPS, ScenarioFile
from .statistics import summarise
from .virtual_patients import SampledPopulation

#: Virtual patients whose relapses are explained, of the main scenario.
EXPLAINED: Final = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What is written, drawn and printed of an experiment.

    Attributes
    ----------
    tables : dict of str to DataFrame
        By name, of `folder.TABLES`; empty where a question was not asked.
    words : dict of str to list of str
        Sentences by heading, for the terminal and the record.
    caveats : list of str
        What a reader must know before using the figures.
    """

    tables: dict[str, pd.DataFrame]
    words: dict[str, list[str]]
    caveats: list[str]


def arms_in_order(outcomes: OutcomeTable, file: ScenarioFile) -> list[tuple[str, str]]:
    """Arms that have patients, scenario by scenario and world by world as in the file."""
    there = set(outcomes.arms)
    every = [(scenario.name, world.name) for scenario in file.scenarios for world in file.worlds]
    return [arm for arm in every if arm in there]


def parts(
    outcomes: OutcomeTable, file: ScenarioFile, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Scenario, world and rows of every arm, one in memory at a time."""
    for scenario, world in arms_in_order(outcomes, file):
        yield scenario, world, outcomes.read(scenario, world, columns)


def summary(outcomes: OutcomeTable, file: ScenarioFile, *, rng: np.random.Generator) -> pd.DataFrame:
    """`summary.csv`: every read-out per scenario, world and first-response group."""
    return summarise(parts(outcomes, file), groups=GROUPS, weights=file.weights, rng=rng, level=file.settings.level)


def anchor_table(outcomes: OutcomeTable, file: ScenarioFile) -> pd.DataFrame:
    """`anchor.csv`: the study of ten beside the scenario that mimics it, for all and for first responders.

    Empty if no scenario mimics it.
    """
    found = []
    for responders in (False, True):
        tallies = {
            world: tally(rows, responders=responders)
            for scenario, world, rows in parts(outcomes, file, ANCHOR_COLUMNS)
            if scenario == file.anchor
        }
        if tallies:
            weights = {world: weight for world, weight in file.weights.items() if world in tallies}
            total = sum(weights.values())
            shared = {world: weight / total for world, weight in weights.items()} if total > 0 else None
            found.append(beside_study(tallies, responders=responders, weights=shared, level=file.settings.level))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def relapse_drivers(
    file: ScenarioFile,
    population: SampledPopulation,
    *,
    scenario: str,
    seed: int,
    patients: int = EXPLAINED,
    progress: Callable[[float], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What drove the first relapses of a scenario's patients, in its first world.

    Parameters
    ----------
    file, population, seed
        Of the experiment: the patients are its first ones.
    scenario
        Name.
    patients
        How many.
    progress
        Told of the share done since the last call.

    Returns
    -------
    patients, summary : DataFrame
        From `drivers.attribute` and `drivers.summarise_drivers`.
    """
    place = next(i for i, one in enumerate(file.scenarios) if one.name == scenario)
    favourable = favourable_values(population)
    found: list[pd.DataFrame] = []
    blocks = 0
    while sum(map(len, found)) < patients and blocks * BLOCK < 40 * patients:
        work = Work(Block(number=blocks, seed=seed, file=file, population=population, arms=((place, 0),)))
        rows, group = work.relapsed((place, 0))
        rows = rows[: patients - sum(map(len, found))]
        blocks += 1
        if not rows.size:
            continue
        found.append(
            attribute(
                patients=work.virtual.subset(rows),
                first_course=work.first_again(file.scenarios[place], rows),
                factors=file.scenarios[place].hypotheses(file.worlds[0]),
                rows=table(population.options),
                favourable=favourable,
                visit_interval=float(file.settings.visit_every_days),
                group=np.array(GROUPS)[group[: rows.size]],
                number=work.numbers[rows],
            )
        )
        if progress is not None:
            progress(rows.size / patients)
    every = pd.concat(found, ignore_index=True)
    return every, summarise_drivers(every, prior_only=population.prior_only, level=file.settings.level)
