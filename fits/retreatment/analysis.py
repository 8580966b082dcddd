"""What an experiment says: its tables, arm by arm from disk, ready to be written, drawn and printed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import table

from . import anchor, published_series
from .block import BLOCK, Block, Work
from .contrasts import UPPER_BOUND, choices, contrasts
from .drivers import attribute, summarise_drivers
from .engine import Experiment
from .folder import TABLES
from .frailty import decompose
from .outcome_table import OutcomeTable
from .scenarios import GROUPS, ScenarioFile
from .statistics import STACKED, summarise
from .survival_table import survival_table
from .virtual_patients import SampledPopulation

#: Months of second PFS that arms are compared on; every experiment follows at least as long.
HORIZON_MONTHS: Final = 24.0
#: Virtual patients whose relapses are explained, of the main scenario.
EXPLAINED: Final = 500
#: Candidates of each draw of the population whose two courses are taken apart.
PER_DRAW: Final = 60
_WHO: Final = ("scenario", "world", "patient", "draw", "group", "infused", "failed")
#: Columns that comparisons read.
CONTRAST_READ: Final = (
    *(*_WHO, "best_2", "evaluable_2", "mrd5_2", "mrd6_2"),
    *("cure_chance_2", "pfs_days_2", "pfs_event_2"),
)
PAIR_COLUMNS: Final = (*_WHO, "dor_days_1", "pfs_days_1", "pfs_days_2", "pfs_event_2")
PUBLISHED_READ: Final = (
    *(*_WHO, "first_product", "second_product", "best_1", "best_2", "evaluable_2"),
    *("mrd5_2", "pfs_days_2", "pfs_event_2", "dor_days_2", "response_days_2"),
)


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


def main_scenario(file: ScenarioFile) -> str:
    """The scenario that others are set against: the anchor, else the first one with a second infusion."""
    treated = [scenario.name for scenario in file.scenarios if scenario.later]
    return file.anchor or (treated or [file.scenarios[0].name])[0]


def analyse(
    experiment: Experiment,
    file: ScenarioFile,
    population: SampledPopulation,
    *,
    rng: np.random.Generator,
    seed: int,
    explain: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Analysis:
    """Make every table of an experiment, and say what it means.

    Parameters
    ----------
    experiment, file, population, seed
        Of `engine.run`.
    rng
        Of bootstraps and virtual trials.
    explain
        Whether to ask what drove relapses and what the correlation of first and second PFS is made of, which takes
        further simulations.
    progress
        Told of the share done since the last call; 1 in all.

    Returns
    -------
    Analysis
    """
    tick = progress or (lambda _: None)
    outcomes, level, weights = experiment.outcomes, file.settings.level, present_weights(experiment.outcomes, file)
    real = population.observed is not None
    tables = dict.fromkeys(TABLES, pd.DataFrame())
    words: dict[str, list[str]] = {}
    tables["summary"] = summarise(parts(outcomes, file), groups=GROUPS, weights=weights, rng=rng, level=level)
    tick(0.2)
    tables["contrasts"], tables["choices"], words["Which arm"] = _compared(outcomes, file, weights)
    tick(0.2)
    mine = (part for part in parts(outcomes, file, PAIR_COLUMNS) if part[0] == main_scenario(file))
    tables["survival"] = survival_table(mine, rng=rng, weights=weights, level=level)
    words["First response as a predictor of the second"] = _predictor(tables["survival"], file)
    tick(0.2)
    if not real and file.anchor is not None:
        tables["anchor"], words["Beside the published study of ten patients"] = _anchor(outcomes, file, weights, rng)
    if not real:
        tables["published"], words["Beside published series"] = _published(outcomes, file, weights, rng)
    tick(0.1)
    if explain:
        _, tables["drivers"] = relapse_drivers(file, population, scenario=main_scenario(file), seed=seed)
        words["What drove the first relapses"] = _driven(tables["drivers"])
    tick(0.1)
    if explain and not real and any(scenario.later for scenario in file.scenarios):
        tables["frailty"], words["Why a long first response goes with a long second one"] = _decomposed(
            file, population, seed
        )
    tick(0.2)
    caveats = [*experiment.caveats]
    if tables["anchor"].size:
        caveats.append(anchor.UNKNOWN)
    if population.observed is not None:
        caveats.insert(0, population.observed.sentence)
    return Analysis(tables=tables, words={title: said for title, said in words.items() if said}, caveats=caveats)


def present_weights(outcomes: OutcomeTable, file: ScenarioFile) -> dict[str, float]:
    """Weights of the worlds that have patients, summing to 1."""
    there = {world for _, world in outcomes.arms}
    weights = {world: weight for world, weight in file.weights.items() if world in there}
    total = sum(weights.values())
    return {world: weight / total for world, weight in weights.items()}


def _complete(outcomes: OutcomeTable, weights: Mapping[str, float], scenario: str) -> bool:
    """Whether a scenario has patients in every world that counts."""
    return all((scenario, world) in outcomes.arms for world, weight in weights.items() if weight > 0)


def _compared(
    outcomes: OutcomeTable, file: ScenarioFile, weights: Mapping[str, float]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Contrasts of the main scenario with the others that have the same first course, and the best choice."""
    main = main_scenario(file)
    by_name = {scenario.name: scenario for scenario in file.scenarios}
    world = file.worlds[0]
    key = by_name[main].first_key(world)
    arms = [
        name
        for name, scenario in by_name.items()
        if scenario.first_key(world) == key
        and scenario.first == by_name[main].first
        and (name == main or not scenario.then)  # what comes after the second course is not compared
        and _complete(outcomes, weights, name)
    ]
    if main not in arms or len(arms) < 2:
        return pd.DataFrame(), pd.DataFrame(), []
    level = file.settings.level

    def read(scenario: str, world: str) -> pd.DataFrame:
        return outcomes.read(scenario, world, CONTRAST_READ)

    pairs = [(main, other) for other in arms if other != main]
    found = contrasts(read, pairs=pairs, groups=GROUPS, weights=weights, horizon_months=HORIZON_MONTHS, level=level)
    best = choices(read, arms=arms, groups=GROUPS, weights=weights, horizon_months=HORIZON_MONTHS, level=level)
    return found, best, [*_contrasted(found), *_chosen(best)]


def _contrasted(table: pd.DataFrame) -> list[str]:
    of_all = table[(table["world"] == STACKED) & (table["group"] == "all")]
    said = []
    for (first, second), rows in of_all.groupby(["first_arm", "second_arm"], sort=False):
        by = {str(row["measure"]): row for row in rows.to_dict("records")}
        months = next(row for name, row in by.items() if name.startswith("second PFS to"))
        gains, loses = (next(row for name, row in by.items() if name.startswith(word)) for word in ("gains", "loses"))
        said.append(
            f"{first!r} less {second!r}, the same patients: {months['value']:+.1f} months of {months['measure']} "
            f"[{months['low']:+.1f}, {months['high']:+.1f}] (Monte Carlo error {months['mc_error']:.2f}); "
            f"{gains['value']:.0%} {gains['measure'].replace('gains', 'gain')}, {loses['value']:.0%} lose as much."
        )
    return said


def _chosen(table: pd.DataFrame) -> list[str]:
    rows = table[(table["world"] == STACKED) & (table["group"] == "all")]
    regret = rows[rows["measure"] == "regret of the common choice"]
    said = []
    for row in regret.to_dict("records"):
        said.append(
            f"Best for all alike: {row['arm']!r}; who knew each patient's future would win {row['value']:.1f} months "
            f"more [{row['low']:.1f}, {row['high']:.1f}]. {UPPER_BOUND}"
        )
    return said


def _predictor(table: pd.DataFrame, file: ScenarioFile) -> list[str]:
    """The main scenario's figures in words: of the stacked worlds, and where there are none of these, of the first."""
    mine, first = table[table["scenario"] == main_scenario(file)], file.worlds[0].name
    stacked = mine[mine["world"] == STACKED]
    rest = mine[(mine["world"] == first) & ~mine["measure"].isin(stacked["measure"])]
    return [
        f"{row['measure']}{'' if np.isnan(row['months']) else f' at {row["months"]:g} months'}"
        f"{'' if row['world'] == STACKED else f', {first}'}: {row['value']:.2f} "
        f"[{row['low']:.2f}, {row['high']:.2f}]" + (f" ({row['remark']})" if row["remark"] else "")
        for row in pd.concat([stacked, rest]).to_dict("records")
    ]


def _anchor(
    outcomes: OutcomeTable, file: ScenarioFile, weights: Mapping[str, float], rng: np.random.Generator
) -> tuple[pd.DataFrame, list[str]]:
    """The study of ten beside the scenario that mimics it, for all and for first responders."""
    mimic = str(file.anchor)
    if not _complete(outcomes, weights, mimic):
        return pd.DataFrame(), []
    frames = {world: outcomes.read(mimic, world, ["scenario", "world", *anchor.COLUMNS]) for world in weights}
    found = []
    said = []
    for responders in (False, True):
        tallies = {world: anchor.tally(rows, responders=responders) for world, rows in frames.items()}
        one = anchor.beside_study(tallies, responders=responders, weights=weights, level=file.settings.level)
        found.append(one)
        stacked = one[one["world"] == STACKED]
        said += [f"{row['patients']}: {anchor.words(row)}" for _, row in stacked.iterrows()]
    ways = {world: anchor.direction(rows, mimic, rng=rng, world=world) for world, rows in frames.items()}
    said += [anchor.stacked_direction(ways, weights).sentence, f"Source: {anchor.SOURCE}."]
    return pd.concat(found, ignore_index=True), said


def _published(
    outcomes: OutcomeTable, file: ScenarioFile, weights: Mapping[str, float], rng: np.random.Generator
) -> tuple[pd.DataFrame, list[str]]:
    """Published series beside the arms that suit them; misfits in words."""
    products = pd.DataFrame(
        [
            {
                "scenario": scenario.name,
                "first_product": scenario.first.product,
                "second_product": scenario.second_label,
            }
            for scenario in file.scenarios
            if _complete(outcomes, weights, scenario.name)
        ],
        columns=["scenario", "first_product", "second_product"],
    )
    rows: list[dict[str, object]] = []
    for series in published_series.SERIES:
        arms = published_series.arms_for(series, products)
        if not arms:
            rows += [published_series.beside_nothing(series, reading) for reading in series.readings]
        for arm in arms:
            frames = {world: outcomes.read(arm, world, PUBLISHED_READ) for world in weights}
            for reading in series.readings:
                tallies = {
                    world: published_series.tally(frame, series, reading, rng=rng) for world, frame in frames.items()
                }
                rows += published_series.beside(
                    series, reading, tallies, arm=arm, weights=weights, level=file.settings.level
                )
    table = pd.DataFrame(rows, columns=list(published_series.TABLE_COLUMNS))
    return table, published_series.misfits(table[table["world"] == STACKED])


def _driven(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return ["Nobody relapsed as the scenario wants: no driver can be named."]
    rows = table[table["group"] == "all"].sort_values("probability", ascending=False)
    said = []
    for row in rows.to_dict("records"):
        said.append(
            f"{row['driver']}: main driver in {row['probability']:.0%} [{row['low']:.0%}, {row['high']:.0%}] of "
            f"{row['n']} relapses." + (f" {row['warning']}" if row["warning"] else "")
        )
    return said


def _decomposed(file: ScenarioFile, population: SampledPopulation, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Both tables of the decomposition in one; empty, with the reason, where there is nothing to take apart."""
    try:
        found = decompose(
            file,
            population,
            scenario=main_scenario(file),
            per_draw=PER_DRAW,
            seed=seed,
            level=file.settings.level,
        )
    except ReinfuseError as fault:
        return pd.DataFrame(), [f"Not taken apart: {fault}."]
    both = pd.concat({"ladder": found.ladder, "factors": found.attribution}, names=["part"])
    return both.reset_index(level="part"), list(found.sentences)


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
        From `drivers.attribute` and `drivers.summarise_drivers`; empty if no candidate met the scenario's conditions.
    """
    place = next(i for i, one in enumerate(file.scenarios) if one.name == scenario)
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
                product=file.product(file.scenarios[place].first.product),
                visit_interval=float(file.settings.visit_every_days),
                group=np.array(GROUPS)[group[: rows.size]],
                number=work.numbers[rows],
            )
        )
        if progress is not None:
            progress(rows.size / patients)
    if not found:
        return pd.DataFrame(), pd.DataFrame()
    every = pd.concat(found, ignore_index=True)
    return every, summarise_drivers(every, prior_only=population.prior_only, level=file.settings.level)
