"""Try settings of the bispecific antibody beside the published series, for `docs/retreatment.md`.

``python docs/bispecific_tables.py RUN`` writes ``docs/generated/bispecific_settings.md``. `make bispecific` runs it.
The arm is the bundled one, every mechanism as assumed; virtual patients had responded to the first product.
"""

import sys
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pandas as pd
from fragments import table, versions, write

from reinfuse.fits.retreatment import engine, published_series
from reinfuse.fits.retreatment.real_patient import population_of
from reinfuse.fits.retreatment.scenarios import Bispecific, ScenarioFile, load
from reinfuse.fits.retreatment.virtual_patients import SampledPopulation, from_prior, population_rng
from reinfuse.fits.run import RunFolder

SEED, DRAWS, PATIENTS = 1, 100, 1000
#: Killing (1/d), power, wear (1/d); the spread of killing stays.
SETTINGS: Final = tuple(product((0.75, 1.5, 3.0), (1.0, 3.0), (0.02, 0.04, 0.08)))
SERIES: Final = next(one for one in published_series.SERIES if one.arm_second == published_series.BISPECIFIC)
MEASURES: Final = ("ORR", "PFS median")


def main() -> None:
    """Write the table."""
    run = RunFolder.open(Path(sys.argv[1]))
    run.register_products()
    file = load(None)
    products = [file.product(name) for name in file.product_names]
    posterior = population_of(run, products=products, n_draws=DRAWS, seed=SEED)
    prior = from_prior(rng=population_rng(SEED), products=products, n_draws=DRAWS, options="reference")
    published = {reading.measure: reading.value for reading in SERIES.readings}
    usual = Bispecific()
    rows = [("published", "", "", *2 * [shown(published[measure], measure) for measure in MEASURES])]
    for killing, power, wear in SETTINGS:
        antibody = Bispecific(killing=killing, power=power, wear=wear)
        cells = [cell for population in (prior, posterior) for cell in figures(file, population, antibody)]
        bundled = " (bundled)" if antibody == usual else ""
        rows.append((f"{killing:g}{bundled}", f"{power:g}", f"{wear:g}", *cells))
        print(*rows[-1], flush=True)
    made = (
        f"`make bispecific`, {date.today()}; {versions(run.provenance, 'reinfuse', 'numpy', 'numba')}; "
        f"{posterior.source}, and the priors of the reference table; {PATIENTS:,} virtual patients, seed {SEED}; 95 % "
        "intervals"
    )
    head = [f"{measure}, {name}" for name in ("prior", "posterior") for measure in MEASURES]
    write("bispecific_settings", made, table(("killing, 1/d", "power", "wear, 1/d", *head), rows))


def figures(file: ScenarioFile, population: SampledPopulation, antibody: Bispecific) -> list[str]:
    """What the arm gives in first responders, by measure."""
    file = file.without(population.lacking)
    arms = tuple(scenario for scenario in file.scenarios if scenario.bispecific)
    own = file.model_copy(update={"anchor": None, "scenarios": arms, "worlds": file.worlds[:1], "bispecific": antibody})
    with TemporaryDirectory() as place:
        path = Path(place) / "outcomes.parquet"
        outcomes = engine.run(own, population, patients=PATIENTS, seed=SEED, path=path, cores=1).outcomes.frame()
    series = replace(SERIES, arm_responders=True)
    found = published_series.compare(outcomes, series=(series,), rng=np.random.default_rng(SEED))
    by = {str(row["measure"]): row for row in found.to_dict("records")}
    return [with_interval(pd.Series(by[measure]), measure) for measure in MEASURES]


def with_interval(row: pd.Series, measure: str) -> str:
    """A simulated figure and its interval."""
    value, low, high = (shown(float(row[name]), measure) for name in ("simulated", "low", "high"))
    return f"{value} [{low}, {high}]"


def shown(value: float, measure: str) -> str:
    """A share in per cent, a time in months."""
    if measure == "ORR":
        return f"{value:.0%}"
    return "NR" if value == published_series.NOT_REACHED else f"{value:.1f} mo"


if __name__ == "__main__":
    main()
