"""The figures of an experiment, by file name; the drawing itself is in `fits.figures.retreatment`."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.response import ResponseRules

from ..figures import retreatment as plots
from ..figures.frailty import decomposition
from . import anchor
from .analysis import CONTRAST_READ, HORIZON_MONTHS, Analysis, main_scenario
from .block import BLOCK, Block, Work
from .contrasts import benefit
from .engine import Experiment
from .outcome_table import OutcomeTable
from .scenarios import GROUPS, Scenario, ScenarioFile
from .statistics import STACKED, followed, trial_counts
from .survival import pairs_of
from .virtual_patients import SampledPopulation
from .virtual_trials import virtual_trials

type Floats = NDArray[np.float64]

#: Virtual patients whose courses are drawn, spread over second PFS.
SHOWN: Final = 4
#: Rows of an arm that a figure looks at: more add nothing to the eye.
ENOUGH: Final = 20_000


def draw(
    found: Analysis,
    experiment: Experiment,
    file: ScenarioFile,
    population: SampledPopulation,
    *,
    rng: np.random.Generator,
    seed: int,
) -> dict[str, Figure]:
    """Draw what can be drawn, of the file's first world where a figure shows one.

    Parameters
    ----------
    found, experiment, file, population, seed
        Of the experiment.
    rng
        Of virtual trials.
    """
    outcomes, world = experiment.outcomes, file.worlds[0].name
    arms = {s.name: _counted(outcomes, s.name, world) for s in file.scenarios}
    arms = {name: rows for name, rows in arms.items() if len(rows)}
    if not arms:
        return {}
    main = main_scenario(file) if main_scenario(file) in arms else next(iter(arms))
    figures = {"swimmer": plots.swimmer(arms[main], title=f"{main}; {world}", horizon_months=_months(file))}
    figures |= _responses(arms, main)
    figures |= _survival(arms, main, file)
    figures |= _study(found, arms, main, file)
    figures |= _differences(found, outcomes, file, main)
    figures |= _map(outcomes, file, world)
    figures |= _correlation(found)
    figures |= _examples(arms[main], file, population, main, seed)
    pairs = pairs_of(arms[main])
    if pairs.days.size >= anchor.SIZE and len(np.unique(pairs.first > 365)) == 2:
        trials = virtual_trials(pairs, rng=rng, size=anchor.SIZE, rmst_months=HORIZON_MONTHS)
        if trials.p_value.size:
            figures["virtual_trials"] = plots.virtual_trials(trials, title=f"Virtual studies of {anchor.SIZE}: {main}")
    return figures


def _counted(outcomes: OutcomeTable, scenario: str, world: str) -> pd.DataFrame:
    rows = outcomes.read(scenario, world)
    return rows[followed(rows)].head(ENOUGH)


def _months(file: ScenarioFile) -> float:
    return file.settings.second_horizon_months


def _responses(arms: Mapping[str, pd.DataFrame], main: str) -> dict[str, Figure]:
    every = pd.concat(arms.values(), ignore_index=True)
    if not every["evaluable_2"].any():
        return {}
    figures = {"best_response": plots.best_response(every, groups=GROUPS)}
    judged = arms[main][arms[main]["evaluable_2"]]
    change = judged["deepest_2"].to_numpy(dtype=np.float64) - 1.0
    if np.isfinite(change).any():
        figures["waterfall"] = plots.waterfall(
            judged["best_2"].astype(str).tolist(), change=change, title=f"Deepest change of M-protein: {main}"
        )
    return figures


def _survival(arms: Mapping[str, pd.DataFrame], main: str, file: ScenarioFile) -> dict[str, Figure]:
    if len(arms[main]) < plots.FEWEST:
        return {}
    by_group: dict[str, pd.DataFrame] = {"all": arms[main]}
    by_group |= {group: arms[main][arms[main]["group"] == group] for group in GROUPS}
    level, months = file.settings.level, _months(file)
    return {
        "pfs_by_group": plots.survival(
            by_group,
            title=f"{main}: second PFS by first-response group",
            months=months,
            level=level,
            colours=plots.GROUP_COLOURS,
        ),
        "pfs_by_scenario": plots.survival(
            dict(list(arms.items())[:8]), title="Second PFS by scenario", months=months, level=level
        ),
    }


def _study(found: Analysis, arms: Mapping[str, pd.DataFrame], main: str, file: ScenarioFile) -> dict[str, Figure]:
    table = found.tables["anchor"]
    if table.empty or main != file.anchor:
        return {}
    world = file.worlds[0].name
    mine = table[table["world"] == world].reset_index(drop=True)
    counts = [trial_counts(outcome, of_draw, anchor.SIZE) for outcome, of_draw in anchor.simulated_outcomes(arms[main])]
    responders = mine[mine["patients"] == anchor.RESPONDERS].reset_index(drop=True)
    figure = plots.anchor(
        mine[mine["patients"] == anchor.EVERYONE],
        counts,
        responders=responders if (responders["n_simulated"] > 0).all() else None,
        level=file.settings.level,
    )
    return {"anchor": figure}


def _differences(found: Analysis, outcomes: OutcomeTable, file: ScenarioFile, main: str) -> dict[str, Figure]:
    """The main scenario less each other one: patients in the first world, means over worlds."""
    table = found.tables["contrasts"]
    if table.empty:
        return {}
    figures = {}
    of_first = table[(table["world"] == STACKED) & table["measure"].str.startswith("second PFS to")]
    for place, other in enumerate(of_first["second_arm"].drop_duplicates().head(4), start=1):
        each = benefit(
            lambda scenario, world: outcomes.read(scenario, world, CONTRAST_READ),
            first=main,
            second=str(other),
            weights={file.worlds[0].name: 1.0},
            horizon_months=HORIZON_MONTHS,
        ).head(ENOUGH)
        by_group = {"all": each["difference"].to_numpy()}
        by_group |= {g: each.loc[each["group"] == g, "difference"].to_numpy() for g in GROUPS}
        means = of_first[of_first["second_arm"] == other].set_index("group")[["value", "low", "high"]]
        figures[f"paired_difference_{place}"] = plots.paired_differences(
            {group: values for group, values in by_group.items() if len(values)},
            table=means,
            title=f"{main} less {other}",
            step=file.settings.visit_every_days / DAYS_PER_MONTH,
        )
    return figures


def _correlation(found: Analysis) -> dict[str, Figure]:
    """What the correlation of first and second PFS is made of."""
    table = found.tables["frailty"]
    if table.empty:
        return {}
    ladder, factors = (table[table["part"] == part] for part in ("ladder", "factors"))
    return {"pfs_correlation": decomposition(ladder, factors, title="First and second PFS of the same patient")}


def _map(outcomes: OutcomeTable, file: ScenarioFile, world: str) -> dict[str, Figure]:
    """Benefit over waiting time and dose, where the file has such a grid and an arm without a second infusion."""
    cells = {
        (float(s.second.days_after_progression), float(s.second.dose)): s
        for s in file.scenarios
        if s.later and s.second is not None and s.second.dose
    }
    without = next((s for s in file.scenarios if s.no_second), None)
    days, doses = (sorted({key[place] for key in cells}) for place in (0, 1))
    if without is None or len(days) < 2 or len(doses) < 2:
        return {}
    value, error = np.full((2, len(doses), len(days)), np.nan)
    base = _in_remission(outcomes, without, world)
    for (day, dose), scenario in cells.items():
        pair = pd.concat([_in_remission(outcomes, scenario, world), base], axis=1, join="inner").dropna()
        if len(pair) > 1:
            gain = pair.iloc[:, 0] - pair.iloc[:, 1]
            at = doses.index(dose), days.index(day)
            value[at], error[at] = gain.mean(), gain.std(ddof=1) / np.sqrt(len(gain))
    title = f"Months free of progression that a second infusion wins in the {HORIZON_MONTHS:g} months after relapse"
    figure = plots.benefit_map(
        value, waiting_days=days, doses=doses, error=error, title=title, label="months free of progression"
    )
    return {"benefit_map": figure}


def _in_remission(outcomes: OutcomeTable, scenario: Scenario, world: str) -> pd.Series:
    """Months free of a second progression within the horizon from relapse, by patient; the wait counts for nothing."""
    columns = ["patient", "infused", "failed", "infusion_day", "pfs_days_1", "pfs_days_2"]
    rows = outcomes.read(scenario.name, world, columns)
    rows = rows[followed(rows)].set_index("patient").astype(np.float64)
    waited = (rows["infusion_day"] - rows["pfs_days_1"]) / DAYS_PER_MONTH
    return (rows["pfs_days_2"] / DAYS_PER_MONTH).clip(upper=(HORIZON_MONTHS - waited).clip(lower=0.0))


def _examples(
    rows: pd.DataFrame, file: ScenarioFile, population: SampledPopulation, main: str, seed: int
) -> dict[str, Figure]:
    """Both courses of a few patients, from short second PFS to long."""
    scenario = next(s for s in file.scenarios if s.name == main)
    if not scenario.later:
        return {}
    ordered = rows.sort_values("pfs_days_2", kind="stable")
    chosen = ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, SHOWN + 2).round().astype(int))[1:-1]]
    shown = []
    for row in chosen.to_dict("records"):
        number = int(row["patient"])
        work = Work(Block(number=number // BLOCK, seed=seed, file=file, population=population, arms=()))
        day = np.array([float(row["infusion_day"])])
        times = np.arange(0.0, float(day[0] + row["pfs_days_2"] + 62), 2.0)
        found = work.trajectories(scenario, file.worlds[0], np.array([number % BLOCK]), day, times=times)
        cells = [np.nan_to_num(sum(found[f"{x}{slot}"].to_numpy()[0] for x in "EMX")) for slot in (1, 2)]
        shown.append(
            plots.Trajectory(
                name=f"virtual patient {number}: {row['group']}, then {plots.written(row['best_2'])}",
                days=found["time"].to_numpy(),
                burden=found["Ts"].to_numpy()[0] + found["Tr"].to_numpy()[0],
                cart=np.stack(cells),
                infusions=(0.0, float(day[0])),
                progressions=tuple(
                    start + float(row[f"pfs_days_{course}"])
                    for course, start in ((1, 0.0), (2, float(day[0])))
                    if row[f"pfs_event_{course}"] == "progression"
                ),
            )
        )
    rules = ResponseRules()
    products = [str(rows["first_product"].iloc[0]), scenario.later[0].product]
    return {
        "trajectories": plots.trajectories(
            shown,
            products=products,
            mrd_cells=rules.mrd_shallow * rules.marrow_cells,
            title=f"A few virtual patients: {main}",
        )
    }
