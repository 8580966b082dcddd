"""Tables of an experiment where there is little to say: told, and no fault."""

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import analysis, engine, pictures, scenarios
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.model.parameters import DAYS_PER_MONTH

from .conftest import TEXT, toy, toy_population

WORLD = '[[world]]\nname = "as assumed"\n'


@pytest.fixture
def nobody(monkeypatch):
    """A scenario whose conditions nobody meets."""
    rare = scenarios.parse(
        WORLD + TEXT.replace('"ide-cel"\nsecond', '"ide-cel"\nfirst.pfs_months = [59, 60]\nsecond', 1)
    )
    monkeypatch.setattr("reinfuse.fits.retreatment.block._models_own", lambda: toy)
    return rare


def test_relapses_of_nobody_have_no_driver(nobody):
    each, summary = analysis.relapse_drivers(nobody, toy_population(), scenario="two", seed=1, patients=20)
    assert each.empty
    assert summary.empty
    assert "no driver can be named" in analysis._driven(summary)[0]


def test_too_few_relapses_to_take_apart_are_told(monkeypatch):
    monkeypatch.setattr(analysis, "PER_DRAW", 5)
    table, said = analysis._decomposed(scenarios.parse(WORLD + TEXT), toy_population(), 1)
    assert table.empty
    assert said[0].startswith("Not taken apart: per_draw is 5")


def test_arms_come_in_the_order_of_the_file(tmp_path):
    file = scenarios.parse(TEXT + WORLD + '[[world]]\nname = "null"\nhost_dysfunction = false\n')
    found = engine.run(file, toy_population(), patients=20, seed=1, path=tmp_path / "o.parquet", simulate=toy).outcomes
    assert analysis.arms_in_order(found, file) == [
        (scenario, world) for scenario in ("two", "nothing given", "none") for world in ("as assumed", "null")
    ]
    rows = pd.concat(rows for _, _, rows in analysis.parts(found, file, ["patient"]))
    assert len(rows) == 120
    assert np.isclose(sum(analysis.present_weights(found, file).values()), 1.0)


def test_trajectories_mark_every_progression_that_the_table_has(tmp_path):
    file = scenarios.parse(
        WORLD + '[[scenario]]\nname = "two"\nfirst.product = "ide-cel"\nsecond.product = "cilta-cel"\n'
    )
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=5, options="reference")
    found = engine.run(file, population, patients=40, seed=1, path=tmp_path / "outcomes.parquet", cores=1)
    rows = found.outcomes.read("two", "as assumed").query("infused and not failed and pfs_event_2 == 'progression'")
    figure = pictures._examples(rows, file, population, "two", 1)["trajectories"]
    marked = [line.get_xdata()[0] * DAYS_PER_MONTH for axes in figure.axes for line in axes.lines
              if line.get_marker() == "X"]  # fmt: skip
    assert len(marked) == 2 * pictures.SHOWN
    first, second = np.array(marked).reshape(-1, 2).T
    days = (rows["infusion_day"] + rows["pfs_days_2"]).to_numpy()
    assert np.isin(first.round(1), rows["pfs_days_1"].to_numpy().round(1)).all()
    assert np.isin(second.round(1), days.astype(float).round(1)).all()
