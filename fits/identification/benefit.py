"""The benefit of a second infusion at each draw of a population: what the retreatment laboratory says, draw by draw."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import to_transformed

from ..retreatment import engine
from ..retreatment.contrasts import limited_months, pair
from ..retreatment.scenarios import ScenarioFile, load
from ..retreatment.virtual_patients import FIELD_OF_EFFECT, SampledPopulation, from_prior, from_run
from ..run import RunFolder
from .preposterior import Prediction, explaining

type Floats = NDArray[np.float64]

BUNDLED: Final = Path(__file__).parent / "data" / "second_infusion.toml"
HORIZON_MONTHS: Final = 24.0
FEWEST: Final = 4  # patients of a draw whose mean says anything


def population_of(
    run: RunFolder | None, file: ScenarioFile, draws: int, rng: np.random.Generator, *, variant: str
) -> SampledPopulation:
    """The population whose patients are infused again: a run's, or the priors'."""
    products = [file.product(name) for name in file.product_names]
    if run is None:
        return from_prior(rng=rng, products=products, n_draws=draws, options="real", variant=variant)
    return from_run(run, rng=rng, products=products, n_draws=draws)


def hyper_columns(population: SampledPopulation) -> dict[str, Floats]:
    """Population values of every draw (D,) by name, on the transformed scales: medians, spreads, product effects.

    Names are those of a run's scalars. What does not vary is left out, and so are assays: they change no outcome.
    """
    found: dict[str, Floats] = {}
    for j, name in enumerate(population.rows):
        found[name] = population.centre[:, j]
        if np.all(population.spread[:, j] > 0):
            found[f"omega:{name}"] = np.log(population.spread[:, j])
    for parameter, field in FIELD_OF_EFFECT.items():
        for (product, name), values in population.fields.items():
            if name == field:
                found[f"{parameter}:{product}"] = to_transformed(values, transform="log")
    return {name: values for name, values in found.items() if np.ptp(values) > 1e-12 * (1.0 + np.abs(values).max())}


def benefit(
    *,
    file: ScenarioFile,
    population: SampledPopulation,
    names: tuple[str, ...],
    patients: int,
    seed: int,
    cores: int | None = 1,
    cluster: str | None = None,
    tick: Callable[[float], None] | None = None,
) -> Prediction:
    """Mean gain in months free of progression within `HORIZON_MONTHS` of a second infusion, by draw.

    Parameters
    ----------
    file
        Its first scenario is compared with its second, in its first world.
    population
        Draws of it.
    names
        Parameters that may explain the gain: those of the designs.
    patients
        Of each arm, spread over the draws.
    seed
        Of the patients.
    cores, cluster
        As of `engine.run`; they do not change the result.
    tick
        As `engine.run`'s progress.

    Raises
    ------
    ReinfuseError
        If the file has not two scenarios, or too few draws have patients who relapsed.
    """
    if len(file.scenarios) < 2:
        raise ReinfuseError("the benefit is one scenario less another; give a scenario file with two")
    first, second = file.scenarios[0].name, file.scenarios[1].name
    world = file.worlds[0].name
    only = file.model_copy(update={"scenarios": file.scenarios[:2], "worlds": file.worlds[:1]})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes.parquet"
        experiment = engine.run(
            only, population, patients=patients, seed=seed, path=path, cores=cores, cluster=cluster, progress=tick
        )
        paired = pair(experiment.outcomes.read(first, world), experiment.outcomes.read(second, world))
    gain = limited_months(paired.first, HORIZON_MONTHS) - limited_months(paired.second, HORIZON_MONTHS)
    value, variance, enough = by_draw(gain, paired.draw, population.n_draws)
    if enough.sum() < 0.5 * population.n_draws:
        raise ReinfuseError(
            f"only {int(enough.sum())} of {population.n_draws} draws have {FEWEST} patients who relapsed and were "
            "infused again; ask for more --virtual patients"
        )
    columns = {name: values[enough] for name, values in hyper_columns(population).items()}
    known, x = explaining(names, columns)
    title = f"gain of a second infusion ({first}) within {HORIZON_MONTHS:g} months"
    return Prediction(title, "months", value[enough], variance[enough], known, x)


def by_draw(gain: Floats, draw: NDArray[np.int64], draws: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Mean of each draw's patients (draws,), the variance of that mean, and which draws have `FEWEST` of them."""
    count = np.bincount(draw, minlength=draws)
    total = np.bincount(draw, weights=gain, minlength=draws)
    square = np.bincount(draw, weights=gain**2, minlength=draws)
    enough = count >= FEWEST
    size = np.maximum(count, 1)
    mean = total / size
    spread = np.maximum(square / size - mean**2, 0.0) * size / np.maximum(size - 1, 1)
    return mean, spread / size, enough


def scenario(path: Path | None) -> ScenarioFile:
    """The scenario file that defines the benefit; the bundled one when None."""
    return load(BUNDLED if path is None else path)
