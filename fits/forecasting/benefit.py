"""Would this patient gain from another treatment? The retreatment laboratory, on draws of the patient's posterior.

Every virtual patient is one draw of the patient. Those who progress are given every option of a scenario file, in
every world, with the same luck; each option is set against none, draw by draw. Time is counted from the day of
progression to a horizon, the wait for a treatment included, as if it were free of progression: options that wait
differently are not to be compared by it. Who dies before the infusion is left out of both arms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.products import product

from ..cohort import Cohort
from ..retreatment import engine
from ..retreatment.analysis import present_weights
from ..retreatment.contrasts import pair
from ..retreatment.outcome_table import OutcomeTable
from ..retreatment.real_patient import Observed, PatientPopulation
from ..retreatment.scenarios import ScenarioFile, load
from ..retreatment.statistics import STACKED
from ..retreatment.virtual_patients import from_run
from ..run import RunFolder
from .posterior import PatientPosterior
from .predictions import weighted_quantiles

type Floats = NDArray[np.float64]

BUNDLED: Final = "options_after_relapse"
DRAWS: Final = 400
HORIZON_MONTHS: Final = 24.0
LEVEL: Final = 0.95
READ: Final = ("patient", "draw", "group", "failed", "infused", "pfs_days_2", "pfs_event_2", "pfs_from_relapse_days")
BENEFIT_COLUMNS: Final = (
    "option", "world", "n", "better", "better_mc_error", "worse", "gain_days", "gain_mc_error", "gain_low", "gain_high",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Benefit:
    """What the laboratory says of a patient.

    Attributes
    ----------
    table : DataFrame
        `BENEFIT_COLUMNS`: the chance that an option is better than none, or worse, by any time at all; the mean gain in
        progression-free days with its Monte Carlo error, and between which gains 95 % of the draws lie.
    about : dict of str to str
        What each option is.
    relapsing : float
        Share of the patient's draws that progress within the first horizon, worlds stacked: only they are treated.
    caveats : tuple of str
        Of the laboratory.
    """

    table: pd.DataFrame
    about: dict[str, str]
    relapsing: float
    caveats: tuple[str, ...]


def options(path: str | Path | None) -> tuple[ScenarioFile, str]:
    """The scenario file, and the name of its comparator without any treatment.

    Raises
    ------
    ReinfuseError
        If the file is at fault, or has not exactly one comparator and an option beside it.
    """
    file = load(BUNDLED if path is None else path)
    none = [scenario.name for scenario in file.scenarios if scenario.no_second]
    if len(none) != 1 or len(file.scenarios) < 2:
        raise ReinfuseError(
            f"{path} has {len(none)} scenarios with no_second = true and {len(file.scenarios) - len(none)} others; "
            "options are set against none: give one comparator, and an option at least"
        )
    return file, none[0]


def reason_against(cohort: Cohort) -> str | None:
    """Why a patient cannot be tried in the laboratory, in words; None: it can."""
    try:
        Observed.of(cohort, cohort.patients[0])
    except ReinfuseError as fault:
        return str(fault)
    return None


def benefit_of(
    posterior: PatientPosterior,
    run: RunFolder,
    file: ScenarioFile,
    none: str,
    *,
    rng: np.random.Generator,
    seed: int,
    path: Path,
    patients: int = DRAWS,
    cores: int | None = 1,
    tick: Callable[[float], None] = lambda _: None,
) -> Benefit:
    """Try every option of a file on a patient.

    Parameters
    ----------
    posterior
        The patient's.
    run
        Where its population is from.
    file, none
        From `options`.
    rng
        Draws what the fit did not hold.
    seed
        Of the laboratory.
    path
        Where outcomes may be kept meanwhile; deleted at the end.
    patients
        Draws of the patient that are followed in each arm.
    cores
        As in `engine.run`.
    tick
        Told of the share of the work that was done.

    Raises
    ------
    NobodyProgressed
        If no draw of the patient progresses within the laboratory's follow-up.
    """
    by_hazard = file.settings.progression == "hazard" and "H" in posterior.patient.problem.kernel.readouts
    rule = "hazard" if by_hazard else "mprotein"
    file = file.model_copy(update={"settings": file.settings.model_copy(update={"progression": rule})})
    population = patients_population(posterior, run, file, rng=rng)
    file = file.without(population.lacking)
    share_of_one = 1.0 / (patients * len(file.scenarios) * len(file.worlds))
    try:
        experiment = engine.run(
            file,
            population,
            patients=patients,
            seed=seed,
            path=path,
            cores=cores,
            progress=lambda done: tick(done * share_of_one),
        )
        weights = present_weights(experiment.outcomes, file)
        names = [scenario.name for scenario in file.scenarios if scenario.name != none]
        table = gains(experiment.outcomes, names, none, weights)
    finally:
        path.unlink(missing_ok=True)
    share = {world: seen.share for (name, world), seen in experiment.acceptance.items() if name == none}
    return Benefit(
        table=table,
        about={scenario.name: scenario.about for scenario in file.scenarios},
        relapsing=sum(weight * share[world] for world, weight in weights.items()),
        caveats=experiment.caveats,
    )


def patients_population(
    posterior: PatientPosterior, run: RunFolder, file: ScenarioFile, *, rng: np.random.Generator
) -> PatientPopulation:
    """Draws of the patient that count the same, in the laboratory's terms."""
    patient = posterior.patient
    observed = Observed.of(patient.cohort, patient.name)
    chosen = posterior.equal(DRAWS, rng)
    products = {name: file.product(name) for name in file.product_names}
    products.setdefault(observed.product, product(observed.product))
    made = from_run(run, rng=rng, products=products.values(), rows=posterior.place[chosen])
    problem, theta = patient.problem, posterior.theta[chosen]
    own = {
        name: theta[:, column]
        for name in problem.random
        if name in made.rows and (column := problem.column(name)) is not None
    }
    return PatientPopulation(
        **{
            **vars(made),
            "own": own,
            "observed": observed,
            "source": f"posterior of patient {patient.name} given the run {run.path.resolve().name}",
        }
    )


def gains(outcomes: OutcomeTable, names: list[str], none: str, weights: dict[str, float]) -> pd.DataFrame:
    """Each option less none, in every world and stacked: `BENEFIT_COLUMNS`."""
    rows = []
    horizon = HORIZON_MONTHS * DAYS_PER_MONTH
    for name in names:
        parts = []
        for world, weight in weights.items():
            paired = pair(outcomes.read(name, world, READ), outcomes.read(none, world, READ))
            first, second = (
                np.minimum(frame["pfs_from_relapse_days"].to_numpy(dtype=np.float64), horizon)
                for frame in (paired.first, paired.second)
            )
            share = weight / max(first.size, 1)
            parts.append(pd.DataFrame({"draw": paired.draw, "world": world, "gain": first - second, "weight": share}))
        rows.append((name, STACKED, *_of(pd.concat(parts, ignore_index=True))))
        rows += [(name, world, *_of(part.assign(weight=1.0))) for world, part in zip(weights, parts, strict=True)]
    return pd.DataFrame(rows, columns=list(BENEFIT_COLUMNS))


def _of(rows: pd.DataFrame) -> tuple[float, ...]:
    """Number of draws, chances and gains of weighted differences; a draw is the same in every world."""
    rows = rows[rows["weight"] > 0]
    if rows.empty:
        return (0, *(float("nan"),) * 7)
    gain, draw = rows["gain"].to_numpy(), rows["draw"].to_numpy()
    weight = rows["weight"].to_numpy() / rows["weight"].sum()

    def mean(values: Floats) -> tuple[float, float]:
        found = float(weight @ values)
        _, place = np.unique(draw, return_inverse=True)
        return found, float(np.sqrt((np.bincount(place, weights=weight * (values - found)) ** 2).sum()))

    better, better_error = mean((gain > 0).astype(np.float64))
    days, days_error = mean(gain)
    ends = weighted_quantiles(gain[:, None], weight[:, None], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])[:, 0]
    n = np.unique(draw).size
    return n, better, better_error, mean((gain < 0).astype(np.float64))[0], days, days_error, *ends
