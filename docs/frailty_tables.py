"""Take the correlation of first and second PFS apart for `docs/anchor.md`, before and after a run's data.

``python docs/frailty_tables.py RUN`` writes ``docs/generated/frailty_*.md`` and ``docs/images/pfs_correlation.png``.
`make frailty` runs it. Scenario, seed, draws and candidates are those of `reinfuse retreat` where not said otherwise.
"""

import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pandas as pd
from fragments import IMAGES, table, versions, write

from reinfuse.fits.figures.frailty import decomposition
from reinfuse.fits.figures.style import save
from reinfuse.fits.retreatment.analysis import main_scenario
from reinfuse.fits.retreatment.frailty import Decomposition, decompose
from reinfuse.fits.retreatment.real_patient import population_of
from reinfuse.fits.retreatment.scenarios import load
from reinfuse.fits.retreatment.virtual_patients import SampledPopulation, from_prior, population_rng
from reinfuse.fits.run import RunFolder

SEED, DRAWS = 1, 100
#: Candidates of each draw.
PER_DRAW = 150
WHO = {"first responders": True, "all who progressed": False}


def main() -> None:
    """Write them all."""
    run = RunFolder.open(Path(sys.argv[1]))
    run.register_products()
    file = load(None)
    products = [file.product(name) for name in file.product_names]
    posterior = population_of(run, products=products, n_draws=DRAWS, seed=SEED)
    prior = from_prior(
        rng=population_rng(SEED),
        products=products,
        n_draws=DRAWS,
        options=posterior.options,
        variant=posterior.variant.name,
    )
    found: dict[str, Decomposition] = {}
    for name, population in (("prior", prior), ("posterior", posterior)):
        for who, responders in WHO.items():
            found[f"{name}, {who}"] = taken_apart(population, responders)
            print(name, who, found[f"{name}, {who}"].patients, flush=True)
    made = (
        f"`make frailty`, {date.today()}; {versions(run.provenance, 'reinfuse', 'numpy', 'numba')}; "
        f"{posterior.source}; variant {posterior.variant.name}; at least {PER_DRAW} candidates in each of {DRAWS} "
        f"draws, seed {SEED}"
    )
    write("frailty_ladder", made, ladder(found))
    write("frailty_parts", made, parts(found))
    shown = found["posterior, first responders"]
    write("frailty_words", made, "\n".join(f"- {sentence}" for sentence in shown.sentences))
    figure = decomposition(shown.ladder, shown.attribution, title="First and second PFS of the same patient")
    save(figure, IMAGES, "pfs_correlation")


def taken_apart(population: SampledPopulation, responders: bool) -> Decomposition:
    """The main bundled scenario, every mechanism as assumed."""
    file = load(None).without(population.lacking)
    return decompose(
        file, population, scenario=main_scenario(file), per_draw=PER_DRAW, seed=SEED, responders=responders
    )


def ladder(found: Mapping[str, Decomposition]) -> str:
    """Correlations with more and more of the second course from another patient."""
    by = {name: one.ladder.set_index("simulation") for name, one in found.items()}
    simulations = list(next(iter(by.values())).index)
    rows = [(name, *(plus_minus(of.loc[name], "correlation") for of in by.values())) for name in simulations]
    rows.append(("all draws pooled, full", *(two(one.pooled) for one in found.values())))
    rows.append(("patients, draws", *(f"{of['n'].iloc[0]:,}, {of['draws'].iloc[0]}" for of in by.values())))
    return table(("simulation", *found), rows)


def parts(found: Mapping[str, Decomposition]) -> str:
    """Shapley's value of each part; in brackets added first and last."""
    by = {name: one.attribution.set_index("factor") for name, one in found.items()}

    def cell(row: pd.Series) -> str:
        return f"{plus_minus(row, 'shapley')} ({two(row['alone'])}, {two(row['last'])})"

    factors = list(next(iter(by.values())).index)
    return table(("part", *found), [(name, *(cell(of.loc[name]) for of in by.values())) for name in factors])


def plus_minus(row: pd.Series, value: str) -> str:
    """A figure with its Monte Carlo error."""
    return f"{two(row[value])} ± {two(row['mc_error'])}"


def two(value: float) -> str:
    """Two decimals, with a true minus, and none before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


if __name__ == "__main__":
    main()
